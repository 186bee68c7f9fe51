//! Scheduled workers and leases, one row each.
//!
//! A worker takes no input and is idempotent. Its row stores when it is due next. One compare-and-set
//! leases it to an instance for one run; any number of missed runs is caught up with one. The gateway lease
//! is such a row that is renewed instead of released. Its token only increases, so that it serves as a
//! fence: writes of a former holder can be rejected.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sea_orm::{
    ActiveValue::Set,
    ColumnTrait, Condition, EntityTrait, ExprTrait, QueryFilter, QuerySelect,
    sea_query::{Expr, OnConflict},
};

use crate::{
    Core, Result,
    bus::Topic,
    entity::worker::{ActiveModel, Column, Entity},
    tx::Tx,
};

pub(crate) mod schedule;

pub(crate) use self::schedule::schedule_no_later_than;
pub use self::schedule::{CLEANUP, EXPIRE, GATEWAY, LOG_CHANNEL, RECONCILE_ROLES};
pub use crate::entity::worker::Model as WorkerRow;

/// A lease acquired by this instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The name of the worker.
    pub name: String,
    /// The fencing token; increases with every holder.
    pub token: i64,
}

/// Creates the row, due now, unless it exists.
pub async fn register(core: &Core, name: &str) -> Result<()> {
    let row = ActiveModel {
        name: Set(name.to_owned()),
        due_at: Set(core.clock.now()),
        lease_until: Set(None),
        token: Set(0),
        last_run: Set(None),
        last_result: Set(None),
    };
    Entity::insert(row)
        .on_conflict(OnConflict::column(Column::Name).do_nothing().to_owned())
        .exec_without_returning(core.db.writer())
        .await?;
    Ok(())
}

/// Acquires the lease if the worker is due and not leased, or if the previous lease expired. Sets the next
/// due time to `next`.
pub async fn acquire(core: &Core, name: &str, lease_duration: Duration, next: DateTime<Utc>) -> Result<Option<Lease>> {
    let now = core.clock.now();
    let due = Condition::all().add(Column::LeaseUntil.is_null()).add(Column::DueAt.lte(now));
    let available = Condition::any().add(due).add(Column::LeaseUntil.lte(now));
    let available = Condition::all().add(Column::Name.eq(name)).add(available);
    // Check without a write lock first.
    if Entity::find().filter(available.clone()).one(core.db.read()).await?.is_none() {
        return Ok(None);
    }
    let updated = Entity::update_many()
        .col_expr(Column::Token, Expr::col(Column::Token).add(1))
        .col_expr(Column::LeaseUntil, Expr::value(now + lease_duration))
        .col_expr(Column::DueAt, Expr::value(next))
        .col_expr(Column::LastRun, Expr::value(now))
        .filter(available)
        .exec_with_returning(core.db.writer())
        .await?;
    Ok(updated.into_iter().next().map(|row| Lease { name: row.name, token: row.token }))
}

/// Renews the lease for another `lease_duration`. Returns `false` if it was lost.
pub async fn renew(core: &Core, lease: &Lease, lease_duration: Duration) -> Result<bool> {
    let updated = Entity::update_many()
        .col_expr(Column::LeaseUntil, Expr::value(core.clock.now() + lease_duration))
        .filter(Column::Name.eq(&lease.name))
        .filter(Column::Token.eq(lease.token))
        .exec(core.db.writer())
        .await?;
    Ok(updated.rows_affected == 1)
}

/// Invalidates the current lease, if any, and makes the worker due now, so that the next run does not wait for
/// the previous holder.
pub async fn revoke_lease(core: &Core, name: &str) -> Result<()> {
    Entity::update_many()
        .col_expr(Column::Token, Expr::col(Column::Token).add(1))
        .col_expr(Column::LeaseUntil, Expr::value(None::<DateTime<Utc>>))
        .col_expr(Column::DueAt, Expr::value(core.clock.now()))
        .filter(Column::Name.eq(name))
        .exec(core.db.writer())
        .await?;
    Ok(())
}

/// Releases the lease and stores the result of the run. If this fails, the lease expires on its own.
pub async fn release(core: &Core, lease: &Lease, result: &str) -> Result<()> {
    Entity::update_many()
        .col_expr(Column::LeaseUntil, Expr::value(None::<DateTime<Utc>>))
        .col_expr(Column::LastResult, Expr::value(result))
        .filter(Column::Name.eq(&lease.name))
        .filter(Column::Token.eq(lease.token))
        .exec(core.db.writer())
        .await?;
    Ok(())
}

/// Returns whether the lease is current, and locks it until the transaction ends. This fences off former
/// holders.
pub(crate) async fn lock_if_current(tx: &Tx, lease: &Lease) -> Result<bool> {
    let row = Entity::find_by_id(&lease.name).lock_shared().one(tx.db()).await?;
    Ok(row.is_some_and(|row| row.token == lease.token))
}

/// Returns whether the lease is current, without locking it.
pub async fn is_current(core: &Core, lease: &Lease) -> Result<bool> {
    let row = Entity::find_by_id(&lease.name).one(core.db.writer()).await?;
    Ok(row.is_some_and(|row| row.token == lease.token))
}

/// Moves the next run forward to `due_at` if it is due later, when the transaction commits.
pub(crate) async fn schedule_at(tx: &mut Tx, name: &str, due_at: DateTime<Utc>) -> Result<()> {
    if due_at <= tx.now() {
        tx.notify(Topic::Workers);
    }
    schedule_no_later_than(tx.db(), name, due_at).await
}

/// Moves the next run forward to `delay` from now if it is due later, and notifies the workers.
pub async fn schedule_in(core: &Core, name: &str, delay: Duration) -> Result<()> {
    schedule_no_later_than(core.db.writer(), name, core.clock.now() + delay).await?;
    core.bus.notify(Topic::Workers);
    Ok(())
}

/// Returns all rows, for `/health`.
pub async fn list(core: &Core) -> Result<Vec<WorkerRow>> {
    Ok(Entity::find().all(core.db.read()).await?)
}
