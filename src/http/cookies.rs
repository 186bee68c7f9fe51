//! Cookies: their names and attributes. The same function sets and clears them, because a browser only removes a
//! cookie if its name, domain and path match.
//!
//! Over HTTPS, names have the prefix `__Host-`: browsers then require `Secure` and `Path=/`, and send the cookie to
//! this host only (RFC 6265bis, 4.1.3). Over plain HTTP, the refresh cookie is `rt` with path `/auth`. A configured
//! name, domain, `SameSite` or `Secure` is used unchanged.

use axum::http::{HeaderMap, HeaderValue, header};
use cookie::{Cookie, SameSite, time::Duration};
use dca_core::{Code, accounts::SignedIn};

use super::{compat::Dialect, problem::Problem};
use crate::{App, Config, config};

/// 400 days, the longest lifetime that browsers allow.
const MAX_AGE_SECONDS: i64 = 400 * 24 * 3_600;

/// The cookies of a request.
pub(super) struct Cookies(Vec<(String, String)>);

impl Cookies {
    /// Parses all `Cookie` headers.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
        let cookies = lines.flat_map(Cookie::split_parse).flatten();
        Self(cookies.map(|cookie| (cookie.name().to_owned(), cookie.value().to_owned())).collect())
    }

    /// The value of the cookie with this name. Duplicates are rejected, since one of them may have been injected.
    pub(super) fn one(&self, name: &str) -> Result<Option<&str>, Problem> {
        let mut matches = self.0.iter().filter(|(key, value)| key == name && !value.is_empty());
        let first = matches.next();
        if matches.next().is_some() {
            return Err(Problem::new(
                Code::InvalidSession,
                "The request has the same cookie twice. Delete the cookies of this site and sign in again.",
            ));
        }
        Ok(first.map(|(_, value)| value.as_str()))
    }
}

/// A cookie that the service sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CookieKind {
    /// The refresh token. Its name depends on the dialect.
    Refresh(Dialect),
    /// Identifies a browser that signed in before.
    Device,
    /// The CSRF token (double submit). Readable by scripts.
    Csrf,
    /// The `state` of an OAuth sign-in.
    SignIn,
    /// A pending sign-in that requires a second factor.
    SecondFactor,
}

impl CookieKind {
    /// The name of the cookie.
    pub(super) fn name(self, config: &Config) -> String {
        let base = match self {
            Self::Refresh(Dialect::Native) => match &config.cookies.name {
                Some(name) => return name.clone(),
                None => "rt",
            },
            Self::Refresh(Dialect::Dca) => "refresh_token",
            Self::Device => "dca_device",
            Self::Csrf => "csrf_token",
            Self::SignIn => "dca_sign_in",
            Self::SecondFactor => "dca_second_factor",
        };
        if self.is_host(config) { format!("__Host-{base}") } else { base.to_owned() }
    }

    /// Whether the name has the prefix `__Host-`.
    fn is_host(self, config: &Config) -> bool {
        let settings = &config.cookies;
        let is_default = match self {
            Self::Refresh(_) => {
                settings.name.is_none()
                    && settings.domain.is_none()
                    && settings.secure.is_none()
                    && settings.same_site.is_none()
            }
            _ => true,
        };
        is_default && is_https(config)
    }

    fn header_value(self, config: &Config, value: &str, seconds: i64) -> HeaderValue {
        let settings = &config.cookies;
        let is_refresh = matches!(self, Self::Refresh(_));
        let path = match self {
            Self::Refresh(Dialect::Native) if !self.is_host(config) => "/auth",
            _ => "/",
        };
        let same_site = match settings.same_site.filter(|_| is_refresh) {
            Some(config::SameSite::Strict) => SameSite::Strict,
            Some(config::SameSite::None) => SameSite::None,
            Some(config::SameSite::Lax) | None => SameSite::Lax,
        };
        let mut cookie = Cookie::build((self.name(config), value.to_owned()))
            .path(path)
            .http_only(self != Self::Csrf)
            .same_site(same_site)
            .secure(settings.secure.filter(|_| is_refresh).unwrap_or(is_https(config)))
            .max_age(Duration::seconds(seconds));
        if let Some(domain) = settings.domain.clone().filter(|_| is_refresh) {
            cookie = cookie.domain(domain);
        }
        let text = cookie.build().to_string();
        HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static(""))
    }
}

fn is_https(config: &Config) -> bool {
    config.http.public_url.starts_with("https:")
}

/// The `Set-Cookie` header of one cookie.
pub(super) fn set(config: &Config, kind: CookieKind, value: &str, seconds: i64) -> HeaderMap {
    HeaderMap::from_iter([(header::SET_COOKIE, kind.header_value(config, value, seconds))])
}

/// `Set-Cookie` headers that remove these cookies.
pub(super) fn clear(config: &Config, kinds: &[CookieKind]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for kind in kinds {
        headers.append(header::SET_COOKIE, kind.header_value(config, "", 0));
    }
    headers
}

/// The cookies of a new session.
pub(super) fn grant(app: &App, dialect: Dialect, signed_in: &SignedIn) -> HeaderMap {
    let config = &app.config;
    let csrf = app.core.ids.v4().simple().to_string();
    let mut headers = HeaderMap::new();
    for (kind, value, seconds) in [
        (CookieKind::Refresh(dialect), signed_in.refresh_token.as_str(), signed_in.refresh_expires_in),
        (CookieKind::Csrf, &csrf, signed_in.refresh_expires_in),
        (CookieKind::Device, &signed_in.device, MAX_AGE_SECONDS),
    ] {
        headers.append(header::SET_COOKIE, kind.header_value(config, value, seconds));
    }
    headers
}

/// Removes the cookies of a session. The device cookie stays.
pub(super) fn forget(config: &Config, dialects: &[Dialect]) -> HeaderMap {
    let refresh = dialects.iter().map(|dialect| CookieKind::Refresh(*dialect));
    clear(config, &refresh.chain([CookieKind::Csrf]).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn refresh_cookie(settings: &[(&str, &str)]) -> String {
        let env: BTreeMap<String, String> =
            settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let config = Config::load(env).unwrap();
        CookieKind::Refresh(Dialect::Native).header_value(&config, "v", 60).to_str().unwrap().to_owned()
    }

    #[test]
    fn refresh_cookie_attributes_follow_url_scheme_and_settings() {
        for (settings, expected) in [
            (&[][..], "rt=v; HttpOnly; SameSite=Lax; Path=/auth; Max-Age=60"),
            (
                &[("DCA_PUBLIC_URL", "https://x.example")],
                "__Host-rt=v; HttpOnly; SameSite=Lax; Secure; Path=/; Max-Age=60",
            ),
            (
                &[("DCA_PUBLIC_URL", "https://x.example"), ("REFRESH_COOKIE_NAME", "session")],
                "session=v; HttpOnly; SameSite=Lax; Secure; Path=/auth; Max-Age=60",
            ),
            (
                &[("COOKIE_SECURE", "true"), ("COOKIE_SAMESITE", "none"), ("COOKIE_DOMAIN", "localhost")],
                "rt=v; HttpOnly; SameSite=None; Secure; Path=/auth; Domain=localhost; Max-Age=60",
            ),
            (
                &[("DCA_PUBLIC_URL", "https://x.example"), ("COOKIE_SECURE", "false"), ("COOKIE_SAMESITE", "strict")],
                "rt=v; HttpOnly; SameSite=Strict; Path=/auth; Max-Age=60",
            ),
        ] {
            assert_eq!(refresh_cookie(settings), expected, "{settings:?}");
        }
    }
}
