//! The outbox: deliveries, each an effect to perform for one recipient, written in the transaction of the
//! change that causes it.
//!
//! ```text
//! Tx -> send -> [pending] -> claim (lease, attempt + 1) -> worker `relay` -> complete
//!                   ^---------- retry / lease expired --------|-> sent | undelivered | dead
//! ```
//! The attempt is counted when a delivery is claimed, so that a payload that crashes the process is given
//! up eventually. Only the newest lease token can complete a delivery. Payloads contain ids, not secrets: a
//! license key is read when it is sent.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sea_orm::{
    ActiveValue::Set,
    ColumnTrait, Condition, EntityTrait, ExprTrait, PaginatorTrait, QueryFilter, QueryOrder, QuerySelect,
    sea_query::{Expr, LockBehavior, LockType, OnConflict, Query},
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use crate::{
    Code, Core, Error, Result, Snowflake,
    accounts::emails::EmailTemplate,
    bus::Topic,
    entity::outbox::{ActiveModel, Column, Entity},
    error::string_enum,
    events::{Actor, EventKind, NewEvent},
    ids::{LicenseId, TenantId, UserId},
    tx::Tx,
};

pub use crate::entity::outbox::Model as OutboxRow;

/// The effect to perform and its recipient.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Delivery {
    /// Sends members their license key by direct message.
    KeyDm {
        /// The license.
        license: LicenseId,
    },
    /// Posts an event to a guild's log channel.
    LogLine {
        /// The channel.
        channel: Snowflake,
        /// The sequence number of the event.
        seq: i64,
    },
    /// Fetches a member from Discord before revoking a license on uncertain information.
    RecheckMember {
        /// The guild.
        guild: Snowflake,
        /// The member.
        user: Snowflake,
    },
    /// Sends an email.
    Email {
        /// The template.
        template: EmailTemplate,
        /// The recipient.
        user: UserId,
        /// The id of the one-time token in its link.
        token: Option<Uuid>,
    },
}

string_enum! {
    /// The service that performs a delivery. Each is claimed separately, so that they do not delay each other.
    Transport {
        Discord => ("discord", "Discord's REST API."),
        Smtp => ("smtp", "The mail server."),
    }
}

/// The kind of deliveries sent by SMTP; all others use Discord.
const EMAIL_KIND: &str = "mail";

impl Delivery {
    fn kind(&self) -> &'static str {
        match self {
            Self::KeyDm { .. } => "key_dm",
            Self::LogLine { .. } => "log_line",
            Self::RecheckMember { .. } => "refetch",
            Self::Email { .. } => EMAIL_KIND,
        }
    }

    /// Deliveries with the same key are performed one at a time, in order.
    fn ordering_key(&self) -> String {
        match self {
            Self::KeyDm { license } => format!("license:{license}"),
            Self::LogLine { channel, .. } => format!("channel:{channel}"),
            Self::RecheckMember { guild, user } => format!("member:{guild}:{user}"),
            // Unique, so that a delayed email does not delay others, which may expire earlier.
            Self::Email { template, user, token } => format!("mail:{template}:{user}:{}", token.unwrap_or_default()),
        }
    }
}

/// When to perform a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notify {
    /// As soon as it is committed.
    Now,
    /// Like `Now`, but also if the license was just issued silently.
    Resend,
    /// This long after the previous delivery of its kind, for bulk changes.
    Staggered(Duration),
    /// Never; a command shows the result on request.
    Silent,
}

/// A delivery that this instance may perform until its lease expires.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The id of the delivery.
    pub id: Uuid,
    /// The number of this attempt, starting at 1.
    pub attempt: u32,
    /// The effect to perform.
    pub delivery: Delivery,
    /// When the delivery was created.
    pub created_at: DateTime<Utc>,
    token: i64,
}

/// The result of an attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Performed.
    Sent,
    /// Postponed, for example by a rate limit. Does not count as an attempt.
    Wait(Duration),
    /// Failed temporarily; retried after the backoff.
    Failed(String),
    /// The recipient cannot be reached.
    Undelivered(String),
    /// Failed permanently.
    Dead(String),
}

impl Outcome {
    /// The label in metrics.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Wait(_) => "wait",
            Self::Failed(_) => "failed",
            Self::Undelivered(_) => "undelivered",
            Self::Dead(_) => "dead",
        }
    }
}

/// Attempts before a delivery is dead: about a day with [`backoff`].
const MAX_ATTEMPTS: u32 = 18;

/// The delay after a failed attempt: 5 s, 10 s, 20 s … at most 4 h.
fn backoff(attempt: u32) -> Duration {
    let doublings = std::cmp::min(attempt.saturating_sub(1), 12);
    std::cmp::min(Duration::from_secs(5 << doublings), Duration::from_hours(4))
}

string_enum! {
    /// The state of a delivery.
    DeliveryState {
        Pending => ("pending", "Waiting to be performed."),
        Sent => ("sent", "Performed."),
        Undelivered => ("undelivered", "The recipient could not be reached, or the delivery expired or is obsolete."),
        Dead => ("dead", "Given up after a permanent failure or too many attempts."),
    }
}

const PENDING: &str = DeliveryState::Pending.as_str();

/// Adds a delivery. `key` is unique: adding a second delivery with the same key does nothing.
pub(crate) async fn enqueue(tx: &mut Tx, delivery: &Delivery, key: String, notify: Notify) -> Result<()> {
    let due_at = match notify {
        Notify::Silent => return Ok(()),
        Notify::Now | Notify::Resend => tx.now(),
        Notify::Staggered(gap) => staggered_due_at(tx, delivery, gap).await?,
    };
    insert(tx, delivery, key, due_at, None).await
}

async fn staggered_due_at(tx: &Tx, delivery: &Delivery, gap: Duration) -> Result<DateTime<Utc>> {
    let last: Option<Option<DateTime<Utc>>> = Entity::find()
        .select_only()
        .column_as(Column::DueAt.max(), "last")
        .filter(Column::Kind.eq(delivery.kind()))
        // Ignore scheduled retries: they do not mark the end of the queue.
        .filter(
            Condition::any()
                .add(Column::State.ne(PENDING))
                .add(Column::Attempt.eq(0))
                .add(Column::LeaseUntil.is_not_null()),
        )
        .into_tuple()
        .one(tx.db())
        .await?;
    Ok(last.flatten().map_or(tx.now(), |last| std::cmp::max(tx.now(), last + gap)))
}

/// Adds a delivery to perform at `due_at`.
pub(crate) async fn enqueue_at(tx: &mut Tx, delivery: &Delivery, key: String, due_at: DateTime<Utc>) -> Result<()> {
    insert(tx, delivery, key, due_at, None).await
}

/// Adds a delivery that is dropped after `expires_at`.
pub(crate) async fn enqueue_until(
    tx: &mut Tx,
    delivery: &Delivery,
    key: String,
    expires_at: DateTime<Utc>,
) -> Result<()> {
    let now = tx.now();
    insert(tx, delivery, key, now, Some(expires_at)).await
}

async fn insert(
    tx: &mut Tx,
    delivery: &Delivery,
    key: String,
    due_at: DateTime<Utc>,
    expires_at: Option<DateTime<Utc>>,
) -> Result<()> {
    let row = ActiveModel {
        id: Set(tx.core().ids.v7(tx.now())),
        kind: Set(delivery.kind().to_owned()),
        ordering_key: Set(delivery.ordering_key()),
        dedupe_key: Set(key),
        payload: Set(serde_json::to_value(delivery).map_err(|error| Error::Internal(error.to_string()))?),
        due_at: Set(due_at),
        expires_at: Set(expires_at),
        attempt: Set(0),
        lease_token: Set(0),
        lease_until: Set(None),
        state: Set(PENDING.to_owned()),
        last_error: Set(None),
        created_at: Set(tx.now()),
    };
    Entity::insert(row)
        .on_conflict(OnConflict::column(Column::DedupeKey).do_nothing().to_owned())
        .exec_without_returning(tx.db())
        .await?;
    tx.notify(Topic::Outbox);
    Ok(())
}

/// Claims up to `count` due deliveries of a transport for `lease_duration`, oldest first. Expired deliveries
/// are marked as undelivered instead.
pub async fn claim(core: &Core, transport: Transport, count: u64, lease_duration: Duration) -> Result<Vec<Claim>> {
    let now = core.clock.now();
    let earlier_with_same_key = Query::select()
        .expr(Expr::value(1))
        .from_as(Entity, "earlier")
        .and_where(Expr::col(("earlier", Column::OrderingKey)).equals((Entity, Column::OrderingKey)))
        .and_where(Expr::col(("earlier", Column::State)).eq(PENDING))
        .and_where(Expr::col(("earlier", Column::Id)).lt(Expr::col((Entity, Column::Id))))
        .to_owned();
    let due = Entity::find()
        .filter(Column::State.eq(PENDING))
        .filter(match transport {
            Transport::Smtp => Column::Kind.eq(EMAIL_KIND),
            Transport::Discord => Column::Kind.ne(EMAIL_KIND),
        })
        .filter(Column::DueAt.lte(now))
        .filter(Condition::any().add(Column::LeaseUntil.is_null()).add(Column::LeaseUntil.lte(now)))
        .filter(Expr::exists(earlier_with_same_key).not())
        .order_by_asc(Column::DueAt)
        .limit(count);
    // Check without a write lock first, so that an idle service does not occupy SQLite's single writer.
    if due.clone().count(core.db.read()).await? == 0 {
        return Ok(Vec::new());
    }
    let tx = Tx::begin(core).await?;
    let rows = due.lock_with_behavior(LockType::Update, LockBehavior::SkipLocked).all(tx.db()).await?;
    Entity::update_many()
        .col_expr(Column::Attempt, Expr::col(Column::Attempt).add(1))
        .col_expr(Column::LeaseToken, Expr::col(Column::LeaseToken).add(1))
        .col_expr(Column::LeaseUntil, Expr::value(now + lease_duration))
        .filter(Column::Id.is_in(rows.iter().map(|row| row.id)))
        .exec(tx.db())
        .await?;
    tx.commit().await?;
    let mut claims = Vec::new();
    for row in rows {
        let (id, token) = (row.id, row.lease_token + 1);
        let attempt = u32::try_from(row.attempt).unwrap_or(0) + 1;
        if row.expires_at.is_some_and(|expires_at| expires_at <= now) {
            complete_row(core, id, attempt, token, Outcome::Undelivered("expired before it could be sent".to_owned()))
                .await?;
            continue;
        }
        match serde_json::from_value(row.payload) {
            Ok(delivery) => claims.push(Claim { id, attempt, delivery, created_at: row.created_at, token }),
            // Written by a newer version, or damaged. It must not block the other deliveries.
            Err(error) => {
                tracing::warn!(delivery = %id, kind = row.kind, %error, "could not parse a delivery; it will be retried");
                complete_row(core, id, attempt, token, Outcome::Failed("the payload could not be parsed".to_owned()))
                    .await?;
            }
        }
    }
    Ok(claims)
}

/// Records the outcome, unless the lease was lost. Returns whether it was recorded. If this fails, the
/// delivery becomes due again when its lease expires.
pub async fn complete(core: &Core, claim: &Claim, outcome: Outcome) -> Result<bool> {
    complete_row(core, claim.id, claim.attempt, claim.token, outcome).await
}

async fn complete_row(core: &Core, id: Uuid, attempt: u32, token: i64, outcome: Outcome) -> Result<bool> {
    let now = core.clock.now();
    let (state, due_at, error, attempt) = match outcome {
        Outcome::Sent => ("sent", None, None, attempt),
        Outcome::Wait(wait) => (PENDING, Some(now + wait), None, attempt - 1),
        Outcome::Failed(reason) if attempt >= MAX_ATTEMPTS => ("dead", None, Some(reason), attempt),
        Outcome::Failed(reason) => (PENDING, Some(now + backoff(attempt)), Some(reason), attempt),
        Outcome::Undelivered(reason) => ("undelivered", None, Some(reason), attempt),
        Outcome::Dead(reason) => ("dead", None, Some(reason), attempt),
    };
    let mut update = Entity::update_many()
        .col_expr(Column::State, Expr::value(state))
        .col_expr(Column::Attempt, Expr::value(i32::try_from(attempt).unwrap_or(i32::MAX)))
        .col_expr(Column::LeaseUntil, Expr::value(None::<DateTime<Utc>>))
        .col_expr(Column::LastError, Expr::value(error))
        .filter(Column::Id.eq(id))
        .filter(Column::LeaseToken.eq(token));
    if let Some(due_at) = due_at {
        update = update.col_expr(Column::DueAt, Expr::value(due_at));
    }
    let recorded = update.exec(core.db.writer()).await?.rows_affected == 1;
    // The next delivery with the same ordering key may be performed now.
    core.bus.notify(Topic::Outbox);
    Ok(recorded)
}

/// Returns a page of the outbox, newest first.
pub async fn list(core: &Core, state: Option<DeliveryState>, page: u64, size: u64) -> Result<Vec<OutboxRow>> {
    let filter = Condition::all().add_option(state.map(|state| Column::State.eq(state.as_str())));
    let rows = Entity::find().filter(filter).order_by_desc(Column::Id);
    Ok(rows.offset((page - 1).saturating_mul(size)).limit(size).all(core.db.read()).await?)
}

/// Makes a dead or undelivered delivery due again.
///
/// # Errors
/// `NOT_FOUND` if no delivery has this id; `CONFLICT` if it is pending, was sent, or has expired.
pub async fn replay(core: &Core, actor: &Actor, id: Uuid) -> Result<()> {
    let mut tx = Tx::begin(core).await?;
    let row = Entity::find_by_id(id).lock_exclusive().one(tx.db()).await?;
    let row = row.ok_or_else(|| Code::NotFound.because("There is no delivery with this ID."))?;
    let failed = [DeliveryState::Dead, DeliveryState::Undelivered].iter().any(|state| state.as_str() == row.state);
    if !failed || row.expires_at.is_some_and(|expires_at| expires_at <= tx.now()) {
        return Err(
            Code::Conflict.because("Only dead or undelivered deliveries that have not expired can be replayed.")
        );
    }
    Entity::update_many()
        .col_expr(Column::State, Expr::value(PENDING))
        .col_expr(Column::Attempt, Expr::value(0))
        .col_expr(Column::DueAt, Expr::value(tx.now()))
        .filter(Column::Id.eq(id))
        .exec(tx.db())
        .await?;
    tx.record(NewEvent {
        tenant: TenantId::INSTALLATION,
        kind: EventKind::DeliveryReplayed,
        actor: actor.clone(),
        subject: None,
        license: None,
        before: None,
        after: Some(json!({ "delivery": id, "kind": row.kind })),
    });
    tx.notify(Topic::Outbox);
    tx.commit().await
}

/// Deletes completed deliveries that were due more than 30 days ago. Returns how many.
pub async fn delete_old(core: &Core) -> Result<u64> {
    let cutoff = core.clock.now() - Duration::from_hours(720);
    let completed = Entity::delete_many().filter(Column::State.ne(PENDING)).filter(Column::DueAt.lt(cutoff));
    Ok(completed.exec(core.db.writer()).await?.rows_affected)
}

/// The number of deliveries by state, and the age of the oldest due one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueDepth {
    /// Pending deliveries.
    pub pending: u64,
    /// Pending deliveries that are due.
    pub due: u64,
    /// Pending deliveries that are claimed.
    pub claimed: u64,
    /// Dead deliveries.
    pub dead: u64,
    /// How long the oldest due delivery has been due, in seconds.
    pub oldest_due_s: i64,
}

/// Returns the queue depth, for metrics and `/health`.
pub async fn queue_depth(core: &Core) -> Result<QueueDepth> {
    let now = core.clock.now();
    let pending = Entity::find().filter(Column::State.eq(PENDING));
    let due = pending.clone().filter(Column::DueAt.lte(now));
    let oldest = due.clone().order_by_asc(Column::DueAt).one(core.db.read()).await?;
    Ok(QueueDepth {
        due: due.count(core.db.read()).await?,
        claimed: pending.clone().filter(Column::LeaseUntil.is_not_null()).count(core.db.read()).await?,
        pending: pending.count(core.db.read()).await?,
        dead: Entity::find().filter(Column::State.eq(DeliveryState::Dead.as_str())).count(core.db.read()).await?,
        oldest_due_s: oldest.map_or(0, |row| (now - row.due_at).num_seconds()),
    })
}
