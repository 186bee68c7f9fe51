//! The message that brings a license key to its holder.

use sea_orm::sea_query::{Expr, Func, Query, SelectStatement};
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, ExprTrait, FromQueryResult, QueryFilter, QueryTrait};

use super::{License, LicenseState, MemberLicense, member_license};
use crate::entity::license::{Column, Entity};
use crate::entity::{guild, identity, product, tenant};
use crate::ids::{LicenseId, UserId};
use crate::{Core, DiscordUserId, Result, users::Provider};

/// What is sent to the holder of a new license.
#[expect(missing_docs, reason = "fields are named after what they hold")]
pub struct KeyMessage {
    pub holder: UserId,
    /// The Discord account of the holder.
    pub recipient: Option<DiscordUserId>,
    /// The name of the tenant's server, or of the tenant if it has none.
    pub server: String,
    pub license: MemberLicense,
}

/// What to send to the holder of a license, with one query; `None` if it was revoked or has no holder.
pub async fn for_delivery(core: &Core, id: LicenseId) -> Result<Option<KeyMessage>> {
    let mut query = Entity::find_by_id(id).filter(Column::RevokedAt.is_null()).into_query();
    let own = |column: Column| Expr::col((Entity, column));
    let named = |query: SelectStatement| Expr::from(query);
    let product = Query::select()
        .column(product::Column::Name)
        .from(product::Entity)
        .and_where(Expr::col((product::Entity, product::Column::Id)).eq(own(Column::ProductId)))
        .to_owned();
    let server = Query::select()
        .column(guild::Column::Name)
        .from(guild::Entity)
        .and_where(Expr::col((guild::Entity, guild::Column::TenantId)).eq(own(Column::TenantId)))
        .order_by(guild::Column::Id, sea_orm::Order::Asc)
        .limit(1)
        .to_owned();
    let tenant = Query::select()
        .column(tenant::Column::Name)
        .from(tenant::Entity)
        .and_where(Expr::col((tenant::Entity, tenant::Column::Id)).eq(own(Column::TenantId)))
        .to_owned();
    let recipient = Query::select()
        .column(identity::Column::Subject)
        .from(identity::Entity)
        .and_where(Expr::col((identity::Entity, identity::Column::UserId)).eq(own(Column::UserId)))
        .and_where(identity::Column::Provider.eq(Provider::Discord))
        .limit(1)
        .to_owned();
    query.expr_as(named(product), "product_name");
    query.expr_as(Func::coalesce([named(server), named(tenant)]), "server_name");
    query.expr_as(named(recipient), "recipient");
    let Some(row) = core.db.read().query_one(&query).await? else { return Ok(None) };
    let license = License::from_query_result(&row, "")?;
    let Some(holder) = license.user_id.filter(|_| license.state(core.clock.now()) != LicenseState::Revoked) else {
        return Ok(None);
    };
    let recipient = row.try_get::<Option<String>>("", "recipient")?;
    Ok(Some(KeyMessage {
        holder,
        recipient: recipient.and_then(|id| id.parse().ok().map(DiscordUserId)),
        server: row.try_get("", "server_name")?,
        license: member_license(core, &license, &row.try_get::<String>("", "product_name")?)?,
    }))
}
