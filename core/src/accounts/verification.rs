//! Verification of email addresses: those of sign-ups, and those that users change theirs to.

use chrono::Duration;
use serde_json::json;

use crate::accounts::client::{ClientInfo, account_of, sign_up_proof};
use crate::accounts::credentials::{delete_password, password_of};
use crate::accounts::reauthentication::{check_password, reauthenticate_unless_recent};
use crate::accounts::{emails, limits, one_time, sessions::Principal};
use crate::crypto::one_time::{decode, is_equal};
use crate::crypto::seal::Purpose;
use crate::events::{Actor, EventData, NewEvent};
use crate::users::{self, AccountStatus, Email, User};
use crate::{Code, Core, Result, ids::UserId, outbox::EmailTemplate, throttles, tx::Tx};

/// Sends the verification link again; earlier links stay valid. The result does not depend on whether the address has
/// an account. Refused with `VALIDATION_ERROR`, `RATE_LIMIT_EXCEEDED`.
pub async fn resend_verification(core: &Core, client: &ClientInfo, email: &str) -> Result<()> {
    email_link(core, client, email, EmailTemplate::VerifyEmail, |user| user.status == AccountStatus::Pending).await
}

/// Emails a link to the owner of an address, or else to the newest user who has not verified it, if eligible.
pub(super) async fn email_link(
    core: &Core,
    client: &ClientInfo,
    email: &str,
    template: EmailTemplate,
    is_eligible: impl Fn(&User) -> bool,
) -> Result<()> {
    let email = Email::parse(email)?;
    throttles::acquire_now(core, &limits::emails_from(core, client, &email.folded)).await?;
    let [owner, unverified] = users::find_by_email(core, &email).await?;
    let user = owner.or(unverified).filter(is_eligible);
    let mut tx = Tx::begin(core).await?;
    if throttles::try_acquire(&tx, &limits::emails_to(core, template, &email)).await?
        && let Some(user) = user
    {
        emails::send_link(&mut tx, template, user.id).await?;
    }
    tx.commit().await
}

/// What the user has to do after verifying an email address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmailVerification {
    /// Nothing; they can sign in.
    Ready,
    /// Choose a password with the link just sent: someone else may have chosen the one of the sign-up.
    NeedsPassword,
}

/// Whether the token of a verification link is best used with the password: the browser is not the one that signed up.
/// Refused with `INVALID_ONE_TIME_TOKEN`.
pub async fn asks_for_password(core: &Core, client: &ClientInfo, token: &str) -> Result<bool> {
    if is_change(core, token) {
        return one_time::find_valid(core, Purpose::ChangeEmail, token).await.map(|_| false);
    }
    let id = user_of(core, token).await?;
    Ok(!is_browser_of(core, client, id))
}

/// Verifies an email address with the token that was sent to it. The password of the sign-up stays only if the client
/// has signed up itself or knows it: whoever signed up could otherwise sign in to the account of the email's owner. A
/// token of `request_email_change` changes the address. Refused with `INVALID_ONE_TIME_TOKEN`, `INVALID_CREDENTIALS`,
/// `RATE_LIMIT_EXCEEDED`.
pub async fn verify_email(
    core: &Core,
    client: &ClientInfo,
    token: &str,
    password: Option<&str>,
) -> Result<EmailVerification> {
    if is_change(core, token) {
        return change_email(core, token).await.map(|()| EmailVerification::Ready);
    }
    let id = user_of(core, token).await?;
    let keeps_password = is_browser_of(core, client, id) || knows_password(core, client, id, password).await?;
    let mut tx = Tx::begin(core).await?;
    let is_new = mark_email_verified(&mut tx, id).await?;
    one_time::consume(&tx, Purpose::VerifyEmail, token).await?;
    one_time::end_all(&tx, Purpose::VerifyEmail, id).await?;
    let outcome = if is_new && !keeps_password {
        delete_password(&tx, id).await?;
        emails::send_link(&mut tx, EmailTemplate::ResetPassword, id).await?;
        EmailVerification::NeedsPassword
    } else {
        if is_new {
            emails::send(&mut tx, EmailTemplate::WelcomeEmail, id, None).await?;
        }
        EmailVerification::Ready
    };
    tx.commit().await?;
    Ok(outcome)
}

async fn user_of(core: &Core, token: &str) -> Result<UserId> {
    let row = one_time::find_valid(core, Purpose::VerifyEmail, token).await?;
    row.user_id.ok_or_else(|| Code::InvalidOneTimeToken.refusal())
}

/// Whether this browser signed up as the user.
fn is_browser_of(core: &Core, client: &ClientInfo, user: UserId) -> bool {
    client.sign_up.as_deref().is_some_and(|proof| is_equal(proof, &sign_up_proof(core, user)))
}

/// Whether the password is that of the user. `false` without one; a wrong one is refused.
async fn knows_password(core: &Core, client: &ClientInfo, id: UserId, password: Option<&str>) -> Result<bool> {
    let Some(password) = password.filter(|password| !password.is_empty()) else { return Ok(false) };
    let user = users::find(core, id).await?.ok_or_else(|| Code::InvalidOneTimeToken.refusal())?;
    let stored_hash = password_of(core, id).await?.unwrap_or_default();
    check_password(core, client, &user, &stored_hash, password).await?;
    Ok(true)
}

/// Marks this user's email as verified and deletes all other unverified accounts with the same address. Returns
/// `false` if the email was verified already.
pub(super) async fn mark_email_verified(tx: &mut Tx, id: UserId) -> Result<bool> {
    let refuse = || Code::InvalidOneTimeToken.refusal();
    let user = users::find(tx, id).await?.ok_or_else(refuse)?;
    let folded = user.folded_email.ok_or_else(refuse)?;
    let (mut user, others) = lock_with_others(tx, id, &folded).await?;
    if user.email_verified_at.is_some() {
        return Ok(false);
    }
    delete_unverified(tx, others).await?;
    user.email_verified_at = Some(tx.now());
    if user.status == AccountStatus::Pending {
        user.status = AccountStatus::Active;
    }
    users::update(tx, &user).await?;
    tx.record(NewEvent::account(Actor::User(id), id, EventData::EmailVerified {}));
    Ok(true)
}

/// Locks a user, and all other accounts with an address that the user claims.
async fn lock_with_others(tx: &Tx, id: UserId, folded_email: &str) -> Result<(User, Vec<User>)> {
    let accounts = users::lock_all_with_email(tx, folded_email, Some(id)).await?;
    let (user, others): (Vec<_>, Vec<_>) = accounts.into_iter().partition(|account| account.id == id);
    let user = user.into_iter().next().ok_or_else(|| Code::InvalidOneTimeToken.refusal())?;
    Ok((user, others))
}

/// Deletes the other accounts with an address. Refused with `INVALID_ONE_TIME_TOKEN` if one of them has verified it.
async fn delete_unverified(tx: &Tx, accounts: Vec<User>) -> Result<()> {
    for account in accounts {
        if account.email_verified_at.is_some() {
            return Err(Code::InvalidOneTimeToken.refusal());
        }
        users::delete(tx, account.id).await?;
    }
    Ok(())
}

/// How long the link to a new address is valid.
const CHANGE_LIFETIME: Duration = Duration::hours(1);

fn is_change(core: &Core, token: &str) -> bool {
    decode(core, Purpose::ChangeEmail, token).is_some()
}

/// Begins a unit of work that sends a link to the new address of a user, locked; earlier such links end. If the address
/// has an owner, they are notified instead. Refused as [`reauthenticate_unless_recent`].
pub(super) async fn request_email_change(
    core: &Core,
    client: &ClientInfo,
    principal: &Principal,
    password: Option<&str>,
    email: Email,
) -> Result<(Tx, User)> {
    let reauthenticated = reauthenticate_unless_recent(core, client, principal, password).await?;
    let account = account_of(&principal.user);
    throttles::acquire_now(core, &limits::emails_from(core, client, &account)).await?;
    let [owner, _] = users::find_by_email(core, &email).await?;
    let (mut tx, user) = reauthenticated.begin().await?;
    one_time::end_all(&tx, Purpose::ChangeEmail, user.id).await?;
    let data = Some(json!({ "from": user.email, "to": email.address }));
    let token = one_time::create(&tx, Purpose::ChangeEmail, Some(user.id), CHANGE_LIFETIME, data).await?;
    // Over the limit, only the email is skipped.
    if throttles::try_acquire(&tx, &limits::emails_to(core, EmailTemplate::ChangeEmail, &email)).await? {
        match owner {
            Some(owner) => emails::send(&mut tx, EmailTemplate::AlreadyRegistered, owner.id, None).await?,
            None => emails::send(&mut tx, EmailTemplate::ChangeEmail, user.id, Some(&token)).await?,
        }
    }
    Ok((tx, user))
}

/// Changes a user's address to the one that the token was sent to, and notifies the former one.
async fn change_email(core: &Core, token: &str) -> Result<()> {
    let refuse = || Code::InvalidOneTimeToken.refusal();
    let row = one_time::find_valid(core, Purpose::ChangeEmail, token).await?;
    let (id, data) = (row.user_id.ok_or_else(refuse)?, row.data.ok_or_else(refuse)?);
    let email = Email::parse(data["to"].as_str().ok_or_else(refuse)?)?;
    let mut tx = Tx::begin(core).await?;
    let (user, others) = lock_with_others(&tx, id, &email.folded).await?;
    one_time::consume(&tx, Purpose::ChangeEmail, token).await?;
    for purpose in [Purpose::VerifyEmail, Purpose::ResetPassword] {
        one_time::end_all(&tx, purpose, id).await?;
    }
    delete_unverified(&tx, others).await?;
    let (address, folded_email, email_verified_at) = (Some(email.address), Some(email.folded), Some(tx.now()));
    users::update(&tx, &User { email: address, folded_email, email_verified_at, ..user }).await?;
    tx.record(NewEvent::account(Actor::User(id), id, EventData::EmailChanged {}));
    let token = one_time::Token { id: row.id, created_at: row.created_at, expires_at: row.expires_at };
    emails::send(&mut tx, EmailTemplate::EmailChanged, id, Some(&token)).await?;
    tx.commit().await
}
