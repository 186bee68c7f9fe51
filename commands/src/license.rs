use dca_core::users::{self, Provider};
use dca_core::{DiscordUserId, Reason, entitlements, licenses, outbox, products};
use serenity::model::user::User;

use crate::context::{CommandError, Context, caller, complete_product, find_user, guild, in_request};
use crate::reply::{self, LicenseRow};

/// Show, grant or revoke a member's licenses
#[poise::command(slash_command, subcommands("show", "grant", "revoke"))]
#[expect(clippy::unused_async, reason = "commands are async; Discord never runs a parent itself")]
pub(crate) async fn license(_: Context<'_>) -> Result<(), CommandError> {
    Ok(())
}

/// Show a member's licenses, including revoked ones
#[poise::command(slash_command)]
async fn show(ctx: Context<'_>, #[description = "The member"] member: User) -> Result<(), CommandError> {
    let (core, caller) = (&ctx.data().core, caller(ctx).await?);
    let products = products::names(core, &caller.scope()).await?;
    let found = match find_user(core, member.id.get().into()).await? {
        Some(user) => licenses::list_of(core, &caller.scope(), user).await?,
        None => Vec::new(),
    };
    let ids: Vec<_> = found.iter().map(|license| (license.id, license.key_epoch)).collect();
    let undelivered = outbox::undelivered_keys(core, &ids).await?;
    let now = core.clock.now();
    let rows = found.iter().map(|license| LicenseRow {
        license,
        state: license.state(now),
        product: products.get(&license.product_id).map_or("?", String::as_str),
        is_undelivered: undelivered.contains(&license.id),
    });
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
    let product = products::get(core, &caller.scope(), &product).await?;
    if member.bot {
        return Err(CommandError::IsBot);
    }
    let member: DiscordUserId = member.id.get().into();
    if ctx.data().discord.member(guild(ctx), member).await?.is_none() {
        return Err(CommandError::NotAMember);
    }
    let user = users::ensure(core, Provider::Discord, &member.to_string()).await?;
    in_request(ctx, entitlements::grant(core, &caller, product.id, user)).await?;
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
    let product = products::get(core, &caller.scope(), &product).await?;
    let member: DiscordUserId = member.id.get().into();
    let user = find_user(core, member).await?.ok_or_else(|| Reason::NoMemberLicense.refusal())?;
    let reason = reason.as_deref().unwrap_or("admin_decision");
    let revoke = licenses::revoke_member_license(core, &caller, user, product.id, reason);
    let revoked = in_request(ctx, revoke).await?;
    ctx.say(reply::revoked(member, &product.name, &revoked.key_hint)).await?;
    Ok(())
}
