//! Role mappings: members with a role are entitled to a product.
//!
//! If an admin removes a mapping, its sources end and their licenses are revoked after the grace. If its
//! role is deleted in Discord, no member is known to have lost it: the mapping becomes inactive, the
//! licenses stay, and the admin is notified.

use sea_orm::{
    ColumnTrait, Condition, EntityTrait, QueryFilter, QueryOrder,
    sea_query::{Expr, OnConflict},
};
use serde_json::json;

use crate::{
    Caller, Code, Core, Result, Scope, Snowflake, entitlements,
    entity::role_mapping,
    events::{Actor, EventKind},
    guilds,
    ids::MappingId,
    products::Product,
    tx::Tx,
    workers,
};

pub use crate::entity::role_mapping::Model as Mapping;

/// How to notify members who already have the role of a new mapping.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announce {
    /// Not at all: `/key` shows their key.
    Silently,
    /// By direct messages with their key, sent one after the other.
    ByDm,
}

impl Announce {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Silently => "quietly",
            Self::ByDm => "by_dm",
        }
    }
}

/// Maps a role to a product and starts a sync, which issues licenses to members who already have the
/// role. The caller has checked that the role exists and can be managed.
///
/// # Errors
/// `CONFLICT` if the role is already mapped to the product.
pub async fn add(
    core: &Core,
    caller: &Caller,
    guild: Snowflake,
    role: Snowflake,
    product: &Product,
    announce: Announce,
) -> Result<Mapping> {
    let mut tx = Tx::begin(core).await?;
    let mapping = Mapping {
        id: MappingId(core.ids.v7(tx.now())),
        tenant_id: caller.scope.tenant(),
        guild_id: guild,
        role_id: role,
        product_id: product.id,
        announce: announce.as_str().to_owned(),
        applied_at: None,
        role_deleted_at: None,
        removed_at: None,
        created_at: tx.now(),
    };
    // There is no syntax that names a partial unique index as conflict target on both databases.
    let written = role_mapping::Entity::insert(role_mapping::ActiveModel::from(mapping.clone()))
        .on_conflict(OnConflict::new().do_nothing().to_owned())
        .exec_without_returning(tx.db())
        .await?;
    if written == 0 {
        return Err(Code::Conflict.because(format!("That role is already mapped to {}.", product.name)));
    }
    let now = tx.now();
    workers::schedule_at(&mut tx, workers::RECONCILE_ROLES, now).await?;
    tx.commit().await?;
    Ok(mapping)
}

/// Removes a mapping; licenses without another source are revoked after their grace. Returns how many
/// members had a source from it.
///
/// # Errors
/// `NOT_FOUND` if the role is not mapped to the product.
pub async fn remove(core: &Core, caller: &Caller, guild: Snowflake, role: Snowflake, product: &Product) -> Result<u64> {
    let mut tx = Tx::begin(core).await?;
    let removed = role_mapping::Entity::update_many()
        .col_expr(role_mapping::Column::RemovedAt, Expr::value(tx.now()))
        .filter(of(&caller.scope, guild))
        .filter(role_mapping::Column::RoleId.eq(role))
        .filter(role_mapping::Column::ProductId.eq(product.id))
        .exec_with_returning(tx.db())
        .await?;
    let mapping = removed.first().ok_or_else(|| {
        Code::NotFound
            .because(format!("That role is not mapped to {}. Use `/mapping list` to see the mappings.", product.name))
    })?;
    let holders = entitlements::count_holders(&tx, mapping.id).await?;
    let now = tx.now();
    workers::schedule_at(&mut tx, workers::RECONCILE_ROLES, now).await?;
    tx.commit().await?;
    Ok(holders)
}

fn of(scope: &Scope, guild: Snowflake) -> Condition {
    Condition::all()
        .add(role_mapping::Column::TenantId.eq(scope.tenant()))
        .add(role_mapping::Column::GuildId.eq(guild))
        .add(role_mapping::Column::RemovedAt.is_null())
}

/// The guild's mappings that were not removed, oldest first.
pub async fn list(core: &Core, scope: &Scope, guild: Snowflake) -> Result<Vec<Mapping>> {
    let found = role_mapping::Entity::find()
        .filter(of(scope, guild))
        .order_by_asc(role_mapping::Column::Id)
        .all(core.db.read())
        .await?;
    Ok(found)
}

/// The guild's mappings that an admin removed.
pub(crate) async fn list_removed(core: &Core, guild: Snowflake) -> Result<Vec<Mapping>> {
    let found = role_mapping::Entity::find()
        .filter(role_mapping::Column::GuildId.eq(guild))
        .filter(role_mapping::Column::RemovedAt.is_not_null())
        .all(core.db.read())
        .await?;
    Ok(found)
}

/// Sets `applied_at` on new mappings after their first complete reconciliation.
pub(crate) async fn set_applied(core: &Core, mappings: &[Mapping]) -> Result<()> {
    let new = mappings.iter().filter(|mapping| mapping.applied_at.is_none()).map(|mapping| mapping.id);
    role_mapping::Entity::update_many()
        .col_expr(role_mapping::Column::AppliedAt, Expr::value(core.clock.now()))
        .filter(role_mapping::Column::Id.is_in(new))
        .exec(core.db.writer())
        .await?;
    Ok(())
}

/// Records that a role was deleted in Discord: its mappings become inactive, their licenses stay.
pub async fn set_role_deleted(core: &Core, guild: Snowflake, role: Snowflake) -> Result<()> {
    let mut tx = Tx::begin(core).await?;
    let affected = role_mapping::Entity::update_many()
        .col_expr(role_mapping::Column::RoleDeletedAt, Expr::value(tx.now()))
        .filter(role_mapping::Column::GuildId.eq(guild))
        .filter(role_mapping::Column::RoleId.eq(role))
        .filter(role_mapping::Column::RemovedAt.is_null())
        .filter(role_mapping::Column::RoleDeletedAt.is_null())
        .exec_with_returning(tx.db())
        .await?;
    for mapping in affected {
        guilds::record(
            &mut tx,
            mapping.tenant_id,
            &Actor::System,
            EventKind::SourceUnverifiable,
            json!({
                "guildId": guild.to_string(), "roleId": role.to_string(), "productId": mapping.product_id,
            }),
        );
    }
    tx.commit().await
}
