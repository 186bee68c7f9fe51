//! Deliveries: effects to perform for one recipient, written with the change that causes them.
//!
//! ```text
//! Tx -> send -> [pending] -> claim (lease, attempt paid) -> worker `relay` -> settle
//!                   ^------------- retry at / lease ran out -------|-> sent | undelivered | dead
//! ```
//! A claim is paid for when it is taken, so that a payload that kills the process dies too. Only the
//! holder of the newest lease token may settle. Payloads are ids: a key is read when it is sent.

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

/// What is to be done, and for whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Delivery {
    /// Send a member the key of their license.
    KeyDm {
        /// The license.
        license: LicenseId,
    },
    /// One line in a guild's log channel.
    LogLine {
        /// The channel.
        channel: Snowflake,
        /// The event it tells of.
        seq: i64,
    },
    /// Ask Discord about one member, before a doubt ends a license.
    RecheckMember {
        /// The guild.
        guild: Snowflake,
        /// The member.
        user: Snowflake,
    },
    /// An e-mail.
    Email {
        /// What it says.
        template: EmailTemplate,
        /// To whom.
        user: UserId,
        /// The one-time token its link carries, by id.
        token: Option<Uuid>,
    },
}

string_enum! {
    /// Who carries a delivery: each is claimed apart, so that one that stalls holds up only its own.
    Transport {
        Discord => ("discord", "Discord's REST API."),
        Smtp => ("smtp", "The mail server."),
    }
}

/// The one kind that is not Discord's.
const MAIL: &str = "mail";

impl Delivery {
    fn kind(&self) -> &'static str {
        match self {
            Self::KeyDm { .. } => "key_dm",
            Self::LogLine { .. } => "log_line",
            Self::RecheckMember { .. } => "refetch",
            Self::Email { .. } => MAIL,
        }
    }

    /// One at a time within a lane.
    fn ordering_key(&self) -> String {
        match self {
            Self::KeyDm { license } => format!("license:{license}"),
            Self::LogLine { channel, .. } => format!("channel:{channel}"),
            Self::RecheckMember { guild, user } => format!("member:{guild}:{user}"),
            // A letter that waits holds up no other: the next may be worth less time.
            Self::Email { template, user, token } => format!("mail:{template}:{user}:{}", token.unwrap_or_default()),
        }
    }
}

/// How eager a delivery is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notify {
    /// As soon as it is committed: somebody waits for it.
    Now,
    /// The same, and also for a license that was issued quietly a moment before.
    Resend,
    /// One of many: this long after the one before it.
    Staggered(Duration),
    /// Not at all: a command shows it on request.
    Silent,
}

/// A delivery this instance may perform until its lease ends.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The row.
    pub id: Uuid,
    /// 1 for the first try.
    pub attempt: u32,
    /// What to do.
    pub delivery: Delivery,
    /// When it was written.
    pub created_at: DateTime<Utc>,
    token: i64,
}

/// How it went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done.
    Sent,
    /// Not our turn yet; costs no attempt.
    Wait(Duration),
    /// Failed in a way that may pass; the backoff decides when.
    Failed(String),
    /// The recipient cannot be reached; a command serves it instead.
    Undelivered(String),
    /// Will never work.
    Dead(String),
}

impl Outcome {
    /// For metrics.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Wait(_) => "wait",
            Self::Failed(_) => "failed",
            Self::Undelivered(_) => "undelivered",
            Self::Dead(_) => "dead",
        }
    }
}

/// Tries before a delivery is dead: with the backoff below, about a day.
const MAX_ATTEMPTS: u32 = 18;

/// 5 s, 10 s, 20 s … at most 4 h.
fn backoff(attempt: u32) -> Duration {
    let doublings = std::cmp::min(attempt.saturating_sub(1), 12);
    std::cmp::min(Duration::from_secs(5 << doublings), Duration::from_hours(4))
}

string_enum! {
    /// How a delivery stands.
    DeliveryState {
        Pending => ("pending", "To be performed, now or later."),
        Sent => ("sent", "Done."),
        Undelivered => ("undelivered", "Nobody could be reached, or nobody wants it any more."),
        Dead => ("dead", "Given up."),
    }
}

const PENDING: &str = DeliveryState::Pending.as_str();

/// Writes a delivery. `key` makes it unique for ever: the second one does nothing.
pub(crate) async fn send(tx: &mut Tx, delivery: &Delivery, key: String, notify: Notify) -> Result<()> {
    let due_at = match notify {
        Notify::Silent => return Ok(()),
        Notify::Now | Notify::Resend => tx.now(),
        Notify::Staggered(gap) => after_last(tx, delivery, gap).await?,
    };
    write(tx, delivery, key, due_at, None).await
}

async fn after_last(tx: &Tx, delivery: &Delivery, gap: Duration) -> Result<DateTime<Utc>> {
    let last: Option<Option<DateTime<Utc>>> = Entity::find()
        .select_only()
        .column_as(Column::DueAt.max(), "last")
        .filter(Column::Kind.eq(delivery.kind()))
        // One that is being tried again later is no measure of when the queue ends.
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

/// Writes a delivery for later.
pub(crate) async fn send_at(tx: &mut Tx, delivery: &Delivery, key: String, due_at: DateTime<Utc>) -> Result<()> {
    write(tx, delivery, key, due_at, None).await
}

/// Writes a delivery that nobody wants after `expires_at`.
pub(crate) async fn send_until(tx: &mut Tx, delivery: &Delivery, key: String, expires_at: DateTime<Utc>) -> Result<()> {
    let now = tx.now();
    write(tx, delivery, key, now, Some(expires_at)).await
}

async fn write(
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
        payload: Set(serde_json::to_value(delivery).map_err(|e| Error::Broken(e.to_string()))?),
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

/// Takes up to `count` due deliveries of a transport under a lease of `lease`, oldest first. What has
/// expired is put away instead.
///
/// # Errors
/// When the database does not answer.
pub async fn claim(core: &Core, transport: Transport, count: u64, lease: Duration) -> Result<Vec<Claim>> {
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
            Transport::Smtp => Column::Kind.eq(MAIL),
            Transport::Discord => Column::Kind.ne(MAIL),
        })
        .filter(Column::DueAt.lte(now))
        .filter(Condition::any().add(Column::LeaseUntil.is_null()).add(Column::LeaseUntil.lte(now)))
        .filter(Expr::exists(earlier_with_same_key).not())
        .order_by_asc(Column::DueAt)
        .limit(count);
    // Looking costs no write lock; an idle service leaves SQLite's one writer alone.
    if due.clone().count(core.db.read()).await? == 0 {
        return Ok(Vec::new());
    }
    let tx = Tx::begin(core).await?;
    let rows = due.lock_with_behavior(LockType::Update, LockBehavior::SkipLocked).all(tx.db()).await?;
    Entity::update_many()
        .col_expr(Column::Attempt, Expr::col(Column::Attempt).add(1))
        .col_expr(Column::LeaseToken, Expr::col(Column::LeaseToken).add(1))
        .col_expr(Column::LeaseUntil, Expr::value(now + lease))
        .filter(Column::Id.is_in(rows.iter().map(|row| row.id)))
        .exec(tx.db())
        .await?;
    tx.commit().await?;
    let mut claims = Vec::new();
    for row in rows {
        let (id, token) = (row.id, row.lease_token + 1);
        let attempt = u32::try_from(row.attempt).unwrap_or(0) + 1;
        if row.expires_at.is_some_and(|at| at <= now) {
            complete_row(core, id, attempt, token, Outcome::Undelivered("expired before it could be sent".to_owned()))
                .await?;
            continue;
        }
        match serde_json::from_value(row.payload) {
            Ok(delivery) => claims.push(Claim { id, attempt, delivery, created_at: row.created_at, token }),
            // A newer process wrote it, or it is damaged: it must hold up no other.
            Err(why) => {
                tracing::warn!(delivery = %id, kind = row.kind, %why, "a delivery cannot be read; it is tried again");
                complete_row(core, id, attempt, token, Outcome::Failed("unreadable".to_owned())).await?;
            }
        }
    }
    Ok(claims)
}

/// Writes down how it went, unless the lease was lost meanwhile. Answers whether it counted.
///
/// # Errors
/// When the database does not answer; the lease then ends by itself.
pub async fn complete(core: &Core, claim: &Claim, outcome: Outcome) -> Result<bool> {
    complete_row(core, claim.id, claim.attempt, claim.token, outcome).await
}

async fn complete_row(core: &Core, id: Uuid, attempt: u32, token: i64, outcome: Outcome) -> Result<bool> {
    let now = core.clock.now();
    let (state, due_at, error, attempt) = match outcome {
        Outcome::Sent => ("sent", None, None, attempt),
        Outcome::Wait(wait) => (PENDING, Some(now + wait), None, attempt - 1),
        Outcome::Failed(why) if attempt >= MAX_ATTEMPTS => ("dead", None, Some(why), attempt),
        Outcome::Failed(why) => (PENDING, Some(now + backoff(attempt)), Some(why), attempt),
        Outcome::Undelivered(why) => ("undelivered", None, Some(why), attempt),
        Outcome::Dead(why) => ("dead", None, Some(why), attempt),
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
    let counted = update.exec(core.db.writer()).await?.rows_affected == 1;
    // The next of its lane may go now.
    core.bus.notify(Topic::Outbox);
    Ok(counted)
}

/// A page of the outbox, newest first: for admins.
///
/// # Errors
/// When the database does not answer.
pub async fn list(core: &Core, state: Option<DeliveryState>, page: u64, size: u64) -> Result<Vec<OutboxRow>> {
    let wanted = Condition::all().add_option(state.map(|state| Column::State.eq(state.as_str())));
    let found = Entity::find().filter(wanted).order_by_desc(Column::Id);
    Ok(found.offset((page - 1).saturating_mul(size)).limit(size).all(core.db.read()).await?)
}

/// Tries a delivery again that came to an end without being done.
///
/// # Errors
/// `NOT_FOUND`; `CONFLICT` for one that is still to come, was done, or is wanted by nobody any more.
pub async fn replay(core: &Core, actor: &Actor, id: Uuid) -> Result<()> {
    let mut tx = Tx::begin(core).await?;
    let row = Entity::find_by_id(id).lock_exclusive().one(tx.db()).await?;
    let row = row.ok_or_else(|| Code::NotFound.because("No such delivery."))?;
    let ended = [DeliveryState::Dead, DeliveryState::Undelivered].iter().any(|state| state.as_str() == row.state);
    if !ended || row.expires_at.is_some_and(|at| at <= tx.now()) {
        return Err(Code::Conflict.because("It is still to come, was done, or nobody wants it any more."));
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

/// Forgets deliveries that came to their end more than 30 days ago. Answers how many.
///
/// # Errors
/// When the database does not answer.
pub async fn delete_old(core: &Core) -> Result<u64> {
    let old = core.clock.now() - Duration::from_hours(720);
    let completed = Entity::delete_many().filter(Column::State.ne(PENDING)).filter(Column::DueAt.lt(old));
    Ok(completed.exec(core.db.writer()).await?.rows_affected)
}

/// Deliveries by state, and the age of the oldest that is due.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QueueDepth {
    /// Not done yet.
    pub pending: u64,
    /// Of these, due.
    pub due: u64,
    /// Of these, claimed.
    pub claimed: u64,
    /// Given up.
    pub dead: u64,
    /// Seconds the oldest due delivery has been waiting.
    pub oldest_due_s: i64,
}

/// For metrics and `/health`.
///
/// # Errors
/// When the database does not answer.
pub async fn depth(core: &Core) -> Result<QueueDepth> {
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
