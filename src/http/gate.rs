//! Middleware of the account routes: a rate limit per network, and CSRF protection.
//!
//! Browsers attach cookies to cross-site requests. A request that carries a cookie and may change state is
//! therefore accepted only from an allowed page, according to `Sec-Fetch-Site` or else to `Origin`, compared with
//! the configured origins. If the request has an `X-CSRF-Token` header, it must match the `csrf_token` cookie
//! (double submit). Clients other than browsers send none of these headers and are not affected.

use std::net::{IpAddr, SocketAddr};

use axum::{
    extract::{ConnectInfo, Request, State},
    http::{HeaderMap, Method, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use dca_core::{Code, limiter::Bucket};
use url::Url;

use super::{
    compat::Dialect,
    cookies::{CookieKind, Cookies},
    extract::{bearer, client_ip, network},
    problem::Problem,
};
use crate::{App, Config};

/// Applies the rate limit and the CSRF check.
pub(super) async fn gate(State(app): State<App>, request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let peer = peer.map_or(IpAddr::from([0; 4]), |peer| peer.0.ip());
    let client = client_ip(&app.config.http.trusted_proxies, peer, request.headers());
    if let Err(wait) = app.core.limiter.check(Bucket::Auth, &network(client)).await {
        return Problem::slow_down(wait).into_response();
    }
    match check_csrf(&app.config, &request) {
        Ok(()) => next.run(request).await,
        Err(refused) => refused.into_response(),
    }
}

fn check_csrf(config: &Config, request: &Request) -> Result<(), Problem> {
    let is_safe = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    let headers = request.headers();
    if is_safe || !headers.contains_key(header::COOKIE) || bearer(headers).is_some() {
        return Ok(());
    }
    if !is_allowed_page(config, headers).unwrap_or(true) {
        return Err(Problem::of(Code::AccessDenied));
    }
    let cookies = Cookies::of(headers);
    let (cookie, sent) = (cookies.one(&CookieKind::Csrf.name(config))?, headers.get("x-csrf-token"));
    if let Some(sent) = sent {
        return match cookie {
            Some(cookie) if sent.as_bytes() == cookie.as_bytes() => Ok(()),
            _ => Err(Problem::new(Code::AccessDenied, "The X-CSRF-Token header does not match the csrf_token cookie.")),
        };
    }
    // The earlier DCA-Auth required the double submit on these two routes if they are authenticated by cookie.
    // Without it, the request must have a header that names its origin.
    let has_refresh_cookie = cookies.one(&CookieKind::Refresh(Dialect::Dca).name(config))?.is_some();
    let is_dca_route = ["/api/auth/refresh", "/api/auth/logout"].contains(&request.uri().path());
    if is_dca_route && has_refresh_cookie && is_allowed_page(config, headers).is_none() {
        return Err(Problem::new(
            Code::AccessDenied,
            "Send the value of the csrf_token cookie in the X-CSRF-Token header.",
        ));
    }
    Ok(())
}

/// Whether an allowed page sent the request. `None` if it has neither `Sec-Fetch-Site` nor `Origin`.
fn is_allowed_page(config: &Config, headers: &HeaderMap) -> Option<bool> {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let origin = text("origin").map(|origin| origins(config).any(|known| known == origin));
    match text("sec-fetch-site") {
        Some("same-origin") => Some(true),
        Some("none") => Some(origin.unwrap_or(true)),
        Some(_) => Some(origin.unwrap_or(false)),
        None => origin,
    }
}

/// The origins whose pages may call the API with cookies, in the form of the `Origin` header.
pub(super) fn origins(config: &Config) -> impl Iterator<Item = String> + use<'_> {
    let own = [Some(&config.http.public_url), config.accounts.frontend_url.as_ref()].into_iter().flatten();
    let own = own.filter_map(|url| Url::parse(url).ok()).map(|url| url.origin().ascii_serialization());
    own.chain(config.http.cors_origins.iter().cloned())
}
