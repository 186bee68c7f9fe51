//! The HTTP API: router, middleware and listener.
//!
//! A route consists of a request struct, a handler (extract → one call into core → render) and one line in
//! `routes` or, for accounts, `accounts::routes`. The middleware gives every request an ID, an access-log line, a
//! latency sample, a timeout and a body limit. Errors are problem documents (RFC 9457), and a panic is a 500.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result};
use axum::{
    Extension, Router,
    extract::{ConnectInfo, DefaultBodyLimit, MatchedPath, Request, State},
    http::{HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use axum_server::{Handle, Server, tls_rustls::RustlsConfig};
use dca_core::{Code, events};
use hyper_util::rt::TokioTimer;
use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;
use tower_http::{
    catch_panic::CatchPanicLayer,
    cors::{AllowOrigin, CorsLayer},
    set_header::SetResponseHeaderLayer,
    timeout::TimeoutLayer,
};
use tracing::{Instrument, info, info_span};
use utoipa::{
    Modify, OpenApi,
    openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme},
};
use utoipa_axum::{router::OpenApiRouter, routes};
use utoipa_swagger_ui::{Config, SwaggerUi};

use crate::{
    App,
    http::{
        compat::{Dialect, dca, nest},
        idle_timeout::IdleTimeout,
        problem::Problem,
    },
};

mod accounts;
mod compat;
mod cookies;
pub mod extract;
mod gate;
mod idle_timeout;
pub mod licenses;
pub mod ops;
pub mod problem;

/// The largest request body.
const BODY_LIMIT: usize = 16 * 1024;
/// The longest a request may take, including the transfer of its body.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The longest a client may take to send a request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(OpenApi)]
#[openapi(
    info(title = "DCA-Auth", description = "Validate license keys of Discord communities, and manage user accounts."),
    modifiers(&SecuritySchemes)
)]
struct Doc;

struct SecuritySchemes;

impl Modify for SecuritySchemes {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        let components = api.components.get_or_insert_default();
        let header = SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("X-API-Key")));
        components.add_security_scheme("api_key", header);
        let bearer = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
        components.add_security_scheme("bearer", bearer);
    }
}

/// All routes except those of accounts, with their documentation.
fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(Doc::openapi())
        .routes(routes!(licenses::validate))
        .routes(routes!(ops::health))
        .routes(routes!(ops::live))
        .routes(routes!(ops::ready))
        .routes(routes!(ops::metrics))
}

/// Returns the OpenAPI description of the API.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    routes().merge(accounts::routes()).split_for_parts().1
}

/// Builds the router with all routes and middleware.
fn router(app: App) -> Router {
    let protection = middleware::from_fn_with_state(app.clone(), gate::gate);
    let accounts = accounts::routes().layer(protection.clone()).layer(middleware::from_fn(nest::errors));
    let (router, api) = routes().merge(accounts).split_for_parts();
    let dca_routes = dca::routes().layer(protection.clone()).layer(middleware::from_fn(dca::errors));
    let header = |name: &'static str, value: &'static str| {
        SetResponseHeaderLayer::if_not_present(HeaderName::from_static(name), HeaderValue::from_static(value))
    };
    // By default, Swagger UI sends the description to an online validator.
    let docs = SwaggerUi::new("/docs").config(Config::default().validator_url("none")).url("/openapi.json", api);
    let router = router
        .merge(dca_routes.layer(Extension(Dialect::Dca)))
        .merge(accounts::pages::routes().layer(protection))
        .merge(docs)
        .fallback(|| async {
            Problem::new(Code::NotFound, "There is no such route. See /docs for a list of all routes.")
        })
        .method_not_allowed_fallback(|| async { Problem::of(Code::MethodNotAllowed) })
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(TimeoutLayer::with_status_code(StatusCode::REQUEST_TIMEOUT, TIMEOUT))
        .layer(CatchPanicLayer::custom(|_| Problem::of(Code::Internal).into_response()))
        .layer(header("x-content-type-options", "nosniff"))
        .layer(header("x-frame-options", "DENY"))
        .layer(header("referrer-policy", "no-referrer"))
        .layer(header("cache-control", "no-store"))
        .layer(header("content-security-policy", CSP))
        .layer(cors(&app.config));
    let router = if app.config.http.public_url.starts_with("https:") {
        router.layer(header("strict-transport-security", "max-age=31536000; includeSubDomains"))
    } else {
        router
    };
    router.layer(middleware::from_fn_with_state(app.clone(), trace_request)).with_state(app)
}

/// Allows requests with cookies from the service's own pages, the frontend and the configured origins only.
fn cors(config: &crate::Config) -> CorsLayer {
    let origins = gate::origins(config).filter_map(|origin| HeaderValue::from_str(&origin).ok());
    CorsLayer::new()
        .allow_origin(AllowOrigin::list(origins))
        .allow_credentials(true)
        .allow_methods([Method::GET, Method::POST, Method::PATCH, Method::PUT, Method::DELETE])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            HeaderName::from_static("x-csrf-token"),
            HeaderName::from_static("x-correlation-id"),
        ])
        .expose_headers([
            header::RETRY_AFTER,
            HeaderName::from_static("x-request-id"),
            HeaderName::from_static("x-correlation-id"),
        ])
        .max_age(Duration::from_hours(1))
}

/// Allows resources of this origin only, and nothing inline except the images of the documentation page.
const CSP: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                   connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The ID of a request, available to handlers and middleware as an extension.
#[derive(Clone)]
pub(crate) struct RequestId(String);

/// Assigns the ID that the response, log lines and events of a request carry, and records its metrics.
async fn trace_request(
    State(app): State<App>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    mut request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let id = app.core.ids.v7(app.core.clock.now()).to_string();
    // The route template instead of the path: paths may contain secrets, which must not be logged.
    let route = request.extensions().get::<MatchedPath>().map_or("unmatched", MatchedPath::as_str).to_owned();
    let method = request.method().clone();
    let client = extract::client_ip(&app.config.http.trusted_proxies, peer.ip(), request.headers());
    request.extensions_mut().insert(RequestId(id.clone()));
    let span = info_span!("request", request_id = id, %method, route, %client);
    let mut response = events::with_request_id(id.clone(), next.run(request)).instrument(span.clone()).await;
    if response.status() == StatusCode::REQUEST_TIMEOUT {
        response = Problem::of(Code::RequestTimeout).into_response();
    }
    let (status, elapsed) = (response.status().as_u16(), started.elapsed());
    let labels = [("method", method_label(&method)), ("route", route), ("status", status.to_string())];
    metrics::counter!("http_requests_total", &labels).increment(1);
    metrics::histogram!("http_request_duration_seconds", &labels[..2]).record(elapsed.as_secs_f64());
    span.in_scope(|| info!(status, ms = elapsed.as_millis(), "request completed"));
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert("x-request-id", id);
    }
    response
}

/// Maps unknown methods to `other`, so that clients cannot create new time series.
fn method_label(method: &axum::http::Method) -> String {
    let known = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    known.into_iter().find(|known| *known == method.as_str()).unwrap_or("other").to_owned()
}

/// A running server.
pub(crate) struct Listening {
    /// The address it listens on.
    pub(crate) addr: SocketAddr,
    /// Ends when all requests have been completed, or when the listener fails.
    pub(crate) task: JoinHandle<std::io::Result<()>>,
}

/// Binds the address and serves requests until `drain` is cancelled, then completes requests in flight.
pub(crate) async fn serve(app: &App, drain: CancellationToken) -> Result<Listening> {
    let handle = Handle::new();
    let service = router(app.clone()).into_make_service_with_connect_info::<SocketAddr>();
    let listener = std::net::TcpListener::bind(app.config.http.addr)
        .with_context(|| format!("cannot listen on {} (DCA_HTTP_ADDR)", app.config.http.addr))?;
    listener.set_nonblocking(true)?;
    let addr = listener.local_addr()?;
    let mut server = axum_server::from_tcp(listener)?.handle(handle.clone());
    limit_request_heads(&mut server);
    let task = match &app.config.http.tls {
        None => tokio::spawn(async move { server.acceptor(IdleTimeout).serve(service).await }),
        Some(files) => {
            // The defaults of rustls: TLS 1.3 and 1.2.
            let tls = RustlsConfig::from_pem_file(&files.cert, &files.key).await;
            let tls =
                tls.context("cannot load the TLS certificate or its key (DCA_TLS_CERT_FILE, DCA_TLS_KEY_FILE)")?;
            let acceptor = axum_server::tls_rustls::RustlsAcceptor::new(tls).acceptor(IdleTimeout);
            tokio::spawn(async move { server.acceptor(acceptor).serve(service).await })
        }
    };
    let timeout = app.config.http.drain_timeout;
    tokio::spawn(async move {
        drain.cancelled().await;
        handle.graceful_shutdown(Some(timeout));
    });
    Ok(Listening { addr, task })
}

fn limit_request_heads(server: &mut Server<SocketAddr>) {
    let builder = server.http_builder();
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_headers(64).max_buf_size(32 * 1024);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(HEAD_TIMEOUT).max_header_list_size(32 * 1024);
}

/// A `Retry-After` header, in whole seconds and at least 1.
pub(crate) fn retry_after(wait: Duration) -> (HeaderName, HeaderValue) {
    (header::RETRY_AFTER, HeaderValue::from(wait.as_millis().div_ceil(1_000).max(1).try_into().unwrap_or(u64::MAX)))
}
