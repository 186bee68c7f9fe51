//! Throttles: tries under a name within a window, as rows. A try is used before it is made, in a unit of
//! work of its own, so that two hundred at once find no more than there are; what turned out to be
//! harmless is given back. For guesses at secrets: what may be lost with Redis belongs to the limiter.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sea_orm::{
    ActiveValue::Set,
    ColumnTrait, EntityTrait, ExprTrait, QueryFilter, QuerySelect,
    sea_query::{Expr, OnConflict},
};

use crate::{
    Code, Core, Result,
    crypto::{one_time::hex, seal::Purpose},
    entity::throttle::{ActiveModel, Column, Entity, Model},
    tx::Tx,
};

/// So many tries in so long.
#[derive(Clone, Debug)]
pub(crate) struct Limit {
    name: String,
    most: u32,
    window: Duration,
}

impl Limit {
    /// The name says what is result and by whom; whom is kept as a keyed hash.
    pub(crate) fn new(core: &Core, what: &str, who: &str, most: u32, window: Duration) -> Self {
        let who = hex(&core.keys().mac(Purpose::ThrottleName, who)[..16]);
        Self { name: format!("{what}:{who}"), most, window }
    }
}

/// Takes a try of each, or of none.
///
/// # Errors
/// `RATE_LIMIT_EXCEEDED` with the time to wait.
pub(crate) async fn acquire(tx: &Tx, limits: &[Limit]) -> Result<()> {
    let mut limits: Vec<&Limit> = limits.iter().collect();
    limits.sort_by(|a, b| a.name.cmp(&b.name));
    let mut rows = Vec::new();
    for limit in limits {
        match peek(tx, limit).await? {
            Ok(row) => rows.push(row),
            Err(until) => {
                let wait = (until - tx.now()).to_std().unwrap_or_default();
                return Err(Code::RateLimitExceeded.retry_after("Too many attempts; wait before the next one.", wait));
            }
        }
    }
    for row in rows {
        write(tx, row).await?;
    }
    Ok(())
}

/// Takes a try if there is one left; for what is then silently left undone.
pub(crate) async fn try_acquire(tx: &Tx, limit: &Limit) -> Result<bool> {
    match peek(tx, limit).await? {
        Ok(row) => write(tx, row).await.map(|()| true),
        Err(_) => Ok(false),
    }
}

/// Locks a name, there or not, until the unit of work ends.
pub(crate) async fn lock(tx: &Tx, what: &str, who: &str) -> Result<()> {
    peek(tx, &Limit::new(tx.core(), what, who, u32::MAX, Duration::from_mins(1))).await.map(drop)
}

/// Locks a row and answers how it would look with a try more, or when it resets.
async fn peek(tx: &Tx, limit: &Limit) -> Result<Result<Model, DateTime<Utc>>> {
    let fresh = ActiveModel { name: Set(limit.name.clone()), used: Set(0), resets_at: Set(tx.now() + limit.window) };
    Entity::insert(fresh)
        .on_conflict(OnConflict::column(Column::Name).do_nothing().to_owned())
        .exec_without_returning(tx.db())
        .await?;
    let row = Entity::find_by_id(&limit.name).lock_exclusive().one(tx.db()).await?;
    let row = row.map_or((0, tx.now() + limit.window), |row| (row.used, row.resets_at));
    let (used, resets_at) = if row.1 <= tx.now() { (0, tx.now() + limit.window) } else { row };
    if u32::try_from(used).unwrap_or(u32::MAX) >= limit.most {
        return Ok(Err(resets_at));
    }
    Ok(Ok(Model { name: limit.name.clone(), used: used + 1, resets_at }))
}

async fn write(tx: &Tx, row: Model) -> Result<()> {
    Entity::update_many()
        .col_expr(Column::Used, Expr::value(row.used))
        .col_expr(Column::ResetsAt, Expr::value(row.resets_at))
        .filter(Column::Name.eq(row.name))
        .exec(tx.db())
        .await?;
    Ok(())
}

/// Gives the tries back where what they were used for could not even be result.
pub(crate) async fn refund_on_error<T>(core: &Core, limits: &[Limit], result: Result<T>) -> Result<T> {
    if result.is_err() {
        let tx = Tx::begin(core).await?;
        refund(&tx, limits).await?;
        tx.commit().await?;
    }
    result
}

/// Gives a try of each back.
pub(crate) async fn refund(tx: &Tx, limits: &[Limit]) -> Result<()> {
    let mut names: Vec<&str> = limits.iter().map(|limit| limit.name.as_str()).collect();
    names.sort_unstable();
    for name in names {
        Entity::update_many()
            .col_expr(Column::Used, Expr::col(Column::Used).sub(1))
            .filter(Column::Name.eq(name))
            .filter(Column::Used.gt(0))
            .exec(tx.db())
            .await?;
    }
    Ok(())
}

/// Forgets windows that are over. Answers how many.
pub(crate) async fn delete_old(core: &Core) -> Result<u64> {
    let over = Entity::delete_many().filter(Column::ResetsAt.lt(core.clock.now()));
    Ok(over.exec(core.db.writer()).await?.rows_affected)
}
