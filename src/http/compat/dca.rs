//! Compatibility with the earlier DCA-Auth: its routes under `/api`, its error envelope
//! `{error: {code, message, …}}` and its `X-Correlation-ID` header.

use axum::{
    Router,
    extract::Request,
    http::{HeaderName, HeaderValue, StatusCode},
    middleware::Next,
    response::Response,
    routing::{get, patch, post},
};
use dca_core::Code;
use serde_json::{Value, json};

use super::{message, reword};
use crate::{
    App,
    http::{
        RequestId,
        accounts::{account, admin, auth, pages, providers},
    },
};

const CORRELATION_ID: HeaderName = HeaderName::from_static("x-correlation-id");

/// The account routes under `/api`.
pub(in crate::http) fn routes() -> Router<App> {
    Router::new()
        .route("/api/auth/register", post(auth::sign_up))
        .route("/api/auth/login", post(auth::sign_in))
        .route("/api/auth/refresh", post(auth::refresh))
        .route("/api/auth/logout", post(auth::sign_out))
        .route("/api/auth/logout-all", post(auth::sign_out_everywhere))
        .route("/api/auth/me", get(account::with_session))
        .route("/api/auth/password/reset-request", post(auth::request_reset))
        .route("/api/auth/password/reset", post(auth::reset_password))
        .route("/api/auth/verify-email", post(auth::verify_email))
        // Mail programs prefetch links, so opening this one only shows a confirmation page.
        .route("/api/auth/verify-email/{token}", get(pages::verify_by_path))
        .route("/api/auth/2fa/setup", post(account::set_up_second_factor))
        .route("/api/auth/2fa/enable", post(account::enable_second_factor))
        .route("/api/auth/2fa/verify", post(auth::second_factor))
        .route("/api/auth/2fa/disable", post(account::disable_second_factor))
        .route("/api/auth/{provider}", get(providers::begin_as_json).post(providers::begin_as_json))
        .route("/api/auth/{provider}/callback", get(providers::callback).post(providers::callback_as_json))
        .route("/api/auth/{provider}/link", post(providers::link))
        .route("/api/auth/{provider}/unlink", post(providers::unlink))
        .route("/api/users/profile", get(account::profile).patch(account::change))
        .route("/api/users/change-password", post(account::change_password))
        .route("/api/users", get(admin::list))
        .route("/api/users/{id}", patch(admin::change).get(admin::get).delete(admin::delete))
        .route("/api/users/{id}/ban", post(admin::ban))
        .route("/api/users/{id}/unban", post(admin::unban))
        .route("/api/users/{id}/sessions", get(admin::sessions).delete(admin::end_sessions))
        .route("/api/admin/sessions", get(admin::all_sessions))
        .route("/api/admin/sessions/{id}/revoke", post(admin::end_session))
        .route("/api/admin/roles", get(admin::roles))
        .route("/api/admin/roles/assign", post(admin::assign_role))
        .route("/api/admin/roles/revoke", post(admin::revoke_role))
}

/// Adds the error envelope to problems, and the correlation ID to every response.
pub(in crate::http) async fn errors(request: Request, next: Next) -> Response {
    let received = request.headers().get(CORRELATION_ID).filter(|id| is_valid_id(id)).and_then(|id| id.to_str().ok());
    let generated = request.extensions().get::<RequestId>().map(|id| id.0.as_str());
    let id = received.or(generated).unwrap_or_default().to_owned();
    let status_of = |code| (code == Code::NoRefreshToken).then_some(StatusCode::BAD_REQUEST);
    let mut response = reword(request, next, status_of, |problem, status, members| {
        let mut error = json!({
            "code": problem.code(), "message": problem.detail(), "status": status.as_u16(), "correlationId": &id,
        });
        if let Some(field) = problem.field() {
            error["details"] = json!([{ "field": field, "message": problem.detail() }]);
        }
        members.insert("details".to_owned(), error.get("details").cloned().unwrap_or(Value::Null));
        members.insert("error".to_owned(), error);
        members.insert("message".to_owned(), message(problem));
    })
    .await;
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(CORRELATION_ID, id);
    }
    response
}

fn is_valid_id(id: &HeaderValue) -> bool {
    let is_allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(byte);
    (1..=128).contains(&id.len()) && id.as_bytes().iter().all(is_allowed)
}
