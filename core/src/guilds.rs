//! Guilds: joining and leaving, and the log channel.

use chrono::{DateTime, Utc};
use sea_orm::{
    ActiveValue::Set,
    ColumnTrait, EntityTrait, QueryFilter, QueryOrder,
    sea_query::{Expr, OnConflict},
};

use crate::{
    Caller, ChannelId, Core, DiscordUserId, Error, GuildId, Reason, Result, Scope, entity::guild, tenants, tx::Tx,
};

pub use crate::entity::guild::Model as Guild;

/// A guild by its Discord id.
pub async fn find(core: &Core, id: GuildId) -> Result<Option<Guild>> {
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
pub async fn record_join(core: &Core, id: GuildId, name: &str) -> Result<Guild> {
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
    known.into_iter().next().ok_or_else(|| Error::Internal(format!("guild {id} disappeared")))
}

/// Records that the bot was removed from this guild. Licenses stay: no member was seen to lose a role.
pub async fn record_leave(core: &Core, id: GuildId) -> Result<()> {
    guild::Entity::update_many()
        .col_expr(guild::Column::LeftAt, Expr::value(core.clock.now()))
        .filter(guild::Column::Id.eq(id))
        .exec(core.db.writer())
        .await?;
    Ok(())
}

/// Sets the channel that receives the guild's log lines.
///
/// # Errors
/// `NOT_FOUND` if the guild does not belong to the caller's tenant.
pub async fn set_log_channel(core: &Core, caller: &Caller, id: GuildId, channel: ChannelId) -> Result<()> {
    let updated = guild::Entity::update_many()
        .col_expr(guild::Column::LogChannelId, Expr::value(channel))
        .filter(guild::Column::Id.eq(id))
        .filter(guild::Column::TenantId.eq(caller.scope().tenant()))
        .exec(core.db.writer())
        .await?;
    if updated.rows_affected == 0 {
        return Err(Reason::ServerNotSetUp.refusal());
    }
    Ok(())
}

/// A Discord user who manages this guild. The Discord side checks that they may.
///
/// # Errors
/// `NOT_FOUND` if the guild is unknown.
pub async fn admin(core: &Core, guild: GuildId, member: DiscordUserId) -> Result<Caller> {
    let row = find(core, guild).await?.ok_or_else(|| Reason::ServerNotSetUp.refusal())?;
    Ok(Caller::ServerAdmin { scope: Scope::of(row.tenant_id), guild, member })
}
