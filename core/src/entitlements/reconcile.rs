//! Reconciliation: compares all members of a guild with the stored sources, for what the gateway missed.
//!
//! Gains are observed page by page. Losses wait for the complete list, because only then is their number
//! known: if too many licenses would be revoked, the circuit breaker opens and an admin must confirm.
//! A holder who is missing from the list is not a loss yet: Discord is asked about them once more.

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

/// The reconciliation of one guild, fed page by page.
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

/// The result of a reconciliation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Members whose gain was observed.
    pub gained: usize,
    /// Members whose loss was observed.
    pub lost: usize,
    /// Holders missing from the list, to be rechecked.
    pub rechecked: usize,
    /// Losses not applied because the circuit breaker opened.
    pub blocked: usize,
}

impl Summary {
    /// The sum of both.
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

/// Delay before a holder who was missing from a complete list is rechecked.
const RECHECK_DELAY: Duration = Duration::from_mins(1);

impl GuildReconciliation {
    /// Begins a reconciliation; `None` if the guild has no mappings. `gap` is the time between the key
    /// messages it causes.
    pub async fn begin(core: &Core, guild: Guild, fence: Option<Lease>, gap: Duration) -> Result<Option<Self>> {
        // Taken before the first page, so that gateway updates from here on are newer than the list.
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

    /// Takes the guild's current roles: a mapped role that is missing was deleted unnoticed. Call this
    /// before the first page and after the last, since a role may be deleted in between.
    pub async fn roles(&mut self, core: &Core, existing: &[Snowflake]) -> Result<()> {
        for mapping in self.mappings.iter().filter(|mapping| !existing.contains(&mapping.role_id)) {
            mappings::set_role_deleted(core, self.guild.id, mapping.role_id).await?;
        }
        self.mappings.retain(|mapping| existing.contains(&mapping.role_id));
        let remaining: HashSet<_> = self.mappings.iter().map(|mapping| mapping.id).collect();
        self.holders.retain(|_, mappings| mappings.iter().any(|mapping| remaining.contains(mapping)));
        self.unseen.retain(|member| self.holders.contains_key(member));
        for loss in &mut self.losses {
            loss.seen.retain(|source| matches!(source.kind, SourceKind::Role(id, ..) if remaining.contains(&id)));
        }
        self.losses.retain(|loss| !loss.seen.is_empty());
        Ok(())
    }

    /// Skips a member of the list with a newer update.
    pub fn skip(&mut self, member: Snowflake) {
        self.unseen.remove(&member);
    }

    /// Compares one member of the list.
    pub async fn member(&mut self, core: &Core, member: Snowflake, roles: &[Snowflake]) -> Result<()> {
        self.unseen.remove(&member);
        let before = self.holders.get(&member).map_or(&[][..], Vec::as_slice);
        let sources = roles::observed_sources(&self.mappings, Some(roles), |mapping| self.notify(mapping));
        let was_present =
            |source: &super::ObservedSource| matches!(source.kind, SourceKind::Role(id, ..) if before.contains(&id));
        let gained = sources.iter().any(|source| source.level == Level::Present && !was_present(source));
        let lost = sources.iter().any(|source| source.level == Level::Absent && was_present(source));
        let observation = self.observation(member, sources);
        if lost {
            self.losses.push(observation);
        } else if gained {
            observe(core, &observation).await?;
            self.gained.push(member);
        }
        Ok(())
    }

    /// Completes the reconciliation: observes the losses, unless there are too many. `is_newer` returns
    /// whether an update for a member arrived since it began.
    pub async fn finish(self, core: &Core, is_newer: impl Fn(Snowflake) -> bool) -> Result<Summary> {
        mappings::set_applied(core, &self.mappings).await?;
        let losses = self.losses.len() + self.unseen.len();
        let confirmed = self.guild.confirmed_until.is_some_and(|until| until > core.clock.now());
        if losses > breaker_limit(self.holders.len()) && !confirmed {
            guilds::open_breaker(core, &self.guild, losses, self.holders.len()).await?;
            return Ok(Summary { gained: self.gained.len(), blocked: losses, ..Summary::default() });
        }
        for loss in &self.losses {
            observe(core, loss).await?;
        }
        let updated = self.gained.iter().filter(|member| is_newer(**member));
        for &member in self.unseen.iter().chain(updated) {
            self.recheck(core, member).await?;
        }
        guilds::close_breaker(core, &self.guild).await?;
        Ok(Summary { gained: self.gained.len(), lost: self.losses.len(), rechecked: self.unseen.len(), blocked: 0 })
    }

    async fn recheck(&self, core: &Core, member: Snowflake) -> Result<()> {
        let mut tx = Tx::begin(core).await?;
        let delivery = Delivery::RecheckMember { guild: self.guild.id, user: member };
        let key = format!("refetch:{}:{member}:{}", self.guild.id, self.stamp.0);
        let due_at = tx.now() + RECHECK_DELAY;
        outbox::enqueue_at(&mut tx, &delivery, key, due_at).await?;
        tx.commit().await
    }

    /// Ends the sources of mappings an admin removed. This is deliberate, so the circuit breaker does not
    /// apply.
    async fn end_removed(&self, core: &Core, removed: &[Mapping]) -> Result<()> {
        let ids: Vec<_> = removed.iter().map(|mapping| mapping.id).collect();
        for (member, held_mappings) in store::holders(core, &ids).await? {
            let of_member: Vec<_> =
                removed.iter().filter(|mapping| held_mappings.contains(&mapping.id)).cloned().collect();
            let absent = roles::observed_sources(&of_member, None, |_| Notify::Silent);
            observe(core, &self.observation(member, absent)).await?;
        }
        Ok(())
    }

    fn observation(&self, member: Snowflake, sources: Vec<super::ObservedSource>) -> Observation {
        let (scope, stamp, fence) = (self.scope.clone(), self.stamp, self.fence.clone());
        Observation { scope, member, actor: Actor::System, stamp, fence, seen: sources }
    }

    /// Members found for a new mapping are notified only if the admin chose so.
    fn notify(&self, mapping: &Mapping) -> Notify {
        let quiet = mapping.applied_at.is_none() && mapping.announce != Announce::ByDm.as_str();
        if quiet { Notify::Silent } else { Notify::Staggered(self.gap) }
    }
}

/// The most losses applied without confirmation: 10, or a fifth of the holders if that is more.
fn breaker_limit(holders: usize) -> usize {
    (holders / 5).max(10)
}
