//! Codes of a second factor: of an authenticator app (TOTP, RFC 6238), and recovery codes. Each code works once:
//! the last accepted time step is stored.

use chrono::DateTime;
use sea_orm::{ActiveValue::Set, ColumnTrait, EntityTrait, PaginatorTrait, QueryFilter, QuerySelect, sea_query::Expr};
use totp_rs::{Algorithm, Builder, Totp};

use crate::{
    Code, Core, Error, Result,
    accounts::{
        client::ClientInfo,
        limits,
        sessions::{self, SecondFactor},
    },
    crypto::{base32, seal::Purpose},
    db::Reader,
    entity::{recovery_code, second_factor},
    events::{Actor, EventData, NewEvent},
    ids::UserId,
    throttles,
    tx::Tx,
    users::User,
};

/// Number of recovery codes per user.
const RECOVERY_CODES: usize = 10;
/// Symbols of a recovery code, 5 bits each: above the 112 bits that ASVS 6.5.2 requires of secrets that are not
/// hashed like passwords.
const RECOVERY_SYMBOLS: usize = 24;

/// The result of checking a code.
pub(crate) enum Check {
    Passed(SecondFactor),
    /// The caller must commit all the same: an attempt was counted.
    Refused(Error),
}

impl Check {
    pub(crate) fn into_result(self) -> Result<SecondFactor> {
        match self {
            Self::Passed(second_factor) => Ok(second_factor),
            Self::Refused(refused) => Err(refused),
        }
    }
}

/// Checks a code, if the user has a second factor.
pub(crate) async fn check(tx: &mut Tx, client: &ClientInfo, user: &User, code: Option<&str>) -> Result<Check> {
    let factor = find(tx, user.id).await?.filter(|factor| factor.confirmed_at.is_some());
    let Some(factor) = factor else { return Ok(Check::Passed(SecondFactor::NotEnabled)) };
    let Some(code) = code.map(str::trim).filter(|code| !code.is_empty()) else {
        return Ok(Check::Refused(Code::RequiresSecondFactor.refusal()));
    };
    let attempts = limits::code_attempts(tx.core(), client, user.id);
    match throttles::acquire(tx, &attempts).await {
        Err(refused @ Error::Refused(_)) => return Ok(Check::Refused(refused)),
        other => other?,
    }
    if consume_totp_code(tx, user, &factor, code).await? || consume_recovery_code(tx, user.id, code).await? {
        throttles::refund(tx, &attempts).await?;
        return Ok(Check::Passed(SecondFactor::Verified));
    }
    let why = Code::InvalidSecondFactor;
    let refused = EventData::SignInRefused { why, network: client.network.clone() };
    tx.record(NewEvent::account(Actor::System, user.id, refused));
    Ok(Check::Refused(why.refusal()))
}

/// Whether a user has enabled a second factor.
pub(crate) async fn is_enabled(from: &impl Reader, user: UserId) -> Result<bool> {
    Ok(find(from, user).await?.is_some_and(|factor| factor.confirmed_at.is_some()))
}

/// Those of these users who have enabled a second factor.
pub(crate) async fn list_enabled(from: &impl Reader, users: &[UserId]) -> Result<Vec<UserId>> {
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
    let account = user.email.clone().or(user.name.clone()).unwrap_or_else(|| user.id.to_string());
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

pub(super) async fn new_recovery_codes(tx: &Tx, user: UserId) -> Result<Vec<String>> {
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

pub(super) async fn find(from: &impl Reader, user: UserId) -> Result<Option<second_factor::Model>> {
    Ok(second_factor::Entity::find_by_id(user).one(from.connection()).await?)
}
