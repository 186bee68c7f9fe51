//! Tenants: the owners of guilds, products and API keys.

use sea_orm::{ActiveValue::Set, EntityTrait, QuerySelect, sea_query::LockType};

use crate::{Core, Reason, Result, entity::tenant, ids::TenantId, tx::Tx};

/// All tenants; for the operator.
pub async fn list(core: &Core) -> Result<Vec<(TenantId, String)>> {
    let rows = tenant::Entity::find().all(core.db.read()).await?;
    Ok(rows.into_iter().map(|row| (row.id, row.name)).collect())
}

/// Locks a tenant, for changes that concern all of its products. Rows that refer to it can still be inserted. Refused with
/// `NOT_FOUND`.
pub(crate) async fn lock(tx: &Tx, id: TenantId) -> Result<()> {
    let row = tenant::Entity::find_by_id(id).lock(LockType::NoKeyUpdate).one(tx.db()).await?;
    row.map(drop).ok_or_else(|| Reason::NoTenant.refusal())
}

/// Inserts a tenant.
pub(crate) async fn insert(tx: &Tx, name: &str) -> Result<TenantId> {
    let id = TenantId(tx.core().ids.v7(tx.now()));
    let row = tenant::ActiveModel { id: Set(id), name: Set(name.to_owned()), created_at: Set(tx.now()) };
    tenant::Entity::insert(row).exec_without_returning(tx.db()).await?;
    Ok(id)
}

/// Deletes a tenant that nothing refers to.
pub(crate) async fn delete(tx: &Tx, id: TenantId) -> Result<()> {
    tenant::Entity::delete_by_id(id).exec(tx.db()).await?;
    Ok(())
}

/// Creates a tenant without a guild; for the operator.
pub async fn create(core: &Core, name: &str) -> Result<TenantId> {
    let tx = Tx::begin(core).await?;
    let id = insert(&tx, name).await?;
    tx.commit().await?;
    Ok(id)
}
