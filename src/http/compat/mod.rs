//! Compatibility with clients of earlier systems. Each route has one handler, which renders native views. What a
//! system's clients expect instead is in one file each: its routes, cookie, statuses, error format and names.

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::{self, Next};
use axum::{Router, response::Response};
use serde_json::Value;
use utoipa_axum::router::OpenApiRouter;

use crate::http::compat::dialect::{Conventions, Dialect, NATIVE, Routes};
use crate::{App, http::problem::Problem, http::trace::RequestContext};

pub(super) mod dialect;
mod earlier_dca;
mod earlier_dca_licenses;
mod earlier_dca_management;
mod multi_user;

static SYSTEMS: [&Conventions; 2] = [&multi_user::SYSTEM, &earlier_dca::SYSTEM];

/// The native account routes and those of the earlier systems, each in its dialect. `protect` adds the middleware of
/// account routes, whose errors are in that dialect too. `licenses` are the native license routes.
pub(super) fn routes(
    licenses: &Router,
    native: OpenApiRouter<App>,
    protect: impl Fn(OpenApiRouter<App>) -> OpenApiRouter<App>,
) -> Router<App> {
    let speak = |routes: Router<App>, system| {
        let dialect = Dialect::new(system, &SYSTEMS);
        routes.layer(middleware::from_fn_with_state(dialect, answer_in))
    };
    let owner = SYSTEMS.into_iter().find(|system| matches!(system.routes, Routes::Native)).unwrap_or(&NATIVE);
    SYSTEMS.into_iter().fold(speak(native.into(), owner), |routes, system| {
        let routes = routes.merge(speak((system.licenses)(licenses), system));
        match system.routes {
            Routes::Native => routes,
            Routes::Own(own) => routes.merge(speak(protect(own().into()).into(), system)),
        }
    })
}

/// The headers with which clients of earlier systems send their own ID of a request.
pub(super) fn correlation_headers() -> impl Iterator<Item = HeaderName> {
    SYSTEMS.iter().filter_map(|system| system.correlation_header).map(HeaderName::from_static)
}

/// Tells handlers the dialect of the route, and rewrites problems and headers of the response.
async fn answer_in(State(dialect): State<Dialect>, mut request: Request, next: Next) -> Response {
    let system = dialect.system;
    let correlation = system.correlation_header.map(|name| (name, correlation_id(&request, name)));
    request.extensions_mut().insert(dialect);
    let mut response = next.run(request).await;
    rewrite_problem(system, &mut response, correlation.as_ref().map_or("", |(_, id)| id));
    if let Some((name, id)) = correlation
        && let Ok(id) = HeaderValue::from_str(&id)
    {
        response.headers_mut().insert(name, id);
    }
    response
}

/// The client's own ID of the request if it is valid, or else the request ID.
fn correlation_id(request: &Request, header: &str) -> String {
    let is_allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(byte);
    let is_valid = |id: &&HeaderValue| (1..=128).contains(&id.len()) && id.as_bytes().iter().all(is_allowed);
    let received = request.headers().get(header).filter(is_valid).and_then(|id| id.to_str().ok());
    let generated = request.extensions().get::<RequestContext>().map(|context| &**context.id());
    received.or(generated).unwrap_or_default().to_owned()
}

/// Sets the status that the clients expect, and adds the members that they read.
fn rewrite_problem(system: &Conventions, response: &mut Response, correlation_id: &str) {
    let Some(problem) = response.extensions_mut().get_mut::<Problem>() else { return };
    if let Some(status) = (system.status)(problem.code) {
        problem.status = status;
    }
    if let Value::Object(members) = (system.error)(problem, correlation_id) {
        problem.names.extend(members);
    }
}
