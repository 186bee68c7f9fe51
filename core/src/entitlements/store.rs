//! Queries on the `entitlement_sources` table.

use sea_orm::sea_query::{Expr, Order, Query};
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, ExprTrait, IntoActiveModel, PaginatorTrait, QueryFilter};
use sea_orm::{QueryOrder, QuerySelect};
use uuid::Uuid;

use super::{kinds::SourceKind, stamp::Stamp, types::Level};
use crate::db::{self, Reader};
use crate::entity::identity;
use crate::entity::source::{Column, Entity, Model as Source};
use crate::ids::{ProductId, UserId};
use crate::{Core, Result, tx::Tx, users::Provider};

/// All sources of these users, oldest first.
pub(super) async fn list_of(from: &impl Reader, users: &[UserId]) -> Result<Vec<Source>> {
    let rows = Entity::find().filter(Column::UserId.is_in(users.iter().copied()));
    Ok(rows.order_by_asc(Column::LiveSince).all(from.connection()).await?)
}

pub(super) async fn insert(tx: &Tx, source: Source) -> Result<()> {
    Entity::insert(source.into_active_model()).exec_without_returning(tx.db()).await?;
    Ok(())
}

/// Stores the current values of a source.
pub(super) async fn update(tx: &Tx, source: &Source) -> Result<()> {
    let changes = [
        (Column::Stamp, source.stamp.into()),
        (Column::LiveSince, source.live_since.into()),
        (Column::EndsAt, source.ends_at.into()),
        (Column::Suppressed, source.suppressed.into()),
    ];
    db::update(changes, [Column::Id.eq(source.id)]).exec(tx.db()).await?;
    Ok(())
}

/// Moves a source to another user.
pub(super) async fn set_user(tx: &Tx, id: Uuid, user: UserId) -> Result<()> {
    db::update([(Column::UserId, user.into())], [Column::Id.eq(id)]).exec(tx.db()).await?;
    Ok(())
}

pub(super) async fn delete(tx: &Tx, id: Uuid) -> Result<()> {
    Entity::delete_by_id(id).exec(tx.db()).await?;
    Ok(())
}

/// Raises the stamp of sources observed again at the same level. `false`: one of them has changed since.
pub(super) async fn confirm(core: &Core, ids: &[Uuid], level: Level, stamp: Stamp) -> Result<bool> {
    if ids.is_empty() {
        return Ok(true);
    }
    let unchanged = match level {
        Level::Present => Column::EndsAt.is_null(),
        Level::Absent | Level::Withdrawn => Column::EndsAt.is_not_null(),
    };
    let older = [Column::Id.is_in(ids.iter().copied()), Column::Stamp.lt(stamp.0), unchanged];
    let confirmed = db::update([(Column::Stamp, stamp.0.into())], older).exec(core.db.writer()).await?;
    Ok(usize::try_from(confirmed.rows_affected).is_ok_and(|n| n == ids.len()))
}

/// The newest stored stamp.
pub(super) async fn newest_stamp(core: &Core) -> Result<Option<i64>> {
    let newest: Option<Option<i64>> =
        Entity::find().select_only().column_as(Column::Stamp.max(), "newest").into_tuple().one(core.db.read()).await?;
    Ok(newest.flatten())
}

/// Suppresses the live sources of entitlements that end: what is observed again is suppressed, and what was given ends.
pub(super) async fn suppress(tx: &Tx, users: &[UserId], product: ProductId) -> Result<()> {
    let of_users = Column::UserId.is_in(users.iter().copied()).and(Column::ProductId.eq(product));
    let live = of_users.and(Column::EndsAt.is_null());
    let observed = [live.clone(), Column::Kind.eq(SourceKind::DiscordRole)];
    db::update([(Column::Suppressed, true.into())], observed).exec(tx.db()).await?;
    let given = [live, Column::Kind.ne(SourceKind::DiscordRole)];
    db::update([(Column::EndsAt, tx.now().into())], given).exec(tx.db()).await?;
    Ok(())
}

/// Ends the suppression of an entitlement.
pub(super) async fn end_suppression(tx: &Tx, user: UserId, product: ProductId) -> Result<()> {
    let of_entitlement = [Column::UserId.eq(user), Column::ProductId.eq(product)];
    db::update([(Column::Suppressed, false.into())], of_entitlement).exec(tx.db()).await?;
    Ok(())
}

/// Users with a live source, in order, after `last`: each with their id at the provider, if they have one.
pub(super) async fn holders_after(
    core: &Core,
    provider: Provider,
    reference: Uuid,
    last: Option<UserId>,
    limit: u64,
) -> Result<Vec<(UserId, Option<String>)>> {
    let mut sources = Query::select();
    sources.column(Column::UserId).from(Entity).and_where(Column::Reference.eq(reference));
    sources.and_where(Column::EndsAt.is_null()).order_by(Column::UserId, Order::Asc).limit(limit);
    if let Some(last) = last {
        sources.and_where(Column::UserId.gt(last));
    }
    let user = Expr::col(("holder", Column::UserId));
    let own = |column: identity::Column| Expr::col((identity::Entity, column));
    let at_provider = own(identity::Column::UserId).eq(user.clone()).and(own(identity::Column::Provider).eq(provider));
    let page = Query::select()
        .expr_as(user, "user_id")
        .expr_as(own(identity::Column::Subject), "subject")
        .from_subquery(sources, "holder")
        .left_join(identity::Entity, at_provider)
        .order_by(("holder", Column::UserId), Order::Asc)
        .to_owned();
    let rows = core.db.read().query_all(&page).await?;
    Ok(rows.iter().map(|row| row.try_get_many("", &["user_id".into(), "subject".into()])).collect::<Result<_, _>>()?)
}

/// Those of these sources that someone has.
pub(super) async fn live_references(core: &Core, references: &[Uuid]) -> Result<Vec<Uuid>> {
    if references.is_empty() {
        return Ok(Vec::new());
    }
    let live = Entity::find().select_only().column(Column::Reference).distinct();
    let live = live.filter(Column::Reference.is_in(references.iter().copied())).filter(Column::EndsAt.is_null());
    Ok(live.into_tuple().all(core.db.read()).await?)
}

/// The number of entitlements whose only live source has this reference.
pub(crate) async fn count_dependent(from: &impl Reader, reference: Uuid) -> Result<u64> {
    let other = |column: Column| Expr::col(("other", column));
    let another = Query::select()
        .expr(Expr::value(1))
        .from_as(Entity, "other")
        .and_where(other(Column::UserId).equals((Entity, Column::UserId)))
        .and_where(other(Column::ProductId).equals((Entity, Column::ProductId)))
        .and_where(other(Column::Reference).ne(reference))
        .and_where(other(Column::Suppressed).eq(false))
        .and_where(other(Column::EndsAt).is_null())
        .to_owned();
    let live = Entity::find().filter(Column::EndsAt.is_null()).filter(Column::Suppressed.eq(false));
    let alone = live.filter(Column::Reference.eq(reference)).filter(Expr::exists(another).not());
    Ok(alone.count(from.connection()).await?)
}
