//! CSRF protection of the account routes.
//!
//! Browsers attach cookies to cross-site requests. A request that carries a cookie and may change state is
//! therefore accepted only from an allowed page, according to `Sec-Fetch-Site` or else to `Origin`, compared with
//! the configured origins. If the request has an `X-CSRF-Token` header, it must match the `csrf_token` cookie
//! (double submit). Without any of these headers, cookies do not authenticate it, except for clients of an earlier
//! system (`DCA_ALLOW_COOKIES_WITHOUT_ORIGIN`).

use axum::extract::{Extension, Request};
use axum::http::{HeaderMap, Method, header};
use axum::{middleware::Next, response::Response};
use dca_core::Code;
use url::Url;

use super::cookies::{CookieKind, Cookies, UsableSessions};
use super::{
    compat::dialect::Dialect,
    extract::{bearer, is_form},
    problem::Problem,
    trace::RequestContext,
};
use crate::Config;

pub(super) async fn protect(
    Extension(context): Extension<RequestContext>,
    dialect: Dialect,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let app = context.app();
    let cookies = Cookies::of(app, request.headers());
    let usable = check(&app.config, dialect, &cookies, &request)?;
    request.extensions_mut().insert(usable);
    Ok(next.run(request).await)
}

fn check(config: &Config, dialect: Dialect, cookies: &Cookies, request: &Request) -> Result<UsableSessions, Problem> {
    let is_safe = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    let headers = request.headers();
    // Pages of other sites can submit forms without asking first, for example to sign somebody in.
    let may_be_forged = headers.contains_key(header::COOKIE) || is_form(headers);
    if is_safe || !may_be_forged || bearer(headers).is_some() {
        return Ok(UsableSessions::All);
    }
    let is_allowed_page = is_allowed_page(config, headers);
    if is_allowed_page == Some(false) {
        return Err(Problem::new(Code::AccessDenied, "This request is not allowed from this origin."));
    }
    if let Some(sent) = headers.get("x-csrf-token") {
        return match cookies.get(CookieKind::Csrf)? {
            Some(cookie) if sent.as_bytes() == cookie.as_bytes() => Ok(UsableSessions::All),
            _ => {
                let detail = "The X-CSRF-Token header does not match the csrf_token cookie.";
                Err(Problem::new(Code::AccessDenied, detail))
            }
        };
    }
    Ok(match is_allowed_page {
        Some(_) => UsableSessions::All,
        None if config.cookies.allowed_without_origin => dialect.session_without_origin(request.uri().path()),
        None => UsableSessions::None,
    })
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
