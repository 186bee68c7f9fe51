//! Reads what verdicts and views of a license depend on.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use sea_orm::QueryResult;
use sea_orm::sea_query::{Alias, Expr, Query, SelectStatement};
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, ExprTrait, FromQueryResult, PaginatorTrait, QueryFilter};

use super::facts::{Device, DeviceMatching, Facts, Lease, LicenseFacts};
use super::question::Question;
use super::{device_store, store};
use crate::crypto::{license_key::LicenseKey, seal::Purpose};
use crate::db::{self, Reader};
use crate::entity::license::{self, Model as License};
use crate::entity::{ban, device, lease, policy};
use crate::{Core, Error, Result, bans};

/// The facts of a license that has been read.
pub async fn load_license_facts(core: &Core, license: License) -> Result<LicenseFacts> {
    let db = core.connection();
    let policy = policy::Entity::find_by_id(license.policy_id).one(db).await?;
    let policy = policy.ok_or_else(|| store::no_policy(license.id))?;
    let devices = device::Entity::find().filter(device::Column::LicenseId.eq(license.id)).count(db).await?;
    let sessions = lease::Entity::find()
        .filter(lease::Column::LicenseId.eq(license.id))
        .filter(lease::Column::SupersededAt.is_null())
        .filter(lease::Column::ExpiresAt.gt(core.clock.now()))
        .count(db)
        .await?;
    let (license, terms) = (Arc::new(license), Arc::new(policy.terms));
    Ok(LicenseFacts { license, terms, devices_used: devices, sessions_used: sessions })
}

/// The facts of a license key for a question; `None` if there is no such license. Only a fingerprint that is unknown costs further statements, if the policy tolerates changes.
pub(super) async fn load_facts(core: &Core, key: &LicenseKey, asked: &Question) -> Result<Option<Facts>> {
    let Some(mut facts) = query(core, key, asked).await? else { return Ok(None) };
    if let Some(seen) = &asked.device
        && facts.device == DeviceMatching::Unknown
        && facts.license.devices_used > 0
    {
        let LicenseFacts { license, terms, .. } = &facts.license;
        facts.device = device_store::recognize(core, core.keys(), license.id, seen, terms.device_match).await?;
        if let Some(device) = facts.device.device() {
            let known = vec![device.fingerprint.clone()];
            let (tenant, product, now) = (license.tenant_id, license.product_id, core.clock.now());
            facts.device_blocked |= bans::is_blocked(core, tenant, product, known, now).await?;
        }
    }
    Ok(Some(facts))
}

/// One statement, which compares the fingerprint only as it is.
async fn query(core: &Core, key: &LicenseKey, asked: &Question) -> Result<Option<Facts>> {
    let now = core.clock.now();
    let mut query = Query::select();
    let has_key = license(license::Column::KeyLookup).is_in(core.keys().macs(Purpose::LicenseLookup, &key.canonical()));
    query.from(license::Entity).and_where(has_key);
    db::columns::<license::Entity>(&mut query, LICENSE);
    let of_license = Expr::col((policy::Entity, policy::Column::Id)).eq(license(license::Column::PolicyId));
    join::<policy::Entity>(&mut query, POLICY, of_license);
    let devices =
        Query::select().from(device::Entity).and_where(owned_by_license(device::Column::LicenseId)).to_owned();
    query.expr_as(count(devices), Alias::new("devices_used"));
    let sessions = Query::select()
        .from(lease::Entity)
        .and_where(owned_by_license(lease::Column::LicenseId))
        .and_where(Expr::col((lease::Entity, lease::Column::SupersededAt)).is_null())
        .and_where(Expr::col((lease::Entity, lease::Column::ExpiresAt)).gt(now))
        .to_owned();
    query.expr_as(count(sessions), Alias::new("sessions_used"));
    let is_owner = Expr::col((ban::Entity, ban::Column::UserId)).eq(license(license::Column::UserId));
    query.expr_as(Expr::exists(bans(is_owner, now)), Alias::new("owner_banned"));
    if let Some(fingerprint) = &asked.device {
        let lookups = fingerprint.lookups(core.keys());
        let is_device = Expr::col((ban::Entity, ban::Column::Fingerprint)).is_in(lookups.clone());
        query.expr_as(Expr::exists(bans(is_device, now)), Alias::new("device_blocked"));
        let is_device = Expr::col((device::Entity, device::Column::Fingerprint)).is_in(lookups);
        join::<device::Entity>(&mut query, DEVICE, owned_by_license(device::Column::LicenseId).and(is_device));
    }
    if let Some(id) = asked.lease {
        let is_session = Expr::col((lease::Entity, lease::Column::Id)).eq(id);
        join::<lease::Entity>(&mut query, LEASE, owned_by_license(lease::Column::LicenseId).and(is_session));
    }
    let row = core.connection().query_one(&query.take()).await?;
    row.map(|row| decode(&row, asked)).transpose()
}

/// The prefixes of the joined tables' columns.
const LICENSE: &str = "license_";
const POLICY: &str = "policy_";
const DEVICE: &str = "device_";
const LEASE: &str = "lease_";

/// A column of the license.
fn license(column: license::Column) -> Expr {
    Expr::col((license::Entity, column))
}

/// Whether a row belongs to the license; `column` is its reference.
fn owned_by_license<C: ColumnTrait>(column: C) -> Expr {
    Expr::col((C::EntityName::default(), column)).eq(license(license::Column::Id))
}

/// Joins the row of a table that meets the condition, if there is one.
fn join<E: EntityTrait>(query: &mut SelectStatement, prefix: &str, condition: Expr) {
    query.left_join(E::default(), condition);
    db::columns::<E>(query, prefix);
}

/// The number of rows of a subquery.
fn count(mut rows: SelectStatement) -> Expr {
    rows.expr(Expr::cust("COUNT(*)"));
    Expr::SubQuery(None, Box::new(rows.into()))
}

/// The bans in effect that hold for the license's product.
fn bans(matching: Expr, now: DateTime<Utc>) -> SelectStatement {
    let (tenant, product) = (license(license::Column::TenantId), license(license::Column::ProductId));
    let in_effect = bans::in_effect(tenant, product, now);
    Query::select().expr(Expr::val(1)).from(ban::Entity).and_where(matching).cond_where(in_effect).to_owned()
}

fn decode(row: &QueryResult, asked: &Question) -> Result<Facts> {
    let count = |name| Ok::<u64, Error>(row.try_get::<i64>("", name)?.unsigned_abs());
    let license = LicenseFacts {
        // No verdict shows the key.
        license: Arc::new(License { key_sealed: Vec::new(), ..License::from_query_result(row, LICENSE)? }),
        terms: Arc::new(policy::Model::from_query_result(row, POLICY)?.terms),
        devices_used: count("devices_used")?,
        sessions_used: count("sessions_used")?,
    };
    let device = asked.device.as_ref().map(|_| Device::from_query_result_optional(row, DEVICE)).transpose()?.flatten();
    let lease = asked.lease.map(|_| Lease::from_query_result_optional(row, LEASE)).transpose()?.flatten();
    Ok(Facts {
        license,
        owner_banned: row.try_get("", "owner_banned")?,
        device: device.map_or(DeviceMatching::Unknown, |device| DeviceMatching::Exact(Arc::new(device))),
        device_blocked: asked.device.is_some() && row.try_get("", "device_blocked")?,
        lease: lease.map(Arc::new),
        is_quota_exhausted: false,
    })
}
