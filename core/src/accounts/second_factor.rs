//! Setting up and disabling the second factor. Sign-in with a password and with a provider both require it, and a
//! password reset does not remove it.

use sea_orm::{
    ActiveValue::Set,
    ColumnTrait, EntityTrait, QueryFilter,
    sea_query::{Expr, OnConflict},
};

use crate::{
    Code, Core, Error, Reason, Result,
    accounts::{
        client::ClientInfo,
        emails, limits,
        reauthentication::{reauthenticate, reauthenticate_with_second_factor},
        sessions::{self, Principal, SecondFactor},
        totp::{self, Check, check, consume_totp_code, find, new_recovery_codes, remove},
    },
    crypto::seal::Purpose,
    entity::second_factor,
    events::{Actor, EventData, NewEvent},
    ids::UserId,
    outbox::EmailTemplate,
    throttles,
    tx::Tx,
    users,
};

/// What an authenticator app needs.
pub struct TotpSetup {
    /// The secret in base32, for manual entry.
    pub secret: String,
    /// The `otpauth://` URL, to be shown as a QR code.
    pub url: String,
}

/// Creates a TOTP secret, which takes effect once [`enable`] confirms it with a code. Requires the password again.
///
/// # Errors
/// `CONFLICT` if the user already has a second factor; `INVALID_CREDENTIALS`.
pub async fn set_up(
    core: &Core,
    client: &ClientInfo,
    principal: &Principal,
    password: Option<&str>,
) -> Result<TotpSetup> {
    reauthenticate(core, client, principal, password).await?;
    let tx = Tx::begin(core).await?;
    users::lock(&tx, principal.user.id).await?;
    if find(&tx, principal.user.id).await?.is_some_and(|factor| factor.confirmed_at.is_some()) {
        return Err(Reason::SecondFactorExists.refusal());
    }
    let secret = totp_rs::Secret::from(core.ids.bytes::<20>()).to_base32();
    let row = second_factor::ActiveModel {
        user_id: Set(principal.user.id),
        secret_sealed: Set(core.keys().seal(&core.ids, Purpose::TotpSeal, principal.user.id.0, &secret)),
        created_at: Set(tx.now()),
        confirmed_at: Set(None),
        last_step: Set(0),
    };
    let update = OnConflict::column(second_factor::Column::UserId)
        .update_columns([
            second_factor::Column::SecretSealed,
            second_factor::Column::CreatedAt,
            second_factor::Column::LastStep,
        ])
        .to_owned();
    second_factor::Entity::insert(row).on_conflict(update).exec_without_returning(tx.db()).await?;
    tx.commit().await?;
    let url =
        totp::totp(core, &principal.user, &secret)?.to_url().map_err(|error| Error::Internal(error.to_string()))?;
    Ok(TotpSetup { secret, url })
}

/// Enables the second factor with a code of the app and ends every other session. Returns the recovery codes,
/// which are not shown again.
///
/// # Errors
/// `INVALID_2FA_CODE`; `CONFLICT` if [`set_up`] was not called before.
pub async fn enable(core: &Core, client: &ClientInfo, principal: &Principal, code: &str) -> Result<Vec<String>> {
    let id = principal.user.id;
    throttles::acquire_now(core, &limits::code_attempts(core, client, id)).await?;
    let mut tx = Tx::begin(core).await?;
    users::lock(&tx, id).await?;
    let factor = find(&tx, id).await?.filter(|factor| factor.confirmed_at.is_none());
    let factor = factor.ok_or_else(|| Reason::SecondFactorNotStarted.refusal())?;
    if !consume_totp_code(&tx, &principal.user, &factor, code).await? {
        return Err(Code::InvalidSecondFactor.refusal());
    }
    second_factor::Entity::update_many()
        .col_expr(second_factor::Column::ConfirmedAt, Expr::value(tx.now()))
        .filter(second_factor::Column::UserId.eq(id))
        .exec(tx.db())
        .await?;
    let codes = new_recovery_codes(&tx, id).await?;
    sessions::set_second_factor_verified(&tx, principal.session.id).await?;
    sessions::end_all(&mut tx, id, Some(principal.session.id), &Actor::User(id), "second factor").await?;
    record_change(&mut tx, id, "enabled").await?;
    tx.commit().await?;
    Ok(codes)
}

/// Disables the second factor. Requires the password and a code.
///
/// # Errors
/// `INVALID_CREDENTIALS`, `INVALID_2FA_CODE`, `REQUIRES_2FA`, `CONFLICT`.
pub async fn disable(
    core: &Core,
    client: &ClientInfo,
    principal: &Principal,
    password: Option<&str>,
    code: &str,
) -> Result<()> {
    let checked = reauthenticate_with_second_factor(core, client, principal, password, Some(code)).await?;
    if checked == SecondFactor::NotEnabled {
        return Err(Reason::NoSecondFactor.refusal());
    }
    let mut tx = Tx::begin(core).await?;
    remove(&tx, principal.user.id).await?;
    record_change(&mut tx, principal.user.id, "disabled").await?;
    tx.commit().await
}

/// Replaces the recovery codes.
///
/// # Errors
/// `INVALID_2FA_CODE`, `REQUIRES_2FA`.
pub async fn renew_recovery_codes(
    core: &Core,
    client: &ClientInfo,
    principal: &Principal,
    code: &str,
) -> Result<Vec<String>> {
    let mut tx = Tx::begin(core).await?;
    let checked = check(&mut tx, client, &principal.user, Some(code)).await?;
    if !matches!(checked, Check::Passed(SecondFactor::Verified)) {
        tx.commit().await?;
        return Err(checked.into_result().err().unwrap_or_else(|| Reason::NoSecondFactor.refusal()));
    }
    let codes = new_recovery_codes(&tx, principal.user.id).await?;
    record_change(&mut tx, principal.user.id, "new recovery codes").await?;
    tx.commit().await?;
    Ok(codes)
}

async fn record_change(tx: &mut Tx, user: UserId, how: &'static str) -> Result<()> {
    tx.record(NewEvent::account(Actor::User(user), user, EventData::SecondFactorChanged { how }));
    emails::send(tx, EmailTemplate::SecondFactorChanged, user, None).await
}

/// Whether a user has enabled a second factor.
pub async fn is_enabled(core: &Core, user: UserId) -> Result<bool> {
    totp::is_enabled(core, user).await
}

/// Those of these users who have enabled a second factor.
pub async fn list_enabled(core: &Core, users: &[UserId]) -> Result<Vec<UserId>> {
    totp::list_enabled(core, users).await
}
