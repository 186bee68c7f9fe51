//! `Idempotency-Key`: a request that is sent again gets the response of the first one and is not executed again.

use std::sync::Arc;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Extension, FromRequestParts, Request};
use axum::http::{HeaderName, HeaderValue, StatusCode, header, request::Parts};
use axum::response::{IntoResponse, Response};
use axum::{middleware, middleware::Next};
use dca_core::crypto::sha256;
use dca_core::idempotency::{self, BeginOutcome, Execution};
use dca_core::{Caller, Code, Error, events};
use serde::{Deserialize, Serialize};
use tracing::Instrument;
use utoipa::openapi::path::{ParameterBuilder, ParameterIn};
use utoipa::openapi::{ObjectBuilder, Required, Type};
use utoipa_axum::router::OpenApiRouter;

use super::extract::{Authenticated, CurrentUser};
use super::problem::{self, Problem};
use super::{openapi, trace::RequestContext};
use crate::App;

/// Accepts `Idempotency-Key` on the writes among these routes, whose caller is [`Authenticated`].
pub(super) fn idempotent(routes: OpenApiRouter<App>) -> OpenApiRouter<App> {
    let once =
        |Extension(context): Extension<RequestContext>, request: Request, next: Next| once(context, request, next);
    let mut routes = routes.route_layer(middleware::from_fn(once));
    let writes = openapi::operations(routes.get_openapi_mut()).filter(|(method, _)| !method.is_safe());
    for (_, operation) in writes {
        let parameter = ParameterBuilder::new()
            .name(KEY)
            .parameter_in(ParameterIn::Header)
            .required(Required::False)
            .description(Some(
                "Any text that is new for each change. Repeat it if you send the same request again: it is executed \
                 once, and for 24 hours you get the same response, with `Idempotency-Replayed: true`.",
            ))
            .schema(Some(ObjectBuilder::new().schema_type(Type::String).max_length(Some(MAX_LENGTH)).build()));
        operation.parameters.get_or_insert_default().push(parameter.build().into());
    }
    routes
}

const KEY: &str = "Idempotency-Key";
const MAX_LENGTH: usize = 255;

fn key(parts: &Parts) -> Result<Option<&str>, Problem> {
    let mut keys = parts.headers.get_all(KEY).iter();
    let Some(key) = keys.next() else { return Ok(None) };
    let is_valid =
        |key: &&str| (1..=MAX_LENGTH).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
    let key = key.to_str().ok().filter(is_valid).filter(|_| keys.next().is_none());
    let invalid = || {
        let detail = format!("Send one {KEY} of 1 to {MAX_LENGTH} visible ASCII characters, for example a UUID.");
        Problem::new(Code::BadRequest, detail)
    };
    key.map(Some).ok_or_else(invalid)
}

async fn once(context: RequestContext, request: Request, next: Next) -> Result<Response, Problem> {
    let app = context.app().clone();
    let (mut parts, body) = request.into_parts();
    let key = if parts.method.is_safe() { None } else { key(&parts)?.map(str::to_owned) };
    let Some(key) = key else { return Ok(next.run(Request::from_parts(parts, body)).await) };
    let body = read(body).await?;
    let operation = format!("{} {} {} {key}", caller(&mut parts, &app).await?, parts.method, parts.uri.path());
    let if_match: Vec<&[u8]> = parts.headers.get_all(header::IF_MATCH).iter().map(AsRef::as_ref).collect();
    let query = parts.uri.query().unwrap_or_default().as_bytes();
    let digest = sha256(&[query, &if_match.join(&b","[..]), &body].join(&b"\n"[..]));
    match idempotency::begin(&app.core, &operation, digest).await? {
        BeginOutcome::Replay(stored) => StoredResponse::replay(&stored),
        BeginOutcome::Execute(execution) => {
            let work = execute(app, execution, Request::from_parts(parts, Body::from(body)), next);
            // In a task of its own, so that the response is stored even if the client disconnects.
            let task = tokio::spawn(events::with_request_id(Arc::clone(context.id()), work).in_current_span());
            task.await.unwrap_or_else(|error| match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(error) => Err(Error::Internal(error.to_string()).into()),
            })
        }
    }
}

/// Everyone on whose behalf the request is made: an app may also send the access token of a user.
async fn caller(parts: &mut Parts, app: &App) -> Result<String, Problem> {
    let Authenticated(caller) = Authenticated::from_request_parts(parts, app).await?;
    let user = match caller {
        Caller::App(_) => CurrentUser::from_request_parts(parts, app).await.ok(),
        _ => None,
    };
    Ok(format!("{} {:?}", caller.actor(), user.map(|user| user.principal.user.id)))
}

async fn execute(app: App, execution: Execution, request: Request, next: Next) -> Result<Response, Problem> {
    let response = idempotency::execute(execution, next.run(request)).await;
    let (parts, body) = problem::rendered(response, &app.config.http.public_url).into_parts();
    let body = read(body).await?;
    let stored = StoredResponse::of(parts.status, &parts.headers, &body);
    if let Err(error) = idempotency::finish(&app.core, execution, stored.as_deref()).await {
        tracing::warn!(%error, "could not store the response to an idempotent request");
    }
    Ok(Response::from_parts(parts, Body::from(body)))
}

async fn read(body: Body) -> Result<Bytes, Problem> {
    to_bytes(body, usize::MAX).await.map_err(|error| Error::Internal(error.to_string()).into())
}

/// A stored response.
#[derive(Serialize, Deserialize)]
struct StoredResponse {
    status: u16,
    headers: Vec<(String, String)>,
    body: String,
}

impl StoredResponse {
    /// The response to store, unless it depends on the time: then the request may be sent again.
    fn of(status: StatusCode, headers: &axum::http::HeaderMap, body: &Bytes) -> Option<String> {
        let is_temporary = matches!(status, StatusCode::UNAUTHORIZED | StatusCode::TOO_MANY_REQUESTS)
            || headers.contains_key(header::RETRY_AFTER);
        if status.is_server_error() || is_temporary {
            return None;
        }
        let stored = headers.iter().filter(|(name, _)| *name != header::CONTENT_LENGTH);
        let text =
            |(name, value): (&HeaderName, &HeaderValue)| Some((name.to_string(), value.to_str().ok()?.to_owned()));
        let body = String::from_utf8(body.to_vec()).ok()?;
        serde_json::to_string(&Self { status: status.as_u16(), headers: stored.filter_map(text).collect(), body }).ok()
    }

    fn replay(stored: &str) -> Result<Response, Problem> {
        let invalid = |error: serde_json::Error| Error::Internal(format!("a stored response is invalid: {error}"));
        let stored: Self = serde_json::from_str(stored).map_err(invalid)?;
        let mut response = stored.body.into_response();
        *response.status_mut() = StatusCode::from_u16(stored.status).unwrap_or(StatusCode::OK);
        response.headers_mut().remove(header::CONTENT_TYPE);
        let replayed = ("idempotency-replayed".to_owned(), "true".to_owned());
        for (name, value) in stored.headers.into_iter().chain([replayed]) {
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                response.headers_mut().append(name, value);
            }
        }
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use axum::{Json, Router, routing::get};
    use dca_core::accounts::{self, ClientInfo, SignIn, admin, providers::SignInOutcome};
    use dca_core::{Clock, Ids, Reason, tenants, users::Locale};
    use serde_json::{Value, json};
    use tokio::sync::Notify;
    use tower_service::Service;

    use super::*;
    use crate::{Config, app::Inputs, telemetry};

    /// Counts executions, and responds with the status that the body names. One that is `slow` waits.
    #[derive(Clone, Default)]
    struct Handler {
        executions: Arc<AtomicU32>,
        started: Arc<Notify>,
        go_on: Arc<Notify>,
    }

    impl Handler {
        async fn respond(self, app: App, body: Value) -> Result<Response, Problem> {
            let n = self.executions.fetch_add(1, Ordering::Relaxed);
            if body["slow"] == true {
                self.started.notify_one();
                self.go_on.notified().await;
            }
            let tenant = body["write"] == true;
            if tenant {
                tenants::create(&app.core, "Makers").await?;
            }
            match body["status"].as_u64() {
                Some(409) => Err(Reason::Unspecified(Code::Conflict).retry_after(Duration::from_secs(9)).into()),
                Some(404) => Err(Problem::of(Code::NotFound)),
                Some(503) => Err(Problem::of(Code::Unavailable)),
                _ => Ok((StatusCode::CREATED, [(header::ETAG, "\"1\"")], Json(json!({ "n": n }))).into_response()),
            }
        }
    }

    struct Fixture {
        router: Router,
        handler: Handler,
        tokens: [String; 2],
        _dir: tempfile::TempDir,
    }

    impl Fixture {
        async fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let env = BTreeMap::from([("DCA_DATA_DIR".to_owned(), dir.path().display().to_string())]);
            let metrics = telemetry::recorder().unwrap().handle();
            let inputs = Inputs { clock: Clock::system(), ids: Ids::system(), metrics };
            let app = App::build(Config::load(env).unwrap(), &[], inputs).await.unwrap();
            let (handler, shared) = (Handler::default(), app.clone());
            let tokens = [token(&app, "ana@x.example").await, token(&app, "ben@x.example").await];
            let executed = handler.clone();
            let write = move |Json(body): Json<Value>| executed.clone().respond(shared.clone(), body);
            let routes =
                Router::new().route("/a", get(async || "read").post(write.clone())).route("/b", get("").post(write));
            let context = Extension(RequestContext::new(&app, [127, 0, 0, 1].into()));
            let router = Router::from(idempotent(routes.into())).layer(context).with_state(app);
            Self { router, handler, tokens, _dir: dir }
        }

        fn request(&self, line: &str, key: &str, body: &Value) -> Request {
            let (method, path) = line.split_once(' ').unwrap();
            let request = Request::builder().method(method).uri(path).header("content-type", "application/json");
            let request = request.header("authorization", format!("Bearer {}", self.tokens[0])).header(KEY, key);
            request.body(body.to_string().into()).unwrap()
        }

        async fn send(&self, request: Request) -> (u16, String, Value) {
            let response = self.router.clone().call(request).await.unwrap();
            let response = problem::rendered(response, "http://x.example");
            let mut names: Vec<_> = response.headers().keys().map(HeaderName::as_str).collect();
            names.retain(|name| !["content-length", "content-type"].contains(name));
            let (status, names) = (response.status().as_u16(), names.join(" "));
            let body = read(response.into_body()).await.unwrap();
            (status, names, serde_json::from_slice(&body).unwrap_or_default())
        }

        fn executions(&self) -> u32 {
            self.handler.executions.load(Ordering::Relaxed)
        }
    }

    async fn token(app: &App, email: &str) -> String {
        let password = "plow-Ketchup-41 sundial";
        admin::create_admin(&app.core, email, None, password).await.unwrap();
        let network = "127.0.0.0/24".to_owned();
        let client = ClientInfo { network, agent: None, device: None, sign_up: None, locale: Locale::En };
        let form = SignIn { identifier: email.to_owned(), password: password.to_owned(), code: None };
        match accounts::sign_in(&app.core, &client, form).await.unwrap() {
            SignInOutcome::SignedIn(signed_in) => signed_in.access_token,
            _ => panic!("{email} cannot sign in"),
        }
    }

    #[tokio::test]
    async fn a_repeated_request_gets_the_same_response_and_is_executed_once() {
        let fixture = Fixture::new().await;
        for (key, body, status, headers) in
            [("one", json!({ "write": true }), 201, "etag"), ("two", json!({ "status": 404 }), 404, "")]
        {
            let first = fixture.send(fixture.request("POST /a", key, &body)).await;
            assert_eq!((first.0, first.1.as_str()), (status, headers), "{first:?}");
            let executions = fixture.executions();
            let replay = fixture.send(fixture.request("POST /a", key, &body)).await;
            let headers = format!("{headers} idempotency-replayed");
            assert_eq!((replay.0, replay.1.as_str(), replay.2), (status, headers.trim(), first.2));
            assert_eq!(fixture.executions(), executions);
            let other = fixture.send(fixture.request("POST /a", key, &json!({ "write": false }))).await;
            assert_eq!((other.0, &other.2["code"]), (422, &"IDEMPOTENCY_KEY_REUSED".into()));
            let other = fixture.send(fixture.request("POST /a?dryRun=true", key, &body)).await;
            assert_eq!(other.0, 422, "another query");
            let mut conditional = fixture.request("POST /a", key, &body);
            conditional.headers_mut().insert("if-match", HeaderValue::from_static("\"3\""));
            assert_eq!(fixture.send(conditional).await.0, 422, "another If-Match");
            fixture.send(fixture.request("POST /b", key, &body)).await;
            let mut of_ben = fixture.request("POST /a", key, &body);
            of_ben.headers_mut().insert("authorization", format!("Bearer {}", fixture.tokens[1]).parse().unwrap());
            fixture.send(of_ben).await;
            assert_eq!(fixture.executions(), executions + 2, "another path and another user have keys of their own");
        }
    }

    #[tokio::test]
    async fn a_failure_is_executed_again_and_one_after_a_change_is_not() {
        let fixture = Fixture::new().await;
        for (index, status) in (1..).zip([503, 409]) {
            for _ in 0..2 {
                let response = fixture.send(fixture.request("POST /a", "one", &json!({ "status": status }))).await;
                assert_eq!(response.0, status);
            }
            assert_eq!(fixture.executions(), 2 * index, "{status}");
        }
        let changed = json!({ "status": 503, "write": true });
        assert_eq!(fixture.send(fixture.request("POST /a", "two", &changed)).await.0, 503);
        let lost = fixture.send(fixture.request("POST /a", "two", &changed)).await;
        assert_eq!((lost.0, &lost.2["code"]), (409, &"IDEMPOTENCY_ANSWER_LOST".into()));
        assert_eq!(fixture.executions(), 5);
    }

    #[tokio::test]
    async fn the_response_is_stored_even_if_the_client_disconnects() {
        let fixture = Fixture::new().await;
        let body = json!({ "slow": true, "write": true });
        tokio::select! {
            _ = fixture.send(fixture.request("POST /a", "one", &body)) => panic!("the request is slow"),
            () = fixture.handler.started.notified() => {}
        }
        let waiting = fixture.send(fixture.request("POST /a", "one", &body)).await;
        assert_eq!((waiting.0, waiting.1.as_str()), (409, "retry-after"), "{waiting:?}");
        fixture.handler.go_on.notify_one();
        let replay = async {
            loop {
                let response = fixture.send(fixture.request("POST /a", "one", &body)).await;
                if response.0 != 409 {
                    return response;
                }
                tokio::task::yield_now().await;
            }
        };
        let replay = tokio::time::timeout(std::time::Duration::from_secs(5), replay).await.unwrap();
        assert_eq!((replay.0, replay.1.as_str()), (201, "etag idempotency-replayed"));
        assert_eq!(fixture.executions(), 1);
    }

    #[tokio::test]
    async fn a_key_is_visible_ascii_and_counts_for_writes_of_known_callers_only() {
        let fixture = Fixture::new().await;
        let long = "k".repeat(MAX_LENGTH + 1);
        for key in ["", "a b", "\u{e9}", long.as_str()] {
            let response = fixture.send(fixture.request("POST /a", key, &json!({}))).await;
            assert_eq!((response.0, &response.2["code"]), (400, &"BAD_REQUEST".into()), "{key}");
        }
        let mut twice = fixture.request("POST /a", "one", &json!({}));
        twice.headers_mut().append(KEY, HeaderValue::from_static("one"));
        assert_eq!(fixture.send(twice).await.0, 400);
        let mut nobody = fixture.request("POST /a", "one", &json!({}));
        nobody.headers_mut().remove("authorization");
        assert_eq!(fixture.send(nobody).await.0, 401);
        assert_eq!(fixture.executions(), 0);
        for _ in 0..2 {
            assert_eq!(fixture.send(fixture.request("GET /a", "a b", &json!({}))).await.1, "", "reads ignore it");
            assert_eq!(fixture.send(fixture.request("POST /a", &long[1..], &json!({}))).await.0, 201);
        }
        assert_eq!(fixture.executions(), 1);
    }
}
