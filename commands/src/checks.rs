//! What must be set up in Discord, with a fix for everything that is not. `/mapping add` checks it before
//! it saves; `doctor` checks all of it.

use dca_core::{Code, Snowflake};

use crate::{
    PERMISSIONS,
    rest::{BotAccess, DiscordError, RoleFacts},
};

const ADMINISTRATOR: u64 = 1 << 3;

/// The permissions the bot lacks in a guild, by name.
#[must_use]
pub fn missing_permissions(access: &BotAccess) -> Vec<&'static str> {
    let named = [(1 << 10, "View Channels"), (1 << 11, "Send Messages"), (1 << 28, "Manage Roles")];
    let has = if access.permissions & ADMINISTRATOR == 0 { access.permissions } else { PERMISSIONS };
    named.into_iter().filter(|(bit, _)| has & bit == 0).map(|(_, name)| name).collect()
}

/// Finds a role and checks that it can be mapped.
///
/// # Errors
/// `NOT_FOUND`, or `ROLE_UNMANAGEABLE` with what to do about it.
pub fn mappable(access: &BotAccess, guild: Snowflake, role: Snowflake) -> dca_core::Result<&RoleFacts> {
    let Some(role) = access.roles.iter().find(|known| known.id == role) else {
        return Err(Code::NotFound.because("That role does not exist in this server."));
    };
    let refuse = |detail: String| Err(Code::RoleUnmanageable.because(detail));
    if role.id == guild {
        return refuse("@everyone cannot be mapped: every member has it. Choose another role.".to_owned());
    }
    if role.managed {
        return refuse(format!(
            "{} belongs to an integration, so it cannot be assigned. Choose another role.",
            role.name
        ));
    }
    if role.rank >= access.top_role {
        return refuse(format!(
            "{} is not below the bot's role. In Server Settings → Roles, drag the bot's role above it.",
            role.name
        ));
    }
    if missing_permissions(access).contains(&"Manage Roles") {
        return refuse(
            "The bot lacks the Manage Roles permission. Turn it on in Server Settings → Roles → the bot's role."
                .to_owned(),
        );
    }
    Ok(role)
}

/// What to do about a failed call.
#[must_use]
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
