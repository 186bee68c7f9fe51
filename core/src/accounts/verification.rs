//! Verification of email addresses.

use crate::accounts::{client::ClientInfo, credentials::delete_password, emails, limits, one_time};
use crate::events::{Actor, EventData, NewEvent};
use crate::users::{self, AccountStatus, Email, User};
use crate::{Code, Core, Result, crypto::seal::Purpose, ids::UserId, outbox::EmailTemplate, throttles, tx::Tx};

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
    throttles::acquire_now(core, &limits::emails_from(core, client)).await?;
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
    /// Choose a password with the link just sent: several accounts had signed up with the address, so the password
    /// on this one may not be the owner's.
    NeedsPassword,
}

/// Verifies an email address with the token that was sent to it. Refused with `INVALID_ONE_TIME_TOKEN`.
pub async fn verify_email(core: &Core, token: &str) -> Result<EmailVerification> {
    let row = one_time::find_valid(core, Purpose::VerifyEmail, token).await?;
    let id = row.user_id.ok_or_else(|| Code::InvalidOneTimeToken.refusal())?;
    let mut tx = Tx::begin(core).await?;
    let deleted = mark_email_verified(&mut tx, id).await?;
    one_time::consume(&tx, Purpose::VerifyEmail, token).await?;
    one_time::end_all(&tx, Purpose::VerifyEmail, id).await?;
    let outcome = match deleted {
        // The owner may have followed the link of someone else's sign-up, so that account's password must not stay.
        Some(1..) => {
            delete_password(&tx, id).await?;
            emails::send_link(&mut tx, EmailTemplate::ResetPassword, id).await?;
            EmailVerification::NeedsPassword
        }
        Some(0) => {
            emails::send(&mut tx, EmailTemplate::WelcomeEmail, id, None).await?;
            EmailVerification::Ready
        }
        None => EmailVerification::Ready,
    };
    tx.commit().await?;
    Ok(outcome)
}

/// Marks this user's email as verified and deletes all other unverified accounts with the same address. Returns
/// how many were deleted; `None` if the email was verified already.
pub(super) async fn mark_email_verified(tx: &mut Tx, id: UserId) -> Result<Option<usize>> {
    let refuse = || Code::InvalidOneTimeToken.refusal();
    let user = users::find(tx, id).await?.ok_or_else(refuse)?;
    let folded = user.folded_email.ok_or_else(refuse)?;
    let accounts = users::lock_all_with_email(tx, &folded).await?;
    let mut user = accounts.iter().find(|account| account.id == id).cloned().ok_or_else(refuse)?;
    if user.email_verified_at.is_some() {
        return Ok(None);
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
    Ok(Some(accounts.len() - 1))
}
