//! Queries on the `licenses` table.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use sea_orm::sea_query::{Expr, OnConflict, Query};
use sea_orm::{
    ActiveModelTrait, ColumnTrait, Condition, EntityTrait, ExprTrait, IntoActiveModel, QueryFilter, QueryOrder,
    QuerySelect,
};

use super::state::LicenseState;
use crate::entity::license::{Column, Entity, Model as License};
use crate::entity::{device, lease, policy};
use crate::ids::{LicenseId, ProductId, UserId};
use crate::policy::{LicenseType, OnSourceLost, PolicyTerms};
use crate::{Core, Error, Reason, Result, Scope, db, tx::Tx};

/// The number of rows of one statement, which has a limited number of parameters.
const BATCH: usize = 500;

/// Inserts new licenses.
pub(super) async fn insert_all(tx: &Tx, licenses: &[License]) -> Result<()> {
    for batch in licenses.chunks(BATCH) {
        let rows = batch.iter().cloned().map(License::into_active_model);
        let existing_key = OnConflict::column(Column::KeyLookup).do_nothing().to_owned();
        let inserted = Entity::insert_many(rows).on_conflict(existing_key).exec_without_returning(tx.db()).await?;
        if inserted != batch.len() as u64 {
            return Err(Error::Internal("a license key was generated twice".to_owned()));
        }
    }
    Ok(())
}

/// Stores all columns of a locked license.
pub(super) async fn save(tx: &Tx, license: &License) -> Result<()> {
    tx.mark_changed(license.id);
    let row = license.clone().into_active_model().reset_all();
    Entity::update(row).validate()?.exec_without_returning(tx.db()).await?;
    Ok(())
}

/// Removes the devices and sessions of a locked license.
pub(super) async fn delete_devices_and_leases(tx: &Tx, id: LicenseId) -> Result<()> {
    tx.mark_changed(id);
    lease::Entity::delete_many().filter(lease::Column::LicenseId.eq(id)).exec(tx.db()).await?;
    device::Entity::delete_many().filter(device::Column::LicenseId.eq(id)).exec(tx.db()).await?;
    Ok(())
}

/// The license with this key, of any tenant.
pub(super) async fn find_by_key(core: &Core, lookups: &[Vec<u8>]) -> Result<Option<License>> {
    let with_key = Entity::find().filter(Column::KeyLookup.is_in(lookups.iter().cloned()));
    Ok(with_key.one(core.db.read()).await?)
}

/// The license with this key, of any tenant: the caller decides who may know of it.
pub(super) async fn find_by_lookup(core: &Core, lookups: Vec<Vec<u8>>) -> Result<Option<License>> {
    Ok(Entity::find().filter(Column::KeyLookup.is_in(lookups)).one(core.db.read()).await?)
}

/// A license by id, of any tenant.
pub(crate) async fn find(core: &Core, id: LicenseId) -> Result<Option<License>> {
    Ok(Entity::find_by_id(id).one(core.db.read()).await?)
}

/// The license that a user has for a product. Refused with `NOT_FOUND`.
pub(super) async fn find_of_user(core: &Core, user: UserId, product: ProductId) -> Result<LicenseId> {
    let of_user = Entity::find().filter(Column::UserId.eq(user)).filter(Column::ProductId.eq(product));
    let found = of_user.filter(Column::RevokedAt.is_null()).one(core.db.read()).await?;
    found.map(|license| license.id).ok_or_else(|| Reason::NoLicense.refusal())
}

/// The license of a tenant that a user has for a product and that is not revoked.
pub(super) async fn find_unrevoked_of(
    core: &Core,
    scope: &Scope,
    user: UserId,
    product: ProductId,
) -> Result<Option<License>> {
    let of_user = Column::UserId.eq(user).and(Column::ProductId.eq(product));
    find_in_scope(core, scope, of_user.and(Column::RevokedAt.is_null())).await
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

/// Licenses that match, of any tenant.
pub(super) async fn list_matching(core: &Core, matching: Condition, limit: u64) -> Result<Vec<License>> {
    Ok(Entity::find().filter(matching).order_by_asc(Column::Id).limit(limit).all(core.db.read()).await?)
}

/// These licenses, locked in the order of their ids.
pub(super) async fn lock_all(tx: &Tx, ids: &[LicenseId]) -> Result<Vec<License>> {
    let rows = Entity::find().filter(Column::Id.is_in(ids.iter().copied())).order_by_asc(Column::Id);
    Ok(rows.lock_exclusive().all(tx.db()).await?)
}

/// Revokes locked licenses.
pub(super) async fn revoke_all(tx: &Tx, ids: &[LicenseId], reason: &str) -> Result<()> {
    for id in ids {
        tx.mark_changed(*id);
    }
    let revoked = [(Column::RevokedAt, tx.now().into()), (Column::RevokeReason, reason.into())];
    let changes = revoked.into_iter().chain([(Column::Rev, Expr::col(Column::Rev).add(1))]);
    db::update(changes, [Column::Id.is_in(ids.iter().copied())]).exec(tx.db()).await?;
    Ok(())
}

/// All unrevoked licenses of a user, locked in the order of their ids.
pub(super) async fn lock_all_unrevoked(tx: &Tx, user: UserId) -> Result<Vec<License>> {
    let rows = Entity::find().filter(Column::UserId.eq(user)).filter(Column::RevokedAt.is_null());
    Ok(rows.order_by_asc(Column::Id).lock_exclusive().all(tx.db()).await?)
}

/// Whether a user has, or had, a trial of a product. The caller has locked the holder.
pub(super) async fn has_had_trial(tx: &Tx, user: UserId, product: ProductId) -> Result<bool> {
    let of_user = Entity::find().filter(Column::UserId.eq(user)).filter(Column::ProductId.eq(product));
    Ok(of_user.filter(is_of_type(LicenseType::Trial)).one(tx.db()).await?.is_some())
}

/// Every license names a policy.
pub(super) fn no_policy(id: LicenseId) -> Error {
    Error::Internal(format!("license {id} has no policy"))
}

/// The condition that a license has terms of this type.
pub(super) fn is_of_type(license_type: LicenseType) -> Expr {
    // Both databases have this operator.
    let has_type = Expr::cust("terms ->> 'type'").eq(license_type.as_str());
    let policies = Query::select().column(policy::Column::Id).from(policy::Entity).and_where(has_type).to_owned();
    Column::PolicyId.in_subquery(policies)
}

/// Moves all licenses of a user to another one. Returns them.
pub(super) async fn set_user(tx: &Tx, from: UserId, into: UserId) -> Result<Vec<License>> {
    let moved = db::update([(Column::UserId, into.into())], [Column::UserId.eq(from)]);
    let moved = moved.exec_with_returning(tx.db()).await?;
    for license in &moved {
        tx.mark_changed(license.id);
    }
    Ok(moved)
}

/// The unrevoked licenses of these users for these products, locked in the order of their ids. The caller has locked the
/// holders.
pub(crate) async fn lock_all_unrevoked_of(
    tx: &Tx,
    users: &BTreeSet<UserId>,
    products: &BTreeSet<ProductId>,
) -> Result<Vec<License>> {
    let rows = Entity::find().filter(Column::UserId.is_in(users.iter().copied()));
    let rows = rows.filter(Column::ProductId.is_in(products.iter().copied())).filter(Column::RevokedAt.is_null());
    Ok(rows.order_by_asc(Column::Id).lock_exclusive().all(tx.db()).await?)
}

/// A user's licenses with a tenant, newest first.
pub async fn list_of(core: &Core, scope: &Scope, user: UserId) -> Result<Vec<License>> {
    let rows = Entity::find().filter(Column::TenantId.eq(scope.tenant())).filter(Column::UserId.eq(user));
    Ok(rows.order_by_desc(Column::CreatedAt).order_by_desc(Column::Id).all(core.db.read()).await?)
}

/// Expired licenses whose expiry has no event.
pub(super) async fn list_unannounced(core: &Core, now: DateTime<Utc>, limit: u64) -> Result<Vec<LicenseId>> {
    // The columns of a partial index; the state alone does not name them.
    let open = Column::RevokedAt.is_null().and(Column::LapseSeenAt.is_null()).and(Column::LapsesAt.lte(now));
    let expired = Entity::find().filter(open).filter(is_in_state(LicenseState::Expired, now));
    let rows = expired.select_only().column(Column::Id);
    Ok(rows.limit(limit).into_tuple().all(core.db.read()).await?)
}

/// That the end of the sources has not suspended a license yet. A partial index needs constants instead of parameters.
const UNRECORDED: &str = "(suspended_at IS NULL OR on_source_lost <> 'suspend')";

/// Licenses whose last source has ended without an event that says so.
pub(crate) async fn list_sources_ended(core: &Core, now: DateTime<Utc>, limit: u64) -> Result<Vec<License>> {
    let lapsed = Entity::find().filter(Column::RevokedAt.is_null()).filter(Column::SourcesEndAt.lte(now));
    let lapsed = lapsed.filter(Expr::cust(UNRECORDED));
    let is_suspended = Column::SuspendedAt.is_not_null().or(Column::LapsesAt.lte(now).if_null(false));
    let is_recorded = Column::OnSourceLost.eq(OnSourceLost::Suspend).and(is_suspended);
    Ok(lapsed.filter(is_recorded.not()).limit(limit).all(core.db.read()).await?)
}

/// The condition that a license is in this state at `now`: the same as [`License::state`].
pub(super) fn is_in_state(state: LicenseState, now: DateTime<Utc>) -> Condition {
    let all = Condition::all;
    let sources_ended = all().add(Column::SourcesEndAt.is_not_null()).add(Column::SourcesEndAt.lte(now));
    let suspends = Column::OnSourceLost.eq(OnSourceLost::Suspend);
    let ended =
        Condition::any().add(Column::RevokedAt.is_not_null()).add(all().add(sources_ended.clone()).add(suspends.not()));
    let lapsed = all().add(Column::LapsesAt.is_not_null()).add(Column::LapsesAt.lte(now));
    let suspended = Condition::any().add(Column::SuspendedAt.is_not_null()).add(sources_ended);
    // In the order in which the state is decided.
    let states = [
        (LicenseState::Revoked, ended),
        (LicenseState::Expired, lapsed),
        (LicenseState::Suspended, suspended),
        (LicenseState::Generated, all().add(Column::AssignedAt.is_null())),
        (LicenseState::Active, all().add(Column::FirstValidAt.is_not_null())),
        (LicenseState::Renewed, all().add(Column::RenewedAt.is_not_null())),
        (LicenseState::Activated, all().add(Column::ActivatedAt.is_not_null())),
        (LicenseState::Assigned, all()),
    ];
    let mut condition = all();
    for (decided, holds) in states {
        if decided == state {
            return condition.add(holds);
        }
        condition = condition.add(holds.not());
    }
    condition
}

/// When the next license loses its last source.
pub(crate) async fn next_sources_end(core: &Core, now: DateTime<Utc>) -> Result<Option<DateTime<Utc>>> {
    let later = Entity::find().filter(Column::RevokedAt.is_null()).filter(Column::SourcesEndAt.gt(now));
    let later = later.filter(Expr::cust(UNRECORDED));
    let next = later.select_only().column_as(Column::SourcesEndAt.min(), "next");
    let next: Option<Option<DateTime<Utc>>> = next.into_tuple().one(core.db.read()).await?;
    Ok(next.flatten())
}

/// Stores when the last source of a locked license ends, if that changes the license.
pub(crate) async fn set_sources_end(
    tx: &Tx,
    license: &License,
    terms: &PolicyTerms,
    at: Option<DateTime<Utc>>,
) -> Result<()> {
    let mut changed = License { sources_end_at: license.end_with_sources(at), ..license.clone() };
    if changed.sources_end_at == license.sources_end_at {
        return Ok(());
    }
    changed.lapses_at = changed.lapse(terms);
    changed.rev += 1;
    save(tx, &changed).await
}

/// Changes columns of a locked license and increments its revision.
pub(super) async fn update(tx: &Tx, id: LicenseId, changes: impl IntoIterator<Item = (Column, Expr)>) -> Result<()> {
    tx.mark_changed(id);
    let changes = changes.into_iter().chain([(Column::Rev, Expr::col(Column::Rev).add(1))]);
    db::update(changes, [Column::Id.eq(id)]).exec(tx.db()).await?;
    Ok(())
}
