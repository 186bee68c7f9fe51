//! Sign-in with Discord or Google (OAuth 2.0).

use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Redirect, Response},
};
use dca_core::{
    Code,
    accounts::{
        ClientInfo, Principal,
        providers::{self, SignInOutcome},
    },
    users::Provider,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Message, Refusals, TokensView, auth::append, pages};
use crate::{
    App,
    http::{
        compat::Dialect,
        cookies::{self, CookieKind, Cookies},
        extract::{Client, CurrentUser, JsonBody, OptionalJson, PathParams, Query},
        problem::Problem,
    },
};

/// The lifetime of the cookie with the OAuth state, in seconds.
const STATE_SECONDS: i64 = 600;

/// The start of a sign-in.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct BeginView {
    /// The provider's authorization page, to open in the browser.
    #[serde(rename = "authUrl")]
    auth_url: String,
}

async fn start(app: &App, provider: Provider, link: Option<&Principal>) -> Result<(HeaderMap, String), Problem> {
    let not_configured =
        || Problem::new(Code::NotFound, format!("Sign-in with {} is not set up here.", provider.description()));
    let provider_client = app.oauth_providers.get(provider).ok_or_else(not_configured)?;
    let request = providers::start_sign_in(&app.core, provider, link).await?;
    let url = provider_client.authorize_url(&request.state, &request.verifier);
    Ok((cookies::set(&app.config, CookieKind::SignIn, &request.state, STATE_SECONDS), url))
}

/// Sign in with a provider
///
/// Redirects to the authorization page of `discord` or `google`.
#[utoipa::path(get, path = "/auth/{provider}", tag = "accounts", params(("provider" = String, Path)),
    responses((status = 302, description = "Redirect to the provider"), Refusals))]
pub(in crate::http) async fn begin(
    State(app): State<App>,
    PathParams(provider): PathParams<Provider>,
) -> Result<Response, Problem> {
    let (cookies, url) = start(&app, provider, None).await?;
    Ok((cookies, redirect(&url)).into_response())
}

/// Start a sign-in with a provider
///
/// Returns the URL of the authorization page, for clients that open it themselves.
#[utoipa::path(post, path = "/auth/{provider}", tag = "accounts", params(("provider" = String, Path)),
    responses((status = 200, body = BeginView), Refusals))]
pub(in crate::http) async fn begin_as_json(
    State(app): State<App>,
    PathParams(provider): PathParams<Provider>,
) -> Result<(HeaderMap, Json<BeginView>), Problem> {
    let (cookies, auth_url) = start(&app, provider, None).await?;
    Ok((cookies, Json(BeginView { auth_url })))
}

/// The parameters that the provider sends to the callback.
#[derive(Default, Deserialize, IntoParams, ToSchema)]
pub(in crate::http) struct Returned {
    #[serde(default)]
    code: Option<String>,
    #[serde(default)]
    state: Option<String>,
    /// The error code, if there is no `code`.
    #[serde(default)]
    error: Option<String>,
}

/// Complete a sign-in with a provider
///
/// The provider redirects the browser here. Redirects to `/auth/cb` of the frontend if one is configured; otherwise
/// returns a page or JSON.
#[utoipa::path(get, path = "/auth/{provider}/callback", tag = "accounts",
    params(("provider" = String, Path), Returned),
    responses((status = 200, body = TokensView), (status = 302, description = "Redirect to the frontend"), Refusals))]
pub(in crate::http) async fn callback(
    State(app): State<App>,
    PathParams(provider): PathParams<Provider>,
    Client(client): Client,
    headers: HeaderMap,
    Query(returned): Query<Returned>,
) -> Response {
    let cleared = cookies::clear(&app.config, &[CookieKind::SignIn]);
    // Browsers must return the state in the URL. Only the POST callback accepts the cookie alone.
    let returned = Returned { state: Some(returned.state.unwrap_or_default()), ..returned };
    let mut response = match handle_callback(&app, provider, &client, None, &headers, returned).await {
        Ok(outcome) => outcome_response(&app, &headers, outcome).await.unwrap_or_else(IntoResponse::into_response),
        Err(refused) => pages::for_browser(&app, &headers, refused),
    };
    append(response.headers_mut(), cleared);
    response
}

async fn outcome_response(app: &App, headers: &HeaderMap, outcome: SignInOutcome) -> Result<Response, Problem> {
    match outcome {
        SignInOutcome::SignedIn(signed_in) => {
            let cookies = cookies::grant(app, Dialect::Native, &signed_in);
            if let Some(frontend) = &app.config.accounts.frontend_url {
                return Ok((cookies, redirect(&format!("{frontend}/auth/cb"))).into_response());
            }
            if pages::wants_page(headers) {
                return Ok((cookies, pages::text_page(app, headers, pages::PageText::SignedIn)).into_response());
            }
            Ok((cookies, Json(TokensView::of(&app.core, *signed_in, true).await?)).into_response())
        }
        SignInOutcome::SecondFactorRequired(token) => {
            let pending = cookies::set(&app.config, CookieKind::SecondFactor, &token, STATE_SECONDS);
            if pages::wants_page(headers) {
                return Ok((pending, Redirect::to("/second-factor")).into_response());
            }
            Ok((pending, Problem::waiting(token)).into_response())
        }
        SignInOutcome::Linked(_) => match &app.config.accounts.frontend_url {
            Some(frontend) => Ok(redirect(&format!("{frontend}/auth/cb?linked=true")).into_response()),
            None => Ok(pages::text_page(app, headers, pages::PageText::Linked)),
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
#[utoipa::path(post, path = "/auth/{provider}/callback", tag = "accounts", params(("provider" = String, Path)),
    request_body = Returned, responses((status = 200, body = TokensView), Refusals))]
pub(in crate::http) async fn callback_as_json(
    State(app): State<App>,
    PathParams(provider): PathParams<Provider>,
    dialect: Dialect,
    Client(client): Client,
    headers: HeaderMap,
    JsonBody(returned): JsonBody<Returned>,
) -> Result<Response, Problem> {
    let mut cookies = cookies::clear(&app.config, &[CookieKind::SignIn]);
    match handle_callback(&app, provider, &client, None, &headers, returned).await? {
        SignInOutcome::SignedIn(signed_in) => {
            append(&mut cookies, cookies::grant(&app, dialect, &signed_in));
            Ok((cookies, Json(TokensView::of(&app.core, *signed_in, true).await?)).into_response())
        }
        SignInOutcome::SecondFactorRequired(token) => Ok((cookies, Problem::waiting(token)).into_response()),
        SignInOutcome::Linked(_) => Ok((cookies, Message::json("Linked")).into_response()),
    }
}

/// Verifies the state, fetches the profile from the provider and completes the sign-in.
async fn handle_callback(
    app: &App,
    provider: Provider,
    client: &ClientInfo,
    principal: Option<&Principal>,
    headers: &HeaderMap,
    returned: Returned,
) -> Result<SignInOutcome, Problem> {
    let cookies = Cookies::of(headers);
    let cookie = cookies.one(&CookieKind::SignIn.name(&app.config))?;
    let callback = providers::verify_callback(&app.core, provider, cookie, returned.state.as_deref()).await?;
    let code = match (returned.error, returned.code) {
        (None, Some(code)) => code,
        (Some(_), _) => {
            return Err(Problem::new(
                Code::SignInFailed,
                "The sign-in was cancelled, or the provider declined it. Start again.",
            ));
        }
        (None, None) => return Err(Problem::new(Code::SignInFailed, "The provider returned no code. Start again.")),
    };
    let profile = app.oauth_providers.fetch_profile(provider, &code, &callback.verifier).await.map_err(|error| {
        tracing::warn!(%provider, error = format!("{error:#}"), "cannot fetch the profile from the provider");
        Problem::new(
            Code::SignInFailed,
            format!("{} did not confirm the sign-in. Start again.", provider.description()),
        )
    })?;
    Ok(providers::complete_sign_in(&app.core, client, &callback, principal, profile).await?)
}

/// Link a provider account
///
/// Without a `code`, returns the URL of the authorization page. With a `code`, completes the link.
#[utoipa::path(post, path = "/auth/{provider}/link", tag = "accounts", security(("bearer" = [])),
    params(("provider" = String, Path)), request_body = Option<Returned>,
    responses((status = 200, body = BeginView), Refusals))]
pub(in crate::http) async fn link(
    State(app): State<App>,
    PathParams(provider): PathParams<Provider>,
    Client(client): Client,
    CurrentUser(principal): CurrentUser,
    headers: HeaderMap,
    OptionalJson(returned): OptionalJson<Returned>,
) -> Result<Response, Problem> {
    if returned.code.is_none() && returned.error.is_none() {
        let (cookies, auth_url) = start(&app, provider, Some(&principal)).await?;
        return Ok((cookies, Json(BeginView { auth_url })).into_response());
    }
    handle_callback(&app, provider, &client, Some(&principal), &headers, returned).await?;
    Ok((cookies::clear(&app.config, &[CookieKind::SignIn]), Message::json("Linked")).into_response())
}

/// Unlink a provider account
#[utoipa::path(post, path = "/auth/{provider}/unlink", tag = "accounts", security(("bearer" = [])),
    params(("provider" = String, Path)), responses((status = 200, body = Message), Refusals))]
pub(in crate::http) async fn unlink(
    State(app): State<App>,
    PathParams(provider): PathParams<Provider>,
    CurrentUser(principal): CurrentUser,
) -> Result<Json<Message>, Problem> {
    providers::unlink(&app.core, &principal, provider).await?;
    Ok(Message::json("Unlinked"))
}
