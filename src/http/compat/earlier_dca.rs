//! The earlier DCA-Auth: its routes under `/api`, its error format `{error: {code, message, …}}`, its
//! `X-Correlation-ID` header, and the refresh token in the body and in a cookie of its own.

use axum::http::StatusCode;
use axum::routing::{get, patch, post};
use axum::{Router, response::Response};
use dca_core::Code;
use serde_json::{Value, json};

use super::dialect::{Conventions, Routes, message};
use crate::http::accounts::views::{RecoveryCodesView, RefreshTokenIn, SignUpView, TokensView, UserView};
use crate::http::accounts::{account, auth, pages, providers};
use crate::http::admin::{roles, sessions, users};
use crate::http::extract::{Client, PathParams};
use crate::{App, http::cookies::CookieKind, http::problem::Problem};

pub(super) static SYSTEM: Conventions = Conventions {
    routes: Routes::Own(routes),
    refresh_cookie: CookieKind::EarlierRefresh("refresh_token"),
    refresh_token_in: RefreshTokenIn::Body,
    double_submit: &["/api/auth/refresh", "/api/auth/logout"],
    correlation_header: Some("x-correlation-id"),
    status,
    error,
    sign_up,
    user,
    tokens,
    recovery_codes,
};

fn routes() -> Router<App> {
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
        .route("/api/auth/verify-email/{token}", get(verify_page))
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
        .route("/api/users", get(users::list))
        .route("/api/users/{id}", patch(users::change).get(users::get).delete(users::delete))
        .route("/api/users/{id}/ban", post(users::ban))
        .route("/api/users/{id}/unban", post(users::unban))
        .route("/api/users/{id}/sessions", get(sessions::sessions).delete(sessions::end_sessions))
        .route("/api/admin/sessions", get(sessions::all_sessions))
        .route("/api/admin/sessions/{id}/revoke", post(sessions::end_session))
        .route("/api/admin/roles", get(roles::roles))
        .route("/api/admin/roles/assign", post(roles::assign_role))
        .route("/api/admin/roles/revoke", post(roles::revoke_role))
}

/// Mail programs prefetch links, so opening the link of an email only shows a page to confirm it.
async fn verify_page(client: Client, PathParams(token): PathParams<String>) -> Response {
    pages::verify_page(&client, &token).await
}

fn status(code: Code) -> Option<StatusCode> {
    matches!(code, Code::ValidationError | Code::NoRefreshToken).then_some(StatusCode::BAD_REQUEST)
}

/// Its server has everything in `error`; its SDKs read `code` and `details` at the top level.
fn error(problem: &Problem, correlation_id: &str) -> Value {
    let mut error = json!({
        "code": problem.code,
        "message": problem.detail,
        "status": problem.http_status().as_u16(),
        "correlationId": correlation_id,
    });
    let details = problem.field.as_deref().map(|field| json!([{ "field": field, "message": problem.detail }]));
    if let Some(details) = &details {
        error["details"] = details.clone();
    }
    json!({ "error": error, "message": message(problem), "details": details })
}

fn sign_up(view: &SignUpView) -> Value {
    json!({ "user_id": view.user_id })
}

fn user(user: &UserView) -> Value {
    json!({ "username": user.name, "roles": [user.role] })
}

fn tokens(tokens: &TokensView) -> Value {
    match &tokens.refresh_token {
        None => Value::Null,
        Some(refresh_token) => json!({ "tokens": {
            "accessToken": tokens.access_token,
            "refreshToken": refresh_token,
            "expiresIn": tokens.expires_in,
            "tokenType": tokens.token_type,
        }}),
    }
}

fn recovery_codes(view: &RecoveryCodesView) -> Value {
    json!({ "backupCodes": view.recovery_codes })
}
