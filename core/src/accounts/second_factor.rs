//! Setting up and disabling the second factor. Sign-in with a password and with a provider both require it, and a
//! password reset does not remove it.

use sea_orm::{ColumnTrait, EntityTrait, IntoActiveModel, sea_query::OnConflict};

use crate::accounts::reauthentication::reauthenticate;
use crate::accounts::sessions::{self, Principal, SecondFactor};
use crate::accounts::totp::{self, check, consume_totp_code, find, new_secret, remove, store_recovery_codes};
use crate::accounts::{client::ClientInfo, emails, limits};
use crate::entity::second_factor::{self, Column};
use crate::events::{Actor, EventData, NewEvent};
use crate::{Code, Core, Error, Reason, Result, crypto::seal::Purpose, db, ids::UserId, outbox::EmailTemplate};
use crate::{throttles, tx::Tx};

pub use super::totp::{is_enabled, list_enabled};

/// What an authenticator app needs.
pub struct TotpSetup {
    /// The secret in base32, for manual entry.
    pub secret: String,
    /// The `otpauth://` URL, to be shown as a QR code.
    pub url: String,
    /// The recovery codes, which are valid once the second factor is enabled.
    pub recovery_codes: Vec<String>,
}

/// Creates a TOTP secret, which takes effect once [`enable`] confirms it with a code. Requires the password again.
/// Refused with `CONFLICT` if the user already has a second factor; `INVALID_CREDENTIALS`.
pub async fn set_up(
    core: &Core,
    client: &ClientInfo,
    principal: &Principal,
    password: Option<&str>,
) -> Result<TotpSetup> {
    let (tx, user) = reauthenticate(core, client, principal, password).await?.begin().await?;
    if find(&tx, user.id).await?.is_some_and(|factor| factor.confirmed_at.is_some()) {
        return Err(Reason::SecondFactorExists.refusal());
    }
    let secret = new_secret(core);
    let (user_id, created_at) = (user.id, tx.now());
    let secret_sealed = core.keys().seal(&core.ids, Purpose::TotpSeal, user_id.0, &secret);
    let row = second_factor::Model { user_id, secret_sealed, created_at, confirmed_at: None, last_step: 0 };
    let changing = [Column::SecretSealed, Column::CreatedAt, Column::LastStep];
    let update = OnConflict::column(Column::UserId).update_columns(changing).to_owned();
    second_factor::Entity::insert(row.into_active_model()).on_conflict(update).exec_without_returning(tx.db()).await?;
    tx.commit().await?;
    let url = totp::totp(core, &user, &secret)?.to_url();
    let url = url.map_err(|error| Error::Internal(error.to_string()))?;
    Ok(TotpSetup { recovery_codes: totp::recovery_codes(core, user_id, &secret, created_at), secret, url })
}

/// Enables the second factor with a code of the app and ends every other session. Returns the recovery codes, which are
/// not shown again. Refused with `INVALID_2FA_CODE`; `CONFLICT` if [`set_up`] was not called before.
pub async fn enable(core: &Core, client: &ClientInfo, principal: &Principal, code: &str) -> Result<Vec<String>> {
    let id = principal.user.id;
    throttles::acquire_now(core, &limits::code_attempts(core, client, &principal.user)).await?;
    let mut tx = Tx::begin(core).await?;
    let user = sessions::lock_user(&tx, id, principal.session.id).await?;
    let factor = find(&tx, id).await?.filter(|factor| factor.confirmed_at.is_none());
    let factor = factor.ok_or_else(|| Reason::SecondFactorNotStarted.refusal())?;
    if !consume_totp_code(&tx, &user, &factor, code).await? {
        return Err(Code::InvalidSecondFactor.refusal());
    }
    db::update([(Column::ConfirmedAt, tx.now().into())], [Column::UserId.eq(id)]).exec(tx.db()).await?;
    let secret = core.keys().unseal(Purpose::TotpSeal, id.0, &factor.secret_sealed)?;
    let codes = store_recovery_codes(&tx, id, &secret, factor.created_at).await?;
    sessions::set_second_factor_verified(&tx, principal.session.id).await?;
    sessions::end_all(&mut tx, id, Some(principal.session.id), &Actor::User(id), "second factor").await?;
    record_change(&mut tx, id, "enabled").await?;
    tx.commit().await?;
    Ok(codes)
}

/// Disables the second factor. Requires the password and a code. Refused with `INVALID_CREDENTIALS`,
/// `INVALID_2FA_CODE`, `REQUIRES_2FA`, `INVALID_SESSION`, `CONFLICT`.
pub async fn disable(
    core: &Core,
    client: &ClientInfo,
    principal: &Principal,
    password: Option<&str>,
    code: &str,
) -> Result<()> {
    let (tx, user) = reauthenticate(core, client, principal, password).await?.begin().await?;
    let (mut tx, second_factor) = check(tx, client, &user, Some(code)).await?;
    if second_factor == SecondFactor::NotEnabled {
        return Err(Reason::NoSecondFactor.refusal());
    }
    remove(&tx, user.id).await?;
    record_change(&mut tx, user.id, "disabled").await?;
    tx.commit().await
}

/// Replaces the recovery codes. Refused with `INVALID_2FA_CODE`, `REQUIRES_2FA`, `INVALID_SESSION`.
pub async fn renew_recovery_codes(
    core: &Core,
    client: &ClientInfo,
    principal: &Principal,
    code: &str,
) -> Result<Vec<String>> {
    let tx = Tx::begin(core).await?;
    let user = sessions::lock_user(&tx, principal.user.id, principal.session.id).await?;
    let (mut tx, second_factor) = check(tx, client, &user, Some(code)).await?;
    if second_factor == SecondFactor::NotEnabled {
        return Err(Reason::NoSecondFactor.refusal());
    }
    let codes = store_recovery_codes(&tx, user.id, &new_secret(core), tx.now()).await?;
    record_change(&mut tx, user.id, "new recovery codes").await?;
    tx.commit().await?;
    Ok(codes)
}

async fn record_change(tx: &mut Tx, user: UserId, how: &'static str) -> Result<()> {
    tx.record(NewEvent::account(Actor::User(user), user, EventData::SecondFactorChanged { how }));
    emails::send(tx, EmailTemplate::SecondFactorChanged, user, None).await
}
