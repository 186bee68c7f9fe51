//! Sign-in with Discord or Google (OAuth 2.0).

use axum::http::{HeaderMap, header};
use axum::{extract::State, response::Redirect};
use dca_core::accounts::providers::{self, AuthorizationRequest, SignInOutcome};
use dca_core::{accounts::Principal, users::Provider};

use super::{auth, page_text::PageText, pages};
use crate::{http::prelude::*, wording};

/// The lifetime of the cookie with the OAuth state, in seconds.
const STATE_SECONDS: i64 = 600;

/// The start of a sign-in.
#[derive(Serialize, ToSchema)]
pub(crate) struct AuthorizationUrl {
    /// The provider's authorization page, to open in the browser.
    #[serde(rename = "authUrl")]
    #[schema(format = "uri")]
    auth_url: String,
}

/// Starts a sign-in or a link with `request`, and returns the URL of the provider's authorization page.
async fn start(
    app: &App,
    cookies: &mut Cookies,
    provider: Provider,
    request: impl Future<Output = dca_core::Result<AuthorizationRequest>>,
) -> Result<String, Problem> {
    let not_configured =
        || Problem::new(Code::NotFound, format!("Sign-in with {} is not set up here.", wording::provider(provider)));
    let provider_client = app.oauth_providers.get(provider).ok_or_else(not_configured)?;
    let request = request.await?;
    cookies.set(CookieKind::OAuthState, &request.state, STATE_SECONDS);
    Ok(provider_client.authorize_url(&request.state, &request.verifier))
}

/// Sign in with a provider
///
/// Redirects to the authorization page of `discord` or `google`.
#[utoipa::path(get, path = "/auth/{provider}", tag = "accounts", params(("provider" = schemas::Provider, Path)),
    responses((status = 302, description = "Redirect to the provider"), Refusals))]
pub(crate) async fn begin(
    State(app): State<App>,
    PathParams(provider): PathParams<Provider>,
    mut cookies: Cookies,
) -> Result<Response, Problem> {
    let url = start(&app, &mut cookies, provider, providers::start_sign_in(&app.core, provider)).await?;
    Ok((cookies, redirect(&url)).into_response())
}

/// Start a sign-in with a provider
///
/// Returns the URL of the authorization page, for clients that open it themselves.
#[utoipa::path(post, path = "/auth/{provider}", tag = "accounts", params(("provider" = schemas::Provider, Path)),
    responses((status = 200, body = AuthorizationUrl), Refusals))]
pub(crate) async fn begin_as_json(
    State(app): State<App>,
    PathParams(provider): PathParams<Provider>,
    mut cookies: Cookies,
) -> Result<(Cookies, Json<AuthorizationUrl>), Problem> {
    let auth_url = start(&app, &mut cookies, provider, providers::start_sign_in(&app.core, provider)).await?;
    Ok((cookies, Json(AuthorizationUrl { auth_url })))
}

/// The parameters that the provider sends to the callback.
#[derive(Default, Deserialize, IntoParams, ToSchema)]
pub(crate) struct OAuthCallbackParams {
    #[param(nullable = false)]
    code: Option<String>,
    #[param(nullable = false)]
    state: Option<String>,
    /// The error code, if there is no `code`.
    #[param(nullable = false)]
    error: Option<String>,
}

/// Complete a sign-in with a provider
///
/// The provider redirects the browser here. Redirects to `/auth/cb` of the frontend if one is configured, with the query
/// `linked=true` after a link, `emailInUse=true` if another account has the email address of the new one, or `error` and
/// the code of the problem; otherwise returns a page or JSON.
#[utoipa::path(get, path = "/auth/{provider}/callback", tag = "accounts",
    params(("provider" = schemas::Provider, Path), OAuthCallbackParams),
    responses((status = 200, body = TokensView), (status = 302, description = "Redirect to the frontend"), Refusals))]
pub(crate) async fn callback(
    PathParams(provider): PathParams<Provider>,
    mut cookies: Cookies,
    client: Client,
    headers: HeaderMap,
    Query(returned): Query<OAuthCallbackParams>,
) -> Response {
    // Browsers must return the state in the URL. Only the POST callback accepts the cookie alone.
    let returned = OAuthCallbackParams { state: Some(returned.state.unwrap_or_default()), ..returned };
    let outcome = handle_callback(&client, provider, None, &cookies, returned).await;
    cookies.clear(CookieKind::OAuthState);
    let frontend = client.app.config.accounts.frontend_url.as_ref();
    let response = match outcome {
        Ok(outcome) => outcome_response(&client, &mut cookies, &headers, outcome).await,
        Err(refused) => Ok(match frontend {
            Some(frontend) => redirect(&format!("{frontend}/auth/cb?error={}", refused.code)),
            None => pages::problem_page(&client.app, &headers, refused),
        }),
    };
    (cookies, response).into_response()
}

async fn outcome_response(
    client: &Client,
    cookies: &mut Cookies,
    headers: &HeaderMap,
    outcome: SignInOutcome,
) -> Result<Response, Problem> {
    let app = &client.app;
    match outcome {
        SignInOutcome::SignedIn(signed_in) => {
            // Browsers get the native cookie, whichever path the provider redirects them to.
            cookies.set_session(app, CookieKind::Refresh, &signed_in);
            let is_email_in_use = signed_in.is_email_in_use;
            if let Some(frontend) = &app.config.accounts.frontend_url {
                let query = if is_email_in_use { "?emailInUse=true" } else { "" };
                return Ok(redirect(&format!("{frontend}/auth/cb{query}")));
            }
            if pages::wants_page(headers) {
                let text = if is_email_in_use { PageText::EmailInUse } else { PageText::SignedIn };
                return Ok(pages::text_page(app, headers, text));
            }
            Ok(auth::tokens(client, *signed_in, RefreshTokenIn::Body).await?.into_response())
        }
        SignInOutcome::SecondFactorRequired(token) => {
            cookies.set(CookieKind::SecondFactor, &token, auth::SECOND_FACTOR_SECONDS);
            if pages::wants_page(headers) {
                return Ok(Redirect::to("/second-factor").into_response());
            }
            Ok(Problem::second_factor_required(token).into_response())
        }
        SignInOutcome::Linked(_) => match &app.config.accounts.frontend_url {
            Some(frontend) => Ok(redirect(&format!("{frontend}/auth/cb?linked=true"))),
            None => Ok(pages::text_page(app, headers, PageText::Linked)),
        },
    }
}

/// A redirect with status 302, as earlier clients expect; axum's `Redirect` has no 302.
fn redirect(url: &str) -> Response {
    (StatusCode::FOUND, [(header::LOCATION, url)]).into_response()
}

/// Complete a sign-in with a provider by POST
///
/// For clients that receive the provider's redirect themselves. Requires the cookie that was set when the sign-in
/// started.
#[utoipa::path(post, path = "/auth/{provider}/callback", tag = "accounts", params(("provider" = schemas::Provider, Path)),
    request_body = OAuthCallbackParams, responses((status = 200, body = TokensView), Refusals))]
pub(crate) async fn callback_as_json(
    PathParams(provider): PathParams<Provider>,
    mut cookies: Cookies,
    client: Client,
    JsonBody(returned): JsonBody<OAuthCallbackParams>,
) -> Result<Response, Problem> {
    let outcome = handle_callback(&client, provider, None, &cookies, returned).await?;
    cookies.clear(CookieKind::OAuthState);
    auth::respond(&client, cookies, outcome, RefreshTokenIn::Body).await
}

/// Verifies the state, fetches the profile from the provider and completes the sign-in, or links it to a user, who may
/// confirm that with a password.
async fn handle_callback(
    client: &Client,
    provider: Provider,
    link: Option<(&Principal, Option<&str>)>,
    cookies: &Cookies,
    returned: OAuthCallbackParams,
) -> Result<SignInOutcome, Problem> {
    let app = &client.app;
    let cookie = cookies.get(CookieKind::OAuthState)?;
    let mut callback = providers::verify_callback(&app.core, provider, cookie, returned.state.as_deref()).await?;
    if let Some((principal, password)) = link {
        callback = callback.link_to(&app.core, &client.info, principal, password).await?;
    }
    let failed = |detail: &str| Problem::new(Code::SignInFailed, detail);
    let code = match (returned.error, returned.code) {
        (None, Some(code)) => code,
        (Some(_), _) => return Err(failed("The sign-in was cancelled, or the provider declined it. Start again.")),
        (None, None) => return Err(failed("The provider returned no code. Start again.")),
    };
    let profile = app.oauth_providers.fetch_profile(provider, &code, &callback.verifier).await.map_err(|error| {
        tracing::warn!(%provider, error = format!("{error:#}"), "cannot fetch the profile from the provider");
        failed(&format!("{} did not confirm the sign-in. Start again.", wording::provider(provider)))
    })?;
    Ok(providers::complete_sign_in(&app.core, &client.info, &callback, profile).await?)
}

/// The parameters that the provider sent to the client's own callback, if any.
#[derive(Default, Deserialize, ToSchema)]
pub(crate) struct LinkRequest {
    code: Option<String>,
    state: Option<String>,
    error: Option<String>,
    /// Required if the sign-in was more than 15 minutes ago.
    password: Option<String>,
}

/// Link a provider account
///
/// Without a `code`, returns the URL of the authorization page. With a `code`, completes the link. Requires the password,
/// or a sign-in of the last 15 minutes. The user is notified by email.
#[utoipa::path(post, path = "/auth/{provider}/link", tag = "accounts", security(("bearer" = [])),
    params(("provider" = schemas::Provider, Path)), request_body = Option<LinkRequest>,
    responses((status = 200, body = AuthorizationUrl), Refusals))]
pub(crate) async fn link(
    PathParams(provider): PathParams<Provider>,
    client: Client,
    user: CurrentUser,
    mut cookies: Cookies,
    OptionalJson(form): OptionalJson<LinkRequest>,
) -> Result<Response, Problem> {
    let password = form.password.as_deref();
    let returned = OAuthCallbackParams { code: form.code, state: form.state, error: form.error };
    if returned.code.is_none() && returned.error.is_none() {
        let request = providers::start_link(&user.app.core, &client.info, &user.principal, provider, password);
        let auth_url = start(&user.app, &mut cookies, provider, request).await?;
        return Ok((cookies, Json(AuthorizationUrl { auth_url })).into_response());
    }
    handle_callback(&client, provider, Some((&user.principal, password)), &cookies, returned).await?;
    cookies.clear(CookieKind::OAuthState);
    Ok((cookies, Message::json("Linked")).into_response())
}

/// The password of the signed-in user.
#[derive(Default, Deserialize, ToSchema)]
pub(crate) struct PasswordRequest {
    /// Required if the sign-in was more than 15 minutes ago.
    password: Option<String>,
}

/// Unlink a provider account
///
/// Requires the password, or a sign-in of the last 15 minutes. The user is notified by email.
#[utoipa::path(post, path = "/auth/{provider}/unlink", tag = "accounts", security(("bearer" = [])),
    params(("provider" = schemas::Provider, Path)), request_body = Option<PasswordRequest>,
    responses((status = 200, body = Message), Refusals))]
pub(crate) async fn unlink(
    PathParams(provider): PathParams<Provider>,
    client: Client,
    user: CurrentUser,
    OptionalJson(form): OptionalJson<PasswordRequest>,
) -> JsonResult<Message> {
    let password = form.password.as_deref();
    providers::unlink(&user.app.core, &client.info, &user.principal, provider, password).await?;
    Ok(Message::json("Unlinked"))
}
