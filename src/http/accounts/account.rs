//! The signed-in user's own account: profile, sessions, password, two-factor authentication and data export.

use axum::http::{HeaderMap, HeaderValue, header};
use dca_core::accounts::{self, Profile, erasure, second_factor, sessions};
use dca_core::users::Locale;

use crate::http::prelude::*;

/// Check the access token
#[utoipa::path(get, path = "/auth/check", tag = "accounts", security(("bearer" = [])),
    responses((status = 200, body = Value), Refusals))]
pub(crate) async fn check(_: CurrentUser) -> Json<Value> {
    Json(json!({ "ok": true }))
}

/// Retrieve your account
#[utoipa::path(get, path = "/me", tag = "accounts", security(("bearer" = [])),
    responses((status = 200, body = UserView), Refusals))]
pub(crate) async fn profile(user: CurrentUser) -> JsonResult<UserView> {
    user.dialect.user_view(&user.app.core, user.principal.user).await
}

/// Retrieve your account and session
#[utoipa::path(get, path = "/auth/me", tag = "accounts", security(("bearer" = [])),
    responses((status = 200, body = MeView), Refusals))]
pub(crate) async fn with_session(user: CurrentUser) -> JsonResult<MeView> {
    let session = SessionView::of(user.principal.session.clone(), user.principal.session.id);
    let user = user.dialect.user(UserView::of(&user.app.core, user.principal.user).await?);
    Ok(Json(MeView { fields: user.clone(), user, session }))
}

/// The fields to change. Other fields are ignored.
#[derive(Deserialize, ToSchema)]
pub(crate) struct ChangeRequest {
    /// The display name: one line of 1 to 100 characters. `username` is accepted as an alias.
    #[serde(alias = "username")]
    #[schema(max_length = 100, example = "Ana")]
    name: Option<String>,
    #[schema(value_type = Option<schemas::Locale>)]
    locale: Option<Locale>,
    /// The new email address. It changes once the link sent to it is confirmed.
    #[schema(format = Email, example = "ana@example.com")]
    email: Option<String>,
    /// Required for a new email address if you signed in more than 15 minutes ago.
    #[serde(alias = "currentPassword", alias = "current_password")]
    #[schema(format = Password, example = "plow-Ketchup-41")]
    password: Option<String>,
}

/// Update your account
///
/// A new email address gets a link to confirm it, valid for an hour. Until then, the account keeps the old address, which
/// is then told of the change. The response does not reveal whether the email has an account.
#[utoipa::path(patch, path = "/me", tag = "accounts", security(("bearer" = [])), request_body = ChangeRequest,
    responses((status = 200, body = UserView), Refusals))]
pub(crate) async fn change(
    client: Client,
    user: CurrentUser,
    JsonBody(form): JsonBody<ChangeRequest>,
) -> JsonResult<UserView> {
    let change = Profile { name: form.name, locale: form.locale, email: form.email, password: form.password };
    let changed = accounts::change_profile(&user.app.core, &client.info, &user.principal, change).await?;
    user.dialect.user_view(&user.app.core, changed).await
}

/// The credentials that confirm a sensitive operation.
#[derive(Default, Deserialize, ToSchema)]
pub(crate) struct ConfirmRequest {
    /// Required if the account has a password.
    #[schema(format = Password, example = "plow-Ketchup-41")]
    password: Option<String>,
    /// A two-factor code. Required if two-factor authentication is enabled.
    #[serde(rename = "twoFactorCode", alias = "code")]
    #[schema(example = "123456")]
    code: Option<String>,
}

/// Delete your account
///
/// Ends all sessions and schedules the deletion in 14 days. Sign in before then to cancel it.
#[utoipa::path(delete, path = "/me", tag = "accounts", security(("bearer" = [])), request_body = ConfirmRequest,
    responses((status = 202, body = Value), Refusals))]
pub(crate) async fn delete(
    client: Client,
    user: CurrentUser,
    OptionalJson(form): OptionalJson<ConfirmRequest>,
) -> StatusResult<Value> {
    let (password, code) = (form.password.as_deref(), form.code.as_deref());
    let deletion_at = erasure::schedule(&user.app.core, &client.info, &user.principal, password, code).await?;
    let message = "Your account will be deleted. Sign in before then to keep it.";
    Ok((StatusCode::ACCEPTED, Json(json!({ "message": message, "deletionAt": deletion_at }))))
}

/// Export your data
///
/// Returns all data stored about you.
#[utoipa::path(get, path = "/me/export", tag = "accounts", security(("bearer" = [])),
    responses((status = 200, body = Value), Refusals))]
pub(crate) async fn export(user: CurrentUser) -> Result<(HeaderMap, Json<Value>), Problem> {
    let disposition = HeaderValue::from_static("attachment; filename=\"account.json\"");
    let headers = HeaderMap::from_iter([(header::CONTENT_DISPOSITION, disposition)]);
    Ok((headers, Json(erasure::export(&user.app.core, &user.principal).await?)))
}

/// The current and the new password.
#[derive(Deserialize, ToSchema)]
pub(crate) struct ChangePasswordRequest {
    #[serde(rename = "currentPassword", alias = "current_password", alias = "oldPassword")]
    #[schema(format = Password, example = "plow-Ketchup-41")]
    current: String,
    /// 8 to 128 characters. Passwords that are easy to guess are rejected.
    #[serde(rename = "newPassword", alias = "new_password", alias = "password")]
    #[schema(format = Password, min_length = 8, max_length = 128, example = "brass-Lantern-92")]
    new: String,
}

/// Change your password
///
/// Ends all your other sessions.
#[utoipa::path(post, path = "/auth/change-password", tag = "accounts", security(("bearer" = [])),
    request_body = ChangePasswordRequest, responses((status = 200, body = Message), Refusals))]
pub(crate) async fn change_password(
    client: Client,
    user: CurrentUser,
    JsonBody(form): JsonBody<ChangePasswordRequest>,
) -> JsonResult<Message> {
    accounts::change_password(&user.app.core, &client.info, &user.principal, &form.current, &form.new).await?;
    Ok(Message::json("Password changed"))
}

/// List your sessions
#[utoipa::path(get, path = "/auth/sessions", tag = "accounts", security(("bearer" = [])),
    responses((status = 200, body = [SessionView]), Refusals))]
pub(crate) async fn sessions(user: CurrentUser) -> JsonResult<Vec<SessionView>> {
    let live = sessions::list(&user.app.core, user.principal.user.id).await?;
    Ok(Json(live.into_iter().map(|session| SessionView::of(session, user.principal.session.id)).collect()))
}

/// End one of your sessions
#[utoipa::path(delete, path = "/auth/sessions/{id}", tag = "accounts", security(("bearer" = [])),
    params(("id" = Uuid, Path)), responses((status = 200, body = Message), Refusals))]
pub(crate) async fn end_session(user: CurrentUser, PathParams(id): PathParams<Uuid>) -> JsonResult<Message> {
    sessions::end(&user.app.core, user.principal.user.id, SessionId(id)).await?;
    Ok(Message::json("Session revoked"))
}

/// Set up two-factor authentication
///
/// Returns a secret for an authenticator app. Confirm it with a code at `/auth/2fa/enable`.
#[utoipa::path(post, path = "/auth/2fa/setup", tag = "accounts", security(("bearer" = [])),
    request_body = Option<ConfirmRequest>, responses((status = 200, body = TotpSetupView), Refusals))]
pub(crate) async fn set_up_second_factor(
    client: Client,
    user: CurrentUser,
    OptionalJson(form): OptionalJson<ConfirmRequest>,
) -> JsonResult<TotpSetupView> {
    let setup = second_factor::set_up(&user.app.core, &client.info, &user.principal, form.password.as_deref()).await?;
    Ok(Json(user.dialect.totp_setup(TotpSetupView::of(setup)?)))
}

/// A two-factor code.
#[derive(Deserialize, ToSchema)]
pub(crate) struct CodeRequest {
    #[serde(alias = "twoFactorCode", alias = "token")]
    #[schema(example = "123456")]
    code: String,
}

/// Enable two-factor authentication
///
/// Requires a code from the authenticator app. Returns recovery codes and ends all your other sessions.
#[utoipa::path(post, path = "/auth/2fa/enable", tag = "accounts", security(("bearer" = [])),
    request_body = CodeRequest, responses((status = 200, body = RecoveryCodesView), Refusals))]
pub(crate) async fn enable_second_factor(
    client: Client,
    user: CurrentUser,
    JsonBody(form): JsonBody<CodeRequest>,
) -> JsonResult<RecoveryCodesView> {
    let recovery_codes = second_factor::enable(&user.app.core, &client.info, &user.principal, &form.code).await?;
    Ok(Json(user.dialect.recovery_codes(RecoveryCodesView { recovery_codes, names: Names::new() })))
}

/// Disable two-factor authentication
#[utoipa::path(post, path = "/auth/2fa/disable", tag = "accounts", security(("bearer" = [])),
    request_body = ConfirmRequest, responses((status = 200, body = Message), Refusals))]
pub(crate) async fn disable_second_factor(
    client: Client,
    user: CurrentUser,
    JsonBody(form): JsonBody<ConfirmRequest>,
) -> JsonResult<Message> {
    let code = form.code.unwrap_or_default();
    second_factor::disable(&user.app.core, &client.info, &user.principal, form.password.as_deref(), &code).await?;
    Ok(Message::json("Second factor removed"))
}

/// Replace your recovery codes
///
/// The previous codes become invalid.
#[utoipa::path(post, path = "/auth/2fa/recovery-codes", tag = "accounts", security(("bearer" = [])),
    request_body = CodeRequest, responses((status = 200, body = RecoveryCodesView), Refusals))]
pub(crate) async fn renew_recovery_codes(
    client: Client,
    user: CurrentUser,
    JsonBody(form): JsonBody<CodeRequest>,
) -> JsonResult<RecoveryCodesView> {
    let recovery_codes =
        second_factor::renew_recovery_codes(&user.app.core, &client.info, &user.principal, &form.code).await?;
    Ok(Json(user.dialect.recovery_codes(RecoveryCodesView { recovery_codes, names: Names::new() })))
}
