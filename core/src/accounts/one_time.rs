//! The `one_time_tokens` table: the purpose and validity of tokens that work once.

use chrono::{DateTime, Duration, Utc};
use sea_orm::{ColumnTrait, EntityTrait, ExprTrait, IntoActiveModel, QueryFilter};
use serde_json::Value;
use uuid::Uuid;

use crate::crypto::{one_time as codec, seal::Purpose};
use crate::entity::one_time_token::{Column, Entity, Model};
use crate::{Code, Core, Result, db, ids::UserId, tx::Tx};

/// A newly created token.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    /// The id of its row.
    pub(crate) id: Uuid,
    pub(crate) created_at: DateTime<Utc>,
    /// When it expires.
    pub(crate) expires_at: DateTime<Utc>,
}

pub(crate) async fn create(
    tx: &Tx,
    purpose: Purpose,
    user: Option<UserId>,
    lifetime: Duration,
    data: Option<Value>,
) -> Result<Token> {
    let (id, created_at, expires_at) = (tx.core().ids.v4(), tx.now(), tx.now() + lifetime);
    let row = Model { id, purpose, user_id: user, data, created_at, expires_at, used_at: None };
    Entity::insert(row.into_active_model()).exec_without_returning(tx.db()).await?;
    Ok(Token { id, created_at, expires_at })
}

fn live(core: &Core) -> sea_orm::Select<Entity> {
    Entity::find().filter(Column::UsedAt.is_null()).filter(Column::ExpiresAt.gt(core.clock.now()))
}

/// The data of a token, whether it is still valid or not; `null` without any.
pub(crate) async fn data(core: &Core, id: Uuid) -> Result<Value> {
    let row = Entity::find_by_id(id).one(core.db.read()).await?;
    Ok(row.and_then(|row| row.data).unwrap_or_default())
}

/// Whether a token is neither used nor expired.
pub(crate) async fn is_live(core: &Core, id: Uuid) -> Result<bool> {
    Ok(live(core).filter(Column::Id.eq(id)).one(core.db.read()).await?.is_some())
}

/// Finds a valid token without using it. Refused with `INVALID_ONE_TIME_TOKEN`, always the same, if the token is
/// unknown, expired, used or for another purpose.
pub(crate) async fn find_valid(core: &Core, purpose: Purpose, token: &str) -> Result<Model> {
    let refuse = || Code::InvalidOneTimeToken.refusal();
    let id = codec::decode(core, purpose, token).ok_or_else(refuse)?;
    let row = live(core).filter(Column::Id.eq(id)).filter(Column::Purpose.eq(purpose));
    row.one(core.db.read()).await?.ok_or_else(refuse)
}

/// Uses a token. If several requests try at once, only one succeeds. Refused with `INVALID_ONE_TIME_TOKEN`, as for
/// [`find_valid`].
pub(crate) async fn consume(tx: &Tx, purpose: Purpose, token: &str) -> Result<Model> {
    let refuse = || Code::InvalidOneTimeToken.refusal();
    let id = codec::decode(tx.core(), purpose, token).ok_or_else(refuse)?;
    let live = [Column::UsedAt.is_null(), Column::ExpiresAt.gt(tx.now())];
    let this = [Column::Id.eq(id), Column::Purpose.eq(purpose)].into_iter().chain(live);
    let consumed = db::update([(Column::UsedAt, tx.now().into())], this).exec_with_returning(tx.db()).await?;
    consumed.into_iter().next().ok_or_else(refuse)
}

/// Invalidates all tokens of a user for a purpose.
pub(crate) async fn end_all(tx: &Tx, purpose: Purpose, user: UserId) -> Result<()> {
    let unused = [Column::UserId.eq(user), Column::Purpose.eq(purpose), Column::UsedAt.is_null()];
    db::update([(Column::UsedAt, tx.now().into())], unused).exec(tx.db()).await?;
    Ok(())
}

/// Deletes tokens that expired more than a week ago and returns how many. The state of a sign-in with a provider, which
/// anyone can create, is deleted as soon as it has expired.
pub(crate) async fn delete_old(core: &Core) -> Result<u64> {
    let now = core.clock.now();
    let is_old = Column::ExpiresAt.lt(now - Duration::days(7)).or(Column::Purpose.eq(Purpose::SignIn));
    db::delete_in_batches(core.db.writer(), Column::Id, Column::ExpiresAt.lt(now).and(is_old)).await
}
