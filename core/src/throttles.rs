//! Throttles: tries under a name within a window, as rows. A try is taken before it is made, in a unit of
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
    /// The name says what is tried and by whom; whom is kept as a keyed hash.
    pub(crate) fn new(core: &Core, what: &str, who: &str, most: u32, window: Duration) -> Self {
        let who = hex(&core.keys().mac(Purpose::ThrottleName, who)[..16]);
        Self { name: format!("{what}:{who}"), most, window }
    }
}

/// Takes a try of each, or of none.
///
/// # Errors
/// `RATE_LIMIT_EXCEEDED` with the time to wait.
pub(crate) async fn take(tx: &Tx, limits: &[Limit]) -> Result<()> {
    let mut limits: Vec<&Limit> = limits.iter().collect();
    limits.sort_by(|a, b| a.name.cmp(&b.name));
    let mut rows = Vec::new();
    for limit in limits {
        match look(tx, limit).await? {
            Ok(row) => rows.push(row),
            Err(until) => {
                let wait = (until - tx.now()).to_std().unwrap_or_default();
                return Err(Code::RateLimitExceeded.for_now("Too many attempts; wait before the next one.", wait));
            }
        }
    }
    for row in rows {
        write(tx, row).await?;
    }
    Ok(())
}

/// Takes a try if there is one left; for what is then silently left undone.
pub(crate) async fn is_free(tx: &Tx, limit: &Limit) -> Result<bool> {
    match look(tx, limit).await? {
        Ok(row) => write(tx, row).await.map(|()| true),
        Err(_) => Ok(false),
    }
}

/// Locks a name, there or not, until the unit of work ends.
pub(crate) async fn lock(tx: &Tx, what: &str, who: &str) -> Result<()> {
    look(tx, &Limit::new(tx.core(), what, who, u32::MAX, Duration::from_mins(1))).await.map(drop)
}

/// Locks a row and answers how it would look with a try more, or when it resets.
async fn look(tx: &Tx, limit: &Limit) -> Result<Result<Model, DateTime<Utc>>> {
    let fresh = ActiveModel { name: Set(limit.name.clone()), taken: Set(0), resets_at: Set(tx.now() + limit.window) };
    Entity::insert(fresh)
        .on_conflict(OnConflict::column(Column::Name).do_nothing().to_owned())
        .exec_without_returning(tx.db())
        .await?;
    let row = Entity::find_by_id(&limit.name).lock_exclusive().one(tx.db()).await?;
    let row = row.map_or((0, tx.now() + limit.window), |row| (row.taken, row.resets_at));
    let (taken, resets_at) = if row.1 <= tx.now() { (0, tx.now() + limit.window) } else { row };
    if u32::try_from(taken).unwrap_or(u32::MAX) >= limit.most {
        return Ok(Err(resets_at));
    }
    Ok(Ok(Model { name: limit.name.clone(), taken: taken + 1, resets_at }))
}

async fn write(tx: &Tx, row: Model) -> Result<()> {
    Entity::update_many()
        .col_expr(Column::Taken, Expr::value(row.taken))
        .col_expr(Column::ResetsAt, Expr::value(row.resets_at))
        .filter(Column::Name.eq(row.name))
        .exec(tx.db())
        .await?;
    Ok(())
}

/// Gives the tries back where what they were taken for could not even be tried.
pub(crate) async fn unless_tried<T>(core: &Core, limits: &[Limit], tried: Result<T>) -> Result<T> {
    if tried.is_err() {
        let tx = Tx::begin(core).await?;
        give_back(&tx, limits).await?;
        tx.commit().await?;
    }
    tried
}

/// Gives a try of each back.
pub(crate) async fn give_back(tx: &Tx, limits: &[Limit]) -> Result<()> {
    let mut names: Vec<&str> = limits.iter().map(|limit| limit.name.as_str()).collect();
    names.sort_unstable();
    for name in names {
        Entity::update_many()
            .col_expr(Column::Taken, Expr::col(Column::Taken).sub(1))
            .filter(Column::Name.eq(name))
            .filter(Column::Taken.gt(0))
            .exec(tx.db())
            .await?;
    }
    Ok(())
}

/// Forgets windows that are over. Answers how many.
pub(crate) async fn forget_old(core: &Core) -> Result<u64> {
    let over = Entity::delete_many().filter(Column::ResetsAt.lt(core.clock.now()));
    Ok(over.exec(core.db.writer()).await?.rows_affected)
}
