//! Errors, independent of the interface. A [`Refusal`] is shown to the caller; other errors are logged.
//! `http/problem` maps a [`Code`] to an HTTP status, `commands/reply` to a bot reply.

use std::time::Duration;

/// Declares an enum whose variants have a wire string and a human-readable description.
macro_rules! string_enum {
    ($(#[$doc:meta])* $name:ident { $($variant:ident => ($word:literal, $description:literal)),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $(#[doc = $description] $variant),*
        }

        impl $name {
            /// All variants, in declaration order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The wire string. Stable.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),* }
            }

            /// A human-readable description.
            #[must_use]
            pub const fn description(self) -> &'static str {
                match self { $(Self::$variant => $description),* }
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::error::UnknownVariant;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Self::ALL.iter().copied().find(|variant| variant.as_str() == text).ok_or($crate::error::UnknownVariant)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(self.as_str())
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str> as serde::Deserialize>::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use string_enum;

/// The string matches no variant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown value")]
pub struct UnknownVariant;

string_enum! {
    /// The codes of verdicts and refusals. Stable.
    Code {
        Valid => ("VALID", "License is valid."),
        MalformedKey => ("MALFORMED_KEY", "This is not a license key."),
        NotFound => ("NOT_FOUND", "Not found."),
        ProductMismatch => ("PRODUCT_MISMATCH", "This license is for another product."),
        Revoked => ("REVOKED", "License was revoked."),
        Expired => ("EXPIRED", "License has expired."),
        NotAssigned => ("NOT_ASSIGNED", "This key is not assigned to anyone yet. Ask the seller."),
        NoApiKey => ("NO_API_KEY", "Send an API key as X-API-Key or as a Bearer token."),
        InvalidApiKey => ("INVALID_API_KEY", "This API key is not valid."),
        BadRequest => ("BAD_REQUEST", "The request is malformed."),
        UnsupportedMediaType => ("UNSUPPORTED_MEDIA_TYPE", "Send application/json."),
        PayloadTooLarge => ("PAYLOAD_TOO_LARGE", "The request body is too large."),
        ValidationError => ("VALIDATION_ERROR", "The request has a wrong or missing field."),
        MethodNotAllowed => ("METHOD_NOT_ALLOWED", "This route does not support this method."),
        RateLimitExceeded => ("RATE_LIMIT_EXCEEDED", "Too many requests."),
        RequestTimeout => ("REQUEST_TIMEOUT", "The request took too long."),
        Unavailable => ("UNAVAILABLE", "A service this depends on is not responding. Try again later."),
        Internal => ("INTERNAL", "Something went wrong on our side."),
        InvalidTransition => ("INVALID_TRANSITION", "The state of the license does not allow this."),
        Conflict => ("CONFLICT", "This conflicts with the current state."),
        RoleUnmanageable => ("ROLE_UNMANAGEABLE", "This role cannot be mapped."),
        NoToken => ("NO_TOKEN", "Sign in, and send the access token as a Bearer token."),
        InvalidToken => ("INVALID_TOKEN", "This access token is not valid."),
        TokenExpired => ("TOKEN_EXPIRED", "The access token has expired."),
        InvalidSession => ("INVALID_SESSION", "Session invalidated"),
        NoRefreshToken => ("NO_REFRESH_TOKEN", "Missing refresh token"),
        TokenReuseDetected => ("TOKEN_REUSE_DETECTED", "Session invalidated"),
        InvalidOneTimeToken => ("INVALID_ONE_TIME_TOKEN", "Invalid or expired token"),
        InvalidCredentials => ("INVALID_CREDENTIALS", "Invalid credentials"),
        EmailNotVerified => ("EMAIL_NOT_VERIFIED", "Email not verified"),
        AccountSuspended => ("ACCOUNT_SUSPENDED", "Account suspended"),
        AccountBanned => ("ACCOUNT_BANNED", "Account banned"),
        RequiresSecondFactor => ("REQUIRES_2FA", "A two-factor code is required."),
        InvalidSecondFactor => ("INVALID_2FA_CODE", "Invalid two-factor code"),
        InsufficientRole => ("INSUFFICIENT_ROLE", "Your role does not allow this."),
        AccessDenied => ("ACCESS_DENIED", "This request is not allowed from this origin."),
        SignInFailed => ("SIGN_IN_FAILED", "The sign-in was not completed."),
    }
}

/// A declined action: a stable code and an explanation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct Refusal {
    /// The machine-readable reason.
    pub code: Code,
    /// The reason and what to do next, in words. Contains no secrets.
    pub detail: String,
    /// The invalid field, if there is one.
    pub field: Option<&'static str>,
    /// How long to wait before retrying, if waiting helps.
    pub retry: Option<Duration>,
}

/// The error of a core call. Every function that uses the database can return [`Error::Database`].
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The request was declined; the caller can correct it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The database failed or cannot be reached.
    #[error("database: {0}")]
    Database(#[from] sea_orm::DbErr),
    /// An invalid internal state, such as a wrong master key or a row that cannot be decrypted.
    #[error("{0}")]
    Internal(String),
}

/// The result of a core call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// The code to report to the caller.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::Refused(refusal) => refusal.code,
            Self::Database(_) => Code::Unavailable,
            Self::Internal(_) => Code::Internal,
        }
    }
}

impl Code {
    /// A refusal with a specific explanation.
    pub fn because(self, detail: impl Into<String>) -> Error {
        Error::Refused(Refusal { code: self, detail: detail.into(), field: None, retry: None })
    }

    /// A refusal explained by the description of its code.
    #[must_use]
    pub fn refusal(self) -> Error {
        self.because(self.description())
    }

    /// A refusal of a request that may be retried after `retry`.
    pub fn retry_after(self, detail: impl Into<String>, retry: Duration) -> Error {
        Error::Refused(Refusal { code: self, detail: detail.into(), field: None, retry: Some(retry) })
    }

    /// A refusal because of an invalid field.
    pub fn invalid_field(field: &'static str, detail: impl Into<String>) -> Error {
        let (code, detail) = (Self::ValidationError, detail.into());
        Error::Refused(Refusal { code, detail, field: Some(field), retry: None })
    }
}
