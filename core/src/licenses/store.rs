//! Queries on the `licenses` table.

use chrono::{DateTime, Utc};
use sea_orm::sea_query::{Expr, OnConflict};
use sea_orm::{ColumnTrait, EntityTrait, ExprTrait, IntoActiveModel, QueryFilter, QueryOrder, QuerySelect};

use crate::entity::license::{Column, Entity, Model as License};
use crate::ids::{LicenseId, ProductId, UserId};
use crate::{Core, Reason, Result, Scope, db, tx::Tx};

/// Inserts a new license. `false`: its key already exists; generate another.
pub(super) async fn insert(tx: &Tx, license: License) -> Result<bool> {
    let existing_key = OnConflict::column(Column::KeyLookup).do_nothing().to_owned();
    let insert = Entity::insert(license.into_active_model()).on_conflict(existing_key);
    Ok(insert.exec_without_returning(tx.db()).await? == 1)
}

/// The license with this key, of any tenant: a verdict decides who may know of it.
pub(super) async fn find_by_lookup(core: &Core, lookups: Vec<Vec<u8>>) -> Result<Option<License>> {
    Ok(Entity::find().filter(Column::KeyLookup.is_in(lookups)).one(core.db.read()).await?)
}

/// A license by id, of any tenant.
pub(crate) async fn find(core: &Core, id: LicenseId) -> Result<Option<License>> {
    Ok(Entity::find_by_id(id).one(core.db.read()).await?)
}

pub(super) async fn find_unrevoked(core: &Core, id: LicenseId) -> Result<Option<License>> {
    Ok(Entity::find_by_id(id).filter(Column::RevokedAt.is_null()).one(core.db.read()).await?)
}

/// The license of a tenant that matches.
pub(super) async fn find_in_scope(core: &Core, scope: &Scope, matching: Expr) -> Result<Option<License>> {
    let found = Entity::find().filter(Column::TenantId.eq(scope.tenant())).filter(matching);
    Ok(found.one(core.db.read()).await?)
}

pub(crate) async fn get(core: &Core, scope: &Scope, id: LicenseId) -> Result<License> {
    let found = find_in_scope(core, scope, Column::Id.eq(id)).await?;
    found.ok_or_else(|| Reason::NoLicense.refusal())
}

/// The license, locked until the transaction ends.
pub(crate) async fn lock(tx: &Tx, id: LicenseId) -> Result<License> {
    let row = Entity::find_by_id(id).lock_exclusive().one(tx.db()).await?;
    row.ok_or_else(|| Reason::NoLicense.refusal())
}

/// All unrevoked licenses of a user, locked in the order of their ids.
pub(super) async fn lock_all_unrevoked(tx: &Tx, user: UserId) -> Result<Vec<License>> {
    let rows = Entity::find().filter(Column::UserId.eq(user)).filter(Column::RevokedAt.is_null());
    Ok(rows.order_by_asc(Column::Id).lock_exclusive().all(tx.db()).await?)
}

/// Moves all licenses of a user to another one.
pub(super) async fn set_user(tx: &Tx, from: UserId, into: UserId) -> Result<()> {
    db::update([(Column::UserId, into.into())], [Column::UserId.eq(from)]).exec(tx.db()).await?;
    Ok(())
}

/// The unrevoked license of an entitlement, locked. The caller has locked the holder.
pub(crate) async fn lock_unrevoked(tx: &Tx, user: UserId, product: ProductId) -> Result<Option<License>> {
    let of_entitlement = Entity::find().filter(Column::UserId.eq(user)).filter(Column::ProductId.eq(product));
    Ok(of_entitlement.filter(Column::RevokedAt.is_null()).lock_exclusive().one(tx.db()).await?)
}

/// A user's licenses with a tenant, newest first.
pub async fn list_of(core: &Core, scope: &Scope, user: UserId) -> Result<Vec<License>> {
    let rows = Entity::find().filter(Column::TenantId.eq(scope.tenant())).filter(Column::UserId.eq(user));
    Ok(rows.order_by_desc(Column::CreatedAt).order_by_desc(Column::Id).all(core.db.read()).await?)
}

/// Expired licenses without an expiry event.
pub(super) async fn list_unannounced(core: &Core, now: DateTime<Utc>, limit: u64) -> Result<Vec<LicenseId>> {
    let expired = Entity::find().filter(Column::ExpiresAt.lte(now)).filter(Column::RevokedAt.is_null());
    let rows = expired.filter(Column::ExpiredSeenAt.is_null()).select_only().column(Column::Id);
    Ok(rows.limit(limit).into_tuple().all(core.db.read()).await?)
}

/// Unrevoked licenses whose last source has ended.
pub(crate) async fn list_lapsed(core: &Core, now: DateTime<Utc>, limit: u64) -> Result<Vec<License>> {
    let lapsed = Entity::find().filter(Column::RevokedAt.is_null()).filter(Column::SourcesEndAt.lte(now));
    Ok(lapsed.limit(limit).all(core.db.read()).await?)
}

/// When the next license loses its last source.
pub(crate) async fn next_lapse(core: &Core, now: DateTime<Utc>) -> Result<Option<DateTime<Utc>>> {
    let later = Entity::find().filter(Column::RevokedAt.is_null()).filter(Column::SourcesEndAt.gt(now));
    let next = later.select_only().column_as(Column::SourcesEndAt.min(), "next");
    let next: Option<Option<DateTime<Utc>>> = next.into_tuple().one(core.db.read()).await?;
    Ok(next.flatten())
}

/// Stores when the last source of a locked license ends.
pub(crate) async fn set_sources_end(tx: &Tx, license: &License, at: Option<DateTime<Utc>>) -> Result<()> {
    if license.sources_end_at == at {
        return Ok(());
    }
    update(tx, license.id, [(Column::SourcesEndAt, at.into())]).await
}

/// Changes columns of a locked license and increments its revision.
pub(super) async fn update(tx: &Tx, id: LicenseId, changes: impl IntoIterator<Item = (Column, Expr)>) -> Result<()> {
    let changes = changes.into_iter().chain([(Column::Rev, Expr::col(Column::Rev).add(1))]);
    db::update(changes, [Column::Id.eq(id)]).exec(tx.db()).await?;
    Ok(())
}
