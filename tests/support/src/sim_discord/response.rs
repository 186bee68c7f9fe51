//! Requests and responses of the REST API.

use std::collections::HashMap;

use serde_json::{Value, json};

/// A status and a JSON body; null means no body.
pub(super) struct RestResponse {
    pub status: u16,
    pub body: Value,
}

/// Both variants are responses: `?` returns an error response.
pub(super) type RestResult = Result<RestResponse, RestResponse>;

#[expect(clippy::unnecessary_wraps, reason = "the result of a route, which may also be an error")]
pub(super) fn ok(body: Value) -> RestResult {
    Ok(RestResponse { status: 200, body })
}

pub(super) fn no_content() -> RestResponse {
    RestResponse { status: 204, body: Value::Null }
}

pub(super) fn error(status: u16, code: u32, message: &str) -> RestResponse {
    RestResponse { status, body: json!({ "message": message, "code": code }) }
}

/// A parsed request.
pub(super) struct Call {
    pub method: String,
    /// The path below `/api` or `/api/v10`, without the query.
    pub path: String,
    /// The complete URL.
    pub url: String,
    pub query: HashMap<String, String>,
    pub body: Value,
    /// The form, for routes that take one.
    pub form: Option<HashMap<String, String>>,
    pub authorization: String,
}
