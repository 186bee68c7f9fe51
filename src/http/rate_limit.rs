//! The rate limit of the account routes, for each network.

use axum::extract::{Request, State};
use axum::{middleware::Next, response::Response};
use dca_core::limiter::Bucket;

use super::extract::{ClientIp, network};
use super::problem::Problem;
use crate::App;

pub(super) async fn limit(
    State(app): State<App>,
    ClientIp(client): ClientIp,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    app.core.limiter.check(Bucket::Auth, &network(client)).await.map_err(Problem::rate_limited)?;
    Ok(next.run(request).await)
}
