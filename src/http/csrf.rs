//! CSRF protection of the account routes.
//!
//! Browsers attach cookies to cross-site requests. A request that carries a cookie and may change state is
//! therefore accepted only from an allowed page, according to `Sec-Fetch-Site` or else to `Origin`, compared with
//! the configured origins. If the request has an `X-CSRF-Token` header, it must match the `csrf_token` cookie
//! (double submit). Clients other than browsers send none of these headers and are not affected.

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, header};
use axum::{middleware::Next, response::Response};
use dca_core::Code;
use url::Url;

use super::cookies::{CookieKind, Cookies};
use super::{
    compat::dialect::Dialect,
    extract::{bearer, is_form},
    problem::Problem,
};
use crate::{App, Config};

pub(super) async fn protect(
    State(app): State<App>,
    dialect: Dialect,
    cookies: Cookies,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    check(&app.config, dialect, &cookies, &request)?;
    Ok(next.run(request).await)
}

fn check(config: &Config, dialect: Dialect, cookies: &Cookies, request: &Request) -> Result<(), Problem> {
    let is_safe = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    let headers = request.headers();
    // Pages of other sites can submit forms without asking first, for example to sign somebody in.
    let may_be_forged = headers.contains_key(header::COOKIE) || is_form(headers);
    if is_safe || !may_be_forged || bearer(headers).is_some() {
        return Ok(());
    }
    if !is_allowed_page(config, headers).unwrap_or(true) {
        return Err(Problem::of(Code::AccessDenied));
    }
    let denied = |detail: &str| Err(Problem::new(Code::AccessDenied, detail));
    let (cookie, sent) = (cookies.get(CookieKind::Csrf)?, headers.get("x-csrf-token"));
    if let Some(sent) = sent {
        return match cookie {
            Some(cookie) if sent.as_bytes() == cookie.as_bytes() => Ok(()),
            _ => denied("The X-CSRF-Token header does not match the csrf_token cookie."),
        };
    }
    // Without the token, such a request must at least name its origin.
    if dialect.requires_double_submit(request.uri().path())
        && cookies.get(dialect.system.refresh_cookie)?.is_some()
        && is_allowed_page(config, headers).is_none()
    {
        return denied("Send the value of the csrf_token cookie in the X-CSRF-Token header.");
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
