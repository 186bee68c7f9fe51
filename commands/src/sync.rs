use dca_core::entitlements::breaker::{self, Stopped};
use dca_core::{Caller, GuildId, Reason, guilds, mappings, products};

use crate::bot::Bot;
use crate::context::{self, CommandError, Context, caller, guild};
use crate::reply;

pub(crate) const CONFIRM: &str = "sync:confirm";

/// Manage the sync of Discord roles with licenses
#[poise::command(slash_command, subcommands("status", "confirm"))]
#[expect(clippy::unused_async, reason = "commands are async; Discord never runs a parent itself")]
pub(crate) async fn sync(_: Context<'_>) -> Result<(), CommandError> {
    Ok(())
}

/// Show whether the sync was stopped, and whether the log channel works
#[poise::command(slash_command)]
async fn status(ctx: Context<'_>) -> Result<(), CommandError> {
    let (bot, caller) = (ctx.data(), caller(ctx).await?);
    let stopped = match find_stopped(bot, &caller, guild(ctx)).await? {
        Some(stopped) => describe(bot, &caller, guild(ctx), &stopped).await?,
        None => reply::SYNC_RUNS.to_owned(),
    };
    let log_channel = match guilds::find(&bot.core, guild(ctx)).await?.and_then(|guild| guild.log_channel_id) {
        Some(channel) => {
            let missing = bot.discord.missing_permissions(guild(ctx), channel).await?;
            reply::log_channel_status(channel, missing.as_deref())
        }
        None => reply::NO_LOG_CHANNEL.to_owned(),
    };
    ctx.say(format!("{stopped}\n{log_channel}")).await?;
    Ok(())
}

/// Show which licenses a stopped sync would revoke, and confirm it
#[poise::command(slash_command)]
async fn confirm(ctx: Context<'_>) -> Result<(), CommandError> {
    let (bot, caller) = (ctx.data(), caller(ctx).await?);
    let stopped = find_stopped(bot, &caller, guild(ctx)).await?;
    let stopped = stopped.ok_or_else(|| Reason::NothingToConfirm.refusal())?;
    let text = describe(bot, &caller, guild(ctx), &stopped).await?;
    context::confirm(ctx, text, reply::confirm_sync_label(stopped.losing), CONFIRM, stopped.losing).await
}

async fn find_stopped(bot: &Bot, caller: &Caller, guild: GuildId) -> Result<Option<Stopped>, CommandError> {
    Ok(breaker::find(&bot.core, &mappings::origin(caller.scope().tenant(), guild)).await?)
}

async fn describe(bot: &Bot, caller: &Caller, guild: GuildId, stopped: &Stopped) -> Result<String, CommandError> {
    let mappings = mappings::list(&bot.core, &caller.scope(), guild).await?;
    let products = products::names(&bot.core, &caller.scope()).await?;
    let losses = stopped.losses.iter().filter_map(|(reference, members)| {
        let mapping = mappings.iter().find(|mapping| mapping.id.0 == *reference)?;
        Some((mapping.role_id, products.get(&mapping.product_id)?.as_str(), *members))
    });
    Ok(reply::sync_stopped(stopped, losses))
}

/// Confirms the losses that the button was shown for.
pub(crate) async fn confirm_losses(
    bot: &Bot,
    caller: &Caller,
    guild: GuildId,
    losing: &str,
) -> Result<String, CommandError> {
    let origin = mappings::origin(caller.scope().tenant(), guild);
    breaker::confirm(&bot.core, caller, &origin, losing.parse().unwrap_or_default()).await?;
    Ok(reply::SYNC_CONFIRMED.to_owned())
}
