//! What changed lately, so that what was read before can be used again.
//!
//! Every instance follows the event log: four times a second, and before an answer if it has committed something itself
//! since. What was read at one sequence number is still true if no later event concerns it; each kind of event says what
//! it concerns ([`Concerns`]).
//!
//! Nothing that was read before is used unless the log was read less than [`LEASE`] ago. Whoever commits a change and
//! then waits that long ([`Changes::settle`]) therefore knows that no instance answers from before, not even one that was
//! frozen meanwhile. This depends on no notification, no clock but elapsed time, and no list of instances.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use tokio::sync::Mutex;

use crate::db::Db;
use crate::entity::{event, event_head};
use crate::error::{Code, Error, Reason, Result};
use crate::events::kind::EventKind;
use crate::ids::{LicenseId, TenantId};

/// How long after the log was read an answer may depend on it.
pub const LEASE: Duration = Duration::from_millis(750);

/// How often the log is read.
const INTERVAL: Duration = Duration::from_millis(250);

/// How long an answer may take from its last check until it is on its way.
const MARGIN: Duration = Duration::from_millis(50);

/// How many changes are remembered. What was read before the oldest of them is read again.
const REMEMBERED: i64 = 50_000;

/// What an event concerns, of all that is kept in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Concerns {
    License(LicenseId),
    /// Its API keys, its bans, and all of its licenses.
    Tenant(TenantId),
    /// That a license key or an API key does not exist.
    UnknownKeys,
    Everything,
}

impl Concerns {
    fn of(kind: EventKind, tenant: TenantId, license: Option<LicenseId>) -> impl Iterator<Item = Self> {
        let of_kind = match kind {
            EventKind::BanCreated
            | EventKind::BanLifted
            | EventKind::ApiKeyRevoked
            | EventKind::ApiKeyRotated
            | EventKind::ProductRenamed => Some(Self::Tenant(tenant)),
            // Licenses move between accounts, whose bans differ.
            EventKind::IdentityLinked => Some(Self::Everything),
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
    concerns.any(|concerns| [Concerns::License(license), Concerns::Everything].contains(&concerns))
}

/// The refusal of an answer that took so long that it may no longer be true: `UNAVAILABLE`.
pub(crate) fn out_of_date() -> Error {
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

/// The changes that this instance knows of. Clones share them.
#[derive(Clone)]
pub struct Changes(Arc<Shared>);

struct Shared {
    db: Db,
    recent: RwLock<Recent>,
    /// One reads the log, and the others wait for the result: when and why the last read failed, if it did.
    reading: Mutex<Option<(Instant, Error)>>,
}

struct Recent {
    /// The newest event that was read.
    seq: i64,
    /// When the last read began.
    read_at: Option<Instant>,
    /// When this process committed last.
    committed_at: Option<Instant>,
    /// All later changes are remembered.
    since: i64,
    last: HashMap<Concerns, i64>,
    in_order: VecDeque<(i64, Concerns)>,
}

impl Changes {
    /// Knows nothing until the log of this database is first read.
    pub(crate) fn new(db: &Db) -> Self {
        let (last, in_order) = (HashMap::new(), VecDeque::new());
        let recent = Recent { seq: 0, read_at: None, committed_at: None, since: 0, last, in_order };
        Self(Arc::new(Shared { db: db.clone(), recent: RwLock::new(recent), reading: Mutex::new(None) }))
    }

    fn recent(&self) -> RwLockReadGuard<'_, Recent> {
        self.0.recent.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn recent_mut(&self) -> RwLockWriteGuard<'_, Recent> {
        self.0.recent.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// This process has committed something: its next answer knows of it.
    pub(crate) fn committed(&self) {
        self.recent_mut().committed_at = Some(Instant::now());
    }

    /// The newest event known, once that is recent enough for an answer.
    pub(crate) async fn current(&self) -> Result<i64> {
        let lapsed = Instant::now().checked_sub(LEASE);
        let (needed, seq) = {
            let recent = self.recent();
            let needed = recent.committed_at.max(lapsed);
            (needed.filter(|needed| recent.read_at <= Some(*needed)), recent.seq)
        };
        match needed {
            None => Ok(seq),
            Some(moment) => self.read_after(moment).await,
        }
    }

    /// The newest event known, from a read that began after this moment.
    pub(crate) async fn read_after(&self, moment: Instant) -> Result<i64> {
        let known = || Some(self.recent()).filter(|recent| recent.read_at > Some(moment)).map(|recent| recent.seq);
        if let Some(seq) = known() {
            return Ok(seq);
        }
        let asked = Instant::now();
        let mut failed = self.0.reading.lock().await;
        if let Some(seq) = known() {
            return Ok(seq);
        }
        // Otherwise those who wait would fail one after the other.
        if let Some((_, error)) = failed.as_ref().filter(|(at, _)| *at > asked) {
            return Err(error.clone());
        }
        let read = self.read().await;
        *failed = read.as_ref().err().map(|error| (Instant::now(), error.clone()));
        read
    }

    async fn read(&self) -> Result<i64> {
        let (began, known) = (Instant::now(), self.recent().seq);
        let db = self.0.db.changes();
        let head = event_head::Entity::find_by_id(1).one(db).await?.map_or(0, |head| head.seq);
        let is_near = (0..=REMEMBERED).contains(&(head - known));
        let new: Vec<(i64, EventKind, TenantId, Option<LicenseId>)> = if is_near && head > known {
            let columns = [event::Column::Seq, event::Column::Kind, event::Column::TenantId, event::Column::LicenseId];
            let new = event::Entity::find().filter(event::Column::Seq.gt(known)).filter(event::Column::Seq.lte(head));
            new.order_by_asc(event::Column::Seq).select_only().columns(columns).into_tuple().all(db).await?
        } else {
            Vec::new()
        };
        let mut recent = self.recent_mut();
        // After a restart, a long pause or the deletion of old events, nothing from before is used.
        if recent.read_at.is_none() || !is_near || new.len() as u64 != (head - known).unsigned_abs() {
            recent.forget(head);
        }
        for (seq, kind, tenant, license) in new {
            for concerns in Concerns::of(kind, tenant, license) {
                recent.remember(seq, concerns);
            }
        }
        (recent.seq, recent.read_at) = (head, Some(began));
        Ok(head)
    }

    /// Whether nothing that the basis depends on has changed after this event. Call it after [`current`](Self::current).
    pub(crate) fn unchanged_since(&self, seq: i64, basis: Basis) -> bool {
        self.recent().unchanged_since(seq, basis)
    }

    /// Returns once no instance answers from what was read before now. Call it after a commit.
    pub(crate) async fn settle(&self) {
        tokio::time::sleep(LEASE + MARGIN).await;
    }

    /// Follows the event log for as long as the process runs, so that answers do not wait for it. While the database does
    /// not respond, answers report that.
    pub async fn follow(&self) {
        let mut interval = tokio::time::interval(INTERVAL);
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
    fn unchanged_since(&self, seq: i64, basis: Basis) -> bool {
        let is_later = |concerns: &Concerns| self.last.get(concerns).is_some_and(|last| *last > seq);
        seq >= self.since && !basis.concerns().iter().flatten().any(is_later)
    }

    fn remember(&mut self, seq: i64, concerns: Concerns) {
        if concerns == Concerns::Everything {
            return self.forget(seq);
        }
        self.last.insert(concerns, seq);
        self.in_order.push_back((seq, concerns));
        if self.in_order.len() as u64 > REMEMBERED.unsigned_abs()
            && let Some((seq, oldest)) = self.in_order.pop_front()
        {
            self.since = seq;
            if self.last.get(&oldest) == Some(&seq) {
                self.last.remove(&oldest);
            }
        }
    }

    /// Forgets all changes, so that nothing that was read before `seq` is used.
    fn forget(&mut self, seq: i64) {
        self.since = seq;
        self.last.clear();
        self.in_order.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Ids;

    fn recent() -> Recent {
        Recent {
            seq: 10,
            read_at: None,
            committed_at: None,
            since: 10,
            last: HashMap::new(),
            in_order: VecDeque::new(),
        }
    }

    #[test]
    fn what_was_read_is_true_until_an_event_concerns_it() {
        let ids = Ids::seeded(3);
        let (license, other, tenant) = (LicenseId(ids.v4()), LicenseId(ids.v4()), TenantId(ids.v4()));
        let known = |recent: &Recent, seq, license| recent.unchanged_since(seq, Basis::License(license, tenant));
        let mut recent = recent();
        assert!(!known(&recent, 9, license), "older than what is remembered");
        recent.remember(11, Concerns::License(license));
        assert_eq!([10, 11].map(|seq| known(&recent, seq, license)), [false, true]);
        assert!(known(&recent, 10, other));
        recent.remember(12, Concerns::Tenant(tenant));
        assert_eq!([11, 12].map(|seq| known(&recent, seq, other)), [false, true]);
        assert!(recent.unchanged_since(10, Basis::ApiKey(TenantId(ids.v4()))));
        assert!(recent.unchanged_since(10, Basis::UnknownKey));
        recent.remember(13, Concerns::Everything);
        assert_eq!([12, 13].map(|seq| known(&recent, seq, other)), [false, true]);
    }

    #[test]
    fn what_is_older_than_the_remembered_changes_is_not_used() {
        let ids = Ids::seeded(4);
        let (license, tenant) = (LicenseId(ids.v4()), TenantId(ids.v4()));
        let mut recent = recent();
        for seq in 11..=11 + REMEMBERED {
            recent.remember(seq, Concerns::License(LicenseId(ids.v4())));
        }
        let known = |seq| recent.unchanged_since(seq, Basis::License(license, tenant));
        assert_eq!((known(10), known(11)), (false, true));
        assert_eq!((recent.last.len(), recent.in_order.len()), (50_000, 50_000));
    }
}
