//! Role mappings: members with a role are entitled to a product.
//!
//! If an admin removes a mapping, its sources end and their licenses are revoked after the grace. If its
//! role is deleted in Discord, no member is known to have lost it: the mapping becomes inactive, the
//! licenses stay, and the admin is notified.

use sea_orm::{
    ColumnTrait, Condition, EntityTrait, QueryFilter, QueryOrder,
    sea_query::{Expr, OnConflict},
};

use crate::{
    Caller, Core, GuildId, Reason, Result, RoleId, Scope, entitlements,
    entity::role_mapping,
    events::{EventData, NewEvent, SourceLabel},
    ids::MappingId,
    products::Product,
    tx::Tx,
    workers,
};

pub mod reconcile;
mod roles;

pub use self::roles::{observation, origin};
pub use crate::{entitlements::Announce, entity::role_mapping::Model as Mapping};

/// Maps a role to a product and starts a sync, which issues licenses to members who already have the
/// role. The caller has checked that the role exists and can be managed.
///
/// # Errors
/// `CONFLICT` if the role is already mapped to the product.
pub async fn add(
    core: &Core,
    caller: &Caller,
    guild: GuildId,
    role: RoleId,
    product: &Product,
    announce: Announce,
) -> Result<Mapping> {
    let mut tx = Tx::begin(core).await?;
    let mapping = Mapping {
        id: MappingId(core.ids.v7(tx.now())),
        tenant_id: caller.scope().tenant(),
        guild_id: guild,
        role_id: role,
        product_id: product.id,
        announce,
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
        return Err(Reason::RoleAlreadyMapped { product: product.name.clone() }.refusal());
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
pub async fn remove(core: &Core, caller: &Caller, guild: GuildId, role: RoleId, product: &Product) -> Result<u64> {
    let mut tx = Tx::begin(core).await?;
    let removed = role_mapping::Entity::update_many()
        .col_expr(role_mapping::Column::RemovedAt, Expr::value(tx.now()))
        .filter(of(&caller.scope(), guild))
        .filter(role_mapping::Column::RoleId.eq(role))
        .filter(role_mapping::Column::ProductId.eq(product.id))
        .exec_with_returning(tx.db())
        .await?;
    let mapping = removed.first();
    let mapping = mapping.ok_or_else(|| Reason::RoleNotMapped { product: product.name.clone() }.refusal())?;
    let holders = entitlements::count_holders(&tx, mapping.id).await?;
    let now = tx.now();
    workers::schedule_at(&mut tx, workers::RECONCILE_ROLES, now).await?;
    tx.commit().await?;
    Ok(holders)
}

fn of(scope: &Scope, guild: GuildId) -> Condition {
    Condition::all()
        .add(role_mapping::Column::TenantId.eq(scope.tenant()))
        .add(role_mapping::Column::GuildId.eq(guild))
        .add(role_mapping::Column::RemovedAt.is_null())
}

/// The guild's mappings that were not removed, oldest first.
pub async fn list(core: &Core, scope: &Scope, guild: GuildId) -> Result<Vec<Mapping>> {
    let found = role_mapping::Entity::find()
        .filter(of(scope, guild))
        .order_by_asc(role_mapping::Column::Id)
        .all(core.db.read())
        .await?;
    Ok(found)
}

/// The guild's mappings that an admin removed.
pub(crate) async fn list_removed(core: &Core, guild: GuildId) -> Result<Vec<Mapping>> {
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
pub async fn set_role_deleted(core: &Core, guild: GuildId, role: RoleId) -> Result<()> {
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
        let source = SourceLabel::DiscordRole { guild_id: guild, role_id: role };
        let system = Caller::System(Scope::of(mapping.tenant_id));
        tx.record(NewEvent {
            tenant: mapping.tenant_id,
            actor: system.actor(),
            subject: None,
            license: None,
            data: EventData::SourceUnverifiable { source, product_id: mapping.product_id },
        });
    }
    tx.commit().await
}
