//! Attributes of the refresh cookie.

use super::{reader::Reader, setting::setting};

/// Attributes of the refresh cookie. Those that are `None` depend on the scheme of the public URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CookieConfig {
    /// Cookie name.
    pub name: Option<String>,
    /// `Secure`: whether it is sent over HTTPS only.
    pub secure: Option<bool>,
    /// `SameSite`: whether cross-site requests send it.
    pub same_site: Option<SameSite>,
    /// `Domain`: the domain that receives it, with its subdomains.
    pub domain: Option<String>,
}

/// The `SameSite` attribute of a cookie (RFC 6265bis, section 5.5.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SameSite {
    /// Same-site requests, and top-level navigation from other sites.
    Lax,
    /// Same-site requests only.
    Strict,
    /// All requests; requires HTTPS.
    None,
}

/// Names of the service's other cookies.
const RESERVED_NAMES: [&str; 5] = ["refresh_token", "csrf_token", "dca_device", "dca_sign_in", "dca_second_factor"];

impl CookieConfig {
    pub(super) fn read(r: &mut Reader, public_url: &str) -> Self {
        let cookies = Self {
            name: setting("DCA_COOKIE_NAME")
                .about("Name of the refresh cookie. If unset, __Host-rt over HTTPS and rt over HTTP.")
                .expects("up to 64 letters, digits and the characters -_. only, for example session_id")
                .fallback("REFRESH_COOKIE_NAME")
                .optional(r, cookie_name),
            secure: setting("DCA_COOKIE_SECURE")
                .about(
                    "Whether cookies are sent over HTTPS only. If unset, they are if DCA_PUBLIC_URL is an https URL.",
                )
                .expects("true or false")
                .fallback("COOKIE_SECURE")
                .optional(r, |value| value.to_lowercase().parse().ok()),
            same_site: setting("DCA_COOKIE_SAMESITE")
                .about("SameSite attribute of cookies. If unset, lax.")
                .expects("lax, strict or none")
                .fallback("COOKIE_SAMESITE")
                .optional(r, same_site),
            domain: setting("DCA_COOKIE_DOMAIN")
                .about("Domain attribute of cookies. If unset, only this host receives them.")
                .expects("a domain name, for example example.com")
                .fallback("COOKIE_DOMAIN")
                .optional(r, domain),
        };
        cookies.check(r, public_url);
        cookies
    }

    /// Refuses combinations that browsers reject, and names that are taken.
    fn check(&self, r: &mut Reader, public_url: &str) {
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
    }
}

fn cookie_name(value: &str) -> Option<String> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    (value.len() <= 64 && value.chars().all(is_allowed)).then(|| value.to_owned())
}

fn same_site(value: &str) -> Option<SameSite> {
    match value.to_lowercase().as_str() {
        "lax" => Some(SameSite::Lax),
        "strict" => Some(SameSite::Strict),
        "none" => Some(SameSite::None),
        _ => None,
    }
}

fn domain(value: &str) -> Option<String> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-.".contains(c);
    (value.chars().all(is_allowed) && !value.ends_with('.')).then(|| value.to_owned())
}
