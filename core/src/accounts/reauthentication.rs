//! Asks a signed-in user for the password, and the second factor, again.

use chrono::TimeDelta;

use crate::accounts::sessions::{Principal, SecondFactor};
use crate::accounts::{client::ClientInfo, credentials::password_of, limits, totp};
use crate::events::{Actor, EventData, NewEvent};
use crate::{Code, Core, Error, Reason, Result, crypto::password::PasswordMatch, ids::UserId, throttles, tx::Tx};

/// How long a sign-in through a provider counts as reauthentication for users without a password.
const REAUTH_WINDOW: TimeDelta = TimeDelta::minutes(15);

/// Requires the password of a signed-in user again, before a sensitive operation. Users without a password must
/// have signed in through a provider within [`REAUTH_WINDOW`].
pub(crate) async fn reauthenticate(
    core: &Core,
    client: &ClientInfo,
    principal: &Principal,
    password: Option<&str>,
) -> Result<()> {
    let Some(stored_hash) = password_of(core, principal.user.id).await? else {
        let is_fresh = core.clock.now() - principal.session.created_at <= REAUTH_WINDOW;
        return if is_fresh { Ok(()) } else { Err(Reason::SignInTooOld.refusal()) };
    };
    let account = principal.user.folded_email.clone().unwrap_or_else(|| principal.user.id.to_string());
    let attempts = limits::password_attempts(core, client, &account);
    throttles::acquire_now(core, &attempts).await?;
    let outcome = core.accounts.passwords.compare(password.unwrap_or_default(), Some(stored_hash)).await;
    if throttles::refund_on_error(core, &attempts, outcome).await? == PasswordMatch::No {
        return Err(refuse(core, client, Some(principal.user.id)).await?);
    }
    let tx = Tx::begin(core).await?;
    throttles::refund(&tx, &attempts).await?;
    tx.commit().await
}

/// Requires the password and the second factor again, before a sensitive operation.
pub(crate) async fn reauthenticate_with_second_factor(
    core: &Core,
    client: &ClientInfo,
    principal: &Principal,
    password: Option<&str>,
    code: Option<&str>,
) -> Result<SecondFactor> {
    reauthenticate(core, client, principal, password).await?;
    let (tx, second_factor) = totp::check(Tx::begin(core).await?, client, &principal.user, code).await?;
    tx.commit().await?;
    Ok(second_factor)
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
