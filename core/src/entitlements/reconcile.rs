//! Reconciliation: compares all members of a guild or campaign with the stored sources, for what was missed.
//!
//! Gains are observed as they are read. Losses wait for the complete list, because only then is their number
//! known: if too many licenses would be revoked, the circuit breaker opens and an admin must confirm. A holder
//! who is missing from the list is not a loss yet: the provider is asked about them once more.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use uuid::Uuid;

use super::breaker::{self, Origin, Stopped};
use super::types::{Evidence, Level, Observation, ObservedSource};
use super::{observe, stamp::Stamp, store};
use crate::outbox::{self, Delivery};
use crate::{Caller, Core, Result, Scope, tx::Tx, users, workers::Lease};

/// The reconciliation of one origin, fed member by member. A subject is a member's id at the provider.
pub struct Reconciliation {
    origin: Origin,
    /// The sources that each holder has.
    holders: HashMap<String, Vec<Uuid>>,
    missing: HashSet<String>,
    pending_losses: Vec<(String, Vec<ObservedSource>)>,
    applied_gains: Vec<String>,
    stamp: Stamp,
    fence: Option<Lease>,
    message_interval: Duration,
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
    /// Begins to compare these sources. `message_interval` is the time between the messages that follow. Call this
    /// before the first page: updates reported from here on are newer than the list.
    pub async fn begin(
        core: &Core,
        origin: Origin,
        references: &[Uuid],
        fence: Option<Lease>,
        message_interval: Duration,
    ) -> Result<Self> {
        let stamp = core.stamps.next(&core.clock);
        let holders = store::holders(core, origin.provider, references).await?;
        let missing = holders.keys().cloned().collect();
        let (pending_losses, applied_gains) = (Vec::new(), Vec::new());
        Ok(Self { origin, holders, missing, pending_losses, applied_gains, stamp, fence, message_interval })
    }

    /// Ends sources that an admin removed. `absent` makes them from the references a holder has. This is
    /// deliberate, so the circuit breaker does not apply.
    pub async fn end_sources(
        &self,
        core: &Core,
        removed: &[Uuid],
        absent: impl Fn(&[Uuid]) -> Vec<ObservedSource>,
    ) -> Result<()> {
        for (subject, references) in store::holders(core, self.origin.provider, removed).await? {
            self.observe(core, &subject, absent(&references)).await?;
        }
        Ok(())
    }

    /// Leaves every source out that is not among these: it can no longer be verified.
    pub fn retain(&mut self, remaining: &HashSet<Uuid>) {
        self.holders.retain(|_, references| references.iter().any(|reference| remaining.contains(reference)));
        self.missing.retain(|subject| self.holders.contains_key(subject));
        for (_, sources) in &mut self.pending_losses {
            sources.retain(|source| remaining.contains(&source.reference));
        }
        self.pending_losses.retain(|(_, sources)| !sources.is_empty());
    }

    /// Skips a member of the list about whom something newer was reported.
    pub fn skip(&mut self, subject: &str) {
        self.missing.remove(subject);
    }

    /// Compares one member of the list.
    pub async fn member(&mut self, core: &Core, subject: &str, sources: Vec<ObservedSource>) -> Result<()> {
        self.missing.remove(subject);
        let references = self.holders.get(subject);
        let had = |source: &ObservedSource| references.is_some_and(|known| known.contains(&source.reference));
        let gained = sources.iter().any(|source| source.level == Level::Present && !had(source));
        let lost = sources.iter().any(|source| source.level == Level::Absent && had(source));
        if lost {
            self.pending_losses.push((subject.to_owned(), sources));
        } else if gained {
            self.observe(core, subject, sources).await?;
            self.applied_gains.push(subject.to_owned());
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
        let (gained, lost) = (self.applied_gains.len(), self.pending_losses.len());
        let losses = lost + self.missing.len();
        if losses > breaker_limit(self.holders.len()) && !breaker::is_confirmed(core, &self.origin, losses).await? {
            let stopped = Stopped { losing: losses, holders: self.holders.len(), losses: self.losses() };
            breaker::open(core, &self.origin, &stopped).await?;
            return Ok(Summary { gained, blocked: losses, ..Summary::default() });
        }
        for (subject, sources) in &self.pending_losses {
            self.observe(core, subject, sources.clone()).await?;
        }
        let updated = self.applied_gains.iter().filter(|subject| is_newer(subject));
        for subject in self.missing.iter().chain(updated) {
            self.recheck(core, subject, &recheck(subject)).await?;
        }
        breaker::close(core, &self.origin).await?;
        Ok(Summary { gained, lost, rechecked: self.missing.len(), blocked: 0 })
    }

    /// How many members have lost each source.
    fn losses(&self) -> BTreeMap<Uuid, usize> {
        let lost = |(subject, sources): &(String, Vec<ObservedSource>)| {
            let absent = sources.iter().filter(|source| source.level != Level::Present).map(|source| source.reference);
            let known = self.holders.get(subject).cloned().unwrap_or_default();
            absent.filter(|reference| known.contains(reference)).collect()
        };
        let missing = self.missing.iter().filter_map(|subject| self.holders.get(subject).cloned());
        let mut losses = BTreeMap::new();
        for reference in self.pending_losses.iter().map(lost).chain(missing).flat_map(|lost: Vec<Uuid>| lost) {
            *losses.entry(reference).or_default() += 1;
        }
        losses
    }

    async fn recheck(&self, core: &Core, subject: &str, delivery: &Delivery) -> Result<()> {
        let mut tx = Tx::begin(core).await?;
        let key = format!("refetch:{}:{subject}:{}", self.origin, self.stamp.0);
        let due_at = tx.now() + RECHECK_DELAY;
        outbox::enqueue_at(&mut tx, delivery, key, due_at, None).await?;
        tx.commit().await
    }

    /// Observes a member, whose user is looked up now: an account may have been linked since the list was read.
    async fn observe(&self, core: &Core, subject: &str, sources: Vec<ObservedSource>) -> Result<()> {
        let observation = Observation {
            caller: Caller::System(Scope::of(self.origin.tenant)),
            user: users::ensure(core, self.origin.provider, subject).await?,
            evidence: Evidence::Reconciled { message_interval: self.message_interval },
            stamp: self.stamp,
            fence: self.fence.clone(),
            sources,
        };
        observe(core, &observation).await.map(drop)
    }
}

/// The most losses applied without confirmation: 10, or a fifth of the holders if that is more.
fn breaker_limit(holders: usize) -> usize {
    (holders / 5).max(10)
}
