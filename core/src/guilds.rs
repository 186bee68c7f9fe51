//! Guilds: joining and leaving, when to read their members, and the log channel.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sea_orm::{ColumnTrait, Condition, EntityTrait, IntoActiveModel, QueryFilter, QueryOrder};

use crate::entity::guild::{Column, Entity};
use crate::ids::TenantId;
use crate::{Caller, ChannelId, Core, DiscordUserId, Error, GuildId, Reason, Result, Scope, db, tenants, tx::Tx};

pub use crate::entity::guild::Model as Guild;

/// A guild by its Discord id.
pub async fn find(core: &Core, id: GuildId) -> Result<Option<Guild>> {
    Ok(Entity::find_by_id(id).one(core.db.read()).await?)
}

/// The guilds the bot is in.
pub async fn list_joined(core: &Core) -> Result<Vec<Guild>> {
    Ok(Entity::find().filter(Column::LeftAt.is_null()).order_by_asc(Column::Id).all(core.db.read()).await?)
}

/// The guilds the bot is in, except those that are not to be read again yet.
pub async fn list_readable(core: &Core) -> Result<Vec<Guild>> {
    let is_due = Condition::any().add(Column::NextReadAt.is_null()).add(Column::NextReadAt.lte(core.clock.now()));
    let readable = Entity::find().filter(Column::LeftAt.is_null()).filter(is_due);
    Ok(readable.order_by_asc(Column::Id).all(core.db.read()).await?)
}

/// Records that a guild was read.
pub async fn record_read(core: &Core, guild: &Guild) -> Result<()> {
    if guild.failed_reads > 0 {
        store_reads(core, guild.id, 0, None).await?;
    }
    Ok(())
}

/// Records that a guild, and not Discord as a whole, could not be read. The time to the next attempt doubles with each
/// failure, starting with half an `interval`. Returns it.
pub async fn record_failed_read(core: &Core, guild: &Guild, interval: Duration) -> Result<DateTime<Utc>> {
    let halves = (2 << guild.failed_reads.clamp(0, 6)) - 1;
    let next = core.clock.now() + std::cmp::min(interval / 2 * halves, Duration::from_hours(6));
    store_reads(core, guild.id, guild.failed_reads + 1, Some(next)).await?;
    Ok(next)
}

async fn store_reads(core: &Core, id: GuildId, failed: i32, next: Option<DateTime<Utc>>) -> Result<()> {
    let changes = [(Column::FailedReads, failed.into()), (Column::NextReadAt, next.into())];
    db::update(changes, [Column::Id.eq(id)]).exec(core.db.writer()).await?;
    Ok(())
}

/// Lets all guilds be read again now.
pub async fn retry_reads(core: &Core) -> Result<()> {
    let due = [(Column::NextReadAt, None::<DateTime<Utc>>.into())];
    db::update(due, [Column::NextReadAt.is_not_null()]).exec(core.db.writer()).await?;
    Ok(())
}

/// Lets the guilds of a tenant be read again now, because an admin waits for it.
pub(crate) async fn retry_reads_of(tx: &Tx, tenant: TenantId) -> Result<()> {
    db::update([(Column::NextReadAt, None::<DateTime<Utc>>.into())], [Column::TenantId.eq(tenant)])
        .exec(tx.db())
        .await?;
    Ok(())
}

/// Records that the bot is in this guild. A new guild gets its own tenant.
pub async fn record_join(core: &Core, id: GuildId, name: &str) -> Result<Guild> {
    if let Some(known) = find(core, id).await?.filter(|guild| guild.left_at.is_none() && guild.name == name) {
        return Ok(known);
    }
    let tx = Tx::begin(core).await?;
    if Entity::find_by_id(id).one(tx.db()).await?.is_none() {
        let (tenant_id, created_at) = (tenants::insert(&tx, name).await?, tx.now());
        let name = name.to_owned();
        let (log_channel_id, left_at, failed_reads, next_read_at) = (None, None, 0, None);
        let guild = Guild { id, tenant_id, name, log_channel_id, left_at, failed_reads, next_read_at, created_at };
        if !db::insert_if_new(tx.db(), guild.into_active_model()).await? {
            // Another instance inserted the guild first; its tenant is used.
            tenants::delete(&tx, tenant_id).await?;
        }
    }
    let never = || None::<DateTime<Utc>>.into();
    let changes = [(Column::Name, name.into()), (Column::LeftAt, never()), (Column::NextReadAt, never())];
    let known = db::update(changes, [Column::Id.eq(id)]).exec_with_returning(tx.db()).await?;
    tx.commit().await?;
    known.into_iter().next().ok_or_else(|| Error::Internal(format!("guild {id} disappeared")))
}

/// Records that the bot was removed from this guild. Licenses stay: no member was seen to lose a role.
pub async fn record_leave(core: &Core, id: GuildId) -> Result<()> {
    db::update([(Column::LeftAt, core.clock.now().into())], [Column::Id.eq(id)]).exec(core.db.writer()).await?;
    Ok(())
}

/// Sets the channel that receives the guild's log lines. Refused with `NOT_FOUND` if the guild does not belong to the
/// caller's tenant.
pub async fn set_log_channel(core: &Core, caller: &Caller, id: GuildId, channel: ChannelId) -> Result<()> {
    let own = [Column::Id.eq(id), Column::TenantId.eq(caller.scope().tenant())];
    let updated = db::update([(Column::LogChannelId, channel.into())], own).exec(core.db.writer()).await?;
    if updated.rows_affected == 0 {
        return Err(Reason::ServerNotSetUp.refusal());
    }
    Ok(())
}

/// A Discord user who manages this guild. The Discord side checks that they may. Refused with `NOT_FOUND` if the guild
/// is unknown.
pub async fn admin(core: &Core, guild: GuildId, member: DiscordUserId) -> Result<Caller> {
    let row = find(core, guild).await?.ok_or_else(|| Reason::ServerNotSetUp.refusal())?;
    Ok(Caller::ServerAdmin { scope: Scope::of(row.tenant_id), guild, member })
}
