//! A stand-in for "Sign in with Google": people with an account, the consent page as a verb, the token
//! endpoint, and what `OpenID` Connect tells about a person.
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
//! There is no `id_token`: who it is, is asked at `/v1/userinfo`.

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

use crate::oauth::{AccountPolicy, AuthServer};
use crate::shared::{History, Shared};

const PAGE: &str = "/o/oauth2/v2/auth";
const TOKEN: &str = "/token";
const USERINFO: &str = "/v1/userinfo";
const RULES: AccountPolicy = AccountPolicy {
    pages: &[PAGE],
    scopes: &["openid", "email", "profile", EMAIL, PROFILE],
    identity: "openid",
    expires_in: 3599,
    rotates: false,
};
/// What Google calls two scopes in its answers, however they were asked for.
const EMAIL: &str = "https://www.googleapis.com/auth/userinfo.email";
const PROFILE: &str = "https://www.googleapis.com/auth/userinfo.profile";
const CLIENT_ID: &str = "1100000000000-sim.apps.googleusercontent.com";
const SECRET: &str = "SimGoogle-client-secret";

type Answered = (StatusCode, Json<Value>);
type Inner = Shared<State>;

/// Somebody with an account.
struct Account {
    name: String,
    email: Option<(String, bool)>,
}

/// Everything, behind the Sim's one lock.
struct State {
    base: String,
    oauth: AuthServer,
    accounts: BTreeMap<String, Account>,
    /// Which path fails next, and with what.
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

/// A Google of one's own on a local port. Clones are handles to the same one.
#[derive(Clone)]
pub struct SimGoogle {
    inner: Arc<Inner>,
    /// The server ends with the last handle.
    _server: Arc<DropGuard>,
}

/// Somebody with an account there.
#[derive(Clone, Debug)]
pub struct GooglePerson {
    /// What tells them apart for ever.
    pub sub: String,
}

/// Running it, and what the product is configured with.
impl SimGoogle {
    /// Starts on a free port.
    pub async fn start() -> Self {
        Self::start_on(0).await
    }

    /// Starts on a given port, for a demo whose configuration is written down.
    ///
    /// # Panics
    /// If the port is taken.
    pub async fn start_on(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("a free local port");
        let base = format!("http://{}", listener.local_addr().expect("a bound socket has an address"));
        let inner = Arc::new(Inner::new(State {
            oauth: AuthServer::new(RULES, base.clone(), CLIENT_ID, SECRET),
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
            .layer(from_fn_with_state(Arc::clone(&inner), watched))
            .with_state(Arc::clone(&inner));
        let shutdown = inner.shutdown.clone();
        let server = axum::serve(listener, router).with_graceful_shutdown(shutdown.clone().cancelled_owned());
        tokio::spawn(server.into_future());
        Self { inner, _server: Arc::new(shutdown.drop_guard()) }
    }

    /// The address under which all of `/o/oauth2/v2/auth`, `/token` and `/v1/userinfo` are found.
    pub fn base_url(&self) -> String {
        self.inner.lock().base.clone()
    }

    /// The application's id.
    pub fn client_id(&self) -> String {
        self.inner.lock().oauth.client_id.clone()
    }

    /// The secret that goes with it.
    pub fn client_secret(&self) -> String {
        self.inner.lock().oauth.client_secret.clone()
    }

    /// Adds an address to those the application may send people back to.
    pub fn register_redirect(&self, uri: &str) {
        self.inner.change(|state| state.oauth.register_redirect(uri));
    }

    /// Everything that happened, one line each, as panics print it.
    pub fn history(&self) -> String {
        self.inner.history()
    }

    /// The next request for that path is answered with a status and no word of Google's.
    ///
    /// # Panics
    /// If there is no such status.
    pub fn fail_next(&self, path: &str, status: u16) {
        let status = StatusCode::from_u16(status).expect("a status");
        self.inner.change(|state| state.failures.push((path.to_owned(), status)));
    }

    /// Ends a test.
    ///
    /// # Panics
    /// If something was asked for that Google does not have.
    pub fn finish(&self) {
        let violations = self.inner.lock().violations.clone();
        assert!(violations.is_empty(), "SimGoogle: {violations:#?}\n{}", self.history());
    }
}

/// People.
impl SimGoogle {
    /// Somebody has an account; with the same `sub` they have changed it. An address may be verified.
    pub fn person(&self, sub: &str, name: &str, email: Option<(&str, bool)>) -> GooglePerson {
        let email = email.map(|(address, verified)| (address.to_owned(), verified));
        let account = Account { name: name.to_owned(), email };
        self.inner.change(|state| state.accounts.insert(sub.to_owned(), account));
        GooglePerson { sub: sub.to_owned() }
    }

    /// A person opens the page at that address and agrees. Returns where their browser is sent.
    ///
    /// # Panics
    /// If Google would show an error instead.
    pub fn consent(&self, person: &GooglePerson, authorize_url: &str) -> String {
        let more = [("authuser", "0"), ("prompt", "consent")];
        let callback = self.inner.change(|state| {
            state.history.push(format!("{} agrees to {authorize_url}", person.sub));
            state.oauth.consent(&person.sub, authorize_url, &more)
        });
        self.sent_back(authorize_url, callback)
    }

    /// Somebody opens the page at that address and declines. Returns where their browser is sent.
    ///
    /// # Panics
    /// If Google would show an error instead.
    pub fn decline(&self, authorize_url: &str) -> String {
        let callback = self.inner.lock().oauth.decline(authorize_url, &[]);
        self.sent_back(authorize_url, callback)
    }

    fn sent_back(&self, url: &str, callback: Result<String, String>) -> String {
        callback.unwrap_or_else(|error| panic!("SimGoogle: {url} shows an error: {error}\n{}", self.history()))
    }
}

/// Notes every request, and lets the next failure happen to it.
async fn watched(SharedState(sim): SharedState<Arc<Inner>>, request: Request, next: Next) -> Response {
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
        None => (StatusCode::OK, "a consent page: tests agree or decline with a verb".to_owned()),
    }
}

async fn token(
    SharedState(sim): SharedState<Arc<Inner>>,
    headers: HeaderMap,
    Form(form): Form<HashMap<String, String>>,
) -> Answered {
    match sim.change(|state| state.oauth.token(&form, authorization(&headers))) {
        Ok(mut answer) => {
            let asked = answer["scope"].as_str().unwrap_or("").split(' ').map(long);
            answer["scope"] = json!(asked.collect::<Vec<_>>().join(" "));
            (StatusCode::OK, Json(answer))
        }
        Err(refused) => (StatusCode::from_u16(refused.status).expect("a status"), Json(refused.body)),
    }
}

async fn userinfo(SharedState(sim): SharedState<Arc<Inner>>, headers: HeaderMap) -> Answered {
    let state = sim.lock();
    let Some((grant, _)) = state.oauth.bearer(authorization(&headers)) else {
        let body = json!({ "error": "invalid_request", "error_description": "Invalid Credentials" });
        return (StatusCode::UNAUTHORIZED, Json(body));
    };
    let account = &state.accounts[&grant.subject];
    let mut about = json!({ "sub": grant.subject });
    if grant.scopes.iter().any(|scope| long(scope) == PROFILE) {
        about["name"] = json!(account.name);
        about["given_name"] = json!(account.name.split(' ').next());
        about["picture"] = json!(format!("https://lh3.example/{}", grant.subject));
        about["locale"] = json!("en");
    }
    if let Some((address, verified)) = &account.email
        && grant.scopes.iter().any(|scope| long(scope) == EMAIL)
    {
        about["email"] = json!(address);
        about["email_verified"] = json!(verified);
    }
    (StatusCode::OK, Json(about))
}

async fn unknown(SharedState(sim): SharedState<Arc<Inner>>, uri: Uri) -> StatusCode {
    sim.change(|state| state.violations.push(format!("a route the Sim does not model: {}", uri.path())));
    StatusCode::NOT_FOUND
}

fn authorization(headers: &HeaderMap) -> &str {
    headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or("")
}

fn long(scope: &str) -> &str {
    match scope {
        "email" => EMAIL,
        "profile" => PROFILE,
        other => other,
    }
}
