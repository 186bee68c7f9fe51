//! Scheduled workers and leases, one row each.
//!
//! A worker takes no input and is idempotent. Its row stores when it is due next. Acquiring it
//! leases it to an instance for one run; any number of missed runs is caught up with one. The gateway lease
//! is such a row that is renewed instead of released. Its token only increases, so that it serves as a
//! fence: writes of a former holder can be rejected.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sea_orm::sea_query::{Expr, LockType};
use sea_orm::{ColumnTrait, EntityTrait, ExprTrait, IntoActiveModel, QueryFilter, QueryOrder, QuerySelect};
use tokio::time::Instant;

use crate::entity::worker::{Column, Entity};
use crate::{Core, Result, bus::Topic, db, ids::InstanceId, tx::Tx};

pub(crate) mod schedule;

pub(crate) use self::schedule::schedule_no_later_than;
pub use self::schedule::{CLEANUP, EXPIRE, GATEWAY, LOG_CHANNEL, RECONCILE_ROLES, SIGNING_KEYS};
pub use crate::entity::worker::Model as WorkerRow;

/// A lease acquired by this instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The name of the worker.
    pub name: String,
    /// The fencing token; increases with every holder.
    pub token: i64,
    /// Until when no other instance can have acquired it, unless it is renewed.
    trusted_until: Instant,
}

/// Creates the row, due now, unless it exists.
pub async fn register(core: &Core, name: &str) -> Result<()> {
    let (name, due_at) = (name.to_owned(), core.clock.now());
    let row = WorkerRow { name, due_at, lease_until: None, token: 0, holder: None, last_run: None, last_result: None };
    db::insert_if_new(core.db.writer(), row.into_active_model()).await.map(drop)
}

/// Acquires the lease for this instance if the worker is due and not leased, or if the previous lease expired. Sets the
/// next due time to `next`.
pub async fn acquire(
    core: &Core,
    instance: InstanceId,
    name: &str,
    lease_duration: Duration,
    next: DateTime<Utc>,
) -> Result<Option<Lease>> {
    let (now, trusted_until) = (core.clock.now(), Instant::now() + lease_duration);
    let is_due = Column::LeaseUntil.is_null().and(Column::DueAt.lte(now));
    let available = Column::Name.eq(name).and(is_due.or(Column::LeaseUntil.lte(now)));
    // Check without a write lock first.
    if Entity::find().filter(available.clone()).one(core.db.read()).await?.is_none() {
        return Ok(None);
    }
    let leased = [
        (Column::Token, Expr::col(Column::Token).add(1)),
        (Column::LeaseUntil, (now + lease_duration).into()),
        (Column::Holder, instance.into()),
        (Column::DueAt, next.into()),
        (Column::LastRun, now.into()),
    ];
    let updated = change_holder(core, available, leased).await?;
    Ok(updated.into_iter().next().map(|row| Lease { name: row.name, token: row.token, trusted_until }))
}

/// Changes the holder of leases, after the units of work that are fenced by them have ended: they hold a lock that an
/// ordinary update, such as a renewal, does not wait for.
async fn change_holder(
    core: &Core,
    matching: Expr,
    changes: impl IntoIterator<Item = (Column, Expr)>,
) -> Result<Vec<WorkerRow>> {
    let tx = Tx::begin(core).await?;
    Entity::find().filter(matching.clone()).order_by_asc(Column::Name).lock_exclusive().all(tx.db()).await?;
    let changed = db::update(changes, [matching]).exec_with_returning(tx.db()).await?;
    tx.commit().await?;
    Ok(changed)
}

/// Renews the lease until this instance can no longer be sure that it holds it.
pub async fn keep(core: &Core, lease: &Lease, lease_duration: Duration) {
    let (pause, mut trusted_until) = (lease_duration / 4, lease.trusted_until);
    loop {
        tokio::time::sleep(pause).await;
        let started = Instant::now();
        match tokio::time::timeout(pause, renew(core, lease, lease_duration)).await {
            Ok(Ok(true)) => trusted_until = started + lease_duration,
            Ok(Ok(false)) => return,
            Ok(Err(_)) | Err(_) if Instant::now() + pause >= trusted_until => return,
            Ok(Err(error)) => tracing::warn!(worker = lease.name, %error, "could not renew a lease; trying again"),
            Err(_) => tracing::warn!(worker = lease.name, "renewing a lease took too long; trying again"),
        }
    }
}

/// Renews the lease for another `lease_duration`. Returns `false` if it was lost.
pub async fn renew(core: &Core, lease: &Lease, lease_duration: Duration) -> Result<bool> {
    let renewed = [(Column::LeaseUntil, (core.clock.now() + lease_duration).into())];
    Ok(db::update(renewed, row_of(lease)).exec(core.db.leases()).await?.rows_affected == 1)
}

/// The row of a lease, if it is current.
fn row_of(lease: &Lease) -> [Expr; 2] {
    [Column::Name.eq(&lease.name), Column::Token.eq(lease.token)]
}

/// Invalidates the current lease, if any, and makes the worker due now, so that the next run does not wait for
/// the previous holder.
pub async fn revoke_lease(core: &Core, name: &str) -> Result<()> {
    revoke(core, Column::Name.eq(name)).await
}

/// Invalidates the leases that an earlier process of this instance left behind.
pub async fn revoke_leases_of(core: &Core, instance: InstanceId) -> Result<()> {
    revoke(core, Column::Holder.eq(instance).and(Column::LeaseUntil.is_not_null())).await
}

async fn revoke(core: &Core, matching: Expr) -> Result<()> {
    let revoked = [
        (Column::Token, Expr::col(Column::Token).add(1)),
        (Column::LeaseUntil, None::<DateTime<Utc>>.into()),
        (Column::DueAt, core.clock.now().into()),
    ];
    change_holder(core, matching, revoked).await.map(drop)
}

/// Releases the lease and stores the result of the run. If this fails, the lease expires on its own.
pub async fn release(core: &Core, lease: &Lease, result: &str) -> Result<()> {
    let released = [(Column::LeaseUntil, None::<DateTime<Utc>>.into()), (Column::LastResult, result.into())];
    db::update(released, row_of(lease)).exec(core.db.writer()).await?;
    Ok(())
}

/// Whether the lease is current; it cannot change hands until the transaction ends, which fences off former holders.
pub(crate) async fn lock_if_current(tx: &Tx, lease: &Lease) -> Result<bool> {
    let row = Entity::find_by_id(&lease.name).lock(LockType::KeyShare).one(tx.db()).await?;
    Ok(row.is_some_and(|row| row.token == lease.token))
}

/// Whether the lease is current, without locking it.
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

/// All rows, for `/health`.
pub async fn list(core: &Core) -> Result<Vec<WorkerRow>> {
    Ok(Entity::find().all(core.db.read()).await?)
}
