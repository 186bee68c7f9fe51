//! Queries on the `licenses` table.

use chrono::{DateTime, Utc};
use sea_orm::{
    ColumnTrait, ConnectionTrait, EntityTrait, ExprTrait, QueryFilter, QueryOrder, QuerySelect,
    sea_query::{Expr, OnConflict},
};

use super::{License, verdict::NO_SUCH_LICENSE};
use crate::{
    Code, Core, Result, Scope,
    entity::license::{ActiveModel, Column, Entity},
    ids::{LicenseId, ProductId, UserId},
    tx::Tx,
};

/// Inserts a new license. `false`: its key already exists; generate another.
pub(super) async fn insert(tx: &Tx, license: License) -> Result<bool> {
    let written = Entity::insert(ActiveModel::from(license))
        .on_conflict(OnConflict::column(Column::KeyLookup).do_nothing().to_owned())
        .exec_without_returning(tx.db())
        .await?;
    Ok(written == 1)
}

/// The license with this key, of any tenant; the caller filters.
pub(super) async fn find_by_lookup(db: &impl ConnectionTrait, lookup: Vec<u8>) -> Result<Option<License>> {
    Ok(Entity::find().filter(Column::KeyLookup.eq(lookup)).one(db).await?)
}

pub(super) async fn find(core: &Core, id: LicenseId) -> Result<Option<License>> {
    Ok(Entity::find_by_id(id).one(core.db.read()).await?)
}

pub(super) async fn get(core: &Core, scope: &Scope, id: LicenseId) -> Result<License> {
    let found = find(core, id).await?.filter(|license| license.tenant_id == scope.tenant());
    found.ok_or_else(|| Code::NotFound.because(NO_SUCH_LICENSE))
}

/// The license, locked until the transaction ends.
pub(super) async fn lock(tx: &Tx, id: LicenseId) -> Result<License> {
    let row = Entity::find_by_id(id).lock_exclusive().one(tx.db()).await?;
    row.ok_or_else(|| Code::NotFound.because(NO_SUCH_LICENSE))
}

/// The unrevoked license of an entitlement, locked. The caller has locked the holder.
pub(crate) async fn lock_unrevoked(tx: &Tx, user: UserId, product: ProductId) -> Result<Option<License>> {
    let row = Entity::find()
        .filter(Column::UserId.eq(user))
        .filter(Column::ProductId.eq(product))
        .filter(Column::RevokedAt.is_null())
        .lock_exclusive()
        .one(tx.db())
        .await?;
    Ok(row)
}

/// A user's licenses with a tenant, newest first.
pub(super) async fn list_of(core: &Core, scope: &Scope, user: UserId) -> Result<Vec<License>> {
    let rows = Entity::find()
        .filter(Column::TenantId.eq(scope.tenant()))
        .filter(Column::UserId.eq(user))
        .order_by_desc(Column::CreatedAt)
        .order_by_desc(Column::Id)
        .all(core.db.read())
        .await?;
    Ok(rows)
}

/// Expired licenses without an expiry event.
pub(super) async fn list_unannounced(core: &Core, now: DateTime<Utc>, limit: u64) -> Result<Vec<LicenseId>> {
    let rows = Entity::find()
        .select_only()
        .column(Column::Id)
        .filter(Column::ExpiresAt.lte(now))
        .filter(Column::ExpiredSeenAt.is_null())
        .filter(Column::RevokedAt.is_null())
        .limit(limit)
        .into_tuple()
        .all(core.db.read())
        .await?;
    Ok(rows)
}

/// Changes columns of a locked license and increments its revision.
pub(super) async fn touch(tx: &Tx, id: LicenseId, changes: impl IntoIterator<Item = (Column, Expr)>) -> Result<()> {
    let mut update = Entity::update_many().col_expr(Column::Rev, Expr::col(Column::Rev).add(1));
    for (column, value) in changes {
        update = update.col_expr(column, value);
    }
    update.filter(Column::Id.eq(id)).exec(tx.db()).await?;
    Ok(())
}
