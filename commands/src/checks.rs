//! What must be set up in Discord, with a fix for everything that is not. `/mapping add` checks it before
//! it saves; `doctor` checks all of it.

use dca_core::{GuildId, RoleId};

use crate::rest::DiscordError;

/// The link that invites the bot of an application to a server. It asks for View Channels and Send Messages.
pub fn invite_link(application: u64) -> String {
    let (scopes, permissions) = ("bot+applications.commands", 1 << 10 | 1 << 11);
    format!("https://discord.com/oauth2/authorize?client_id={application}&scope={scopes}&permissions={permissions}")
}

/// Why a role cannot be mapped. Roles that integrations manage and roles above the bot's can be: the bot only reads them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the role cannot be mapped")]
pub enum Unmappable {
    /// The server has no such role.
    Missing,
    /// Every member has @everyone.
    Everyone,
}

/// Checks that a role of a guild can be mapped; the error says why it cannot.
pub fn mappable(existing: &[RoleId], guild: GuildId, role: RoleId) -> Result<(), Unmappable> {
    if !existing.contains(&role) {
        return Err(Unmappable::Missing);
    }
    if u64::from(role) == u64::from(guild) { Err(Unmappable::Everyone) } else { Ok(()) }
}

/// What to do about a failed call.
pub fn fix(error: &DiscordError) -> &'static str {
    match error {
        DiscordError::Unauthorized => {
            "Get a new token in Developer Portal → Bot → Reset Token and set DCA_DISCORD_TOKEN."
        }
        DiscordError::Forbidden(_) | DiscordError::Unknown(_) => "Invite the bot again with the link in the README.",
        DiscordError::RateLimited(_) | DiscordError::DmLimited => "Wait a few minutes, then try again.",
        DiscordError::DmClosed | DiscordError::Transient(_) => {
            "Try again. If it keeps failing, check status.discord.com."
        }
    }
}
