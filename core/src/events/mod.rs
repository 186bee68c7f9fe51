//! The event log. Its readers, such as the log channel, each keep a cursor.
//!
//! Updating the head and inserting the events are the last statements before a commit, so that commit order
//! equals sequence order on both databases: after a reader has seen `n`, no new `n - 1` appears.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use chrono::{DateTime, Utc};
use sea_orm::sea_query::{CommonTableExpression, Expr, InsertStatement, PostgresQueryBuilder, Query};
use sea_orm::sea_query::{UpdateStatement, WithClause};
use sea_orm::{ActiveModelTrait, ColumnTrait, ConnectionTrait, DatabaseTransaction, DbBackend, EntityTrait, ExprTrait};
use sea_orm::{IntoActiveModel, Iterable, QueryFilter, QueryOrder, QuerySelect, QueryTrait};

use crate::entity::{event, event_head, guild};
use crate::ids::{LicenseId, TenantId, UserId};
use crate::workers::schedule::{LOG_CHANNEL, no_later_than};
use crate::{Core, Result, Scope, connection::Connection, db};

mod cursor;
mod data;
pub(crate) mod kind;

pub(crate) use self::cursor::read_next;
pub(crate) use self::data::{ApiKeyLabel, EventData, SignUpData};
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

/// Writes the events with the next sequence numbers, and commits. Only `Tx::commit` calls this.
///
/// Every writer waits for the event head. On Postgres it is therefore locked, and released by the commit, within a
/// single message: no network latency lies in between, and a process that freezes cannot keep it.
pub(crate) async fn append_and_commit(
    db: Connection<DatabaseTransaction>,
    now: DateTime<Utc>,
    request_id: Option<String>,
    events: Vec<NewEvent>,
) -> Result<()> {
    let Ok(count @ 1..) = i64::try_from(events.len()) else { return Ok(db.commit().await?) };
    let next = [(event_head::Column::Seq, Expr::col(event_head::Column::Seq).add(count))];
    let mut head = db::update(next, [event_head::Column::Id.eq(1)]).into_query();
    let schedule = schedule_log_channel(now, &events);
    if db.get_database_backend() == DbBackend::Postgres {
        let cte = |name: &'static str, update: &UpdateStatement| {
            CommonTableExpression::new().table_name(name).query(update.clone()).to_owned()
        };
        head.returning_col(event_head::Column::Seq);
        let updates = WithClause::new().cte(cte(HEAD, &head)).cte(cte("schedule", &schedule)).to_owned();
        let mut insert = insert_at_head(now, request_id.as_ref(), events, count, HEAD);
        insert.with_cte(updates);
        // The driver still expects a transaction; it rolls back the empty one that follows.
        db.execute_unprepared(&format!("{}; COMMIT AND CHAIN", insert.to_string(PostgresQueryBuilder))).await?;
        return Ok(());
    }
    db.execute(&head).await?;
    db.execute(&insert_at_head(now, request_id.as_ref(), events, count, "event_head")).await?;
    db.execute(&schedule).await?;
    Ok(db.commit().await?)
}

/// The name of the event head, as it is after the update, within a statement.
const HEAD: &str = "head";

/// Makes the worker of the log channels due, if one of these events has a log channel.
fn schedule_log_channel(now: DateTime<Utc>, events: &[NewEvent]) -> UpdateStatement {
    let tenants: BTreeSet<TenantId> = events.iter().map(|event| event.tenant).collect();
    let log_channels = guild::Entity::find()
        .select_only()
        .column(guild::Column::Id)
        .filter(guild::Column::TenantId.is_in(tenants))
        .filter(guild::Column::LogChannelId.is_not_null())
        .filter(guild::Column::LeftAt.is_null());
    no_later_than(LOG_CHANNEL, now).filter(Expr::exists(log_channels.into_query())).into_query()
}

/// Inserts events whose sequence numbers end at the event head.
fn insert_at_head(
    now: DateTime<Utc>,
    request_id: Option<&String>,
    events: Vec<NewEvent>,
    count: i64,
    head: &'static str,
) -> InsertStatement {
    let head = Query::select().column(event_head::Column::Seq).from(head).to_owned();
    let mut insert = Query::insert().into_table(event::Entity).columns(event::Column::iter()).to_owned();
    for (event, after) in events.into_iter().zip((0..count).rev()) {
        let row = Event {
            seq: 0,
            tenant_id: event.tenant,
            kind: event.data.kind(),
            subject: event.subject,
            license_id: event.license,
            actor: event.actor.to_string(),
            before: event.data.before(),
            after: event.data.after(),
            request_id: request_id.cloned(),
            at: now,
        };
        let row = row.into_active_model();
        insert.values_panic(event::Column::iter().map(|column| match column {
            event::Column::Seq => Expr::from(head.clone()).sub(after),
            column => column.save_as(Expr::val(row.get(column).unwrap())),
        }));
    }
    insert
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
    static REQUEST_ID: Arc<str>;
}

/// Runs `work` as part of a request; its events are recorded with the request id.
pub async fn with_request_id<T>(id: impl Into<Arc<str>>, work: impl Future<Output = T>) -> T {
    REQUEST_ID.scope(id.into(), work).await
}

/// The id of the current request, if there is one.
pub(crate) fn request_id() -> Option<String> {
    REQUEST_ID.try_with(|id| String::from(&**id)).ok()
}
