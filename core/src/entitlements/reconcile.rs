//! The full pass over a guild's members: the same observations as the gateway's, for what it missed.
//!
//! Gains are observed as they are read. Losses wait for the complete list, because only then is it
//! known how many there are: a pass that would end too many licenses is held and the admin asked.
//! A holder who is not in the list is a doubt, not a loss: Discord is asked about them once more.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use super::{Level, Observation, SourceKind, Stamp, observe, roles, store};
use crate::{
    Core, Result, Scope, Snowflake,
    events::Actor,
    guilds::{self, Guild},
    ids::MappingId,
    mappings::{self, Announce, Mapping},
    outbox::{self, Delivery, Notify},
    tx::Tx,
    workers::Lease,
};

/// A pass over one guild, fed page by page.
pub struct GuildReconciliation {
    guild: Guild,
    scope: Scope,
    mappings: Vec<Mapping>,
    holders: HashMap<Snowflake, Vec<MappingId>>,
    unseen: HashSet<Snowflake>,
    losses: Vec<Observation>,
    gained: Vec<Snowflake>,
    stamp: Stamp,
    fence: Option<Lease>,
    gap: Duration,
}

/// How a pass ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Members whose gain was observed.
    pub gained: usize,
    /// Members whose loss was observed.
    pub lost: usize,
    /// Holders who were not in the list, to be asked about.
    pub rechecked: usize,
    /// Losses held by the brake.
    pub blocked: usize,
}

impl Summary {
    /// Both together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self {
            gained: self.gained + other.gained,
            lost: self.lost + other.lost,
            rechecked: self.rechecked + other.rechecked,
            blocked: self.blocked + other.blocked,
        }
    }
}

/// The second look at a holder who was missing from a complete list.
const RECHECK_DELAY: Duration = Duration::from_mins(1);

impl GuildReconciliation {
    /// Begins a pass; `None` when the guild maps nothing. `gap` paces the keys born of it.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn begin(core: &Core, guild: Guild, fence: Option<Lease>, gap: Duration) -> Result<Option<Self>> {
        // Before the first page: whatever the gateway says from here on is newer than the list.
        let stamp = core.stamps.next(&core.clock);
        let scope = Scope::of(guild.tenant_id);
        let mappings = mappings::list(core, &scope, guild.id).await?;
        let removed = mappings::list_removed(core, guild.id).await?;
        if mappings.is_empty() && removed.is_empty() {
            return Ok(None);
        }
        let verifiable = mappings.iter().filter(|m| m.role_deleted_at.is_none()).map(|m| m.id).collect::<Vec<_>>();
        let holders = store::holders(core, &verifiable).await?;
        let unseen = holders.keys().copied().collect();
        let reconcile =
            Self { guild, scope, mappings, holders, unseen, losses: Vec::new(), gained: Vec::new(), stamp, fence, gap };
        reconcile.end_removed(core, &removed).await?;
        Ok(Some(reconcile))
    }

    /// The roles there are: a mapped one that no longer exists was deleted while nobody looked. Told
    /// before the first page and after the last, since a role may go in between.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn roles(&mut self, core: &Core, existing: &[Snowflake]) -> Result<()> {
        for mapping in self.mappings.iter().filter(|mapping| !existing.contains(&mapping.role_id)) {
            mappings::role_deleted(core, self.guild.id, mapping.role_id).await?;
        }
        self.mappings.retain(|mapping| existing.contains(&mapping.role_id));
        let standing: HashSet<_> = self.mappings.iter().map(|mapping| mapping.id).collect();
        self.holders.retain(|_, held| held.iter().any(|mapping| standing.contains(mapping)));
        self.unseen.retain(|member| self.holders.contains_key(member));
        for loss in &mut self.losses {
            loss.seen.retain(|source| matches!(source.kind, SourceKind::Role(id, ..) if standing.contains(&id)));
        }
        self.losses.retain(|loss| !loss.seen.is_empty());
        Ok(())
    }

    /// One member of the list of whom something newer was heard meanwhile.
    pub fn skip(&mut self, member: Snowflake) {
        self.unseen.remove(&member);
    }

    /// One member of the list.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn member(&mut self, core: &Core, member: Snowflake, roles: &[Snowflake]) -> Result<()> {
        self.unseen.remove(&member);
        let held = self.holders.get(&member).map_or(&[][..], Vec::as_slice);
        let seen = roles::seen(&self.mappings, Some(roles), |mapping| self.notify(mapping));
        let was =
            |source: &super::ObservedSource| matches!(source.kind, SourceKind::Role(id, ..) if held.contains(&id));
        let gained = seen.iter().any(|source| source.level == Level::Present && !was(source));
        let lost = seen.iter().any(|source| source.level == Level::Absent && was(source));
        let observation = self.observation(member, seen);
        if lost {
            self.losses.push(observation);
        } else if gained {
            observe(core, &observation).await?;
            self.gained.push(member);
        }
        Ok(())
    }

    /// The list is complete: losses become observations, unless there are too many. `is_newer` tells of
    /// whom something was heard since the pass began.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn finish(self, core: &Core, is_newer: impl Fn(Snowflake) -> bool) -> Result<Summary> {
        mappings::applied(core, &self.mappings).await?;
        let ending = self.losses.len() + self.unseen.len();
        let confirmed = self.guild.confirmed_until.is_some_and(|until| until > core.clock.now());
        if ending > breaker_limit(self.holders.len()) && !confirmed {
            guilds::open_breaker(core, &self.guild, ending, self.holders.len()).await?;
            return Ok(Summary { gained: self.gained.len(), blocked: ending, ..Summary::default() });
        }
        for loss in &self.losses {
            observe(core, loss).await?;
        }
        let crossed = self.gained.iter().filter(|member| is_newer(**member));
        for &member in self.unseen.iter().chain(crossed) {
            self.recheck(core, member).await?;
        }
        guilds::close_breaker(core, &self.guild).await?;
        Ok(Summary { gained: self.gained.len(), lost: self.losses.len(), rechecked: self.unseen.len(), blocked: 0 })
    }

    async fn recheck(&self, core: &Core, member: Snowflake) -> Result<()> {
        let mut tx = Tx::begin(core).await?;
        let delivery = Delivery::RecheckMember { guild: self.guild.id, user: member };
        let key = format!("refetch:{}:{member}:{}", self.guild.id, self.stamp.0);
        let at = tx.now() + RECHECK_DELAY;
        outbox::send_at(&mut tx, &delivery, key, at).await?;
        tx.commit().await
    }

    /// An admin took these mappings away: that is evidence enough, and no accident to brake.
    async fn end_removed(&self, core: &Core, removed: &[Mapping]) -> Result<()> {
        let ids: Vec<_> = removed.iter().map(|mapping| mapping.id).collect();
        for (member, held) in store::holders(core, &ids).await? {
            let of_member: Vec<_> = removed.iter().filter(|mapping| held.contains(&mapping.id)).cloned().collect();
            let gone = roles::seen(&of_member, None, |_| Notify::Silent);
            observe(core, &self.observation(member, gone)).await?;
        }
        Ok(())
    }

    fn observation(&self, member: Snowflake, seen: Vec<super::ObservedSource>) -> Observation {
        let (scope, stamp, fence) = (self.scope.clone(), self.stamp, self.fence.clone());
        Observation { scope, member, actor: Actor::System, stamp, fence, seen }
    }

    /// A new mapping tells the members it finds only if its admin said so.
    fn notify(&self, mapping: &Mapping) -> Notify {
        let quiet = mapping.applied_at.is_none() && mapping.announce != Announce::ByDm.as_str();
        if quiet { Notify::Silent } else { Notify::Staggered(self.gap) }
    }
}

/// The most losses a pass may bring without being asked about: 10, or a fifth of the holders.
fn breaker_limit(holders: usize) -> usize {
    (holders / 5).max(10)
}
