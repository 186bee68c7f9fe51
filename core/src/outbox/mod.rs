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

use std::{collections::HashSet, time::Duration};

use chrono::{DateTime, Utc};
use sea_orm::sea_query::{Expr, LockBehavior, LockType, Query};
use sea_orm::{ColumnTrait, Condition, EntityTrait, ExprTrait, IntoActiveModel, PaginatorTrait, QueryFilter};
use sea_orm::{QueryOrder, QuerySelect};
use uuid::Uuid;

use crate::entity::outbox::{Column, Entity};
use crate::{Core, Error, Result, bus::Topic, db, ids::LicenseId, tx::Tx};

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
    db::insert_if_new(tx.db(), row.into_active_model()).await?;
    tx.notify(Topic::Outbox);
    Ok(())
}

/// Claims up to `count` due deliveries of a transport for `lease_duration`, oldest first. Expired deliveries
/// are marked as undelivered instead.
pub async fn claim(core: &Core, transport: Transport, count: u64, lease_duration: Duration) -> Result<Vec<Claim>> {
    let now = core.clock.now();
    let earlier_with_same_key = Query::select()
        .expr(Expr::value(1))
        .from_as(Entity, "earlier")
        .and_where(Expr::col(("earlier", Column::OrderingKey)).equals((Entity, Column::OrderingKey)))
        .and_where(Expr::col(("earlier", Column::State)).eq(PENDING))
        .and_where(Expr::col(("earlier", Column::Id)).lt(Expr::col((Entity, Column::Id))))
        .to_owned();
    let due = Entity::find()
        .filter(Column::State.eq(PENDING))
        .filter(Column::Transport.eq(transport))
        .filter(Column::DueAt.lte(now))
        .filter(Condition::any().add(Column::LeaseUntil.is_null()).add(Column::LeaseUntil.lte(now)))
        .filter(Expr::exists(earlier_with_same_key).not())
        .order_by_asc(Column::DueAt)
        .limit(count);
    // Check without a write lock first, so that an idle service does not occupy SQLite's single writer.
    if due.clone().count(core.db.read()).await? == 0 {
        return Ok(Vec::new());
    }
    let tx = Tx::begin(core).await?;
    let rows = due.lock_with_behavior(LockType::Update, LockBehavior::SkipLocked).all(tx.db()).await?;
    let leased = [
        (Column::Attempt, Expr::col(Column::Attempt).add(1)),
        (Column::LeaseToken, Expr::col(Column::LeaseToken).add(1)),
        (Column::LeaseUntil, (now + lease_duration).into()),
    ];
    db::update(leased, [Column::Id.is_in(rows.iter().map(|row| row.id))]).exec(tx.db()).await?;
    tx.commit().await?;
    let mut claims = Vec::new();
    for row in rows {
        let (id, token) = (row.id, row.lease_token + 1);
        let attempt = u32::try_from(row.attempt).unwrap_or(0) + 1;
        if row.expires_at.is_some_and(|expires_at| expires_at <= now) {
            let expired = Outcome::Undelivered("expired before it could be sent".to_owned());
            complete_row(core, id, attempt, token, expired).await?;
            continue;
        }
        match serde_json::from_value(row.payload) {
            Ok(delivery) => claims.push(Claim { id, attempt, delivery, created_at: row.created_at, token }),
            // Written by a newer version, or damaged. It must not block the other deliveries.
            Err(error) => {
                tracing::warn!(delivery = %id, kind = %row.kind, %error, "could not parse a delivery; it will be retried");
                let failed = Outcome::Failed("the payload could not be parsed".to_owned());
                complete_row(core, id, attempt, token, failed).await?;
            }
        }
    }
    Ok(claims)
}

/// Records the outcome, unless the lease was lost. Returns whether it was recorded. If this fails, the
/// delivery becomes due again when its lease expires.
pub async fn complete(core: &Core, claim: &Claim, outcome: Outcome) -> Result<bool> {
    complete_row(core, claim.id, claim.attempt, claim.token, outcome).await
}

async fn complete_row(core: &Core, id: Uuid, attempt: u32, token: i64, outcome: Outcome) -> Result<bool> {
    let now = core.clock.now();
    let (state, due_at, error, attempt) = match outcome {
        Outcome::Sent => (DeliveryState::Sent, None, None, attempt),
        Outcome::Wait(wait) => (PENDING, Some(now + wait), None, attempt - 1),
        Outcome::Failed(reason) if attempt >= MAX_ATTEMPTS => (DeliveryState::Dead, None, Some(reason), attempt),
        Outcome::Failed(reason) => (PENDING, Some(now + backoff(attempt)), Some(reason), attempt),
        Outcome::Undelivered(reason) => (DeliveryState::Undelivered, None, Some(reason), attempt),
        Outcome::Dead(reason) => (DeliveryState::Dead, None, Some(reason), attempt),
    };
    let changes = [
        (Column::State, state.into()),
        (Column::Attempt, i32::try_from(attempt).unwrap_or(i32::MAX).into()),
        (Column::LeaseUntil, None::<DateTime<Utc>>.into()),
        (Column::LastError, error.into()),
    ];
    let changes = changes.into_iter().chain(due_at.map(|due_at| (Column::DueAt, due_at.into())));
    let update = db::update(changes, [Column::Id.eq(id), Column::LeaseToken.eq(token)]);
    let recorded = update.exec(core.db.writer()).await?.rows_affected == 1;
    // The next delivery with the same ordering key may be performed now.
    core.bus.notify(Topic::Outbox);
    Ok(recorded)
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
