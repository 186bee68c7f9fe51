//! The one log: audit, log channel, webhooks and cache are readers of it with a cursor each.
//!
//! The head's update and the inserts are the last statements before a commit, so that commit order
//! is sequence order on both databases: a reader that has seen `n` will never find a new `n - 1`.

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
    /// What can happen; the words are public and frozen.
    EventKind {
        LicenseCreated => ("license.created", "A license was created"),
        LicenseAssigned => ("license.assigned", "A license was assigned"),
        LicenseActivated => ("license.activated", "A license was used for the first time"),
        LicenseExpired => ("license.expired", "A license expired"),
        LicenseRevoked => ("license.revoked", "A license was revoked"),
        RoleChanged => ("user.role_changed", "A mapped role was gained or lost"),
        SourceUnverifiable => ("source.unverifiable", "A mapped role was deleted; its licenses are kept"),
        BreakerTripped => ("sync.breaker_tripped", "A sync would end too many licenses and waits"),
        SyncConfirmed => ("sync.confirmed", "An admin let a held sync end licenses"),
        UserRegistered => ("user.registered", "Somebody signed up"),
        SignUpRepeated => ("user.sign_up_repeated", "Somebody signed up with an address that has an account"),
        EmailVerified => ("user.email_verified", "Somebody proved an e-mail address"),
        SignedIn => ("user.signed_in", "Somebody signed in"),
        SignInRefused => ("user.sign_in_refused", "A sign-in was refused"),
        PasswordChanged => ("user.password_changed", "A password was changed"),
        SecondFactorChanged => ("user.second_factor_changed", "A second factor was set up or taken away"),
        IdentityLinked => ("user.identity_linked", "A provider's account was linked"),
        IdentityUnlinked => ("user.identity_unlinked", "A provider's account was unlinked"),
        ProfileChanged => ("user.profile_changed", "Somebody changed their profile"),
        UserStatusChanged => ("user.status_changed", "An account was banned, suspended or let in again"),
        AccessChanged => ("user.access_changed", "What a person may do here was changed"),
        SessionRevoked => ("session.revoked", "A session was ended"),
        TokenReused => ("session.token_reused", "A refresh token was used twice; all sessions were ended"),
        UserExported => ("user.exported", "An account's data was exported"),
        DeletionPlanned => ("user.deletion_planned", "An account is to be deleted"),
        DeletionUndone => ("user.deletion_undone", "An account's deletion was taken back"),
        UserErased => ("user.erased", "An account was deleted"),
        DeliveryReplayed => ("delivery.replayed", "A delivery that had ended is tried again"),
    }
}

/// Who did it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actor {
    /// The product itself: a worker, the clock.
    System,
    /// The operator at the command line.
    Operator,
    /// A person or bot at a provider: `discord`, `123…`.
    Discord(crate::Snowflake),
    /// An app.
    ApiKey(crate::ids::ApiKeyId),
    /// A person who signed in here.
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

/// An event that will be written with its unit of work.
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

/// Writes the events under the head's next numbers. Called by [`Tx::commit`] alone.
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
    let head = head.first().ok_or_else(|| Error::Broken("the event head is gone".to_owned()))?.seq;
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
    workers::no_later_than(db, workers::LOG_CHANNEL, now).await
}

/// The next events after a reader's cursor, which moves past them if the unit of work commits. Only
/// one instance reads on at a time: the cursor's row is locked by moving it.
pub(crate) async fn advance(tx: &Tx, reader: &str, limit: u64) -> Result<Vec<Event>> {
    let row = cursor::ActiveModel { name: Set(reader.to_owned()), seq: Set(0) };
    cursor::Entity::insert(row)
        .on_conflict(OnConflict::column(cursor::Column::Name).do_nothing().to_owned())
        .exec_without_returning(tx.db())
        .await?;
    let at = cursor::Entity::find_by_id(reader).lock_exclusive().one(tx.db()).await?.map_or(0, |row| row.seq);
    let next = event::Entity::find()
        .filter(event::Column::Seq.gt(at))
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

/// One event.
pub(crate) async fn find(core: &Core, seq: i64) -> Result<Option<Event>> {
    Ok(event::Entity::find_by_id(seq).one(core.db.read()).await?)
}

/// The latest events of a tenant, newest first.
///
/// # Errors
/// When the database does not answer.
pub async fn list(core: &Core, scope: &crate::Scope, limit: u64) -> Result<Vec<Event>> {
    let found = event::Entity::find()
        .filter(event::Column::TenantId.eq(scope.tenant()))
        .order_by_desc(event::Column::Seq)
        .limit(limit)
        .all(core.db.read())
        .await?;
    Ok(found)
}

tokio::task_local! {
    static REQUEST_ID: String;
}

/// Runs `work` as part of a request: its events carry the request's id.
pub async fn in_request<T>(id: String, work: impl Future<Output = T>) -> T {
    REQUEST_ID.scope(id, work).await
}

/// The id of the request this task works for.
pub(crate) fn request_id() -> Option<String> {
    REQUEST_ID.try_with(Clone::clone).ok()
}
