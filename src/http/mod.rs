//! The HTTP API: router, middleware and listener.
//!
//! A route consists of a request struct, a handler (extract → one call into core → render) and one line in
//! `routes`, `accounts::routes` or `admin::routes`. The `pipeline` gives every request an ID, an access-log line, a
//! latency sample, a timeout and a body limit. Errors are problem documents (RFC 9457), and a panic is a 500.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use axum::{Router, ServiceExt, extract::Request, middleware, routing::get};
use axum_server::{Handle, tls_rustls::RustlsConfig};
use dca_core::{Code, limiter::Bucket};
use futures::FutureExt;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::{net::TcpStream, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use utoipa::OpenApi as _;
use utoipa_axum::{router::OpenApiRouter, routes};
use utoipa_swagger_ui::{Config, SwaggerUi};

use self::idempotency::idempotent;
use self::rate_limit::{limited, unlimited};
use self::{connections::Connections, pipeline::Pipeline, problem::Problem};
use crate::App;

mod accounts;
mod admin;
mod api_keys;
mod bans;
mod compat;
mod connections;
mod cookies;
mod csrf;
mod extract;
mod home;
mod idempotency;
mod idle_timeout;
mod keys;
mod licenses;
mod openapi;
mod ops;
mod paging;
mod pipeline;
mod precondition;
mod prelude;
mod problem;
mod products;
mod quota;
mod rate_limit;
mod request_head;
mod schemas;
mod trace;

/// The path of the OpenAPI document.
const DOCUMENT: &str = "/openapi.json";
/// How often a connection with HTTP/2 is checked.
const PING_INTERVAL: Duration = Duration::from_secs(10);

/// All routes except those of accounts, with their documentation.
fn routes() -> OpenApiRouter<App> {
    let operations = OpenApiRouter::new()
        .routes(routes!(keys::jwks))
        .routes(routes!(keys::list))
        .routes(routes!(ops::health))
        .routes(routes!(ops::live))
        .routes(routes!(ops::ready))
        .routes(routes!(ops::metrics));
    let questions = OpenApiRouter::new()
        .routes(routes!(licenses::validate::validate))
        .routes(routes!(licenses::leases::heartbeat))
        .merge(idempotent(OpenApiRouter::new().routes(routes!(licenses::usage::count))));
    let activation = OpenApiRouter::new()
        .routes(routes!(licenses::devices::activate))
        .routes(routes!(licenses::devices::deactivate))
        .routes(routes!(licenses::files::activate_offline));
    OpenApiRouter::with_openapi(openapi::Doc::openapi())
        .merge(limited(Bucket::Validate, questions))
        .merge(limited(Bucket::Activate, idempotent(activation)))
        .merge(limited(Bucket::Manage, idempotent(management())))
        .merge(limited(Bucket::Activate, idempotent(licenses::manage::redemption())))
        .merge(unlimited(operations))
}

/// The routes of those who manage products, and of their servers.
fn management() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(licenses::devices::list))
        .routes(routes!(licenses::devices::deactivate_by_owner))
        .routes(routes!(licenses::devices::reset))
        .routes(routes!(licenses::leases::end))
        .routes(routes!(bans::list, bans::create))
        .routes(routes!(bans::lift))
        .routes(routes!(licenses::files::checkout))
        .routes(routes!(licenses::test_keys::test_keys))
        .merge(licenses::manage::routes())
        .merge(admin::licenses::routes())
        .merge(api_keys::routes())
        .merge(products::routes())
}

/// The routes of accounts and their administration. Clients of earlier systems call them too.
fn account_routes() -> OpenApiRouter<App> {
    protected(accounts::routes().merge(admin::routes()))
}

/// Adds the middleware of account routes.
fn protected(routes: OpenApiRouter<App>) -> OpenApiRouter<App> {
    limited(Bucket::Auth, routes.route_layer(middleware::from_fn(csrf::protect)))
}

/// Returns the OpenAPI description of the API.
pub fn openapi() -> utoipa::openapi::OpenApi {
    openapi::complete(routes().merge(account_routes()).split_for_parts().1)
}

fn router(app: &App) -> Router<App> {
    // By default, Swagger UI sends the document to an online validator, and its top bar has inline styles.
    let docs = Config::new([DOCUMENT]).validator_url("none").use_base_layout();
    let licenses = Router::from(routes()).with_state(app.clone());
    Router::from(routes())
        .merge(compat::routes(&licenses, account_routes(), protected))
        .merge(protected(accounts::pages::routes().into()))
        .merge(home::routes())
        .merge(SwaggerUi::new("/docs").config(docs))
        .route(DOCUMENT, get(openapi::document))
        .fallback(|| async {
            Problem::new(Code::NotFound, "There is no such route. See /docs for a list of all routes.")
        })
        .method_not_allowed_fallback(|| async { Problem::of(Code::MethodNotAllowed) })
}

pub(crate) struct RunningServer {
    pub(crate) addr: SocketAddr,
    /// Ends when all requests have been completed, or when the listener fails.
    pub(crate) task: JoinHandle<io::Result<()>>,
}

/// Binds the address and serves requests until `drain` is cancelled, then completes requests in flight.
pub(crate) async fn serve(app: &App, drain: CancellationToken) -> Result<RunningServer> {
    let handle = Handle::new();
    let pipeline = Pipeline::new(app, router(app));
    let service = ServiceExt::<Request>::into_make_service_with_connect_info::<SocketAddr>(pipeline);
    let listener = std::net::TcpListener::bind(app.config.http.addr)
        .with_context(|| format!("cannot listen on {} (DCA_HTTP_ADDR)", app.config.http.addr))?;
    listener.set_nonblocking(true)?;
    let addr = listener.local_addr()?;
    let mut server = axum_server::from_tcp(listener)?.handle(handle.clone());
    limit_request_heads(server.http_builder());
    let connections = Connections::new(&app.config.http);
    let serving = match &app.config.http.tls {
        None => server.acceptor(connections).serve(service).boxed(),
        Some(files) => {
            // The defaults of rustls: TLS 1.3 and 1.2.
            let tls = RustlsConfig::from_pem_file(&files.cert, &files.key).await;
            let tls =
                tls.context("cannot load the TLS certificate or its key (DCA_TLS_CERT_FILE, DCA_TLS_KEY_FILE)")?;
            let acceptor = axum_server::tls_rustls::RustlsAcceptor::new(tls).acceptor(connections);
            server.acceptor(acceptor).serve(service).boxed()
        }
    };
    let timeout = app.config.http.drain_timeout;
    let task = tokio::spawn(async move {
        tokio::pin!(serving);
        tokio::select! {
            ended = &mut serving => return ended,
            error = watch_listener(addr, LISTENER_CHECK_INTERVAL) => return Err(error),
            () = drain.cancelled() => handle.graceful_shutdown(Some(timeout)),
        }
        serving.await
    });
    Ok(RunningServer { addr, task })
}

/// How often the listener is checked.
const LISTENER_CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// Ends when the listener has refused three connections in a row: the server itself retries forever, without a word.
async fn watch_listener(addr: SocketAddr, interval: Duration) -> io::Error {
    let ip = match addr.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let mut refused = 0;
    while refused < 3 {
        tokio::time::sleep(interval).await;
        let result = TcpStream::connect((ip, addr.port())).await;
        let is_refused = result.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
        refused = if is_refused { refused + 1 } else { 0 };
    }
    io::Error::other(format!("the listener on {addr} no longer accepts connections"))
}

fn limit_request_heads(builder: &mut Builder<TokioExecutor>) {
    // Their time is limited by `idle_timeout`: hyper's timeout would also close connections between two requests.
    builder.http1().header_read_timeout(None).max_headers(100).max_buf_size(64 * 1024);
    builder.http2().timer(TokioTimer::new()).keep_alive_interval(PING_INTERVAL).max_header_list_size(64 * 1024);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_closed_listener_is_noticed() {
        let listener = tokio::net::TcpListener::bind("0.0.0.0:0").await.unwrap();
        let watch = tokio::spawn(watch_listener(listener.local_addr().unwrap(), Duration::from_millis(5)));
        for _ in 0..4 {
            listener.accept().await.unwrap();
        }
        assert!(!watch.is_finished());
        drop(listener);
        assert!(watch.await.unwrap().to_string().ends_with("no longer accepts connections"));
    }
}
