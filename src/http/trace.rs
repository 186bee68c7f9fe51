//! The ID of each request, its line in the access log, and its metrics.

use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use dca_core::{Code, events};
use tokio::time::Instant;
use tracing::{Instrument, info, info_span};

use super::{extract::ClientIp, problem::Problem};
use crate::App;

#[derive(Clone)]
pub(super) struct RequestId(pub(super) String);

/// Assigns the ID that the response, log lines and events of a request carry, and records its metrics.
pub(super) async fn trace_request(
    State(app): State<App>,
    ClientIp(client): ClientIp,
    mut request: Request,
    next: Next,
) -> Response {
    let started = Instant::now();
    let id = app.core.ids.v7(app.core.clock.now()).to_string();
    // The route template instead of the path: paths may contain secrets, which must not be logged.
    let route = request.extensions().get::<MatchedPath>().map_or("unmatched", MatchedPath::as_str).to_owned();
    let method = request.method().clone();
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
