//! The rate limits of routes. Each route is registered with its policy, which its documentation names.

use axum::extract::{Extension, Request};
use axum::http::request::Parts;
use axum::{middleware, middleware::Next, response::Response};
use dca_core::crypto::{hex, sha256};
use dca_core::limiter::Bucket;
use utoipa_axum::router::OpenApiRouter;

use super::extract::{api_key, client_addresses, client_ip_of, network};
use super::{openapi, problem::Problem, quota};
use crate::App;

/// Limits these routes with a bucket that they share.
pub(super) fn limited(bucket: Bucket, routes: OpenApiRouter<App>) -> OpenApiRouter<App> {
    let limit = move |Extension(app): Extension<App>, request: Request, next: Next| limit(app, bucket, request, next);
    documented(bucket.as_str(), routes.route_layer(middleware::from_fn(limit)))
}

/// Routes without a limit: probes, and documents that may be cached.
pub(super) fn unlimited(routes: OpenApiRouter<App>) -> OpenApiRouter<App> {
    documented("unlimited", routes)
}

fn documented(policy: &str, mut routes: OpenApiRouter<App>) -> OpenApiRouter<App> {
    for (_, operation) in openapi::operations(routes.get_openapi_mut()) {
        operation.extensions.get_or_insert_default().insert("x-rate-limit".to_owned(), policy.into());
    }
    routes
}

async fn limit(app: App, bucket: Bucket, request: Request, next: Next) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let headers = quota::count(&app, bucket, &client_key(&app, bucket, &parts)).await?;
    let mut response = next.run(Request::from_parts(parts, body)).await;
    // A limit that the handler has checked and found exceeded is the one to report.
    if !response.headers().contains_key("ratelimit") {
        response.headers_mut().extend(headers);
    }
    Ok(response)
}

/// What requests are counted by: the API key and the client's addresses, or else the client's network. Account routes
/// ignore API keys, which would give every request with an invented one a limit of its own.
fn client_key(app: &App, bucket: Bucket, parts: &Parts) -> String {
    let client = client_ip_of(parts, app);
    match api_key(&parts.headers).filter(|_| bucket != Bucket::Auth) {
        Some(key) => format!("api_key:{}:{}", hex(&sha256(key.as_bytes())[..16]), client_addresses(client)),
        None => network(client),
    }
}
