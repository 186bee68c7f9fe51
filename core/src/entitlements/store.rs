//! All SQL of the `entitlement_sources` table.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use sea_orm::{
    ActiveValue::Set, ColumnTrait, Condition, EntityTrait, ExprTrait, IntoActiveModel, JoinType, PaginatorTrait,
    QueryFilter, QueryOrder, QuerySelect, sea_query::Expr,
};
use uuid::Uuid;

use super::{Level, Source};
use crate::{
    Core, Result, Snowflake,
    entity::{
        identity, license,
        source::{ActiveModel, Column, Entity},
    },
    ids::{MappingId, ProductId, TenantId, UserId},
    tx::Tx,
    users::Provider,
};

/// Every source of a claim.
pub(super) async fn list(tx: &Tx, user: UserId, product: ProductId) -> Result<Vec<Source>> {
    let rows = Entity::find()
        .filter(Column::UserId.eq(user))
        .filter(Column::ProductId.eq(product))
        .order_by_asc(Column::LiveSince)
        .all(tx.db())
        .await?;
    Ok(rows)
}

/// A user's sources, whatever they are for.
pub(super) async fn list_of(core: &Core, user: UserId) -> Result<Vec<Source>> {
    Ok(Entity::find().filter(Column::UserId.eq(user)).all(core.db.read()).await?)
}

pub(super) async fn insert(tx: &Tx, source: Source) -> Result<()> {
    Entity::insert(source.into_active_model()).exec_without_returning(tx.db()).await?;
    Ok(())
}

/// Writes what is known of a source now.
pub(super) async fn update(tx: &Tx, source: Source) -> Result<()> {
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

/// Notes that sources were seen again at the level they have. `false`: one of them has changed since.
pub(super) async fn confirm(core: &Core, ids: &[Uuid], level: Level, stamp: i64) -> Result<bool> {
    if ids.is_empty() {
        return Ok(true);
    }
    let unchanged = match level {
        Level::Present => Column::EndsAt.is_null(),
        Level::Absent => Column::EndsAt.is_not_null(),
    };
    let confirmed = Entity::update_many()
        .col_expr(Column::Stamp, Expr::value(stamp))
        .filter(Column::Id.is_in(ids.iter().copied()))
        .filter(Column::Stamp.lt(stamp))
        .filter(unchanged)
        .exec(core.db.writer())
        .await?;
    Ok(usize::try_from(confirmed.rows_affected).is_ok_and(|n| n == ids.len()))
}

/// The newest stamp anybody wrote.
pub(super) async fn newest_stamp(core: &Core) -> Result<Option<i64>> {
    let newest: Option<Option<i64>> =
        Entity::find().select_only().column_as(Column::Stamp.max(), "newest").into_tuple().one(core.db.read()).await?;
    Ok(newest.flatten())
}

/// A claim's license was ended by an admin: its roles have had their license, and a grant is over.
pub(crate) async fn consume(tx: &Tx, user: UserId, product: ProductId) -> Result<()> {
    let of_claim = Condition::all().add(Column::UserId.eq(user)).add(Column::ProductId.eq(product));
    Entity::update_many().col_expr(Column::Consumed, Expr::value(true)).filter(of_claim.clone()).exec(tx.db()).await?;
    Entity::update_many()
        .col_expr(Column::EndsAt, Expr::value(tx.now()))
        .filter(of_claim)
        .filter(Column::Kind.eq(super::SourceKind::Grant.kind()))
        .exec(tx.db())
        .await?;
    Ok(())
}

/// Claims with a standing license and no source that is live or in its grace.
pub(super) async fn list_over(
    core: &Core,
    now: DateTime<Utc>,
    limit: u64,
) -> Result<Vec<(TenantId, UserId, ProductId)>> {
    let stands = sea_orm::sea_query::Query::select()
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
        .filter(Expr::exists(stands).not())
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

/// The earliest end of a grace that is still running.
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

/// Who holds these mappings now, by Discord account.
pub(super) async fn holders(core: &Core, mappings: &[MappingId]) -> Result<HashMap<Snowflake, Vec<MappingId>>> {
    let known_by = Entity::belongs_to(identity::Entity).from(Column::UserId).to(identity::Column::UserId).into();
    let rows: Vec<(String, Uuid)> = Entity::find()
        .select_only()
        .column(identity::Column::Subject)
        .column(Column::Reference)
        .join(JoinType::InnerJoin, known_by)
        .filter(identity::Column::Provider.eq(Provider::Discord.as_str()))
        .filter(Column::Reference.is_in(mappings.iter().map(|id| id.0)))
        .filter(Column::EndsAt.is_null())
        .into_tuple()
        .all(core.db.read())
        .await?;
    let mut holders = HashMap::<_, Vec<_>>::new();
    for (subject, mapping) in rows {
        if let Ok(id) = subject.parse() {
            holders.entry(Snowflake(id)).or_default().push(MappingId(mapping));
        }
    }
    Ok(holders)
}

/// How many members one mapping holds now.
pub(crate) async fn count_holders(tx: &Tx, mapping: MappingId) -> Result<u64> {
    let live = Entity::find().filter(Column::EndsAt.is_null()).filter(Column::Consumed.eq(false));
    let held = live.filter(Column::Reference.eq(mapping.0));
    Ok(held.count(tx.db()).await?)
}
