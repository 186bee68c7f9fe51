//! Buttons and menus. They are stateless: a custom id names what to do, and the admin it was shown to. Both are checked
//! when it is used.

use dca_core::{GuildId, guilds};
use serenity::all::{ComponentInteraction, EditInteractionResponse};
use serenity::{builder::CreateAllowedMentions, client::Context as Gateway};

use crate::context::{CommandError, error_text, parse_custom_id};
use crate::{bot::Bot, mapping, reply, setup, sync};

/// What a button or menu does. A new one is a row of `parse` and of `perform`.
enum Action<'a> {
    ChooseRole { product: &'a str },
    ChooseLogChannel,
    RemoveMapping { mapping: &'a str },
    ConfirmSync { losing: &'a str },
}

/// Handles the use of a button or menu; ignores those of others.
pub(crate) async fn handle(ctx: &Gateway, bot: &Bot, used: &ComponentInteraction) -> Result<(), CommandError> {
    let Some((action, admin)) = parse(&used.data.custom_id) else { return Ok(()) };
    used.defer_ephemeral(&ctx.http).await?;
    let permissions = used.member.as_ref().and_then(|member| member.permissions);
    let is_allowed = permissions.is_some_and(|p| p.manage_guild() || p.administrator());
    let text = if admin != used.user.id.get() {
        reply::NOT_YOURS.to_owned()
    } else if !is_allowed {
        reply::MISSING_PERMISSION.to_owned()
    } else {
        let request_id = format!("interaction:{}", used.id);
        let perform = dca_core::events::with_request_id(request_id, perform(bot, used, action));
        perform.await.unwrap_or_else(|error| error_text(&error, used.id.get()))
    };
    let response = EditInteractionResponse::new().content(text).allowed_mentions(CreateAllowedMentions::new());
    used.edit_response(&ctx.http, response).await?;
    Ok(())
}

fn parse(custom_id: &str) -> Option<(Action<'_>, u64)> {
    let (action, about, admin) = parse_custom_id(custom_id)?;
    let action = match action {
        setup::ROLE => Action::ChooseRole { product: about },
        setup::LOG => Action::ChooseLogChannel,
        mapping::REMOVE => Action::RemoveMapping { mapping: about },
        sync::CONFIRM => Action::ConfirmSync { losing: about },
        _ => return None,
    };
    Some((action, admin))
}

async fn perform(bot: &Bot, used: &ComponentInteraction, action: Action<'_>) -> Result<String, CommandError> {
    let guild: GuildId = used.guild_id.map_or(0, serenity::model::id::GuildId::get).into();
    let caller = guilds::admin(&bot.core, guild, used.user.id.get().into()).await?;
    match action {
        Action::ChooseRole { product } => setup::choose_role(bot, &caller, guild, used, product).await,
        Action::ChooseLogChannel => setup::choose_log_channel(bot, &caller, guild, used).await,
        Action::RemoveMapping { mapping } => mapping::confirm_removal(bot, &caller, guild, mapping).await,
        Action::ConfirmSync { losing } => sync::confirm_losses(bot, &caller, guild, losing).await,
    }
}
