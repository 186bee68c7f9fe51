//! Cookies: which there are, what they are called, and with which attributes. They are set and cleared by the
//! same function, so that what was set can be cleared.
//!
//! Over https a name carries `__Host-`: the browser then keeps it for this host alone, with `Secure` and
//! `Path=/` (RFC 6265bis, 4.1.3). Over plain http the refresh cookie is `rt` at `/auth`. Where name, domain,
//! `SameSite` or `Secure` are configured, they are taken as they are.

use axum::http::{HeaderMap, HeaderValue, header};
use cookie::{Cookie, SameSite, time::Duration};
use dca_core::{Code, accounts::SignedIn};

use super::{compat::Dialect, problem::Problem};
use crate::{App, Config, config};

/// A browser may keep a cookie for no longer: 400 days.
const MAX_AGE_SECONDS: i64 = 400 * 24 * 3_600;

/// The cookies a request carries.
pub(super) struct Cookies(Vec<(String, String)>);

impl Cookies {
    /// Reads every `Cookie` header.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
        let cookies = lines.flat_map(Cookie::split_parse).flatten();
        Self(cookies.map(|cookie| (cookie.name().to_owned(), cookie.value().to_owned())).collect())
    }

    /// The one of this name. Two are somebody's attempt to have the wrong one read.
    pub(super) fn one(&self, name: &str) -> Result<Option<&str>, Problem> {
        let mut found = self.0.iter().filter(|(known, value)| known == name && !value.is_empty());
        let first = found.next();
        if found.next().is_some() {
            return Err(Problem::new(Code::InvalidSession, "The same cookie was sent twice."));
        }
        Ok(first.map(|(_, value)| value.as_str()))
    }
}

/// The cookies there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CookieKind {
    /// The refresh token, by the name a dialect gives it.
    Refresh(Dialect),
    /// Known as a browser that was signed in before.
    Device,
    /// The second half of the double submit; pages read it.
    Csrf,
    /// The state of a sign-in with a provider.
    SignIn,
    /// The sign-in that waits for a second factor.
    SecondFactor,
}

impl CookieKind {
    /// Its name here.
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

    /// Whether the name promises that it is for this host alone.
    fn is_host(self, config: &Config) -> bool {
        let given = &config.cookies;
        let is_free = match self {
            Self::Refresh(_) => {
                given.name.is_none() && given.domain.is_none() && given.secure.is_none() && given.same_site.is_none()
            }
            _ => true,
        };
        is_free && is_https(config)
    }

    fn write(self, config: &Config, value: &str, seconds: i64) -> HeaderValue {
        let given = &config.cookies;
        let refresh = matches!(self, Self::Refresh(_));
        let path = match self {
            Self::Refresh(Dialect::Native) if !self.is_host(config) => "/auth",
            _ => "/",
        };
        let same_site = match given.same_site.filter(|_| refresh) {
            Some(config::SameSite::Strict) => SameSite::Strict,
            Some(config::SameSite::None) => SameSite::None,
            Some(config::SameSite::Lax) | None => SameSite::Lax,
        };
        let mut cookie = Cookie::build((self.name(config), value.to_owned()))
            .path(path)
            .http_only(self != Self::Csrf)
            .same_site(same_site)
            .secure(given.secure.filter(|_| refresh).unwrap_or(is_https(config)))
            .max_age(Duration::seconds(seconds));
        if let Some(domain) = given.domain.clone().filter(|_| refresh) {
            cookie = cookie.domain(domain);
        }
        let text = cookie.build().to_string();
        HeaderValue::from_str(&text).unwrap_or_else(|_| HeaderValue::from_static(""))
    }
}

fn is_https(config: &Config) -> bool {
    config.public_url.starts_with("https:")
}

/// `Set-Cookie` for one cookie.
pub(super) fn set(config: &Config, kind: CookieKind, value: &str, seconds: i64) -> HeaderMap {
    HeaderMap::from_iter([(header::SET_COOKIE, kind.write(config, value, seconds))])
}

/// `Set-Cookie` that takes these away.
pub(super) fn clear(config: &Config, kinds: &[CookieKind]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for kind in kinds {
        headers.append(header::SET_COOKIE, kind.write(config, "", 0));
    }
    headers
}

/// The cookies of somebody who is signed in.
pub(super) fn grant(app: &App, dialect: Dialect, signed_in: &SignedIn) -> HeaderMap {
    let config = &app.config;
    let csrf = app.core.ids.v4().simple().to_string();
    let mut headers = HeaderMap::new();
    for (kind, value, seconds) in [
        (CookieKind::Refresh(dialect), signed_in.refresh_token.as_str(), signed_in.refresh_expires_in),
        (CookieKind::Csrf, &csrf, signed_in.refresh_expires_in),
        (CookieKind::Device, &signed_in.device, MAX_AGE_SECONDS),
    ] {
        headers.append(header::SET_COOKIE, kind.write(config, value, seconds));
    }
    headers
}

/// What a session leaves in a browser, taken away; the browser stays known.
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
        CookieKind::Refresh(Dialect::Native).write(&config, "v", 60).to_str().unwrap().to_owned()
    }

    #[test]
    fn the_refresh_cookie_follows_the_scheme_and_what_is_configured() {
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
