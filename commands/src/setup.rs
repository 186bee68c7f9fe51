//! `/setup`: a product, its role and a log channel.

use dca_core::mappings::{self, Announce};
use dca_core::policy::PolicyPatch;
use dca_core::products::{self, Changed};
use dca_core::{Caller, GuildId, guilds};
use serenity::all::{ChannelType, ComponentInteraction, ComponentInteractionDataKind, CreateActionRow};
use serenity::all::{CreateSelectMenu, CreateSelectMenuKind};

use crate::context::{CommandError, Context, caller, custom_id, in_request};
use crate::{bot::Bot, reply};

/// Create or change a product and choose its role and log channel
#[poise::command(slash_command)]
pub(crate) async fn setup(
    ctx: Context<'_>,
    #[description = "The product name, for example Studio"]
    #[max_length = 80]
    product: String,
    #[description = "The prefix of its keys, 2 to 8 letters or digits, for example STUDIO"]
    #[min_length = 2]
    #[max_length = 8]
    prefix: Option<String>,
    #[description = "Days a license is valid; 0 means forever, the default of a new product"]
    #[min = 0]
    #[max = 36500]
    days: Option<u32>,
    #[description = "Hours a license stays valid after its role is lost; 24 for a new product"]
    #[min = 0]
    #[max = 8760]
    grace_hours: Option<u32>,
) -> Result<(), CommandError> {
    let caller = caller(ctx).await?;
    let mut patch = PolicyPatch::default();
    if let Some(days) = days {
        patch = patch.with("durationSeconds", (days > 0).then(|| u64::from(days) * 86_400));
    }
    if let Some(hours) = grace_hours {
        patch = patch.with("sourceGraceSeconds", u64::from(hours) * 3_600);
    }
    let define = products::create_or_update(&ctx.data().core, &caller, &product, prefix.as_deref(), &patch);
    let Changed { product, policy, .. } = in_request(ctx, define).await?;
    let panel = poise::CreateReply::default()
        .content(reply::setup_panel(&product, &policy))
        .components(panel(product.id, ctx.author().id.get()));
    ctx.send(panel).await?;
    Ok(())
}

pub(crate) const ROLE: &str = "setup:role";
pub(crate) const LOG: &str = "setup:log";

fn panel(product: dca_core::ids::ProductId, admin: u64) -> Vec<CreateActionRow> {
    let role = CreateSelectMenuKind::Role { default_roles: None };
    let channel =
        CreateSelectMenuKind::Channel { channel_types: Some(vec![ChannelType::Text]), default_channels: None };
    let menu = |id: &str, kind, placeholder: &str| {
        let menu = CreateSelectMenu::new(custom_id(id, product, admin), kind);
        CreateActionRow::SelectMenu(menu.placeholder(placeholder))
    };
    vec![menu(ROLE, role, "Role whose members get a license"), menu(LOG, channel, "Log channel (optional)")]
}

/// Maps the chosen role to the product.
pub(crate) async fn choose_role(
    bot: &Bot,
    caller: &Caller,
    guild: GuildId,
    choice: &ComponentInteraction,
    product: &str,
) -> Result<String, CommandError> {
    let ComponentInteractionDataKind::RoleSelect { values } = &choice.data.kind else {
        return Err(CommandError::MismatchedChoice);
    };
    let role = values.first().ok_or(CommandError::MismatchedChoice)?.get().into();
    let product = products::get(&bot.core, &caller.scope(), product).await?;
    let roles = bot.discord.roles(guild).await?;
    reply::check_mappable(&roles, guild, role).map_err(CommandError::Unmappable)?;
    bot.forget_roles(guild);
    mappings::add(&bot.core, caller, guild, role, &product, Announce::Silently).await?;
    Ok(reply::mapped(role, &product.name, Announce::Silently))
}

/// Sets the chosen log channel, if the bot can post there.
pub(crate) async fn choose_log_channel(
    bot: &Bot,
    caller: &Caller,
    guild: GuildId,
    choice: &ComponentInteraction,
) -> Result<String, CommandError> {
    let ComponentInteractionDataKind::ChannelSelect { values } = &choice.data.kind else {
        return Err(CommandError::MismatchedChoice);
    };
    let channel = values.first().ok_or(CommandError::MismatchedChoice)?.get().into();
    match bot.discord.missing_permissions(guild, channel).await? {
        None => return Err(CommandError::ForeignChannel),
        Some(missing) if !missing.is_empty() => return Err(CommandError::CannotPost { channel, missing }),
        Some(_) => {}
    }
    bot.discord.post(channel, &reply::log_channel_set(channel), &choice.id.to_string()).await?;
    guilds::set_log_channel(&bot.core, caller, guild, channel).await?;
    Ok(reply::log_channel_set(channel))
}
