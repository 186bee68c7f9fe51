//! The rate limits of routes. Each route is registered with its policy, which its documentation names.

use std::fmt::{self, Display};
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue};
use axum::response::{IntoResponse, Response};
use axum::routing::Route;
use dca_core::Code;
use dca_core::crypto::{hex, sha256};
use dca_core::limiter::Bucket;
use futures::{FutureExt, future::BoxFuture};
use ipnet::IpNet;
use tower_layer::Layer;
use tower_service::Service;
use utoipa_axum::router::OpenApiRouter;

use super::extract::{api_key, client_addresses, network};
use super::problem::Problem;
use super::{openapi, quota, trace::RequestContext};
use crate::App;

/// Limits these routes with a bucket that they share.
pub(super) fn limited(bucket: Bucket, routes: OpenApiRouter<App>) -> OpenApiRouter<App> {
    documented(bucket.as_str(), routes.route_layer(RateLimitLayer { bucket, policy: Arc::default() }))
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

#[derive(Clone)]
struct RateLimitLayer {
    bucket: Bucket,
    /// The `RateLimit-Policy` of the responses.
    policy: Arc<OnceLock<HeaderValue>>,
}

#[derive(Clone)]
struct RateLimitService {
    limit: RateLimitLayer,
    route: Route,
}

impl Layer<Route> for RateLimitLayer {
    type Service = RateLimitService;

    fn layer(&self, route: Route) -> RateLimitService {
        RateLimitService { limit: self.clone(), route }
    }
}

impl Service<Request> for RateLimitService {
    type Response = Response;
    type Error = <Route as Service<Request>>::Error;
    type Future = BoxFuture<'static, Result<Response, Self::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Service::<Request>::poll_ready(&mut self.route, cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        let Self { limit, mut route } = self.clone();
        async move {
            let Some(context) = request.extensions().get::<RequestContext>().cloned() else {
                // Never without a limit.
                return Ok(Problem::of(Code::Internal).into_response());
            };
            let (app, bucket) = (context.app(), limit.bucket);
            let key = ClientKey::of(bucket, context.client(), request.headers());
            let left = match quota::count(app, bucket, &key).await {
                Ok(left) => left,
                Err(problem) => return Ok(problem.into_response()),
            };
            let mut response = route.call(request).await?;
            // If the handler exceeded another limit, its headers stay.
            if let Some(rate) = app.core.limiter.rate(bucket)
                && !response.headers().contains_key(quota::STATE)
            {
                let policy = limit.policy.get_or_init(|| quota::policy(bucket, rate));
                response.headers_mut().insert(quota::POLICY, policy.clone());
                response.headers_mut().insert(quota::STATE, quota::state(bucket, rate, left));
            }
            Ok(response)
        }
        .boxed()
    }
}

/// What requests are counted by: the API key and the client's addresses, or else the client's network.
#[derive(Hash)]
enum ClientKey<'a> {
    ApiKey(&'a str, IpNet),
    Network(IpNet),
}

impl<'a> ClientKey<'a> {
    /// Account routes ignore API keys, which would give every request with an invented one a limit of its own.
    fn of(bucket: Bucket, client: IpAddr, headers: &'a HeaderMap) -> Self {
        match api_key(headers).filter(|_| bucket != Bucket::Auth) {
            Some(key) => Self::ApiKey(key, client_addresses(client)),
            None => Self::Network(network(client)),
        }
    }
}

/// The name of the bucket that instances share. It does not contain the API key.
impl Display for ClientKey<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ApiKey(key, client) => write!(f, "api_key:{}:{client}", hex(&sha256(key.as_bytes())[..16])),
            Self::Network(network) => network.fmt(f),
        }
    }
}
