//! `/setup`: a product, its role and a log channel. The panel is stateless: its custom ids contain the
//! product and the admin, which are checked when a choice is made.

use std::time::Duration;

use dca_core::mappings::{self, Announce};
use dca_core::products::{self, PolicyChanges};
use dca_core::{GuildId, guilds};
use serenity::all::{ChannelType, ComponentInteraction, ComponentInteractionDataKind, CreateActionRow};
use serenity::all::{CreateSelectMenu, CreateSelectMenuKind, EditInteractionResponse};
use serenity::{builder::CreateAllowedMentions, client::Context as Gateway};

use crate::context::{CommandError, Context, caller, error_text, in_request};
use crate::{bot::Bot, checks, reply};

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
    #[description = "Hours a license outlives its role; a new product starts with 24"]
    #[min = 0]
    #[max = 8760]
    grace_hours: Option<u32>,
) -> Result<(), CommandError> {
    let caller = caller(ctx).await?;
    let hours = |n: u32| Duration::from_secs(u64::from(n) * 3_600);
    let terms = PolicyChanges { duration: days.map(|days| hours(days * 24)), source_grace: grace_hours.map(hours) };
    let core = &ctx.data().core;
    let define = products::create_or_update(core, &caller, &product, prefix.as_deref(), &terms);
    let product = in_request(ctx, define).await?;
    let policy = products::current_policy(core, &product).await?;
    let panel = poise::CreateReply::default()
        .content(reply::setup_panel(&product, &policy))
        .components(panel(product.id, ctx.author().id.get()));
    ctx.send(panel).await?;
    Ok(())
}

const ROLE: &str = "setup:role";
const LOG: &str = "setup:log";

fn panel(product: dca_core::ids::ProductId, admin: u64) -> Vec<CreateActionRow> {
    let role = CreateSelectMenuKind::Role { default_roles: None };
    let channel =
        CreateSelectMenuKind::Channel { channel_types: Some(vec![ChannelType::Text]), default_channels: None };
    let menu = |id: &str, kind, placeholder: &str| {
        let menu = CreateSelectMenu::new(format!("{id}:{product}:{admin}"), kind);
        CreateActionRow::SelectMenu(menu.placeholder(placeholder))
    };
    vec![menu(ROLE, role, "Role whose members get a license"), menu(LOG, channel, "Log channel (optional)")]
}

/// Handles a choice in a panel; ignores other components.
pub(crate) async fn component(ctx: &Gateway, bot: &Bot, choice: &ComponentInteraction) -> Result<(), CommandError> {
    let Some((menu, product, admin)) = parse(&choice.data.custom_id) else { return Ok(()) };
    choice.defer_ephemeral(&ctx.http).await?;
    let permissions = choice.member.as_ref().and_then(|member| member.permissions);
    let is_allowed = permissions.is_some_and(|p| p.manage_guild() || p.administrator());
    let text = if admin != choice.user.id.get() {
        reply::STALE_PANEL.to_owned()
    } else if !is_allowed {
        reply::MISSING_PERMISSION.to_owned()
    } else {
        let request_id = format!("interaction:{}", choice.id);
        let apply = dca_core::events::with_request_id(request_id, choose(bot, choice, menu, product));
        apply.await.unwrap_or_else(|error| error_text(&error, choice.id.get()))
    };
    let response = EditInteractionResponse::new().content(text).allowed_mentions(CreateAllowedMentions::new());
    choice.edit_response(&ctx.http, response).await?;
    Ok(())
}

fn parse(custom_id: &str) -> Option<(&str, &str, u64)> {
    let (head, admin) = custom_id.rsplit_once(':')?;
    let (menu, product) = head.rsplit_once(':')?;
    matches!(menu, ROLE | LOG).then_some((menu, product, admin.parse().ok()?))
}

async fn choose(bot: &Bot, choice: &ComponentInteraction, menu: &str, product: &str) -> Result<String, CommandError> {
    let guild: GuildId = choice.guild_id.map_or(0, serenity::model::id::GuildId::get).into();
    let caller = guilds::admin(&bot.core, guild, choice.user.id.get().into()).await?;
    match (&choice.data.kind, menu) {
        (ComponentInteractionDataKind::RoleSelect { values }, ROLE) => {
            let role = values.first().map_or(0, |role| role.get()).into();
            let product = products::get(&bot.core, &caller.scope(), product).await?;
            checks::mappable(&bot.discord.roles(guild).await?, guild, role)?;
            mappings::add(&bot.core, &caller, guild, role, &product, Announce::Silently).await?;
            Ok(reply::mapped(role, &product.name, Announce::Silently))
        }
        (ComponentInteractionDataKind::ChannelSelect { values }, LOG) => {
            let channel = values.first().map_or(0, |channel| channel.get()).into();
            match bot.discord.missing_permissions(guild, channel).await? {
                None => return Err(CommandError::ForeignChannel),
                Some(missing) if !missing.is_empty() => return Err(CommandError::CannotPost { channel, missing }),
                Some(_) => {}
            }
            bot.discord.line(channel, &reply::log_channel_set(channel), &choice.id.to_string()).await?;
            guilds::set_log_channel(&bot.core, &caller, guild, channel).await?;
            Ok(reply::log_channel_set(channel))
        }
        _ => Err(CommandError::MismatchedChoice),
    }
}
