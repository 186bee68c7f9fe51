//! A Sim of "Sign in with Google": accounts, consent as a method call, the token endpoint, and the `OpenID` Connect
//! userinfo endpoint.
//!
//! ```no_run
//! # use dca_test_support::SimGoogle;
//! # async fn example(authorize_url: &str) {
//! let google = SimGoogle::start().await;
//! google.register_redirect("https://app.example/auth/google/callback");
//! let ana = google.person("117", "Ana Lima", Some(("ana@mail.example", true)));
//! let callback = google.consent(&ana, authorize_url);
//! google.finish();
//! # }
//! ```
//!
//! There is no `id_token`; `/v1/userinfo` identifies the user.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use axum::Router;
use axum::extract::{Form, Request, State as SharedState};
use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::DropGuard;

use crate::oauth::{AuthServer, ServerConfig};
use crate::shared::{History, Shared};

const PAGE: &str = "/o/oauth2/v2/auth";
const TOKEN: &str = "/token";
const USERINFO: &str = "/v1/userinfo";
const CONFIG: ServerConfig = ServerConfig {
    pages: &[PAGE],
    scopes: &["openid", "email", "profile", EMAIL, PROFILE],
    identity_scope: "openid",
    expires_in: 3599,
    rotates_refresh_tokens: false,
};
/// The long names that Google uses in responses for the scopes `email` and `profile`.
const EMAIL: &str = "https://www.googleapis.com/auth/userinfo.email";
const PROFILE: &str = "https://www.googleapis.com/auth/userinfo.profile";
const CLIENT_ID: &str = "1100000000000-sim.apps.googleusercontent.com";
const SECRET: &str = "SimGoogle-client-secret";

type JsonResponse = (StatusCode, Json<Value>);
type Inner = Shared<State>;

/// A Google account.
struct Account {
    name: String,
    email: Option<(String, bool)>,
}

/// The state of the Sim.
struct State {
    base: String,
    oauth: AuthServer,
    accounts: BTreeMap<String, Account>,
    /// The paths that fail next, and their statuses.
    failures: Vec<(String, StatusCode)>,
    violations: Vec<String>,
    history: Vec<String>,
}

impl History for State {
    const SIM: &'static str = "SimGoogle";

    fn history_lines(&self) -> &[String] {
        &self.history
    }
}

/// A simulated Google on a local port. Clones share the same server.
#[derive(Clone)]
pub struct SimGoogle {
    inner: Arc<Inner>,
    /// Stops the server when the last handle is dropped.
    _server: Arc<DropGuard>,
}

/// A user with a Google account.
#[derive(Clone, Debug)]
pub struct GooglePerson {
    /// The stable user id.
    pub sub: String,
}

/// Server and configuration.
impl SimGoogle {
    /// Starts on a free port.
    pub async fn start() -> Self {
        Self::start_on(0).await
    }

    /// Starts on a given port, for a demo with a fixed configuration.
    ///
    /// # Panics
    /// If the port is taken.
    pub async fn start_on(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("a free local port");
        let base = format!("http://{}", listener.local_addr().expect("a bound socket has an address"));
        let inner = Arc::new(Inner::new(State {
            oauth: AuthServer::new(CONFIG, base.clone(), CLIENT_ID, SECRET),
            base,
            accounts: BTreeMap::new(),
            failures: Vec::new(),
            violations: Vec::new(),
            history: Vec::new(),
        }));
        let router = Router::new()
            .route(PAGE, get(page))
            .route(TOKEN, post(token))
            .route(USERINFO, get(userinfo))
            .fallback(unknown)
            .layer(from_fn_with_state(Arc::clone(&inner), record))
            .with_state(Arc::clone(&inner));
        let shutdown = inner.shutdown.clone();
        let server = axum::serve(listener, router).with_graceful_shutdown(shutdown.clone().cancelled_owned());
        tokio::spawn(server.into_future());
        Self { inner, _server: Arc::new(shutdown.drop_guard()) }
    }

    /// The base URL of `/o/oauth2/v2/auth`, `/token` and `/v1/userinfo`.
    pub fn base_url(&self) -> String {
        self.inner.lock().base.clone()
    }

    /// The client id of the application.
    pub fn client_id(&self) -> String {
        self.inner.lock().oauth.client_id.clone()
    }

    /// The client secret of the application.
    pub fn client_secret(&self) -> String {
        self.inner.lock().oauth.client_secret.clone()
    }

    /// Registers a redirect URI of the application.
    pub fn register_redirect(&self, uri: &str) {
        self.inner.change(|state| state.oauth.register_redirect(uri));
    }

    /// The history, one line per event, as panics print it.
    pub fn history(&self) -> String {
        self.inner.history()
    }

    /// Answers the next request for that path with this status and an empty body.
    ///
    /// # Panics
    /// If the status is invalid.
    pub fn fail_next(&self, path: &str, status: u16) {
        let status = StatusCode::from_u16(status).expect("a status");
        self.inner.change(|state| state.failures.push((path.to_owned(), status)));
    }

    /// Ends a test and checks the Sim.
    ///
    /// # Panics
    /// If a route was requested that the Sim does not model.
    pub fn finish(&self) {
        let violations = self.inner.lock().violations.clone();
        assert!(violations.is_empty(), "SimGoogle: {violations:#?}\n{}", self.history());
    }
}

/// Users.
impl SimGoogle {
    /// Creates the account with this `sub`, or replaces it. `email` is the address and whether it is verified.
    pub fn person(&self, sub: &str, name: &str, email: Option<(&str, bool)>) -> GooglePerson {
        let email = email.map(|(address, verified)| (address.to_owned(), verified));
        let account = Account { name: name.to_owned(), email };
        self.inner.change(|state| state.accounts.insert(sub.to_owned(), account));
        GooglePerson { sub: sub.to_owned() }
    }

    /// A user opens the authorize URL and consents. Returns the callback URL.
    ///
    /// # Panics
    /// If Google would show an error instead.
    pub fn consent(&self, person: &GooglePerson, authorize_url: &str) -> String {
        let extra = [("authuser", "0"), ("prompt", "consent")];
        let callback = self.inner.change(|state| {
            state.history.push(format!("{} consents to {authorize_url}", person.sub));
            state.oauth.consent(&person.sub, authorize_url, &extra)
        });
        self.callback(authorize_url, callback)
    }

    /// A user opens the authorize URL and declines. Returns the callback URL.
    ///
    /// # Panics
    /// If Google would show an error instead.
    pub fn decline(&self, authorize_url: &str) -> String {
        let callback = self.inner.lock().oauth.decline(authorize_url, &[]);
        self.callback(authorize_url, callback)
    }

    fn callback(&self, url: &str, callback: Result<String, String>) -> String {
        callback.unwrap_or_else(|error| panic!("SimGoogle: {url} shows an error: {error}\n{}", self.history()))
    }
}

/// Records every request and injects failures.
async fn record(SharedState(sim): SharedState<Arc<Inner>>, request: Request, next: Next) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let failure = sim.change(|state| {
        let index = state.failures.iter().position(|(failing, _)| *failing == path)?;
        Some(state.failures.remove(index).1)
    });
    let response = match failure {
        Some(status) => status.into_response(),
        None => next.run(request).await,
    };
    sim.change(|state| state.history.push(format!("{method} {path} -> {}", response.status())));
    response
}

async fn page(SharedState(sim): SharedState<Arc<Inner>>, uri: Uri) -> (StatusCode, String) {
    let state = sim.lock();
    match state.oauth.page_error(&format!("{}{uri}", state.base)) {
        Some(error) => (StatusCode::BAD_REQUEST, error),
        None => (StatusCode::OK, "the consent page: tests call `consent` or `decline`".to_owned()),
    }
}

async fn token(
    SharedState(sim): SharedState<Arc<Inner>>,
    headers: HeaderMap,
    Form(form): Form<HashMap<String, String>>,
) -> JsonResponse {
    match sim.change(|state| state.oauth.token(&form, authorization(&headers))) {
        Ok(mut answer) => {
            let scopes = answer["scope"].as_str().unwrap_or("").split(' ').map(long_scope);
            answer["scope"] = json!(scopes.collect::<Vec<_>>().join(" "));
            (StatusCode::OK, Json(answer))
        }
        Err(error) => (StatusCode::from_u16(error.status).expect("a status"), Json(error.body)),
    }
}

async fn userinfo(SharedState(sim): SharedState<Arc<Inner>>, headers: HeaderMap) -> JsonResponse {
    let state = sim.lock();
    let Some((grant, _)) = state.oauth.bearer(authorization(&headers)) else {
        let body = json!({ "error": "invalid_request", "error_description": "Invalid Credentials" });
        return (StatusCode::UNAUTHORIZED, Json(body));
    };
    let account = &state.accounts[&grant.subject];
    let mut claims = json!({ "sub": grant.subject });
    if grant.scopes.iter().any(|scope| long_scope(scope) == PROFILE) {
        claims["name"] = json!(account.name);
        claims["given_name"] = json!(account.name.split(' ').next());
        claims["picture"] = json!(format!("https://lh3.example/{}", grant.subject));
        claims["locale"] = json!("en");
    }
    if let Some((address, verified)) = &account.email
        && grant.scopes.iter().any(|scope| long_scope(scope) == EMAIL)
    {
        claims["email"] = json!(address);
        claims["email_verified"] = json!(verified);
    }
    (StatusCode::OK, Json(claims))
}

async fn unknown(SharedState(sim): SharedState<Arc<Inner>>, uri: Uri) -> StatusCode {
    sim.change(|state| state.violations.push(format!("a route the Sim does not model: {}", uri.path())));
    StatusCode::NOT_FOUND
}

fn authorization(headers: &HeaderMap) -> &str {
    headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or("")
}

fn long_scope(scope: &str) -> &str {
    match scope {
        "email" => EMAIL,
        "profile" => PROFILE,
        other => other,
    }
}
