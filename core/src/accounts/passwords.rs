//! Resetting and changing passwords.

use crate::accounts::reauthentication::reauthenticate;
use crate::accounts::sessions::{self, Principal};
use crate::accounts::verification::{email_link, mark_email_verified};
use crate::accounts::{client::ClientInfo, credentials::set_password, emails, one_time};
use crate::events::{Actor, EventData, NewEvent};
use crate::users::{self, AccountStatus, User};
use crate::{Code, Core, Result, crypto::seal::Purpose, ids::UserId, outbox::EmailTemplate, tx::Tx};

/// Sends a link that sets a new password. The result does not depend on whether the address has an account. Refused
/// with `VALIDATION_ERROR`, `RATE_LIMIT_EXCEEDED`.
pub async fn request_reset(core: &Core, client: &ClientInfo, email: &str) -> Result<()> {
    email_link(core, client, email, EmailTemplate::ResetPassword, |user| user.status != AccountStatus::Banned).await
}

/// Checks the token of a password reset link without using it. Refused with `INVALID_ONE_TIME_TOKEN`.
pub async fn check_reset_token(core: &Core, token: &str) -> Result<()> {
    one_time::find_valid(core, Purpose::ResetPassword, token).await.map(drop)
}

/// Sets a new password with the token that was sent by email, and ends every session. A second factor stays. Refused
/// with `INVALID_ONE_TIME_TOKEN`, `VALIDATION_ERROR`.
pub async fn reset_password(core: &Core, token: &str, password: &str) -> Result<()> {
    let refuse = || Code::InvalidOneTimeToken.refusal();
    let row = one_time::find_valid(core, Purpose::ResetPassword, token).await?;
    let id = row.user_id.ok_or_else(refuse)?;
    let user = users::find(core, id).await?.ok_or_else(refuse)?;
    let hash = hash_new_password(core, &user, password).await?;

    let mut tx = Tx::begin(core).await?;
    mark_email_verified(&mut tx, id).await?;
    one_time::consume(&tx, Purpose::ResetPassword, token).await?;
    one_time::end_all(&tx, Purpose::VerifyEmail, id).await?;
    replace_password(&mut tx, id, hash, None, "password reset").await?;
    tx.commit().await
}

/// Changes the password after checking the current one, and ends every other session. Refused with
/// `INVALID_CREDENTIALS`, `INVALID_SESSION`, `VALIDATION_ERROR`, `RATE_LIMIT_EXCEEDED`.
pub async fn change_password(
    core: &Core,
    client: &ClientInfo,
    principal: &Principal,
    current: &str,
    password: &str,
) -> Result<()> {
    let reauthenticated = reauthenticate(core, client, principal, Some(current)).await?;
    let hash = hash_new_password(core, &principal.user, password).await?;
    let (mut tx, user) = reauthenticated.begin().await?;
    replace_password(&mut tx, user.id, hash, Some(principal), "password change").await?;
    tx.commit().await
}

async fn hash_new_password(core: &Core, user: &User, password: &str) -> Result<String> {
    let [email, name] = [&user.folded_email, &user.name].map(|text| text.as_deref().unwrap_or_default());
    core.accounts.passwords.hash_new(password, &[email, name, &core.accounts.policy.app_name]).await
}

/// The user's row must be locked.
async fn replace_password(
    tx: &mut Tx,
    id: UserId,
    hash: String,
    except: Option<&Principal>,
    reason: &'static str,
) -> Result<()> {
    set_password(tx, id, hash).await?;
    one_time::end_all(tx, Purpose::ResetPassword, id).await?;
    sessions::end_all(tx, id, except.map(|principal| principal.session.id), &Actor::User(id), reason).await?;
    tx.record(NewEvent::account(Actor::User(id), id, EventData::PasswordChanged { by: reason }));
    emails::send(tx, EmailTemplate::PasswordChanged, id, None).await
}
