//! The bot.

use std::time::Duration;

use super::{
    parse::{loopback_url, token},
    reader::Reader,
    secret::Secret,
    setting::setting,
};

/// The bot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiscordConfig {
    /// Bot token, without the prefix `Bot `; the bot is off if `None`.
    pub token: Option<Secret>,
    /// Base URL of a Discord simulator on a loopback address, without trailing slash.
    pub api_url: Option<String>,
    /// Interval between direct messages that are sent in bulk, 0 to 3600 s.
    pub dm_interval: Duration,
    /// Timeout of one attempt to deliver a message to Discord, 1 to 300 s.
    pub delivery_timeout: Duration,
    /// Time after which another instance replaces an unresponsive one at the gateway, 2 to 14 s.
    pub gateway_lease: Duration,
    /// Interval between two reconciliations of all roles, 10 to 86400 s.
    pub reconcile_interval: Duration,
}

impl DiscordConfig {
    pub(super) fn read(r: &mut Reader) -> Self {
        Self {
            token: setting("DCA_DISCORD_TOKEN")
                .about("Bot token, from the Discord Developer Portal. If unset, the bot is off.")
                .expects("a token without spaces and without the prefix Bot")
                .secret()
                .optional(r, token),
            api_url: setting("DCA_DISCORD_API_URL")
                .about("Discord simulator for tests.")
                .expects("a loopback URL, for example http://127.0.0.1:8080")
                .optional(r, loopback_url),
            dm_interval: setting("DCA_DM_INTERVAL_SECONDS")
                .about("Interval between direct messages that are sent in bulk.")
                .seconds(r, 0..=3600, "5"),
            delivery_timeout: setting("DCA_DELIVERY_TIMEOUT_SECONDS")
                .about("Timeout of one attempt to deliver a message to Discord.")
                .seconds(r, 1..=300, "10"),
            gateway_lease: setting("DCA_GATEWAY_LEASE_SECONDS")
                .about("Time after which another instance replaces an unresponsive one at the Discord gateway.")
                .seconds(r, 2..=14, "9"),
            reconcile_interval: setting("DCA_RECONCILE_INTERVAL_SECONDS")
                .about("Interval between two syncs of all roles.")
                .seconds(r, 10..=86400, "300"),
        }
    }
}
