//! The gateway connection: what Discord reports while this instance is connected, in order.
//!
//! ```text
//! lease -> client -> READY -> collector callback (inline, in order) -> UpdateBuffer -> observe
//!                          \-> reconciliation (worker `reconcile_roles`): what was missed before
//! ```
//! The callback only buffers the newest roles of a (guild, member) with a `Stamp`; it never waits. An
//! update leaves the buffer when its observation has committed, so that a database outage loses nothing
//! and a burst of updates costs one decision. Exactly one instance is connected: the holder of the
//! `gateway` lease, whose token fences writes of a former holder.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use dca_core::{
    Snowflake,
    entitlements::{self, Stamp},
    guilds, mappings,
    workers::{self, Lease},
};
use futures::{Stream, StreamExt};
use serenity::{
    all::{Client, ClientBuilder, Command, CreateCommand, Event, FullEvent, GatewayIntents, GuildId, Interaction},
    collector,
    gateway::GatewayError,
    http::Http,
};
use tokio::{sync::Notify, task::JoinError, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{Bot, CommandError, GatewayStatus, rest::DiscordError, setup};

/// The changes of one member that are not stored yet.
#[derive(Clone)]
struct PendingUpdate {
    /// The newest roles. `None`: the member left.
    roles: Option<Vec<Snowflake>>,
    stamp: Stamp,
    /// Every role the member had in between, with the newest stamp of those updates: a gained role counts
    /// even if it was removed before it could be stored.
    intermediate_roles: Option<(Vec<Snowflake>, Stamp)>,
}

impl PendingUpdate {
    /// This update, combined with the one before it.
    fn after(self, before: Option<Self>) -> Self {
        let Some(before) = before else { return self };
        let (mut roles, _) = before.intermediate_roles.unwrap_or_else(|| (Vec::new(), before.stamp));
        roles.extend(before.roles.into_iter().flatten().filter(|role| !roles.contains(role)).collect::<Vec<_>>());
        Self { intermediate_roles: (!roles.is_empty()).then_some((roles, before.stamp)), ..self }
    }
}

/// A change to a guild as a whole; handled before any member update.
#[derive(Clone)]
enum GuildChange {
    /// Every guild the bot is in; it was removed from all others while disconnected.
    Present(Vec<Snowflake>),
    Joined(Snowflake, String),
    Left(Snowflake),
    RoleDeleted(Snowflake, Snowflake),
    /// Events were missed or could not be parsed; only a reconciliation recovers them.
    Gap,
}

/// Updates that are not stored yet.
#[derive(Default)]
pub(crate) struct UpdateBuffer {
    buffered: Mutex<Buffered>,
    wake: Notify,
    stored: Notify,
    /// Keeps the callback registered; each READY replaces it.
    callback: Mutex<Option<Pin<Box<dyn Stream<Item = ()> + Send>>>>,
}

#[derive(Default)]
struct Buffered {
    guild_changes: VecDeque<GuildChange>,
    members: HashMap<(Snowflake, Snowflake), PendingUpdate>,
    /// Members updated since the last reconciliation began; its member list is older.
    recent: HashSet<(Snowflake, Snowflake)>,
}

impl Buffered {
    fn is_empty(&self) -> bool {
        self.guild_changes.is_empty() && self.members.is_empty()
    }
}

impl UpdateBuffer {
    fn lock(&self) -> MutexGuard<'_, Buffered> {
        self.buffered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when nothing is buffered.
    pub(crate) async fn drained(&self) {
        loop {
            let stored = self.stored.notified();
            if self.lock().is_empty() {
                return;
            }
            stored.await;
        }
    }

    /// Begins a reconciliation: its member list is newer than all earlier updates.
    pub(crate) fn begin_reconcile(&self) {
        self.lock().recent.clear();
    }

    /// Whether a member was updated since the reconciliation began.
    pub(crate) fn updated_since_reconcile(&self, guild: Snowflake, member: Snowflake) -> bool {
        self.lock().recent.contains(&(guild, member))
    }

    fn push_guild_change(&self, change: GuildChange) {
        self.lock().guild_changes.push_back(change);
        self.wake.notify_one();
    }

    fn push_member(&self, guild: GuildId, user: u64, roles: Option<Vec<Snowflake>>, stamp: Stamp) {
        let key = (guild.get().into(), user.into());
        let mut buffered = self.lock();
        buffered.recent.insert(key);
        let before = buffered.members.remove(&key);
        buffered.members.insert(key, PendingUpdate { roles, stamp, intermediate_roles: None }.after(before));
        drop(buffered);
        self.wake.notify_one();
    }
}

/// Events that must not be lost: one that cannot be parsed starts a reconciliation.
const CONSUMED: [&str; 6] = [
    "GUILD_MEMBER_ADD",
    "GUILD_MEMBER_UPDATE",
    "GUILD_MEMBER_REMOVE",
    "GUILD_ROLE_DELETE",
    "GUILD_CREATE",
    "GUILD_DELETE",
];

/// The callback: buffers an event without waiting.
fn push_event(bot: &Bot, event: &Event) {
    let updates = &bot.updates;
    let roles = |roles: &[serenity::model::id::RoleId]| Some(roles.iter().map(|role| role.get().into()).collect());
    let stamp = || bot.core.stamps.next(&bot.core.clock);
    match event {
        Event::GuildMemberUpdate(e) => updates.push_member(e.guild_id, e.user.id.get(), roles(&e.roles), stamp()),
        Event::GuildMemberAdd(e) => {
            updates.push_member(e.member.guild_id, e.member.user.id.get(), roles(&e.member.roles), stamp());
        }
        Event::GuildMemberRemove(e) => updates.push_member(e.guild_id, e.user.id.get(), None, stamp()),
        Event::GuildRoleDelete(e) => {
            updates.push_guild_change(GuildChange::RoleDeleted(e.guild_id.get().into(), e.role_id.get().into()))
        }
        Event::GuildCreate(e) => {
            updates.push_guild_change(GuildChange::Joined(e.guild.id.get().into(), e.guild.name.clone()))
        }
        Event::GuildDelete(e) if !e.guild.unavailable => {
            updates.push_guild_change(GuildChange::Left(e.guild.id.get().into()))
        }
        Event::Unknown(e) if CONSUMED.contains(&e.kind.as_str()) => {
            warn!(kind = e.kind, "could not parse a gateway event; starting a reconciliation");
            updates.push_guild_change(GuildChange::Gap);
        }
        _ => {}
    }
}

/// Handles events that need no order: READY, and interactions that poise does not handle.
pub(crate) async fn handle(
    framework: poise::FrameworkContext<'_, Arc<Bot>, CommandError>,
    event: &FullEvent,
) -> Result<(), CommandError> {
    let (ctx, bot) = (framework.serenity_context, framework.user_data().await);
    match event {
        FullEvent::Ready { data_about_bot } => {
            let callback_bot = bot.clone();
            let callback = collector::collect(&ctx.shard, move |event| {
                push_event(&callback_bot, event);
                None::<()>
            });
            *bot.updates.callback.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::pin(callback));
            let present: Vec<Snowflake> = data_about_bot.guilds.iter().map(|guild| guild.id.get().into()).collect();
            let guilds = present.len();
            bot.updates.push_guild_change(GuildChange::Present(present));
            // A reconciliation finds what happened before the callback was registered.
            bot.updates.push_guild_change(GuildChange::Gap);
            bot.status.send_replace(GatewayStatus::Connected);
            info!(guilds, "Discord is connected");
        }
        FullEvent::InteractionCreate { interaction: Interaction::Component(choice) } => {
            setup::component(ctx, bot, choice).await?;
        }
        // GUILD_CREATE of the first connection may arrive before the callback is registered.
        FullEvent::GuildCreate { guild, .. } => {
            bot.updates.push_guild_change(GuildChange::Joined(guild.id.get().into(), guild.name.clone()))
        }
        _ => {}
    }
    Ok(())
}

/// How long storing the remaining updates may take after the connection ends.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(3);

/// Stores buffered updates: different members in parallel, the updates of one member in order.
async fn store_updates(bot: &Bot, lease: &Lease) {
    loop {
        let (guild_change, updates) = {
            let buffered = bot.updates.lock();
            let updates: Vec<_> =
                buffered.members.iter().take(256).map(|(key, update)| (*key, update.clone())).collect();
            (buffered.guild_changes.front().cloned(), updates)
        };
        let stored = match guild_change {
            Some(change) => store_guild_change(bot, lease, change).await,
            None if updates.is_empty() => {
                bot.updates.wake.notified().await;
                Ok(())
            }
            None => {
                futures::stream::iter(updates)
                    .map(|(key, update)| store_update(bot, lease, key, update))
                    .buffer_unordered(8)
                    .fold(Ok(()), |all, one| async { all.and(one) })
                    .await
            }
        };
        bot.updates.stored.notify_waiters();
        if let Err(error) = stored {
            warn!(%error, "could not store updates from Discord; retrying");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

async fn store_guild_change(bot: &Bot, lease: &Lease, change: GuildChange) -> dca_core::Result<()> {
    if !workers::is_current(&bot.core, lease).await? {
        // This instance no longer holds the lease; the current holder receives the change too.
        bot.updates.lock().guild_changes.pop_front();
        return Ok(());
    }
    match change {
        GuildChange::Present(present) => {
            for guild in guilds::list_joined(&bot.core).await?.iter().filter(|guild| !present.contains(&guild.id)) {
                guilds::record_leave(&bot.core, guild.id).await?;
            }
        }
        GuildChange::Joined(guild, name) => guilds::record_join(&bot.core, guild, &name).await.map(drop)?,
        GuildChange::Left(guild) => guilds::record_leave(&bot.core, guild).await?,
        GuildChange::RoleDeleted(guild, role) => mappings::set_role_deleted(&bot.core, guild, role).await?,
        GuildChange::Gap => workers::schedule_in(&bot.core, workers::RECONCILE_ROLES, Duration::ZERO).await?,
    }
    bot.updates.lock().guild_changes.pop_front();
    Ok(())
}

async fn store_update(
    bot: &Bot,
    lease: &Lease,
    (guild, member): (Snowflake, Snowflake),
    update: PendingUpdate,
) -> dca_core::Result<()> {
    let intermediate_roles = update.intermediate_roles.as_ref().map(|(roles, stamp)| (Some(roles.as_slice()), *stamp));
    for (roles, stamp) in intermediate_roles.into_iter().chain([(update.roles.as_deref(), update.stamp)]) {
        let observation =
            entitlements::observation(&bot.core, guild, member, roles, stamp, Some(lease.clone())).await?;
        if let Some(observation) = observation {
            entitlements::observe(&bot.core, &observation).await?;
        }
    }
    let mut buffered = bot.updates.lock();
    if buffered.members.get(&(guild, member)).is_some_and(|newest| newest.stamp == update.stamp) {
        buffered.members.remove(&(guild, member));
    }
    Ok(())
}

/// Connects to the gateway whenever this instance holds the lease, until `stop`. Returns after releasing
/// the lease. If Discord refuses the connection and only an operator can fix it, the rest of the process
/// keeps running.
///
/// # Errors
/// If the task that stores updates panicked.
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
        let refused = matches!(*bot.status.borrow(), GatewayStatus::Refused(_));
        let pause =
            if refused { Duration::from_hours(1) } else { (bot.lease_duration / 8).min(Duration::from_secs(1)) };
        tokio::select! { () = stop.cancelled() => return Ok(()), () = tokio::time::sleep(pause) => {} }
    }
}

async fn acquire(bot: &Bot) -> dca_core::Result<Option<Lease>> {
    workers::register(&bot.core, workers::GATEWAY).await?;
    let now = bot.core.clock.now();
    let lease = workers::acquire(&bot.core, workers::GATEWAY, bot.lease_duration, now).await?;
    if lease.is_some() {
        bot.core.stamps.catch_up(&bot.core).await?;
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
        async move { store_updates(&bot, &lease).await }
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
        .options(crate::framework_options())
        .setup(move |ctx, _, framework| {
            Box::pin(async move {
                register(ctx.http.clone(), poise::builtins::create_application_commands(&framework.options().commands))
                    .await;
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
