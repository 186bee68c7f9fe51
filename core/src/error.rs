//! What can go wrong, free of any door: a [`Refusal`] is an answer for the caller, everything else
//! is ours to log. Doors turn a [`Code`] into a status (`http/problem`) or a sentence
//! (`commands/reply`).

use std::time::Duration;

/// Declares a public vocabulary once: variant, wire word, and what it says to a person.
macro_rules! string_enum {
    ($(#[$doc:meta])* $name:ident { $($variant:ident => ($word:literal, $description:literal)),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum $name {
            $(#[doc = $description] $variant),*
        }

        impl $name {
            /// Every word, in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The wire form; frozen.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word),* }
            }

            /// One sentence for a person.
            #[must_use]
            pub const fn description(self) -> &'static str {
                match self { $(Self::$variant => $description),* }
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::error::UnknownVariant;

            fn from_str(word: &str) -> Result<Self, Self::Err> {
                Self::ALL.iter().copied().find(|known| known.as_str() == word).ok_or($crate::error::UnknownVariant)
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
                let word = <std::borrow::Cow<'de, str> as serde::Deserialize>::deserialize(d)?;
                word.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use string_enum;

/// A word that its vocabulary does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown word")]
pub struct UnknownVariant;

string_enum! {
    /// The stable codes of verdicts and refusals.
    Code {
        Valid => ("VALID", "License is valid."),
        MalformedKey => ("MALFORMED_KEY", "This is not a license key."),
        NotFound => ("NOT_FOUND", "There is no such thing."),
        ProductMismatch => ("PRODUCT_MISMATCH", "This license is for another product."),
        Revoked => ("REVOKED", "License was revoked."),
        Expired => ("EXPIRED", "License has expired."),
        NotAssigned => ("NOT_ASSIGNED", "License belongs to nobody yet."),
        NoApiKey => ("NO_API_KEY", "Send an API key as X-API-Key or as a Bearer token."),
        InvalidApiKey => ("INVALID_API_KEY", "This API key is not valid."),
        BadRequest => ("BAD_REQUEST", "The request cannot be read."),
        UnsupportedMediaType => ("UNSUPPORTED_MEDIA_TYPE", "Send application/json."),
        PayloadTooLarge => ("PAYLOAD_TOO_LARGE", "The request body is too large."),
        ValidationError => ("VALIDATION_ERROR", "The request has a wrong or missing field."),
        MethodNotAllowed => ("METHOD_NOT_ALLOWED", "This route does not know that method."),
        RateLimitExceeded => ("RATE_LIMIT_EXCEEDED", "Too many requests."),
        RequestTimeout => ("REQUEST_TIMEOUT", "The request took too long."),
        Unavailable => ("UNAVAILABLE", "Something this depends on does not answer; try again."),
        Internal => ("INTERNAL", "Something went wrong on our side."),
        InvalidTransition => ("INVALID_TRANSITION", "The license cannot do that in its state."),
        Conflict => ("CONFLICT", "That exists already."),
        RoleUnmanageable => ("ROLE_UNMANAGEABLE", "That role cannot be mapped."),
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
        RequiresSecondFactor => ("REQUIRES_2FA", "A code of the second factor is needed."),
        InvalidSecondFactor => ("INVALID_2FA_CODE", "Invalid two-factor code"),
        InsufficientRole => ("INSUFFICIENT_ROLE", "Your role does not allow that."),
        AccessDenied => ("ACCESS_DENIED", "This request may not be made from there."),
        SignInFailed => ("SIGN_IN_FAILED", "The sign-in was not completed."),
    }
}

/// An action was declined: a stable code and a sentence.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {detail}")]
pub struct Refusal {
    /// Why, for programs.
    pub code: Code,
    /// Why and what to do, for people; never a secret.
    pub detail: String,
    /// The field that is wrong, where one is.
    pub field: Option<&'static str>,
    /// How long to wait before the next try, where that helps.
    pub retry: Option<Duration>,
}

/// Any failure of a core call.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller's turn.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The database did not do its part.
    #[error("database: {0}")]
    Database(#[from] sea_orm::DbErr),
    /// A state that should not exist: a wrong master key, a row that does not open.
    #[error("{0}")]
    Broken(String),
}

/// The result of a core call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// What is answered to programs.
    #[must_use]
    pub const fn code(&self) -> Code {
        match self {
            Self::Refused(refusal) => refusal.code,
            Self::Database(_) => Code::Unavailable,
            Self::Broken(_) => Code::Internal,
        }
    }
}

impl Code {
    /// A refusal with its own sentence.
    pub fn because(self, detail: impl Into<String>) -> Error {
        Error::Refused(Refusal { code: self, detail: detail.into(), field: None, retry: None })
    }

    /// A refusal that its code explains.
    #[must_use]
    pub fn refusal(self) -> Error {
        self.because(self.description())
    }

    /// A refusal that ends with time.
    pub fn retry_after(self, detail: impl Into<String>, retry: Duration) -> Error {
        Error::Refused(Refusal { code: self, detail: detail.into(), field: None, retry: Some(retry) })
    }

    /// A field that does not fit.
    pub fn invalid_field(field: &'static str, detail: impl Into<String>) -> Error {
        let (code, detail) = (Self::ValidationError, detail.into());
        Error::Refused(Refusal { code, detail, field: Some(field), retry: None })
    }
}
