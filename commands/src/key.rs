use crate::{CommandError, Context, caller, reply};

/// Show my license keys again, to me alone
#[poise::command(slash_command, guild_only)]
pub(crate) async fn key(ctx: Context<'_>) -> Result<(), CommandError> {
    let caller = caller(ctx).await?;
    let held = dca_core::licenses::list_usable(&ctx.data().core, &caller.scope, ctx.author().id.get().into()).await?;
    ctx.say(reply::keys(&held)).await?;
    Ok(())
}
