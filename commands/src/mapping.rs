use dca_core::mappings::{self, Announce, Mapping};
use dca_core::{Caller, GuildId, products};
use serenity::all::Role;

use crate::context::{CommandError, Context, caller, complete_product, confirm, guild, in_request};
use crate::{bot::Bot, reply};

pub(crate) const REMOVE: &str = "mapping:remove";

/// Manage which roles give which products
#[poise::command(slash_command, subcommands("list", "add", "remove"))]
#[expect(clippy::unused_async, reason = "commands are async; Discord never runs a parent itself")]
pub(crate) async fn mapping(_: Context<'_>) -> Result<(), CommandError> {
    Ok(())
}

/// Show which roles give which products
#[poise::command(slash_command)]
async fn list(ctx: Context<'_>) -> Result<(), CommandError> {
    let (core, caller) = (&ctx.data().core, caller(ctx).await?);
    let products = products::names(core, &caller.scope()).await?;
    let found = mappings::list(core, &caller.scope(), guild(ctx)).await?;
    let name = |mapping: &Mapping| products.get(&mapping.product_id).map_or("?", String::as_str);
    ctx.say(reply::mappings(found.iter().map(|mapping| (mapping, name(mapping))))).await?;
    Ok(())
}

/// Map a role to a product: members with the role get a license
#[poise::command(slash_command)]
async fn add(
    ctx: Context<'_>,
    #[description = "Members with this role get a license key"] role: Role,
    #[description = "The product"]
    #[autocomplete = "complete_product"]
    #[max_length = 80]
    product: String,
    #[description = "Send members who already have the role their key by direct message"] dm_existing: Option<bool>,
) -> Result<(), CommandError> {
    let caller = caller(ctx).await?;
    let product = products::get(&ctx.data().core, &caller.scope(), &product).await?;
    let announce = if dm_existing.unwrap_or(false) { Announce::ByDm } else { Announce::Silently };
    let role = role.id.get().into();
    let roles = ctx.data().discord.roles(guild(ctx)).await?;
    reply::check_mappable(&roles, guild(ctx), role).map_err(CommandError::Unmappable)?;
    ctx.data().forget_roles(guild(ctx));
    in_request(ctx, mappings::add(&ctx.data().core, &caller, guild(ctx), role, &product, announce)).await?;
    ctx.say(reply::mapped(role, &product.name, announce)).await?;
    Ok(())
}

/// Remove a mapping; asks first, and shows how many licenses depend on it
#[poise::command(slash_command)]
async fn remove(
    ctx: Context<'_>,
    #[description = "The product"]
    #[autocomplete = "complete_product"]
    #[max_length = 80]
    product: String,
    #[description = "The role"] role: Option<Role>,
    #[description = "The ID of a role that was deleted (see /mapping list)"] deleted_role: Option<String>,
) -> Result<(), CommandError> {
    let (core, caller) = (&ctx.data().core, caller(ctx).await?);
    let product = products::get(core, &caller.scope(), &product).await?;
    let deleted = deleted_role.and_then(|id| id.trim().parse::<u64>().ok());
    let role = role.map(|role| role.id.get()).or(deleted).ok_or(CommandError::NoRole)?.into();
    let mapping = mappings::get(core, &caller.scope(), guild(ctx), role, &product).await?;
    let affected = mappings::count_dependent(core, &mapping).await?;
    let question = reply::confirm_unmapping(role, &product.name, affected);
    confirm(ctx, question, reply::REMOVE_MAPPING_LABEL, REMOVE, format!("{role}/{}", product.id)).await
}

/// Removes the mapping that the button was shown for.
pub(crate) async fn confirm_removal(
    bot: &Bot,
    caller: &Caller,
    guild: GuildId,
    mapping: &str,
) -> Result<String, CommandError> {
    let (role, product) = mapping.split_once('/').ok_or(CommandError::MismatchedChoice)?;
    let role = role.parse::<u64>().map_err(|_| CommandError::MismatchedChoice)?.into();
    let product = products::get(&bot.core, &caller.scope(), product).await?;
    let affected = mappings::remove(&bot.core, caller, guild, role, &product).await?;
    Ok(reply::unmapped(role, &product.name, affected))
}
