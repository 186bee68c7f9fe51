//! Cookies: their names and attributes. The same function sets and clears them, because a browser only removes a
//! cookie if its name, domain and path match.
//!
//! Over HTTPS, names have the prefix `__Host-`: browsers then require `Secure` and `Path=/`, and send the cookie to
//! this host only (RFC 6265bis, 4.1.3). Over plain HTTP, the refresh cookie is `rt` with path `/auth`. A configured
//! name, domain, `SameSite` or `Secure` is used unchanged.

use std::{convert::Infallible, sync::Arc};

use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponseParts, ResponseParts};
use axum::{extract::FromRequestParts, http::request::Parts};
use cookie::{Cookie, SameSite, time::Duration};
use dca_core::{Code, accounts::SignedIn};

use super::problem::Problem;
use crate::{App, Config};

/// 400 days, the longest lifetime that browsers allow.
const MAX_AGE_SECONDS: i64 = 400 * 24 * 3_600;

/// The cookies of a request, and those that its response sets.
pub(crate) struct Cookies {
    config: Arc<Config>,
    received: Vec<Cookie<'static>>,
    usable: UsableSessions,
    /// Sent in this order: two cookies may share a name and differ in their path.
    changes: Vec<Cookie<'static>>,
}

impl Cookies {
    pub(super) fn of(app: &App, headers: &HeaderMap) -> Self {
        let lines = headers.get_all(header::COOKIE).iter().filter_map(|line| line.to_str().ok());
        let received = lines.flat_map(Cookie::split_parse).flatten().filter(|cookie| !cookie.value().is_empty());
        let (config, received) = (app.config.clone(), received.map(Cookie::into_owned).collect());
        Self { config, received, usable: UsableSessions::None, changes: Vec::new() }
    }

    /// The value of a cookie. Duplicates are rejected, since one of them may have been injected.
    pub(super) fn get(&self, kind: CookieKind) -> Result<Option<&str>, Problem> {
        let name = kind.name(&self.config);
        let mut found = self.received.iter().filter(|cookie| cookie.name() == name);
        let value = found.next().map(Cookie::value);
        if found.next().is_some() {
            return Err(Problem::new(
                Code::InvalidSession,
                "The request has the same cookie twice. Delete the cookies of this site and sign in again.",
            ));
        }
        Ok(value)
    }

    /// The value of a refresh cookie, if another site cannot have caused the request. Other cookies do not authenticate a
    /// request on their own: they need a code of the second factor, or the state of the sign-in.
    pub(super) fn get_session(&self, kind: CookieKind) -> Result<Option<&str>, Problem> {
        let value = self.get(kind)?;
        let is_usable = match self.usable {
            UsableSessions::All => true,
            UsableSessions::Only(usable) => usable == kind,
            UsableSessions::None => false,
        };
        if value.is_some() && !is_usable {
            let detail = "Send the value of the csrf_token cookie in the X-CSRF-Token header, or an Origin header.";
            return Err(Problem::new(Code::AccessDenied, detail));
        }
        Ok(value)
    }

    pub(super) fn set(&mut self, kind: CookieKind, value: &str, seconds: i64) {
        self.changes.push(kind.cookie(&self.config, value, seconds));
    }

    pub(super) fn clear(&mut self, kind: CookieKind) {
        self.set(kind, "", 0);
    }

    pub(super) fn set_session(&mut self, app: &App, refresh: CookieKind, signed_in: &SignedIn) {
        let csrf = app.core.ids.v4().simple().to_string();
        self.set(refresh, &signed_in.refresh_token, signed_in.refresh_expires_in);
        self.set(CookieKind::Csrf, &csrf, signed_in.refresh_expires_in);
        self.set(CookieKind::Device, &signed_in.device, MAX_AGE_SECONDS);
    }

    /// Removes the cookies of a session. The device cookie stays.
    pub(super) fn clear_session(&mut self, refresh: &[CookieKind]) {
        for kind in refresh {
            self.clear(*kind);
        }
        self.clear(CookieKind::Csrf);
    }
}

impl FromRequestParts<App> for Cookies {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Infallible> {
        let usable = parts.extensions.get().copied().unwrap_or(UsableSessions::None);
        Ok(Self { usable, ..Self::of(app, &parts.headers) })
    }
}

impl IntoResponseParts for Cookies {
    type Error = Infallible;

    fn into_response_parts(self, mut response: ResponseParts) -> Result<ResponseParts, Infallible> {
        let lines = self.changes.iter().filter_map(|cookie| HeaderValue::from_str(&cookie.to_string()).ok());
        lines.for_each(|line| _ = response.headers_mut().append(header::SET_COOKIE, line));
        Ok(response)
    }
}

/// The cookies that may authenticate a request.
#[derive(Clone, Copy, Debug)]
pub(super) enum UsableSessions {
    All,
    Only(CookieKind),
    None,
}

/// A cookie that the service sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CookieKind {
    Refresh,
    /// The refresh token, under the name that an earlier system used.
    EarlierRefresh(&'static str),
    /// Identifies a browser that signed in before.
    Device,
    /// The CSRF token (double submit). Readable by scripts.
    Csrf,
    OAuthState,
    /// Identifies the browser that created an account.
    SignUp,
    /// A pending sign-in that requires a second factor.
    SecondFactor,
}

impl CookieKind {
    fn name(self, config: &Config) -> String {
        let base = match self {
            Self::Refresh => match &config.cookies.name {
                Some(name) => return name.clone(),
                None => "rt",
            },
            Self::EarlierRefresh(name) => name,
            Self::Device => "dca_device",
            Self::Csrf => "csrf_token",
            Self::OAuthState => "dca_sign_in",
            Self::SignUp => "dca_sign_up",
            Self::SecondFactor => "dca_second_factor",
        };
        if self.is_host(config) { format!("__Host-{base}") } else { base.to_owned() }
    }

    /// Whether the name has the prefix `__Host-`.
    fn is_host(self, config: &Config) -> bool {
        let is_default = match self {
            Self::Refresh | Self::EarlierRefresh(_) => config.cookies.is_unset(),
            _ => true,
        };
        is_default && is_https(config)
    }

    fn cookie(self, config: &Config, value: &str, seconds: i64) -> Cookie<'static> {
        let settings = &config.cookies;
        let is_refresh = matches!(self, Self::Refresh | Self::EarlierRefresh(_));
        let path = match self {
            Self::Refresh if !self.is_host(config) => "/auth",
            _ => "/",
        };
        // A frontend on another site must be able to send it, as the refresh token.
        let has_same_site = is_refresh || self == Self::SignUp;
        let mut cookie = Cookie::build((self.name(config), value.to_owned()))
            .path(path)
            .http_only(self != Self::Csrf)
            .same_site(settings.same_site.filter(|_| has_same_site).unwrap_or(SameSite::Lax))
            .secure(settings.secure.filter(|_| is_refresh).unwrap_or(is_https(config)))
            .max_age(Duration::seconds(seconds));
        if let Some(domain) = settings.domain.clone().filter(|_| is_refresh) {
            cookie = cookie.domain(domain);
        }
        cookie.build()
    }
}

fn is_https(config: &Config) -> bool {
    config.http.public_url.starts_with("https:")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn refresh_cookie(settings: &[(&str, &str)]) -> String {
        let env: BTreeMap<String, String> =
            settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let config = Config::load(env).unwrap();
        CookieKind::Refresh.cookie(&config, "v", 60).to_string()
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
