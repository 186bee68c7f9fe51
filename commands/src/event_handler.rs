//! Gateway events that need no order.

use std::sync::{Arc, PoisonError};

use dca_core::GuildId;
use serenity::{
    all::{FullEvent, Interaction},
    collector,
};
use tracing::info;

use crate::{
    bot::{Bot, GatewayStatus},
    context::CommandError,
    setup,
    updates::GuildChange,
};

/// Handles events that need no order: READY, and interactions that poise does not handle.
pub(crate) async fn handle(
    framework: poise::FrameworkContext<'_, Arc<Bot>, CommandError>,
    event: &FullEvent,
) -> Result<(), CommandError> {
    let (ctx, bot) = (framework.serenity_context, framework.user_data().await);
    match event {
        FullEvent::Ready { data_about_bot } => {
            let callback_bot = bot.clone();
            let callback = collector::collect(&ctx.shard, move |event| {
                callback_bot.updates.push(&callback_bot.core, event);
                None::<()>
            });
            *bot.updates.callback.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::pin(callback));
            let present: Vec<GuildId> = data_about_bot.guilds.iter().map(|guild| guild.id.get().into()).collect();
            let guilds = present.len();
            bot.updates.push_guild_change(GuildChange::Present(present));
            // A reconciliation finds what happened before the callback was registered.
            bot.updates.push_guild_change(GuildChange::Gap);
            bot.status.send_replace(GatewayStatus::Connected);
            info!(guilds, "Discord is connected");
        }
        FullEvent::InteractionCreate { interaction: Interaction::Component(choice) } => {
            setup::component(ctx, bot, choice).await?;
        }
        // GUILD_CREATE of the first connection may arrive before the callback is registered.
        FullEvent::GuildCreate { guild, .. } => {
            bot.updates.push_joined(guild);
        }
        _ => {}
    }
    Ok(())
}
