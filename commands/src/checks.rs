//! What must be true in Discord for the product to work, each with its fix: asked by `/mapping add`
//! before it saves, and by `doctor` for everything.

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

/// A role that may be mapped.
///
/// # Errors
/// `ROLE_UNMANAGEABLE` or `NOT_FOUND`, with what to do about it.
pub fn mappable(access: &BotAccess, guild: Snowflake, role: Snowflake) -> dca_core::Result<&RoleFacts> {
    let Some(role) = access.roles.iter().find(|known| known.id == role) else {
        return Err(Code::NotFound.because("That role does not exist in this server."));
    };
    let refuse = |why: String| Err(Code::RoleUnmanageable.because(why));
    if role.id == guild {
        return refuse("@everyone cannot earn a product: every member has it. Choose a role that is given.".to_owned());
    }
    if role.managed {
        return refuse(format!(
            "{} belongs to an integration, which alone gives it. Choose a role of your own.",
            role.name
        ));
    }
    if role.rank >= access.top_role {
        return refuse(format!(
            "{} is not below the bot's role. Server Settings → Roles: drag the bot's role above it.",
            role.name
        ));
    }
    if missing_permissions(access).contains(&"Manage Roles") {
        return refuse(
            "The bot lacks Manage Roles. Server Settings → Roles → the bot's role: switch it on.".to_owned(),
        );
    }
    Ok(role)
}

/// What an operator should do about a failed call.
#[must_use]
pub fn fix(failure: &DiscordError) -> &'static str {
    match failure {
        DiscordError::Unauthorized => {
            "Copy the token anew: Developer Portal → Bot → Reset Token, then set DCA_DISCORD_TOKEN."
        }
        DiscordError::Forbidden(_) | DiscordError::Unknown(_) => "Invite the bot again with the link in the README.",
        DiscordError::RateLimited | DiscordError::DmLimited => "Wait; Discord asked for a pause.",
        DiscordError::DmClosed | DiscordError::Transient(_) => "Try again; if it stays so, see status.discord.com.",
    }
}
