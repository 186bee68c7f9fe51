//! Guilds: joining and leaving, the log channel, and the circuit breaker of the sync.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sea_orm::{
    ActiveValue::Set,
    ColumnTrait, EntityTrait, QueryFilter, QueryOrder,
    sea_query::{Expr, OnConflict},
};
use serde_json::json;

use crate::{
    Caller, Code, Core, Result, Snowflake,
    entity::guild,
    events::{Actor, EventKind, NewEvent},
    ids::TenantId,
    tenants,
    tx::Tx,
    workers,
};

pub use crate::entity::guild::Model as Guild;

/// A guild by its Discord id.
pub async fn find(core: &Core, id: Snowflake) -> Result<Option<Guild>> {
    Ok(guild::Entity::find_by_id(id).one(core.db.read()).await?)
}

/// The guilds the bot is in.
pub async fn list_joined(core: &Core) -> Result<Vec<Guild>> {
    let found = guild::Entity::find()
        .filter(guild::Column::LeftAt.is_null())
        .order_by_asc(guild::Column::Id)
        .all(core.db.read())
        .await?;
    Ok(found)
}

/// Records that the bot is in this guild. A new guild gets its own tenant.
pub async fn record_join(core: &Core, id: Snowflake, name: &str) -> Result<Guild> {
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
            breaker_opened_at: Set(None),
            confirmed_until: Set(None),
            created_at: Set(tx.now()),
        };
        let written = guild::Entity::insert(row)
            .on_conflict(OnConflict::column(guild::Column::Id).do_nothing().to_owned())
            .exec_without_returning(tx.db())
            .await?;
        if written == 0 {
            // Another instance inserted the guild first; its tenant is used.
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
    known.into_iter().next().ok_or_else(|| crate::Error::Internal(format!("guild {id} disappeared")))
}

/// Records that the bot was removed from this guild. Licenses stay: no member was seen to lose a role.
pub async fn record_leave(core: &Core, id: Snowflake) -> Result<()> {
    change(core, id, guild::Column::LeftAt, Expr::value(core.clock.now())).await
}

async fn change(core: &Core, id: Snowflake, column: guild::Column, value: Expr) -> Result<()> {
    let update = guild::Entity::update_many().col_expr(column, value).filter(guild::Column::Id.eq(id));
    update.exec(core.db.writer()).await?;
    Ok(())
}

/// Sets the channel that receives the guild's log lines.
///
/// # Errors
/// `NOT_FOUND` if the guild does not belong to the caller's tenant.
pub async fn set_log_channel(core: &Core, caller: &Caller, id: Snowflake, channel: Snowflake) -> Result<()> {
    let in_tenant = find(core, id).await?.is_some_and(|guild| guild.tenant_id == caller.scope.tenant());
    if !in_tenant {
        return Err(Code::NotFound.because("This server is not set up. Invite the bot again."));
    }
    change(core, id, guild::Column::LogChannelId, Expr::value(channel)).await
}

/// Confirms a sync that the circuit breaker stopped: for 15 minutes it may revoke licenses.
///
/// # Errors
/// `CONFLICT` if no sync was stopped.
pub async fn confirm_sync(core: &Core, caller: &Caller, id: Snowflake) -> Result<()> {
    let mut tx = Tx::begin(core).await?;
    let now = tx.now();
    let confirmed = guild::Entity::update_many()
        .col_expr(guild::Column::ConfirmedUntil, Expr::value(now + Duration::from_mins(15)))
        .filter(guild::Column::Id.eq(id))
        .filter(guild::Column::TenantId.eq(caller.scope.tenant()))
        .filter(guild::Column::BreakerOpenedAt.is_not_null())
        .exec(tx.db())
        .await?;
    if confirmed.rows_affected == 0 {
        return Err(Code::Conflict.because("There is nothing to confirm: no sync of this server was stopped."));
    }
    record(
        &mut tx,
        caller.scope.tenant(),
        &caller.actor,
        EventKind::SyncConfirmed,
        json!({ "guildId": id.to_string() }),
    );
    workers::schedule_at(&mut tx, workers::RECONCILE_ROLES, now).await?;
    tx.commit().await
}

/// Opens a guild's circuit breaker and records the event, unless it is already open.
pub(crate) async fn open_breaker(core: &Core, guild: &Guild, losses: usize, holders: usize) -> Result<()> {
    if guild.breaker_opened_at.is_some() {
        return Ok(());
    }
    let mut tx = Tx::begin(core).await?;
    guild::Entity::update_many()
        .col_expr(guild::Column::BreakerOpenedAt, Expr::value(tx.now()))
        .filter(guild::Column::Id.eq(guild.id))
        .exec(tx.db())
        .await?;
    record(
        &mut tx,
        guild.tenant_id,
        &Actor::System,
        EventKind::BreakerTripped,
        json!({
            "guildId": guild.id.to_string(), "ending": losses, "holders": holders,
        }),
    );
    tx.commit().await
}

/// Closes a guild's circuit breaker after a complete sync and clears the confirmation.
pub(crate) async fn close_breaker(core: &Core, guild: &Guild) -> Result<()> {
    if guild.breaker_opened_at.is_none() && guild.confirmed_until.is_none() {
        return Ok(());
    }
    guild::Entity::update_many()
        .col_expr(guild::Column::BreakerOpenedAt, Expr::value(None::<DateTime<Utc>>))
        .col_expr(guild::Column::ConfirmedUntil, Expr::value(None::<DateTime<Utc>>))
        .filter(guild::Column::Id.eq(guild.id))
        .exec(core.db.writer())
        .await?;
    Ok(())
}

/// Records an event about a guild as a whole.
pub(crate) fn record(tx: &mut Tx, tenant: TenantId, actor: &Actor, kind: EventKind, after: serde_json::Value) {
    let actor = actor.clone();
    tx.record(NewEvent { tenant, kind, actor, subject: None, license: None, before: None, after: Some(after) });
}
