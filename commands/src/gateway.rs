//! The gateway connection. Exactly one instance is connected: the holder of the `gateway` lease, whose token fences
//! writes of a former holder.
//!
//! ```text
//! lease -> connection -> events, in order -> UpdateBuffer -> observe
//!                    \-> READY -> reconciliation (worker `reconcile_roles`): what was missed before
//! ```

use std::io;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use dca_core::workers::{self, Lease};
use dca_core::{entitlements, identifies, ids::InstanceId};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::bot::{Bot, GatewayStatus};
use crate::connection::{Connection, Disconnect, Session};
use crate::{framework::Framework, updates::store_updates, updates::watch_mappings};

/// After a connection that lasted this long, the next failure counts as the first.
const STABLE: Duration = Duration::from_mins(1);

/// Discord accepts one IDENTIFY in this time.
const IDENTIFY_INTERVAL: Duration = Duration::from_secs(5);

/// How long storing the remaining updates may take after the connection ends.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// Connects to the gateway whenever `instance` holds the lease, until `stop`. Returns after releasing the lease. If
/// Discord refuses the connection and only an operator can fix it, the rest of the process keeps running. Fails if the
/// commands cannot be set up, or the task that stores updates panicked.
pub async fn run(bot: Arc<Bot>, instance: InstanceId, stop: CancellationToken) -> io::Result<()> {
    let framework = Framework::new(bot.clone()).await.map_err(io::Error::other)?;
    let (mut short_leases, mut next_identify) = (0, Instant::now());
    loop {
        let mut pause = (bot.lease_duration / 8).min(Duration::from_secs(1));
        match acquire(&bot, instance).await {
            Ok(Some(lease)) => {
                *bot.lease.lock().unwrap_or_else(PoisonError::into_inner) = Some(lease.clone());
                bot.set_status(GatewayStatus::Connecting);
                let started = Instant::now();
                let listened = listen(&bot, &framework, &lease, &mut next_identify, &stop).await;
                short_leases = if started.elapsed() < STABLE { short_leases + 1 } else { 0 };
                *bot.lease.lock().unwrap_or_else(PoisonError::into_inner) = None;
                if let Err(error) = workers::release(&bot.core, &lease, "released").await {
                    warn!(%error, "could not release the gateway lease; it expires on its own");
                }
                pause = pause_after(&bot, short_leases);
                if bot.is_refused() {
                    pause = Duration::from_hours(1);
                } else {
                    bot.set_status(GatewayStatus::Standby);
                }
                listened?;
            }
            Ok(None) => {}
            Err(error) => warn!(%error, "could not acquire the gateway lease; retrying"),
        }
        tokio::select! { () = stop.cancelled() => return Ok(()), () = tokio::time::sleep(pause) => {} }
    }
}

async fn acquire(bot: &Bot, instance: InstanceId) -> dca_core::Result<Option<Lease>> {
    workers::register(&bot.core, workers::GATEWAY).await?;
    let now = bot.core.clock.now();
    let lease = workers::acquire(&bot.core, instance, workers::GATEWAY, bot.lease_duration, now).await?;
    if lease.is_some() {
        entitlements::catch_up_stamps(&bot.core).await?;
        // Do not wait for a reconciliation that a former holder abandoned or is still running.
        workers::revoke_lease(&bot.core, workers::RECONCILE_ROLES).await?;
    }
    Ok(lease)
}

/// Stays connected until the lease is lost, `stop`, a refusal by Discord, or a panic of the task that stores updates.
async fn listen(
    bot: &Arc<Bot>,
    framework: &Arc<Framework>,
    lease: &Lease,
    next_identify: &mut Instant,
    stop: &CancellationToken,
) -> io::Result<()> {
    let mut store_task = tokio::spawn({
        let (bot, lease) = (bot.clone(), lease.clone());
        async move { store_updates(&bot.core, &bot.updates, &lease).await }
    });
    let disconnect = stop.child_token();
    let connection = async {
        if let Some(refusal) = stay_connected(bot, framework, next_identify, &disconnect).await {
            bot.set_status(GatewayStatus::Refused(refusal.to_owned()));
        }
        disconnect.cancel();
    };
    let mut stored = Ok(());
    let supervision = async {
        tokio::select! {
            () = workers::keep(&bot.core, lease, bot.lease_duration) => warn!("lost the gateway lease; disconnecting from Discord"),
            () = watch_mappings(&bot.core, &bot.updates, bot.lease_duration / 4) => {}
            () = disconnect.cancelled() => {}
            ended = &mut store_task => stored = ended.map_err(io::Error::other),
        }
        disconnect.cancel();
    };
    tokio::join!(connection, supervision);
    if stored.is_ok() {
        _ = tokio::time::timeout(FLUSH_TIMEOUT, bot.updates.drained()).await;
    }
    store_task.abort();
    stored
}

/// Connects again whenever the connection ends, after a pause that doubles with each failure, until `stop`. Returns what
/// an operator must do if Discord refuses the connection.
async fn stay_connected(
    bot: &Bot,
    framework: &Arc<Framework>,
    next_identify: &mut Instant,
    stop: &CancellationToken,
) -> Option<&'static str> {
    let (mut session, mut failures) = (None, 0);
    loop {
        let is_new = session.is_none();
        if is_new {
            stop.run_until_cancelled(tokio::time::sleep_until(*next_identify)).await?;
        }
        let started = Instant::now();
        let connected = stop.run_until_cancelled(connect(bot, &mut session)).await?;
        if is_new && connected.is_ok() {
            *next_identify = Instant::now() + IDENTIFY_INTERVAL;
        }
        let ended = match connected {
            Ok(connection) => connection.run(|event| framework.handle(event), stop).await,
            Err(reason) => Err(reason),
        };
        let reason = ended.err()?;
        if reason.fix().is_some() {
            return reason.fix();
        }
        if reason.ends_session() {
            session = None;
        }
        if started.elapsed() >= STABLE {
            failures = 0;
        }
        // Discord asks for a pause of 1 to 5 seconds before a new session.
        let mut pause = pause_after(bot, if session.is_some() { failures } else { failures.max(3) });
        if let Disconnect::Limited(wait) = reason {
            pause = wait.min(Duration::from_mins(1));
            bot.set_status(GatewayStatus::Limited(format!("{reason}. The log says why earlier sessions ended.")));
        } else {
            bot.set_status(GatewayStatus::Reconnecting(format!("{reason}; reconnecting")));
        }
        stop.run_until_cancelled(tokio::time::sleep(pause)).await?;
        failures += 1;
    }
}

/// Up to half a second, doubled with each failure to at most four minutes; half of it is random.
fn pause_after(bot: &Bot, failures: u32) -> Duration {
    Duration::from_millis(500 << failures.min(9)).mul_f64(0.5 + bot.random() / 2.0)
}

/// Resumes the session, or starts a new one.
async fn connect<'a>(bot: &'a Bot, session: &'a mut Option<Session>) -> Result<Connection<'a>, Disconnect> {
    let url = match session {
        // An address that does not work is not used again.
        Some(known) => known.url.take(),
        None => Some(new_session_url(bot).await?),
    };
    let url = match url {
        Some(url) => url,
        None => bot.discord.gateway().await?.url,
    };
    Connection::open(bot, url, session).await
}

/// The gateway's address, once the daily limit allows another session.
async fn new_session_url(bot: &Bot) -> Result<String, Disconnect> {
    let gateway = bot.discord.gateway().await?;
    let limit = gateway.session_start_limit;
    if limit.remaining == 0 {
        return Err(Disconnect::Limited(Duration::from_millis(limit.reset_after)));
    }
    // A tenth is left for other programs that use the same token.
    match identifies::reserve(&bot.core, limit.total - limit.total / 10).await? {
        Some(wait) => Err(Disconnect::Limited(wait)),
        None => Ok(gateway.url),
    }
}
