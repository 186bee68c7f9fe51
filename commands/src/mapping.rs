use dca_core::mappings::{self, Announce};
use dca_core::products;
use serenity::model::guild::Role;

use crate::context::{CommandError, Context, caller, complete_product, guild, in_request};
use crate::{checks, reply};

/// Manage which roles get which products
#[poise::command(slash_command, subcommands("list", "add", "remove"))]
#[expect(clippy::unused_async, reason = "commands are async; Discord never runs a parent itself")]
pub(crate) async fn mapping(_: Context<'_>) -> Result<(), CommandError> {
    Ok(())
}

/// Show which roles get which products
#[poise::command(slash_command)]
async fn list(ctx: Context<'_>) -> Result<(), CommandError> {
    let (core, caller) = (&ctx.data().core, caller(ctx).await?);
    let known = products::list(core, &caller.scope()).await?;
    let found = mappings::list(core, &caller.scope(), guild(ctx)).await?;
    let name = |id| known.iter().find(|product| product.id == id).map_or("?", |product| product.name.as_str());
    ctx.say(reply::mappings(found.iter().map(|mapping| (mapping, name(mapping.product_id))))).await?;
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
    checks::mappable(&ctx.data().discord.roles(guild(ctx)).await?, guild(ctx), role)?;
    in_request(ctx, mappings::add(&ctx.data().core, &caller, guild(ctx), role, &product, announce)).await?;
    ctx.say(reply::mapped(role, &product.name, announce)).await?;
    Ok(())
}

/// Remove a mapping; licenses that depend on it are revoked after their grace period
#[poise::command(slash_command)]
async fn remove(
    ctx: Context<'_>,
    #[description = "The role, or the ID of a deleted one (see /mapping list)"] role: String,
    #[description = "The product"]
    #[autocomplete = "complete_product"]
    #[max_length = 80]
    product: String,
) -> Result<(), CommandError> {
    let (core, caller) = (&ctx.data().core, caller(ctx).await?);
    let product = products::get(core, &caller.scope(), &product).await?;
    let role = role.trim_matches(|c: char| !c.is_ascii_digit()).parse::<u64>().unwrap_or_default().into();
    let holders = in_request(ctx, mappings::remove(core, &caller, guild(ctx), role, &product)).await?;
    ctx.say(reply::unmapped(role, &product.name, holders)).await?;
    Ok(())
}
