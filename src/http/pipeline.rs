//! The middleware of all routes as one tower service, which avoids cloning the request for each layer: the ID of the
//! request, its limits, and what every response carries.
//!
//! ```text
//! context -> CORS (with an `Origin`, or `OPTIONS`) -> time limit, panics -> head -> body -> router -> problem, headers -> log
//! ```

use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{DefaultBodyLimit, FromRequest, Request};
use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::response::{IntoResponse, Response};
use axum::{BoxError, Router};
use dca_core::{Code, events};
use futures::{FutureExt, future::BoxFuture};
use tokio::time::{Instant, timeout};
use tower_http::cors::{AllowOrigin, CorsLayer};
use tower_layer::Layer;
use tower_service::Service;
use tracing::Instrument;

use super::trace::{Endpoint, EndpointLayer, RequestContext};
use super::{compat, csrf, extract, problem, problem::Problem, request_head};
use crate::{App, Config};

/// The longest a request may take, including the transfer of its body.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// The service of every connection.
#[derive(Clone)]
pub(super) struct Pipeline(Arc<Inner>);

struct Inner {
    app: App,
    router: Router,
    cors: CorsLayer,
    /// What responses carry unless their handler has set it.
    headers: Vec<(HeaderName, HeaderValue)>,
    /// The metrics of requests that end before they are routed.
    unmatched: Endpoint,
}

impl Pipeline {
    pub(super) fn new(app: &App, router: Router<App>) -> Self {
        let router = router.layer(EndpointLayer).with_state(app.clone());
        let (cors, headers) = (cors(&app.config), response_headers(&app.config));
        Self(Arc::new(Inner { app: app.clone(), router, cors, headers, unmatched: Endpoint::default() }))
    }

    /// Answers a request, whatever happens in its handler.
    async fn answer(self, mut request: Request) -> Response {
        let (started, method) = (Instant::now(), request.method().clone());
        let client = extract::find_client_ip(request.headers(), request.extensions(), &self.0.app);
        let context = RequestContext::new(&self.0.app, client);
        request.extensions_mut().insert(context.clone());
        let work = events::with_request_id(Arc::clone(context.id()), self.handle(request)).instrument(context.span());
        let mut response = problem::rendered(work.await, &self.0.app.config.http.public_url);
        let headers = response.headers_mut();
        headers.reserve(self.0.headers.len() + 1);
        for (name, value) in &self.0.headers {
            if !headers.contains_key(name) {
                headers.insert(name, value.clone());
            }
        }
        if let Some(id) = context.header() {
            headers.insert(REQUEST_ID, id);
        }
        context.record(&self.0.unmatched, &method, response.status(), started.elapsed());
        response
    }

    async fn handle(&self, request: Request) -> Response {
        if request.headers().contains_key(header::ORIGIN) || request.method() == Method::OPTIONS {
            let Ok(response) = self.0.cors.layer(InnerService(self.clone())).call(request).await;
            return response;
        }
        self.handle_with_timeout(request).await
    }

    /// Ends requests that take too long, and panics.
    async fn handle_with_timeout(&self, request: Request) -> Response {
        match timeout(REQUEST_TIMEOUT, AssertUnwindSafe(self.route(request)).catch_unwind()).await {
            Ok(Ok(response)) => response,
            Ok(Err(_panic)) => Problem::of(Code::Internal).into_response(),
            Err(_elapsed) => Problem::of(Code::RequestTimeout).into_response(),
        }
    }

    async fn route(&self, request: Request) -> Response {
        let (mut parts, body) = request.into_parts();
        let body = match request_head::check(&parts) {
            Ok(()) => read_body(body, body_limit(&parts.method, parts.uri.path())).await,
            Err(problem) => Err(problem),
        };
        let body = body.unwrap_or_else(|problem| {
            parts.extensions.insert(problem);
            Body::empty()
        });
        let Ok(response) = self.0.router.clone().call(Request::from_parts(parts, body)).await;
        response
    }
}

/// Reads the body before anything else. If a request is refused before its body has arrived, hyper closes the connection
/// without notice, and the client's next request on it fails.
async fn read_body(body: Body, limit: usize) -> Result<Body, Problem> {
    if body.is_end_stream() {
        return Ok(body);
    }
    let mut limited = Request::new(body);
    DefaultBodyLimit::max(limit).apply(&mut limited);
    Ok(Bytes::from_request(limited, &()).await.map_err(extract::body_error)?.into())
}

/// The largest body.
const MAX_BODY: usize = 16 * 1024;
/// The largest body of the routes that accept 1000 IDs, or 16 KiB of metadata among other members.
const MAX_LARGE_BODY: usize = 64 * 1024;

fn body_limit(method: &Method, path: &str) -> usize {
    let is_license = || path.strip_prefix("/licenses/").is_some_and(|id| !id.contains('/'));
    let accepts_ids = matches!(path, "/admin/licenses/generate" | "/admin/licenses/revoke");
    if accepts_ids || (method == Method::PATCH && is_license()) { MAX_LARGE_BODY } else { MAX_BODY }
}

/// What `CorsLayer` wraps: requests with an `Origin`, and `OPTIONS`.
#[derive(Clone)]
struct InnerService(Pipeline);

impl Service<Request> for InnerService {
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let pipeline = self.0.clone();
        async move { Ok(pipeline.handle_with_timeout(request).await) }.boxed()
    }
}

impl<B> Service<axum::http::Request<B>> for Pipeline
where
    B: HttpBody<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: axum::http::Request<B>) -> Self::Future {
        let pipeline = self.clone();
        async move { Ok(pipeline.answer(request.map(Body::new)).await) }.boxed()
    }
}

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Allows resources of this origin only, and nothing inline except the images of the documentation page.
const CSP: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                   connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

fn response_headers(config: &Config) -> Vec<(HeaderName, HeaderValue)> {
    let is_https = config.http.public_url.starts_with("https:");
    let hsts = (header::STRICT_TRANSPORT_SECURITY, "max-age=31536000; includeSubDomains");
    let all = [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (header::CONTENT_SECURITY_POLICY, CSP),
        // A response that is cached for one origin does not answer another, which needs CORS headers.
        (header::VARY, "origin"),
    ];
    let all = all.into_iter().chain(is_https.then_some(hsts));
    all.map(|(name, value)| (name, HeaderValue::from_static(value))).collect()
}

/// Allows requests with cookies from the service's own pages, the frontend and the configured origins only.
fn cors(config: &Config) -> CorsLayer {
    let origins = csrf::origins(config).filter_map(|origin| HeaderValue::from_str(&origin).ok());
    let sent = ["x-csrf-token", "x-api-key", "x-sdk-version", "x-sdk-platform", "idempotency-key"];
    let allowed = [header::AUTHORIZATION, header::CONTENT_TYPE, header::IF_MATCH]
        .into_iter()
        .chain(sent.map(HeaderName::from_static));
    let own = ["x-request-id", "ratelimit", "ratelimit-policy", "idempotency-replayed"];
    let exposed = [header::RETRY_AFTER, header::ETAG, header::LINK].into_iter().chain(own.map(HeaderName::from_static));
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins))
        .allow_credentials(true)
        .allow_methods([Method::GET, Method::POST, Method::PATCH, Method::PUT, Method::DELETE])
        .allow_headers(allowed.chain(compat::correlation_headers()).collect::<Vec<_>>())
        .expose_headers(exposed.chain(compat::correlation_headers()).collect::<Vec<_>>())
        .max_age(Duration::from_hours(1))
}
