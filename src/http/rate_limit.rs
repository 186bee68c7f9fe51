//! The rate limit of the account routes, for each network.

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::Response,
};
use dca_core::limiter::Bucket;

use super::{
    extract::{ClientIp, network},
    problem::Problem,
};
use crate::App;

/// Refuses requests of a network that sends too many.
pub(super) async fn limit(
    State(app): State<App>,
    ClientIp(client): ClientIp,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    app.core.limiter.check(Bucket::Auth, &network(client)).await.map_err(Problem::rate_limited)?;
    Ok(next.run(request).await)
}
