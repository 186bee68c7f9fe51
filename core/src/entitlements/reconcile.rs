//! Reconciliation: compares all members of a guild or campaign with the stored sources, for what was missed.
//!
//! Gains are observed as they are read. Losses wait for the complete list, because only then is their number
//! known: if too many licenses would be revoked, the circuit breaker opens and an admin must confirm. A holder
//! who is missing from the list is not a loss yet: the provider is asked about them once more.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use uuid::Uuid;

use super::{
    breaker::{self, Origin},
    observe,
    stamp::Stamp,
    store::{self, Holder},
    types::{Evidence, Level, Observation, ObservedSource},
};
use crate::{
    Caller, Core, Result, Scope,
    ids::UserId,
    outbox::{self, Delivery},
    tx::Tx,
    users,
    workers::Lease,
};

/// The reconciliation of one origin, fed member by member. A subject is a member's id at the provider.
pub struct Reconciliation {
    origin: Origin,
    holders: HashMap<String, Holder>,
    missing: HashSet<String>,
    losses: Vec<Observation>,
    gained: Vec<String>,
    stamp: Stamp,
    fence: Option<Lease>,
    interval: Duration,
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

impl Reconciliation {
    /// Begins to compare these sources. `interval` is the time between the messages that follow. Call this
    /// before the first page: updates reported from here on are newer than the list.
    pub async fn begin(
        core: &Core,
        origin: Origin,
        references: &[Uuid],
        fence: Option<Lease>,
        interval: Duration,
    ) -> Result<Self> {
        let stamp = core.stamps.next(&core.clock);
        let holders = store::holders(core, origin.provider, references).await?;
        let missing = holders.keys().cloned().collect();
        let (losses, gained) = (Vec::new(), Vec::new());
        Ok(Self { origin, holders, missing, losses, gained, stamp, fence, interval })
    }

    /// Ends sources that an admin removed. `absent` makes them from the references a holder has. This is
    /// deliberate, so the circuit breaker does not apply.
    pub async fn end_sources(
        &self,
        core: &Core,
        removed: &[Uuid],
        absent: impl Fn(&[Uuid]) -> Vec<ObservedSource>,
    ) -> Result<()> {
        for holder in store::holders(core, self.origin.provider, removed).await?.into_values() {
            observe(core, &self.observation(holder.user, absent(&holder.references))).await?;
        }
        Ok(())
    }

    /// Leaves every source out that is not among these: it can no longer be verified.
    pub fn retain(&mut self, remaining: &HashSet<Uuid>) {
        self.holders.retain(|_, holder| holder.references.iter().any(|reference| remaining.contains(reference)));
        self.missing.retain(|subject| self.holders.contains_key(subject));
        for loss in &mut self.losses {
            loss.sources.retain(|source| remaining.contains(&source.reference));
        }
        self.losses.retain(|loss| !loss.sources.is_empty());
    }

    /// Skips a member of the list about whom something newer was reported.
    pub fn skip(&mut self, subject: &str) {
        self.missing.remove(subject);
    }

    /// Compares one member of the list.
    pub async fn member(&mut self, core: &Core, subject: &str, sources: Vec<ObservedSource>) -> Result<()> {
        self.missing.remove(subject);
        let holder = self.holders.get(subject);
        let had = |source: &ObservedSource| holder.is_some_and(|holder| holder.references.contains(&source.reference));
        let gained = sources.iter().any(|source| source.level == Level::Present && !had(source));
        let lost = sources.iter().any(|source| source.level == Level::Absent && had(source));
        if let (Some(holder), true) = (holder, lost) {
            self.losses.push(self.observation(holder.user, sources));
        } else if gained {
            let user = match holder {
                Some(holder) => holder.user,
                None => users::ensure(core, self.origin.provider, subject).await?,
            };
            observe(core, &self.observation(user, sources)).await?;
            self.gained.push(subject.to_owned());
        }
        Ok(())
    }

    /// Completes the reconciliation: observes the losses, unless there are too many. `is_newer` tells whether
    /// something was reported about a member since it began, `recheck` makes the delivery that asks about one.
    pub async fn finish(
        self,
        core: &Core,
        is_newer: impl Fn(&str) -> bool,
        recheck: impl Fn(&str) -> Delivery,
    ) -> Result<Summary> {
        let losses = self.losses.len() + self.missing.len();
        if losses > breaker_limit(self.holders.len()) && !breaker::is_confirmed(core, &self.origin).await? {
            breaker::open(core, &self.origin, losses, self.holders.len()).await?;
            return Ok(Summary { gained: self.gained.len(), blocked: losses, ..Summary::default() });
        }
        for loss in &self.losses {
            observe(core, loss).await?;
        }
        let updated = self.gained.iter().filter(|subject| is_newer(subject));
        for subject in self.missing.iter().chain(updated) {
            self.recheck(core, subject, &recheck(subject)).await?;
        }
        breaker::close(core, &self.origin).await?;
        Ok(Summary { gained: self.gained.len(), lost: self.losses.len(), rechecked: self.missing.len(), blocked: 0 })
    }

    async fn recheck(&self, core: &Core, subject: &str, delivery: &Delivery) -> Result<()> {
        let mut tx = Tx::begin(core).await?;
        let key = format!("refetch:{}:{subject}:{}", self.origin.id, self.stamp.0);
        let due_at = tx.now() + RECHECK_DELAY;
        outbox::enqueue_at(&mut tx, delivery, key, due_at).await?;
        tx.commit().await
    }

    fn observation(&self, user: UserId, sources: Vec<ObservedSource>) -> Observation {
        Observation {
            caller: Caller::System(Scope::of(self.origin.tenant)),
            user,
            evidence: Evidence::Reconciled { interval: self.interval },
            stamp: self.stamp,
            fence: self.fence.clone(),
            sources,
        }
    }
}

/// The most losses applied without confirmation: 10, or a fifth of the holders if that is more.
fn breaker_limit(holders: usize) -> usize {
    (holders / 5).max(10)
}
