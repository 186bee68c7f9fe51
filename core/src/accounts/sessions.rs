//! Sessions: one sign-in each, refreshed by a chain of tokens that work once.
//!
//! ```text
//! open -> refresh #1 -> refresh #2 -> …          #n used again within the grace -> the same #n+1
//!              older, or later: stolen           -> every session of the user ends, and a letter says so
//! ```
//! A refresh token is derived from session and generation, so that a retry within the grace is answered with
//! the *same* successor: nobody who lost an answer is signed out, and there is never a second branch. An
//! access token is checked against its session at each request: what is revoked is revoked at once, on
//! every instance.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, TimeDelta, Utc};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, Condition, EntityTrait, QueryFilter, QueryOrder, QuerySelect, sea_query::Expr,
};
use serde_json::json;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{
    Code, Core, Result,
    accounts::{
        AccountStatus, ClientInfo,
        emails::{self, EmailTemplate},
        ensure_active, record,
    },
    crypto::{
        access_token,
        one_time::{hex, is_equal},
        seal::Purpose,
    },
    entity::{refresh_token, session},
    events::{Actor, EventKind},
    ids::{SessionId, UserId},
    tx::Tx,
    users::{self, User},
};

pub use crate::entity::session::Model as Session;

/// How long a token that was used is answered with the same successor.
const GRACE: TimeDelta = TimeDelta::seconds(10);

/// A session ends then, however often it was refreshed.
const MAX_LIFETIME: TimeDelta = TimeDelta::days(90);

/// A person who is signed in, and by which session.
#[derive(Clone, Debug)]
pub struct Principal {
    /// The person, as the database has them now.
    pub user: User,
    /// The session.
    pub session: Session,
}

/// What a sign-in or a refresh hands out.
pub struct SignedIn {
    /// The person.
    pub user: User,
    /// The session.
    pub session: Session,
    /// For the `Authorization` header.
    pub access_token: String,
    /// Seconds it lives.
    pub access_expires_in: i64,
    /// Works once, for the next pair.
    pub refresh_token: String,
    /// Seconds it lives.
    pub refresh_expires_in: i64,
    /// What the browser shows the next time, to be known as one that was here before.
    pub device: String,
    /// Whether the account was made by this sign-in.
    pub is_new: bool,
}

/// Opens a session for a user who is locked and may enter. A pending deletion is taken back: who signs in
/// wants to stay.
pub(crate) async fn open(
    tx: &mut Tx,
    client: &ClientInfo,
    mut user: User,
    method: &str,
    second_factor: bool,
) -> Result<SignedIn> {
    ensure_active(&user)?;
    if user.deletion_at.take().is_some() {
        users::update(tx, &user).await?;
        record(tx, EventKind::DeletionUndone, &Actor::User(user.id), user.id, json!({}));
    }
    let now = tx.now();
    let session = Session {
        id: SessionId(tx.core().ids.v7(now)),
        user_id: user.id,
        method: method.to_owned(),
        agent: client.agent.clone(),
        network: client.network.clone(),
        created_at: now,
        last_seen_at: now,
        expires_at: now + MAX_LIFETIME,
        second_factor_at: second_factor.then_some(now),
        revoked_at: None,
        revoke_reason: None,
    };
    session::Entity::insert(session::ActiveModel::from(session.clone())).exec_without_returning(tx.db()).await?;
    let after = json!({
        "method": method, "sessionId": session.id, "network": session.network, "secondFactor": second_factor,
    });
    record(tx, EventKind::SignedIn, &Actor::User(user.id), user.id, after);
    let refresh = insert(tx, &session, 1).await?;
    hand_out(tx, client, user, session, refresh)
}

fn hand_out(tx: &Tx, client: &ClientInfo, user: User, session: Session, refresh: Refresh) -> Result<SignedIn> {
    let (core, now) = (tx.core(), tx.now());
    let access_ends = std::cmp::min(now + core.rules.access_ttl, session.expires_at);
    let account = user.folded_email.clone().unwrap_or_else(|| user.id.to_string());
    let device = known_device(core, client, &account).unwrap_or_else(|| core.ids.v4().simple().to_string());
    Ok(SignedIn {
        access_token: access_token::issue(core, user.id, session.id, access_ends)?,
        access_expires_in: (access_ends - now).num_seconds(),
        refresh_token: refresh.text,
        refresh_expires_in: (refresh.expires_at - now).num_seconds(),
        device: format!("{device}.{}", device_proof(core, &device, &account)),
        user,
        session,
        is_new: false,
    })
}

struct Refresh {
    text: String,
    expires_at: DateTime<Utc>,
}

fn text_of(core: &Core, session: SessionId, generation: i32) -> String {
    URL_SAFE_NO_PAD.encode(core.keys().mac(Purpose::RefreshToken, &format!("{session}:{generation}")))
}

fn hash(token: &str) -> Vec<u8> {
    Sha256::digest(token.as_bytes()).to_vec()
}

async fn insert(tx: &Tx, session: &Session, generation: i32) -> Result<Refresh> {
    let text = text_of(tx.core(), session.id, generation);
    let expires_at = std::cmp::min(tx.now() + tx.core().rules.refresh_ttl, session.expires_at);
    let row = refresh_token::ActiveModel {
        hash: Set(hash(&text)),
        session_id: Set(session.id),
        generation: Set(generation),
        created_at: Set(tx.now()),
        expires_at: Set(expires_at),
        used_at: Set(None),
    };
    refresh_token::Entity::insert(row).exec_without_returning(tx.db()).await?;
    Ok(Refresh { text, expires_at })
}

async fn lock(tx: &Tx, id: SessionId) -> Result<Option<Session>> {
    Ok(session::Entity::find_by_id(id).lock_exclusive().one(tx.db()).await?)
}

/// Exchanges a refresh token for the next pair.
///
/// # Errors
/// `INVALID_SESSION` for a token that never was, or whose session ended; `TOKEN_REUSE_DETECTED` for one that
/// was used before, which ends all of the user's sessions.
pub async fn refresh(core: &Core, client: &ClientInfo, token: &str) -> Result<SignedIn> {
    let refuse = || Code::InvalidSession.refusal();
    // What is no token costs no write lock.
    let row = refresh_token::Entity::find_by_id(hash(token)).one(core.db.read()).await?.ok_or_else(refuse)?;
    let tx = Tx::begin(core).await?;
    // User before session: whoever ends all sessions of a user locks in this order too.
    let owner = session::Entity::find_by_id(row.session_id).one(tx.db()).await?.ok_or_else(refuse)?.user_id;
    let user = users::lock(&tx, owner).await?.ok_or_else(refuse)?;
    let session = lock(&tx, row.session_id).await?.ok_or_else(refuse)?;
    if session.revoked_at.is_some() || session.expires_at <= tx.now() || user.status()? != AccountStatus::Active {
        return Err(refuse());
    }
    let row = refresh_token::Entity::find_by_id(row.hash).one(tx.db()).await?.ok_or_else(refuse)?;
    let next = row.generation + 1;
    let refresh = match row.used_at {
        None if row.expires_at <= tx.now() => return Err(refuse()),
        None => {
            refresh_token::Entity::update_many()
                .col_expr(refresh_token::Column::UsedAt, Expr::value(tx.now()))
                .filter(refresh_token::Column::Hash.eq(row.hash))
                .exec(tx.db())
                .await?;
            session::Entity::update_many()
                .col_expr(session::Column::LastSeenAt, Expr::value(tx.now()))
                .filter(session::Column::Id.eq(session.id))
                .exec(tx.db())
                .await?;
            insert(&tx, &session, next).await?
        }
        Some(used_at) => match successor(&tx, session.id, next).await? {
            Some(live) if tx.now() - used_at <= GRACE => {
                Refresh { text: text_of(core, session.id, next), expires_at: live.expires_at }
            }
            _ => return Err(reused(tx, &session).await?),
        },
    };
    let signed_in = hand_out(&tx, client, user, session, refresh)?;
    tx.commit().await?;
    Ok(signed_in)
}

/// The token after the one presented, as long as nobody used it.
async fn successor(tx: &Tx, session: SessionId, generation: i32) -> Result<Option<refresh_token::Model>> {
    let found = refresh_token::Entity::find()
        .filter(refresh_token::Column::SessionId.eq(session))
        .filter(refresh_token::Column::Generation.eq(generation))
        .filter(refresh_token::Column::UsedAt.is_null());
    Ok(found.one(tx.db()).await?)
}

/// A token came back that its owner no longer has: somebody else does.
async fn reused(mut tx: Tx, session: &Session) -> Result<crate::Error> {
    let user = session.user_id;
    record(&mut tx, EventKind::TokenReused, &Actor::System, user, json!({ "sessionId": session.id }));
    end_all(&mut tx, user, None, &Actor::System, "token reuse").await?;
    emails::send(&mut tx, EmailTemplate::SessionsEnded, user, None).await?;
    tx.commit().await?;
    Ok(Code::TokenReuseDetected.refusal())
}

/// The person behind an access token, as they stand now.
///
/// # Errors
/// `INVALID_TOKEN`, `TOKEN_EXPIRED`, `INVALID_SESSION`, `ACCOUNT_SUSPENDED`, `ACCOUNT_BANNED`.
pub async fn authenticate(core: &Core, access_token: &str) -> Result<Principal> {
    let refuse = || Code::InvalidSession.refusal();
    let claims = access_token::read(core, access_token)?;
    let session = session::Entity::find_by_id(claims.sid).one(core.db.read()).await?.ok_or_else(refuse)?;
    let user = users::find(core, claims.sub).await?.ok_or_else(refuse)?;
    if session.user_id != user.id {
        return Err(refuse());
    }
    ensure_active(&user)?;
    if session.revoked_at.is_some() || session.expires_at <= core.clock.now() {
        return Err(refuse());
    }
    Ok(Principal { user, session })
}

/// Ends the session a refresh token belongs to; a token nobody knows ends nothing.
///
/// # Errors
/// When the database does not answer.
pub async fn sign_out_by_token(core: &Core, token: &str) -> Result<()> {
    let row = refresh_token::Entity::find_by_id(hash(token)).one(core.db.read()).await?;
    let Some(row) = row else { return Ok(()) };
    let Some(session) = session::Entity::find_by_id(row.session_id).one(core.db.read()).await? else { return Ok(()) };
    match end(core, session.user_id, session.id).await {
        Err(crate::Error::Refused(_)) => Ok(()),
        other => other,
    }
}

/// A user ends one of their sessions.
///
/// # Errors
/// `NOT_FOUND` when it is not theirs, or has ended.
pub async fn end(core: &Core, user: UserId, id: SessionId) -> Result<()> {
    let mut tx = Tx::begin(core).await?;
    if !end_in(&mut tx, user, id, &Actor::User(user), "signed out").await? {
        return Err(Code::NotFound.because("No such session."));
    }
    tx.commit().await
}

pub(crate) async fn end_in(tx: &mut Tx, user: UserId, id: SessionId, actor: &Actor, why: &str) -> Result<bool> {
    let ended = revoke(tx, Condition::all().add(session::Column::Id.eq(id)), user, why).await? > 0;
    if ended {
        record(tx, EventKind::SessionRevoked, actor, user, json!({ "sessionId": id, "why": why }));
    }
    Ok(ended)
}

/// Ends every session of this user, and of nobody else.
///
/// # Errors
/// When the database does not answer.
pub async fn sign_out_everywhere(core: &Core, user: UserId) -> Result<u64> {
    let mut tx = Tx::begin(core).await?;
    users::lock(&tx, user).await?;
    let ended = end_all(&mut tx, user, None, &Actor::User(user), "signed out everywhere").await?;
    tx.commit().await?;
    Ok(ended)
}

/// Ends the sessions of a user who is locked, `but` one.
pub(crate) async fn end_all(
    tx: &mut Tx,
    user: UserId,
    but: Option<SessionId>,
    actor: &Actor,
    why: &str,
) -> Result<u64> {
    let others = Condition::all().add_option(but.map(|kept| session::Column::Id.ne(kept)));
    let ended = revoke(tx, others, user, why).await?;
    if ended > 0 {
        record(tx, EventKind::SessionRevoked, actor, user, json!({ "sessions": ended, "why": why }));
    }
    Ok(ended)
}

async fn revoke(tx: &Tx, which: Condition, user: UserId, why: &str) -> Result<u64> {
    let ended = session::Entity::update_many()
        .col_expr(session::Column::RevokedAt, Expr::value(tx.now()))
        .col_expr(session::Column::RevokeReason, Expr::value(why))
        .filter(which)
        .filter(session::Column::UserId.eq(user))
        .filter(session::Column::RevokedAt.is_null())
        .exec(tx.db())
        .await?;
    Ok(ended.rows_affected)
}

/// A user's live sessions, newest first.
///
/// # Errors
/// When the database does not answer.
pub async fn list(core: &Core, user: UserId) -> Result<Vec<Session>> {
    Ok(live(core).filter(session::Column::UserId.eq(user)).all(core.db.read()).await?)
}

/// Everybody's live sessions, newest first: for admins.
///
/// # Errors
/// When the database does not answer.
pub async fn list_all(core: &Core, page: u64, size: u64) -> Result<Vec<Session>> {
    Ok(live(core).offset((page - 1).saturating_mul(size)).limit(size).all(core.db.read()).await?)
}

fn live(core: &Core) -> sea_orm::Select<session::Entity> {
    session::Entity::find()
        .filter(session::Column::RevokedAt.is_null())
        .filter(session::Column::ExpiresAt.gt(core.clock.now()))
        .order_by_desc(session::Column::CreatedAt)
        .order_by_desc(session::Column::Id)
}

/// Whose session this is.
///
/// # Errors
/// When the database does not answer.
pub(crate) async fn owner(core: &Core, id: SessionId) -> Result<Option<UserId>> {
    Ok(session::Entity::find_by_id(id).one(core.db.read()).await?.map(|session| session.user_id))
}

/// Whether a session lives, as this unit of work sees it.
pub(crate) async fn is_live(tx: &Tx, id: SessionId) -> Result<bool> {
    let found = live(tx.core()).filter(session::Column::Id.eq(id));
    Ok(found.one(tx.db()).await?.is_some())
}

/// Notes that a session's person has just proved their second factor.
pub(crate) async fn set_mfa_verified(tx: &Tx, id: SessionId) -> Result<()> {
    session::Entity::update_many()
        .col_expr(session::Column::SecondFactorAt, Expr::value(tx.now()))
        .filter(session::Column::Id.eq(id))
        .exec(tx.db())
        .await?;
    Ok(())
}

/// No session of this user counts as proved by a second factor any more.
pub(crate) async fn clear_mfa(tx: &Tx, user: UserId) -> Result<()> {
    session::Entity::update_many()
        .col_expr(session::Column::SecondFactorAt, Expr::value(None::<DateTime<Utc>>))
        .filter(session::Column::UserId.eq(user))
        .exec(tx.db())
        .await?;
    Ok(())
}

/// Forgets sessions that ended 90 days ago, with their tokens. Answers how many.
pub(crate) async fn delete_old(core: &Core) -> Result<u64> {
    let since = core.clock.now() - MAX_LIFETIME;
    let over = Condition::any().add(session::Column::ExpiresAt.lt(since)).add(session::Column::RevokedAt.lt(since));
    Ok(session::Entity::delete_many().filter(over).exec(core.db.writer()).await?.rows_affected)
}

fn device_proof(core: &Core, device: &str, account: &str) -> String {
    hex(&core.keys().mac(Purpose::KnownDevice, &format!("{device}:{account}"))[..16])
}

/// The browser, if it was signed in to this account before.
pub(crate) fn known_device(core: &Core, client: &ClientInfo, account: &str) -> Option<String> {
    let (device, proof) = client.device.as_deref()?.split_once('.')?;
    let device = Uuid::try_parse(device).ok()?.simple().to_string();
    is_equal(&device_proof(core, &device, account), proof).then_some(device)
}
