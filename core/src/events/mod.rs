//! The event log. Its readers, such as the log channel, each keep a cursor.
//!
//! Updating the head and inserting the events are the last statements before a commit, so that commit order
//! equals sequence order on both databases: after a reader has seen `n`, no new `n - 1` appears.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, ExprTrait, IntoActiveModel, QueryFilter, QueryOrder};
use sea_orm::{QuerySelect, sea_query::Expr};

use crate::entity::{event, event_head};
use crate::ids::{LicenseId, TenantId, UserId};
use crate::workers::schedule::{LOG_CHANNEL, schedule_no_later_than};
use crate::{Core, Error, Result, Scope, db};

mod cursor;
mod data;
mod kind;

pub(crate) use self::cursor::read_next;
pub(crate) use self::data::{EventData, SignUpData};
pub use self::data::{OriginLabel, SourceLabel};
pub use self::kind::{Actor, EventKind};
pub use crate::entity::event::Model as Event;

/// An event to write when its transaction commits.
#[derive(Clone, Debug)]
pub(crate) struct NewEvent {
    pub tenant: TenantId,
    pub actor: Actor,
    pub subject: Option<UserId>,
    pub license: Option<LicenseId>,
    pub data: EventData,
}

impl NewEvent {
    /// An event about a tenant.
    pub fn tenant(tenant: TenantId, actor: Actor, data: EventData) -> Self {
        Self { tenant, actor, subject: None, license: None, data }
    }

    /// An event about an account; accounts belong to the installation, not to a tenant.
    pub fn account(actor: Actor, subject: impl Into<Option<UserId>>, data: EventData) -> Self {
        Self { tenant: TenantId::INSTALLATION, actor, subject: subject.into(), license: None, data }
    }
}

/// Writes the events with the next sequence numbers. Only `Tx::commit` calls this.
pub(crate) async fn append(
    db: &impl ConnectionTrait,
    now: DateTime<Utc>,
    request_id: Option<String>,
    events: Vec<NewEvent>,
) -> Result<()> {
    let Ok(count @ 1..) = i64::try_from(events.len()) else { return Ok(()) };
    let next = [(event_head::Column::Seq, Expr::col(event_head::Column::Seq).add(count))];
    let head = db::update(next, [event_head::Column::Id.eq(1)]).exec_with_returning(db).await?;
    let head = head.first().ok_or_else(|| Error::Internal("the event_head row is missing".to_owned()))?.seq;
    let rows = events.into_iter().zip(head - count + 1..).map(|(event, seq)| Event {
        seq,
        tenant_id: event.tenant,
        kind: event.data.kind(),
        subject: event.subject,
        license_id: event.license,
        actor: event.actor.to_string(),
        before: event.data.before(),
        after: event.data.after(),
        request_id: request_id.clone(),
        at: now,
    });
    event::Entity::insert_many(rows.map(Event::into_active_model)).exec_without_returning(db).await?;
    schedule_no_later_than(db, LOG_CHANNEL, now).await
}

/// Returns the events from this sequence number on.
pub(crate) async fn list_from(core: &Core, seq: i64, limit: u64) -> Result<Vec<Event>> {
    let from = event::Entity::find().filter(event::Column::Seq.gte(seq)).order_by_asc(event::Column::Seq);
    Ok(from.limit(limit).all(core.db.read()).await?)
}

/// Returns the latest events of a tenant, newest first.
pub async fn list(core: &Core, scope: &Scope, limit: u64) -> Result<Vec<Event>> {
    let own = event::Entity::find().filter(event::Column::TenantId.eq(scope.tenant()));
    Ok(own.order_by_desc(event::Column::Seq).limit(limit).all(core.db.read()).await?)
}

/// Deletes events older than `age` and returns how many.
pub(crate) async fn delete_older_than(core: &Core, age: Duration) -> Result<u64> {
    let old = event::Column::At.lt(core.clock.now() - age);
    db::delete_in_batches(core.db.writer(), event::Column::Seq, old).await
}

tokio::task_local! {
    static REQUEST_ID: String;
}

/// Runs `work` as part of a request; its events are recorded with the request id.
pub async fn with_request_id<T>(id: String, work: impl Future<Output = T>) -> T {
    REQUEST_ID.scope(id, work).await
}

/// The id of the current request, if there is one.
pub(crate) fn request_id() -> Option<String> {
    REQUEST_ID.try_with(Clone::clone).ok()
}
