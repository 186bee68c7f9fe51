//! The ordered door: what Discord tells while we listen.
//!
//! ```text
//! lease -> client -> READY -> collector callback (inline, in order) -> Marks -> observe
//!                          \-> full pass (worker `reconcile_roles`): what was missed before
//! ```
//! A callback only notes the newest roles of a (guild, member) with a `Stamp`; it never waits. A mark
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

use crate::{Bot, Failure, Status, rest, setup};

/// What callbacks have noted of one member since it was last stored.
#[derive(Clone)]
struct Mark {
    /// The newest. `None`: they left.
    roles: Option<Vec<Snowflake>>,
    stamp: Stamp,
    /// Every role they had meanwhile, and when at the latest: a gain counts even if it was taken back
    /// before it could be stored.
    meanwhile: Option<(Vec<Snowflake>, Stamp)>,
}

impl Mark {
    /// This news, after what was noted before.
    fn after(self, before: Option<Self>) -> Self {
        let Some(before) = before else { return self };
        let (mut had, _) = before.meanwhile.unwrap_or_else(|| (Vec::new(), before.stamp));
        had.extend(before.roles.into_iter().flatten().filter(|role| !had.contains(role)).collect::<Vec<_>>());
        Self { meanwhile: (!had.is_empty()).then_some((had, before.stamp)), ..self }
    }
}

/// News about a guild as a whole; handled before any mark.
#[derive(Clone)]
enum News {
    /// Every guild the bot is in; it left the others while nobody listened.
    Present(Vec<Snowflake>),
    Joined(Snowflake, String),
    Left(Snowflake),
    RoleDeleted(Snowflake, Snowflake),
    /// Something was missed, or could not be read: only a full pass tells.
    Gap,
}

/// What was heard and is not stored yet.
#[derive(Default)]
pub(crate) struct Marks {
    heard: Mutex<Heard>,
    wake: Notify,
    stored: Notify,
    /// Keeps the callback registered; a new READY replaces it.
    callback: Mutex<Option<Pin<Box<dyn Stream<Item = ()> + Send>>>>,
}

#[derive(Default)]
struct Heard {
    news: VecDeque<News>,
    members: HashMap<(Snowflake, Snowflake), Mark>,
    /// Members heard of since the last full pass began: what they were in its list is older.
    recent: HashSet<(Snowflake, Snowflake)>,
}

impl Heard {
    fn is_empty(&self) -> bool {
        self.news.is_empty() && self.members.is_empty()
    }
}

impl Marks {
    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when nothing waits to be stored.
    pub(crate) async fn drained(&self) {
        loop {
            let stored = self.stored.notified();
            if self.heard().is_empty() {
                return;
            }
            stored.await;
        }
    }

    /// A full pass begins: who was heard of before is in its list as they are.
    pub(crate) fn begin_pass(&self) {
        self.heard().recent.clear();
    }

    /// Whether a member was heard of since the full pass began.
    pub(crate) fn is_recent(&self, guild: Snowflake, member: Snowflake) -> bool {
        self.heard().recent.contains(&(guild, member))
    }

    fn news(&self, news: News) {
        self.heard().news.push_back(news);
        self.wake.notify_one();
    }

    fn member(&self, guild: GuildId, user: u64, roles: Option<Vec<Snowflake>>, stamp: Stamp) {
        let who = (guild.get().into(), user.into());
        let mut heard = self.heard();
        heard.recent.insert(who);
        let before = heard.members.remove(&who);
        heard.members.insert(who, Mark { roles, stamp, meanwhile: None }.after(before));
        drop(heard);
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
fn note(bot: &Bot, event: &Event) {
    let marks = &bot.marks;
    let roles = |roles: &[serenity::model::id::RoleId]| Some(roles.iter().map(|role| role.get().into()).collect());
    let stamp = || bot.core.stamps.next(&bot.core.clock);
    match event {
        Event::GuildMemberUpdate(e) => marks.member(e.guild_id, e.user.id.get(), roles(&e.roles), stamp()),
        Event::GuildMemberAdd(e) => {
            marks.member(e.member.guild_id, e.member.user.id.get(), roles(&e.member.roles), stamp());
        }
        Event::GuildMemberRemove(e) => marks.member(e.guild_id, e.user.id.get(), None, stamp()),
        Event::GuildRoleDelete(e) => marks.news(News::RoleDeleted(e.guild_id.get().into(), e.role_id.get().into())),
        Event::GuildCreate(e) => marks.news(News::Joined(e.guild.id.get().into(), e.guild.name.clone())),
        Event::GuildDelete(e) if !e.guild.unavailable => marks.news(News::Left(e.guild.id.get().into())),
        Event::Unknown(e) if CONSUMED.contains(&e.kind.as_str()) => {
            warn!(kind = e.kind, "an event could not be read; its guild is looked at anew");
            marks.news(News::Gap);
        }
        _ => {}
    }
}

/// The events that need no order: READY, and interactions poise leaves to us.
pub(crate) async fn handle(
    framework: poise::FrameworkContext<'_, Arc<Bot>, Failure>,
    event: &FullEvent,
) -> Result<(), Failure> {
    let (ctx, bot) = (framework.serenity_context, framework.user_data().await);
    match event {
        FullEvent::Ready { data_about_bot } => {
            let listener = bot.clone();
            let callback = collector::collect(&ctx.shard, move |event| {
                note(&listener, event);
                None::<()>
            });
            *bot.marks.callback.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::pin(callback));
            let present: Vec<Snowflake> = data_about_bot.guilds.iter().map(|guild| guild.id.get().into()).collect();
            let guilds = present.len();
            bot.marks.news(News::Present(present));
            // Whatever happened before the callback was there is found by a full pass.
            bot.marks.news(News::Gap);
            bot.status.send_replace(Status::Connected);
            info!(guilds, "Discord is connected");
        }
        FullEvent::InteractionCreate { interaction: Interaction::Component(choice) } => {
            setup::component(ctx, bot, choice).await?;
        }
        // GUILD_CREATE of the first connection may come before the callback is there.
        FullEvent::GuildCreate { guild, .. } => bot.marks.news(News::Joined(guild.id.get().into(), guild.name.clone())),
        _ => {}
    }
    Ok(())
}

/// How long the last of what was heard may take to be stored when listening ends.
const FLUSH: Duration = Duration::from_secs(3);

/// Stores what is heard. Different members in parallel, one member in order.
async fn store_marks(bot: &Bot, lease: &Lease) {
    loop {
        let (news, marks) = {
            let heard = bot.marks.heard();
            let marks: Vec<_> = heard.members.iter().take(256).map(|(who, mark)| (*who, mark.clone())).collect();
            (heard.news.front().cloned(), marks)
        };
        let stored = match news {
            Some(news) => store_news(bot, lease, news).await,
            None if marks.is_empty() => {
                bot.marks.wake.notified().await;
                Ok(())
            }
            None => {
                futures::stream::iter(marks)
                    .map(|(who, mark)| store_mark(bot, lease, who, mark))
                    .buffer_unordered(8)
                    .fold(Ok(()), |all, one| async { all.and(one) })
                    .await
            }
        };
        bot.marks.stored.notify_waiters();
        if let Err(error) = stored {
            warn!(%error, "what Discord told is not stored yet; trying again");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

async fn store_news(bot: &Bot, lease: &Lease, news: News) -> dca_core::Result<()> {
    if !workers::is_held(&bot.core, lease).await? {
        // A former holder's news: the present one hears it too.
        bot.marks.heard().news.pop_front();
        return Ok(());
    }
    match news {
        News::Present(present) => {
            for guild in guilds::list_joined(&bot.core).await?.iter().filter(|guild| !present.contains(&guild.id)) {
                guilds::left(&bot.core, guild.id).await?;
            }
        }
        News::Joined(guild, name) => guilds::joined(&bot.core, guild, &name).await.map(drop)?,
        News::Left(guild) => guilds::left(&bot.core, guild).await?,
        News::RoleDeleted(guild, role) => mappings::role_deleted(&bot.core, guild, role).await?,
        News::Gap => workers::wake_in(&bot.core, workers::RECONCILE_ROLES, Duration::ZERO).await?,
    }
    bot.marks.heard().news.pop_front();
    Ok(())
}

async fn store_mark(
    bot: &Bot,
    lease: &Lease,
    (guild, member): (Snowflake, Snowflake),
    mark: Mark,
) -> dca_core::Result<()> {
    let meanwhile = mark.meanwhile.as_ref().map(|(roles, stamp)| (Some(roles.as_slice()), *stamp));
    for (roles, stamp) in meanwhile.into_iter().chain([(mark.roles.as_deref(), mark.stamp)]) {
        let seen = entitlements::observation(&bot.core, guild, member, roles, stamp, Some(lease.clone())).await?;
        if let Some(seen) = seen {
            entitlements::observe(&bot.core, &seen).await?;
        }
    }
    let mut heard = bot.marks.heard();
    if heard.members.get(&(guild, member)).is_some_and(|newest| newest.stamp == mark.stamp) {
        heard.members.remove(&(guild, member));
    }
    Ok(())
}

/// Listens whenever this instance holds the gateway, until `stop`. Returns when the lease is given
/// back; a refusal by Discord that only an operator can mend leaves the rest of the process running.
pub async fn run(bot: Arc<Bot>, stop: CancellationToken) {
    loop {
        match acquire(&bot).await {
            Ok(Some(lease)) => {
                *bot.held.lock().unwrap_or_else(PoisonError::into_inner) = Some(lease.clone());
                bot.status.send_replace(Status::Connecting);
                listen(&bot, &lease, &stop).await;
                *bot.held.lock().unwrap_or_else(PoisonError::into_inner) = None;
                if let Err(error) = workers::release(&bot.core, &lease, "released").await {
                    warn!(%error, "the gateway lease was not given back; it ends by itself");
                }
                if !matches!(*bot.status.borrow(), Status::Refused(_)) {
                    bot.status.send_replace(Status::Standby);
                }
            }
            Ok(None) => {}
            Err(error) => warn!(%error, "the gateway lease cannot be asked for"),
        }
        let refused = matches!(*bot.status.borrow(), Status::Refused(_));
        let pause = if refused { Duration::from_hours(1) } else { (bot.lease / 8).min(Duration::from_secs(1)) };
        tokio::select! { () = stop.cancelled() => return, () = tokio::time::sleep(pause) => {} }
    }
}

async fn acquire(bot: &Bot) -> dca_core::Result<Option<Lease>> {
    workers::register(&bot.core, workers::GATEWAY).await?;
    let now = bot.core.clock.now();
    let lease = workers::acquire(&bot.core, workers::GATEWAY, bot.lease, now).await?;
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
        Err(error) => return warn!(error = %Failure::from(error), "Discord cannot be reached"),
    };
    let shards = client.shard_manager.clone();
    let storing = tokio::spawn({
        let (bot, lease) = (bot.clone(), lease.clone());
        async move { store_marks(&bot, &lease).await }
    });
    tokio::select! {
        ended = client.start() => if let Err(error) = ended { refused_or_lost(bot, &error) },
        () = keep(bot, lease) => warn!("another instance may hold the gateway now; this one stops listening"),
        () = stop.cancelled() => {}
    }
    shards.shutdown_all().await;
    _ = tokio::time::timeout(FLUSH, bot.marks.drained()).await;
    storing.abort();
}

async fn connect(bot: &Arc<Bot>) -> serenity::Result<Client> {
    let data = bot.clone();
    let framework = poise::Framework::builder()
        .options(crate::manners())
        .setup(move |ctx, _, framework| {
            Box::pin(async move {
                register(ctx.http.clone(), poise::builtins::create_application_commands(&framework.options().commands))
                    .await;
                Ok(data)
            })
        })
        .build();
    let intents = GatewayIntents::GUILDS | GatewayIntents::GUILD_MEMBERS;
    ClientBuilder::new_with_http(bot.rest.client(), intents).framework(framework).await
}

/// Tells Discord which commands there are; keeps trying in the background, since nothing else waits for
/// it. (A set-up that fails would leave the framework deaf for good.)
async fn register(http: Arc<Http>, commands: Vec<CreateCommand>) {
    let Err(error) = Command::set_global_commands(&http, commands.clone()).await else { return };
    warn!(error = %rest::Failure::from(error), "the commands could not be registered; trying again");
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
async fn keep(bot: &Bot, lease: &Lease) {
    let mut trusted_until = Instant::now() + bot.lease;
    loop {
        tokio::time::sleep(bot.lease / 4).await;
        let asked = Instant::now();
        match tokio::time::timeout(bot.lease / 4, workers::renew(&bot.core, lease, bot.lease)).await {
            Ok(Ok(true)) => trusted_until = asked + bot.lease,
            Ok(Ok(false)) => return,
            Ok(Err(_)) | Err(_) if Instant::now() + bot.lease / 4 >= trusted_until => return,
            Ok(Err(_)) | Err(_) => {}
        }
    }
}

/// Says what an operator must do, where only an operator can.
fn refused_or_lost(bot: &Bot, error: &serenity::Error) {
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
    bot.status.send_replace(Status::Refused(says.to_owned()));
}
