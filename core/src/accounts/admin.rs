//! People, as those see them who look after the installation. Whoever acts must outrank whom they act on,
//! and gives no role that is not below their own; the first of all is made at the command line.

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

/// A person with the right to look after others.
#[derive(Clone, Debug)]
pub struct Admin {
    /// The person.
    pub principal: Principal,
    role: Role,
}

impl Admin {
    /// Who is at least `least`, with a second factor where the rules ask for one.
    ///
    /// # Errors
    /// `INSUFFICIENT_ROLE`, `REQUIRES_2FA`.
    pub fn at_least(core: &Core, least: Role, principal: Principal) -> Result<Self> {
        let role = principal.user.role()?;
        if role < least {
            return Err(Code::InsufficientRole.refusal());
        }
        let is_weak = principal.session.second_factor_at.is_none();
        if is_weak && role >= Role::Admin && core.rules.admins_need_second_factor {
            return Err(Code::RequiresSecondFactor.because("Set up a second factor, and sign in with it."));
        }
        Ok(Self { principal, role })
    }

    /// Locks a person this admin outranks.
    async fn lock_lesser(&self, tx: &Tx, id: UserId) -> Result<User> {
        let user = users::lock(tx, id).await?;
        let user = user.ok_or_else(|| Code::NotFound.because("No such user."))?;
        if user.role()? >= self.role {
            return Err(Code::InsufficientRole.because("You can only act on people of a lower role than yours."));
        }
        Ok(user)
    }

    fn actor(&self) -> Actor {
        Actor::User(self.principal.user.id)
    }
}

/// A page of people, newest first, and how many there are. `guild` asks for those who hold something there,
/// which also its managers may.
///
/// # Errors
/// `INSUFFICIENT_ROLE`; `NOT_FOUND` for a guild that is not there.
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
    let (mut found, total) = users::list(core, &UserFilter { guild, ..wanted }, page, size).await?;
    if is_manager {
        // Who manages a server knows its members, not their addresses.
        for user in &mut found {
            (user.email, user.deletion_at) = (None, None);
        }
    }
    Ok((found, total))
}

async fn manages(core: &Core, user: UserId, guild: Snowflake) -> Result<bool> {
    Ok(guild_manager::Entity::find_by_id((guild, user)).one(core.db.read()).await?.is_some())
}

/// One person.
///
/// # Errors
/// `NOT_FOUND`.
pub async fn get(core: &Core, id: UserId) -> Result<User> {
    users::find(core, id).await?.ok_or_else(|| Code::NotFound.because("No such user."))
}

/// Lets a person in, or keeps them out and ends their sessions.
///
/// # Errors
/// `NOT_FOUND`, `INSUFFICIENT_ROLE`, `CONFLICT`.
pub async fn set_status(
    core: &Core,
    admin: &Admin,
    id: UserId,
    status: AccountStatus,
    reason: Option<String>,
) -> Result<User> {
    let mut tx = Tx::begin(core).await?;
    let mut user = admin.lock_lesser(&tx, id).await?;
    let before = user.status()?;
    if !matches!(status, AccountStatus::Active | AccountStatus::Suspended | AccountStatus::Banned) {
        return Err(Code::invalid_field("status", "status must be ACTIVE, SUSPENDED or BANNED"));
    }
    if before == status {
        return Ok(user);
    }
    let reason = reason.map(|text| super::line("reason", &text, 300)).transpose()?;
    // Letting in somebody who never proved their address would prove it for them.
    let unproved = user.email.is_some() && user.email_verified_at.is_none();
    user.status = if status == AccountStatus::Active && unproved { AccountStatus::Pending } else { status }.to_string();
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

/// Gives a person a role.
///
/// # Errors
/// `NOT_FOUND`; `INSUFFICIENT_ROLE` for a person or a role that is not below the admin's own.
pub async fn set_role(core: &Core, admin: &Admin, id: UserId, role: Role) -> Result<User> {
    change_role(core, admin, id, None, role).await
}

async fn change_role(core: &Core, admin: &Admin, id: UserId, from: Option<Role>, role: Role) -> Result<User> {
    if role >= admin.role {
        return Err(Code::InsufficientRole.because("You can only give roles below your own."));
    }
    let mut tx = Tx::begin(core).await?;
    let mut user = admin.lock_lesser(&tx, id).await?;
    if from.is_some_and(|from| from.as_str() != user.role) {
        return Err(Code::Conflict.because(format!("That person is {}.", user.role)));
    }
    let before = std::mem::replace(&mut user.role, role.to_string());
    if before != user.role {
        users::update(&tx, &user).await?;
        record(&mut tx, EventKind::AccessChanged, &admin.actor(), id, json!({ "from": before, "to": role }));
    }
    tx.commit().await?;
    Ok(user)
}

/// Takes a role from a person who has it: they are a USER again.
///
/// # Errors
/// `NOT_FOUND`, `INSUFFICIENT_ROLE`; `CONFLICT` when they have another role.
pub async fn take_role(core: &Core, admin: &Admin, id: UserId, role: Role) -> Result<User> {
    change_role(core, admin, id, Some(role), Role::User).await
}

/// Makes a person a guild's manager, or no longer.
///
/// # Errors
/// `NOT_FOUND`.
pub async fn set_manager(core: &Core, admin: &Admin, id: UserId, guild: Snowflake, manages: bool) -> Result<()> {
    if guilds::find(core, guild).await?.is_none() {
        return Err(Code::NotFound.because("No such server."));
    }
    let mut tx = Tx::begin(core).await?;
    admin.lock_lesser(&tx, id).await?;
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

/// The guilds a person manages.
///
/// # Errors
/// When the database does not answer.
pub async fn managed_by(core: &Core, id: UserId) -> Result<Vec<Snowflake>> {
    let rows = guild_manager::Entity::find().filter(guild_manager::Column::UserId.eq(id)).all(core.db.read()).await?;
    Ok(rows.into_iter().map(|row| row.guild_id).collect())
}

/// Signs a person out everywhere whom this admin outranks. Answers how many sessions ended.
///
/// # Errors
/// `NOT_FOUND`, `INSUFFICIENT_ROLE`.
pub async fn end_sessions(core: &Core, admin: &Admin, id: UserId) -> Result<u64> {
    let mut tx = Tx::begin(core).await?;
    admin.lock_lesser(&tx, id).await?;
    let ended = sessions::end_all(&mut tx, id, None, &admin.actor(), "ended by an admin").await?;
    tx.commit().await?;
    Ok(ended)
}

/// Ends one session of a person this admin outranks.
///
/// # Errors
/// `NOT_FOUND`, `INSUFFICIENT_ROLE`.
pub async fn end_session(core: &Core, admin: &Admin, id: SessionId, reason: Option<String>) -> Result<()> {
    let why = reason.map(|text| super::line("reason", &text, 300)).transpose()?;
    let gone = || Code::NotFound.because("No such session.");
    let owner = sessions::owner(core, id).await?.ok_or_else(gone)?;
    let mut tx = Tx::begin(core).await?;
    admin.lock_lesser(&tx, owner).await?;
    let why = why.as_deref().unwrap_or("ended by an admin");
    if !sessions::end_in(&mut tx, owner, id, &admin.actor(), why).await? {
        return Err(gone());
    }
    tx.commit().await
}

/// Plans the deletion of an account this admin outranks. Answers when it will be.
///
/// # Errors
/// `NOT_FOUND`, `INSUFFICIENT_ROLE`.
pub async fn plan_deletion(core: &Core, admin: &Admin, id: UserId) -> Result<DateTime<Utc>> {
    let mut tx = Tx::begin(core).await?;
    let user = admin.lock_lesser(&tx, id).await?;
    let at = erasure::plan_in(&mut tx, user, &admin.actor()).await?;
    tx.commit().await?;
    Ok(at)
}

/// Takes a second factor away that its owner has lost, and ends their sessions; the admin has made sure who
/// asks.
///
/// # Errors
/// `NOT_FOUND`, `INSUFFICIENT_ROLE`.
pub async fn remove_second_factor(core: &Core, admin: &Admin, id: UserId) -> Result<()> {
    let mut tx = Tx::begin(core).await?;
    admin.lock_lesser(&tx, id).await?;
    second_factor::remove(&tx, id).await?;
    sessions::end_all(&mut tx, id, None, &admin.actor(), "second factor removed").await?;
    record(&mut tx, EventKind::SecondFactorChanged, &admin.actor(), id, json!({ "how": "removed by an admin" }));
    emails::send(&mut tx, EmailTemplate::SecondFactorChanged, id, None).await?;
    tx.commit().await
}

/// Makes an account with every right, or gives it to the account that has proved this address: for the
/// operator at the command line. Answers whose it is, and whether it is new.
///
/// # Errors
/// `VALIDATION_ERROR`.
pub async fn create_admin(core: &Core, email: &str, called: Option<&str>, word: &str) -> Result<(UserId, bool)> {
    let (email, called) = (Email::parse(email)?, called.map(name).transpose()?);
    let known = called.as_deref().unwrap_or_default();
    let hash = core.passwords().hash_new(word, &[&email.folded, known, &core.rules.app_name]).await?;
    let mut tx = Tx::begin(core).await?;
    let claims = users::lock_unverified_and_owner(&tx, &email.folded).await?;
    let (proved, claims): (Vec<_>, Vec<_>) = claims.into_iter().partition(|user| user.email_verified_at.is_some());
    for claim in claims {
        users::delete(&tx, claim.id).await?;
    }
    let is_new = proved.is_empty();
    let user = proved.into_iter().next().unwrap_or_else(|| User {
        email: Some(email.code),
        folded_email: Some(email.folded),
        registered_at: Some(tx.now()),
        ..users::seen(UserId(core.ids.v7(tx.now())), tx.now())
    });
    let user = User {
        email_verified_at: user.email_verified_at.or(Some(tx.now())),
        name: called.or_else(|| user.name.clone()),
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
