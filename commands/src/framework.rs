//! The commands, and what holds for all of them.

use std::sync::{Arc, PoisonError};

use dca_core::GuildId;
use poise::CreateReply;
use serenity::all::{FullEvent, Interaction, Permissions};
use serenity::collector;

use crate::bot::{Bot, GatewayStatus};
use crate::context::{CommandError, Context, error_text, interaction};
use crate::{component, key, license, mapping, reply, setup, sync, updates::GuildChange};

/// All slash commands. A new command is a file and an entry here. Only `/key` is for members who do not manage the
/// server.
fn commands() -> Vec<poise::Command<Arc<Bot>, CommandError>> {
    let mut commands = vec![license::license(), mapping::mapping(), setup::setup(), sync::sync()];
    for command in &mut commands {
        command.guild_only = true;
        command.default_member_permissions = Permissions::MANAGE_GUILD;
        command.required_permissions = Permissions::MANAGE_GUILD;
    }
    commands.insert(0, key::key());
    commands
}

/// Options for every command: deferred at once, ephemeral, without pings, panics caught.
pub(crate) fn options() -> poise::FrameworkOptions<Arc<Bot>, CommandError> {
    poise::FrameworkOptions {
        commands: commands(),
        command_check: Some(|ctx| Box::pin(defer(ctx))),
        on_error: |error| Box::pin(respond_to_error(error)),
        allowed_mentions: Some(serenity::builder::CreateAllowedMentions::new()),
        event_handler: |framework, event| Box::pin(handle_event(framework, event)),
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
            reply::MISSING_PERMISSION.to_owned()
        }
        poise::FrameworkError::GuildOnly { .. } => reply::GUILD_ONLY.to_owned(),
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

/// Handles events that need no order: READY, and interactions that poise does not handle.
async fn handle_event(
    framework: poise::FrameworkContext<'_, Arc<Bot>, CommandError>,
    event: &FullEvent,
) -> Result<(), CommandError> {
    let (ctx, bot) = (framework.serenity_context, framework.user_data().await);
    match event {
        FullEvent::Ready { data_about_bot } => {
            let callback_bot = bot.clone();
            let stream = collector::collect(&ctx.shard, move |event| {
                callback_bot.updates.push(&callback_bot.core, event);
                None::<()>
            });
            *bot.updates.collector.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::pin(stream));
            let present: Vec<GuildId> = data_about_bot.guilds.iter().map(|guild| guild.id.get().into()).collect();
            let guilds = present.len();
            bot.updates.push_guild_change(GuildChange::Ready(present));
            // A reconciliation finds what happened before the callback was registered.
            bot.updates.push_guild_change(GuildChange::Gap);
            bot.status.send_replace(GatewayStatus::Connected);
            tracing::info!(guilds, "Discord is connected");
        }
        FullEvent::InteractionCreate { interaction: Interaction::Component(choice) } => {
            component::handle(ctx, bot, choice).await?;
        }
        // GUILD_CREATE of the first connection may arrive before the callback is registered.
        FullEvent::GuildCreate { guild, .. } => {
            bot.updates.push_joined(guild);
        }
        _ => {}
    }
    Ok(())
}
