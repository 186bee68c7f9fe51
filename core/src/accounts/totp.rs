//! Codes of a second factor: of an authenticator app (TOTP, RFC 6238), and recovery codes. Each code works once:
//! the last accepted time step is stored.

use chrono::{DateTime, Utc};
use sea_orm::{ColumnTrait, EntityTrait, IntoActiveModel, PaginatorTrait, QueryFilter, QuerySelect};
use totp_rs::{Algorithm, Builder, Totp};

use crate::accounts::sessions::{self, SecondFactor};
use crate::accounts::{client::ClientInfo, emails, limits};
use crate::crypto::{base32, seal::Purpose};
use crate::db::{self, Reader};
use crate::entity::{recovery_code, second_factor};
use crate::events::{Actor, EventData, NewEvent};
use crate::{Code, Core, Error, Result, ids::UserId, outbox::EmailTemplate, throttles, tx::Tx, users::User};

/// Number of recovery codes per user.
const RECOVERY_CODES: usize = 10;
/// Symbols of a recovery code, 5 bits each: above the 112 bits that ASVS 6.5.2 requires of secrets that are not
/// hashed like passwords.
const RECOVERY_SYMBOLS: usize = 24;

/// Requires a code if the user has a second factor. A refusal is committed, because an attempt was counted.
pub(crate) async fn check(
    mut tx: Tx,
    client: &ClientInfo,
    user: &User,
    code: Option<&str>,
) -> Result<(Tx, SecondFactor)> {
    let factor = find(&tx, user.id).await?.filter(|factor| factor.confirmed_at.is_some());
    let Some(factor) = factor else { return Ok((tx, SecondFactor::NotEnabled)) };
    let Some(code) = code.map(str::trim).filter(|code| !code.is_empty()) else {
        tx.commit().await?;
        return Err(Code::RequiresSecondFactor.refusal());
    };
    let attempts = limits::code_attempts(tx.core(), client, user);
    if let Err(error) = throttles::acquire(&tx, &attempts).await {
        if matches!(error, Error::Refused(_)) {
            tx.commit().await?;
        }
        return Err(error);
    }
    if consume_totp_code(&tx, user, &factor, code).await? || consume_recovery_code(&tx, user.id, code).await? {
        throttles::refund(&tx, &attempts).await?;
        return Ok((tx, SecondFactor::Verified));
    }
    let why = Code::InvalidSecondFactor;
    let refused = EventData::SignInRefused { why, network: client.network.clone() };
    tx.record(NewEvent::account(Actor::System, user.id, refused));
    report_wrong_codes(&mut tx, user.id).await?;
    tx.commit().await?;
    Err(why.refusal())
}

/// Tells the owner about repeated wrong codes, once a day: whoever enters them seems to know the password.
async fn report_wrong_codes(tx: &mut Tx, user: UserId) -> Result<()> {
    let [untold, email] = limits::untold_wrong_codes(tx.core(), user);
    if !throttles::try_acquire(tx, &untold).await? && throttles::try_acquire(tx, &email).await? {
        emails::send(tx, EmailTemplate::WrongCodes, user, None).await?;
    }
    Ok(())
}

/// Whether a user has enabled a second factor.
pub async fn is_enabled(from: &impl Reader, user: UserId) -> Result<bool> {
    Ok(find(from, user).await?.is_some_and(|factor| factor.confirmed_at.is_some()))
}

/// Those of these users who have enabled a second factor.
pub async fn list_enabled(from: &impl Reader, users: &[UserId]) -> Result<Vec<UserId>> {
    let enabled = second_factor::Entity::find()
        .select_only()
        .column(second_factor::Column::UserId)
        .filter(second_factor::Column::UserId.is_in(users.iter().copied()))
        .filter(second_factor::Column::ConfirmedAt.is_not_null());
    Ok(enabled.into_tuple().all(from.connection()).await?)
}

/// The TOTP generator for a secret in base32.
pub(super) fn totp(core: &Core, user: &User, secret: &str) -> Result<Totp> {
    let broken = |error: String| Error::Internal(format!("totp: {error}"));
    let secret = totp_rs::Secret::try_from_base32(secret).map_err(|error| broken(error.to_string()))?;
    let account = user.label();
    Builder::new()
        .with_algorithm(Algorithm::SHA1)
        .with_digits(6)
        .with_skew(1)
        .with_step_duration(30)
        .with_secret(secret)
        .with_account_name(account.replace(':', " "))
        .with_issuer(Some(core.accounts.policy.app_name.replace(':', " ")))
        .build()
        .map_err(|error| broken(error.to_string()))
}

/// Whether this TOTP code is valid and was not used before; marks it as used.
pub(super) async fn consume_totp_code(tx: &Tx, user: &User, factor: &second_factor::Model, code: &str) -> Result<bool> {
    // Authenticator apps show the digits in groups.
    let code: String = code.split_whitespace().collect();
    let secret = tx.core().keys().unseal(Purpose::TotpSeal, user.id.0, &factor.secret_sealed)?;
    let now = (tx.now() - DateTime::UNIX_EPOCH).num_seconds().unsigned_abs();
    let Some(step) = totp(tx.core(), user, &secret)?.check(&code, now) else { return Ok(false) };
    let step = i64::try_from(step).unwrap_or(i64::MAX);
    let unused = [second_factor::Column::UserId.eq(user.id), second_factor::Column::LastStep.lt(step)];
    let updated = db::update([(second_factor::Column::LastStep, step.into())], unused).exec(tx.db()).await?;
    Ok(updated.rows_affected == 1)
}

async fn consume_recovery_code(tx: &Tx, user: UserId, code: &str) -> Result<bool> {
    let unused = || [recovery_code::Column::UserId.eq(user), recovery_code::Column::UsedAt.is_null()];
    let lookups = tx.core().keys().macs(Purpose::RecoveryCode, &recovery_code_name(user, code));
    let this = unused().into_iter().chain([recovery_code::Column::Lookup.is_in(lookups)]);
    let consume = db::update([(recovery_code::Column::UsedAt, tx.now().into())], this);
    if consume.exec(tx.db()).await?.rows_affected == 0 {
        return Ok(false);
    }
    let remaining = unused().into_iter().fold(recovery_code::Entity::find(), QueryFilter::filter);
    let remaining = remaining.count(tx.db()).await?;
    tracing::info!(%user, remaining, "recovery code used");
    Ok(true)
}

fn recovery_code_name(user: UserId, code: &str) -> String {
    let folded: String = code.chars().filter(char::is_ascii_alphanumeric).map(base32::fold).collect();
    format!("{user}:{folded}")
}

/// A new TOTP secret, in base32.
pub(super) fn new_secret(core: &Core) -> String {
    totp_rs::Secret::from(core.ids.bytes::<20>()).to_base32()
}

/// The recovery codes that belong to a secret. They are derived, so that they can be shown when the secret is created,
/// and stored when it is confirmed, also if the keys are rotated meanwhile.
pub(super) fn recovery_codes(core: &Core, user: UserId, secret: &str, created_at: DateTime<Utc>) -> Vec<String> {
    let code = |n| {
        let mac = core.keys().mac_at(Purpose::RecoveryCode, &format!("{user}:{secret}:{n}"), created_at);
        let symbols = base32::text(&mac);
        [&symbols[..6], &symbols[6..12], &symbols[12..18], &symbols[18..RECOVERY_SYMBOLS]].join("-")
    };
    (0..RECOVERY_CODES).map(code).collect()
}

/// Replaces a user's recovery codes by those of a secret that was created at this time.
pub(super) async fn store_recovery_codes(
    tx: &Tx,
    user: UserId,
    secret: &str,
    created_at: DateTime<Utc>,
) -> Result<Vec<String>> {
    recovery_code::Entity::delete_many().filter(recovery_code::Column::UserId.eq(user)).exec(tx.db()).await?;
    let codes = recovery_codes(tx.core(), user, secret, created_at);
    let row = |code: &String| {
        let lookup = tx.core().keys().mac(Purpose::RecoveryCode, &recovery_code_name(user, code));
        recovery_code::Model { lookup, user_id: user, used_at: None }.into_active_model()
    };
    recovery_code::Entity::insert_many(codes.iter().map(row)).exec_without_returning(tx.db()).await?;
    Ok(codes)
}

/// Removes a user's second factor and recovery codes, and clears it from all sessions.
pub(crate) async fn remove(tx: &Tx, user: UserId) -> Result<()> {
    second_factor::Entity::delete_by_id(user).exec(tx.db()).await?;
    sessions::clear_second_factor(tx, user).await?;
    recovery_code::Entity::delete_many().filter(recovery_code::Column::UserId.eq(user)).exec(tx.db()).await?;
    Ok(())
}

pub(super) async fn find(from: &impl Reader, user: UserId) -> Result<Option<second_factor::Model>> {
    Ok(second_factor::Entity::find_by_id(user).one(from.connection()).await?)
}
