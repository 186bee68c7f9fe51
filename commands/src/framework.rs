//! The commands, and what holds for all of them.

use std::sync::Arc;

use poise::CreateReply;

use crate::{
    bot::Bot,
    context::{CommandError, Context, error_text, interaction},
    event_handler, key, license, mapping, reply, setup, sync,
};

/// All slash commands. A new command is a file and a line here.
fn commands() -> Vec<poise::Command<Arc<Bot>, CommandError>> {
    vec![key::key(), license::license(), mapping::mapping(), setup::setup(), sync::sync()]
}

/// Options for every command: deferred at once, ephemeral, without pings, panics caught.
pub(crate) fn options() -> poise::FrameworkOptions<Arc<Bot>, CommandError> {
    poise::FrameworkOptions {
        commands: commands(),
        command_check: Some(|ctx| Box::pin(defer(ctx))),
        on_error: |error| Box::pin(respond_to_error(error)),
        allowed_mentions: Some(serenity::builder::CreateAllowedMentions::new()),
        event_handler: |framework, event| Box::pin(event_handler::handle(framework, event)),
        initialize_owners: false,
        ..poise::FrameworkOptions::default()
    }
}

/// Defers the response within Discord's limit of three seconds. If Discord rejects it, another instance
/// has responded or it is too late, and the command must not run.
async fn defer(ctx: Context<'_>) -> Result<bool, CommandError> {
    if let poise::Context::Application(application) = ctx
        && application.interaction_type == poise::CommandInteractionType::Command
    {
        application.defer_response(true).await?;
    }
    Ok(true)
}

/// Shows a refusal, or logs the error under the interaction id that the user sees.
async fn respond_to_error(error: poise::FrameworkError<'_, Arc<Bot>, CommandError>) {
    let Some(ctx) = error.ctx() else {
        tracing::error!(%error, "could not handle a gateway event");
        return;
    };
    if let poise::FrameworkError::CommandCheckFailed { error: Some(reason), .. } = &error {
        tracing::warn!(error = %reason, "command not run: Discord rejected the deferred response");
        return;
    }
    let text = match &error {
        poise::FrameworkError::Command { error, .. } => error_text(error, interaction(ctx)),
        poise::FrameworkError::MissingUserPermissions { .. } | poise::FrameworkError::PermissionFetchFailed { .. } => {
            reply::missing_permission()
        }
        poise::FrameworkError::GuildOnly { .. } => reply::guild_only(),
        poise::FrameworkError::ArgumentParse { error, .. } => reply::bad_argument(&error.to_string()),
        _ => {
            tracing::error!(%error, command = %ctx.command().qualified_name, "a command failed");
            reply::fault(interaction(ctx))
        }
    };
    if let Err(error) = ctx.send(CreateReply::default().content(text).ephemeral(true)).await {
        tracing::warn!(%error, "could not send a response to Discord");
    }
}
