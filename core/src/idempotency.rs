//! Idempotent requests: a client that lost the response to a request sends it again with the same key, and gets the
//! response of the first one (draft-ietf-httpapi-idempotency-key-header).
//!
//! ```text
//! begin -> Execute -> execute { … Tx::commit marks the row … } -> finish
//!       -> Replay
//! ```
//! The id of the row is the right to execute. [`Tx::commit`](crate::tx::Tx) marks the row in its own transaction and
//! fails if it has another id by now. So a request whose process died is executed again only if it changed nothing.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, IntoActiveModel, QueryFilter};
use uuid::Uuid;

use crate::crypto::{seal::Purpose, sha256};
use crate::entity::idempotency_key::{Column, Entity, Model};
use crate::{Code, Core, Reason, Result, db};

/// How long a key is remembered.
const LIFETIME: TimeDelta = TimeDelta::hours(24);

/// A request that has no response by then ended without one. Longer than a request may take.
const LEASE: TimeDelta = TimeDelta::seconds(60);

/// When the client should ask again for the response to a request in progress.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// What to do with a request.
#[derive(Debug)]
pub enum BeginOutcome {
    /// Execute it in [`execute`], then call [`finish`].
    Execute(Execution),
    /// Send this response, which an earlier execution has stored.
    Replay(String),
}

/// The right to execute a request.
#[derive(Clone, Copy, Debug)]
pub struct Execution(Uuid);

/// Begins a request. `operation` names its caller, its route and its key, and `digest` is the hash of the rest. Refused
/// with `IDEMPOTENCY_KEY_REUSED` if the rest differs from that of the first request; with `IDEMPOTENCY_IN_PROGRESS`; and
/// with `IDEMPOTENCY_ANSWER_LOST` if the request was executed, but its response was not stored.
pub async fn begin(core: &Core, operation: &str, digest: [u8; 32]) -> Result<BeginOutcome> {
    let (operation, request) = (sha256(operation.as_bytes()).to_vec(), digest.to_vec());
    let in_progress = Reason::Unspecified(Code::IdempotencyInProgress);
    // Tried again if the row changes in between.
    for _ in 0..3 {
        let (now, operation, request) = (core.clock.now(), operation.clone(), request.clone());
        let (id, lease_until) = (core.ids.v7(now), now + LEASE);
        let new =
            Model { id, operation, request, created_at: now, lease_until, committed_at: None, response_sealed: None };
        if db::insert_if_new(core.db.writer(), new.clone().into_active_model()).await? {
            return Ok(BeginOutcome::Execute(Execution(id)));
        }
        let this = Column::Operation.eq(new.operation.clone());
        let Some(row) = Entity::find().filter(this).one(core.db.writer()).await? else { continue };
        if row.created_at + LIFETIME <= now {
            Entity::delete_by_id(row.id).exec(core.db.writer()).await?;
            continue;
        }
        if row.request != new.request {
            return Err(Code::IdempotencyKeyReused.refusal());
        }
        if let Some(sealed) = row.response_sealed {
            return Ok(BeginOutcome::Replay(core.keys().unseal(Purpose::IdempotentResponse, row.id, &sealed)?));
        }
        if row.lease_until > now {
            return Err(in_progress.retry_after(RETRY_AFTER));
        }
        if row.committed_at.is_some() {
            return Err(Code::IdempotencyAnswerLost.refusal());
        }
        if take_over(core, row.id, &new).await? {
            return Ok(BeginOutcome::Execute(Execution(id)));
        }
    }
    Err(in_progress.retry_after(RETRY_AFTER))
}

/// Gives the row a new id, so that the former execution cannot commit any more.
async fn take_over(core: &Core, former: Uuid, new: &Model) -> Result<bool> {
    let changes = [(Column::Id, new.id.into()), (Column::LeaseUntil, new.lease_until.into())];
    let is_abandoned = [
        Column::Id.eq(former),
        Column::CommittedAt.is_null(),
        Column::ResponseSealed.is_null(),
        Column::LeaseUntil.lte(new.created_at),
    ];
    Ok(db::update(changes, is_abandoned).exec(core.db.writer()).await?.rows_affected == 1)
}

tokio::task_local! {
    static EXECUTION: Execution;
}

/// Executes a request: its transactions mark its row.
pub async fn execute<T>(execution: Execution, work: impl Future<Output = T>) -> T {
    EXECUTION.scope(execution, work).await
}

/// The execution that a new transaction is part of.
pub(crate) fn current() -> Option<Execution> {
    EXECUTION.try_with(|execution| *execution).ok()
}

/// Marks the row of an execution as part of its transaction. Refused if another execution has taken over.
pub(crate) async fn mark_committed(
    db: &impl ConnectionTrait,
    Execution(id): Execution,
    now: DateTime<Utc>,
) -> Result<()> {
    let marked = db::update([(Column::CommittedAt, now.into())], [Column::Id.eq(id)]).exec(db).await?;
    (marked.rows_affected == 1).then_some(()).ok_or_else(|| Code::IdempotencyInProgress.refusal())
}

/// Stores the response. Without one that can be repeated, the request may be executed again, unless it changed something.
pub async fn finish(core: &Core, Execution(id): Execution, response: Option<&str>) -> Result<()> {
    let this = Column::Id.eq(id);
    if let Some(response) = response {
        let sealed = core.keys().seal(&core.ids, Purpose::IdempotentResponse, id, response);
        db::update([(Column::ResponseSealed, sealed.into())], [this]).exec(core.db.writer()).await?;
        return Ok(());
    }
    let released = Entity::delete_many().filter(this.clone()).filter(Column::CommittedAt.is_null());
    if released.exec(core.db.writer()).await?.rows_affected == 0 {
        db::update([(Column::LeaseUntil, core.clock.now().into())], [this]).exec(core.db.writer()).await?;
    }
    Ok(())
}

/// Deletes the keys that are no longer remembered. Returns how many.
pub(crate) async fn delete_old(core: &Core) -> Result<u64> {
    let old = Column::CreatedAt.lte(core.clock.now() - LIFETIME);
    db::delete_in_batches(core.db.writer(), Column::Id, old).await
}
