//! The gateway connection. Exactly one instance is connected: the holder of the `gateway` lease, whose token fences
//! writes of a former holder.
//!
//! ```text
//! lease -> client -> READY -> collector callback (inline, in order) -> UpdateBuffer -> observe
//!                          \-> reconciliation (worker `reconcile_roles`): what was missed before
//! ```

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use dca_core::entitlements;
use dca_core::workers::{self, Lease};
use serenity::all::{Client, ClientBuilder, Command, CreateCommand, GatewayIntents};
use serenity::{gateway::GatewayError, http::Http};
use tokio::{task::JoinError, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::bot::{Bot, GatewayStatus};
use crate::{context::CommandError, framework, rest::DiscordError, updates::store_updates};

/// How long storing the remaining updates may take after the connection ends.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// Connects to the gateway whenever this instance holds the lease, until `stop`. Returns after releasing the lease. If
/// Discord refuses the connection and only an operator can fix it, the rest of the process keeps running. Fails if the
/// task that stores updates panicked.
pub async fn run(bot: Arc<Bot>, stop: CancellationToken) -> Result<(), JoinError> {
    loop {
        match acquire(&bot).await {
            Ok(Some(lease)) => {
                *bot.lease.lock().unwrap_or_else(PoisonError::into_inner) = Some(lease.clone());
                bot.status.send_replace(GatewayStatus::Connecting);
                let listened = listen(&bot, &lease, &stop).await;
                *bot.lease.lock().unwrap_or_else(PoisonError::into_inner) = None;
                if let Err(error) = workers::release(&bot.core, &lease, "released").await {
                    warn!(%error, "could not release the gateway lease; it expires on its own");
                }
                if !matches!(*bot.status.borrow(), GatewayStatus::Refused(_)) {
                    bot.status.send_replace(GatewayStatus::Standby);
                }
                listened?;
            }
            Ok(None) => {}
            Err(error) => warn!(%error, "could not acquire the gateway lease; retrying"),
        }
        let pause = match *bot.status.borrow() {
            GatewayStatus::Refused(_) => Duration::from_hours(1),
            _ => (bot.lease_duration / 8).min(Duration::from_secs(1)),
        };
        tokio::select! { () = stop.cancelled() => return Ok(()), () = tokio::time::sleep(pause) => {} }
    }
}

async fn acquire(bot: &Bot) -> dca_core::Result<Option<Lease>> {
    workers::register(&bot.core, workers::GATEWAY).await?;
    let now = bot.core.clock.now();
    let lease = workers::acquire(&bot.core, workers::GATEWAY, bot.lease_duration, now).await?;
    if lease.is_some() {
        entitlements::catch_up_stamps(&bot.core).await?;
        // Do not wait for a reconciliation that a former holder abandoned or is still running.
        workers::revoke_lease(&bot.core, workers::RECONCILE_ROLES).await?;
    }
    Ok(lease)
}

/// Stays connected until the client ends, the lease is lost, `stop`, or a panic of the task that stores updates.
async fn listen(bot: &Arc<Bot>, lease: &Lease, stop: &CancellationToken) -> Result<(), JoinError> {
    let mut client = match connect(bot).await {
        Ok(client) => client,
        Err(error) => {
            warn!(error = %CommandError::from(error), "could not connect to Discord; retrying");
            return Ok(());
        }
    };
    let shards = client.shard_manager.clone();
    let mut store_task = tokio::spawn({
        let (bot, lease) = (bot.clone(), lease.clone());
        async move { store_updates(&bot.core, &bot.updates, &lease).await }
    });
    let mut stored = Ok(());
    tokio::select! {
        ended = client.start() => if let Err(error) = ended { report_disconnect(bot, &error) },
        () = renew_lease(bot, lease) => warn!("lost the gateway lease; disconnecting from Discord"),
        () = stop.cancelled() => {}
        ended = &mut store_task => stored = ended,
    }
    shards.shutdown_all().await;
    if stored.is_ok() {
        _ = tokio::time::timeout(FLUSH_TIMEOUT, bot.updates.drained()).await;
    }
    store_task.abort();
    stored
}

async fn connect(bot: &Arc<Bot>) -> serenity::Result<Client> {
    let data = bot.clone();
    let framework = poise::Framework::builder()
        .options(framework::options())
        .setup(move |ctx, _, framework| {
            Box::pin(async move {
                let commands = poise::builtins::create_application_commands(&framework.options().commands);
                register(ctx.http.clone(), commands).await;
                Ok(data)
            })
        })
        .build();
    let intents = GatewayIntents::GUILDS | GatewayIntents::GUILD_MEMBERS;
    ClientBuilder::new_with_http(bot.discord.client(), intents).framework(framework).await
}

/// Registers the slash commands. Retries in the background, since nothing waits for it; an error returned
/// from the framework's setup would leave it without event handling for good.
async fn register(http: Arc<Http>, commands: Vec<CreateCommand>) {
    let Err(error) = Command::set_global_commands(&http, commands.clone()).await else { return };
    warn!(error = %DiscordError::from(error), "could not register the slash commands; retrying");
    tokio::spawn(async move {
        for pause in (0..10).map(|n| Duration::from_secs(1 << n)) {
            tokio::time::sleep(pause).await;
            if Command::set_global_commands(&http, commands.clone()).await.is_ok() {
                return info!("slash commands registered");
            }
        }
        error!("could not register the slash commands; check status.discord.com, then restart");
    });
}

/// Renews the lease. Returns when this instance can no longer be sure that it holds it.
async fn renew_lease(bot: &Bot, lease: &Lease) {
    let mut trusted_until = Instant::now() + bot.lease_duration;
    loop {
        tokio::time::sleep(bot.lease_duration / 4).await;
        let started = Instant::now();
        match tokio::time::timeout(bot.lease_duration / 4, workers::renew(&bot.core, lease, bot.lease_duration)).await {
            Ok(Ok(true)) => trusted_until = started + bot.lease_duration,
            Ok(Ok(false)) => return,
            Ok(Err(_)) | Err(_) if Instant::now() + bot.lease_duration / 4 >= trusted_until => return,
            Ok(Err(_)) | Err(_) => {}
        }
    }
}

/// Logs why the connection ended, and what to do if only an operator can fix it.
fn report_disconnect(bot: &Bot, error: &serenity::Error) {
    let message = match error {
        serenity::Error::Gateway(GatewayError::InvalidAuthentication | GatewayError::NoAuthentication) => {
            "Discord rejected the bot token (4004). Get a new one in Developer Portal → Bot → Reset Token, set DCA_DISCORD_TOKEN, then restart."
        }
        serenity::Error::Gateway(GatewayError::DisallowedGatewayIntents | GatewayError::InvalidGatewayIntents) => {
            "Discord rejected the Server Members intent (4013/4014). Turn on Server Members Intent in Developer Portal → \
             Bot → Privileged Gateway Intents, then restart."
        }
        _ => return warn!("the connection to Discord ended; reconnecting"),
    };
    error!("{message} The license API keeps running.");
    bot.status.send_replace(GatewayStatus::Refused(message.to_owned()));
}
