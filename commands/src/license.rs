use dca_core::{entitlements, licenses, products};
use serenity::model::user::User;

use crate::{CommandError, Context, caller, complete_product, in_request, reply};

/// Show, grant or revoke a member's licenses
#[poise::command(
    slash_command,
    guild_only,
    default_member_permissions = "MANAGE_GUILD",
    required_permissions = "MANAGE_GUILD",
    subcommands("show", "grant", "revoke")
)]
#[expect(clippy::unused_async, reason = "commands are async; Discord never runs a parent itself")]
pub(crate) async fn license(_: Context<'_>) -> Result<(), CommandError> {
    Ok(())
}

/// Show a member's licenses, including revoked ones
#[poise::command(slash_command)]
async fn show(ctx: Context<'_>, #[description = "The member"] member: User) -> Result<(), CommandError> {
    let (core, caller) = (&ctx.data().core, caller(ctx).await?);
    let known = products::list(core, &caller.scope).await?;
    let found = licenses::list_of(core, &caller.scope, member.id.get().into()).await?;
    let name = |id| known.iter().find(|product| product.id == id).map_or("?", |product| product.name.as_str());
    let now = core.clock.now();
    let rows = found.iter().map(|license| (license, licenses::state(license, now), name(license.product_id)));
    ctx.say(reply::licenses(member.id.get().into(), rows)).await?;
    Ok(())
}

/// Give a member a license, regardless of their roles
#[poise::command(slash_command)]
async fn grant(
    ctx: Context<'_>,
    #[description = "The member"] member: User,
    #[description = "The product"]
    #[autocomplete = "complete_product"]
    #[max_length = 80]
    product: String,
) -> Result<(), CommandError> {
    let (core, caller) = (&ctx.data().core, caller(ctx).await?);
    let product = products::get(core, &caller.scope, &product).await?;
    let member = member.id.get().into();
    in_request(ctx, entitlements::grant(core, &caller, product.id, member)).await?;
    ctx.say(reply::granted(member, &product.name)).await?;
    Ok(())
}

/// Revoke a member's license now; a new grant, or regaining the role, issues a new one
#[poise::command(slash_command)]
async fn revoke(
    ctx: Context<'_>,
    #[description = "The member"] member: User,
    #[description = "The product"]
    #[autocomplete = "complete_product"]
    #[max_length = 80]
    product: String,
    #[description = "The reason, shown in the log, for example: refunded"]
    #[max_length = 200]
    reason: Option<String>,
) -> Result<(), CommandError> {
    let (core, caller) = (&ctx.data().core, caller(ctx).await?);
    let product = products::get(core, &caller.scope, &product).await?;
    let member = member.id.get().into();
    let reason = reason.as_deref().unwrap_or("admin_decision");
    let revoked = in_request(ctx, licenses::revoke_member_license(core, &caller, member, product.id, reason)).await?;
    ctx.say(reply::revoked(member, &product.name, &revoked.key_hint)).await?;
    Ok(())
}
