//! Problem details (RFC 9457), and the HTTP status of each code.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use dca_core::{Code, Error, Reason, Refusal, users::Locale};
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::openapi::{Ref, RefOr, Response as ResponseDoc};
use utoipa::{IntoResponses, ToSchema};

use super::schemas;
use crate::wording;

/// The JSON with a status other than 200 that a handler returns, or a problem.
pub type StatusResult<T> = Result<(StatusCode, Json<T>), Problem>;

/// The JSON that a handler returns, or a problem.
pub type JsonResult<T> = Result<Json<T>, Problem>;

/// An error. [`rendered`] writes it as `application/problem+json`.
#[derive(Clone, Debug)]
pub struct Problem {
    pub(super) code: Code,
    pub(super) detail: String,
    pub(super) errors: Vec<FieldError>,
    /// Further members, and in a dialect its name of the code.
    pub(super) names: Map<String, Value>,
    pub(super) status: StatusCode,
    two_factor_token: Option<Box<str>>,
    /// Headers of the response, such as `Retry-After`.
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
}

/// An invalid field.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct FieldError {
    /// The name of the field. A field of an object in the body has a path such as `a.b`.
    #[schema(example = "email")]
    pub(super) field: String,
    /// What is wrong with it.
    #[schema(example = "email is required")]
    pub(super) message: String,
}

/// An error in the `application/problem+json` format (RFC 9457).
#[derive(Serialize, ToSchema)]
#[schema(as = Problem, example = json!({
    "type": "https://auth.example.com/errors#INVALID_API_KEY", "title": "This API key is not valid.", "status": 401,
    "code": "INVALID_API_KEY", "detail": "This API key is not valid.",
}))]
pub(super) struct Document<'a> {
    /// The URL of the description of `code`.
    #[serde(rename = "type")]
    #[schema(format = "uri")]
    kind: String,
    /// A short description of the type of problem.
    title: &'static str,
    /// The HTTP status code.
    status: u16,
    /// A stable code for programmatic use.
    #[schema(value_type = schemas::Code)]
    code: &'a str,
    /// What went wrong in this request, and what to do about it.
    detail: &'a str,
    /// The first invalid field, if any.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    field: Option<&'a str>,
    /// The invalid fields, if any.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    #[schema(required = false)]
    errors: &'a [FieldError],
    /// If a two-factor code is required: the token to send with it to `/auth/2fa/verify`.
    #[serde(rename = "twoFactorToken", skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    two_factor_token: Option<&'a str>,
    #[serde(flatten)]
    #[schema(ignore)]
    names: BTreeMap<&'a String, &'a Value>,
}

impl Problem {
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            errors: Vec::new(),
            names: Map::new(),
            status: status(code),
            two_factor_token: None,
            headers: Vec::new(),
        }
    }

    /// Creates a problem whose detail is the description of its code.
    pub fn of(code: Code) -> Self {
        Self::new(code, wording::title(code))
    }

    /// One or more fields are invalid; the detail is about the first.
    pub(super) fn invalid(errors: Vec<FieldError>) -> Self {
        let detail = errors.first().map_or_else(String::new, |error| error.message.clone());
        Self { errors, ..Self::new(Code::ValidationError, detail) }
    }

    /// A field is invalid.
    pub(super) fn invalid_field(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self::invalid(vec![FieldError { field: field.into(), message: message.into() }])
    }

    /// Too many requests; the client can retry after `wait`.
    pub fn rate_limited(wait: Duration) -> Self {
        Self { headers: vec![retry_after(wait)], ..Self::of(Code::RateLimitExceeded) }
    }

    /// The detail in the reader's language. In Spanish it depends on the code only.
    pub(super) fn detail_in(&self, locale: Locale) -> &str {
        match locale {
            Locale::En => &self.detail,
            Locale::Es => wording::spanish(self.code),
        }
    }

    /// A two-factor code is required; `token` identifies the pending sign-in.
    pub(super) fn second_factor_required(token: String) -> Self {
        Self { two_factor_token: Some(token.into_boxed_str()), ..Self::of(Code::RequiresSecondFactor) }
    }

    fn body(&self, public_url: &str) -> Body {
        let renamed = self.names.get("code");
        let document = Document {
            kind: format!("{public_url}/errors#{}", self.code),
            title: wording::title(self.code),
            status: self.status.as_u16(),
            code: renamed.and_then(Value::as_str).unwrap_or(self.code.as_str()),
            detail: &self.detail,
            field: self.errors.first().map(|error| error.field.as_str()),
            errors: &self.errors,
            two_factor_token: self.two_factor_token.as_deref(),
            names: self.names.iter().filter(|(name, _)| *name != "code").collect(),
        };
        Body::from(serde_json::to_string(&document).unwrap_or_default())
    }
}

impl From<Error> for Problem {
    fn from(error: Error) -> Self {
        match error {
            Error::Refused(Refusal { reason, retry_after: retry }) => {
                let detail = wording::refusal(&reason).into_owned();
                let error = |field: &str| FieldError { field: field.to_owned(), message: detail.clone() };
                let errors = reason.field().map(error).into_iter().collect();
                let headers = retry.map(retry_after).into_iter().collect();
                Self { errors, headers, names: members(&reason), ..Self::new(reason.code(), detail) }
            }
            Error::Database(ref error) => {
                tracing::error!(%error, "database error");
                Self { headers: vec![retry_after(Duration::from_secs(2))], ..Self::of(Code::Unavailable) }
            }
            Error::Internal(_) => {
                tracing::error!(%error, "internal error");
                Self::of(Code::Internal)
            }
        }
    }
}

/// The members that a reason adds, for clients that show its data in their own words.
fn members(reason: &Reason) -> Map<String, Value> {
    let member = match reason {
        Reason::ResetNotYet { available_at } => Some(("availableAt".to_owned(), json!(available_at))),
        _ => None,
    };
    member.into_iter().collect()
}

impl IntoResponse for Problem {
    /// The response without its body, which [`rendered`] writes.
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"dca-auth\""));
        }
        // The rest of the request is not read, so no other one can follow it.
        if matches!(self.status.as_u16(), 408 | 413) {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        headers.extend(self.headers.clone());
        response.extensions_mut().insert(self);
        response
    }
}

/// A response with the body of its problem, if it is one. This is the last step: dialects change problems before, and
/// the type is a URL of this service.
pub(super) fn rendered(mut response: Response, public_url: &str) -> Response {
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        response.headers_mut().remove(header::CONTENT_LENGTH);
        *response.status_mut() = problem.status;
        *response.body_mut() = problem.body(public_url);
    }
    response
}

/// The problems that a route of the license service may return.
pub(crate) struct Refusals;

impl IntoResponses for Refusals {
    fn responses() -> BTreeMap<String, RefOr<ResponseDoc>> {
        responses(&[400, 401, 403, 404, 409, 412, 413, 415, 422, 429, 503])
    }
}

/// Describes the problems that a route may return, by their statuses. They share one response and one schema.
pub(super) fn responses(statuses: &[u16]) -> BTreeMap<String, RefOr<ResponseDoc>> {
    let response = |status: &u16| {
        let description = match status {
            400 => "The request is malformed, or a token is invalid or expired",
            401 => "Not authenticated, or wrong credentials",
            403 => "Not allowed for this account",
            404 => "Not found",
            409 => "Conflicts with the current state",
            412 => "Changed since the revision in `If-Match`",
            413 => "The body is larger than 16 KiB",
            415 => "The content type is not supported",
            422 => "A field is missing or invalid; see `errors`",
            429 => "Too many requests; see `Retry-After` and `RateLimit`",
            _ => "The service is unavailable; see `Retry-After`",
        };
        let mut shared = Ref::from_response_name("Problem");
        description.clone_into(&mut shared.description);
        (status.to_string(), RefOr::Ref(shared))
    };
    statuses.iter().map(response).collect()
}

/// The HTTP status of a code, where no dialect differs.
pub(super) fn status(code: Code) -> StatusCode {
    match code {
        Code::BadRequest | Code::InvalidCursor | Code::InvalidOneTimeToken | Code::SignInFailed => {
            StatusCode::BAD_REQUEST
        }
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
        | Code::Banned
        | Code::Revoked
        | Code::Suspended
        | Code::Expired
        | Code::NotAssigned
        | Code::DeviceBlocked
        | Code::AccessDenied => StatusCode::FORBIDDEN,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        Code::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
        Code::InvalidTransition
        | Code::Conflict
        | Code::DeviceLimitExceeded
        | Code::IdempotencyInProgress
        | Code::IdempotencyAnswerLost => StatusCode::CONFLICT,
        Code::PreconditionFailed => StatusCode::PRECONDITION_FAILED,
        Code::PayloadTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Code::HeadersTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        Code::UnsupportedMediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Code::MalformedKey | Code::ValidationError | Code::IdempotencyKeyReused => StatusCode::UNPROCESSABLE_ENTITY,
        Code::RateLimitExceeded | Code::ResetCooldown => StatusCode::TOO_MANY_REQUESTS,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// A `Retry-After` header, in whole seconds and at least 1.
fn retry_after(wait: Duration) -> (HeaderName, HeaderValue) {
    (header::RETRY_AFTER, HeaderValue::from(wait.as_millis().div_ceil(1_000).max(1).try_into().unwrap_or(u64::MAX)))
}
