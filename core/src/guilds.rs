//! Guilds: joining and leaving, and the log channel.

use chrono::{DateTime, Utc};
use sea_orm::{ColumnTrait, EntityTrait, IntoActiveModel, QueryFilter, QueryOrder};

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
    let changes = [(Column::Name, name.into()), (Column::LeftAt, None::<DateTime<Utc>>.into())];
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

/// The name of a tenant's server, or of the tenant if it has none.
pub async fn server_name(core: &Core, tenant: TenantId) -> Result<String> {
    let guild = Entity::find().filter(Column::TenantId.eq(tenant)).order_by_asc(Column::Id).one(core.db.read()).await?;
    match guild {
        Some(guild) => Ok(guild.name),
        None => tenants::name(core, tenant).await,
    }
}
