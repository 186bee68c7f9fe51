//! The second factor: codes of an authenticator app (TOTP, RFC 6238) and recovery codes. Each code works once:
//! the last accepted time step is stored. Sign-in with a password and with a provider both require it, and a
//! password reset does not remove it.

use std::collections::HashSet;

use chrono::DateTime;
use sea_orm::{
    ActiveValue::Set,
    ColumnTrait, EntityTrait, PaginatorTrait, QueryFilter,
    sea_query::{Expr, OnConflict},
};
use serde_json::json;
use totp_rs::{Algorithm, Builder, Totp};

use crate::{
    Code, Core, Error, Result,
    accounts::{
        ClientInfo, FAILURE_WINDOW, Principal, acquire,
        emails::{self, EmailTemplate},
        reauthenticate, record, sessions,
    },
    crypto::{base32, seal::Purpose},
    entity::{recovery_code, second_factor},
    events::{Actor, EventKind},
    ids::UserId,
    throttles::Limit,
    tx::Tx,
    users::{self, User},
};

/// Number of recovery codes per user.
const RECOVERY_CODES: usize = 10;
/// Symbols of a recovery code, 5 bits each: above the 112 bits that ASVS 6.5.2 requires of secrets that are not
/// hashed like passwords.
const RECOVERY_SYMBOLS: usize = 24;

/// What an authenticator app needs.
pub struct TotpSetup {
    /// The secret in base32, for manual entry.
    pub secret: String,
    /// The `otpauth://` URL, to be shown as a QR code.
    pub url: String,
}

fn totp(core: &Core, user: &User, secret: &str) -> Result<Totp> {
    let broken = |error: String| Error::Internal(format!("totp: {error}"));
    let secret = totp_rs::Secret::try_from_base32(secret).map_err(|error| broken(error.to_string()))?;
    let account = user.email.clone().or(user.name.clone()).unwrap_or_else(|| user.id.to_string());
    Builder::new()
        .with_algorithm(Algorithm::SHA1)
        .with_digits(6)
        .with_skew(1)
        .with_step_duration(30)
        .with_secret(secret)
        .with_account_name(account.replace(':', " "))
        .with_issuer(Some(core.rules.app_name.replace(':', " ")))
        .build()
        .map_err(|error| broken(error.to_string()))
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
        return Err(Code::Conflict.because("You already have a second factor. Disable it first."));
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
    let url = totp(core, &principal.user, &secret)?.to_url().map_err(|error| Error::Internal(error.to_string()))?;
    Ok(TotpSetup { secret, url })
}

/// Enables the second factor with a code of the app and ends every other session. Returns the recovery codes,
/// which are not shown again.
///
/// # Errors
/// `INVALID_2FA_CODE`; `CONFLICT` if [`set_up`] was not called before.
pub async fn enable(core: &Core, client: &ClientInfo, principal: &Principal, code: &str) -> Result<Vec<String>> {
    let id = principal.user.id;
    acquire(core, &attempt_limits(core, client, id)).await?;
    let mut tx = Tx::begin(core).await?;
    users::lock(&tx, id).await?;
    let factor = find(&tx, id).await?.filter(|factor| factor.confirmed_at.is_none());
    let factor = factor.ok_or_else(|| Code::Conflict.because("Start the setup of your second factor first."))?;
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
    if !reauthenticate_with_second_factor(core, client, principal, password, Some(code)).await? {
        return Err(not_enabled());
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
    let verified = check(&mut tx, client, &principal.user, Some(code)).await?;
    if !matches!(verified, Ok(true)) {
        tx.commit().await?;
        return Err(verified.err().unwrap_or_else(not_enabled));
    }
    let codes = new_recovery_codes(&tx, principal.user.id).await?;
    record_change(&mut tx, principal.user.id, "new recovery codes").await?;
    tx.commit().await?;
    Ok(codes)
}

fn not_enabled() -> Error {
    Code::Conflict.because("You have no second factor.")
}

/// Requires the password and the second factor again, before a sensitive operation. Returns whether the user has a
/// second factor.
pub(crate) async fn reauthenticate_with_second_factor(
    core: &Core,
    client: &ClientInfo,
    principal: &Principal,
    password: Option<&str>,
    code: Option<&str>,
) -> Result<bool> {
    reauthenticate(core, client, principal, password).await?;
    let mut tx = Tx::begin(core).await?;
    let verified = check(&mut tx, client, &principal.user, code).await?;
    tx.commit().await?;
    verified
}

/// Checks a code if the user has a second factor: `Ok(true)` if it is valid, `Ok(false)` if there is no second
/// factor. The caller must commit also after a refusal, which counts the attempt.
pub(crate) async fn check(tx: &mut Tx, client: &ClientInfo, user: &User, code: Option<&str>) -> Result<Result<bool>> {
    let factor = find(tx, user.id).await?.filter(|factor| factor.confirmed_at.is_some());
    let Some(factor) = factor else { return Ok(Ok(false)) };
    let Some(code) = code.map(str::trim).filter(|code| !code.is_empty()) else {
        return Ok(Err(Code::RequiresSecondFactor.refusal()));
    };
    let attempts = attempt_limits(tx.core(), client, user.id);
    match crate::throttles::acquire(tx, &attempts).await {
        Err(refused @ Error::Refused(_)) => return Ok(Err(refused)),
        other => other?,
    }
    let is_valid =
        consume_totp_code(tx, user, &factor, code).await? || consume_recovery_code(tx, user.id, code).await?;
    if is_valid {
        crate::throttles::refund(tx, &attempts).await?;
        return Ok(Ok(true));
    }
    let after = json!({ "why": Code::InvalidSecondFactor, "network": client.network });
    record(tx, EventKind::SignInRefused, &Actor::System, user.id, after);
    Ok(Err(Code::InvalidSecondFactor.refusal()))
}

/// Whether a user has enabled a second factor.
pub async fn is_enabled(core: &Core, user: UserId) -> Result<bool> {
    let row = second_factor::Entity::find_by_id(user).one(core.db.read()).await?;
    Ok(row.is_some_and(|factor| factor.confirmed_at.is_some()))
}

/// Those of `users` who have enabled a second factor.
pub async fn enabled_among(core: &Core, users: &[UserId]) -> Result<HashSet<UserId>> {
    let found = second_factor::Entity::find()
        .filter(second_factor::Column::UserId.is_in(users.iter().copied()))
        .filter(second_factor::Column::ConfirmedAt.is_not_null());
    Ok(found.all(core.db.read()).await?.into_iter().map(|factor| factor.user_id).collect())
}

/// Like [`is_enabled`], within the transaction.
pub(crate) async fn is_enabled_in(tx: &Tx, user: UserId) -> Result<bool> {
    Ok(find(tx, user).await?.is_some_and(|factor| factor.confirmed_at.is_some()))
}

/// Whether this TOTP code is valid and was not used before; marks it as used.
async fn consume_totp_code(tx: &Tx, user: &User, factor: &second_factor::Model, code: &str) -> Result<bool> {
    let secret = tx.core().keys().unseal(Purpose::TotpSeal, user.id.0, &factor.secret_sealed)?;
    let now = (tx.now() - DateTime::UNIX_EPOCH).num_seconds().unsigned_abs();
    let Some(step) = totp(tx.core(), user, &secret)?.check(code, now) else { return Ok(false) };
    let step = i64::try_from(step).unwrap_or(i64::MAX);
    let updated = second_factor::Entity::update_many()
        .col_expr(second_factor::Column::LastStep, Expr::value(step))
        .filter(second_factor::Column::UserId.eq(user.id))
        .filter(second_factor::Column::LastStep.lt(step))
        .exec(tx.db())
        .await?;
    Ok(updated.rows_affected == 1)
}

async fn consume_recovery_code(tx: &Tx, user: UserId, code: &str) -> Result<bool> {
    let consumed = recovery_code::Entity::update_many()
        .col_expr(recovery_code::Column::UsedAt, Expr::value(tx.now()))
        .filter(recovery_code::Column::Lookup.eq(lookup(tx.core(), user, code)))
        .filter(recovery_code::Column::UserId.eq(user))
        .filter(recovery_code::Column::UsedAt.is_null())
        .exec(tx.db())
        .await?;
    if consumed.rows_affected == 0 {
        return Ok(false);
    }
    let remaining = recovery_code::Entity::find()
        .filter(recovery_code::Column::UserId.eq(user))
        .filter(recovery_code::Column::UsedAt.is_null());
    let remaining = remaining.count(tx.db()).await?;
    tracing::info!(%user, remaining, "recovery code used");
    Ok(true)
}

fn lookup(core: &Core, user: UserId, code: &str) -> Vec<u8> {
    let folded: String = code.chars().filter(char::is_ascii_alphanumeric).map(base32::fold).collect();
    core.keys().mac(Purpose::RecoveryCode, &format!("{user}:{folded}"))
}

async fn new_recovery_codes(tx: &Tx, user: UserId) -> Result<Vec<String>> {
    recovery_code::Entity::delete_many().filter(recovery_code::Column::UserId.eq(user)).exec(tx.db()).await?;
    let codes: Vec<String> = (0..RECOVERY_CODES)
        .map(|_| {
            let symbols = base32::text(&tx.core().ids.bytes::<RECOVERY_SYMBOLS>());
            [&symbols[..6], &symbols[6..12], &symbols[12..18], &symbols[18..]].join("-")
        })
        .collect();
    let rows = codes.iter().map(|code| recovery_code::ActiveModel {
        lookup: Set(lookup(tx.core(), user, code)),
        user_id: Set(user),
        used_at: Set(None),
    });
    recovery_code::Entity::insert_many(rows).exec_without_returning(tx.db()).await?;
    Ok(codes)
}

/// Removes a user's second factor and recovery codes, and clears it from all sessions.
pub(crate) async fn remove(tx: &Tx, user: UserId) -> Result<()> {
    second_factor::Entity::delete_by_id(user).exec(tx.db()).await?;
    sessions::clear_second_factor(tx, user).await?;
    recovery_code::Entity::delete_many().filter(recovery_code::Column::UserId.eq(user)).exec(tx.db()).await?;
    Ok(())
}

async fn find(tx: &Tx, user: UserId) -> Result<Option<second_factor::Model>> {
    Ok(second_factor::Entity::find_by_id(user).one(tx.db()).await?)
}

async fn record_change(tx: &mut Tx, user: UserId, how: &str) -> Result<()> {
    record(tx, EventKind::SecondFactorChanged, &Actor::User(user), user, json!({ "how": how }));
    emails::send(tx, EmailTemplate::SecondFactorChanged, user, None).await
}

fn attempt_limits(core: &Core, client: &ClientInfo, user: UserId) -> [Limit; 2] {
    [
        Limit::new(core, "code", &user.to_string(), core.rules.failures_per_account, FAILURE_WINDOW),
        Limit::new(core, "code-network", &client.network, core.rules.failures_per_network, FAILURE_WINDOW),
    ]
}
