//! The multi-user auth service: the native routes, with its error format `{message, error, statusCode}`, its names in
//! snake case, and form-encoded bodies.

use axum::http::StatusCode;
use dca_core::Code;
use serde_json::{Value, json};

use super::dialect::{Conventions, NATIVE, message};
use crate::http::accounts::views::{SignUpView, TokensView, UserView};
use crate::http::problem::Problem;

pub(super) static SYSTEM: Conventions = Conventions {
    accepts_forms: true,
    cookie_without_origin: &["/auth/refresh", "/auth/logout"],
    status,
    error,
    sign_up,
    user,
    tokens,
    ..NATIVE
};

fn status(code: Code) -> Option<StatusCode> {
    (code == Code::ValidationError).then_some(StatusCode::BAD_REQUEST)
}

fn error(problem: &Problem, _: &str) -> Value {
    let status = problem.status;
    json!({
        "message": message(problem),
        "error": status.canonical_reason().unwrap_or_default(),
        "statusCode": status.as_u16(),
    })
}

fn sign_up(view: &SignUpView) -> Value {
    json!({ "user_id": view.user_id })
}

fn user(user: &UserView) -> Value {
    json!({
        "id_user": user.id,
        "email_verified": user.is_email_verified,
        "display_name": user.name,
        "surname": null,
        "photo_url": null,
        "phone_number": null,
    })
}

fn tokens(tokens: &TokensView) -> Value {
    json!({ "access_token": tokens.access_token })
}
