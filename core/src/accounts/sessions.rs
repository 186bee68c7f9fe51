//! Sessions. Each is one sign-in, extended with refresh tokens that work once.
//!
//! ```text
//! open -> refresh #1 -> refresh #2 -> …   #n reused within the grace period -> the same #n+1
//!                                         #n reused later, or #n+1 used     -> all sessions of the user end
//! ```
//! A refresh token is derived from its session and generation, so a retry within the grace period gets the *same*
//! successor: a client that lost a response stays signed in, and a session never has two valid tokens. Access tokens
//! are checked against their session on every request, so a revocation takes effect at once on every instance.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, TimeDelta, Utc};
use sea_orm::sea_query::Expr;
use sea_orm::{ColumnTrait, Condition, EntityTrait, IntoActiveModel};
use sea_orm::{PaginatorTrait, QueryFilter, QueryOrder, QuerySelect};
use sha2::{Digest, Sha256};

use crate::accounts::client::{ClientInfo, account_of, device_proof, known_device};
use crate::accounts::{emails, limits, one_time};
use crate::crypto::{access_token, seal::Purpose};
use crate::entity::{refresh_token, session};
use crate::events::{Actor, EventData, NewEvent};
use crate::ids::{SessionId, UserId};
use crate::users::{self, AccountStatus, SignInMethod, User};
use crate::{Code, Core, Error, Reason, Result, db, outbox::EmailTemplate, throttles, tx::Tx};

pub use crate::entity::session::Model as Session;

/// How long a used refresh token still returns the same successor.
const REUSE_GRACE: TimeDelta = TimeDelta::seconds(10);

/// The maximum lifetime of a session, even if it is refreshed.
const MAX_LIFETIME: TimeDelta = TimeDelta::days(90);

/// A signed-in user and their session.
#[derive(Clone, Debug)]
pub struct Principal {
    /// The user, as currently stored.
    pub user: User,
    /// The session.
    pub session: Session,
}

impl Principal {
    /// Whether the policy demands a second factor of admins, and the user signed in without one.
    pub(crate) fn lacks_second_factor(&self, core: &Core) -> bool {
        self.session.second_factor_at.is_none() && core.accounts.policy.admins_need_second_factor
    }
}

/// Whether a sign-in is backed by a second factor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SecondFactor {
    /// The user has none.
    NotEnabled,
    /// A code was checked.
    Verified,
}

/// The result of a sign-in or a refresh.
pub struct SignedIn {
    /// The user.
    pub user: User,
    /// The session.
    pub session: Session,
    /// For the `Authorization` header.
    pub access_token: String,
    /// Lifetime of the access token in seconds.
    pub access_expires_in: i64,
    /// Can be used once to get new tokens.
    pub refresh_token: String,
    /// Lifetime of the refresh token in seconds.
    pub refresh_expires_in: i64,
    /// The device cookie, which identifies this browser at later sign-ins.
    pub device: String,
    /// Whether this sign-in created the account.
    pub is_new: bool,
    /// Whether the email address of the new account belongs to another account, which it could be linked to instead.
    pub is_email_in_use: bool,
}

/// Opens a session for a user whose row is locked, and ends the oldest ones beyond the limit. Cancels a deletion that the
/// user requested. Refused with `RATE_LIMIT_EXCEEDED`.
pub(crate) async fn open(
    tx: &mut Tx,
    client: &ClientInfo,
    mut user: User,
    method: SignInMethod,
    second_factor: SecondFactor,
) -> Result<SignedIn> {
    user.ensure_active()?;
    throttles::acquire(tx, &limits::sign_ins(tx.core(), user.id)).await?;
    if user.deletion_at.is_some() && !user.deletion_by_admin {
        user.deletion_at = None;
        users::update(tx, &user).await?;
        tx.record(NewEvent::account(Actor::User(user.id), user.id, EventData::DeletionUndone {}));
    }
    let (now, is_verified) = (tx.now(), second_factor == SecondFactor::Verified);
    let session = Session {
        id: SessionId(tx.core().ids.v7(now)),
        user_id: user.id,
        method,
        agent: client.agent.clone(),
        network: client.network.clone(),
        created_at: now,
        last_seen_at: now,
        expires_at: now + MAX_LIFETIME,
        second_factor_at: is_verified.then_some(now),
        revoked_at: None,
        revoke_reason: None,
    };
    session::Entity::insert(session.clone().into_active_model()).exec_without_returning(tx.db()).await?;
    let (session_id, network) = (session.id, session.network.clone());
    let signed_in = EventData::SignedIn { method, session_id, network, second_factor: is_verified };
    tx.record(NewEvent::account(Actor::User(user.id), user.id, signed_in));
    end_oldest(tx, &session).await?;
    let refresh = insert_refresh_token(tx, &session, 1).await?;
    issue_tokens(tx, client, user, session, refresh)
}

/// Ends the oldest sessions of a user, so that there is room for this new one.
async fn end_oldest(tx: &mut Tx, new: &Session) -> Result<()> {
    let room = usize::try_from(tx.core().accounts.policy.max_sessions - 1).unwrap_or(usize::MAX);
    let others = [session::Column::UserId.eq(new.user_id), session::Column::Id.ne(new.id)];
    let newest_first = others.into_iter().fold(active(tx.core()), QueryFilter::filter).all(tx.db()).await?;
    for session in newest_first.into_iter().skip(room) {
        end_in(tx, new.user_id, session.id, &Actor::System, "too many sessions").await?;
    }
    Ok(())
}

fn issue_tokens(
    tx: &Tx,
    client: &ClientInfo,
    user: User,
    session: Session,
    refresh: NewRefreshToken,
) -> Result<SignedIn> {
    let (core, now) = (tx.core(), tx.now());
    let access_ends = std::cmp::min(now + core.accounts.policy.access_ttl, session.expires_at);
    let account = account_of(&user);
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
        is_email_in_use: false,
    })
}

struct NewRefreshToken {
    text: String,
    expires_at: DateTime<Utc>,
}

fn refresh_token_text(core: &Core, session: SessionId, generation: i32, created_at: DateTime<Utc>) -> String {
    URL_SAFE_NO_PAD.encode(core.keys().mac_at(Purpose::RefreshToken, &format!("{session}:{generation}"), created_at))
}

fn hash(token: &str) -> Vec<u8> {
    Sha256::digest(token.as_bytes()).to_vec()
}

async fn insert_refresh_token(tx: &Tx, session: &Session, generation: i32) -> Result<NewRefreshToken> {
    let text = refresh_token_text(tx.core(), session.id, generation, tx.now());
    let expires_at = std::cmp::min(tx.now() + tx.core().accounts.policy.refresh_ttl, session.expires_at);
    let (hash, session_id, created_at) = (hash(&text), session.id, tx.now());
    let row = refresh_token::Model { hash, session_id, generation, created_at, expires_at, used_at: None };
    refresh_token::Entity::insert(row.into_active_model()).exec_without_returning(tx.db()).await?;
    Ok(NewRefreshToken { text, expires_at })
}

async fn lock(tx: &Tx, id: SessionId) -> Result<Option<Session>> {
    Ok(session::Entity::find_by_id(id).lock_exclusive().one(tx.db()).await?)
}

/// Exchanges a refresh token for new tokens. Refused with `INVALID_SESSION` if the token is unknown or expired, or its
/// session ended; `TOKEN_REUSE_DETECTED` if it was used before, which ends all of the user's sessions.
pub async fn refresh(core: &Core, client: &ClientInfo, token: &str) -> Result<SignedIn> {
    let refuse = || Code::InvalidSession.refusal();
    // Unknown tokens are rejected before a write transaction starts.
    let row = refresh_token::Entity::find_by_id(hash(token)).one(core.db.read()).await?.ok_or_else(refuse)?;
    let tx = Tx::begin(core).await?;
    // Locks the user before the session, in the same order as code that ends all sessions of a user.
    let owner = session::Entity::find_by_id(row.session_id).one(tx.db()).await?.ok_or_else(refuse)?.user_id;
    let user = users::lock(&tx, owner).await?.ok_or_else(refuse)?;
    let session = lock(&tx, row.session_id).await?.ok_or_else(refuse)?;
    if session.revoked_at.is_some() || session.expires_at <= tx.now() || user.status != AccountStatus::Active {
        return Err(refuse());
    }
    let row = refresh_token::Entity::find_by_id(row.hash).one(tx.db()).await?.ok_or_else(refuse)?;
    let next = row.generation + 1;
    let refresh = match row.used_at {
        None if row.expires_at <= tx.now() => return Err(refuse()),
        None => {
            let used = [(refresh_token::Column::UsedAt, tx.now().into())];
            db::update(used, [refresh_token::Column::Hash.eq(row.hash)]).exec(tx.db()).await?;
            let seen = [(session::Column::LastSeenAt, tx.now().into())];
            db::update(seen, [session::Column::Id.eq(session.id)]).exec(tx.db()).await?;
            insert_refresh_token(&tx, &session, next).await?
        }
        Some(used_at) => match successor(&tx, session.id, next).await? {
            Some(token) if tx.now() - used_at <= REUSE_GRACE => {
                let text = refresh_token_text(core, session.id, next, token.created_at);
                NewRefreshToken { text, expires_at: token.expires_at }
            }
            _ => return Err(handle_reuse(tx, &session).await?),
        },
    };
    let signed_in = issue_tokens(&tx, client, user, session, refresh)?;
    tx.commit().await?;
    Ok(signed_in)
}

/// The refresh token of this generation, if it is unused.
async fn successor(tx: &Tx, session: SessionId, generation: i32) -> Result<Option<refresh_token::Model>> {
    let token = refresh_token::Entity::find()
        .filter(refresh_token::Column::SessionId.eq(session))
        .filter(refresh_token::Column::Generation.eq(generation))
        .filter(refresh_token::Column::UsedAt.is_null());
    Ok(token.one(tx.db()).await?)
}

/// Ends all sessions of the user, because a reused token may be stolen, and notifies them by email.
async fn handle_reuse(mut tx: Tx, session: &Session) -> Result<Error> {
    let user = session.user_id;
    let data = EventData::TokenReused { session_id: session.id };
    tx.record(NewEvent::account(Actor::System, user, data));
    end_all(&mut tx, user, None, &Actor::System, "token reuse").await?;
    emails::send(&mut tx, EmailTemplate::SessionsEnded, user, None).await?;
    tx.commit().await?;
    Ok(Code::TokenReuseDetected.refusal())
}

/// Verifies an access token and loads its user and session. Refused with `INVALID_TOKEN`, `TOKEN_EXPIRED`,
/// `INVALID_SESSION`, `ACCOUNT_SUSPENDED`, `ACCOUNT_BANNED`.
pub async fn authenticate(core: &Core, access_token: &str) -> Result<Principal> {
    let refuse = || Code::InvalidSession.refusal();
    let claims = access_token::verify(core, access_token)?;
    let session = session::Entity::find_by_id(claims.sid).one(core.db.read()).await?.ok_or_else(refuse)?;
    let user = users::find(core, claims.sub).await?.ok_or_else(refuse)?;
    if session.user_id != user.id {
        return Err(refuse());
    }
    user.ensure_active()?;
    if session.revoked_at.is_some() || session.expires_at <= core.clock.now() {
        return Err(refuse());
    }
    Ok(Principal { user, session })
}

/// Ends the session of a refresh token. Does nothing if the token is unknown.
pub async fn sign_out_by_token(core: &Core, token: &str) -> Result<()> {
    let row = refresh_token::Entity::find_by_id(hash(token)).one(core.db.read()).await?;
    let Some(row) = row else { return Ok(()) };
    let Some(session) = session::Entity::find_by_id(row.session_id).one(core.db.read()).await? else { return Ok(()) };
    match end(core, session.user_id, session.id).await {
        Err(Error::Refused(_)) => Ok(()),
        other => other,
    }
}

/// Ends one of the user's own sessions. Refused with `NOT_FOUND` if the session belongs to another user or has ended.
pub async fn end(core: &Core, user: UserId, id: SessionId) -> Result<()> {
    let mut tx = Tx::begin(core).await?;
    if !end_in(&mut tx, user, id, &Actor::User(user), "signed out").await? {
        return Err(Reason::NoSession.refusal());
    }
    tx.commit().await
}

pub(crate) async fn end_in(tx: &mut Tx, user: UserId, id: SessionId, actor: &Actor, reason: &str) -> Result<bool> {
    let ended = revoke(tx, Some(session::Column::Id.eq(id)), user, reason).await? > 0;
    if ended {
        let data = EventData::SessionRevoked { session_id: id, why: reason.to_owned() };
        tx.record(NewEvent::account(actor.clone(), user, data));
    }
    Ok(ended)
}

/// Ends every session of this user and returns how many there were.
pub async fn sign_out_everywhere(core: &Core, user: UserId) -> Result<u64> {
    let mut tx = Tx::begin(core).await?;
    users::lock(&tx, user).await?;
    let ended = end_all(&mut tx, user, None, &Actor::User(user), "signed out everywhere").await?;
    tx.commit().await?;
    Ok(ended)
}

/// Ends all sessions of a user except one. The user's row must be locked.
pub(crate) async fn end_all(
    tx: &mut Tx,
    user: UserId,
    except: Option<SessionId>,
    actor: &Actor,
    reason: &str,
) -> Result<u64> {
    let ended = revoke(tx, except.map(|id| session::Column::Id.ne(id)), user, reason).await?;
    if ended > 0 {
        let data = EventData::SessionsRevoked { sessions: ended, why: reason.to_owned() };
        tx.record(NewEvent::account(actor.clone(), user, data));
    }
    Ok(ended)
}

/// Ends sessions of a user, and a change of the email address that one of them may have requested.
async fn revoke(tx: &Tx, filter: Option<Expr>, user: UserId, reason: &str) -> Result<u64> {
    let changes = [(session::Column::RevokedAt, tx.now().into()), (session::Column::RevokeReason, reason.into())];
    let unrevoked = [session::Column::UserId.eq(user), session::Column::RevokedAt.is_null()];
    let ended = db::update(changes, unrevoked.into_iter().chain(filter)).exec(tx.db()).await?;
    one_time::end_all(tx, Purpose::ChangeEmail, user).await?;
    Ok(ended.rows_affected)
}

/// A user's active sessions, newest first.
pub async fn list(core: &Core, user: UserId) -> Result<Vec<Session>> {
    Ok(active(core).filter(session::Column::UserId.eq(user)).all(core.db.read()).await?)
}

/// A page of the active sessions of all users, newest first.
pub async fn list_all(core: &Core, page: u64, size: u64) -> Result<Vec<Session>> {
    Ok(active(core).offset((page - 1).saturating_mul(size)).limit(size).all(core.db.read()).await?)
}

/// The number of active sessions of all users.
pub async fn count(core: &Core) -> Result<u64> {
    Ok(active(core).count(core.db.read()).await?)
}

fn active(core: &Core) -> sea_orm::Select<session::Entity> {
    session::Entity::find()
        .filter(session::Column::RevokedAt.is_null())
        .filter(session::Column::ExpiresAt.gt(core.clock.now()))
        .order_by_desc(session::Column::CreatedAt)
        .order_by_desc(session::Column::Id)
}

/// The id of the user a session belongs to.
pub(crate) async fn owner(core: &Core, id: SessionId) -> Result<Option<UserId>> {
    Ok(session::Entity::find_by_id(id).one(core.db.read()).await?.map(|session| session.user_id))
}

/// Locks the user of a session. Refused with `INVALID_SESSION` if the session has ended; `ACCOUNT_SUSPENDED`,
/// `ACCOUNT_BANNED`.
pub(crate) async fn lock_user(tx: &Tx, user: UserId, session: SessionId) -> Result<User> {
    let ended = || Code::InvalidSession.refusal();
    let user = users::lock(tx, user).await?.ok_or_else(ended)?;
    user.ensure_active()?;
    let session = active(tx.core()).filter(session::Column::Id.eq(session)).one(tx.db()).await?;
    session.map(|_| user).ok_or_else(ended)
}

/// Marks a session as verified with a second factor.
pub(crate) async fn set_second_factor_verified(tx: &Tx, id: SessionId) -> Result<()> {
    let verified = [(session::Column::SecondFactorAt, tx.now().into())];
    db::update(verified, [session::Column::Id.eq(id)]).exec(tx.db()).await?;
    Ok(())
}

/// Marks all sessions of a user as not verified with a second factor.
pub(crate) async fn clear_second_factor(tx: &Tx, user: UserId) -> Result<()> {
    let cleared = [(session::Column::SecondFactorAt, None::<DateTime<Utc>>.into())];
    db::update(cleared, [session::Column::UserId.eq(user)]).exec(tx.db()).await?;
    Ok(())
}

/// Deletes sessions that ended more than 90 days ago, with their tokens, and returns how many.
pub(crate) async fn delete_old(core: &Core) -> Result<u64> {
    let cutoff = core.clock.now() - MAX_LIFETIME;
    let ended = Condition::any().add(session::Column::ExpiresAt.lt(cutoff)).add(session::Column::RevokedAt.lt(cutoff));
    db::delete_in_batches(core.db.writer(), session::Column::Id, ended).await
}

/// Deletes refresh tokens that have expired, used or not, and returns how many.
pub(crate) async fn delete_expired_tokens(core: &Core) -> Result<u64> {
    let expired = refresh_token::Column::ExpiresAt.lt(core.clock.now());
    db::delete_in_batches(core.db.writer(), refresh_token::Column::Hash, expired).await
}
