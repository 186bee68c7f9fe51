//! The earlier DCA-Auth: its routes under `/api`, its error format `{error: {code, message, …}}`, its
//! `X-Correlation-ID` header, and the refresh token in the body and in a cookie of its own.

use std::collections::HashMap;

use axum::extract::{FromRequest, Request, State};
use axum::routing::{MethodRouter, get, post};
use axum::{Router, middleware::map_response};
use dca_core::{accounts, accounts::admin, users::UserFilter};

use super::dialect::{Conventions, NATIVE, Routes, message};
use super::{earlier_dca_licenses, earlier_dca_management};
use crate::http::accounts::{account, auth, pages, providers};
use crate::http::admin::params::{PageParams, PageQuery, Pagination, ReasonRequest};
use crate::http::admin::{roles, sessions, users};
use crate::http::prelude::*;

pub(super) static SYSTEM: Conventions = Conventions {
    routes: Routes::Own(routes),
    licenses: |native| earlier_dca_licenses::routes(native).merge(earlier_dca_management::routes()),
    refresh_cookie: CookieKind::EarlierRefresh("refresh_token"),
    refresh_token_in: RefreshTokenIn::Body,
    correlation_header: Some("x-correlation-id"),
    status,
    error,
    sign_up,
    user,
    tokens,
    totp_setup,
    recovery_codes,
    ..NATIVE
};

fn routes() -> Router<App> {
    Router::new()
        .route("/api/auth/register", post(auth::sign_up))
        .route("/api/auth/login", post(auth::sign_in))
        .route("/api/auth/refresh", post(auth::refresh))
        .route("/api/auth/logout", post(auth::sign_out))
        .route("/api/auth/logout-all", post(auth::sign_out_everywhere))
        .route("/api/auth/me", get(account::with_session))
        .route("/api/auth/password/reset-request", ok(post(auth::request_reset)))
        .route("/api/auth/password/reset", ok(post(auth::reset_password)))
        .route("/api/auth/verify-email", ok(post(auth::verify_email)))
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
        .route("/api/users/{id}", ok(get(get_user).patch(change_user).delete(users::delete)))
        .route("/api/users/{id}/ban", post(ban))
        .route("/api/users/{id}/unban", post(unban))
        .route("/api/users/{id}/sessions", get(user_sessions).delete(sessions::end_sessions))
        .route("/api/admin/sessions", get(all_sessions))
        .route("/api/admin/sessions/{id}/revoke", post(sessions::end_session))
        .route("/api/admin/roles", get(assigned_roles))
        .route("/api/admin/roles/assign", post(roles::assign_role))
        .route("/api/admin/roles/revoke", post(roles::revoke_role))
}

/// Mail programs prefetch links, so opening the link of an email only shows a page to confirm it.
async fn verify_page(client: Client, PathParams(token): PathParams<String>) -> Response {
    pages::verify_page(&client, &token).await
}

/// Every success is a 200.
fn ok(routes: MethodRouter<App>) -> MethodRouter<App> {
    routes.layer(map_response(async |mut response: Response| {
        if response.status().is_success() {
            *response.status_mut() = StatusCode::OK;
        }
        response
    }))
}

/// Users may read and change their own account under its ID, too.
fn is_own(user: &CurrentUser, id: Uuid) -> bool {
    user.principal.user.id.0 == id
}

async fn get_user(user: CurrentUser, PathParams(id): PathParams<Uuid>) -> JsonResult<UserView> {
    if is_own(&user, id) { account::profile(user).await } else { users::get(user, PathParams(id)).await }
}

async fn change_user(
    State(app): State<App>,
    client: Client,
    user: CurrentUser,
    PathParams(id): PathParams<Uuid>,
    request: Request,
) -> JsonResult<UserView> {
    if is_own(&user, id) {
        let change = JsonBody::from_request(request, &app).await?;
        return Box::pin(account::change(client, user, change)).await;
    }
    Box::pin(users::change(user, PathParams(id), JsonBody::from_request(request, &app).await?)).await
}

async fn user_sessions(user: CurrentUser, PathParams(id): PathParams<Uuid>) -> JsonResult<Vec<SessionView>> {
    if is_own(&user, id) { account::sessions(user).await } else { sessions::sessions(user, PathParams(id)).await }
}

async fn ban(user: CurrentUser, id: PathParams<Uuid>, reason: OptionalJson<ReasonRequest>) -> JsonResult<Value> {
    let Json(banned) = Box::pin(users::ban(user, id, reason)).await?;
    Ok(Json(json!({ "message": "User banned successfully", "user": banned })))
}

async fn unban(user: CurrentUser, id: PathParams<Uuid>) -> JsonResult<Value> {
    let Json(unbanned) = Box::pin(users::unban(user, id)).await?;
    Ok(Json(json!({ "message": "User unbanned successfully", "user": unbanned })))
}

async fn all_sessions(user: CurrentUser, query: Query<PageQuery>) -> JsonResult<Value> {
    let total = accounts::sessions::count(&user.app.core).await?;
    let pagination = Pagination::of(PageParams::of(query.0.page, query.0.limit)?, total);
    let Json(sessions) = sessions::all_sessions(user, query).await?;
    Ok(Json(json!({ "sessions": sessions, "pagination": pagination })))
}

/// How many users have each role, and who has the higher ones.
async fn assigned_roles(user: CurrentUser) -> JsonResult<Value> {
    let core = &user.app.core;
    let (mut summary, mut by_role) = (Vec::new(), HashMap::new());
    for role in Role::ALL {
        let filter = UserFilter { role: Some(*role), ..UserFilter::default() };
        let listed = admin::list(core, user.principal.clone(), &filter, 1, 100).await?;
        summary.push(json!({ "roles": [role], "_count": { "id": listed.total } }));
        let views = UserView::list(core, listed.users).await?;
        let holder = |user: UserView| json!({ "id": user.id, "username": user.name, "discordId": user.discord_id, "roles": [role] });
        by_role.insert(role, views.into_iter().map(holder).collect::<Vec<_>>());
    }
    let mut holders = |role| by_role.remove(&role).unwrap_or_default();
    let admins = [holders(Role::SuperAdmin), holders(Role::Admin)].concat();
    let moderators = holders(Role::Moderator);
    let Json(mut roles) = roles::roles(user).await?;
    roles["summary"] = summary.into();
    roles["admins"] = admins.into();
    roles["moderators"] = moderators.into();
    Ok(Json(roles))
}

fn status(code: Code) -> Option<StatusCode> {
    matches!(code, Code::ValidationError | Code::NoRefreshToken).then_some(StatusCode::BAD_REQUEST)
}

/// Its server has everything in `error`; its SDKs read `code` and `details` at the top level.
fn error(problem: &Problem, correlation_id: &str) -> Value {
    let mut error = json!({
        "code": problem.code,
        "message": problem.detail,
        "status": problem.status.as_u16(),
        "correlationId": correlation_id,
    });
    let known = earlier_dca_licenses::problem(problem.code, &problem.names);
    let (code, known_details) = known.unzip();
    let details = known_details.or_else(|| Some(json!(problem.errors)).filter(|_| !problem.errors.is_empty()));
    if let Some(details) = &details {
        error["details"] = details.clone();
    }
    let code = code.unwrap_or(problem.code.as_str());
    error["code"] = code.into();
    json!({ "error": error, "code": code, "message": message(problem), "details": details })
}

fn sign_up(view: &SignUpView) -> Value {
    let (id, email, username) = (view.user_id, &view.email, &view.name);
    json!({
        "user_id": id,
        "id": id,
        "username": username,
        "user": { "id": id, "email": email, "username": username, "discordId": null, "roles": [Role::User] },
        "requiresEmailVerification": true,
    })
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

fn totp_setup(view: &TotpSetupView) -> Value {
    json!({ "backupCodes": view.recovery_codes })
}

fn recovery_codes(view: &RecoveryCodesView) -> Value {
    json!({ "backupCodes": view.recovery_codes })
}
