//! The outbox: deliveries, each an effect to perform for one recipient, written in the transaction of the
//! change that causes it.
//!
//! ```text
//! Tx -> send -> [pending] -> claim (lease, attempt + 1) -> worker `relay` -> complete
//!                   ^---------- retry / lease expired --------|-> sent | undelivered | dead
//! ```
//! The attempt is counted when a delivery is claimed, so that a payload that crashes the process is given
//! up eventually. Only the newest lease token can complete a delivery. Payloads contain ids, not secrets: a
//! license key is read when it is sent.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sea_orm::{
    ActiveValue::Set,
    ColumnTrait, Condition, EntityTrait, ExprTrait, PaginatorTrait, QueryFilter, QueryOrder, QuerySelect,
    sea_query::{Expr, LockBehavior, LockType, OnConflict, Query},
};
use uuid::Uuid;

use crate::{
    Core, Error, Result,
    bus::Topic,
    entity::outbox::{ActiveModel, Column, Entity},
    tx::Tx,
};

mod admin;
mod delivery;

pub use self::{
    admin::{QueueDepth, list, queue_depth, replay},
    delivery::{Delivery, DeliveryKind, DeliveryState, EmailTemplate, Transport},
};
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
    #[must_use]
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
    insert(tx, delivery, key, due_at, None).await
}

async fn staggered_due_at(tx: &Tx, delivery: &Delivery, gap: Duration) -> Result<DateTime<Utc>> {
    let last: Option<Option<DateTime<Utc>>> = Entity::find()
        .select_only()
        .column_as(Column::DueAt.max(), "last")
        .filter(Column::Kind.eq(delivery.kind()))
        // Ignore scheduled retries: they do not mark the end of the queue.
        .filter(
            Condition::any()
                .add(Column::State.ne(PENDING))
                .add(Column::Attempt.eq(0))
                .add(Column::LeaseUntil.is_not_null()),
        )
        .into_tuple()
        .one(tx.db())
        .await?;
    Ok(last.flatten().map_or(tx.now(), |last| std::cmp::max(tx.now(), last + gap)))
}

/// Adds a delivery to perform at `due_at`.
pub(crate) async fn enqueue_at(tx: &mut Tx, delivery: &Delivery, key: String, due_at: DateTime<Utc>) -> Result<()> {
    insert(tx, delivery, key, due_at, None).await
}

/// Adds a delivery that is dropped after `expires_at`.
pub(crate) async fn enqueue_until(
    tx: &mut Tx,
    delivery: &Delivery,
    key: String,
    expires_at: DateTime<Utc>,
) -> Result<()> {
    let now = tx.now();
    insert(tx, delivery, key, now, Some(expires_at)).await
}

async fn insert(
    tx: &mut Tx,
    delivery: &Delivery,
    key: String,
    due_at: DateTime<Utc>,
    expires_at: Option<DateTime<Utc>>,
) -> Result<()> {
    let row = ActiveModel {
        id: Set(tx.core().ids.v7(tx.now())),
        kind: Set(delivery.kind()),
        transport: Set(delivery.kind().transport()),
        ordering_key: Set(delivery.ordering_key()),
        dedupe_key: Set(key),
        payload: Set(serde_json::to_value(delivery).map_err(|error| Error::Internal(error.to_string()))?),
        due_at: Set(due_at),
        expires_at: Set(expires_at),
        attempt: Set(0),
        lease_token: Set(0),
        lease_until: Set(None),
        state: Set(PENDING),
        last_error: Set(None),
        created_at: Set(tx.now()),
    };
    Entity::insert(row)
        .on_conflict(OnConflict::column(Column::DedupeKey).do_nothing().to_owned())
        .exec_without_returning(tx.db())
        .await?;
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
    Entity::update_many()
        .col_expr(Column::Attempt, Expr::col(Column::Attempt).add(1))
        .col_expr(Column::LeaseToken, Expr::col(Column::LeaseToken).add(1))
        .col_expr(Column::LeaseUntil, Expr::value(now + lease_duration))
        .filter(Column::Id.is_in(rows.iter().map(|row| row.id)))
        .exec(tx.db())
        .await?;
    tx.commit().await?;
    let mut claims = Vec::new();
    for row in rows {
        let (id, token) = (row.id, row.lease_token + 1);
        let attempt = u32::try_from(row.attempt).unwrap_or(0) + 1;
        if row.expires_at.is_some_and(|expires_at| expires_at <= now) {
            complete_row(core, id, attempt, token, Outcome::Undelivered("expired before it could be sent".to_owned()))
                .await?;
            continue;
        }
        match serde_json::from_value(row.payload) {
            Ok(delivery) => claims.push(Claim { id, attempt, delivery, created_at: row.created_at, token }),
            // Written by a newer version, or damaged. It must not block the other deliveries.
            Err(error) => {
                tracing::warn!(delivery = %id, kind = %row.kind, %error, "could not parse a delivery; it will be retried");
                complete_row(core, id, attempt, token, Outcome::Failed("the payload could not be parsed".to_owned()))
                    .await?;
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
    let mut update = Entity::update_many()
        .col_expr(Column::State, Expr::value(state))
        .col_expr(Column::Attempt, Expr::value(i32::try_from(attempt).unwrap_or(i32::MAX)))
        .col_expr(Column::LeaseUntil, Expr::value(None::<DateTime<Utc>>))
        .col_expr(Column::LastError, Expr::value(error))
        .filter(Column::Id.eq(id))
        .filter(Column::LeaseToken.eq(token));
    if let Some(due_at) = due_at {
        update = update.col_expr(Column::DueAt, Expr::value(due_at));
    }
    let recorded = update.exec(core.db.writer()).await?.rows_affected == 1;
    // The next delivery with the same ordering key may be performed now.
    core.bus.notify(Topic::Outbox);
    Ok(recorded)
}

/// Deletes completed deliveries that were due more than 30 days ago. Returns how many.
pub async fn delete_old(core: &Core) -> Result<u64> {
    let cutoff = core.clock.now() - Duration::from_hours(720);
    let completed = Entity::delete_many().filter(Column::State.ne(PENDING)).filter(Column::DueAt.lt(cutoff));
    Ok(completed.exec(core.db.writer()).await?.rows_affected)
}
