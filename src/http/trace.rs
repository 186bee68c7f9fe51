//! The ID of each request, its line in the access log, and its metrics.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::{MatchedPath, Request};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::response::IntoResponse;
use axum::routing::{Route, future::RouteFuture};
use futures::future::{Either, Ready, ready};
use metrics::{Counter, Histogram};
use tower_layer::Layer;
use tower_service::Service;
use tracing::{Span, info, info_span};
use uuid::fmt::Hyphenated;

use super::problem::Problem;
use crate::App;

/// What is known about a request before it is routed. An extension of the request.
#[derive(Clone)]
pub(super) struct RequestContext(Arc<Inner>);

struct Inner {
    app: App,
    id: Arc<str>,
    client: IpAddr,
    /// The endpoint that the router has found.
    endpoint: OnceLock<Arc<Endpoint>>,
}

impl RequestContext {
    pub(super) fn new(app: &App, client: IpAddr) -> Self {
        let mut buffer = [0; Hyphenated::LENGTH];
        let id = app.core.ids.v7(app.core.clock.now());
        let id = Arc::from(&*id.hyphenated().encode_lower(&mut buffer));
        Self(Arc::new(Inner { app: app.clone(), id, client, endpoint: OnceLock::new() }))
    }

    pub(super) fn app(&self) -> &App {
        &self.0.app
    }

    /// The ID that the response, log lines and events of the request carry.
    pub(super) fn id(&self) -> &Arc<str> {
        &self.0.id
    }

    /// The IP address of the client.
    pub(super) fn client(&self) -> IpAddr {
        self.0.client
    }

    /// Gives log lines that are written meanwhile the ID of the request.
    pub(super) fn span(&self) -> Span {
        info_span!("request", request_id = &*self.0.id)
    }

    /// The `X-Request-Id` of the response.
    pub(super) fn header(&self) -> Option<HeaderValue> {
        HeaderValue::from_str(&self.0.id).ok()
    }

    /// Writes the line of the access log, and counts the request: for `unmatched` if it was not routed.
    pub(super) fn record(&self, unmatched: &Endpoint, method: &Method, status: StatusCode, elapsed: Duration) {
        let Inner { id: request_id, client, endpoint, .. } = &*self.0;
        let (method, status) = (method_label(method), status.as_u16());
        let endpoint = endpoint.get().map_or(unmatched, |endpoint| &**endpoint);
        endpoint.record(method, status, elapsed);
        let route = endpoint.route();
        let ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
        info!(request_id = &**request_id, method, route, %client, status, ms, "request completed");
    }
}

/// Maps unknown methods to `other`, so that clients cannot create new time series.
fn method_label(method: &Method) -> &'static str {
    let known = ["GET", "POST", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS"];
    known.into_iter().find(|known| *known == method.as_str()).unwrap_or("other")
}

/// A handler of a route, with its metrics.
#[derive(Default)]
pub(super) struct Endpoint {
    /// The route template instead of the path: paths may contain secrets, which must not be logged.
    route: OnceLock<Box<str>>,
    /// Registered when they are first used, because that costs more than the rest of a request.
    series: RwLock<Vec<Series>>,
}

/// The metrics of a method and a status.
struct Series {
    method: &'static str,
    status: u16,
    requests: Counter,
    seconds: Histogram,
}

impl Endpoint {
    fn route(&self) -> &str {
        self.route.get().map_or("unmatched", |route| &**route)
    }

    fn record(&self, method: &'static str, status: u16, elapsed: Duration) {
        let is_of_request = |series: &&Series| series.status == status && series.method == method;
        let known = self.series.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(series) = known.iter().find(is_of_request) {
            return series.record(elapsed);
        }
        drop(known);
        let series = Series::register(self.route(), method, status);
        series.record(elapsed);
        self.series.write().unwrap_or_else(PoisonError::into_inner).push(series);
    }
}

impl Series {
    fn register(route: &str, method: &'static str, status: u16) -> Self {
        let labels = [("method", method.to_owned()), ("route", route.to_owned()), ("status", status.to_string())];
        let requests = metrics::counter!("http_requests_total", &labels);
        let seconds = metrics::histogram!("http_request_duration_seconds", &labels[..2]);
        Self { method, status, requests, seconds }
    }

    fn record(&self, elapsed: Duration) {
        self.requests.increment(1);
        self.seconds.record(elapsed.as_secs_f64());
    }
}

/// Tells the context of a request which endpoint it has reached. A request with a [`Problem`] goes no further: it was
/// refused already, and is routed for its metrics only.
#[derive(Clone)]
pub(super) struct EndpointLayer;

#[derive(Clone)]
pub(super) struct EndpointService {
    route: Route,
    endpoint: Arc<Endpoint>,
}

impl Layer<Route> for EndpointLayer {
    type Service = EndpointService;

    fn layer(&self, route: Route) -> EndpointService {
        EndpointService { route, endpoint: Arc::default() }
    }
}

impl Service<Request> for EndpointService {
    type Response = <Route as Service<Request>>::Response;
    type Error = <Route as Service<Request>>::Error;
    type Future = Either<Ready<Result<Self::Response, Self::Error>>, RouteFuture<Self::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Service::<Request>::poll_ready(&mut self.route, cx)
    }

    fn call(&mut self, mut request: Request) -> Self::Future {
        if let Some(context) = request.extensions().get::<RequestContext>() {
            if let Some(path) = request.extensions().get::<MatchedPath>() {
                self.endpoint.route.get_or_init(|| path.as_str().into());
            }
            _ = context.0.endpoint.set(Arc::clone(&self.endpoint));
        }
        match request.extensions_mut().remove::<Problem>() {
            Some(problem) => Either::Left(ready(Ok(problem.into_response()))),
            None => Either::Right(self.route.call(request)),
        }
    }
}
