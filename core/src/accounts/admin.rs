//! User administration. An admin can act only on users of a lower role and can assign only roles below
//! their own. The first admin is created at the command line ([`create_admin`]).

use chrono::{DateTime, Utc};
use sea_orm::{ActiveValue::Set, ColumnTrait, EntityTrait, QueryFilter, sea_query::OnConflict};
use serde_json::json;

use crate::{
    Code, Core, Result, Snowflake,
    accounts::{
        AccountStatus, Email, Principal, Role,
        emails::{self, EmailTemplate},
        erasure, name, record, second_factor, sessions, set_password,
    },
    entity::guild_manager,
    events::{Actor, EventKind},
    guilds,
    ids::{SessionId, UserId},
    tx::Tx,
    users::{self, User},
};

pub use crate::users::UserFilter;

/// A signed-in user whose role allows them to manage other users.
#[derive(Clone, Debug)]
pub struct Admin {
    /// The signed-in user and their session.
    pub principal: Principal,
    role: Role,
}

impl Admin {
    /// Requires at least the role `least`, and a second factor if the policy demands one for admins.
    ///
    /// # Errors
    /// `INSUFFICIENT_ROLE`, `REQUIRES_2FA`.
    pub fn at_least(core: &Core, least: Role, principal: Principal) -> Result<Self> {
        let role = principal.user.role()?;
        if role < least {
            return Err(Code::InsufficientRole.refusal());
        }
        let lacks_mfa = principal.session.second_factor_at.is_none();
        if lacks_mfa && role >= Role::Admin && core.rules.admins_need_second_factor {
            return Err(Code::RequiresSecondFactor
                .because("Admins need a second factor. Set one up, then sign in again with it."));
        }
        Ok(Self { principal, role })
    }

    /// Locks a user whose role is lower than this admin's.
    async fn lock_lower_ranked(&self, tx: &Tx, id: UserId) -> Result<User> {
        let user = users::lock(tx, id).await?;
        let user = user.ok_or_else(|| Code::NotFound.because("No such user."))?;
        if user.role()? >= self.role {
            return Err(Code::InsufficientRole.because("You can only manage users whose role is below yours."));
        }
        Ok(user)
    }

    fn actor(&self) -> Actor {
        Actor::User(self.principal.user.id)
    }
}

/// A page of users, newest first, and the total count. `guild` limits the list to users with licenses in that
/// guild; the guild's managers may read it too.
///
/// # Errors
/// `INSUFFICIENT_ROLE`; `NOT_FOUND` if the guild is unknown.
pub async fn list(
    core: &Core,
    principal: Principal,
    guild: Option<Snowflake>,
    wanted: UserFilter,
    page: u64,
    size: u64,
) -> Result<(Vec<User>, u64)> {
    let Some(id) = guild else {
        Admin::at_least(core, Role::Moderator, principal)?;
        return users::list(core, &wanted, page, size).await;
    };
    let is_manager = manages(core, principal.user.id, id).await?;
    if !is_manager {
        Admin::at_least(core, Role::Moderator, principal)?;
    }
    if guilds::find(core, id).await?.is_none() {
        return Err(Code::NotFound.because("No such server."));
    }
    let (mut users, total) = users::list(core, &UserFilter { guild, ..wanted }, page, size).await?;
    if is_manager {
        // Guild managers do not see account details.
        for user in &mut users {
            (user.email, user.deletion_at) = (None, None);
        }
    }
    Ok((users, total))
}

async fn manages(core: &Core, user: UserId, guild: Snowflake) -> Result<bool> {
    Ok(guild_manager::Entity::find_by_id((guild, user)).one(core.db.read()).await?.is_some())
}

/// Finds a user.
///
/// # Errors
/// `NOT_FOUND` if there is no such user.
pub async fn get(core: &Core, id: UserId) -> Result<User> {
    users::find(core, id).await?.ok_or_else(|| Code::NotFound.because("No such user."))
}

/// Activates, suspends or bans a user. Suspending and banning end all of the user's sessions.
///
/// # Errors
/// `NOT_FOUND`, `INSUFFICIENT_ROLE`, `VALIDATION_ERROR`.
pub async fn set_status(
    core: &Core,
    admin: &Admin,
    id: UserId,
    status: AccountStatus,
    reason: Option<String>,
) -> Result<User> {
    let mut tx = Tx::begin(core).await?;
    let mut user = admin.lock_lower_ranked(&tx, id).await?;
    let before = user.status()?;
    if !matches!(status, AccountStatus::Active | AccountStatus::Suspended | AccountStatus::Banned) {
        return Err(Code::invalid_field("status", "status must be ACTIVE, SUSPENDED or BANNED"));
    }
    if before == status {
        return Ok(user);
    }
    let reason = reason.map(|text| super::line("reason", &text, 300)).transpose()?;
    // Activation must not stand in for email verification.
    let is_unverified = user.email.is_some() && user.email_verified_at.is_none();
    user.status =
        if status == AccountStatus::Active && is_unverified { AccountStatus::Pending } else { status }.to_string();
    user.status_reason = reason;
    users::update(&tx, &user).await?;
    if status != AccountStatus::Active {
        sessions::end_all(&mut tx, id, None, &admin.actor(), status.as_str()).await?;
    }
    let change = json!({ "from": before, "to": user.status, "reason": user.status_reason });
    record(&mut tx, EventKind::UserStatusChanged, &admin.actor(), id, change);
    tx.commit().await?;
    Ok(user)
}

/// Assigns a role to a user.
///
/// # Errors
/// `NOT_FOUND`; `INSUFFICIENT_ROLE` if the user's role or the new role is not below the admin's own.
pub async fn set_role(core: &Core, admin: &Admin, id: UserId, role: Role) -> Result<User> {
    change_role(core, admin, id, None, role).await
}

async fn change_role(core: &Core, admin: &Admin, id: UserId, from: Option<Role>, role: Role) -> Result<User> {
    if role >= admin.role {
        return Err(Code::InsufficientRole.because("You can only assign roles below your own."));
    }
    let mut tx = Tx::begin(core).await?;
    let mut user = admin.lock_lower_ranked(&tx, id).await?;
    if from.is_some_and(|from| from.as_str() != user.role) {
        return Err(Code::Conflict.because(format!("This user's role is {}.", user.role)));
    }
    let before = std::mem::replace(&mut user.role, role.to_string());
    if before != user.role {
        users::update(&tx, &user).await?;
        record(&mut tx, EventKind::AccessChanged, &admin.actor(), id, json!({ "from": before, "to": role }));
    }
    tx.commit().await?;
    Ok(user)
}

/// Removes a role from a user, who becomes a `USER` again.
///
/// # Errors
/// `NOT_FOUND`, `INSUFFICIENT_ROLE`; `CONFLICT` if the user has another role.
pub async fn remove_role(core: &Core, admin: &Admin, id: UserId, role: Role) -> Result<User> {
    change_role(core, admin, id, Some(role), Role::User).await
}

/// Adds or removes a user as manager of a guild.
///
/// # Errors
/// `NOT_FOUND` if the guild or the user is unknown; `INSUFFICIENT_ROLE`.
pub async fn set_manager(core: &Core, admin: &Admin, id: UserId, guild: Snowflake, manages: bool) -> Result<()> {
    if guilds::find(core, guild).await?.is_none() {
        return Err(Code::NotFound.because("No such server."));
    }
    let mut tx = Tx::begin(core).await?;
    admin.lock_lower_ranked(&tx, id).await?;
    let changed = if manages {
        let row = guild_manager::ActiveModel { guild_id: Set(guild), user_id: Set(id), created_at: Set(tx.now()) };
        let key = [guild_manager::Column::GuildId, guild_manager::Column::UserId];
        guild_manager::Entity::insert(row)
            .on_conflict(OnConflict::columns(key).do_nothing().to_owned())
            .exec_without_returning(tx.db())
            .await?
    } else {
        guild_manager::Entity::delete_by_id((guild, id)).exec(tx.db()).await?.rows_affected
    };
    if changed > 0 {
        let change = json!({ "guildId": guild.to_string(), "manages": manages });
        record(&mut tx, EventKind::AccessChanged, &admin.actor(), id, change);
    }
    tx.commit().await
}

/// The guilds a user manages.
pub async fn managed_by(core: &Core, id: UserId) -> Result<Vec<Snowflake>> {
    let rows = guild_manager::Entity::find().filter(guild_manager::Column::UserId.eq(id)).all(core.db.read()).await?;
    Ok(rows.into_iter().map(|row| row.guild_id).collect())
}

/// Ends all sessions of a user and returns how many there were.
///
/// # Errors
/// `NOT_FOUND`, `INSUFFICIENT_ROLE`.
pub async fn end_sessions(core: &Core, admin: &Admin, id: UserId) -> Result<u64> {
    let mut tx = Tx::begin(core).await?;
    admin.lock_lower_ranked(&tx, id).await?;
    let ended = sessions::end_all(&mut tx, id, None, &admin.actor(), "ended by an admin").await?;
    tx.commit().await?;
    Ok(ended)
}

/// Ends one session of a user.
///
/// # Errors
/// `NOT_FOUND`, `INSUFFICIENT_ROLE`.
pub async fn end_session(core: &Core, admin: &Admin, id: SessionId, reason: Option<String>) -> Result<()> {
    let reason = reason.map(|text| super::line("reason", &text, 300)).transpose()?;
    let not_found = || Code::NotFound.because("No such session.");
    let owner = sessions::owner(core, id).await?.ok_or_else(not_found)?;
    let mut tx = Tx::begin(core).await?;
    admin.lock_lower_ranked(&tx, owner).await?;
    let reason = reason.as_deref().unwrap_or("ended by an admin");
    if !sessions::end_in(&mut tx, owner, id, &admin.actor(), reason).await? {
        return Err(not_found());
    }
    tx.commit().await
}

/// Schedules the deletion of a user's account and returns its date.
///
/// # Errors
/// `NOT_FOUND`, `INSUFFICIENT_ROLE`.
pub async fn schedule_deletion(core: &Core, admin: &Admin, id: UserId) -> Result<DateTime<Utc>> {
    let mut tx = Tx::begin(core).await?;
    let user = admin.lock_lower_ranked(&tx, id).await?;
    let deletion_at = erasure::schedule_in(&mut tx, user, &admin.actor()).await?;
    tx.commit().await?;
    Ok(deletion_at)
}

/// Removes the second factor of a user who lost it, and ends all of their sessions. The admin must have checked
/// the user's identity.
///
/// # Errors
/// `NOT_FOUND`, `INSUFFICIENT_ROLE`.
pub async fn remove_second_factor(core: &Core, admin: &Admin, id: UserId) -> Result<()> {
    let mut tx = Tx::begin(core).await?;
    admin.lock_lower_ranked(&tx, id).await?;
    second_factor::remove(&tx, id).await?;
    sessions::end_all(&mut tx, id, None, &admin.actor(), "second factor removed").await?;
    record(&mut tx, EventKind::SecondFactorChanged, &admin.actor(), id, json!({ "how": "removed by an admin" }));
    emails::send(&mut tx, EmailTemplate::SecondFactorChanged, id, None).await?;
    tx.commit().await
}

/// Makes the account with this verified email a `SUPER_ADMIN` and sets its password, or creates it. For the
/// operator at the command line. Returns the user and whether the account is new.
///
/// # Errors
/// `VALIDATION_ERROR`.
pub async fn create_admin(
    core: &Core,
    email: &str,
    display_name: Option<&str>,
    password: &str,
) -> Result<(UserId, bool)> {
    let (email, display_name) = (Email::parse(email)?, display_name.map(name).transpose()?);
    let known_name = display_name.as_deref().unwrap_or_default();
    let hash = core.passwords().hash_new(password, &[&email.folded, known_name, &core.rules.app_name]).await?;
    let mut tx = Tx::begin(core).await?;
    let accounts = users::lock_all_with_email(&tx, &email.folded).await?;
    let (owner, unverified): (Vec<_>, Vec<_>) = accounts.into_iter().partition(|user| user.email_verified_at.is_some());
    for user in unverified {
        users::delete(&tx, user.id).await?;
    }
    let is_new = owner.is_empty();
    let user = owner.into_iter().next().unwrap_or_else(|| User {
        email: Some(email.address),
        folded_email: Some(email.folded),
        registered_at: Some(tx.now()),
        ..users::without_account(UserId(core.ids.v7(tx.now())), tx.now())
    });
    let user = User {
        email_verified_at: user.email_verified_at.or(Some(tx.now())),
        name: display_name.or_else(|| user.name.clone()),
        status: AccountStatus::Active.to_string(),
        role: Role::SuperAdmin.to_string(),
        deletion_at: None,
        ..user
    };
    if is_new {
        users::insert(&tx, user.clone()).await?;
        record(&mut tx, EventKind::UserRegistered, &Actor::Operator, user.id, json!({ "method": "operator" }));
    } else {
        users::update(&tx, &user).await?;
        sessions::end_all(&mut tx, user.id, None, &Actor::Operator, "made an admin").await?;
    }
    set_password(&tx, user.id, hash).await?;
    record(&mut tx, EventKind::AccessChanged, &Actor::Operator, user.id, json!({ "to": Role::SuperAdmin }));
    tx.commit().await?;
    Ok((user.id, is_new))
}
