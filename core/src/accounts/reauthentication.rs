//! Asks a signed-in user for the password again, before a sensitive operation.
//!
//! ```text
//! reauthenticate -> Reauthenticated -> begin: lock the user, check that session and password are still the same
//! ```
//! Time passes between the check of the password and the operation. If a password reset is committed meanwhile, it wins.

use chrono::TimeDelta;

use crate::accounts::client::{ClientInfo, account_of};
use crate::accounts::sessions::{self, Principal};
use crate::accounts::{credentials::password_of, limits};
use crate::events::{Actor, EventData, NewEvent};
use crate::users::User;
use crate::{Code, Core, Error, Reason, Result, crypto::password::PasswordMatch, ids::UserId, throttles, tx::Tx};

/// How long a sign-in counts as reauthentication.
const REAUTH_WINDOW: TimeDelta = TimeDelta::minutes(15);

/// A signed-in user who has just proved who they are.
#[must_use]
pub(crate) struct Reauthenticated<'a> {
    core: &'a Core,
    principal: &'a Principal,
    password_hash: Option<String>,
}

impl Reauthenticated<'_> {
    /// Begins the sensitive operation, with the user's row locked. Refused with `INVALID_SESSION` if the session has
    /// ended or the password has changed since.
    pub(crate) async fn begin(self) -> Result<(Tx, User)> {
        let tx = Tx::begin(self.core).await?;
        let user = sessions::lock_user(&tx, self.principal.user.id, self.principal.session.id).await?;
        if password_of(&tx, user.id).await? != self.password_hash {
            return Err(Code::InvalidSession.refusal());
        }
        Ok((tx, user))
    }
}

/// Requires the password again. Users without one must have signed in within [`REAUTH_WINDOW`]. Refused with
/// `INVALID_CREDENTIALS`, `RATE_LIMIT_EXCEEDED`.
pub(crate) async fn reauthenticate<'a>(
    core: &'a Core,
    client: &ClientInfo,
    principal: &'a Principal,
    password: Option<&str>,
) -> Result<Reauthenticated<'a>> {
    let password_hash = password_of(core, principal.user.id).await?;
    match &password_hash {
        Some(hash) => check_password(core, client, &principal.user, hash, password.unwrap_or_default()).await?,
        None if is_recent(core, principal) => {}
        None => return Err(Reason::SignInTooOld.refusal()),
    }
    Ok(Reauthenticated { core, principal, password_hash })
}

/// Requires the password again, or a sign-in within [`REAUTH_WINDOW`]. Refused as [`reauthenticate`].
pub(crate) async fn reauthenticate_unless_recent<'a>(
    core: &'a Core,
    client: &ClientInfo,
    principal: &'a Principal,
    password: Option<&str>,
) -> Result<Reauthenticated<'a>> {
    if password.is_some() {
        return reauthenticate(core, client, principal, password).await;
    }
    if !is_recent(core, principal) {
        return Err(Reason::SignInTooOld.refusal());
    }
    Ok(Reauthenticated { core, principal, password_hash: password_of(core, principal.user.id).await? })
}

fn is_recent(core: &Core, principal: &Principal) -> bool {
    core.clock.now() - principal.session.created_at <= REAUTH_WINDOW
}

/// Compares a password with a user's stored hash. Refused with `INVALID_CREDENTIALS`, `RATE_LIMIT_EXCEEDED`.
pub(super) async fn check_password(
    core: &Core,
    client: &ClientInfo,
    user: &User,
    stored_hash: &str,
    password: &str,
) -> Result<()> {
    let attempts = limits::password_attempts(core, client, &account_of(user));
    throttles::acquire_now(core, &attempts).await?;
    let outcome = core.accounts.passwords.compare(password, Some(stored_hash.to_owned())).await;
    if throttles::refund_on_error(core, &attempts, outcome).await? == PasswordMatch::No {
        return Err(refuse(core, client, Some(user.id)).await?);
    }
    let tx = Tx::begin(core).await?;
    throttles::refund(&tx, &attempts).await?;
    tx.commit().await
}

/// Records a wrong password; `subject` is `None` if the account is unknown.
pub(super) async fn refuse(core: &Core, client: &ClientInfo, subject: Option<UserId>) -> Result<Error> {
    let mut tx = Tx::begin(core).await?;
    tx.record(refused_sign_in(client, subject, Code::InvalidCredentials));
    tx.commit().await?;
    Ok(Code::InvalidCredentials.refusal())
}

/// The event of a refused sign-in.
pub(super) fn refused_sign_in(client: &ClientInfo, subject: Option<UserId>, why: Code) -> NewEvent {
    let data = EventData::SignInRefused { why, network: client.network.clone() };
    NewEvent::account(Actor::System, subject, data)
}
