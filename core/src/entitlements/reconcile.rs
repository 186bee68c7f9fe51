//! Reconciliation: compares all members of a guild or campaign with the stored sources, for what was missed.
//!
//! Gains are observed as they are read. Losses wait for the complete list, because only then is their number
//! known: if too many licenses would be revoked, the circuit breaker opens and an admin must confirm. A holder
//! who is missing from the list is not a loss yet: the provider is asked about them once more.
//!
//! Holders are read page by page, and take about 30 bytes each until they are listed.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use uuid::Uuid;

use super::breaker::{self, Origin, Stopped};
use super::types::{Evidence, Level, Observation, ObservedSource};
use super::{observe_all, stamp::Stamp, store};
use crate::interner::{Interner, SetId};
use crate::outbox::{self, Delivery};
use crate::{Caller, Core, Result, Scope, ids::UserId, tx::Tx, users, workers::Lease};

/// The reconciliation of one origin, fed member by member. A subject is a member's id at the provider, a number.
pub struct Reconciliation {
    origin: Origin,
    /// What to observe about a member who has none of the sources.
    sources: Vec<ObservedSource>,
    /// Sets of references to sources.
    sets: Interner<Uuid>,
    /// The sources of each holder who has not been listed yet.
    holders: HashMap<u64, SetId>,
    /// How many listed holders had each set of sources.
    listed: HashMap<SetId, usize>,
    losses: Vec<Loss>,
    /// Gains that are not observed yet.
    gains: Vec<(u64, SetId)>,
    observed_gains: Vec<u64>,
    stamp: Stamp,
    fence: Option<Lease>,
    message_interval: Duration,
}

/// A member who has lost a source.
#[derive(Clone, Copy, Debug)]
struct Loss {
    subject: u64,
    before: SetId,
    after: SetId,
}

/// How a member of the list differs from what is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Difference {
    /// Not at all.
    Same,
    /// They gained a source, which is observed at once.
    Gained,
    /// They lost a source, which is observed at the end.
    Lost,
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

/// The members observed in one transaction.
const BATCH: usize = 16;

/// The holders read by one statement.
const PAGE: u64 = 1_000;

impl Reconciliation {
    /// Begins to compare these sources, which are given as absent. `message_interval` is the time between the messages
    /// that follow. Call this before the first page: updates reported from here on are newer than the list.
    pub async fn begin(
        core: &Core,
        origin: Origin,
        sources: Vec<ObservedSource>,
        fence: Option<Lease>,
        message_interval: Duration,
    ) -> Result<Self> {
        let stamp = core.stamps.next(&core.clock);
        let (mut sets, mut holders) = (Interner::default(), HashMap::new());
        for source in &sources {
            let mut last = None;
            while let Some(page) = holders_after(core, &origin, source.reference, &mut last).await? {
                for subject in page {
                    let known = holders.get(&subject).copied();
                    holders.insert(subject, sets.with(known, source.reference));
                }
            }
        }
        Ok(Self {
            origin,
            sources,
            sets,
            holders,
            listed: HashMap::new(),
            losses: Vec::new(),
            gains: Vec::new(),
            observed_gains: Vec::new(),
            stamp,
            fence,
            message_interval,
        })
    }

    /// Ends sources that an admin removed. This is deliberate, so the circuit breaker does not apply.
    pub async fn end_sources(&self, core: &Core, removed: &[ObservedSource]) -> Result<()> {
        let references: Vec<Uuid> = removed.iter().map(|source| source.reference).collect();
        let live = store::live_references(core, &references).await?;
        for source in removed.iter().filter(|source| live.contains(&source.reference)) {
            let mut last = None;
            while let Some(page) = holders_after(core, &self.origin, source.reference, &mut last).await? {
                for batch in page.chunks(BATCH) {
                    let ended = batch.iter().map(|subject| (*subject, vec![source.clone()])).collect();
                    self.observe(core, ended).await?;
                }
            }
        }
        Ok(())
    }

    /// Leaves every source out that is not among these: it can no longer be verified.
    pub fn retain(&mut self, remaining: &HashSet<Uuid>) {
        self.sources.retain(|source| remaining.contains(&source.reference));
    }

    /// Skips a member of the list about whom something newer was reported.
    pub fn skip(&mut self, subject: u64) {
        if let Some(before) = self.holders.remove(&subject) {
            *self.listed.entry(before).or_default() += 1;
        }
    }

    /// Compares one member of the list, who has the sources with these references.
    pub async fn member(&mut self, core: &Core, subject: u64, present: &[Uuid]) -> Result<Difference> {
        let before = self.holders.get(&subject).copied();
        self.skip(subject);
        let had = before.map_or(&[][..], |before| self.sets.get(before));
        let is_gain = |reference: &Uuid| !had.contains(reference);
        let is_loss = |reference: &Uuid| !present.contains(reference) && self.is_reconciled(*reference);
        let (gained, lost) = (present.iter().any(is_gain), had.iter().any(is_loss));
        match before.filter(|_| lost) {
            Some(before) => {
                let after = self.sets.intern(present.to_vec());
                self.losses.push(Loss { subject, before, after });
                Ok(Difference::Lost)
            }
            None if gained => {
                let after = self.sets.intern(present.to_vec());
                self.gains.push((subject, after));
                if self.gains.len() >= BATCH {
                    self.observe_gains(core).await?;
                }
                Ok(Difference::Gained)
            }
            None => Ok(Difference::Same),
        }
    }

    /// Observes the gains of the pages so far.
    pub async fn observe_gains(&mut self, core: &Core) -> Result<()> {
        let gains = std::mem::take(&mut self.gains);
        let observed = gains.iter().map(|(subject, after)| (*subject, self.observed(*after))).collect();
        self.observe(core, observed).await?;
        self.observed_gains.extend(gains.into_iter().map(|(subject, _)| subject));
        Ok(())
    }

    /// Completes the reconciliation: observes the losses, unless there are too many. `is_newer` tells whether
    /// something was reported about a member since it began, `recheck` makes the delivery that asks about one. Returns the
    /// holders who are rechecked, too.
    pub async fn finish(
        mut self,
        core: &Core,
        is_newer: impl Fn(u64) -> bool,
        recheck: impl Fn(u64) -> Delivery,
    ) -> Result<(Summary, Vec<u64>)> {
        self.observe_gains(core).await?;
        let mut losses = std::mem::take(&mut self.losses);
        losses.retain(|loss| self.lost_sources(loss).next().is_some() && !is_newer(loss.subject));
        let missing = self.holders.iter().filter(|(_, set)| self.concerns(**set));
        let mut missing: Vec<u64> = missing.map(|(subject, _)| *subject).collect();
        missing.sort_unstable();
        let listed = self.listed.iter().filter(|(set, _)| self.concerns(**set)).map(|(_, count)| count);
        let holders = missing.len() + listed.sum::<usize>();
        let (gained, lost) = (self.observed_gains.len(), losses.len());
        let losing = lost + missing.len();
        if losing > breaker_limit(holders) && !breaker::is_confirmed(core, &self.origin, losing).await? {
            let stopped = Stopped { losing, holders, losses: self.count_losses(&losses, &missing) };
            breaker::open(core, &self.origin, &stopped).await?;
            return Ok((Summary { gained, blocked: losing, ..Summary::default() }, missing));
        }
        for batch in losses.chunks(BATCH) {
            let observed = batch.iter().map(|loss| (loss.subject, self.observed(loss.after))).collect();
            self.observe(core, observed).await?;
        }
        let rechecked = missing.len();
        missing.extend(self.observed_gains.iter().copied().filter(|subject| is_newer(*subject)));
        self.recheck(core, &missing, recheck).await?;
        breaker::close(core, &self.origin).await?;
        Ok((Summary { gained, lost, rechecked, blocked: 0 }, missing))
    }

    fn is_reconciled(&self, reference: Uuid) -> bool {
        self.sources.iter().any(|source| source.reference == reference)
    }

    /// Whether one of these sources is still compared.
    fn concerns(&self, set: SetId) -> bool {
        self.sets.get(set).iter().any(|reference| self.is_reconciled(*reference))
    }

    /// The sources that a member has lost.
    fn lost_sources(&self, loss: &Loss) -> impl Iterator<Item = Uuid> {
        let (before, after) = (self.sets.get(loss.before), self.sets.get(loss.after));
        let is_lost = |reference: &&Uuid| !after.contains(reference) && self.is_reconciled(**reference);
        before.iter().filter(is_lost).copied()
    }

    /// How many members have lost each source.
    fn count_losses(&self, losses: &[Loss], missing: &[u64]) -> BTreeMap<Uuid, usize> {
        let of_missing = missing.iter().filter_map(|subject| self.holders.get(subject));
        let of_missing = of_missing.flat_map(|set| self.sets.get(*set)).copied();
        let of_missing = of_missing.filter(|reference| self.is_reconciled(*reference));
        let mut counts = BTreeMap::new();
        for reference in losses.iter().flat_map(|loss| self.lost_sources(loss)).chain(of_missing) {
            *counts.entry(reference).or_default() += 1;
        }
        counts
    }

    /// All sources, as a member has them.
    fn observed(&self, present: SetId) -> Vec<ObservedSource> {
        let present = self.sets.get(present);
        let level = |reference| if present.contains(&reference) { Level::Present } else { Level::Absent };
        self.sources.iter().map(|source| ObservedSource { level: level(source.reference), ..source.clone() }).collect()
    }

    async fn recheck(&self, core: &Core, subjects: &[u64], delivery: impl Fn(u64) -> Delivery) -> Result<()> {
        for batch in subjects.chunks(BATCH) {
            let mut tx = Tx::begin(core).await?;
            let due_at = tx.now() + RECHECK_DELAY;
            for &subject in batch {
                let key = format!("refetch:{}:{subject}:{}", self.origin, self.stamp.0);
                outbox::enqueue_at(&mut tx, &delivery(subject), key, due_at, None).await?;
            }
            tx.commit().await?;
        }
        Ok(())
    }

    /// Observes members, whose users are looked up now: an account may have been linked since the list was read.
    async fn observe(&self, core: &Core, members: Vec<(u64, Vec<ObservedSource>)>) -> Result<()> {
        let subjects = members.iter().map(|(subject, _)| subject.to_string()).collect();
        let users = users::ensure_all(core, self.origin.provider, subjects).await?;
        let observations = members.into_iter().filter_map(|(subject, sources)| {
            Some(Observation {
                caller: Caller::System(Scope::of(self.origin.tenant)),
                user: *users.get(&subject.to_string())?,
                evidence: Evidence::Reconciled { message_interval: self.message_interval },
                stamp: self.stamp,
                fence: self.fence.clone(),
                sources,
            })
        });
        observe_all(core, &observations.collect::<Vec<_>>()).await.map(drop)
    }
}

/// The subjects of the next holders of a source, by their users; `None` after the last one.
async fn holders_after(
    core: &Core,
    origin: &Origin,
    reference: Uuid,
    last: &mut Option<UserId>,
) -> Result<Option<Vec<u64>>> {
    let page = store::holders_after(core, origin.provider, reference, *last, PAGE).await?;
    let Some((user, _)) = page.last() else { return Ok(None) };
    *last = Some(*user);
    Ok(Some(page.into_iter().filter_map(|(_, subject)| subject?.parse().ok()).collect()))
}

/// The most losses applied without confirmation: 10, or a fifth of the holders if that is more.
fn breaker_limit(holders: usize) -> usize {
    (holders / 5).max(10)
}
