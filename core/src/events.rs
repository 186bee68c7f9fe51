//! The event log. Its readers, such as the log channel, each keep a cursor.
//!
//! Updating the head and inserting the events are the last statements before a commit, so that commit order
//! equals sequence order on both databases: after a reader has seen `n`, no new `n - 1` appears.

use chrono::{DateTime, Utc};
use sea_orm::{
    ActiveValue::Set,
    ColumnTrait, ConnectionTrait, EntityTrait, ExprTrait, QueryFilter, QueryOrder, QuerySelect,
    sea_query::{Expr, OnConflict},
};
use serde_json::Value;

use crate::{
    Core, Error, Result,
    entity::{cursor, event, event_head},
    error::string_enum,
    ids::{LicenseId, TenantId, UserId},
    tx::Tx,
    workers,
};

pub use crate::entity::event::Model as Event;

string_enum! {
    /// The kinds of events. The wire strings are public and stable.
    EventKind {
        LicenseCreated => ("license.created", "A license was created"),
        LicenseAssigned => ("license.assigned", "A license was assigned"),
        LicenseActivated => ("license.activated", "A license was used for the first time"),
        LicenseExpired => ("license.expired", "A license expired"),
        LicenseRevoked => ("license.revoked", "A license was revoked"),
        RoleChanged => ("user.role_changed", "A mapped role was gained or lost"),
        SourceUnverifiable => ("source.unverifiable", "A mapped role was deleted; its licenses are kept"),
        BreakerTripped => ("sync.breaker_tripped", "A sync was stopped because it would revoke many licenses"),
        SyncConfirmed => ("sync.confirmed", "A stopped sync was confirmed"),
        UserRegistered => ("user.registered", "A user signed up"),
        SignUpRepeated => ("user.sign_up_repeated", "A sign-up used the email address of an existing account"),
        EmailVerified => ("user.email_verified", "A user verified their email address"),
        SignedIn => ("user.signed_in", "A user signed in"),
        SignInRefused => ("user.sign_in_refused", "A sign-in was refused"),
        PasswordChanged => ("user.password_changed", "A password was changed"),
        SecondFactorChanged => ("user.second_factor_changed", "A second factor was enabled or disabled"),
        IdentityLinked => ("user.identity_linked", "A provider account was linked"),
        IdentityUnlinked => ("user.identity_unlinked", "A provider account was unlinked"),
        ProfileChanged => ("user.profile_changed", "A user changed their profile"),
        UserStatusChanged => ("user.status_changed", "An account was banned, suspended or reactivated"),
        AccessChanged => ("user.access_changed", "A user's permissions were changed"),
        SessionRevoked => ("session.revoked", "A session was ended"),
        TokenReused => ("session.token_reused", "A refresh token was reused; all sessions were ended"),
        UserExported => ("user.exported", "An account's data was exported"),
        DeletionPlanned => ("user.deletion_planned", "An account was scheduled for deletion"),
        DeletionUndone => ("user.deletion_undone", "An account's deletion was canceled"),
        UserErased => ("user.erased", "An account was deleted"),
        DeliveryReplayed => ("delivery.replayed", "A delivery was replayed"),
    }
}

/// The originator of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actor {
    /// The service itself, such as a worker.
    System,
    /// The operator at the command line.
    Operator,
    /// A Discord user or bot.
    Discord(crate::Snowflake),
    /// An app that uses an API key.
    ApiKey(crate::ids::ApiKeyId),
    /// A signed-in user.
    User(UserId),
}

impl std::fmt::Display for Actor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::System => f.write_str("system"),
            Self::Operator => f.write_str("operator"),
            Self::Discord(id) => write!(f, "discord:{id}"),
            Self::ApiKey(id) => write!(f, "api_key:{id}"),
            Self::User(id) => write!(f, "user:{id}"),
        }
    }
}

/// An event to write when its transaction commits.
#[derive(Clone, Debug)]
pub(crate) struct NewEvent {
    pub tenant: TenantId,
    pub kind: EventKind,
    pub actor: Actor,
    pub subject: Option<UserId>,
    pub license: Option<LicenseId>,
    pub before: Option<Value>,
    pub after: Option<Value>,
}

/// Writes the events with the next sequence numbers. Only [`Tx::commit`] calls this.
pub(crate) async fn append(
    db: &impl ConnectionTrait,
    now: DateTime<Utc>,
    request_id: Option<String>,
    events: Vec<NewEvent>,
) -> Result<()> {
    let Ok(count @ 1..) = i64::try_from(events.len()) else { return Ok(()) };
    let head = event_head::Entity::update_many()
        .col_expr(event_head::Column::Seq, Expr::col(event_head::Column::Seq).add(count))
        .filter(event_head::Column::Id.eq(1))
        .exec_with_returning(db)
        .await?;
    let head = head.first().ok_or_else(|| Error::Internal("the event_head row is missing".to_owned()))?.seq;
    let rows = events.into_iter().zip(head - count + 1..).map(|(event, seq)| event::ActiveModel {
        seq: Set(seq),
        tenant_id: Set(event.tenant),
        kind: Set(event.kind.to_string()),
        subject: Set(event.subject),
        license_id: Set(event.license),
        actor: Set(event.actor.to_string()),
        before: Set(event.before),
        after: Set(event.after),
        request_id: Set(request_id.clone()),
        at: Set(now),
    });
    event::Entity::insert_many(rows).exec_without_returning(db).await?;
    workers::schedule_no_later_than(db, workers::LOG_CHANNEL, now).await
}

/// Returns the next events of a reader and moves its cursor past them when the transaction commits. The
/// cursor's row is locked, so that one instance reads at a time.
pub(crate) async fn read_next(tx: &Tx, reader: &str, limit: u64) -> Result<Vec<Event>> {
    let row = cursor::ActiveModel { name: Set(reader.to_owned()), seq: Set(0) };
    cursor::Entity::insert(row)
        .on_conflict(OnConflict::column(cursor::Column::Name).do_nothing().to_owned())
        .exec_without_returning(tx.db())
        .await?;
    let seq = cursor::Entity::find_by_id(reader).lock_exclusive().one(tx.db()).await?.map_or(0, |row| row.seq);
    let next = event::Entity::find()
        .filter(event::Column::Seq.gt(seq))
        .order_by_asc(event::Column::Seq)
        .limit(limit)
        .all(tx.db())
        .await?;
    if let Some(last) = next.last() {
        cursor::Entity::update_many()
            .col_expr(cursor::Column::Seq, Expr::value(last.seq))
            .filter(cursor::Column::Name.eq(reader))
            .exec(tx.db())
            .await?;
    }
    Ok(next)
}

/// Returns the event with this sequence number.
pub(crate) async fn find(core: &Core, seq: i64) -> Result<Option<Event>> {
    Ok(event::Entity::find_by_id(seq).one(core.db.read()).await?)
}

/// Returns the latest events of a tenant, newest first.
pub async fn list(core: &Core, scope: &crate::Scope, limit: u64) -> Result<Vec<Event>> {
    let events = event::Entity::find()
        .filter(event::Column::TenantId.eq(scope.tenant()))
        .order_by_desc(event::Column::Seq)
        .limit(limit)
        .all(core.db.read())
        .await?;
    Ok(events)
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
