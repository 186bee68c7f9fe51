//! Errors, independent of the interface. A [`Refusal`] is answered to the caller; other errors are logged.
//!
//! Core has no sentences for people: a refusal is a [`Code`] and a typed [`Reason`] with its data. `src/wording`
//! words it for HTTP, pages and the command line, `commands/reply` for Discord.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sea_orm::{DbErr, RuntimeErr, sqlx::error::DatabaseError};

use crate::api_key_scopes::ApiKeyScope;
use crate::field::FieldFault;
use crate::ids::TenantId;
use crate::licenses::{Command, LicenseState, NotAllowed, VerdictCode};
use crate::users::{Provider, Role};
use crate::{crypto::license_key::Malformed, string_enum::string_enum};

string_enum! {
    /// The codes of refusals. Public and stable.
    Code {
        NotFound => "NOT_FOUND",
        MalformedKey => "MALFORMED_KEY",
        NoApiKey => "NO_API_KEY",
        InvalidApiKey => "INVALID_API_KEY",
        BadRequest => "BAD_REQUEST",
        UnsupportedMediaType => "UNSUPPORTED_MEDIA_TYPE",
        PayloadTooLarge => "PAYLOAD_TOO_LARGE",
        HeadersTooLarge => "HEADERS_TOO_LARGE",
        ValidationError => "VALIDATION_ERROR",
        MethodNotAllowed => "METHOD_NOT_ALLOWED",
        RateLimitExceeded => "RATE_LIMIT_EXCEEDED",
        RequestTimeout => "REQUEST_TIMEOUT",
        Unavailable => "UNAVAILABLE",
        Internal => "INTERNAL",
        InvalidTransition => "INVALID_TRANSITION",
        Conflict => "CONFLICT",
        Banned => "BANNED",
        Revoked => "REVOKED",
        Suspended => "SUSPENDED",
        Expired => "EXPIRED",
        NotAssigned => "NOT_ASSIGNED",
        DeviceBlocked => "DEVICE_BLOCKED",
        DeviceLimitExceeded => "DEVICE_LIMIT_EXCEEDED",
        ResetCooldown => "RESET_COOLDOWN",
        PreconditionFailed => "PRECONDITION_FAILED",
        InvalidCursor => "INVALID_CURSOR",
        IdempotencyKeyReused => "IDEMPOTENCY_KEY_REUSED",
        IdempotencyInProgress => "IDEMPOTENCY_IN_PROGRESS",
        IdempotencyAnswerLost => "IDEMPOTENCY_ANSWER_LOST",
        NoToken => "NO_TOKEN",
        InvalidToken => "INVALID_TOKEN",
        TokenExpired => "TOKEN_EXPIRED",
        InvalidSession => "INVALID_SESSION",
        NoRefreshToken => "NO_REFRESH_TOKEN",
        TokenReuseDetected => "TOKEN_REUSE_DETECTED",
        InvalidOneTimeToken => "INVALID_ONE_TIME_TOKEN",
        InvalidCredentials => "INVALID_CREDENTIALS",
        EmailNotVerified => "EMAIL_NOT_VERIFIED",
        AccountSuspended => "ACCOUNT_SUSPENDED",
        AccountBanned => "ACCOUNT_BANNED",
        RequiresSecondFactor => "REQUIRES_2FA",
        InvalidSecondFactor => "INVALID_2FA_CODE",
        InsufficientRole => "INSUFFICIENT_ROLE",
        AccessDenied => "ACCESS_DENIED",
        SignInFailed => "SIGN_IN_FAILED",
    }
}

/// Declares the reasons of refusals: each has one code.
macro_rules! reasons {
    ($($code:ident { $($reason:ident $({ $($field:ident: $type:ty),* })?),* $(,)? })*) => {
        /// Why an action was declined, with the data that a sentence about it needs. No secrets.
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[expect(missing_docs, reason = "fields are named after what they hold")]
        pub enum Reason {
            /// The code says it.
            Unspecified(Code),
            $($(
                #[doc = concat!("`", stringify!($code), "`.")]
                $reason $({ $($field: $type),* })?
            ),*),*
        }

        impl Reason {
            /// The code it is reported under.
            pub const fn code(&self) -> Code {
                match self {
                    Self::Unspecified(code) => *code,
                    $($(Self::$reason { .. } => Code::$code),*),*
                }
            }
        }
    };
}

reasons! {
    NotFound {
        NoLicense, NoMemberLicense, NoProduct { wanted: String, known: Vec<String>, total: usize },
        RoleNotMapped { product: String }, ServerNotSetUp, NoDelivery, NoActiveApiKey, NoUser, NoSession, NoServer, NoLease, NoDevice, NoBan,
        ProviderNotLinked, NoTenant,
    }
    Conflict {
        RoleAlreadyMapped { product: String }, NothingToConfirm, PrefixIsFixed { product: String, prefix: String },
        PrefixTaken { prefix: String, free: String }, NotReplayable, AlreadyLicensed, TrialUsed, NoResetsLeft, SecondFactorExists, SecondFactorNotStarted,
        NoSecondFactor, LinkedElsewhere { provider: Provider }, AnotherAccountLinked { provider: Provider },
        OnlySignInMethod, HoldsLicenses, HasOtherRole { role: Role }, AmbiguousApiKey, RootKeyOffline, OtherRootKey,
        ProductExists { product: String },
        ApiKeyReplaced, KeyTaken, NoLiveSource, DoesNotExpire, NoDuration, NotTransferable,
        UserBanned, TooManyMatch { max: usize }, ChangedMeanwhile,
        TransferTooSoon { available_at: DateTime<Utc> },
        DeviceNotActivated, NotValid { code: VerdictCode }, NoOfflineUse, OtherLicense,
    }
    InvalidTransition {
        NotAllowed { command: Command, state: LicenseState },
    }
    MalformedKey {
        NeitherIdNorKey { malformed: Malformed }, NotAKey { malformed: Malformed },
    }
    ValidationError {
        InvalidEmail, PasswordLength { min: usize, max: usize }, GuessablePassword,
        NotOneLine { field: &'static str, max: usize }, ForbiddenCharacter { field: &'static str, character: char }, InvalidStatus, InvalidProductName, InvalidPrefix,
        InvalidFingerprint, InvalidComponents, LicenseKeyRequired, InvalidBanEnd, PageLimit { max: u64 }, InvalidRootKey,
        NoScopes, ScopeNotForKind { scope: ApiKeyScope }, ProductCount { max: usize }, ProductsOfSeveralTenants,
        ApiKeyExpiry { max_days: i64 }, OverlapTooLong { max_seconds: u64 },
        TenantRequired { manages: Vec<TenantId> }, InvalidField { field: String, fault: FieldFault },
        NotInFuture { field: &'static str }, DateOutOfRange { field: &'static str }, InvalidMetadata, ReservedReason, SeveralForOneUser, CountOutOfRange { field: &'static str, max: usize },
        FileLifetime { min: i64, max: i64 }, InvalidOfflineRequest,
    }
    ResetCooldown {
        ResetNotYet { available_at: DateTime<Utc> },
    }
    AccessDenied {
        ApiKeyLacksScope { scope: ApiKeyScope },
    }
    Unavailable {
        TooManySignIns, KeyListEnded,
    }
    RateLimitExceeded {
        TooManyAttempts,
    }
    InvalidCredentials {
        SignInTooOld,
    }
    SignInFailed {
        StateMismatch,
    }
    RequiresSecondFactor {
        AdminsNeedSecondFactor,
    }
    InsufficientRole {
        UserNotBelow, RoleNotBelow,
    }
}

impl Reason {
    /// The invalid field, for reasons about one.
    pub const fn field(&self) -> Option<&str> {
        match self {
            Self::InvalidEmail => Some("email"),
            Self::PasswordLength { .. } | Self::GuessablePassword => Some("password"),
            Self::NotOneLine { field, .. } | Self::ForbiddenCharacter { field, .. } => Some(field),
            Self::InvalidStatus => Some("status"),
            Self::LicenseKeyRequired => Some("licenseKey"),
            Self::InvalidFingerprint => Some("device.fingerprint"),
            Self::InvalidComponents => Some("device.components"),
            Self::NoScopes | Self::ScopeNotForKind { .. } => Some("scopes"),
            Self::ProductCount { .. } | Self::ProductsOfSeveralTenants => Some("productIds"),
            Self::InvalidBanEnd | Self::ApiKeyExpiry { .. } => Some("expiresAt"),
            Self::OverlapTooLong { .. } => Some("overlapSeconds"),
            Self::InvalidProductName => Some("name"),
            Self::InvalidPrefix => Some("prefix"),
            Self::TenantRequired { .. } => Some("tenantId"),
            Self::InvalidField { field, .. } => Some(field.as_str()),
            Self::NotInFuture { field } | Self::DateOutOfRange { field } | Self::CountOutOfRange { field, .. } => {
                Some(field)
            }
            Self::InvalidMetadata => Some("metadata"),
            Self::SeveralForOneUser => Some("count"),
            Self::ReservedReason => Some("reason"),
            Self::PageLimit { .. } => Some("limit"),
            _ => None,
        }
    }

    /// An error with this reason.
    pub const fn refusal(self) -> Error {
        Error::Refused(Refusal { reason: self, retry_after: None })
    }

    /// The same for a request that may be retried after a while.
    pub const fn retry_after(self, wait: Duration) -> Error {
        Error::Refused(Refusal { reason: self, retry_after: Some(wait) })
    }
}

impl Code {
    /// An error that this code explains.
    pub const fn refusal(self) -> Error {
        Reason::Unspecified(self).refusal()
    }
}

/// A declined action.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {reason:?}", self.code())]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// How long to wait before retrying, if waiting helps.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    /// The code to report to the caller.
    pub const fn code(&self) -> Code {
        self.reason.code()
    }
}

/// The error of a core call. Every function that uses the database can return [`Error::Database`].
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The request was declined; the caller can correct it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The database failed or cannot be reached.
    #[error("database: {0}")]
    Database(DbErr),
    /// An invalid internal state, such as a wrong master key or a row that cannot be decrypted.
    #[error("{0}")]
    Internal(String),
}

/// The result of a core call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Not derived with `#[from]`, which would make the driver's error the source too: its message would be repeated.
impl From<DbErr> for Error {
    fn from(error: DbErr) -> Self {
        Self::Database(error)
    }
}

/// Refused with `INVALID_TRANSITION`.
impl From<NotAllowed> for Error {
    fn from(NotAllowed { command, state }: NotAllowed) -> Self {
        Reason::NotAllowed { command, state }.refusal()
    }
}

impl Error {
    /// Whether the database could not write because its disk is full.
    pub fn is_disk_full(&self) -> bool {
        /// `SQLITE_FULL`, `SQLITE_IOERR_SHMSIZE` while the file is opened, and `disk_full` of Postgres.
        const CODES: [&str; 3] = ["13", "4874", "53100"];
        let Self::Database(DbErr::Conn(cause) | DbErr::Exec(cause) | DbErr::Query(cause)) = self else { return false };
        let RuntimeErr::SqlxError(error) = cause else { return false };
        let code = error.as_database_error().and_then(DatabaseError::code);
        code.is_some_and(|code| CODES.contains(&code.as_ref()))
    }

    /// The code to report to the caller.
    pub const fn code(&self) -> Code {
        match self {
            Self::Refused(refusal) => refusal.code(),
            Self::Database(_) => Code::Unavailable,
            Self::Internal(_) => Code::Internal,
        }
    }
}
