//! What every account route has in front of it: a limit per network, and the question whether a browser was
//! made to send this by somebody else's page.
//!
//! Cookies travel by themselves, so a request that carries one of ours and changes something must come from a
//! page that may do so: `Sec-Fetch-Site` says it, or else `Origin`, compared with the configured origins.
//! Whoever sends the second half of the double submit must send the right one. A program that is no browser
//! sends neither header and has no other page in it.

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

/// See the module.
pub(super) async fn gate(State(app): State<App>, request: Request, next: Next) -> Response {
    let peer = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let peer = peer.map_or(IpAddr::from([0; 4]), |peer| peer.0.ip());
    let client = client_ip(&app.config.trusted_proxies, peer, request.headers());
    if let Err(wait) = app.core.limiter.check(Bucket::Auth, &network(client)).await {
        return Problem::slow_down(wait).into_response();
    }
    match may_write(&app.config, &request) {
        Ok(()) => next.run(request).await,
        Err(refused) => refused.into_response(),
    }
}

fn may_write(config: &Config, request: &Request) -> Result<(), Problem> {
    let is_safe = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    let headers = request.headers();
    if is_safe || !headers.contains_key(header::COOKIE) || bearer(headers).is_some() {
        return Ok(());
    }
    if !is_own_page(config, headers).unwrap_or(true) {
        return Err(Problem::of(Code::AccessDenied));
    }
    let cookies = Cookies::of(headers);
    let (cookie, sent) = (cookies.one(&CookieKind::Csrf.name(config))?, headers.get("x-csrf-token"));
    if let Some(sent) = sent {
        return match cookie {
            Some(cookie) if sent.as_bytes() == cookie.as_bytes() => Ok(()),
            _ => Err(Problem::new(Code::AccessDenied, "X-CSRF-Token is not the value of the csrf_token cookie.")),
        };
    }
    // Those clients were promised the double submit where a cookie is what proves them: without it a page has to
    // show where it is from.
    let by_cookie = cookies.one(&CookieKind::Refresh(Dialect::Dca).name(config))?.is_some();
    let is_theirs = ["/api/auth/refresh", "/api/auth/logout"].contains(&request.uri().path());
    if is_theirs && by_cookie && is_own_page(config, headers).is_none() {
        return Err(Problem::new(Code::AccessDenied, "Send the value of the csrf_token cookie as X-CSRF-Token."));
    }
    Ok(())
}

/// Whether a page that may do so sent this; `None`: the program does not say.
fn is_own_page(config: &Config, headers: &HeaderMap) -> Option<bool> {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    let origin = text("origin").map(|origin| origins(config).any(|known| known == origin));
    match text("sec-fetch-site") {
        Some("same-origin") => Some(true),
        Some("none") => Some(origin.unwrap_or(true)),
        Some(_) => Some(origin.unwrap_or(false)),
        None => origin,
    }
}

/// Origins whose pages may call us, as browsers write them.
pub(super) fn origins(config: &Config) -> impl Iterator<Item = String> + use<'_> {
    let own = [Some(&config.public_url), config.frontend_url.as_ref()].into_iter().flatten();
    let own = own.filter_map(|url| Url::parse(url).ok()).map(|url| url.origin().ascii_serialization());
    own.chain(config.cors_origins.iter().cloned())
}
