//! Queries on the `entitlement_sources` table.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, Condition, EntityTrait, ExprTrait, IntoActiveModel, JoinType, PaginatorTrait,
    QueryFilter, QueryOrder, QuerySelect, sea_query::Expr,
};
use uuid::Uuid;

use super::{kinds::SourceKind, stamp::Stamp, types::Level};
use crate::{
    Core, Result,
    entity::{
        identity, license,
        source::{ActiveModel, Column, Entity, Model as Source},
    },
    ids::{MappingId, ProductId, TenantId, UserId},
    tx::Tx,
    users::Provider,
};

/// All sources of an entitlement.
pub(super) async fn list(tx: &Tx, user: UserId, product: ProductId) -> Result<Vec<Source>> {
    let rows = Entity::find()
        .filter(Column::UserId.eq(user))
        .filter(Column::ProductId.eq(product))
        .order_by_asc(Column::LiveSince)
        .all(tx.db())
        .await?;
    Ok(rows)
}

/// All sources of a user.
pub(super) async fn list_of(core: &Core, user: UserId) -> Result<Vec<Source>> {
    Ok(Entity::find().filter(Column::UserId.eq(user)).all(core.db.read()).await?)
}

/// All sources of a user, in this transaction.
pub(super) async fn list_in(tx: &Tx, user: UserId) -> Result<Vec<Source>> {
    Ok(Entity::find().filter(Column::UserId.eq(user)).all(tx.db()).await?)
}

pub(super) async fn insert(tx: &Tx, source: Source) -> Result<()> {
    Entity::insert(source.into_active_model()).exec_without_returning(tx.db()).await?;
    Ok(())
}

/// Stores the current values of a source.
pub(super) async fn update(tx: &Tx, source: &Source) -> Result<()> {
    let row = ActiveModel {
        stamp: Set(source.stamp),
        live_since: Set(source.live_since),
        ends_at: Set(source.ends_at),
        consumed: Set(source.consumed),
        ..ActiveModel::default()
    };
    Entity::update_many().set(row).filter(Column::Id.eq(source.id)).exec(tx.db()).await?;
    Ok(())
}

/// Moves a source to another user.
pub(super) async fn set_user(tx: &Tx, id: Uuid, user: UserId) -> Result<()> {
    let update = Entity::update_many().col_expr(Column::UserId, Expr::value(user)).filter(Column::Id.eq(id));
    update.exec(tx.db()).await?;
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
        Level::Absent => Column::EndsAt.is_not_null(),
    };
    let confirmed = Entity::update_many()
        .col_expr(Column::Stamp, Expr::value(stamp.0))
        .filter(Column::Id.is_in(ids.iter().copied()))
        .filter(Column::Stamp.lt(stamp.0))
        .filter(unchanged)
        .exec(core.db.writer())
        .await?;
    Ok(usize::try_from(confirmed.rows_affected).is_ok_and(|n| n == ids.len()))
}

/// The newest stored stamp.
pub(super) async fn newest_stamp(core: &Core) -> Result<Option<i64>> {
    let newest: Option<Option<i64>> =
        Entity::find().select_only().column_as(Column::Stamp.max(), "newest").into_tuple().one(core.db.read()).await?;
    Ok(newest.flatten())
}

/// Consumes the sources of an entitlement whose license an admin revoked, and ends its grant.
pub(super) async fn consume(tx: &Tx, user: UserId, product: ProductId) -> Result<()> {
    let of_entitlement = Condition::all().add(Column::UserId.eq(user)).add(Column::ProductId.eq(product));
    Entity::update_many()
        .col_expr(Column::Consumed, Expr::value(true))
        .filter(of_entitlement.clone())
        .exec(tx.db())
        .await?;
    Entity::update_many()
        .col_expr(Column::EndsAt, Expr::value(tx.now()))
        .filter(of_entitlement)
        .filter(Column::Kind.eq(SourceKind::Manual))
        .exec(tx.db())
        .await?;
    Ok(())
}

/// Entitlements with an unrevoked license and no unconsumed source that is live or in its grace.
pub(super) async fn list_lapsed(
    core: &Core,
    now: DateTime<Utc>,
    limit: u64,
) -> Result<Vec<(TenantId, UserId, ProductId)>> {
    let counting_source = sea_orm::sea_query::Query::select()
        .expr(Expr::value(1))
        .from_as(Entity, "other")
        .and_where(Expr::col(("other", Column::UserId)).equals((Entity, Column::UserId)))
        .and_where(Expr::col(("other", Column::ProductId)).equals((Entity, Column::ProductId)))
        .and_where(Expr::col(("other", Column::Consumed)).eq(false))
        .cond_where(
            Condition::any()
                .add(Expr::col(("other", Column::EndsAt)).is_null())
                .add(Expr::col(("other", Column::EndsAt)).gt(now)),
        )
        .to_owned();
    let rows = Entity::find()
        .select_only()
        .columns([Column::TenantId, Column::UserId, Column::ProductId])
        .distinct()
        .join(JoinType::InnerJoin, unrevoked_license())
        .filter(Column::EndsAt.lte(now))
        .filter(license::Column::RevokedAt.is_null())
        .filter(Expr::exists(counting_source).not())
        .limit(limit)
        .into_tuple()
        .all(core.db.read())
        .await?;
    Ok(rows)
}

fn unrevoked_license() -> sea_orm::RelationDef {
    Entity::belongs_to(license::Entity)
        .from((Column::UserId, Column::ProductId))
        .to((license::Column::UserId, license::Column::ProductId))
        .into()
}

/// The earliest end of a running grace.
pub(super) async fn next_end(core: &Core, now: DateTime<Utc>) -> Result<Option<DateTime<Utc>>> {
    let next: Option<Option<DateTime<Utc>>> = Entity::find()
        .select_only()
        .column_as(Column::EndsAt.min(), "next")
        .filter(Column::EndsAt.gt(now))
        .into_tuple()
        .one(core.db.read())
        .await?;
    Ok(next.flatten())
}

/// A user with live sources, and which ones.
pub(super) struct Holder {
    pub user: UserId,
    pub references: Vec<Uuid>,
}

/// The users with one of these sources live, by their id at the provider.
pub(super) async fn holders(core: &Core, provider: Provider, references: &[Uuid]) -> Result<HashMap<String, Holder>> {
    let identities = Entity::belongs_to(identity::Entity).from(Column::UserId).to(identity::Column::UserId).into();
    let rows: Vec<(String, UserId, Uuid)> = Entity::find()
        .select_only()
        .column(identity::Column::Subject)
        .column(Column::UserId)
        .column(Column::Reference)
        .join(JoinType::InnerJoin, identities)
        .filter(identity::Column::Provider.eq(provider))
        .filter(Column::Reference.is_in(references.iter().copied()))
        .filter(Column::EndsAt.is_null())
        .into_tuple()
        .all(core.db.read())
        .await?;
    let mut holders = HashMap::new();
    for (subject, user, reference) in rows {
        let holder = holders.entry(subject).or_insert_with(|| Holder { user, references: Vec::new() });
        holder.references.push(reference);
    }
    Ok(holders)
}

/// The number of members with a live source from a mapping.
pub(crate) async fn count_holders(tx: &Tx, mapping: MappingId) -> Result<u64> {
    let live = Entity::find().filter(Column::EndsAt.is_null()).filter(Column::Consumed.eq(false));
    let of_mapping = live.filter(Column::Reference.eq(mapping.0));
    Ok(of_mapping.count(tx.db()).await?)
}
