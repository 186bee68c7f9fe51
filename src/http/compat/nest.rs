//! Compatibility with the multi-user service: the native routes, with its error envelope
//! `{message, error, statusCode}`.

use axum::{extract::Request, middleware::Next, response::Response};
use serde_json::json;

use super::{message, reword};

/// Adds the error envelope to problems.
pub(in crate::http) async fn errors(request: Request, next: Next) -> Response {
    reword(
        request,
        next,
        |_| None,
        |problem, status, members| {
            members.insert("message".to_owned(), message(problem));
            members.insert("error".to_owned(), json!(status.canonical_reason().unwrap_or_default()));
            members.insert("statusCode".to_owned(), json!(status.as_u16()));
        },
    )
    .await
}
