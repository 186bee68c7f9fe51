//! People and how providers know them. The owner of a license is a user; a Discord id is one of that
//! user's identities.

use sea_orm::{ActiveValue::Set, ColumnTrait, EntityTrait, QueryFilter, QuerySelect, sea_query::OnConflict};

use crate::{
    Core, Error, Result, Snowflake,
    entity::{holder, identity, user},
    ids::{TenantId, UserId},
    tx::Tx,
};

/// The provider of Discord identities.
pub const DISCORD: &str = "discord";

/// The user behind a Discord account, if they were ever seen.
///
/// # Errors
/// When the database does not answer.
pub async fn find_by_discord(core: &Core, id: Snowflake) -> Result<Option<UserId>> {
    let row = identity::Entity::find_by_id((DISCORD.to_owned(), id.to_string())).one(core.db.read()).await?;
    Ok(row.map(|row| row.user_id))
}

/// The Discord account of a user.
pub(crate) async fn discord_id(core: &Core, user: UserId) -> Result<Option<Snowflake>> {
    let row = identity::Entity::find()
        .filter(identity::Column::UserId.eq(user))
        .filter(identity::Column::Provider.eq(DISCORD))
        .one(core.db.read())
        .await?;
    Ok(row.and_then(|row| row.subject.parse().ok().map(Snowflake)))
}

/// The user behind a Discord account, made on first sight.
pub(crate) async fn ensure(tx: &Tx, id: Snowflake) -> Result<UserId> {
    let find = identity::Entity::find_by_id((DISCORD.to_owned(), id.to_string()));
    if let Some(known) = find.clone().one(tx.db()).await? {
        return Ok(known.user_id);
    }
    let user = UserId(tx.core().ids.v7(tx.now()));
    let row = user::ActiveModel { id: Set(user), created_at: Set(tx.now()) };
    user::Entity::insert(row).exec_without_returning(tx.db()).await?;
    let row = identity::ActiveModel {
        provider: Set(DISCORD.to_owned()),
        subject: Set(id.to_string()),
        user_id: Set(user),
        created_at: Set(tx.now()),
    };
    identity::Entity::insert(row)
        .on_conflict(
            OnConflict::columns([identity::Column::Provider, identity::Column::Subject]).do_nothing().to_owned(),
        )
        .exec_without_returning(tx.db())
        .await?;
    let known = find.one(tx.db()).await?.ok_or_else(|| Error::Broken("an identity vanished".to_owned()))?;
    if known.user_id != user {
        // Another instance won: its user counts.
        user::Entity::delete_by_id(user).exec(tx.db()).await?;
    }
    Ok(known.user_id)
}

/// Locks everything about a member's licenses with a tenant; absence is locked too.
pub(crate) async fn lock_holder(tx: &Tx, tenant: TenantId, user: UserId) -> Result<()> {
    let row = holder::ActiveModel { tenant_id: Set(tenant), user_id: Set(user) };
    holder::Entity::insert(row)
        .on_conflict(OnConflict::columns([holder::Column::TenantId, holder::Column::UserId]).do_nothing().to_owned())
        .exec_without_returning(tx.db())
        .await?;
    holder::Entity::find_by_id((tenant, user)).lock_exclusive().one(tx.db()).await?;
    Ok(())
}
