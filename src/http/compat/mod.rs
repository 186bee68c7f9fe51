//! Dialects of earlier systems. Each route has one handler; a dialect gives it another address, another name
//! for a cookie, and adds the members to a problem that its clients look for.

use axum::{
    body::Body,
    extract::{FromRequestParts, Request},
    http::{StatusCode, header, request::Parts},
    middleware::Next,
    response::Response,
};
use dca_core::Code;
use serde_json::{Map, Value, json};

use super::problem::Problem;

pub(super) mod dca;
pub(super) mod nest;

/// How a client speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Dialect {
    /// The routes of this service, which are those of the multi-user service.
    #[default]
    Native,
    /// `/api`: refresh tokens travel in bodies too.
    Dca,
}

impl<S: Sync> FromRequestParts<S> for Dialect {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(parts.extensions.get().copied().unwrap_or_default())
    }
}

/// Lets `words` add to a problem that passes by. A field that does not fit is 400 to these clients.
async fn reword(
    request: Request,
    next: Next,
    status_of: fn(Code) -> Option<StatusCode>,
    words: impl FnOnce(&Problem, StatusCode, &mut Map<String, Value>),
) -> Response {
    let mut response = next.run(request).await;
    let Some(mut problem) = response.extensions_mut().remove::<Problem>() else { return response };
    let status = match problem.code() {
        Code::ValidationError => StatusCode::BAD_REQUEST,
        code => status_of(code).unwrap_or(response.status()),
    };
    problem.set_status(status);
    let mut members = match serde_json::to_value(&problem) {
        Ok(Value::Object(members)) => members,
        _ => Map::new(),
    };
    words(&problem, status, &mut members);
    let (mut parts, _) = response.into_parts();
    parts.status = status;
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, Body::from(Value::Object(members).to_string()))
}

/// A sentence, or a list of one where a field is at fault.
fn message(problem: &Problem) -> Value {
    match problem.code() {
        Code::ValidationError => match problem.field().filter(|field| !problem.detail().contains(*field)) {
            Some(field) => json!([format!("{field}: {}", problem.detail())]),
            None => json!([problem.detail()]),
        },
        _ => json!(problem.detail()),
    }
}
