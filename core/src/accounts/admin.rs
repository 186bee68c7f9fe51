//! User administration. An admin can act only on users of a lower role and can assign only roles below
//! their own. The first admin is created at the command line ([`create_admin`]).

use chrono::{DateTime, Utc};

use crate::accounts::profile::name;
use crate::accounts::sessions::{self, Principal};
use crate::accounts::{Accounts, credentials::set_password, emails, erasure, totp};
use crate::caller::{Caller, UserCaller};
use crate::events::{Actor, EventData, NewEvent, SignUpData};
use crate::ids::{SessionId, UserId};
use crate::users::{self, AccountStatus, Email, Role, User, UserFilter, UserPage};
use crate::{Code, Core, Reason, Result, outbox::EmailTemplate, plain_text, tx::Tx};

/// A signed-in user whose role allows them to manage other users.
#[derive(Clone, Debug)]
pub struct Admin {
    /// The signed-in user and their session.
    pub principal: Principal,
    role: Role,
}

impl Admin {
    /// Requires at least the role `least`, and a second factor if the policy demands one. Refused with
    /// `INSUFFICIENT_ROLE`, `REQUIRES_2FA`.
    pub fn at_least(core: &Core, least: Role, principal: Principal) -> Result<Self> {
        let role = principal.user.role;
        if role < least {
            return Err(Code::InsufficientRole.refusal());
        }
        if principal.lacks_second_factor(core) {
            return Err(Reason::AdminsNeedSecondFactor.refusal());
        }
        Ok(Self { principal, role })
    }

    /// Locks a user whose role is lower than this admin's.
    pub(super) async fn lock_lower_ranked(&self, tx: &Tx, id: UserId) -> Result<User> {
        let user = users::lock(tx, id).await?.ok_or_else(|| Reason::NoUser.refusal())?;
        if user.role >= self.role {
            return Err(Reason::UserNotBelow.refusal());
        }
        Ok(user)
    }

    /// The admin as the caller of other domains.
    pub fn caller(&self) -> Caller {
        let Principal { user, session } = &self.principal;
        Caller::User(UserCaller::new(user.id, session.id, self.role))
    }

    pub(super) fn actor(&self) -> Actor {
        Actor::User(self.principal.user.id)
    }
}

/// A page of users, newest first. Refused with `INSUFFICIENT_ROLE`.
pub async fn list(core: &Core, principal: Principal, filter: &UserFilter, page: u64, size: u64) -> Result<UserPage> {
    Admin::at_least(core, Role::Moderator, principal)?;
    users::list(core, filter, page, size).await
}

/// The active users with the role `MODERATOR` or above who have no second factor, for the operator.
pub async fn list_without_second_factor(core: &Core) -> Result<Vec<User>> {
    let users = users::list_with_role(core, Role::Moderator).await?;
    let ids: Vec<UserId> = users.iter().map(|user| user.id).collect();
    let protected = totp::list_enabled(core, &ids).await?;
    Ok(users.into_iter().filter(|user| !protected.contains(&user.id)).collect())
}

/// Finds a user. Refused with `NOT_FOUND` if there is no such user.
pub async fn get(core: &Core, id: UserId) -> Result<User> {
    users::find(core, id).await?.ok_or_else(|| Reason::NoUser.refusal())
}

/// Activates, suspends or bans a user. Suspending and banning end all of the user's sessions; activating also cancels a
/// scheduled deletion. Refused with `NOT_FOUND`,
/// `INSUFFICIENT_ROLE`, `VALIDATION_ERROR`.
pub async fn set_status(
    core: &Core,
    admin: &Admin,
    id: UserId,
    status: AccountStatus,
    reason: Option<String>,
) -> Result<User> {
    let mut tx = Tx::begin(core).await?;
    let mut user = admin.lock_lower_ranked(&tx, id).await?;
    let before = user.status;
    if !matches!(status, AccountStatus::Active | AccountStatus::Suspended | AccountStatus::Banned) {
        return Err(Reason::InvalidStatus.refusal());
    }
    let keeps_account = status == AccountStatus::Active && user.deletion_at.is_some();
    if before == status && !keeps_account {
        return Ok(user);
    }
    if keeps_account {
        (user.deletion_at, user.deletion_by_admin) = (None, false);
        tx.record(NewEvent::account(admin.actor(), id, EventData::DeletionUndone {}));
    }
    let reason = reason.map(|text| plain_text::line("reason", &text, 300)).transpose()?;
    // Activation must not stand in for email verification.
    let is_unverified = user.email.is_some() && user.email_verified_at.is_none();
    user.status = if status == AccountStatus::Active && is_unverified { AccountStatus::Pending } else { status };
    user.status_reason = reason;
    users::update(&tx, &user).await?;
    if status != AccountStatus::Active {
        sessions::end_all(&mut tx, id, None, &admin.actor(), status.as_str()).await?;
    }
    let (to, reason) = (user.status, user.status_reason.clone());
    if before != to {
        tx.record(NewEvent::account(admin.actor(), id, EventData::UserStatusChanged { from: before, to, reason }));
    }
    tx.commit().await?;
    Ok(user)
}

/// Assigns a role to a user. Refused with `NOT_FOUND`; `INSUFFICIENT_ROLE` if the user's role or the new role is not
/// below the admin's own.
pub async fn set_role(core: &Core, admin: &Admin, id: UserId, role: Role) -> Result<User> {
    change_role(core, admin, id, None, role).await
}

async fn change_role(core: &Core, admin: &Admin, id: UserId, from: Option<Role>, role: Role) -> Result<User> {
    if role >= admin.role {
        return Err(Reason::RoleNotBelow.refusal());
    }
    let mut tx = Tx::begin(core).await?;
    let mut user = admin.lock_lower_ranked(&tx, id).await?;
    if from.is_some_and(|from| from != user.role) {
        return Err(Reason::HasOtherRole { role: user.role }.refusal());
    }
    let before = std::mem::replace(&mut user.role, role);
    if before != user.role {
        users::update(&tx, &user).await?;
        tx.record(NewEvent::account(admin.actor(), id, EventData::RoleAssigned { from: Some(before), to: role }));
    }
    tx.commit().await?;
    Ok(user)
}

/// Removes a role from a user, who becomes a `USER` again. Refused with `NOT_FOUND`, `INSUFFICIENT_ROLE`; `CONFLICT` if
/// the user has another role.
pub async fn remove_role(core: &Core, admin: &Admin, id: UserId, role: Role) -> Result<User> {
    change_role(core, admin, id, Some(role), Role::User).await
}

/// Ends all sessions of a user and returns how many there were. Refused with `NOT_FOUND`, `INSUFFICIENT_ROLE`.
pub async fn end_sessions(core: &Core, admin: &Admin, id: UserId) -> Result<u64> {
    let mut tx = Tx::begin(core).await?;
    admin.lock_lower_ranked(&tx, id).await?;
    let ended = sessions::end_all(&mut tx, id, None, &admin.actor(), "ended by an admin").await?;
    tx.commit().await?;
    Ok(ended)
}

/// Ends one session of a user. Refused with `NOT_FOUND`, `INSUFFICIENT_ROLE`.
pub async fn end_session(core: &Core, admin: &Admin, id: SessionId, reason: Option<String>) -> Result<()> {
    let reason = reason.map(|text| plain_text::line("reason", &text, 300)).transpose()?;
    let not_found = || Reason::NoSession.refusal();
    let owner = sessions::owner(core, id).await?.ok_or_else(not_found)?;
    let mut tx = Tx::begin(core).await?;
    admin.lock_lower_ranked(&tx, owner).await?;
    let reason = reason.as_deref().unwrap_or("ended by an admin");
    if !sessions::end_in(&mut tx, owner, id, &admin.actor(), reason).await? {
        return Err(not_found());
    }
    tx.commit().await
}

/// Schedules the deletion of a user's account and returns its date. Refused with `NOT_FOUND`, `INSUFFICIENT_ROLE`.
pub async fn schedule_deletion(core: &Core, admin: &Admin, id: UserId) -> Result<DateTime<Utc>> {
    let mut tx = Tx::begin(core).await?;
    let user = admin.lock_lower_ranked(&tx, id).await?;
    let deletion_at = erasure::schedule_deletion(&mut tx, user, &admin.actor()).await?;
    tx.commit().await?;
    Ok(deletion_at)
}

/// Removes the second factor of a user who lost it, and ends all of their sessions. The admin must have checked the
/// user's identity. Refused with `NOT_FOUND`, `INSUFFICIENT_ROLE`.
pub async fn remove_second_factor(core: &Core, admin: &Admin, id: UserId) -> Result<()> {
    let mut tx = Tx::begin(core).await?;
    admin.lock_lower_ranked(&tx, id).await?;
    totp::remove(&tx, id).await?;
    sessions::end_all(&mut tx, id, None, &admin.actor(), "second factor removed").await?;
    let data = EventData::SecondFactorChanged { how: "removed by an admin" };
    tx.record(NewEvent::account(admin.actor(), id, data));
    emails::send(&mut tx, EmailTemplate::SecondFactorChanged, id, None).await?;
    tx.commit().await
}

/// Makes the account with this verified email an active `SUPER_ADMIN`; its password and its sessions stay. Returns
/// `None` if there is no such account. For the operator at the command line.
pub async fn promote(core: &Core, email: &str, display_name: Option<&str>) -> Result<Option<UserId>> {
    let (email, display_name) = (Email::parse(email)?, display_name.map(name).transpose()?);
    let mut tx = Tx::begin(core).await?;
    let accounts = users::lock_all_with_email(&tx, &email.folded, None).await?;
    let Some(user) = accounts.into_iter().find(|user| user.email_verified_at.is_some()) else { return Ok(None) };
    let (id, from) = (user.id, user.role);
    if user.status != AccountStatus::Active {
        let data = EventData::UserStatusChanged { from: user.status, to: AccountStatus::Active, reason: None };
        tx.record(NewEvent::account(Actor::Operator, id, data));
    }
    if user.deletion_at.is_some() {
        tx.record(NewEvent::account(Actor::Operator, id, EventData::DeletionUndone {}));
    }
    users::update(&tx, &as_admin(user, display_name)).await?;
    if from != Role::SuperAdmin {
        let data = EventData::RoleAssigned { from: Some(from), to: Role::SuperAdmin };
        tx.record(NewEvent::account(Actor::Operator, id, data));
    }
    tx.commit().await?;
    Ok(Some(id))
}

/// The user as an active `SUPER_ADMIN`, whose account is not to be deleted.
fn as_admin(user: User, display_name: Option<String>) -> User {
    User {
        name: display_name.or_else(|| user.name.clone()),
        status: AccountStatus::Active,
        status_reason: None,
        role: Role::SuperAdmin,
        deletion_at: None,
        deletion_by_admin: false,
        ..user
    }
}

/// Makes the account with this verified email a `SUPER_ADMIN` and sets its password, or creates it. For the operator at
/// the command line. Returns the user and whether the account is new. Refused with `VALIDATION_ERROR`.
pub async fn create_admin(
    core: &Core,
    email: &str,
    display_name: Option<&str>,
    password: &str,
) -> Result<(UserId, bool)> {
    let (email, display_name) = (Email::parse(email)?, display_name.map(name).transpose()?);
    let known_name = display_name.as_deref().unwrap_or_default();
    let Accounts { passwords, policy } = &core.accounts;
    let hash = passwords.hash_new(password, &[&email.folded, known_name, &policy.app_name]).await?;
    let mut tx = Tx::begin(core).await?;
    let accounts = users::lock_all_with_email(&tx, &email.folded, None).await?;
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
    let email_verified_at = user.email_verified_at.or(Some(tx.now()));
    let user = User { email_verified_at, ..as_admin(user, display_name) };
    if is_new {
        users::insert(&tx, user.clone()).await?;
        let data = EventData::UserRegistered { sign_up: SignUpData { method: "operator", network: None } };
        tx.record(NewEvent::account(Actor::Operator, user.id, data));
    } else {
        users::update(&tx, &user).await?;
        sessions::end_all(&mut tx, user.id, None, &Actor::Operator, "made an admin").await?;
    }
    set_password(&tx, user.id, hash).await?;
    let data = EventData::RoleAssigned { from: None, to: Role::SuperAdmin };
    tx.record(NewEvent::account(Actor::Operator, user.id, data));
    tx.commit().await?;
    Ok((user.id, is_new))
}
