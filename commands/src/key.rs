use dca_core::licenses;

use crate::context::{CommandError, Context, caller, find_user};
use crate::reply;

/// Show your license keys; only you can see them
#[poise::command(slash_command, guild_only)]
pub(crate) async fn key(ctx: Context<'_>) -> Result<(), CommandError> {
    let (core, caller) = (&ctx.data().core, caller(ctx).await?);
    let licenses = match find_user(core, ctx.author().id.get().into()).await? {
        Some(user) => licenses::list_usable(core, &caller.scope(), user).await?,
        None => Vec::new(),
    };
    ctx.say(reply::keys(&licenses)).await?;
    Ok(())
}
