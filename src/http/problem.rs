//! Problem details (RFC 9457), and the HTTP status of each code.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use dca_core::{Code, Error, Refusal, users::Locale};
use serde::Serialize;
use utoipa::ToSchema;

use crate::wording;

/// The JSON with a status other than 200 that a handler returns, or a problem.
pub type StatusResult<T> = Result<(StatusCode, Json<T>), Problem>;

/// The JSON that a handler returns, or a problem.
pub type JsonResult<T> = Result<Json<T>, Problem>;

/// An error in the `application/problem+json` format.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Problem {
    /// A URI that identifies the type of problem. Each `code` has one.
    #[serde(rename = "type")]
    kind: Box<str>,
    /// A short description of the type of problem.
    title: &'static str,
    /// The HTTP status code.
    status: u16,
    /// A stable code for programmatic use.
    #[schema(value_type = String, example = "INVALID_API_KEY")]
    pub(super) code: Code,
    /// What went wrong in this request, and what to do about it.
    pub(super) detail: String,
    /// The field that caused the problem, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) field: Option<String>,
    /// If a two-factor code is required: the token to send with it to `/auth/2fa/verify`.
    #[serde(rename = "twoFactorToken", skip_serializing_if = "Option::is_none")]
    two_factor_token: Option<Box<str>>,
    #[serde(skip)]
    retry: Option<Duration>,
}

impl Problem {
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        let (kind, status) = (format!("urn:dca-auth:{code}").into_boxed_str(), status(code).as_u16());
        let (title, detail) = (wording::title(code), detail.into());
        Self { kind, title, status, code, detail, field: None, two_factor_token: None, retry: None }
    }

    /// Creates a problem whose detail is the description of its code.
    pub fn of(code: Code) -> Self {
        Self::new(code, wording::title(code))
    }

    /// Too many requests; the client can retry after `wait`.
    pub fn rate_limited(wait: Duration) -> Self {
        Self { retry: Some(wait), ..Self::of(Code::RateLimitExceeded) }
    }

    /// The detail in the reader's language. In Spanish it depends on the code only.
    pub(super) fn detail_in(&self, locale: Locale) -> &str {
        match locale {
            Locale::En => &self.detail,
            Locale::Es => wording::spanish(self.code),
        }
    }

    pub(super) fn http_status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    pub(super) fn retry_after_header(&self) -> Option<(HeaderName, HeaderValue)> {
        self.retry.map(retry_after)
    }

    /// A two-factor code is required; `token` identifies the pending sign-in.
    pub(super) fn second_factor_required(token: String) -> Self {
        Self { two_factor_token: Some(token.into_boxed_str()), ..Self::of(Code::RequiresSecondFactor) }
    }

    /// Replaces the status with the one that a dialect's clients expect.
    pub(super) fn set_status(&mut self, status: StatusCode) {
        self.status = status.as_u16();
    }

    pub fn with_field(self, field: String) -> Self {
        Self { field: Some(field), ..self }
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        match error {
            Error::Refused(Refusal { reason, retry_after }) => Self {
                field: reason.field().map(str::to_owned),
                retry: retry_after,
                ..Self::new(reason.code(), wording::refusal(&reason))
            },
            Error::Database(ref error) => {
                tracing::error!(%error, "database error");
                Self { retry: Some(Duration::from_secs(2)), ..Self::of(Code::Unavailable) }
            }
            Error::Internal(_) => {
                tracing::error!(%error, "internal error");
                Self::of(Code::Internal)
            }
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, retry) = (self.http_status(), self.retry_after_header());
        let mut response = (status, Json(&self)).into_response();
        // Dialects read it to add members to the body.
        response.extensions_mut().insert(self);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"dca-auth\""));
        }
        headers.extend(retry);
        response
    }
}

fn status(code: Code) -> StatusCode {
    match code {
        Code::BadRequest | Code::InvalidOneTimeToken | Code::SignInFailed => StatusCode::BAD_REQUEST,
        Code::NoApiKey
        | Code::InvalidApiKey
        | Code::NoToken
        | Code::InvalidToken
        | Code::TokenExpired
        | Code::InvalidSession
        | Code::NoRefreshToken
        | Code::TokenReuseDetected
        | Code::InvalidCredentials
        | Code::RequiresSecondFactor
        | Code::InvalidSecondFactor => StatusCode::UNAUTHORIZED,
        Code::EmailNotVerified
        | Code::AccountSuspended
        | Code::AccountBanned
        | Code::InsufficientRole
        | Code::AccessDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        Code::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
        Code::InvalidTransition | Code::Conflict => StatusCode::CONFLICT,
        Code::PayloadTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Code::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Code::MalformedKey | Code::ValidationError | Code::RoleUnmanageable => StatusCode::UNPROCESSABLE_ENTITY,
        Code::RateLimitExceeded => StatusCode::TOO_MANY_REQUESTS,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// A `Retry-After` header, in whole seconds and at least 1.
fn retry_after(wait: Duration) -> (HeaderName, HeaderValue) {
    (header::RETRY_AFTER, HeaderValue::from(wait.as_millis().div_ceil(1_000).max(1).try_into().unwrap_or(u64::MAX)))
}
