//! The ordered door: what Discord tells while we listen.
//!
//! ```text
//! lease -> client -> READY -> collector callback (inline, in order) -> UpdateBuffer -> observe
//!                          \-> full pass (worker `reconcile_roles`): what was missed before
//! ```
//! A callback only notes the newest roles of a (guild, member) with a `Stamp`; it never waits. A update
//! goes away when its observation has committed, so that a database that is down for a while loses
//! nothing, and a burst of updates costs one decision. Exactly one instance listens: the holder of the
//! `gateway` lease, whose token fences what a former holder may still write.

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
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{Bot, CommandError, GatewayStatus, rest::DiscordError, setup};

/// What callbacks have noted of one member since it was last stored.
#[derive(Clone)]
struct PendingUpdate {
    /// The newest. `None`: they left.
    roles: Option<Vec<Snowflake>>,
    stamp: Stamp,
    /// Every role they had intermediate_roles, and when at the latest: a gain counts even if it was taken back
    /// before it could be stored.
    intermediate_roles: Option<(Vec<Snowflake>, Stamp)>,
}

impl PendingUpdate {
    /// This guild_changes, after what was noted before.
    fn after(self, before: Option<Self>) -> Self {
        let Some(before) = before else { return self };
        let (mut had, _) = before.intermediate_roles.unwrap_or_else(|| (Vec::new(), before.stamp));
        had.extend(before.roles.into_iter().flatten().filter(|role| !had.contains(role)).collect::<Vec<_>>());
        Self { intermediate_roles: (!had.is_empty()).then_some((had, before.stamp)), ..self }
    }
}

/// GuildChange about a guild as a whole; handled before any update.
#[derive(Clone)]
enum GuildChange {
    /// Every guild the bot is in; it left the others while nobody listened.
    Present(Vec<Snowflake>),
    Joined(Snowflake, String),
    Left(Snowflake),
    RoleDeleted(Snowflake, Snowflake),
    /// Something was missed, or could not be read: only a full pass tells.
    Gap,
}

/// What was buffered and is not stored yet.
#[derive(Default)]
pub(crate) struct UpdateBuffer {
    buffered: Mutex<Buffered>,
    wake: Notify,
    stored: Notify,
    /// Keeps the callback registered; a new READY replaces it.
    callback: Mutex<Option<Pin<Box<dyn Stream<Item = ()> + Send>>>>,
}

#[derive(Default)]
struct Buffered {
    guild_changes: VecDeque<GuildChange>,
    members: HashMap<(Snowflake, Snowflake), PendingUpdate>,
    /// Members buffered of since the last full pass began: what they were in its list is older.
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

    /// Returns when nothing waits to be stored.
    pub(crate) async fn drained(&self) {
        loop {
            let stored = self.stored.notified();
            if self.lock().is_empty() {
                return;
            }
            stored.await;
        }
    }

    /// A full pass begins: who was buffered of before is in its list as they are.
    pub(crate) fn begin_reconcile(&self) {
        self.lock().recent.clear();
    }

    /// Whether a member was buffered of since the full pass began.
    pub(crate) fn updated_since_reconcile(&self, guild: Snowflake, member: Snowflake) -> bool {
        self.lock().recent.contains(&(guild, member))
    }

    fn push_guild_change(&self, change: GuildChange) {
        self.lock().guild_changes.push_back(change);
        self.wake.notify_one();
    }

    fn push_member(&self, guild: GuildId, user: u64, roles: Option<Vec<Snowflake>>, stamp: Stamp) {
        let who = (guild.get().into(), user.into());
        let mut buffered = self.lock();
        buffered.recent.insert(who);
        let before = buffered.members.remove(&who);
        buffered.members.insert(who, PendingUpdate { roles, stamp, intermediate_roles: None }.after(before));
        drop(buffered);
        self.wake.notify_one();
    }
}

/// Events whose loss would lose a role change.
const CONSUMED: [&str; 6] = [
    "GUILD_MEMBER_ADD",
    "GUILD_MEMBER_UPDATE",
    "GUILD_MEMBER_REMOVE",
    "GUILD_ROLE_DELETE",
    "GUILD_CREATE",
    "GUILD_DELETE",
];

/// The callback: notes, never waits.
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
            warn!(kind = e.kind, "an event could not be read; its guild is looked at anew");
            updates.push_guild_change(GuildChange::Gap);
        }
        _ => {}
    }
}

/// The events that need no order: READY, and interactions poise leaves to us.
pub(crate) async fn handle(
    framework: poise::FrameworkContext<'_, Arc<Bot>, CommandError>,
    event: &FullEvent,
) -> Result<(), CommandError> {
    let (ctx, bot) = (framework.serenity_context, framework.user_data().await);
    match event {
        FullEvent::Ready { data_about_bot } => {
            let listener = bot.clone();
            let callback = collector::collect(&ctx.shard, move |event| {
                push_event(&listener, event);
                None::<()>
            });
            *bot.updates.callback.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::pin(callback));
            let present: Vec<Snowflake> = data_about_bot.guilds.iter().map(|guild| guild.id.get().into()).collect();
            let guilds = present.len();
            bot.updates.push_guild_change(GuildChange::Present(present));
            // Whatever happened before the callback was there is found by a full pass.
            bot.updates.push_guild_change(GuildChange::Gap);
            bot.status.send_replace(GatewayStatus::Connected);
            info!(guilds, "Discord is connected");
        }
        FullEvent::InteractionCreate { interaction: Interaction::Component(choice) } => {
            setup::component(ctx, bot, choice).await?;
        }
        // GUILD_CREATE of the first connection may come before the callback is there.
        FullEvent::GuildCreate { guild, .. } => {
            bot.updates.push_guild_change(GuildChange::Joined(guild.id.get().into(), guild.name.clone()))
        }
        _ => {}
    }
    Ok(())
}

/// How long the last of what was buffered may take to be stored when listening ends.
const FLUSH: Duration = Duration::from_secs(3);

/// Stores what is buffered. Different members in parallel, one member in order.
async fn store_updates(bot: &Bot, lease: &Lease) {
    loop {
        let (guild_changes, updates) = {
            let buffered = bot.updates.lock();
            let updates: Vec<_> =
                buffered.members.iter().take(256).map(|(who, update)| (*who, update.clone())).collect();
            (buffered.guild_changes.front().cloned(), updates)
        };
        let stored = match guild_changes {
            Some(guild_changes) => store_guild_change(bot, lease, guild_changes).await,
            None if updates.is_empty() => {
                bot.updates.wake.notified().await;
                Ok(())
            }
            None => {
                futures::stream::iter(updates)
                    .map(|(who, update)| store_update(bot, lease, who, update))
                    .buffer_unordered(8)
                    .fold(Ok(()), |all, one| async { all.and(one) })
                    .await
            }
        };
        bot.updates.stored.notify_waiters();
        if let Err(error) = stored {
            warn!(%error, "what Discord told is not stored yet; trying again");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

async fn store_guild_change(bot: &Bot, lease: &Lease, guild_changes: GuildChange) -> dca_core::Result<()> {
    if !workers::is_held(&bot.core, lease).await? {
        // A former holder's guild_changes: the present one hears it too.
        bot.updates.lock().guild_changes.pop_front();
        return Ok(());
    }
    match guild_changes {
        GuildChange::Present(present) => {
            for guild in guilds::list_joined(&bot.core).await?.iter().filter(|guild| !present.contains(&guild.id)) {
                guilds::left(&bot.core, guild.id).await?;
            }
        }
        GuildChange::Joined(guild, name) => guilds::joined(&bot.core, guild, &name).await.map(drop)?,
        GuildChange::Left(guild) => guilds::left(&bot.core, guild).await?,
        GuildChange::RoleDeleted(guild, role) => mappings::role_deleted(&bot.core, guild, role).await?,
        GuildChange::Gap => workers::wake_in(&bot.core, workers::RECONCILE_ROLES, Duration::ZERO).await?,
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
        let seen = entitlements::observation(&bot.core, guild, member, roles, stamp, Some(lease.clone())).await?;
        if let Some(seen) = seen {
            entitlements::observe(&bot.core, &seen).await?;
        }
    }
    let mut buffered = bot.updates.lock();
    if buffered.members.get(&(guild, member)).is_some_and(|newest| newest.stamp == update.stamp) {
        buffered.members.remove(&(guild, member));
    }
    Ok(())
}

/// Listens whenever this instance holds the gateway, until `stop`. Returns when the lease is given
/// back; a refusal by Discord that only an operator can mend leaves the rest of the process running.
pub async fn run(bot: Arc<Bot>, stop: CancellationToken) {
    loop {
        match acquire(&bot).await {
            Ok(Some(lease)) => {
                *bot.lease.lock().unwrap_or_else(PoisonError::into_inner) = Some(lease.clone());
                bot.status.send_replace(GatewayStatus::Connecting);
                listen(&bot, &lease, &stop).await;
                *bot.lease.lock().unwrap_or_else(PoisonError::into_inner) = None;
                if let Err(error) = workers::release(&bot.core, &lease, "released").await {
                    warn!(%error, "the gateway lease was not given back; it ends by itself");
                }
                if !matches!(*bot.status.borrow(), GatewayStatus::Refused(_)) {
                    bot.status.send_replace(GatewayStatus::Standby);
                }
            }
            Ok(None) => {}
            Err(error) => warn!(%error, "the gateway lease cannot be asked for"),
        }
        let refused = matches!(*bot.status.borrow(), GatewayStatus::Refused(_));
        let pause =
            if refused { Duration::from_hours(1) } else { (bot.lease_duration / 8).min(Duration::from_secs(1)) };
        tokio::select! { () = stop.cancelled() => return, () = tokio::time::sleep(pause) => {} }
    }
}

async fn acquire(bot: &Bot) -> dca_core::Result<Option<Lease>> {
    workers::register(&bot.core, workers::GATEWAY).await?;
    let now = bot.core.clock.now();
    let lease = workers::acquire(&bot.core, workers::GATEWAY, bot.lease_duration, now).await?;
    if lease.is_some() {
        bot.core.stamps.catch_up(&bot.core).await?;
        // A pass that a former holder left behind, or is still at, is not waited for.
        workers::take_over(&bot.core, workers::RECONCILE_ROLES).await?;
    }
    Ok(lease)
}

/// One stretch of listening: until the client ends, the lease is lost, or `stop`.
async fn listen(bot: &Arc<Bot>, lease: &Lease, stop: &CancellationToken) {
    let mut client = match connect(bot).await {
        Ok(client) => client,
        Err(error) => return warn!(error = %CommandError::from(error), "Discord cannot be reached"),
    };
    let shards = client.shard_manager.clone();
    let storing = tokio::spawn({
        let (bot, lease) = (bot.clone(), lease.clone());
        async move { store_updates(&bot, &lease).await }
    });
    tokio::select! {
        ended = client.start() => if let Err(error) = ended { report_disconnect(bot, &error) },
        () = renew_lease(bot, lease) => warn!("another instance may hold the gateway now; this one stops listening"),
        () = stop.cancelled() => {}
    }
    shards.shutdown_all().await;
    _ = tokio::time::timeout(FLUSH, bot.updates.drained()).await;
    storing.abort();
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

/// Tells Discord which commands there are; keeps trying in the background, since nothing else waits for
/// it. (A set-up that fails would leave the framework deaf for good.)
async fn register(http: Arc<Http>, commands: Vec<CreateCommand>) {
    let Err(error) = Command::set_global_commands(&http, commands.clone()).await else { return };
    warn!(error = %DiscordError::from(error), "the commands could not be registered; trying again");
    tokio::spawn(async move {
        for pause in (0..10).map(|n| Duration::from_secs(1 << n)) {
            tokio::time::sleep(pause).await;
            if Command::set_global_commands(&http, commands.clone()).await.is_ok() {
                return info!("the commands are registered");
            }
        }
        error!("the commands could not be registered; restart when Discord is well again");
    });
}

/// Renews the lease, and returns when this instance must no longer believe that it holds it.
async fn renew_lease(bot: &Bot, lease: &Lease) {
    let mut trusted_until = Instant::now() + bot.lease_duration;
    loop {
        tokio::time::sleep(bot.lease_duration / 4).await;
        let asked = Instant::now();
        match tokio::time::timeout(bot.lease_duration / 4, workers::renew(&bot.core, lease, bot.lease_duration)).await {
            Ok(Ok(true)) => trusted_until = asked + bot.lease_duration,
            Ok(Ok(false)) => return,
            Ok(Err(_)) | Err(_) if Instant::now() + bot.lease_duration / 4 >= trusted_until => return,
            Ok(Err(_)) | Err(_) => {}
        }
    }
}

/// Says what an operator must do, where only an operator can.
fn report_disconnect(bot: &Bot, error: &serenity::Error) {
    let says = match error {
        serenity::Error::Gateway(GatewayError::InvalidAuthentication | GatewayError::NoAuthentication) => {
            "Discord does not accept the bot token (4004). Developer Portal → Bot → Reset Token, set DCA_DISCORD_TOKEN, restart."
        }
        serenity::Error::Gateway(GatewayError::DisallowedGatewayIntents | GatewayError::InvalidGatewayIntents) => {
            "Discord refuses the Server Members intent (4013/4014). Developer Portal → Bot → Privileged Gateway Intents: \
             switch on Server Members Intent, then restart."
        }
        _ => return warn!("the connection to Discord ended; connecting anew"),
    };
    error!("{says} The license API keeps serving.");
    bot.status.send_replace(GatewayStatus::Refused(says.to_owned()));
}
