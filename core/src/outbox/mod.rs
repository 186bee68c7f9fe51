//! The outbox: deliveries, each an effect to perform for one recipient, written in the transaction of the
//! change that causes it.
//!
//! ```text
//! Tx -> enqueue -> [pending] -> claim (lease, attempt + 1) -> worker `relay` -> complete
//!                      ^------- retry / lease expired --------|-> sent | undelivered | dead
//! ```
//! The attempt is counted when a delivery is claimed, so that a payload that crashes the process is given
//! up eventually. Only the newest lease token can complete a delivery. Payloads contain ids, not secrets: a
//! license key is read when it is sent.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use sea_orm::sea_query::{CommonTableExpression, Expr, LockBehavior, LockType, Query};
use sea_orm::{ColumnTrait, Condition, ConnectionTrait, EntityTrait, ExprTrait, FromQueryResult, IntoActiveModel};
use sea_orm::{QueryFilter, QueryOrder, QuerySelect, QueryTrait, Select};
use uuid::Uuid;

use crate::entity::outbox::{Column, Entity};
use crate::{Core, Error, Result, db, ids::LicenseId, tx::Tx};

mod admin;
mod delivery;

pub use self::admin::{QueueDepth, list, queue_depth, replay};
pub use self::delivery::{Delivery, DeliveryKind, DeliveryState, EmailTemplate, Transport};
pub use crate::entity::outbox::Model as OutboxRow;

/// When to perform a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notify {
    /// As soon as it is committed.
    Now,
    /// This long after the previous delivery of its kind, for bulk changes.
    Staggered(Duration),
    /// Never; a command shows the result on request.
    Silent,
}

/// A delivery that this instance may perform until its lease expires.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The id of the delivery.
    pub id: Uuid,
    /// The number of this attempt, starting at 1.
    pub attempt: u32,
    /// The effect to perform.
    pub delivery: Delivery,
    /// When the delivery was created.
    pub created_at: DateTime<Utc>,
    token: i64,
}

/// The result of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Performed.
    Sent,
    /// Postponed, for example by a rate limit. Does not count as an attempt.
    Wait(Duration),
    /// Failed temporarily; retried after the backoff.
    Failed(String),
    /// The recipient cannot be reached.
    Undelivered(String),
    /// Failed permanently.
    Dead(String),
}

impl Outcome {
    /// The label in metrics.
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Wait(_) => "wait",
            Self::Failed(_) => "failed",
            Self::Undelivered(_) => "undelivered",
            Self::Dead(_) => "dead",
        }
    }
}

/// Attempts before a delivery is dead: about a day with [`backoff`].
const MAX_ATTEMPTS: u32 = 18;

/// The delay after a failed attempt: 5 s, 10 s, 20 s … at most 4 h.
fn backoff(attempt: u32) -> Duration {
    let doublings = std::cmp::min(attempt.saturating_sub(1), 12);
    std::cmp::min(Duration::from_secs(5 << doublings), Duration::from_hours(4))
}

const PENDING: DeliveryState = DeliveryState::Pending;

/// Adds a delivery. `key` is unique: adding a second delivery with the same key does nothing.
pub(crate) async fn enqueue(tx: &mut Tx, delivery: &Delivery, key: String, notify: Notify) -> Result<()> {
    let due_at = match notify {
        Notify::Silent => return Ok(()),
        Notify::Now => tx.now(),
        Notify::Staggered(gap) => staggered_due_at(tx, delivery, gap).await?,
    };
    enqueue_at(tx, delivery, key, due_at, None).await
}

async fn staggered_due_at(tx: &Tx, delivery: &Delivery, gap: Duration) -> Result<DateTime<Utc>> {
    // Ignore scheduled retries: they do not mark the end of the queue.
    let is_retry = Column::State.eq(PENDING).and(Column::Attempt.ne(0)).and(Column::LeaseUntil.is_null());
    let others = Entity::find().filter(Column::Kind.eq(delivery.kind())).filter(is_retry.not());
    let last = others.select_only().column_as(Column::DueAt.max(), "last").into_tuple::<Option<DateTime<Utc>>>();
    let last = last.one(tx.db()).await?;
    Ok(last.flatten().map_or(tx.now(), |last| std::cmp::max(tx.now(), last + gap)))
}

/// Adds a delivery to perform at `due_at`, which is dropped after `expires_at`.
pub(crate) async fn enqueue_at(
    tx: &mut Tx,
    delivery: &Delivery,
    key: String,
    due_at: DateTime<Utc>,
    expires_at: Option<DateTime<Utc>>,
) -> Result<()> {
    let row = OutboxRow {
        id: tx.core().ids.v7(tx.now()),
        kind: delivery.kind(),
        transport: delivery.kind().transport(),
        ordering_key: delivery.ordering_key(),
        dedupe_key: key,
        payload: serde_json::to_value(delivery).map_err(|error| Error::Internal(error.to_string()))?,
        due_at,
        expires_at,
        attempt: 0,
        lease_token: 0,
        lease_until: None,
        state: PENDING,
        last_error: None,
        created_at: tx.now(),
    };
    let topic = row.transport.topic();
    db::insert_if_new(tx.db(), row.into_active_model()).await?;
    tx.notify(topic);
    Ok(())
}

/// Deliveries that are due and not claimed: of each ordering key, the oldest pending one.
fn due(core: &Core, transport: Transport) -> Select<Entity> {
    let earlier_with_same_key = Query::select()
        .expr(Expr::value(1))
        .from_as(Entity, "earlier")
        .and_where(Expr::col(("earlier", Column::OrderingKey)).equals((Entity, Column::OrderingKey)))
        .and_where(Expr::col(("earlier", Column::State)).eq(pending()))
        .and_where(Expr::col(("earlier", Column::Id)).lt(Expr::col((Entity, Column::Id))))
        .to_owned();
    unclaimed(core, transport).filter(Expr::exists(earlier_with_same_key).not())
}

fn unclaimed(core: &Core, transport: Transport) -> Select<Entity> {
    let now = core.clock.now();
    Entity::find()
        .filter(Expr::col((Entity, Column::State)).eq(pending()))
        .filter(Column::Transport.eq(transport))
        .filter(Column::DueAt.lte(now))
        .filter(Condition::any().add(Column::LeaseUntil.is_null()).add(Column::LeaseUntil.lte(now)))
}

/// The state of the partial indexes, which do not serve a bound value.
fn pending() -> Expr {
    Expr::cust("'pending'")
}

/// How many deliveries of a transport could be claimed now, at most `limit`. Takes no lock, so that an idle service does
/// not occupy `SQLite`'s single writer.
pub async fn count_due(core: &Core, transport: Transport, limit: u64) -> Result<u64> {
    let ids = due(core, transport).select_only().column(Column::Id).limit(limit).into_tuple::<Uuid>();
    Ok(ids.all(core.db.read()).await?.len() as u64)
}

/// Claims up to `count` due deliveries of a transport for `lease_duration`, oldest first. Expired deliveries
/// are marked as undelivered instead.
pub async fn claim(core: &Core, transport: Transport, count: u64, lease_duration: Duration) -> Result<Vec<Claim>> {
    let now = core.clock.now();
    let due = due(core, transport).select_only().column(Column::Id).order_by_asc(Column::DueAt).limit(count);
    let due = due.lock_with_behavior(LockType::Update, LockBehavior::SkipLocked).into_query();
    // Read once: a subquery of its own could be read again for each row, and would then lock more rows.
    let due = CommonTableExpression::new().table_name("due").query(due).to_owned();
    let ids = Query::select().column(Column::Id).from("due").to_owned();
    let leased = [
        (Column::Attempt, Expr::col(Column::Attempt).add(1)),
        (Column::LeaseToken, Expr::col(Column::LeaseToken).add(1)),
        (Column::LeaseUntil, (now + lease_duration).into()),
    ];
    let mut update = db::update(leased, [Column::Id.in_subquery(ids)]).into_query();
    update.with_cte(due).returning_all();
    let rows = core.db.writer().query_all(&update).await?;
    let rows = rows.iter().map(|row| OutboxRow::from_query_result(row, "")).collect::<Result<Vec<_>, _>>()?;
    parse_claimed(core, transport, rows).await
}

/// The claims of rows that were just leased, oldest first. Those that cannot be performed are completed.
async fn parse_claimed(core: &Core, transport: Transport, mut rows: Vec<OutboxRow>) -> Result<Vec<Claim>> {
    rows.sort_unstable_by_key(|row| (row.due_at, row.id));
    let (now, mut claims, mut completed) = (core.clock.now(), Vec::new(), Vec::new());
    for row in rows {
        let attempt = u32::try_from(row.attempt).unwrap_or(0);
        let lease = Lease { id: row.id, attempt, token: row.lease_token };
        if row.expires_at.is_some_and(|expires_at| expires_at <= now) {
            completed.push((lease, Outcome::Undelivered("expired before it could be sent".to_owned())));
            continue;
        }
        match serde_json::from_value(row.payload) {
            Ok(delivery) => {
                claims.push(Claim { id: row.id, attempt, delivery, created_at: row.created_at, token: lease.token });
            }
            // Written by a newer version, or damaged. It must not block the other deliveries.
            Err(error) => {
                tracing::warn!(delivery = %row.id, kind = %row.kind, %error, "could not parse a delivery; it will be retried");
                completed.push((lease, Outcome::Failed("the payload could not be parsed".to_owned())));
            }
        }
    }
    if !completed.is_empty() {
        complete_leases(core, completed).await?;
        // The next delivery with the same ordering key may be performed now.
        core.bus.notify_locally(transport.topic());
    }
    Ok(claims)
}

/// Postpones the due deliveries of a transport, all with one statement. Does not count as an attempt.
pub async fn postpone(core: &Core, transport: Transport, wait: Duration) -> Result<()> {
    let due_at = [(Column::DueAt, (core.clock.now() + wait).into())];
    let ids = unclaimed(core, transport).select_only().column(Column::Id).into_query();
    db::update(due_at, [Column::Id.in_subquery(ids)]).exec(core.db.writer()).await?;
    Ok(())
}

/// The right to complete a delivery.
struct Lease {
    id: Uuid,
    attempt: u32,
    token: i64,
}

/// Records the outcome, unless the lease was lost. Returns whether it was recorded. If this fails, the
/// delivery becomes due again when its lease expires.
pub async fn complete(core: &Core, claim: &Claim, outcome: Outcome) -> Result<bool> {
    Ok(!complete_all(core, vec![(claim, outcome)]).await?.is_empty())
}

/// Like [`complete`] for several claims, in one transaction. Returns the ids of those that were recorded.
pub async fn complete_all(core: &Core, outcomes: Vec<(&Claim, Outcome)>) -> Result<HashSet<Uuid>> {
    let lease = |claim: &Claim| Lease { id: claim.id, attempt: claim.attempt, token: claim.token };
    complete_leases(core, outcomes.into_iter().map(|(claim, outcome)| (lease(claim), outcome)).collect()).await
}

async fn complete_leases(core: &Core, outcomes: Vec<(Lease, Outcome)>) -> Result<HashSet<Uuid>> {
    let now = core.clock.now();
    let mut changes = BTreeMap::<Completion, Vec<Uuid>>::new();
    for (lease, outcome) in outcomes {
        changes.entry(Completion::of(&lease, outcome, now)).or_default().push(lease.id);
    }
    if changes.len() == 1 {
        return complete_in(core.db.writer(), changes).await;
    }
    let tx = Tx::begin_repeatable(core).await?;
    let recorded = complete_in(tx.db(), changes).await?;
    tx.commit().await?;
    Ok(recorded)
}

async fn complete_in(db: &impl ConnectionTrait, changes: BTreeMap<Completion, Vec<Uuid>>) -> Result<HashSet<Uuid>> {
    let mut recorded = HashSet::new();
    for (completion, ids) in changes {
        let leased = [Column::Id.is_in(ids), Column::LeaseToken.eq(completion.token)];
        let mut update = db::update(completion.changes(), leased).into_query();
        for row in db.query_all(update.returning_col(Column::Id)).await? {
            recorded.insert(row.try_get("", "id")?);
        }
    }
    Ok(recorded)
}

/// What an outcome changes. Deliveries for which it is equal are completed with one statement.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Completion {
    token: i64,
    state: DeliveryState,
    attempt: u32,
    due_at: Option<DateTime<Utc>>,
    error: Option<String>,
}

impl Completion {
    fn of(lease: &Lease, outcome: Outcome, now: DateTime<Utc>) -> Self {
        let attempt = lease.attempt;
        let (state, due_at, error, attempt) = match outcome {
            Outcome::Sent => (DeliveryState::Sent, None, None, attempt),
            Outcome::Wait(wait) => (PENDING, Some(now + wait), None, attempt - 1),
            Outcome::Failed(reason) if attempt >= MAX_ATTEMPTS => (DeliveryState::Dead, None, Some(reason), attempt),
            Outcome::Failed(reason) => (PENDING, Some(now + backoff(attempt)), Some(reason), attempt),
            Outcome::Undelivered(reason) => (DeliveryState::Undelivered, None, Some(reason), attempt),
            Outcome::Dead(reason) => (DeliveryState::Dead, None, Some(reason), attempt),
        };
        Self { token: lease.token, state, attempt, due_at, error }
    }

    fn changes(&self) -> impl Iterator<Item = (Column, Expr)> {
        let changes = [
            (Column::State, self.state.into()),
            (Column::Attempt, i32::try_from(self.attempt).unwrap_or(i32::MAX).into()),
            (Column::LeaseUntil, None::<DateTime<Utc>>.into()),
            (Column::LastError, self.error.clone().into()),
        ];
        changes.into_iter().chain(self.due_at.map(|due_at| (Column::DueAt, due_at.into())))
    }
}

/// The licenses among these, each with the epoch of its key, whose key could not be delivered.
pub async fn undelivered_keys(core: &Core, licenses: &[(LicenseId, i32)]) -> Result<HashSet<LicenseId>> {
    let keys = licenses.iter().map(|&(license, epoch)| key_dm(license, epoch).1);
    let failed =
        Entity::find().filter(Column::DedupeKey.is_in(keys)).filter(Column::State.eq(DeliveryState::Undelivered));
    let failed: HashSet<String> = failed.all(core.db.read()).await?.into_iter().map(|row| row.dedupe_key).collect();
    let is_failed = |&&(license, epoch): &&(LicenseId, i32)| failed.contains(&key_dm(license, epoch).1);
    Ok(licenses.iter().filter(is_failed).map(|&(license, _)| license).collect())
}

/// The delivery of a license's key, and its dedupe key: each key is sent at most once.
pub(crate) fn key_dm(license: LicenseId, epoch: i32) -> (Delivery, String) {
    let key = if epoch == 1 { format!("key_dm:{license}") } else { format!("key_dm:{license}:{epoch}") };
    (Delivery::KeyDm { license }, key)
}

/// Deletes completed deliveries that were due more than 30 days ago. Returns how many.
pub(crate) async fn delete_old(core: &Core) -> Result<u64> {
    let cutoff = core.clock.now() - Duration::from_hours(720);
    let completed = DeliveryState::ALL.iter().copied().filter(|state| *state != PENDING);
    let old = Column::State.is_in(completed).and(Column::DueAt.lt(cutoff));
    db::delete_in_batches(core.db.writer(), Column::Id, old).await
}
