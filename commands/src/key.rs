use crate::{CommandError, Context, caller, reply};

/// Show your license keys; only you can see them
#[poise::command(slash_command, guild_only)]
pub(crate) async fn key(ctx: Context<'_>) -> Result<(), CommandError> {
    let caller = caller(ctx).await?;
    let licenses =
        dca_core::licenses::list_usable(&ctx.data().core, &caller.scope, ctx.author().id.get().into()).await?;
    ctx.say(reply::keys(&licenses)).await?;
    Ok(())
}
