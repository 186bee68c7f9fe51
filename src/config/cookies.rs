//! Attributes of the refresh cookie.

use cookie::SameSite;

use super::parse::one_of;
use super::reader::{Reader, settings};

settings! {
    /// Attributes of the refresh cookie. Those that are `None` depend on the scheme of the public URL.
    CookieConfig {
        /// Name of the refresh cookie. If unset, __Host-rt over HTTPS and rt over HTTP.
        name: Option<String> = "DCA_COOKIE_NAME", optional(cookie_name), fallback("REFRESH_COOKIE_NAME"),
            expects("up to 64 letters, digits and the characters -_. only, for example session_id");
        /// Whether cookies are sent over HTTPS only. If unset, they are if DCA_PUBLIC_URL is an https URL.
        secure: Option<bool> = "DCA_COOKIE_SECURE", optional(|value| value.to_lowercase().parse().ok()),
            fallback("COOKIE_SECURE"), expects("true or false");
        /// SameSite attribute of cookies. If unset, lax.
        same_site: Option<SameSite> = "DCA_COOKIE_SAMESITE", optional(same_site), fallback("COOKIE_SAMESITE"),
            expects("lax, strict or none");
        /// Domain attribute of cookies. If unset, only this host receives them.
        domain: Option<String> = "DCA_COOKIE_DOMAIN", optional(domain), fallback("COOKIE_DOMAIN"),
            expects("a domain name, for example example.com");
        /// Whether /auth/refresh and /auth/logout accept the refresh cookie without Origin, Sec-Fetch-Site and X-CSRF-Token, as clients of the earlier multi-user service send it.
        allowed_without_origin: bool = "DCA_ALLOW_COOKIES_WITHOUT_ORIGIN", or("true", |value| value.to_lowercase().parse().ok()),
            expects("true or false");
    }
}

/// Names of the service's other cookies.
const RESERVED_NAMES: [&str; 5] = ["refresh_token", "csrf_token", "dca_device", "dca_sign_in", "dca_second_factor"];

impl CookieConfig {
    /// Whether all attributes are left to the service.
    pub(crate) fn is_unset(&self) -> bool {
        self.name.is_none() && self.secure.is_none() && self.same_site.is_none() && self.domain.is_none()
    }

    /// Refuses combinations that browsers reject, and names that are taken.
    pub(super) fn checked(self, r: &mut Reader, public_url: &str) -> Self {
        let is_secure = self.secure.unwrap_or(public_url.starts_with("https:"));
        if self.same_site == Some(SameSite::None) && !is_secure {
            r.fault(
                "Invalid value \"none\" for DCA_COOKIE_SAMESITE: browsers accept it only on secure cookies. Set \
                 DCA_COOKIE_SECURE=true, or use lax.",
            );
        }
        let name = self.name.as_deref().unwrap_or_default();
        if RESERVED_NAMES.contains(&name) {
            r.fault(
                "Invalid value for DCA_COOKIE_NAME: the service already has a cookie with that name. Use another \
                 name, for example session_id.",
            );
        }
        if name.starts_with("__") {
            r.fault(
                "Invalid value for DCA_COOKIE_NAME: names that start with __ are reserved. Use another name, for example \
                 session_id, or leave it unset to use __Host-rt over HTTPS.",
            );
        }
        self
    }
}

fn cookie_name(value: &str) -> Option<String> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    (value.len() <= 64 && value.chars().all(is_allowed)).then(|| value.to_owned())
}

fn same_site(value: &str) -> Option<SameSite> {
    one_of(&[("lax", SameSite::Lax), ("strict", SameSite::Strict), ("none", SameSite::None)])(&value.to_lowercase())
}

fn domain(value: &str) -> Option<String> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-.".contains(c);
    (value.chars().all(is_allowed) && !value.ends_with('.')).then(|| value.to_owned())
}
