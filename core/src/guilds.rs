//! Guilds and their role mappings: which role earns which product.
//!
//! A mapping ends in two ways. Removed by an admin: its sources end, and licenses follow after their
//! grace. Its role deleted in Discord: nobody's roles were positively taken, so the mapping rests, the
//! licenses stay, and the admin is told what to do.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sea_orm::{
    ActiveValue::Set,
    ColumnTrait, Condition, EntityTrait, QueryFilter, QueryOrder,
    sea_query::{Expr, OnConflict},
};
use serde_json::json;

use crate::{
    Caller, Code, Core, Result, Scope, Snowflake,
    entitlements::{Basis, Level, Observation, Seen},
    entity::{guild, role_mapping},
    events::{self, Actor, Draft, Event, Kind},
    ids::{MappingId, TenantId},
    outbox::{self, Delivery, Pace},
    products::Product,
    tenants,
    tx::Tx,
    users, workers,
};

pub use crate::entity::{guild::Model as Guild, role_mapping::Model as Mapping};

/// A guild by its Discord id.
///
/// # Errors
/// When the database does not answer.
pub async fn find(core: &Core, id: Snowflake) -> Result<Option<Guild>> {
    Ok(guild::Entity::find_by_id(id).one(core.db.read()).await?)
}

/// The guilds the bot is in.
///
/// # Errors
/// When the database does not answer.
pub async fn list_joined(core: &Core) -> Result<Vec<Guild>> {
    let found = guild::Entity::find()
        .filter(guild::Column::LeftAt.is_null())
        .order_by_asc(guild::Column::Id)
        .all(core.db.read())
        .await?;
    Ok(found)
}

/// The bot is in this guild: known from now on, with a tenant of its own.
///
/// # Errors
/// When the database does not answer.
pub async fn joined(core: &Core, id: Snowflake, name: &str) -> Result<Guild> {
    if let Some(known) = find(core, id).await?.filter(|guild| guild.left_at.is_none() && guild.name == name) {
        return Ok(known);
    }
    let tx = Tx::begin(core).await?;
    if guild::Entity::find_by_id(id).one(tx.db()).await?.is_none() {
        let tenant = tenants::insert(&tx, name).await?;
        let row = guild::ActiveModel {
            id: Set(id),
            tenant_id: Set(tenant),
            name: Set(name.to_owned()),
            log_channel_id: Set(None),
            left_at: Set(None),
            held_at: Set(None),
            confirmed_until: Set(None),
            created_at: Set(tx.now()),
        };
        let written = guild::Entity::insert(row)
            .on_conflict(OnConflict::column(guild::Column::Id).do_nothing().to_owned())
            .exec_without_returning(tx.db())
            .await?;
        if written == 0 {
            // Another instance won: its tenant counts.
            tenants::delete(&tx, tenant).await?;
        }
    }
    let known = guild::Entity::update_many()
        .col_expr(guild::Column::Name, Expr::value(name))
        .col_expr(guild::Column::LeftAt, Expr::value(None::<DateTime<Utc>>))
        .filter(guild::Column::Id.eq(id))
        .exec_with_returning(tx.db())
        .await?;
    tx.commit().await?;
    known.into_iter().next().ok_or_else(|| crate::Error::Broken(format!("guild {id} vanished")))
}

/// The bot was removed from this guild: its licenses stay, since nobody's role was seen to go.
///
/// # Errors
/// When the database does not answer.
pub async fn left(core: &Core, id: Snowflake) -> Result<()> {
    change(core, id, guild::Column::LeftAt, Expr::value(core.clock.now())).await
}

async fn change(core: &Core, id: Snowflake, column: guild::Column, value: Expr) -> Result<()> {
    let update = guild::Entity::update_many().col_expr(column, value).filter(guild::Column::Id.eq(id));
    update.exec(core.db.writer()).await?;
    Ok(())
}

/// Where the guild's log lines go.
///
/// # Errors
/// When the database does not answer.
pub async fn set_log_channel(core: &Core, id: Snowflake, channel: Snowflake) -> Result<()> {
    change(core, id, guild::Column::LogChannelId, Expr::value(channel)).await
}

/// The admin has looked: the pass that the brake held may end licenses for the next 15 minutes.
///
/// # Errors
/// `CONFLICT` when nothing is held.
pub async fn confirm_sync(core: &Core, caller: &Caller, id: Snowflake) -> Result<()> {
    let mut tx = Tx::begin(core).await?;
    let now = tx.now();
    let held = guild::Entity::update_many()
        .col_expr(guild::Column::ConfirmedUntil, Expr::value(now + Duration::from_mins(15)))
        .filter(guild::Column::Id.eq(id))
        .filter(guild::Column::TenantId.eq(caller.scope.tenant()))
        .filter(guild::Column::HeldAt.is_not_null())
        .exec(tx.db())
        .await?;
    if held.rows_affected == 0 {
        return Err(Code::Conflict.because("No sync of this server is held; there is nothing to confirm."));
    }
    record(&mut tx, caller.scope.tenant(), &caller.actor, Kind::SyncConfirmed, json!({ "guildId": id.to_string() }));
    workers::wake_at(&mut tx, workers::RECONCILE_ROLES, now).await?;
    tx.commit().await
}

/// Whether the brake holds a guild's sync, told once in the log.
pub(crate) async fn hold(core: &Core, guild: &Guild, ending: usize, held: usize) -> Result<()> {
    if guild.held_at.is_some() {
        return Ok(());
    }
    let mut tx = Tx::begin(core).await?;
    guild::Entity::update_many()
        .col_expr(guild::Column::HeldAt, Expr::value(tx.now()))
        .filter(guild::Column::Id.eq(guild.id))
        .exec(tx.db())
        .await?;
    record(
        &mut tx,
        guild.tenant_id,
        &Actor::System,
        Kind::BreakerTripped,
        json!({
            "guildId": guild.id.to_string(), "ending": ending, "holders": held,
        }),
    );
    tx.commit().await
}

/// The guild's sync went through.
pub(crate) async fn unhold(core: &Core, guild: &Guild) -> Result<()> {
    match guild.held_at {
        Some(_) => change(core, guild.id, guild::Column::HeldAt, Expr::value(None::<DateTime<Utc>>)).await,
        None => Ok(()),
    }
}

fn record(tx: &mut Tx, tenant: TenantId, actor: &Actor, kind: Kind, after: serde_json::Value) {
    let actor = actor.clone();
    tx.record(Draft { tenant, kind, actor, subject: None, license: None, before: None, after: Some(after) });
}

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
pub async fn add_mapping(
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
pub async fn remove_mapping(
    core: &Core,
    caller: &Caller,
    guild: Snowflake,
    role: Snowflake,
    product: &Product,
) -> Result<u64> {
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
    let now = tx.now();
    workers::wake_at(&mut tx, workers::RECONCILE_ROLES, now).await?;
    tx.commit().await?;
    crate::entitlements::sweep::count_holders(core, mapping.id).await
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
pub async fn list_mappings(core: &Core, scope: &Scope, guild: Snowflake) -> Result<Vec<Mapping>> {
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
        record(
            &mut tx,
            mapping.tenant_id,
            &Actor::System,
            Kind::SourceUnverifiable,
            json!({
                "guildId": guild.to_string(), "roleId": role.to_string(), "productId": mapping.product_id,
            }),
        );
    }
    tx.commit().await
}

/// What a member's roles say about every mapping of a guild. `None` for `roles`: they left it.
pub(crate) fn seen(mappings: &[Mapping], roles: Option<&[Snowflake]>, pace: impl Fn(&Mapping) -> Pace) -> Vec<Seen> {
    // A deleted role says nothing about anybody, until an admin takes its mapping away.
    let speaks = |mapping: &&Mapping| mapping.role_deleted_at.is_none() || mapping.removed_at.is_some();
    mappings
        .iter()
        .filter(speaks)
        .map(|mapping| Seen {
            product: mapping.product_id,
            basis: Basis::Role(mapping.id, mapping.guild_id, mapping.role_id),
            level: if roles.is_some_and(|roles| roles.contains(&mapping.role_id)) { Level::Held } else { Level::Gone },
            pace: pace(mapping),
        })
        .collect()
}

/// One member's roles as Discord told them just now: `None` when they left. Nothing to observe in a
/// guild without mappings, or one the bot does not know.
///
/// # Errors
/// When the database does not answer.
pub async fn observation(
    core: &Core,
    guild: Snowflake,
    member: Snowflake,
    roles: Option<&[Snowflake]>,
    stamp: crate::entitlements::Stamp,
    fence: Option<workers::Lease>,
) -> Result<Option<Observation>> {
    let Some(known) = find(core, guild).await? else { return Ok(None) };
    let scope = Scope::of(known.tenant_id);
    // While a new mapping's first pass runs, it may issue quietly what this member has just gained.
    let pace = |mapping: &Mapping| if mapping.applied_at.is_none() { Pace::Again } else { Pace::Now };
    let seen = seen(&list_mappings(core, &scope, guild).await?, roles, pace);
    Ok((!seen.is_empty()).then_some(Observation { scope, member, actor: Actor::System, stamp, fence, seen }))
}

/// Turns new events into lines for the log channels of their tenant's guilds. `line` words an event about a member.
/// Answers how many events were read.
///
/// # Errors
/// When the database does not answer; the same events are read again then.
pub async fn announce(core: &Core, line: impl Fn(&Event, Option<Snowflake>) -> String) -> Result<usize> {
    const BATCH: u64 = 100;
    let mut read = 0;
    loop {
        let mut tx = Tx::begin(core).await?;
        let events = events::advance(&tx, "log_channel", BATCH).await?;
        if events.is_empty() {
            return Ok(read);
        }
        let guilds = guild::Entity::find()
            .filter(guild::Column::LogChannelId.is_not_null())
            .filter(guild::Column::LeftAt.is_null())
            .all(tx.db())
            .await?;
        for event in &events {
            let subject = match event.subject {
                Some(user) => users::discord_id(tx.db(), user).await?,
                None => None,
            };
            for guild in guilds.iter().filter(|guild| guild.tenant_id == event.tenant_id) {
                let Some(channel) = guild.log_channel_id else { continue };
                let delivery = Delivery::LogLine { channel, seq: event.seq, line: line(event, subject) };
                outbox::send(&mut tx, &delivery, format!("log:{}:{}", guild.id, event.seq), Pace::Now).await?;
            }
        }
        read += events.len();
        tx.commit().await?;
    }
}
