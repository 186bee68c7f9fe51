use dca_core::{entitlements::breaker, mappings};

use crate::context::{CommandError, Context, caller, guild, in_request};
use crate::reply;

/// Manage the sync of Discord roles with licenses
#[poise::command(slash_command, subcommands("confirm"))]
#[expect(clippy::unused_async, reason = "commands are async; Discord never runs a parent itself")]
pub(crate) async fn sync(_: Context<'_>) -> Result<(), CommandError> {
    Ok(())
}

/// Confirm a sync that was stopped because it would revoke many licenses
#[poise::command(slash_command)]
async fn confirm(ctx: Context<'_>) -> Result<(), CommandError> {
    let caller = caller(ctx).await?;
    let origin = mappings::origin(caller.scope().tenant(), guild(ctx));
    in_request(ctx, breaker::confirm(&ctx.data().core, &caller, &origin)).await?;
    ctx.say(reply::SYNC_CONFIRMED).await?;
    Ok(())
}
