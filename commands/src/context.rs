//! What every command uses: its errors, and who calls from where.

use std::sync::Arc;

use dca_core::users::{self, Provider};
use dca_core::{Caller, ChannelId, Core, DiscordUserId, GuildId, guilds, ids::UserId, products};
use futures::future::BoxFuture;
use serenity::all::{ButtonStyle, CreateActionRow, CreateButton};

use crate::{bot::Bot, reply, rest::DiscordError};

/// Why a command failed: a refusal to show, or an error to log.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CommandError {
    #[error(transparent)]
    Core(#[from] dca_core::Error),
    #[error("Discord: {0}")]
    Discord(#[from] serenity::Error),
    #[error(transparent)]
    DiscordApi(#[from] DiscordError),
    #[error("the role cannot be mapped: {0}")]
    Unmappable(&'static str),
    #[error("the channel is in another server")]
    ForeignChannel,
    #[error("the bot cannot post in channel {channel}")]
    CannotPost { channel: ChannelId, missing: Vec<&'static str> },
    #[error("the user is a bot")]
    IsBot,
    #[error("the user is not in the server")]
    NotAMember,
    #[error("no role was chosen")]
    NoRole,
    #[error("the choice does not match its menu")]
    MismatchedChoice,
}

pub(crate) type Context<'a> = poise::Context<'a, Arc<Bot>, CommandError>;

/// The text for an error. Anything but a refusal is logged under the interaction id that the user sees.
pub(crate) fn error_text(error: &CommandError, id: u64) -> String {
    match error {
        CommandError::Core(dca_core::Error::Refused(refusal)) => reply::refusal(refusal),
        CommandError::DiscordApi(error) => reply::discord_refused(error),
        CommandError::Unmappable(reason) => format!("❌ {reason}"),
        CommandError::ForeignChannel => reply::FOREIGN_CHANNEL.to_owned(),
        CommandError::CannotPost { channel, missing } => format!("❌ {}", reply::cannot_post(*channel, missing)),
        CommandError::IsBot => reply::IS_BOT.to_owned(),
        CommandError::NotAMember => reply::NOT_A_MEMBER.to_owned(),
        CommandError::NoRole => reply::NO_ROLE.to_owned(),
        CommandError::MismatchedChoice => reply::MISMATCHED_CHOICE.to_owned(),
        CommandError::Core(_) | CommandError::Discord(_) => {
            tracing::error!(%error, interaction = id, "a command failed");
            reply::fault(id)
        }
    }
}

/// The caller, in the guild the command was called in.
pub(crate) async fn caller(ctx: Context<'_>) -> Result<Caller, CommandError> {
    Ok(guilds::admin(&ctx.data().core, guild(ctx), ctx.author().id.get().into()).await?)
}

/// The guild a command was called in; commands are guild-only.
pub(crate) fn guild(ctx: Context<'_>) -> GuildId {
    ctx.guild_id().map_or(0, serenity::model::id::GuildId::get).into()
}

/// The interaction id, shown to the user and logged.
pub(crate) fn interaction(ctx: Context<'_>) -> u64 {
    match ctx {
        poise::Context::Application(application) => application.interaction.id.get(),
        poise::Context::Prefix(prefix) => prefix.msg.id.get(),
    }
}

/// Runs core work as part of this interaction, so that its events carry the interaction id.
pub(crate) fn in_request<'a, T: 'a>(ctx: Context<'_>, work: impl Future<Output = T> + Send + 'a) -> BoxFuture<'a, T> {
    Box::pin(dca_core::events::with_request_id(format!("interaction:{}", interaction(ctx)), work))
}

/// Autocompletes product names that contain the typed text.
pub(crate) async fn complete_product(ctx: Context<'_>, partial: &str) -> serenity::builder::CreateAutocompleteResponse {
    let typed = partial.to_lowercase();
    let known = match caller(ctx).await {
        Ok(caller) => products::list_all(&ctx.data().core, &caller.scope()).await.unwrap_or_default(),
        Err(_) => Vec::new(),
    };
    let names = known.into_iter().map(|product| product.name).filter(|name| name.to_lowercase().contains(&typed));
    names.take(25).fold(serenity::builder::CreateAutocompleteResponse::new(), |response, name| {
        response.add_string_choice(name.clone(), name)
    })
}

/// Asks the caller to confirm with a button; `crate::component` handles it.
pub(crate) async fn confirm(
    ctx: Context<'_>,
    question: String,
    label: impl Into<String>,
    action: &str,
    about: impl std::fmt::Display,
) -> Result<(), CommandError> {
    let button = CreateButton::new(custom_id(action, about, ctx.author().id.get()));
    let buttons = vec![CreateActionRow::Buttons(vec![button.label(label).style(ButtonStyle::Danger)])];
    ctx.send(poise::CreateReply::default().content(question).components(buttons)).await?;
    Ok(())
}

/// The custom id of a button or menu for one admin; `crate::component` handles it.
pub(crate) fn custom_id(action: &str, about: impl std::fmt::Display, admin: u64) -> String {
    format!("{action}:{about}:{admin}")
}

/// The parts of a custom id.
pub(crate) fn parse_custom_id(id: &str) -> Option<(&str, &str, u64)> {
    let (head, admin) = id.rsplit_once(':')?;
    let (action, about) = head.rsplit_once(':')?;
    Some((action, about, admin.parse().ok()?))
}

/// The user with a Discord account, if known.
pub(crate) async fn find_user(core: &Core, member: DiscordUserId) -> Result<Option<UserId>, CommandError> {
    Ok(users::find_by_identity(core, Provider::Discord, &member.to_string()).await?)
}
