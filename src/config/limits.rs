//! Rate limits.

use std::num::NonZeroU32;

use super::{
    parse::number,
    reader::Reader,
    setting::{Setting, setting},
};

/// Rate limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitsConfig {
    /// Validations allowed per minute, per API key and client address.
    pub validate_per_minute: NonZeroU32,
    /// Failed authentications allowed per client address and minute.
    pub auth_failures_per_minute: NonZeroU32,
    /// Account requests allowed per client network and minute.
    pub auth_per_minute: NonZeroU32,
    /// Wrong passwords or codes allowed per account in 15 minutes.
    pub failures_per_account: NonZeroU32,
    /// Wrong passwords or codes allowed per client network in 15 minutes.
    pub failures_per_network: NonZeroU32,
    /// Emails that one client network may cause per hour.
    pub emails_per_network: NonZeroU32,
    /// Emails sent to one recipient domain per minute.
    pub emails_per_minute: NonZeroU32,
    /// Direct messages sent per minute in total.
    pub dm_per_minute: NonZeroU32,
}

impl LimitsConfig {
    pub(super) fn read(r: &mut Reader) -> Self {
        Self {
            validate_per_minute: limit("DCA_VALIDATE_PER_MINUTE", "6000")
                .about("Validations allowed per minute, per API key and client address.")
                .read(r, positive),
            auth_failures_per_minute: limit("DCA_AUTH_FAILURES_PER_MINUTE", "60")
                .about("Failed authentications allowed per client address and minute.")
                .read(r, positive),
            auth_per_minute: limit("DCA_AUTH_PER_MINUTE", "600")
                .about("Account requests allowed per client network and minute.")
                .converted(
                    "THROTTLE_LIMIT THROTTLE_TTL",
                    "requests per window of milliseconds, for example 20 and 60000",
                    per_minute,
                )
                .read(r, positive),
            failures_per_account: limit("DCA_FAILURES_PER_ACCOUNT", "10")
                .about("Wrong passwords or codes allowed per account in 15 minutes.")
                .read(r, positive),
            failures_per_network: limit("DCA_FAILURES_PER_NETWORK", "100")
                .about("Wrong passwords or codes allowed per client network in 15 minutes.")
                .read(r, positive),
            emails_per_network: limit("DCA_LETTERS_PER_NETWORK", "60")
                .about("Emails that one client network may cause per hour.")
                .read(r, positive),
            emails_per_minute: limit("DCA_MAILS_PER_MINUTE", "120")
                .about("Emails sent to one recipient domain per minute, in bursts of up to 10.")
                .read(r, positive),
            dm_per_minute: limit("DCA_DM_PER_MINUTE", "60")
                .about("Direct messages sent per minute in total, in bursts of up to 10.")
                .read(r, positive),
        }
    }
}

fn limit(name: &'static str, default: &'static str) -> Setting {
    setting(name).default(default).expects(format!("a whole number of at least 1, for example {default}"))
}

fn positive(value: &str) -> Option<NonZeroU32> {
    value.parse().ok()
}

fn per_minute(values: &[&str]) -> Option<String> {
    let window = if values[1].is_empty() { "60000" } else { values[1] };
    let (limit, window): (u64, u64) = (number(1..=1_000_000)(values[0])?, number(1..=86_400_000)(window)?);
    Some((limit * 60_000).div_ceil(window).to_string())
}
