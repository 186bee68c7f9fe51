//! Throttles: limits on attempts to guess a secret, counted per name and window in the database.
//!
//! Attempts are reserved in a transaction of their own before they are made, and refunded if they turn out to
//! be harmless, so that concurrent attempts cannot exceed the limit. Use [`crate::limiter`] for limits that
//! may be lost with Redis.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sea_orm::{ColumnTrait, EntityTrait, ExprTrait, IntoActiveModel, QuerySelect, sea_query::Expr};

use crate::crypto::{one_time::hex, seal::Purpose};
use crate::entity::throttle::{Column, Entity, Model};
use crate::{Core, Reason, Result, db, tx::Tx};

/// At most `max` attempts per `window`.
#[derive(Clone, Debug)]
pub(crate) struct Limit {
    name: String,
    max: u32,
    window: Duration,
}

impl Limit {
    /// Limits `action` for `subject`, of which only a keyed hash is stored.
    pub(crate) fn new(core: &Core, action: &str, subject: &str, max: u32, window: Duration) -> Self {
        let subject = hex(&core.keys().mac(Purpose::ThrottleName, subject)[..16]);
        Self { name: format!("{action}:{subject}"), max, window }
    }
}

/// Reserves an attempt under every limit, or under none. Refused with `RATE_LIMIT_EXCEEDED` with the time to wait, if a
/// limit is reached.
pub(crate) async fn acquire(tx: &Tx, limits: &[Limit]) -> Result<()> {
    let mut limits: Vec<&Limit> = limits.iter().collect();
    limits.sort_by(|a, b| a.name.cmp(&b.name));
    let mut rows = Vec::new();
    for limit in limits {
        match peek(tx, limit).await? {
            Peek::Free(row) => rows.push(row),
            Peek::Full { resets_at } => {
                let wait = (resets_at - tx.now()).to_std().unwrap_or_default();
                return Err(Reason::TooManyAttempts.retry_after(wait));
            }
        }
    }
    for row in rows {
        write(tx, row).await?;
    }
    Ok(())
}

/// Like [`acquire`], in a transaction of its own, so that concurrent attempts see each other.
pub(crate) async fn acquire_now(core: &Core, limits: &[Limit]) -> Result<()> {
    let tx = Tx::begin(core).await?;
    acquire(&tx, limits).await?;
    tx.commit().await
}

/// Reserves an attempt. Returns `false` if the limit is reached.
pub(crate) async fn try_acquire(tx: &Tx, limit: &Limit) -> Result<bool> {
    match peek(tx, limit).await? {
        Peek::Free(row) => write(tx, row).await.map(|()| true),
        Peek::Full { .. } => Ok(false),
    }
}

/// Locks a name until the transaction ends, whether or not its row exists.
pub(crate) async fn lock(tx: &Tx, action: &str, subject: &str) -> Result<()> {
    peek(tx, &Limit::new(tx.core(), action, subject, u32::MAX, Duration::from_mins(1))).await.map(drop)
}

enum Peek {
    /// The row with one more attempt, not stored yet.
    Free(Model),
    /// The limit is reached.
    Full { resets_at: DateTime<Utc> },
}

/// Locks the row of a limit.
async fn peek(tx: &Tx, limit: &Limit) -> Result<Peek> {
    let new = Model { name: limit.name.clone(), used: 0, resets_at: tx.now() + limit.window };
    db::insert_if_new(tx.db(), new.clone().into_active_model()).await?;
    let stored = Entity::find_by_id(&limit.name).lock_exclusive().one(tx.db()).await?;
    let row = stored.filter(|row| row.resets_at > tx.now()).unwrap_or(new);
    if u32::try_from(row.used).unwrap_or(u32::MAX) >= limit.max {
        return Ok(Peek::Full { resets_at: row.resets_at });
    }
    Ok(Peek::Free(Model { used: row.used + 1, ..row }))
}

async fn write(tx: &Tx, row: Model) -> Result<()> {
    let changes = [(Column::Used, row.used.into()), (Column::ResetsAt, row.resets_at.into())];
    db::update(changes, [Column::Name.eq(row.name)]).exec(tx.db()).await?;
    Ok(())
}

/// Refunds the attempts if `result` is an error, because the attempt was not made.
pub(crate) async fn refund_on_error<T>(core: &Core, limits: &[Limit], result: Result<T>) -> Result<T> {
    if result.is_err() {
        let tx = Tx::begin(core).await?;
        refund(&tx, limits).await?;
        tx.commit().await?;
    }
    result
}

/// Refunds an attempt under every limit.
pub(crate) async fn refund(tx: &Tx, limits: &[Limit]) -> Result<()> {
    let mut names: Vec<&str> = limits.iter().map(|limit| limit.name.as_str()).collect();
    names.sort_unstable();
    for name in names {
        let one_less = [(Column::Used, Expr::col(Column::Used).sub(1))];
        db::update(one_less, [Column::Name.eq(name), Column::Used.gt(0)]).exec(tx.db()).await?;
    }
    Ok(())
}

/// Deletes expired windows. Returns how many.
pub(crate) async fn delete_old(core: &Core) -> Result<u64> {
    db::delete_in_batches(core.db.writer(), Column::Name, Column::ResetsAt.lt(core.clock.now())).await
}
