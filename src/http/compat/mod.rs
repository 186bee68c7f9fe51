//! Compatibility with clients of earlier systems. Each route has one handler; a dialect maps another path and
//! another cookie name to it, and adds the members to a problem that its clients read.

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

/// The API that a client was written for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Dialect {
    /// This service's own routes. They are the same as those of the multi-user service.
    #[default]
    Native,
    /// The routes under `/api`. Refresh tokens are returned in the body too.
    Dca,
}

impl<S: Sync> FromRequestParts<S> for Dialect {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(parts.extensions.get().copied().unwrap_or_default())
    }
}

/// Rewrites the body of a problem response with `add_members`. These clients expect 400 for invalid fields.
async fn reword(
    request: Request,
    next: Next,
    status_of: fn(Code) -> Option<StatusCode>,
    add_members: impl FnOnce(&Problem, StatusCode, &mut Map<String, Value>),
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
    add_members(&problem, status, &mut members);
    let (mut parts, _) = response.into_parts();
    parts.status = status;
    parts.headers.remove(header::CONTENT_LENGTH);
    Response::from_parts(parts, Body::from(Value::Object(members).to_string()))
}

/// The problem's detail; for an invalid field, in an array of one.
fn message(problem: &Problem) -> Value {
    match problem.code() {
        Code::ValidationError => match problem.field().filter(|field| !problem.detail().contains(*field)) {
            Some(field) => json!([format!("{field}: {}", problem.detail())]),
            None => json!([problem.detail()]),
        },
        _ => json!(problem.detail()),
    }
}
