//! Role mappings: members with a role are entitled to a product.
//!
//! If an admin removes a mapping, its sources end and their licenses are revoked after the grace. If its
//! role is deleted in Discord, no member is known to have lost it: the mapping becomes inactive, the
//! licenses stay, and the admin is notified.

use std::collections::HashMap;

use sea_orm::{ColumnTrait, EntityTrait, IntoActiveModel, QueryFilter, QueryOrder, QuerySelect, sea_query::Expr};

use crate::entity::role_mapping::{Column, Entity};
use crate::events::{Actor, EventData, NewEvent, SourceLabel};
use crate::ids::{MappingId, TenantId};
use crate::{Caller, Core, GuildId, Reason, Result, RoleId, Scope, db, db::Reader, entitlements, guilds};
use crate::{products::Product, tx::Tx, workers};

pub mod reconcile;
mod roles;

pub use self::roles::{MemberRoles, observations, origin};
pub use crate::{entitlements::Announce, entity::role_mapping::Model as Mapping};

/// Maps a role to a product and starts a sync, which issues licenses to members who already have the role. The caller
/// has checked that the role exists and can be managed. Refused with `CONFLICT` if the role is already mapped to the
/// product.
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
    if !db::insert_if_new(tx.db(), mapping.clone().into_active_model()).await? {
        return Err(Reason::RoleAlreadyMapped { product: product.name.clone() }.refusal());
    }
    let created = EventData::MappingCreated { source: label(&mapping), product_id: product.id };
    tx.record(NewEvent::tenant(mapping.tenant_id, caller.actor(), created));
    sync_now(&mut tx, mapping.tenant_id).await?;
    tx.commit().await?;
    Ok(mapping)
}

/// Removes a mapping; licenses without another source are revoked after their grace. Returns how many depend on it.
/// Refused with `NOT_FOUND` if the role is not mapped to the product.
pub async fn remove(core: &Core, caller: &Caller, guild: GuildId, role: RoleId, product: &Product) -> Result<u64> {
    let mut tx = Tx::begin(core).await?;
    let mapped =
        of(&caller.scope(), guild).into_iter().chain([Column::RoleId.eq(role), Column::ProductId.eq(product.id)]);
    let remove = db::update([(Column::RemovedAt, tx.now().into())], mapped);
    let removed = remove.exec_with_returning(tx.db()).await?.into_iter().next();
    let mapping = removed.ok_or_else(|| Reason::RoleNotMapped { product: product.name.clone() }.refusal())?;
    let affected = count_dependent(&tx, &mapping).await?;
    let removed = EventData::MappingRemoved { source: label(&mapping), product_id: product.id };
    tx.record(NewEvent::tenant(mapping.tenant_id, caller.actor(), removed));
    sync_now(&mut tx, mapping.tenant_id).await?;
    tx.commit().await?;
    Ok(affected)
}

async fn sync_now(tx: &mut Tx, tenant: TenantId) -> Result<()> {
    guilds::retry_reads_of(tx, tenant).await?;
    let now = tx.now();
    workers::schedule_at(tx, workers::RECONCILE_ROLES, now).await
}

/// The number of licenses that only this mapping entitles to.
pub async fn count_dependent(from: &impl Reader, mapping: &Mapping) -> Result<u64> {
    entitlements::count_dependent(from, mapping.id.0).await
}

/// The mapping of a role to a product. Refused with `NOT_FOUND` if there is none.
pub async fn get(core: &Core, scope: &Scope, guild: GuildId, role: RoleId, product: &Product) -> Result<Mapping> {
    let found = list(core, scope, guild).await?;
    let found = found.into_iter().find(|mapping| (mapping.role_id, mapping.product_id) == (role, product.id));
    found.ok_or_else(|| Reason::RoleNotMapped { product: product.name.clone() }.refusal())
}

fn label(mapping: &Mapping) -> SourceLabel {
    SourceLabel::DiscordRole { guild_id: mapping.guild_id, role_id: mapping.role_id }
}

fn of(scope: &Scope, guild: GuildId) -> [Expr; 3] {
    [Column::TenantId.eq(scope.tenant()), Column::GuildId.eq(guild), Column::RemovedAt.is_null()]
}

/// The guild's mappings that were not removed, oldest first.
pub async fn list(core: &Core, scope: &Scope, guild: GuildId) -> Result<Vec<Mapping>> {
    let own = of(scope, guild).into_iter().fold(Entity::find(), QueryFilter::filter);
    Ok(own.order_by_asc(Column::Id).all(core.db.read()).await?)
}

/// The mapped roles of each guild, in order, without deleted ones.
pub async fn mapped_roles(core: &Core) -> Result<HashMap<GuildId, Vec<RoleId>>> {
    let active = Entity::find().filter(Column::RemovedAt.is_null()).filter(Column::RoleDeletedAt.is_null());
    let roles = active.select_only().columns([Column::GuildId, Column::RoleId]).distinct();
    let rows: Vec<(GuildId, RoleId)> = roles.order_by_asc(Column::RoleId).into_tuple().all(core.db.read()).await?;
    let mut mapped: HashMap<GuildId, Vec<RoleId>> = HashMap::new();
    for (guild, role) in rows {
        mapped.entry(guild).or_default().push(role);
    }
    Ok(mapped)
}

/// The mappings of a guild that were not removed, whoever owns it.
pub(crate) async fn list_of_guild(core: &Core, guild: GuildId) -> Result<Vec<Mapping>> {
    let own = Entity::find().filter(Column::GuildId.eq(guild)).filter(Column::RemovedAt.is_null());
    Ok(own.order_by_asc(Column::Id).all(core.db.read()).await?)
}

/// The guild's mappings that an admin removed.
pub(crate) async fn list_removed(core: &Core, guild: GuildId) -> Result<Vec<Mapping>> {
    let removed = Entity::find().filter(Column::GuildId.eq(guild)).filter(Column::RemovedAt.is_not_null());
    Ok(removed.all(core.db.read()).await?)
}

/// Sets `applied_at` on new mappings after their first complete reconciliation.
pub(crate) async fn set_applied(core: &Core, mappings: &[Mapping]) -> Result<()> {
    let new = mappings.iter().filter(|mapping| mapping.applied_at.is_none()).map(|mapping| mapping.id);
    let new: Vec<MappingId> = new.collect();
    if new.is_empty() {
        return Ok(());
    }
    let applied = db::update([(Column::AppliedAt, core.clock.now().into())], [Column::Id.is_in(new)]);
    applied.exec(core.db.writer()).await?;
    Ok(())
}

/// Records that a role was deleted in Discord: its mappings become inactive, their licenses stay.
pub async fn set_role_deleted(core: &Core, guild: GuildId, role: RoleId) -> Result<()> {
    let mut tx = Tx::begin(core).await?;
    let of_role = [Column::GuildId.eq(guild), Column::RoleId.eq(role)];
    let active = [Column::RemovedAt.is_null(), Column::RoleDeletedAt.is_null()];
    let update = db::update([(Column::RoleDeletedAt, tx.now().into())], of_role.into_iter().chain(active));
    for mapping in update.exec_with_returning(tx.db()).await? {
        let data = EventData::SourceUnverifiable { source: label(&mapping), product_id: mapping.product_id };
        tx.record(NewEvent::tenant(mapping.tenant_id, Actor::System, data));
    }
    tx.commit().await
}
