//! Sign-up, email verification, sign-in, token refresh, sign-out and password reset.

use axum::extract::State;
use dca_core::accounts::providers::{self, SignInOutcome};
use dca_core::accounts::{self, EmailVerification, SignIn, SignUp, SignedIn, sessions};

use crate::http::prelude::*;

/// The account to create.
#[derive(Deserialize, ToSchema)]
pub(crate) struct SignUpRequest {
    #[schema(format = Email, example = "ana@example.com")]
    email: String,
    /// 8 to 128 characters. Passwords that are easy to guess are rejected.
    #[schema(format = Password, min_length = 8, max_length = 128, example = "plow-Ketchup-41")]
    password: String,
    /// The display name: one line of 1 to 100 characters. `username` is accepted as an alias.
    #[serde(alias = "username")]
    #[schema(max_length = 100, example = "Ana")]
    name: String,
}

/// Create an account
///
/// Sends an email with a verification link. If the email already has an account, its owner is notified instead;
/// the response is the same. Sets a cookie, so that the link needs no password in this browser.
#[utoipa::path(post, path = "/auth/signup", tag = "accounts", request_body = SignUpRequest,
    responses((status = 201, body = SignUpView), Refusals))]
pub(crate) async fn sign_up(
    mut cookies: Cookies,
    client: Client,
    JsonBody(form): JsonBody<SignUpRequest>,
) -> Result<(StatusCode, Cookies, Json<SignUpView>), Problem> {
    let (core, created_at) = (&client.app.core, client.app.core.clock.now());
    let (email, name) = (form.email.trim().to_owned(), form.name.trim().to_owned());
    let form = SignUp { email: form.email, password: form.password, name: form.name };
    let signed_up = accounts::sign_up(core, &client.info, form).await?;
    cookies.set(CookieKind::SignUp, &signed_up.proof, SIGN_UP_SECONDS);
    let (user_id, message) = (signed_up.user.0, "User created. Please verify your email.");
    let view = SignUpView { message, user_id, email, name, created_at, names: Names::new() };
    Ok((StatusCode::CREATED, cookies, Json(client.dialect.sign_up(view))))
}

/// The lifetime of the sign-up cookie, in seconds: that of the verification link.
const SIGN_UP_SECONDS: i64 = 24 * 3_600;

/// The token of a verification link.
#[derive(Deserialize, ToSchema)]
pub(crate) struct VerifyRequest {
    token: String,
    /// The password of the sign-up. Without it, the password stays only if this browser signed up.
    password: Option<String>,
}

/// Verify an email
///
/// Requires the token from the verification email, or from the email that confirms a new address. If neither this browser signed up nor the password is sent, the
/// password of the sign-up is deleted, because someone else may have chosen it, and the user gets an email with a link to
/// choose one.
#[utoipa::path(post, path = "/auth/verify-email", tag = "accounts", request_body = VerifyRequest,
    responses((status = 201, body = VerifiedView), Refusals))]
pub(crate) async fn verify_email(
    client: Client,
    JsonBody(form): JsonBody<VerifyRequest>,
) -> StatusResult<VerifiedView> {
    let password = form.password.as_deref();
    let outcome = accounts::verify_email(&client.app.core, &client.info, &form.token, password).await?;
    let password_required = outcome == EmailVerification::NeedsPassword;
    Ok((StatusCode::CREATED, Json(VerifiedView { message: "Email verified successfully", password_required })))
}

/// The email of an account.
#[derive(Deserialize, ToSchema)]
pub(crate) struct EmailRequest {
    #[schema(format = Email, example = "ana@example.com")]
    email: String,
}

/// Resend the verification email
///
/// The response does not reveal whether the email has an account.
#[utoipa::path(post, path = "/auth/resend-verification", tag = "accounts", request_body = EmailRequest,
    responses((status = 201, body = Message), Refusals))]
pub(crate) async fn resend_verification(
    client: Client,
    JsonBody(form): JsonBody<EmailRequest>,
) -> StatusResult<Message> {
    accounts::resend_verification(&client.app.core, &client.info, &form.email).await?;
    Ok((StatusCode::CREATED, Message::json("If that email needs it, a verification link has been sent.")))
}

/// The credentials of an account.
#[derive(Deserialize, ToSchema)]
pub(crate) struct SignInRequest {
    /// The email address, the ID of a linked Discord account, or a name that no other user has. `identifier`, `username`
    /// and `discordId` are accepted as aliases.
    #[serde(alias = "identifier", alias = "username", alias = "discordId")]
    #[schema(example = "ana@example.com")]
    email: String,
    #[schema(format = Password, example = "plow-Ketchup-41")]
    password: String,
    /// A code from the authenticator app, or a recovery code. Required if two-factor authentication is enabled.
    #[serde(rename = "twoFactorCode", alias = "code")]
    #[schema(example = "123456")]
    two_factor_code: Option<String>,
}

/// Sign in
///
/// Returns an access token and sets the refresh token as a cookie.
#[utoipa::path(post, path = "/auth/login", tag = "accounts", request_body = SignInRequest,
    responses((status = 200, body = TokensView), Refusals))]
pub(crate) async fn sign_in(
    cookies: Cookies,
    client: Client,
    JsonBody(form): JsonBody<SignInRequest>,
) -> Result<Response, Problem> {
    let form = SignIn { identifier: form.email, password: form.password, code: form.two_factor_code };
    let outcome = accounts::sign_in(&client.app.core, &client.info, form).await?;
    respond(&client, cookies, outcome, client.dialect.system.refresh_token_in).await
}

/// The response to a sign-in, or the problem that asks for its second factor.
pub(super) async fn respond(
    client: &Client,
    mut cookies: Cookies,
    outcome: SignInOutcome,
    place: RefreshTokenIn,
) -> Result<Response, Problem> {
    let response = match outcome {
        SignInOutcome::SignedIn(signed_in) => {
            cookies.set_session(&client.app, client.dialect.system.refresh_cookie, &signed_in);
            tokens(client, *signed_in, place).await?.into_response()
        }
        SignInOutcome::SecondFactorRequired(token) => {
            cookies.set(CookieKind::SecondFactor, &token, SECOND_FACTOR_SECONDS);
            Problem::second_factor_required(token).into_response()
        }
        SignInOutcome::Linked(_) => Message::json("Linked").into_response(),
    };
    Ok((cookies, response).into_response())
}

/// The lifetime of the cookie of a sign-in that waits for its second factor, in seconds.
pub(super) const SECOND_FACTOR_SECONDS: i64 = 600;

/// The tokens of a session in the dialect of the client.
pub(super) async fn tokens(client: &Client, signed_in: SignedIn, place: RefreshTokenIn) -> JsonResult<TokensView> {
    Ok(Json(client.dialect.tokens(TokensView::of(&client.app.core, signed_in, place).await?)))
}

/// A two-factor code for a pending sign-in.
#[derive(Deserialize, ToSchema)]
pub(crate) struct SecondFactorRequest {
    /// A code from the authenticator app, or a recovery code. `token` is accepted as an alias.
    #[serde(alias = "twoFactorCode", alias = "token")]
    #[schema(example = "123456")]
    code: String,
    /// The `twoFactorToken` of the problem that asked for the code. If omitted, it is read from the cookie.
    #[serde(rename = "twoFactorToken")]
    token: Option<String>,
}

/// Complete a sign-in with a two-factor code
///
/// For sign-ins that were answered with `REQUIRES_2FA`.
#[utoipa::path(post, path = "/auth/2fa/verify", tag = "accounts", request_body = SecondFactorRequest,
    responses((status = 200, body = TokensView), Refusals))]
pub(crate) async fn second_factor(
    mut cookies: Cookies,
    client: Client,
    JsonBody(form): JsonBody<SecondFactorRequest>,
) -> Result<Response, Problem> {
    let token = match form.token.as_deref() {
        Some(token) => token,
        None => cookies.get(CookieKind::SecondFactor)?.unwrap_or_default(),
    };
    let signed_in = providers::complete_with_second_factor(&client.app.core, &client.info, token, &form.code).await?;
    cookies.clear(CookieKind::SecondFactor);
    let outcome = SignInOutcome::SignedIn(Box::new(signed_in));
    respond(&client, cookies, outcome, client.dialect.system.refresh_token_in).await
}

/// A refresh token, for clients that store it themselves. Other clients send it as a cookie.
#[derive(Default, Deserialize, ToSchema)]
pub(crate) struct RefreshRequest {
    #[serde(rename = "refreshToken", alias = "refresh_token")]
    refresh_token: Option<String>,
}

/// Refresh the tokens
///
/// Exchanges a refresh token for a new access token and a new refresh token. Each refresh token can be used once.
/// A retry within ten seconds returns the same tokens; using it later ends all sessions of the user.
#[utoipa::path(post, path = "/auth/refresh", tag = "accounts", request_body = Option<RefreshRequest>,
    responses((status = 200, body = TokensView), Refusals))]
pub(crate) async fn refresh(
    mut cookies: Cookies,
    client: Client,
    OptionalJson(form): OptionalJson<RefreshRequest>,
) -> Result<Response, Problem> {
    // A cookie of another dialect is replaced under its own name.
    let kind = find_refresh_cookie(client.dialect, &cookies)?;
    let (token, place) = match form.refresh_token {
        Some(token) => (Some(token), RefreshTokenIn::Body),
        None => (cookies.get_session(kind)?.map(str::to_owned), RefreshTokenIn::Cookie),
    };
    let Some(token) = token else { return Err(Problem::of(Code::NoRefreshToken)) };
    match sessions::refresh(&client.app.core, &client.info, &token).await {
        Ok(signed_in) => {
            cookies.set_session(&client.app, kind, &signed_in);
            Ok((cookies, tokens(&client, signed_in, place).await?).into_response())
        }
        // Remove the invalid cookie.
        Err(refused @ dca_core::Error::Refused(_)) if place == RefreshTokenIn::Cookie => {
            cookies.clear_session(&[kind]);
            Ok((cookies, Problem::from(refused)).into_response())
        }
        Err(other) => Err(other.into()),
    }
}

/// The refresh cookie of the request, preferring that of the route's dialect, which is also the default.
fn find_refresh_cookie(dialect: Dialect, cookies: &Cookies) -> Result<CookieKind, Problem> {
    for kind in dialect.refresh_cookies() {
        if cookies.get(kind)?.is_some() {
            return Ok(kind);
        }
    }
    Ok(dialect.system.refresh_cookie)
}

/// Sign out
///
/// Ends the session of the refresh token in the cookie or body, and of the access token. Succeeds even if there is
/// none.
#[utoipa::path(post, path = "/auth/logout", tag = "accounts", request_body = Option<RefreshRequest>,
    responses((status = 200, body = Message), Refusals))]
pub(crate) async fn sign_out(
    State(app): State<App>,
    dialect: Dialect,
    cookies: Cookies,
    current_user: Result<CurrentUser, Problem>,
    form: Result<OptionalJson<RefreshRequest>, Problem>,
) -> Result<Response, Problem> {
    let form = form.map(|OptionalJson(form)| form).unwrap_or_default();
    let mut tokens: Vec<&str> = form.refresh_token.as_deref().into_iter().collect();
    for kind in dialect.refresh_cookies() {
        match cookies.get_session(kind) {
            Ok(token) => tokens.extend(token),
            Err(denied) if form.refresh_token.is_none() => return Err(denied),
            Err(_) => {}
        }
    }
    for token in tokens {
        sessions::sign_out_by_token(&app.core, token).await?;
    }
    // An expired access token is not an error.
    if let Ok(CurrentUser { principal, .. }) = current_user {
        // The refresh token above may have ended the same session.
        _ = sessions::end(&app.core, principal.user.id, principal.session.id).await;
    }
    Ok(signed_out(dialect, cookies, Message::json("Logged out")))
}

/// Sign out everywhere
///
/// Ends all sessions of the user.
#[utoipa::path(post, path = "/auth/logout-all", tag = "accounts", security(("bearer" = [])),
    responses((status = 200, body = Message), Refusals))]
pub(crate) async fn sign_out_everywhere(cookies: Cookies, user: CurrentUser) -> Result<Response, Problem> {
    sessions::sign_out_everywhere(&user.app.core, user.principal.user.id).await?;
    Ok(signed_out(user.dialect, cookies, Message::json("All sessions revoked")))
}

fn signed_out(dialect: Dialect, mut cookies: Cookies, message: Json<Message>) -> Response {
    cookies.clear_session(&dialect.refresh_cookies());
    (cookies, [("clear-site-data", "\"cache\"")], message).into_response()
}

/// Request a password reset
///
/// Sends an email with a link to set a new password. The response does not reveal whether the email has an account.
#[utoipa::path(post, path = "/auth/reset-password-request", tag = "accounts", request_body = EmailRequest,
    responses((status = 201, body = Message), Refusals))]
pub(crate) async fn request_reset(client: Client, JsonBody(form): JsonBody<EmailRequest>) -> StatusResult<Message> {
    accounts::request_reset(&client.app.core, &client.info, &form.email).await?;
    Ok((StatusCode::CREATED, Message::json("If that email is registered, a reset link has been sent.")))
}

/// The token from the password reset email, and the new password.
#[derive(Deserialize, ToSchema)]
pub(crate) struct ResetRequest {
    token: String,
    /// 8 to 128 characters. Passwords that are easy to guess are rejected. `newPassword` is accepted as an alias.
    #[serde(alias = "newPassword")]
    #[schema(format = Password, min_length = 8, max_length = 128, example = "plow-Ketchup-41")]
    password: String,
}

/// Reset the password
///
/// Ends all sessions of the user. Two-factor authentication stays enabled.
#[utoipa::path(post, path = "/auth/reset-password", tag = "accounts", request_body = ResetRequest,
    responses((status = 201, body = Message), Refusals))]
pub(crate) async fn reset_password(
    State(app): State<App>,
    JsonBody(form): JsonBody<ResetRequest>,
) -> StatusResult<Message> {
    accounts::reset_password(&app.core, &form.token, &form.password).await?;
    Ok((StatusCode::CREATED, Message::json("Password has been reset successfully")))
}
