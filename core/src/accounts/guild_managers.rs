//! Guild managers: users who may see who holds licenses of a Discord server.

use sea_orm::{ColumnTrait, EntityTrait, IntoActiveModel, QueryFilter, QuerySelect, QueryTrait};

use crate::accounts::{admin::Admin, sessions::Principal};
use crate::caller::{Caller, UserCaller};
use crate::entity::{guild, guild_manager};
use crate::events::{EventData, NewEvent};
use crate::ids::{TenantId, UserId};
use crate::users::{self, Role, UserFilter, UserPage};
use crate::{Core, GuildId, Reason, Result, db, guilds, tx::Tx};

/// A page of the users with licenses of a guild, newest first, and whether the caller sees account
/// details: moderators do; the guild's managers see names only, and search in nothing else. Refused with `INSUFFICIENT_ROLE`; `NOT_FOUND` if the guild is unknown.
pub async fn list_members(
    core: &Core,
    principal: Principal,
    guild: GuildId,
    filter: UserFilter,
    page: u64,
    size: u64,
) -> Result<(UserPage, bool)> {
    let manager = guild_manager::Entity::find_by_id((guild, principal.user.id)).one(core.db.read()).await?;
    let sees_details = manager.is_none();
    if sees_details {
        Admin::at_least(core, Role::Moderator, principal)?;
    }
    ensure_known(core, guild).await?;
    let filter = UserFilter { guild: Some(guild), names_only: !sees_details, ..filter };
    let mut page = users::list(core, &filter, page, size).await?;
    if !sees_details {
        for user in &mut page.users {
            (user.email, user.deletion_at) = (None, None);
        }
    }
    Ok((page, sees_details))
}

/// The user as a caller of the license service, with the tenants that they manage.
pub async fn license_caller(core: &Core, principal: &Principal) -> Result<Caller> {
    let own = guild_manager::Entity::find().filter(guild_manager::Column::UserId.eq(principal.user.id));
    let guild_ids = own.select_only().column(guild_manager::Column::GuildId).into_query();
    let tenants = guild::Entity::find().select_only().column(guild::Column::TenantId).distinct();
    let tenants = tenants.filter(guild::Column::Id.in_subquery(guild_ids));
    let manages: Vec<TenantId> = tenants.into_tuple().all(core.db.read()).await?;
    Ok(Caller::User(UserCaller {
        user: principal.user.id,
        session: principal.session.id,
        role: principal.user.role,
        manages: manages.into(),
        lacks_second_factor: principal.user.role >= Role::Moderator && principal.lacks_second_factor(core),
    }))
}

async fn ensure_known(core: &Core, guild: GuildId) -> Result<()> {
    guilds::find(core, guild).await?.map(drop).ok_or_else(|| Reason::NoServer.refusal())
}

/// Makes a user a manager of a guild. Refused with `NOT_FOUND` if the guild or the user is unknown;
/// `INSUFFICIENT_ROLE`.
pub async fn add(core: &Core, admin: &Admin, user: UserId, guild: GuildId) -> Result<()> {
    ensure_known(core, guild).await?;
    let mut tx = Tx::begin(core).await?;
    admin.lock_lower_ranked(&tx, user).await?;
    let row = guild_manager::Model { guild_id: guild, user_id: user, created_at: tx.now() };
    if db::insert_if_new(tx.db(), row.into_active_model()).await? {
        let data = EventData::GuildManagerChanged { guild_id: guild, manages: true };
        tx.record(NewEvent::account(admin.actor(), user, data));
    }
    tx.commit().await
}

/// Removes a user as manager of a guild. Refused with `NOT_FOUND` if the guild or the user is unknown;
/// `INSUFFICIENT_ROLE`.
pub async fn remove(core: &Core, admin: &Admin, user: UserId, guild: GuildId) -> Result<()> {
    ensure_known(core, guild).await?;
    let mut tx = Tx::begin(core).await?;
    admin.lock_lower_ranked(&tx, user).await?;
    let removed = guild_manager::Entity::delete_by_id((guild, user)).exec(tx.db()).await?;
    if removed.rows_affected > 0 {
        let data = EventData::GuildManagerChanged { guild_id: guild, manages: false };
        tx.record(NewEvent::account(admin.actor(), user, data));
    }
    tx.commit().await
}
