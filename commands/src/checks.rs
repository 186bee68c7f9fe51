//! What must be set up in Discord, with a fix for everything that is not. `/mapping add` checks it before
//! it saves; `doctor` checks all of it.

use dca_core::{GuildId, RoleId};

use crate::rest::{BotAccess, DiscordError, RoleInfo};

/// The permissions the bot asks for in its invite link: View Channels, Send Messages, Manage Roles.
pub const PERMISSIONS: u64 = 1 << 10 | 1 << 11 | 1 << 28;

const ADMINISTRATOR: u64 = 1 << 3;

/// The permissions the bot lacks in a guild, by name.
pub fn missing_permissions(access: &BotAccess) -> Vec<&'static str> {
    let named = [(1 << 10, "View Channels"), (1 << 11, "Send Messages"), (1 << 28, "Manage Roles")];
    let has = if access.permissions & ADMINISTRATOR == 0 { access.permissions } else { PERMISSIONS };
    named.into_iter().filter(|(bit, _)| has & bit == 0).map(|(_, name)| name).collect()
}

/// Why a role cannot be mapped.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the role cannot be mapped")]
pub enum Unmappable {
    /// The server has no such role.
    Missing,
    /// Every member has @everyone.
    Everyone,
    /// An integration manages the role of this name.
    Managed(String),
    /// The role of this name is not below the bot's.
    TooHigh(String),
    /// The bot lacks Manage Roles.
    NoPermission,
}

/// Finds a role and checks that it can be mapped; the error says why it cannot.
pub fn mappable(access: &BotAccess, guild: GuildId, role: RoleId) -> Result<&RoleInfo, Unmappable> {
    let role = access.roles.iter().find(|known| known.id == role).ok_or(Unmappable::Missing)?;
    if u64::from(role.id) == u64::from(guild) {
        return Err(Unmappable::Everyone);
    }
    if role.managed {
        return Err(Unmappable::Managed(role.name.clone()));
    }
    if role.rank >= access.top_role {
        return Err(Unmappable::TooHigh(role.name.clone()));
    }
    if missing_permissions(access).contains(&"Manage Roles") {
        return Err(Unmappable::NoPermission);
    }
    Ok(role)
}

/// What to do about a failed call.
pub fn fix(error: &DiscordError) -> &'static str {
    match error {
        DiscordError::Unauthorized => {
            "Get a new token in Developer Portal → Bot → Reset Token and set DCA_DISCORD_TOKEN."
        }
        DiscordError::Forbidden(_) | DiscordError::Unknown(_) => "Invite the bot again with the link in the README.",
        DiscordError::RateLimited | DiscordError::DmLimited => "Wait a few minutes, then try again.",
        DiscordError::DmClosed | DiscordError::Transient(_) => {
            "Try again. If it keeps failing, check status.discord.com."
        }
    }
}
