//! User accounts.

use std::time::Duration;

use super::{
    parse::{base_url, number, text},
    reader::Reader,
    setting::setting,
};

/// User accounts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountsConfig {
    /// Product name in emails and authenticator apps.
    pub app_name: String,
    /// Base URL of links in emails, without trailing slash; the built-in pages if `None`.
    pub frontend_url: Option<String>,
    /// Lifetime of an access token, 60 to 3600 s.
    pub access_ttl: Duration,
    /// Lifetime of a session that is not refreshed, 1 hour to 90 days.
    pub refresh_ttl: Duration,
    /// Memory for one password hash.
    pub password_memory_kib: u32,
    /// Whether admins need a second factor to administer other accounts.
    pub admins_need_second_factor: bool,
}

const DAYS_OR_SECONDS: &str = "days from 1d to 90d or seconds from 3600 to 7776000, for example 7d or 604800";

impl AccountsConfig {
    pub(super) fn read(r: &mut Reader) -> Self {
        Self {
            app_name: setting("DCA_APP_NAME")
                .about("Product name in emails and authenticator apps.")
                .expects("one line of 1 to 60 characters, for example Example Studio")
                .default("DCA-Auth")
                .fallback("APP_NAME")
                .read(r, |value| text(value).filter(|name| name.chars().count() <= 60)),
            frontend_url: setting("DCA_FRONTEND_URL")
                .about("Frontend that links in emails lead to. If unset, they lead to the built-in pages.")
                .expects("an http or https URL without query and trailing slash, for example https://example.com")
                .converted("APP_FRONTEND_URL", "an http or https URL, for example https://app.example.com", |values| {
                    Some(values[0].trim_end_matches('/').to_owned())
                })
                .optional(r, base_url),
            access_ttl: setting("DCA_ACCESS_TOKEN_SECONDS")
                .about("Lifetime of an access token.")
                .fallback("ACCESS_TOKEN_TTL")
                .seconds(r, 60..=3600, "900"),
            refresh_ttl: setting("DCA_REFRESH_TOKEN_SECONDS")
                .about("Lifetime of a session that is not refreshed.")
                .converted("REFRESH_TOKEN_TTL", DAYS_OR_SECONDS, seconds_or_days)
                .seconds(r, 3600..=7_776_000, "604800"),
            password_memory_kib: setting("DCA_PASSWORD_MEMORY_KIB")
                .about("Memory for one password hash (Argon2id with three passes).")
                .expects("a whole number of KiB from 12288 to 1048576, for example 65536")
                .default("65536")
                .read(r, number(12_288..=1_048_576)),
            admins_need_second_factor: setting("DCA_REQUIRE_SECOND_FACTOR")
                .about("Which accounts need a second factor to administer other accounts.")
                .expects("none or admins")
                .default("none")
                .read(r, second_factor),
        }
    }
}

/// Refuses small numbers without a unit, because they could be days or seconds.
fn seconds_or_days(values: &[&str]) -> Option<String> {
    match values[0].strip_suffix('d') {
        Some(days) => number(1..=90)(days).map(|days: u64| (days * 86_400).to_string()),
        None => number(3_600..=7_776_000)(values[0]).map(|seconds: u64| seconds.to_string()),
    }
}

fn second_factor(value: &str) -> Option<bool> {
    match value {
        "none" => Some(false),
        "admins" => Some(true),
        _ => None,
    }
}
