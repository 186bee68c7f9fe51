//! Role mappings: which role earns which product.
//!
//! A mapping ends in two ways. Removed by an admin: its sources end, and licenses follow after their
//! grace. Its role deleted in Discord: nobody's roles were positively taken, so the mapping rests, the
//! licenses stay, and the admin is told what to do.

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

/// What members who hold the role already are told when a mapping is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announce {
    /// Nothing: `/key` shows them their key.
    Quietly,
    /// Their key, by paced direct messages.
    ByDm,
}

impl Announce {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Quietly => "quietly",
            Self::ByDm => "by_dm",
        }
    }
}

/// Maps a role to a product; members who hold the role get their license with the next sync, at once.
/// The door has checked that the role exists and can be managed.
///
/// # Errors
/// `CONFLICT` when that role earns that product already.
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
    // The partial unique index cannot be named as a conflict target on both databases alike.
    let written = role_mapping::Entity::insert(role_mapping::ActiveModel::from(mapping.clone()))
        .on_conflict(OnConflict::new().do_nothing().to_owned())
        .exec_without_returning(tx.db())
        .await?;
    if written == 0 {
        return Err(Code::Conflict.because(format!("That role earns {} already.", product.name)));
    }
    let now = tx.now();
    workers::wake_at(&mut tx, workers::RECONCILE_ROLES, now).await?;
    tx.commit().await?;
    Ok(mapping)
}

/// Takes a mapping away; the licenses that stand on it alone end after their grace. Answers how many
/// members it held.
///
/// # Errors
/// `NOT_FOUND` when that role does not earn that product.
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
        Code::NotFound.because(format!("That role does not earn {}; `/mapping list` shows what does.", product.name))
    })?;
    let holders = entitlements::count_holders(&tx, mapping.id).await?;
    let now = tx.now();
    workers::wake_at(&mut tx, workers::RECONCILE_ROLES, now).await?;
    tx.commit().await?;
    Ok(holders)
}

fn of(scope: &Scope, guild: Snowflake) -> Condition {
    Condition::all()
        .add(role_mapping::Column::TenantId.eq(scope.tenant()))
        .add(role_mapping::Column::GuildId.eq(guild))
        .add(role_mapping::Column::RemovedAt.is_null())
}

/// The guild's mappings that stand, oldest first.
///
/// # Errors
/// When the database does not answer.
pub async fn list(core: &Core, scope: &Scope, guild: Snowflake) -> Result<Vec<Mapping>> {
    let found = role_mapping::Entity::find()
        .filter(of(scope, guild))
        .order_by_asc(role_mapping::Column::Id)
        .all(core.db.read())
        .await?;
    Ok(found)
}

/// The guild's mappings that an admin has removed.
pub(crate) async fn list_removed(core: &Core, guild: Snowflake) -> Result<Vec<Mapping>> {
    let found = role_mapping::Entity::find()
        .filter(role_mapping::Column::GuildId.eq(guild))
        .filter(role_mapping::Column::RemovedAt.is_not_null())
        .all(core.db.read())
        .await?;
    Ok(found)
}

/// Members who hold these mappings' roles have been looked at once.
pub(crate) async fn applied(core: &Core, mappings: &[Mapping]) -> Result<()> {
    let fresh = mappings.iter().filter(|mapping| mapping.applied_at.is_none()).map(|mapping| mapping.id);
    role_mapping::Entity::update_many()
        .col_expr(role_mapping::Column::AppliedAt, Expr::value(core.clock.now()))
        .filter(role_mapping::Column::Id.is_in(fresh))
        .exec(core.db.writer())
        .await?;
    Ok(())
}

/// A role is gone from Discord: its mappings rest and their licenses stay.
///
/// # Errors
/// When the database does not answer.
pub async fn role_deleted(core: &Core, guild: Snowflake, role: Snowflake) -> Result<()> {
    let mut tx = Tx::begin(core).await?;
    let resting = role_mapping::Entity::update_many()
        .col_expr(role_mapping::Column::RoleDeletedAt, Expr::value(tx.now()))
        .filter(role_mapping::Column::GuildId.eq(guild))
        .filter(role_mapping::Column::RoleId.eq(role))
        .filter(role_mapping::Column::RemovedAt.is_null())
        .filter(role_mapping::Column::RoleDeletedAt.is_null())
        .exec_with_returning(tx.db())
        .await?;
    for mapping in resting {
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
