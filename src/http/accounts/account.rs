//! The signed-in user's own account: profile, sessions, password, two-factor authentication and data export.

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
};
use dca_core::{
    accounts::{self, Profile, erasure, second_factor, sessions},
    ids::SessionId,
    users::Locale,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;
use uuid::Uuid;

use super::views::{MeView, Message, Names, RecoveryCodesView, Refusals, SessionView, UserView};
use crate::{
    App,
    http::{
        compat::dialect::Dialect,
        extract::{Client, CurrentUser, JsonBody, OptionalJson, PathParams},
        problem::Problem,
    },
};

/// Check the access token
#[utoipa::path(get, path = "/auth/check", tag = "accounts", security(("bearer" = [])),
    responses((status = 200, body = Value), Refusals))]
pub(crate) async fn check(_: CurrentUser) -> Json<Value> {
    Json(json!({ "ok": true }))
}

/// Retrieve your account
#[utoipa::path(get, path = "/me", tag = "accounts", security(("bearer" = [])),
    responses((status = 200, body = UserView), Refusals))]
pub(crate) async fn profile(
    State(app): State<App>,
    dialect: Dialect,
    CurrentUser(principal): CurrentUser,
) -> Result<Json<UserView>, Problem> {
    Ok(Json(dialect.user(UserView::of(&app.core, principal.user).await?)))
}

/// Retrieve your account and session
#[utoipa::path(get, path = "/auth/me", tag = "accounts", security(("bearer" = [])),
    responses((status = 200, body = MeView), Refusals))]
pub(crate) async fn with_session(
    State(app): State<App>,
    dialect: Dialect,
    CurrentUser(principal): CurrentUser,
) -> Result<Json<MeView>, Problem> {
    let session = SessionView::of(principal.session.clone(), principal.session.id);
    let user = dialect.user(UserView::of(&app.core, principal.user).await?);
    Ok(Json(MeView { fields: user.clone(), user, session }))
}

/// The fields to change. Other fields are ignored.
#[derive(Deserialize, ToSchema)]
pub(crate) struct ChangeRequest {
    /// The display name: one line of 1 to 100 characters. `username` is accepted as an alias.
    #[serde(default, alias = "username")]
    name: Option<String>,
    /// The language of emails: `en` or `es`.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    locale: Option<Locale>,
}

/// Update your account
#[utoipa::path(patch, path = "/me", tag = "accounts", security(("bearer" = [])), request_body = ChangeRequest,
    responses((status = 200, body = UserView), Refusals))]
pub(crate) async fn change(
    State(app): State<App>,
    dialect: Dialect,
    CurrentUser(principal): CurrentUser,
    JsonBody(form): JsonBody<ChangeRequest>,
) -> Result<Json<UserView>, Problem> {
    let change = Profile { name: form.name, locale: form.locale };
    let user = accounts::change_profile(&app.core, &principal, change).await?;
    Ok(Json(dialect.user(UserView::of(&app.core, user).await?)))
}

/// The credentials that confirm a sensitive operation.
#[derive(Default, Deserialize, ToSchema)]
pub(crate) struct ConfirmRequest {
    /// Required if the account has a password.
    #[serde(default)]
    password: Option<String>,
    /// A two-factor code. Required if two-factor authentication is enabled.
    #[serde(default, rename = "twoFactorCode", alias = "code")]
    code: Option<String>,
}

/// Delete your account
///
/// Ends all sessions and schedules the deletion in 14 days. Sign in before then to cancel it.
#[utoipa::path(delete, path = "/me", tag = "accounts", security(("bearer" = [])), request_body = ConfirmRequest,
    responses((status = 202, body = Value), Refusals))]
pub(crate) async fn delete(
    State(app): State<App>,
    Client(client): Client,
    CurrentUser(principal): CurrentUser,
    OptionalJson(form): OptionalJson<ConfirmRequest>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let deletion_at =
        erasure::schedule(&app.core, &client, &principal, form.password.as_deref(), form.code.as_deref()).await?;
    let message = "Your account will be deleted. Sign in before then to keep it.";
    Ok((StatusCode::ACCEPTED, Json(json!({ "message": message, "deletionAt": deletion_at }))))
}

/// Export your data
///
/// Returns all data stored about you.
#[utoipa::path(get, path = "/me/export", tag = "accounts", security(("bearer" = [])),
    responses((status = 200, body = Value), Refusals))]
pub(crate) async fn export(
    State(app): State<App>,
    CurrentUser(principal): CurrentUser,
) -> Result<(HeaderMap, Json<Value>), Problem> {
    let disposition = HeaderValue::from_static("attachment; filename=\"account.json\"");
    let headers = HeaderMap::from_iter([(header::CONTENT_DISPOSITION, disposition)]);
    Ok((headers, Json(erasure::export(&app.core, &principal).await?)))
}

/// The current and the new password.
#[derive(Deserialize, ToSchema)]
pub(crate) struct ChangePasswordRequest {
    #[serde(rename = "currentPassword", alias = "current_password", alias = "oldPassword")]
    current: String,
    /// 8 to 128 characters. Passwords that are easy to guess are rejected.
    #[serde(rename = "newPassword", alias = "new_password", alias = "password")]
    new: String,
}

/// Change your password
///
/// Ends all your other sessions.
#[utoipa::path(post, path = "/auth/change-password", tag = "accounts", security(("bearer" = [])),
    request_body = ChangePasswordRequest, responses((status = 200, body = Message), Refusals))]
pub(crate) async fn change_password(
    State(app): State<App>,
    Client(client): Client,
    CurrentUser(principal): CurrentUser,
    JsonBody(form): JsonBody<ChangePasswordRequest>,
) -> Result<Json<Message>, Problem> {
    accounts::change_password(&app.core, &client, &principal, &form.current, &form.new).await?;
    Ok(Message::json("Password changed"))
}

/// List your sessions
#[utoipa::path(get, path = "/auth/sessions", tag = "accounts", security(("bearer" = [])),
    responses((status = 200, body = [SessionView]), Refusals))]
pub(crate) async fn sessions(
    State(app): State<App>,
    CurrentUser(principal): CurrentUser,
) -> Result<Json<Vec<SessionView>>, Problem> {
    let live = sessions::list(&app.core, principal.user.id).await?;
    Ok(Json(live.into_iter().map(|session| SessionView::of(session, principal.session.id)).collect()))
}

/// End one of your sessions
#[utoipa::path(delete, path = "/auth/sessions/{id}", tag = "accounts", security(("bearer" = [])),
    params(("id" = Uuid, Path)), responses((status = 200, body = Message), Refusals))]
pub(crate) async fn end_session(
    State(app): State<App>,
    CurrentUser(principal): CurrentUser,
    PathParams(id): PathParams<Uuid>,
) -> Result<Json<Message>, Problem> {
    sessions::end(&app.core, principal.user.id, SessionId(id)).await?;
    Ok(Message::json("Session revoked"))
}

/// The secret for an authenticator app.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TotpSetupView {
    /// The secret for manual entry.
    secret: String,
    /// The `otpauth` URL to show as a QR code.
    otpauth_url: String,
}

/// Set up two-factor authentication
///
/// Returns a secret for an authenticator app. Confirm it with a code at `/auth/2fa/enable`.
#[utoipa::path(post, path = "/auth/2fa/setup", tag = "accounts", security(("bearer" = [])),
    request_body = Option<ConfirmRequest>, responses((status = 200, body = TotpSetupView), Refusals))]
pub(crate) async fn set_up_second_factor(
    State(app): State<App>,
    Client(client): Client,
    CurrentUser(principal): CurrentUser,
    OptionalJson(form): OptionalJson<ConfirmRequest>,
) -> Result<Json<TotpSetupView>, Problem> {
    let setup = second_factor::set_up(&app.core, &client, &principal, form.password.as_deref()).await?;
    Ok(Json(TotpSetupView { secret: setup.secret, otpauth_url: setup.url }))
}

/// A two-factor code.
#[derive(Deserialize, ToSchema)]
pub(crate) struct CodeRequest {
    #[serde(alias = "twoFactorCode", alias = "token")]
    code: String,
}

/// Enable two-factor authentication
///
/// Requires a code from the authenticator app. Returns recovery codes and ends all your other sessions.
#[utoipa::path(post, path = "/auth/2fa/enable", tag = "accounts", security(("bearer" = [])),
    request_body = CodeRequest, responses((status = 200, body = RecoveryCodesView), Refusals))]
pub(crate) async fn enable_second_factor(
    State(app): State<App>,
    dialect: Dialect,
    Client(client): Client,
    CurrentUser(principal): CurrentUser,
    JsonBody(form): JsonBody<CodeRequest>,
) -> Result<Json<RecoveryCodesView>, Problem> {
    let recovery_codes = second_factor::enable(&app.core, &client, &principal, &form.code).await?;
    Ok(Json(dialect.recovery_codes(RecoveryCodesView { recovery_codes, names: Names::new() })))
}

/// Disable two-factor authentication
#[utoipa::path(post, path = "/auth/2fa/disable", tag = "accounts", security(("bearer" = [])),
    request_body = ConfirmRequest, responses((status = 200, body = Message), Refusals))]
pub(crate) async fn disable_second_factor(
    State(app): State<App>,
    Client(client): Client,
    CurrentUser(principal): CurrentUser,
    JsonBody(form): JsonBody<ConfirmRequest>,
) -> Result<Json<Message>, Problem> {
    let code = form.code.unwrap_or_default();
    second_factor::disable(&app.core, &client, &principal, form.password.as_deref(), &code).await?;
    Ok(Message::json("Second factor removed"))
}

/// Replace your recovery codes
///
/// The previous codes become invalid.
#[utoipa::path(post, path = "/auth/2fa/recovery-codes", tag = "accounts", security(("bearer" = [])),
    request_body = CodeRequest, responses((status = 200, body = RecoveryCodesView), Refusals))]
pub(crate) async fn renew_recovery_codes(
    State(app): State<App>,
    dialect: Dialect,
    Client(client): Client,
    CurrentUser(principal): CurrentUser,
    JsonBody(form): JsonBody<CodeRequest>,
) -> Result<Json<RecoveryCodesView>, Problem> {
    let recovery_codes = second_factor::renew_recovery_codes(&app.core, &client, &principal, &form.code).await?;
    Ok(Json(dialect.recovery_codes(RecoveryCodesView { recovery_codes, names: Names::new() })))
}
