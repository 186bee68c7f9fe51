//! User accounts.

use std::{num::NonZeroU32, ops::RangeInclusive, time::Duration};

use super::parse::{base_url, number, one_of, text};
use super::reader::settings;

settings! {
    /// User accounts.
    AccountsConfig {
        /// Product name in emails and authenticator apps.
        app_name: String = "DCA_APP_NAME", or("DCA-Auth", app_name), fallback("APP_NAME"),
            expects("one line of 1 to 60 characters, for example Example Studio");
        /// Frontend that links in emails lead to. If unset, they lead to the built-in pages.
        frontend_url: Option<String> = "DCA_FRONTEND_URL", optional(base_url),
            expects("an http or https URL without query and trailing slash, for example https://example.com"),
            converted("APP_FRONTEND_URL", "an http or https URL, for example https://app.example.com", |values| {
                Some(values[0].trim_end_matches('/').to_owned())
            });
        /// Lifetime of an access token.
        access_ttl: Duration = "DCA_ACCESS_TOKEN_SECONDS", seconds(60..=3600, "900"), fallback("ACCESS_TOKEN_TTL"),
            converted("JWT_ACCESS_EXPIRY", "a number with the unit s, m, h or d, from 1m to 1h, for example 15m", |values| {
                with_unit(values[0], 60..=3_600)
            });
        /// Lifetime of a session that is not refreshed.
        refresh_ttl: Duration = "DCA_REFRESH_TOKEN_SECONDS", seconds(3600..=7_776_000, "604800"),
            converted("REFRESH_TOKEN_TTL", DAYS_OR_SECONDS, seconds_or_days),
            converted("JWT_REFRESH_EXPIRY", "a number with the unit s, m, h or d, from 1h to 90d, for example 7d", |values| {
                with_unit(values[0], 3_600..=7_776_000)
            });
        /// Sessions that a user may have at a time. A further sign-in ends the oldest.
        max_sessions: NonZeroU32 = "DCA_MAX_SESSIONS_PER_USER", positive("20"), fallback("MAX_SESSIONS_PER_USER");
        /// Memory for one password hash (Argon2id with three passes).
        password_memory_kib: u32 = "DCA_PASSWORD_MEMORY_KIB", or("19456", number(12_288..=1_048_576)),
            expects("a whole number of KiB from 12288 to 1048576, for example 65536");
        /// Which accounts need a second factor to administer other accounts: none, or those with the role MODERATOR or above (admins).
        admins_need_second_factor: bool = "DCA_REQUIRE_SECOND_FACTOR", or("none", one_of(&[("none", false), ("admins", true)])),
            expects("none or admins");
    }
}

const DAYS_OR_SECONDS: &str = "days from 1d to 90d or seconds from 3600 to 7776000, for example 7d or 604800";

fn app_name(value: &str) -> Option<String> {
    text(value).filter(|name| name.chars().count() <= 60)
}

/// Converts a number with a unit to seconds.
fn with_unit(value: &str, range: RangeInclusive<u64>) -> Option<String> {
    let units = [("s", 1), ("m", 60), ("h", 3_600), ("d", 86_400)];
    let (count, seconds) = units.into_iter().find_map(|(unit, seconds)| Some((value.strip_suffix(unit)?, seconds)))?;
    let total = count.parse::<u64>().ok()?.checked_mul(seconds)?;
    range.contains(&total).then(|| total.to_string())
}

/// Refuses small numbers without a unit, because they could be days or seconds.
fn seconds_or_days(values: &[&str]) -> Option<String> {
    match values[0].strip_suffix('d') {
        Some(days) => number(1..=90)(days).map(|days: u64| (days * 86_400).to_string()),
        None => number(3_600..=7_776_000)(values[0]).map(|seconds: u64| seconds.to_string()),
    }
}
