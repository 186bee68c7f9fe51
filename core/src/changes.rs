//! Invalidates cached reads: follows the event log, and says whether what was read before is still current.
//!
//! Every instance follows the event log: four times a second, and before an answer if it has committed something itself
//! since. What was read at one sequence number is still true if no later event concerns it; each kind of event says what
//! it concerns (`Concerns`).
//!
//! A cached read is used only if the log was read less than [`MAX_STALENESS`] ago. A writer that waits that long after its
//! commit (`Changes::propagate`) therefore knows that no instance still uses older data, not even one that was frozen
//! meanwhile. This depends on no notification, no clock but elapsed time, and no list of instances.

use std::collections::{HashMap, VecDeque};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use tokio::sync::Mutex;

use crate::db::Db;
use crate::entity::{event, event_head};
use crate::error::{Code, Error, Reason, Result};
use crate::events::kind::EventKind;
use crate::ids::{LicenseId, TenantId};

/// How long after the log was read an answer may depend on it.
pub const MAX_STALENESS: Duration = Duration::from_millis(750);

/// How often the log is read.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// How long an answer may take from its last check until it is on its way.
const SEND_MARGIN: Duration = Duration::from_millis(50);

/// How many changes are remembered. What was read before the oldest of them is read again.
const CAPACITY: i64 = 50_000;

/// What an event concerns, of all that is kept in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Concerns {
    License(LicenseId),
    /// Its API keys, its bans, and all of its licenses.
    Tenant(TenantId),
    /// That a license key or an API key does not exist.
    UnknownKeys,
}

impl Concerns {
    fn of(kind: EventKind, tenant: TenantId, license: Option<LicenseId>) -> impl Iterator<Item = Self> {
        let of_kind = match kind {
            EventKind::BanCreated
            | EventKind::BanLifted
            | EventKind::ApiKeyRevoked
            | EventKind::ApiKeyRotated
            | EventKind::ProductRenamed => Some(Self::Tenant(tenant)),
            _ => None,
        };
        let creates_key = matches!(
            kind,
            EventKind::LicenseCreated | EventKind::KeyRotated | EventKind::ApiKeyCreated | EventKind::ApiKeyRotated
        );
        let unknown = creates_key.then_some(Self::UnknownKeys);
        of_kind.into_iter().chain(unknown).chain(license.map(Self::License))
    }
}

/// Whether an event of this kind, with what it names, says that `license` has changed.
pub(crate) fn names(kind: EventKind, tenant: TenantId, named: Option<LicenseId>, license: LicenseId) -> bool {
    let mut concerns = Concerns::of(kind, tenant, named);
    concerns.any(|concerns| concerns == Concerns::License(license))
}

/// The refusal of an answer that took so long that it may no longer be true: `UNAVAILABLE`.
pub(crate) fn stale() -> Error {
    Reason::Unspecified(Code::Unavailable).retry_after(Duration::from_secs(1))
}

/// What something that was read depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Basis {
    /// A license, and the bans of its tenant.
    License(LicenseId, TenantId),
    /// An API key of this tenant.
    ApiKey(TenantId),
    /// That there is no such key.
    UnknownKey,
}

impl Basis {
    fn concerns(self) -> [Option<Concerns>; 2] {
        match self {
            Self::License(license, tenant) => [Some(Concerns::License(license)), Some(Concerns::Tenant(tenant))],
            Self::ApiKey(tenant) => [Some(Concerns::Tenant(tenant)), None],
            Self::UnknownKey => [Some(Concerns::UnknownKeys), None],
        }
    }
}

/// The changes that this instance knows of. Numbers of events are positions in the log, which only increase.
pub struct Changes {
    db: Db,
    recent: RwLock<Recent>,
    /// One reads the log, and the others wait for the result: when and why the last read failed, if it did.
    reading: Mutex<Option<(Instant, Error)>>,
}

struct Recent {
    /// The newest event that was read, as a position.
    seq: i64,
    /// What to add to the number of an event for its position. Positions only increase, also if the database was restored
    /// to an earlier state.
    offset: i64,
    /// When the last read began.
    read_at: Option<Instant>,
    /// When this process committed last.
    committed_at: Option<Instant>,
    /// All later changes are remembered.
    complete_since: i64,
    last_change: HashMap<Concerns, i64>,
    in_order: VecDeque<(i64, Concerns)>,
}

impl Changes {
    /// Knows nothing until the log of this database is first read.
    pub(crate) fn new(db: &Db) -> Self {
        Self { db: db.clone(), recent: RwLock::new(Recent::starting_at(0)), reading: Mutex::new(None) }
    }

    fn recent(&self) -> RwLockReadGuard<'_, Recent> {
        self.recent.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn recent_mut(&self) -> RwLockWriteGuard<'_, Recent> {
        self.recent.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// This process has committed something: its next answer knows of it.
    pub(crate) fn committed(&self) {
        self.recent_mut().committed_at = Some(Instant::now());
    }

    /// The newest event known, from a read that is recent enough for an answer. Refused with `UNAVAILABLE` if reading takes
    /// too long for that.
    pub(crate) async fn fresh_seq(&self) -> Result<i64> {
        let committed_at = self.recent().committed_at;
        if let Some(seq) = self.recent().seq_after(committed_at) {
            return Ok(seq);
        }
        if let Some(moment) = committed_at.max(Instant::now().checked_sub(MAX_STALENESS)) {
            self.read_after(moment).await?;
        }
        self.recent().seq_after(committed_at).ok_or_else(stale)
    }

    /// Whether nothing that the basis depends on has changed after this event, as of now.
    pub(crate) async fn is_current(&self, seq: i64, basis: Basis) -> Result<bool> {
        loop {
            self.fresh_seq().await?;
            let recent = self.recent();
            let is_unchanged = recent.unchanged_since(seq, basis);
            // In this order: the process may be stopped at any moment.
            if recent.seq_after(None).is_some() {
                return Ok(is_unchanged);
            }
        }
    }

    /// Reads the log, unless a read has begun after this moment.
    pub(crate) async fn read_after(&self, moment: Instant) -> Result<()> {
        let is_read = || self.recent().read_at > Some(moment);
        if is_read() {
            return Ok(());
        }
        let asked = Instant::now();
        let mut failed = self.reading.lock().await;
        if is_read() {
            return Ok(());
        }
        // Otherwise those who wait would fail one after the other.
        if let Some((_, error)) = failed.as_ref().filter(|(at, _)| *at > asked) {
            return Err(error.clone());
        }
        let read = self.read().await;
        *failed = read.as_ref().err().map(|error| (Instant::now(), error.clone()));
        read
    }

    async fn read(&self) -> Result<()> {
        let (began, known) = (Instant::now(), self.recent().known());
        let db = self.db.changes();
        let head = event_head::Entity::find_by_id(1).one(db).await?.map_or(0, |head| head.seq);
        let is_near = (0..=CAPACITY).contains(&(head - known));
        let new: Vec<(i64, EventKind, TenantId, Option<LicenseId>)> = if is_near && head > known {
            let columns = [event::Column::Seq, event::Column::Kind, event::Column::TenantId, event::Column::LicenseId];
            let new = event::Entity::find().filter(event::Column::Seq.gt(known)).filter(event::Column::Seq.lte(head));
            new.order_by_asc(event::Column::Seq).select_only().columns(columns).into_tuple().all(db).await?
        } else {
            Vec::new()
        };
        let mut recent = self.recent_mut();
        // After a restart, a long pause or the deletion of old events, nothing from before is used.
        let is_complete = is_near && new.len() as u64 == (head - known).unsigned_abs();
        if recent.read_at.is_none() || !is_complete {
            recent.restart_at(head);
        }
        for (seq, kind, tenant, license) in new {
            let position = seq + recent.offset;
            for concerns in Concerns::of(kind, tenant, license) {
                recent.remember(position, concerns);
            }
        }
        (recent.seq, recent.read_at) = (head + recent.offset, Some(began));
        Ok(())
    }

    /// Whether nothing that the basis depends on has changed after this event, as far as is known.
    pub(crate) fn unchanged_since(&self, seq: i64, basis: Basis) -> bool {
        self.recent().unchanged_since(seq, basis)
    }

    /// Returns once no instance answers from what was read before now. Call it after a commit.
    pub(crate) async fn propagate(&self) {
        tokio::time::sleep(MAX_STALENESS + SEND_MARGIN).await;
    }

    /// Follows the event log for as long as the process runs, so that answers do not wait for it. If the log cannot be read,
    /// requests fail until it can.
    pub async fn follow(&self) {
        let mut interval = tokio::time::interval(POLL_INTERVAL);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            if let Err(error) = self.read_after(Instant::now()).await {
                tracing::debug!(%error, "cannot read the event log");
            }
        }
    }
}

impl Recent {
    fn starting_at(seq: i64) -> Self {
        Self {
            seq,
            offset: 0,
            read_at: None,
            committed_at: None,
            complete_since: seq,
            last_change: HashMap::new(),
            in_order: VecDeque::new(),
        }
    }

    /// The number of the newest event that was read.
    fn known(&self) -> i64 {
        self.seq - self.offset
    }

    /// The newest event, if the log was read recently and after this moment.
    fn seq_after(&self, moment: Option<Instant>) -> Option<i64> {
        let read_at = self.read_at.filter(|read_at| Some(*read_at) > moment)?;
        (read_at.elapsed() < MAX_STALENESS).then_some(self.seq)
    }

    fn unchanged_since(&self, seq: i64, basis: Basis) -> bool {
        let is_later = |concerns: &Concerns| self.last_change.get(concerns).is_some_and(|last| *last > seq);
        seq >= self.complete_since && !basis.concerns().iter().flatten().any(is_later)
    }

    fn remember(&mut self, seq: i64, concerns: Concerns) {
        self.last_change.insert(concerns, seq);
        self.in_order.push_back((seq, concerns));
        if self.in_order.len() as u64 > CAPACITY.unsigned_abs()
            && let Some((seq, oldest)) = self.in_order.pop_front()
        {
            self.complete_since = seq;
            if self.last_change.get(&oldest) == Some(&seq) {
                self.last_change.remove(&oldest);
            }
        }
    }

    /// Forgets all changes, so that nothing from before is used, also if the log ends earlier than it did.
    fn restart_at(&mut self, head: i64) {
        self.offset = self.offset.max(self.seq + 1 - head);
        self.complete_since = head + self.offset;
        self.last_change.clear();
        self.in_order.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Ids;

    #[test]
    fn a_read_is_current_until_an_event_concerns_it() {
        let ids = Ids::seeded(3);
        let (license, other, tenant) = (LicenseId(ids.v4()), LicenseId(ids.v4()), TenantId(ids.v4()));
        let known = |recent: &Recent, seq, license| recent.unchanged_since(seq, Basis::License(license, tenant));
        let mut recent = Recent::starting_at(10);
        assert!(!known(&recent, 9, license), "older than what is remembered");
        recent.remember(11, Concerns::License(license));
        assert_eq!([10, 11].map(|seq| known(&recent, seq, license)), [false, true]);
        assert!(known(&recent, 10, other));
        recent.remember(12, Concerns::Tenant(tenant));
        assert_eq!([11, 12].map(|seq| known(&recent, seq, other)), [false, true]);
        assert!(recent.unchanged_since(10, Basis::ApiKey(TenantId(ids.v4()))));
        assert!(recent.unchanged_since(10, Basis::UnknownKey));
        recent.seq = 12;
        recent.restart_at(5);
        assert!(!known(&recent, 12, other), "the log ends earlier than it did");
        assert!(known(&recent, recent.complete_since, other) && recent.complete_since > 12);
    }

    #[test]
    fn a_read_older_than_the_remembered_changes_is_not_current() {
        let ids = Ids::seeded(4);
        let (license, tenant) = (LicenseId(ids.v4()), TenantId(ids.v4()));
        let mut recent = Recent::starting_at(10);
        for seq in 11..=11 + CAPACITY {
            recent.remember(seq, Concerns::License(LicenseId(ids.v4())));
        }
        let known = |seq| recent.unchanged_since(seq, Basis::License(license, tenant));
        assert_eq!((known(10), known(11)), (false, true));
        assert_eq!((recent.last_change.len(), recent.in_order.len()), (50_000, 50_000));
    }
}
