//! Queries on the `devices` table, and on what a device depends on.

use std::sync::Arc;

use sea_orm::{ColumnTrait, EntityTrait, PaginatorTrait, QueryFilter, QuerySelect, Select};

use super::facts::{Device, DeviceMatching, Facts, LicenseFacts};
use super::{License, recognition, store};
use crate::db::Reader;
use crate::entity::device::{Column, Entity};
use crate::entity::{lease, policy};
use crate::ids::{DeviceId, LicenseId};
use crate::policy::{DeviceMatch, PolicyTerms};
use crate::{Result, bans, fingerprint::Fingerprint, keyring::Keyring, tx::Tx};

/// The devices of a license.
pub(super) fn of_license(id: LicenseId) -> Select<Entity> {
    Entity::find().filter(Column::LicenseId.eq(id))
}

/// The device with exactly this fingerprint.
pub(super) async fn find(tx: &Tx, license: LicenseId, seen: &Fingerprint) -> Result<Option<Device>> {
    let exact = of_license(license).filter(Column::Fingerprint.is_in(seen.lookups(tx.core().keys())));
    Ok(exact.one(tx.db()).await?)
}

/// Compares a device whose fingerprint is unknown with those of a license.
pub(super) async fn recognize(
    from: &impl Reader,
    keys: &Keyring,
    license: LicenseId,
    seen: &Fingerprint,
    rule: DeviceMatch,
) -> Result<DeviceMatching> {
    if rule == DeviceMatch::Exact {
        return Ok(DeviceMatching::Unknown);
    }
    let devices = of_license(license).all(from.connection()).await?;
    Ok(recognition::compare(devices, seen, rule, keys))
}

/// The number of sessions of a license that have not ended.
pub(super) async fn sessions(tx: &Tx, license: LicenseId) -> Result<u64> {
    let open = lease::Entity::find()
        .filter(lease::Column::LicenseId.eq(license))
        .filter(lease::Column::SupersededAt.is_null())
        .filter(lease::Column::ExpiresAt.gt(tx.now()));
    Ok(open.count(tx.db()).await?)
}

/// The terms that a license was issued under.
pub(super) async fn terms(tx: &Tx, license: &License) -> Result<PolicyTerms> {
    let policy = policy::Entity::find_by_id(license.policy_id).one(tx.db()).await?;
    policy.map(|policy| policy.terms).ok_or_else(|| store::no_policy(license.id))
}

/// The facts of a locked license and a device.
pub(super) async fn facts(tx: &Tx, license: License, seen: &Fingerprint) -> Result<Facts> {
    let terms = terms(tx, &license).await?;
    let device = match find(tx, license.id, seen).await? {
        Some(exact) => DeviceMatching::Exact(Arc::new(exact)),
        None => recognize(tx, tx.core().keys(), license.id, seen, terms.device_match).await?,
    };
    let (tenant, product) = (license.tenant_id, license.product_id);
    let owner_banned = match license.user_id {
        Some(owner) => bans::is_banned(tx, tenant, product, owner).await?,
        None => false,
    };
    let mut hashes = seen.lookups(tx.core().keys());
    hashes.extend(device.device().map(|device| device.fingerprint.clone()));
    let device_blocked = bans::is_blocked(tx, tenant, product, hashes, tx.now()).await?;
    let license = LicenseFacts {
        devices_used: of_license(license.id).count(tx.db()).await?,
        sessions_used: if terms.lease.is_some() { sessions(tx, license.id).await? } else { 0 },
        license: Arc::new(license),
        terms: Arc::new(terms),
    };
    Ok(Facts { license, owner_banned, device, device_blocked, lease: None, is_quota_exhausted: false })
}

/// Removes devices of a locked license, all or one, and ends their floating sessions. Returns those that were removed.
pub(super) async fn remove(tx: &Tx, license: &License, device: Option<DeviceId>) -> Result<Vec<DeviceId>> {
    let all = of_license(license.id);
    let wanted = device.into_iter().fold(all, |all, device| all.filter(Column::Id.eq(device)));
    let devices: Vec<DeviceId> = wanted.select_only().column(Column::Id).into_tuple().all(tx.db()).await?;
    if devices.is_empty() {
        return Ok(devices);
    }
    let sessions = lease::Entity::delete_many().filter(lease::Column::LicenseId.eq(license.id));
    let removed = Entity::delete_many().filter(Column::LicenseId.eq(license.id));
    let (sessions, removed) = match device {
        Some(id) => (sessions.filter(lease::Column::DeviceId.eq(id)), removed.filter(Column::Id.eq(id))),
        None => (sessions.filter(lease::Column::DeviceId.is_not_null()), removed),
    };
    tx.mark_changed(license.id);
    sessions.exec(tx.db()).await?;
    removed.exec(tx.db()).await?;
    Ok(devices)
}
