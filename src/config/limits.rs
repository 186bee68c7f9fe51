//! Rate limits.

use std::num::NonZeroU32;

use super::{parse::number, reader::settings};

settings! {
    /// Rate limits.
    LimitsConfig {
        /// Validations, heartbeats and usage reports allowed per minute, per API key and client address.
        validate_per_minute: NonZeroU32 = "DCA_VALIDATE_PER_MINUTE", positive("6000");
        /// Activations, deactivations and redemptions allowed per minute, per API key and client address.
        activate_per_minute: NonZeroU32 = "DCA_ACTIVATE_PER_MINUTE", positive("600");
        /// Management requests allowed per minute, per API key and client address, or else per client network.
        manage_per_minute: NonZeroU32 = "DCA_MANAGE_PER_MINUTE", positive("600");
        /// Failed authentications allowed per client address and minute.
        auth_failures_per_minute: NonZeroU32 = "DCA_AUTH_FAILURES_PER_MINUTE", positive("60");
        /// Account requests allowed per client network and minute.
        auth_per_minute: NonZeroU32 = "DCA_AUTH_PER_MINUTE", positive("600"),
            converted("THROTTLE_LIMIT THROTTLE_TTL", PER_WINDOW, per_minute);
        /// Wrong passwords or codes allowed per account in 15 minutes.
        failures_per_account: NonZeroU32 = "DCA_FAILURES_PER_ACCOUNT", positive("10"), fallback("MAX_LOGIN_ATTEMPTS");
        /// Wrong passwords or codes allowed per client network in 15 minutes.
        failures_per_network: NonZeroU32 = "DCA_FAILURES_PER_NETWORK", positive("100");
        /// Sign-ins allowed per account in 15 minutes.
        sign_ins_per_account: NonZeroU32 = "DCA_SIGN_INS_PER_ACCOUNT", positive("100");
        /// Emails that one client network may cause per hour.
        emails_per_network: NonZeroU32 = "DCA_LETTERS_PER_NETWORK", positive("60");
        /// Emails sent to one recipient domain per minute, in bursts of up to 10.
        emails_per_minute: NonZeroU32 = "DCA_MAILS_PER_MINUTE", positive("120");
        /// Direct messages sent per minute in total, in bursts of up to 10.
        dm_per_minute: NonZeroU32 = "DCA_DM_PER_MINUTE", positive("60");
    }
}

const PER_WINDOW: &str = "requests per window of milliseconds, for example 20 and 60000";

fn per_minute(values: &[&str]) -> Option<String> {
    let window = if values[1].is_empty() { "60000" } else { values[1] };
    let (limit, window): (u64, u64) = (number(1..=1_000_000)(values[0])?, number(1..=86_400_000)(window)?);
    Some((limit * 60_000).div_ceil(window).to_string())
}
