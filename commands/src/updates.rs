//! What Discord reports while this instance is connected, in order: buffered without waiting, then stored.
//!
//! The gateway connection only buffers the newest roles of a (guild, member) with a `Stamp`. An update leaves the
//! buffer when its observation has committed, so that a database outage loses nothing and a burst of updates costs
//! one decision. An update that changes no mapped role is not buffered (`known_roles.rs`).

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use dca_core::entitlements::{self, Stamp};
use dca_core::workers::{self, Lease};
use dca_core::{Core, DiscordUserId, GuildId, Result, RoleId, guilds, mappings, mappings::MemberRoles};
use futures::StreamExt;
use serenity::all::Event;
use serenity::model::id;
use tokio::sync::Notify;
use tracing::warn;

use crate::known_roles::{KnownRoles, Pass};

/// The changes of one member that are not stored yet.
#[derive(Clone)]
struct PendingUpdate {
    /// The newest roles. `None`: the member left.
    roles: Option<Vec<RoleId>>,
    stamp: Stamp,
    /// Every role the member had in between, with the newest stamp of those updates: a gained role counts
    /// even if it was removed before it could be stored.
    intermediate_roles: Option<(Vec<RoleId>, Stamp)>,
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
pub(crate) enum GuildChange {
    /// Every guild the bot is in; it was removed from all others while disconnected.
    Ready(Vec<GuildId>),
    Joined(GuildId, String),
    Left(GuildId),
    RoleDeleted(GuildId, RoleId),
    /// Events were missed or could not be parsed; only a reconciliation recovers them.
    Gap,
}

/// Updates that are not stored yet.
#[derive(Default)]
pub(crate) struct UpdateBuffer {
    buffered: Mutex<Buffered>,
    wake: Notify,
    stored: Notify,
}

#[derive(Default)]
struct Buffered {
    guild_changes: VecDeque<GuildChange>,
    members: HashMap<(GuildId, DiscordUserId), PendingUpdate>,
    /// The mapped roles of members.
    known: KnownRoles,
    /// Members updated since the running reconciliation began; its member list is older.
    recent: Option<HashSet<(GuildId, DiscordUserId)>>,
    /// Guilds in an outage: Discord sends no events about them.
    unavailable: HashSet<GuildId>,
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
        self.lock().recent = Some(HashSet::new());
    }

    /// Ends the reconciliation.
    pub(crate) fn end_reconcile(&self) {
        self.lock().recent = None;
    }

    /// Whether a member was updated since the reconciliation began.
    pub(crate) fn updated_since_reconcile(&self, guild: GuildId, member: DiscordUserId) -> bool {
        self.lock().recent.as_ref().is_some_and(|recent| recent.contains(&(guild, member)))
    }

    /// Takes a member of a reconciliation's list.
    pub(crate) fn list(&self, guild: GuildId, pass: Pass, member: DiscordUserId, roles: Option<&[RoleId]>) {
        let mut buffered = self.lock();
        if buffered.recent.as_ref().is_some_and(|recent| recent.contains(&(guild, member))) {
            buffered.known.keep(guild, pass, member);
        } else {
            buffered.known.list(guild, pass, member, roles);
        }
    }

    /// Reads or changes the mapped roles that members are known to have.
    pub(crate) fn known_roles<T>(&self, work: impl FnOnce(&mut KnownRoles) -> T) -> T {
        work(&mut self.lock().known)
    }

    /// Buffers an event without waiting.
    pub(crate) fn push(&self, core: &Core, event: &Event) {
        match event {
            Event::GuildMemberUpdate(e) => self.push_member(core, e.guild_id, e.user.id, Some(&e.roles)),
            Event::GuildMemberAdd(e) => {
                self.push_member(core, e.member.guild_id, e.member.user.id, Some(&e.member.roles));
            }
            Event::GuildMemberRemove(e) => self.push_member(core, e.guild_id, e.user.id, None),
            Event::GuildRoleDelete(e) => {
                self.push_guild_change(GuildChange::RoleDeleted(e.guild_id.get().into(), e.role_id.get().into()));
            }
            Event::GuildCreate(e) => {
                let id = e.guild.id.get().into();
                self.push_guild_change(GuildChange::Joined(id, e.guild.name.clone()));
                if self.lock().unavailable.remove(&id) {
                    self.push_guild_change(GuildChange::Gap);
                }
            }
            Event::GuildDelete(e) if e.guild.unavailable => {
                self.lock().unavailable.insert(e.guild.id.get().into());
            }
            Event::GuildDelete(e) => self.push_guild_change(GuildChange::Left(e.guild.id.get().into())),
            Event::Unknown(e) if HANDLED_EVENTS.contains(&e.kind.as_str()) => {
                warn!(kind = e.kind, "could not parse a gateway event; starting a reconciliation");
                self.push_guild_change(GuildChange::Gap);
            }
            _ => {}
        }
    }

    pub(crate) fn push_guild_change(&self, change: GuildChange) {
        let mut buffered = self.lock();
        match change {
            GuildChange::Gap => buffered.known.forget_all(),
            GuildChange::Left(guild) => buffered.known.forget(guild),
            GuildChange::Ready(_) | GuildChange::Joined(..) | GuildChange::RoleDeleted(..) => {}
        }
        buffered.guild_changes.push_back(change);
        drop(buffered);
        self.wake.notify_one();
    }

    /// Buffers the roles of a member, unless they are known. `None`: the member left.
    fn push_member(&self, core: &Core, guild: id::GuildId, user: id::UserId, roles: Option<&[id::RoleId]>) {
        let key = (guild.get().into(), user.get().into());
        let roles: Option<Vec<RoleId>> = roles.map(|roles| roles.iter().map(|role| role.get().into()).collect());
        let mut buffered = self.lock();
        if let Some(recent) = &mut buffered.recent {
            recent.insert(key);
        }
        if !buffered.known.update(key.0, key.1, roles.as_deref().unwrap_or_default()) {
            return;
        }
        let update = PendingUpdate { roles, stamp: core.stamps.next(&core.clock), intermediate_roles: None };
        let before = buffered.members.remove(&key);
        buffered.members.insert(key, update.after(before));
        drop(buffered);
        self.wake.notify_one();
    }
}

/// Events that must not be lost: one that cannot be parsed starts a reconciliation.
const HANDLED_EVENTS: [&str; 6] = [
    "GUILD_MEMBER_ADD",
    "GUILD_MEMBER_UPDATE",
    "GUILD_MEMBER_REMOVE",
    "GUILD_ROLE_DELETE",
    "GUILD_CREATE",
    "GUILD_DELETE",
];

/// The most updates of a guild that are stored in one transaction.
const BATCH: usize = 16;

/// A member and their update.
type MemberUpdate = ((GuildId, DiscordUserId), PendingUpdate);

/// Stores buffered updates: batches of different members in parallel, the updates of one member in order.
pub(crate) async fn store_updates(core: &Core, buffer: &UpdateBuffer, lease: &Lease) {
    let mut batch = BATCH;
    loop {
        let (guild_change, updates) = {
            let buffered = buffer.lock();
            let updates = buffered.members.iter().take(256).map(|(key, update)| (*key, update.clone()));
            (buffered.guild_changes.front().cloned(), updates.collect::<Vec<_>>())
        };
        let stored = match guild_change {
            Some(change) => store_guild_change(core, buffer, lease, change).await,
            None if updates.is_empty() => {
                buffer.wake.notified().await;
                Ok(())
            }
            None => {
                futures::stream::iter(batches(updates, batch))
                    .map(|updates| store_batch(core, buffer, lease, updates))
                    .buffer_unordered(8)
                    .fold(Ok(()), |all, one| async { all.and(one) })
                    .await
            }
        };
        buffer.stored.notify_waiters();
        // One by one after an error, so that an update that cannot be stored does not hold up others.
        batch = if stored.is_ok() { BATCH } else { 1 };
        if let Err(error) = stored {
            warn!(%error, "could not store updates from Discord; retrying");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

/// The updates by guild, at most `size` each.
fn batches(mut updates: Vec<MemberUpdate>, size: usize) -> Vec<Vec<MemberUpdate>> {
    updates.sort_unstable_by_key(|(key, _)| *key);
    let guilds = updates.chunk_by(|one, other| one.0.0 == other.0.0);
    guilds.flat_map(|guild| guild.chunks(size)).map(<[_]>::to_vec).collect()
}

async fn store_guild_change(core: &Core, buffer: &UpdateBuffer, lease: &Lease, change: GuildChange) -> Result<()> {
    if !workers::is_current(core, lease).await? {
        // This instance no longer holds the lease; the current holder receives the change too.
        buffer.lock().guild_changes.pop_front();
        return Ok(());
    }
    match change {
        GuildChange::Ready(present) => {
            for guild in guilds::list_joined(core).await?.iter().filter(|guild| !present.contains(&guild.id)) {
                guilds::record_leave(core, guild.id).await?;
            }
            guilds::retry_reads(core).await?;
        }
        GuildChange::Joined(guild, name) => {
            let known = guilds::find(core, guild).await?;
            guilds::record_join(core, guild, &name).await?;
            if known.is_some_and(|known| known.left_at.is_some()) {
                workers::schedule_in(core, workers::RECONCILE_ROLES, Duration::ZERO).await?;
            }
        }
        GuildChange::Left(guild) => guilds::record_leave(core, guild).await?,
        GuildChange::RoleDeleted(guild, role) => mappings::set_role_deleted(core, guild, role).await?,
        GuildChange::Gap => workers::schedule_in(core, workers::RECONCILE_ROLES, Duration::ZERO).await?,
    }
    buffer.lock().guild_changes.pop_front();
    Ok(())
}

/// Another process can change the mappings: then the roles that are known are incomplete, and a reconciliation reads what
/// was missed. Checks this again and again.
pub(crate) async fn watch_mappings(core: &Core, buffer: &UpdateBuffer, interval: Duration) {
    loop {
        tokio::time::sleep(interval).await;
        let checked = async {
            let mapped = mappings::mapped_roles(core).await?;
            let changed = buffer.known_roles(|known| known.changed(&mapped));
            if !changed.is_empty() {
                workers::schedule_in(core, workers::RECONCILE_ROLES, Duration::ZERO).await?;
            }
            for guild in changed {
                buffer.known_roles(|known| known.forget(guild));
            }
            Ok::<_, dca_core::Error>(())
        };
        if let Err(error) = checked.await {
            warn!(%error, "could not check the role mappings; trying again");
        }
    }
}

/// Stores updates of members of one guild.
async fn store_batch(core: &Core, buffer: &UpdateBuffer, lease: &Lease, updates: Vec<MemberUpdate>) -> Result<()> {
    let Some(((guild, _), _)) = updates.first() else { return Ok(()) };
    let in_order = updates.iter().flat_map(|((_, member), update)| {
        let before = update.intermediate_roles.as_ref().map(|(roles, stamp)| (Some(roles.as_slice()), *stamp));
        let all = before.into_iter().chain([(update.roles.as_deref(), update.stamp)]);
        all.map(move |(roles, stamp)| MemberRoles { member: *member, roles, stamp })
    });
    let in_order: Vec<_> = in_order.collect();
    let observations = mappings::observations(core, *guild, &in_order, Some(lease)).await?;
    entitlements::observe_all(core, &observations).await?;
    let mut buffered = buffer.lock();
    for (key, update) in &updates {
        if buffered.members.get(key).is_some_and(|newest| newest.stamp == update.stamp) {
            buffered.members.remove(key);
        }
    }
    Ok(())
}
