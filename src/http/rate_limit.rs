//! The rate limit of the account routes, for each network.

use axum::extract::{Request, State};
use axum::{middleware::Next, response::Response};
use dca_core::limiter::Bucket;

use super::extract::{ClientIp, network};
use super::{problem::Problem, quota};
use crate::App;

pub(super) async fn limit(
    State(app): State<App>,
    ClientIp(client): ClientIp,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let headers = quota::count(&app, Bucket::Auth, &network(client)).await?;
    let mut response = next.run(request).await;
    response.headers_mut().extend(headers);
    Ok(response)
}
