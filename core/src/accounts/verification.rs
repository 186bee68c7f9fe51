//! Verification of email addresses.

use crate::accounts::client::{ClientInfo, sign_up_proof};
use crate::accounts::credentials::{delete_password, password_of};
use crate::accounts::{emails, limits, one_time, reauthentication::check_password};
use crate::crypto::{one_time::is_equal, seal::Purpose};
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
    let id = user_of(core, token).await?;
    Ok(!is_browser_of(core, client, id))
}

/// Verifies an email address with the token that was sent to it. The password of the sign-up stays only if the client
/// has signed up itself or knows it: whoever signed up could otherwise sign in to the account of the email's owner.
/// Refused with `INVALID_ONE_TIME_TOKEN`, `INVALID_CREDENTIALS`, `RATE_LIMIT_EXCEEDED`.
pub async fn verify_email(
    core: &Core,
    client: &ClientInfo,
    token: &str,
    password: Option<&str>,
) -> Result<EmailVerification> {
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
    let accounts = users::lock_all_with_email(tx, &folded).await?;
    let mut user = accounts.iter().find(|account| account.id == id).cloned().ok_or_else(refuse)?;
    if user.email_verified_at.is_some() {
        return Ok(false);
    }
    for other in accounts.iter().filter(|account| account.id != id) {
        if other.email_verified_at.is_some() {
            return Err(refuse());
        }
        users::delete(tx, other.id).await?;
    }
    user.email_verified_at = Some(tx.now());
    if user.status == AccountStatus::Pending {
        user.status = AccountStatus::Active;
    }
    users::update(tx, &user).await?;
    tx.record(NewEvent::account(Actor::User(id), id, EventData::EmailVerified {}));
    Ok(true)
}
