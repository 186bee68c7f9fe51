//! Scheduled workers and leases, one row each.
//!
//! A worker is a reconciler: no input, idempotent. Its row says when it is next due; one
//! compare-and-set makes an instance its leader for one run, and a run that was missed is caught up
//! once. The gateway lease is the same row, renewed instead of finished: its token only rises, so
//! that what a former holder still writes can be told apart.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sea_orm::{
    ActiveValue::Set,
    ColumnTrait, Condition, ConnectionTrait, EntityTrait, ExprTrait, QueryFilter, QuerySelect,
    sea_query::{Expr, OnConflict},
};

use crate::{
    Core, Result,
    bus::Topic,
    entity::worker::{ActiveModel, Column, Entity},
    tx::Tx,
};

pub use crate::entity::worker::Model as Report;

/// Ends what the clock ends: licenses past their grace, and news of expiry.
pub const EXPIRE: &str = "expire";
/// The full pass over every guild's members.
pub const RECONCILE_ROLES: &str = "reconcile_roles";
/// Reads the log on for the log channels.
pub const LOG_CHANNEL: &str = "log_channel";
/// Forgets what is over.
pub const CLEANUP: &str = "cleanup";
/// The lease of the one instance that listens to the gateway.
pub const GATEWAY: &str = "gateway";

/// A row this instance holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The row's name.
    pub name: String,
    /// Rises with every holder.
    pub token: i64,
}

/// Makes sure that the row exists, due now.
///
/// # Errors
/// When the database does not answer.
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

/// Takes the row if it is due and nobody holds it, or if its holder died; from then on it is next
/// due at `next`.
///
/// # Errors
/// When the database does not answer.
pub async fn acquire(core: &Core, name: &str, lease: Duration, next: DateTime<Utc>) -> Result<Option<Lease>> {
    let now = core.clock.now();
    let due = Condition::all().add(Column::LeaseUntil.is_null()).add(Column::DueAt.lte(now));
    let free = Condition::any().add(due).add(Column::LeaseUntil.lte(now));
    let free = Condition::all().add(Column::Name.eq(name)).add(free);
    // Looking costs no write lock.
    if Entity::find().filter(free.clone()).one(core.db.read()).await?.is_none() {
        return Ok(None);
    }
    let taken = Entity::update_many()
        .col_expr(Column::Token, Expr::col(Column::Token).add(1))
        .col_expr(Column::LeaseUntil, Expr::value(now + lease))
        .col_expr(Column::DueAt, Expr::value(next))
        .col_expr(Column::LastRun, Expr::value(now))
        .filter(free)
        .exec_with_returning(core.db.writer())
        .await?;
    Ok(taken.into_iter().next().map(|row| Lease { name: row.name, token: row.token }))
}

/// Keeps the row for another `lease`. `false`: somebody else holds it now.
///
/// # Errors
/// When the database does not answer.
pub async fn renew(core: &Core, held: &Lease, lease: Duration) -> Result<bool> {
    let kept = Entity::update_many()
        .col_expr(Column::LeaseUntil, Expr::value(core.clock.now() + lease))
        .filter(Column::Name.eq(&held.name))
        .filter(Column::Token.eq(held.token))
        .exec(core.db.writer())
        .await?;
    Ok(kept.rows_affected == 1)
}

/// Takes a row from whoever holds it and makes it due: for a holder who lost the right to it.
///
/// # Errors
/// When the database does not answer.
pub async fn take_over(core: &Core, name: &str) -> Result<()> {
    Entity::update_many()
        .col_expr(Column::Token, Expr::col(Column::Token).add(1))
        .col_expr(Column::LeaseUntil, Expr::value(None::<DateTime<Utc>>))
        .col_expr(Column::DueAt, Expr::value(core.clock.now()))
        .filter(Column::Name.eq(name))
        .exec(core.db.writer())
        .await?;
    Ok(())
}

/// Gives the row back, with a line on how it went.
///
/// # Errors
/// When the database does not answer; the lease then ends by itself.
pub async fn release(core: &Core, held: &Lease, result: &str) -> Result<()> {
    Entity::update_many()
        .col_expr(Column::LeaseUntil, Expr::value(None::<DateTime<Utc>>))
        .col_expr(Column::LastResult, Expr::value(result))
        .filter(Column::Name.eq(&held.name))
        .filter(Column::Token.eq(held.token))
        .exec(core.db.writer())
        .await?;
    Ok(())
}

/// Whether the lease is still this one. Nobody can take it over until the unit of work ends: so it
/// fences a former holder.
pub(crate) async fn holds(tx: &Tx, lease: &Lease) -> Result<bool> {
    let row = Entity::find_by_id(&lease.name).lock_shared().one(tx.db()).await?;
    Ok(row.is_some_and(|row| row.token == lease.token))
}

/// Whether the lease was still this one a moment ago.
///
/// # Errors
/// When the database does not answer.
pub async fn is_held(core: &Core, lease: &Lease) -> Result<bool> {
    let row = Entity::find_by_id(&lease.name).one(core.db.writer()).await?;
    Ok(row.is_some_and(|row| row.token == lease.token))
}

/// The next run comes no later than `at`.
///
/// # Errors
/// When the database does not answer.
pub(crate) async fn no_later_than(db: &impl ConnectionTrait, name: &str, at: DateTime<Utc>) -> Result<()> {
    Entity::update_many()
        .col_expr(Column::DueAt, Expr::value(at))
        .filter(Column::Name.eq(name))
        .filter(Column::DueAt.gt(at))
        .exec(db)
        .await?;
    Ok(())
}

/// The next run comes no later than `at`, if this unit of work commits.
pub(crate) async fn wake_at(tx: &mut Tx, name: &str, at: DateTime<Utc>) -> Result<()> {
    if at <= tx.now() {
        tx.notify(Topic::Workers);
    }
    no_later_than(tx.db(), name, at).await
}

/// The next run comes as soon as somebody looks, and no later than in `delay`.
///
/// # Errors
/// When the database does not answer.
pub async fn wake_in(core: &Core, name: &str, delay: Duration) -> Result<()> {
    no_later_than(core.db.writer(), name, core.clock.now() + delay).await?;
    core.bus.notify(Topic::Workers);
    Ok(())
}

/// Every row, for `/health`.
///
/// # Errors
/// When the database does not answer.
pub async fn list(core: &Core) -> Result<Vec<Report>> {
    Ok(Entity::find().all(core.db.read()).await?)
}
