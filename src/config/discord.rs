//! The bot.

use std::time::Duration;

use super::parse::{Secret, loopback_url, token};
use super::reader::settings;

settings! {
    /// The bot.
    DiscordConfig {
        /// Bot token, from the Discord Developer Portal. If unset, the bot is off.
        token: Option<Secret> = "DCA_DISCORD_TOKEN", optional(token), secret(),
            fallback("DISCORD_TOKEN"), fallback("DISCORD_BOT_TOKEN"),
            expects("a token without spaces and without the prefix Bot, for example MTIz.GaBc.dEf-1");
        /// Discord simulator for tests.
        api_url: Option<String> = "DCA_DISCORD_API_URL", optional(loopback_url),
            expects("a loopback URL, for example http://127.0.0.1:8080");
        /// Interval between direct messages that are sent in bulk.
        dm_interval: Duration = "DCA_DM_INTERVAL_SECONDS", seconds(0..=3600, "5");
        /// Timeout of one attempt to deliver a message to Discord.
        delivery_timeout: Duration = "DCA_DELIVERY_TIMEOUT_SECONDS", seconds(1..=300, "10");
        /// Time after which another instance replaces an unresponsive one at the Discord gateway.
        gateway_lease: Duration = "DCA_GATEWAY_LEASE_SECONDS", seconds(2..=14, "9");
        /// Interval between two syncs of all roles.
        reconcile_interval: Duration = "DCA_RECONCILE_INTERVAL_SECONDS", seconds(10..=86400, "300");
    }
}
