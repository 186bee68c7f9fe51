//! Through somebody else's door: sign-in with Discord or Google.

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

/// How long the browser keeps the state.
const STATE_SECONDS: i64 = 600;

/// Where to go.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct BeginView {
    /// The provider's page.
    #[serde(rename = "authUrl")]
    auth_url: String,
}

async fn start(app: &App, provider: Provider, link: Option<&Principal>) -> Result<(HeaderMap, String), Problem> {
    let off = || Problem::new(Code::NotFound, format!("Sign-in with {} is not set up here.", provider.description()));
    let provider_client = app.oauth_providers.get(provider).ok_or_else(off)?;
    let request = providers::begin(&app.core, provider, link).await?;
    let url = provider_client.authorize_url(&request.state, &request.verifier);
    Ok((cookies::set(&app.config, CookieKind::SignIn, &request.state, STATE_SECONDS), url))
}

/// Go to the provider. `discord` or `google`.
#[utoipa::path(get, path = "/auth/{provider}", tag = "accounts", params(("provider" = String, Path)),
    responses((status = 302, description = "To the provider"), Refusals))]
pub(in crate::http) async fn begin(
    State(app): State<App>,
    PathParams(provider): PathParams<Provider>,
) -> Result<Response, Problem> {
    let (cookies, url) = start(&app, provider, None).await?;
    Ok((cookies, found(&url)).into_response())
}

/// The provider's page, for clients that go there themselves.
#[utoipa::path(post, path = "/auth/{provider}", tag = "accounts", params(("provider" = String, Path)),
    responses((status = 200, body = BeginView), Refusals))]
pub(in crate::http) async fn begin_as_json(
    State(app): State<App>,
    PathParams(provider): PathParams<Provider>,
) -> Result<(HeaderMap, Json<BeginView>), Problem> {
    let (cookies, auth_url) = start(&app, provider, None).await?;
    Ok((cookies, Json(BeginView { auth_url })))
}

/// What a provider sends back.
#[derive(Default, Deserialize, IntoParams, ToSchema)]
pub(in crate::http) struct Returned {
    #[serde(default)]
    code: Option<String>,
    #[serde(default)]
    state: Option<String>,
    /// Why there is no code.
    #[serde(default)]
    error: Option<String>,
}

/// Where the provider sends a person back: to the frontend's `/auth/cb`, or else to a page or JSON of ours.
#[utoipa::path(get, path = "/auth/{provider}/callback", tag = "accounts",
    params(("provider" = String, Path), Returned),
    responses((status = 200, body = TokensView), (status = 302, description = "To the frontend"), Refusals))]
pub(in crate::http) async fn callback(
    State(app): State<App>,
    PathParams(provider): PathParams<Provider>,
    Client(client): Client,
    headers: HeaderMap,
    Query(returned): Query<Returned>,
) -> Response {
    let taken = cookies::clear(&app.config, &[CookieKind::SignIn]);
    // Every state a browser comes back with is in the URL; a cookie alone is for clients that post.
    let returned = Returned { state: Some(returned.state.unwrap_or_default()), ..returned };
    let mut response = match handle_callback(&app, provider, &client, None, &headers, returned).await {
        Ok(outcome) => outcome_response(&app, &headers, outcome).await.unwrap_or_else(IntoResponse::into_response),
        Err(refused) => pages::for_browser(&app, &headers, refused),
    };
    append(response.headers_mut(), taken);
    response
}

async fn outcome_response(app: &App, headers: &HeaderMap, outcome: SignInOutcome) -> Result<Response, Problem> {
    match outcome {
        SignInOutcome::Open(signed_in) => {
            let cookies = cookies::grant(app, Dialect::Native, &signed_in);
            if let Some(frontend) = &app.config.frontend_url {
                return Ok((cookies, found(&format!("{frontend}/auth/cb"))).into_response());
            }
            if pages::wants_page(headers) {
                return Ok((cookies, pages::text_page(app, headers, pages::PageText::SignedIn)).into_response());
            }
            Ok((cookies, Json(TokensView::of(&app.core, *signed_in, true).await?)).into_response())
        }
        SignInOutcome::SecondFactor(token) => {
            let waiting = cookies::set(&app.config, CookieKind::SecondFactor, &token, STATE_SECONDS);
            if pages::wants_page(headers) {
                return Ok((waiting, Redirect::to("/second-factor")).into_response());
            }
            Ok((waiting, Problem::waiting(token)).into_response())
        }
        SignInOutcome::Linked(_) => match &app.config.frontend_url {
            Some(frontend) => Ok(found(&format!("{frontend}/auth/cb?linked=true")).into_response()),
            None => Ok(pages::text_page(app, headers, pages::PageText::Linked)),
        },
    }
}

/// 302, as earlier clients were promised.
fn found(url: &str) -> Response {
    (StatusCode::FOUND, [(header::LOCATION, url)]).into_response()
}

/// Hand over the code the provider sent back, for clients that received it themselves. The cookie of the
/// request sign-in must come with it.
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
        SignInOutcome::Open(signed_in) => {
            append(&mut cookies, cookies::grant(&app, dialect, &signed_in));
            Ok((cookies, Json(TokensView::of(&app.core, *signed_in, true).await?)).into_response())
        }
        SignInOutcome::SecondFactor(token) => Ok((cookies, Problem::waiting(token)).into_response()),
        SignInOutcome::Linked(_) => Ok((cookies, Message::json("Linked")).into_response()),
    }
}

/// The three steps of a return: state, provider, account.
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
        (Some(_), _) => return Err(Problem::new(Code::SignInFailed, "You declined, or the provider did.")),
        (None, None) => return Err(Problem::new(Code::SignInFailed, "The provider sent no code.")),
    };
    let profile = app.oauth_providers.fetch_profile(provider, &code, &callback.verifier).await.map_err(|error| {
        tracing::warn!(%provider, error = format!("{error:#}"), "a sign-in was not completed");
        Problem::new(Code::SignInFailed, format!("{} did not confirm the sign-in; try again.", provider.description()))
    })?;
    Ok(providers::complete_sign_in(&app.core, client, &callback, principal, profile).await?)
}

/// Link a provider's account to mine: without a code it begins, with a code it completes.
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

/// Take a provider's account from mine.
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
