use dca_core::{licenses, outbox};

use crate::context::{CommandError, Context, caller, find_user};
use crate::reply;

/// Show your license keys; only you can see them
#[poise::command(slash_command, guild_only)]
pub(crate) async fn key(ctx: Context<'_>) -> Result<(), CommandError> {
    let (core, caller) = (&ctx.data().core, caller(ctx).await?);
    let Some(user) = find_user(core, ctx.author().id.get().into()).await? else {
        ctx.say(reply::NO_LICENSE).await?;
        return Ok(());
    };
    let licenses = licenses::list_usable(core, &caller.scope(), user).await?;
    let ended = licenses::list_ended(core, &caller.scope(), user).await?;
    let ids: Vec<_> = licenses.iter().map(|license| (license.id, license.key_epoch)).collect();
    let undelivered = outbox::undelivered_keys(core, &ids).await?;
    ctx.say(reply::keys(&licenses, &ended, !undelivered.is_empty())).await?;
    Ok(())
}
