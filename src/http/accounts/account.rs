//! One's own account: profile, sessions, password, second factor, data.

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
};
use chrono::{DateTime, Utc};
use dca_core::{
    accounts::{
        self, Locale, Profile, erasure, second_factor,
        sessions::{self, Session},
    },
    ids::SessionId,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Message, Refusals, UserView};
use crate::{
    App,
    http::{
        extract::{Client, CurrentUser, JsonBody, OptionalJson, PathParams},
        problem::Problem,
    },
};

/// Whether the access token is good.
#[utoipa::path(get, path = "/auth/check", tag = "accounts", security(("bearer" = [])),
    responses((status = 200, body = Value), Refusals))]
pub(in crate::http) async fn check(_: CurrentUser) -> Json<Value> {
    Json(json!({ "ok": true }))
}

/// Who I am.
#[utoipa::path(get, path = "/me", tag = "accounts", security(("bearer" = [])),
    responses((status = 200, body = UserView), Refusals))]
pub(in crate::http) async fn profile(
    State(app): State<App>,
    CurrentUser(principal): CurrentUser,
) -> Result<Json<UserView>, Problem> {
    Ok(Json(UserView::of(&app.core, principal.user).await?))
}

/// A session as its owner sees it.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::http) struct SessionView {
    id: Uuid,
    user_id: Uuid,
    /// How it was opened: `password`, `discord` or `google`.
    method: String,
    /// What the program calls itself.
    user_agent: Option<String>,
    /// The network it was opened from: /24 of IPv4, /64 of IPv6.
    ip: String,
    created_at: DateTime<Utc>,
    /// When it was last refreshed.
    last_seen_at: DateTime<Utc>,
    expires_at: DateTime<Utc>,
    second_factor_at: Option<DateTime<Utc>>,
    /// Whether it is the one that asks.
    current: bool,
}

impl SessionView {
    pub(super) fn of(session: Session, current: SessionId) -> Self {
        Self {
            current: session.id == current,
            id: session.id.0,
            user_id: session.user_id.0,
            method: session.method,
            user_agent: session.agent,
            ip: session.network,
            created_at: session.created_at,
            last_seen_at: session.last_seen_at,
            expires_at: session.expires_at,
            second_factor_at: session.second_factor_at,
        }
    }
}

/// Who I am, and by which session.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct MeView {
    #[serde(flatten)]
    same: UserView,
    user: UserView,
    session: SessionView,
}

/// Who I am, and by which session.
#[utoipa::path(get, path = "/auth/me", tag = "accounts", security(("bearer" = [])),
    responses((status = 200, body = MeView), Refusals))]
pub(in crate::http) async fn with_session(
    State(app): State<App>,
    CurrentUser(principal): CurrentUser,
) -> Result<Json<MeView>, Problem> {
    let session = SessionView::of(principal.session.clone(), principal.session.id);
    let user = UserView::of(&app.core, principal.user).await?;
    Ok(Json(MeView { same: user.clone(), user, session }))
}

/// What may be changed about oneself; every other field is ignored.
#[derive(Deserialize, ToSchema)]
pub(in crate::http) struct ChangeRequest {
    /// One line of 1 to 100 characters; `username` is understood too.
    #[serde(default, alias = "username")]
    name: Option<String>,
    /// `en` or `es`: the language of letters.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    locale: Option<Locale>,
}

/// Change what I am called.
#[utoipa::path(patch, path = "/me", tag = "accounts", security(("bearer" = [])), request_body = ChangeRequest,
    responses((status = 200, body = UserView), Refusals))]
pub(in crate::http) async fn change(
    State(app): State<App>,
    CurrentUser(principal): CurrentUser,
    JsonBody(form): JsonBody<ChangeRequest>,
) -> Result<Json<UserView>, Problem> {
    let change = Profile { name: form.name, locale: form.locale };
    let user = accounts::change_profile(&app.core, &principal, change).await?;
    Ok(Json(UserView::of(&app.core, user).await?))
}

/// My password, and a code, once more.
#[derive(Default, Deserialize, ToSchema)]
pub(in crate::http) struct ConfirmRequest {
    /// Needed where there is one.
    #[serde(default)]
    password: Option<String>,
    /// Needed with a second factor.
    #[serde(default, rename = "twoFactorCode", alias = "code")]
    code: Option<String>,
}

/// Delete my account, in 14 days. Signing in within them takes it back.
#[utoipa::path(delete, path = "/me", tag = "accounts", security(("bearer" = [])), request_body = ConfirmRequest,
    responses((status = 202, body = Value), Refusals))]
pub(in crate::http) async fn delete(
    State(app): State<App>,
    Client(client): Client,
    CurrentUser(principal): CurrentUser,
    OptionalJson(form): OptionalJson<ConfirmRequest>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let at = erasure::plan(&app.core, &client, &principal, form.password.as_deref(), form.code.as_deref()).await?;
    let message = "Your account will be deleted. Sign in before then to keep it.";
    Ok((StatusCode::ACCEPTED, Json(json!({ "message": message, "deletionAt": at }))))
}

/// Everything kept about me.
#[utoipa::path(get, path = "/me/export", tag = "accounts", security(("bearer" = [])),
    responses((status = 200, body = Value), Refusals))]
pub(in crate::http) async fn export(
    State(app): State<App>,
    CurrentUser(principal): CurrentUser,
) -> Result<(HeaderMap, Json<Value>), Problem> {
    let name = HeaderValue::from_static("attachment; filename=\"account.json\"");
    let headers = HeaderMap::from_iter([(header::CONTENT_DISPOSITION, name)]);
    Ok((headers, Json(erasure::export(&app.core, &principal).await?)))
}

/// Both passwords.
#[derive(Deserialize, ToSchema)]
pub(in crate::http) struct ChangePasswordRequest {
    #[serde(rename = "currentPassword", alias = "current_password", alias = "oldPassword")]
    current: String,
    /// 8 to 128 characters, and not easy to guess.
    #[serde(rename = "newPassword", alias = "new_password", alias = "password")]
    new: String,
}

/// Change my password. Every other session ends.
#[utoipa::path(post, path = "/auth/change-password", tag = "accounts", security(("bearer" = [])),
    request_body = ChangePasswordRequest, responses((status = 200, body = Message), Refusals))]
pub(in crate::http) async fn change_password(
    State(app): State<App>,
    Client(client): Client,
    CurrentUser(principal): CurrentUser,
    JsonBody(form): JsonBody<ChangePasswordRequest>,
) -> Result<Json<Message>, Problem> {
    accounts::change_password(&app.core, &client, &principal, &form.current, &form.new).await?;
    Ok(Message::json("Password changed"))
}

/// Where I am signed in.
#[utoipa::path(get, path = "/auth/sessions", tag = "accounts", security(("bearer" = [])),
    responses((status = 200, body = [SessionView]), Refusals))]
pub(in crate::http) async fn sessions(
    State(app): State<App>,
    CurrentUser(principal): CurrentUser,
) -> Result<Json<Vec<SessionView>>, Problem> {
    let live = sessions::list(&app.core, principal.user.id).await?;
    Ok(Json(live.into_iter().map(|session| SessionView::of(session, principal.session.id)).collect()))
}

/// Sign out one of my sessions.
#[utoipa::path(delete, path = "/auth/sessions/{id}", tag = "accounts", security(("bearer" = [])),
    params(("id" = Uuid, Path)), responses((status = 200, body = Message), Refusals))]
pub(in crate::http) async fn end_session(
    State(app): State<App>,
    CurrentUser(principal): CurrentUser,
    PathParams(id): PathParams<Uuid>,
) -> Result<Json<Message>, Problem> {
    sessions::end(&app.core, principal.user.id, SessionId(id)).await?;
    Ok(Message::json("Session revoked"))
}

/// What an authenticator app needs.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::http) struct SetupView {
    /// To be typed in.
    secret: String,
    /// To be shown as a QR code: an `otpauth` link.
    otpauth_url: String,
}

/// Begin to set up a second factor.
#[utoipa::path(post, path = "/auth/2fa/setup", tag = "accounts", security(("bearer" = [])),
    request_body = Option<ConfirmRequest>, responses((status = 200, body = SetupView), Refusals))]
pub(in crate::http) async fn set_up_second_factor(
    State(app): State<App>,
    Client(client): Client,
    CurrentUser(principal): CurrentUser,
    OptionalJson(form): OptionalJson<ConfirmRequest>,
) -> Result<Json<SetupView>, Problem> {
    let made = second_factor::set_up(&app.core, &client, &principal, form.password.as_deref()).await?;
    Ok(Json(SetupView { secret: made.secret, otpauth_url: made.url }))
}

/// A code the app shows.
#[derive(Deserialize, ToSchema)]
pub(in crate::http) struct CodeRequest {
    #[serde(alias = "twoFactorCode", alias = "token")]
    code: String,
}

/// Recovery codes, shown this once.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::http) struct RecoveryView {
    recovery_codes: Vec<String>,
    /// The same as `recoveryCodes`.
    backup_codes: Vec<String>,
}

impl From<Vec<String>> for RecoveryView {
    fn from(codes: Vec<String>) -> Self {
        Self { backup_codes: codes.clone(), recovery_codes: codes }
    }
}

/// Complete it with a code. Every other session ends.
#[utoipa::path(post, path = "/auth/2fa/enable", tag = "accounts", security(("bearer" = [])),
    request_body = CodeRequest, responses((status = 200, body = RecoveryView), Refusals))]
pub(in crate::http) async fn enable_second_factor(
    State(app): State<App>,
    Client(client): Client,
    CurrentUser(principal): CurrentUser,
    JsonBody(form): JsonBody<CodeRequest>,
) -> Result<Json<RecoveryView>, Problem> {
    Ok(Json(second_factor::enable(&app.core, &client, &principal, &form.code).await?.into()))
}

/// Take the second factor away.
#[utoipa::path(post, path = "/auth/2fa/disable", tag = "accounts", security(("bearer" = [])),
    request_body = ConfirmRequest, responses((status = 200, body = Message), Refusals))]
pub(in crate::http) async fn disable_second_factor(
    State(app): State<App>,
    Client(client): Client,
    CurrentUser(principal): CurrentUser,
    JsonBody(form): JsonBody<ConfirmRequest>,
) -> Result<Json<Message>, Problem> {
    let code = form.code.unwrap_or_default();
    second_factor::disable(&app.core, &client, &principal, form.password.as_deref(), &code).await?;
    Ok(Message::json("Second factor removed"))
}

/// New recovery codes; the old ones end.
#[utoipa::path(post, path = "/auth/2fa/recovery-codes", tag = "accounts", security(("bearer" = [])),
    request_body = CodeRequest, responses((status = 200, body = RecoveryView), Refusals))]
pub(in crate::http) async fn renew_recovery_codes(
    State(app): State<App>,
    Client(client): Client,
    CurrentUser(principal): CurrentUser,
    JsonBody(form): JsonBody<CodeRequest>,
) -> Result<Json<RecoveryView>, Problem> {
    Ok(Json(second_factor::renew_recovery_codes(&app.core, &client, &principal, &form.code).await?.into()))
}
