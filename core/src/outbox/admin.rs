//! The outbox as operators see it.

use chrono::{DateTime, Utc};
use sea_orm::sea_query::{CaseStatement, Expr};
use sea_orm::{ColumnTrait, Condition, EntityTrait, ExprTrait, QueryFilter, QueryOrder, QuerySelect};
use uuid::Uuid;

use super::delivery::DeliveryState;
use crate::entity::outbox::{Column, Entity, Model as OutboxRow};
use crate::events::{EventData, NewEvent};
use crate::{Caller, Core, Reason, Result, db, tx::Tx};

/// A page of the outbox, newest first.
pub async fn list(core: &Core, state: Option<DeliveryState>, page: u64, size: u64) -> Result<Vec<OutboxRow>> {
    let filter = Condition::all().add_option(state.map(|state| Column::State.eq(state)));
    let rows = Entity::find().filter(filter).order_by_desc(Column::Id);
    Ok(rows.offset((page - 1).saturating_mul(size)).limit(size).all(core.db.read()).await?)
}

/// Makes a dead or undelivered delivery due again. Refused with `NOT_FOUND` if no delivery has this id; `CONFLICT` if
/// it is pending, was sent, or has expired.
pub async fn replay(core: &Core, caller: &Caller, id: Uuid) -> Result<()> {
    let mut tx = Tx::begin(core).await?;
    let row = Entity::find_by_id(id).lock_exclusive().one(tx.db()).await?;
    let row = row.ok_or_else(|| Reason::NoDelivery.refusal())?;
    let has_failed = matches!(row.state, DeliveryState::Dead | DeliveryState::Undelivered);
    if !has_failed || row.expires_at.is_some_and(|expires_at| expires_at <= tx.now()) {
        return Err(Reason::NotReplayable.refusal());
    }
    let (state, due_at) = (DeliveryState::Pending.into(), tx.now().into());
    let changes = [(Column::State, state), (Column::Attempt, 0.into()), (Column::DueAt, due_at)];
    db::update(changes, [Column::Id.eq(id)]).exec(tx.db()).await?;
    let data = EventData::DeliveryReplayed { delivery: id, kind: row.kind };
    tx.record(NewEvent::tenant(caller.scope().tenant(), caller.actor(), data));
    tx.notify(row.transport.topic());
    tx.commit().await
}

/// The number of deliveries by state, and the age of the oldest due one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueDepth {
    /// Pending deliveries.
    pub pending: u64,
    /// Pending deliveries that are due.
    pub due: u64,
    /// Pending deliveries that are claimed.
    pub claimed: u64,
    /// Dead deliveries.
    pub dead: u64,
    /// How long the oldest due delivery has been due, in seconds.
    pub oldest_due_s: i64,
}

/// The queue depth, for metrics.
pub async fn queue_depth(core: &Core) -> Result<QueueDepth> {
    type Counts = (Option<i64>, Option<i64>, Option<i64>, Option<i64>, Option<DateTime<Utc>>);
    let now = core.clock.now();
    let is_pending = || Column::State.eq(DeliveryState::Pending);
    let is_due = || is_pending().and(Column::DueAt.lte(now));
    let count = |condition: Expr| Expr::Case(Box::new(CaseStatement::new().case(condition, 1).finally(0))).sum();
    let oldest = Expr::Case(Box::new(CaseStatement::new().case(is_due(), Expr::col(Column::DueAt)))).min();
    let counts: Option<Counts> = Entity::find()
        .select_only()
        .expr(count(is_pending()))
        .expr(count(is_due()))
        .expr(count(is_pending().and(Column::LeaseUntil.is_not_null())))
        .expr(count(Column::State.eq(DeliveryState::Dead)))
        .expr(oldest)
        .filter(Column::State.is_in([DeliveryState::Pending, DeliveryState::Dead]))
        .into_tuple()
        .one(core.db.read())
        .await?;
    let (pending, due, claimed, dead, oldest) = counts.unwrap_or_default();
    let number = |count: Option<i64>| count.unwrap_or_default().unsigned_abs();
    Ok(QueueDepth {
        pending: number(pending),
        due: number(due),
        claimed: number(claimed),
        dead: number(dead),
        oldest_due_s: oldest.map_or(0, |due_at| (now - due_at).num_seconds()),
    })
}
