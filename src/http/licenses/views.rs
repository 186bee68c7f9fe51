//! Licenses as shown in responses.

use chrono::{DateTime, Utc};
use dca_core::licenses::{Device, Lease, LicenseFacts};
use dca_core::policy::{ExpiryStrategy, PolicyTerms};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::http::schemas;

/// A license.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LicenseView {
    /// The license ID. Unlike the key, it is safe to store and show.
    id: Uuid,
    /// The prefix and the last group of the key, for example `ACME-…-GCZJ`.
    key_hint: String,
    #[schema(value_type = schemas::LicenseState)]
    state: &'static str,
    #[serde(rename = "type")]
    #[schema(value_type = schemas::LicenseType)]
    license_type: &'static str,
    /// The product that the license is for.
    product_id: Uuid,
    /// The policy that the license was issued under.
    policy_id: Uuid,
    /// When the license expires. `null` if it does not expire.
    expires_at: Option<DateTime<Utc>>,
    /// How long the license stays valid after its expiry. `null` if it has no grace.
    grace_until: Option<DateTime<Utc>>,
    /// The features that the license includes.
    features: Vec<String>,
    limits: LimitsView,
    metadata: Value,
}

/// How much of a license may be used, and how much is.
#[derive(Serialize, ToSchema)]
pub(crate) struct LimitsView {
    devices: LimitView,
    /// Floating sessions. `null` if the license needs none.
    sessions: Option<LimitView>,
}

/// A limit.
#[derive(Serialize, ToSchema)]
pub(crate) struct LimitView {
    /// `null` if there is no limit.
    max: Option<u32>,
    used: u64,
}

/// A device that a license is activated on.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DeviceView {
    id: Uuid,
    activated_at: DateTime<Utc>,
    /// When it last validated, to the minute.
    last_seen_at: DateTime<Utc>,
}

impl DeviceView {
    pub(crate) fn of(device: &Device) -> Self {
        Self { id: device.id.0, activated_at: device.activated_at, last_seen_at: device.last_seen_at }
    }
}

/// A floating session.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LeaseView {
    id: Uuid,
    /// The number of the last heartbeat.
    seq: i64,
    /// When the session ends without another heartbeat.
    expires_at: DateTime<Utc>,
    /// How long a session lasts after a heartbeat, in seconds.
    ttl: i64,
    /// How often to send a heartbeat, in seconds.
    interval: i64,
}

impl LeaseView {
    /// `None` if the policy has no floating sessions any more.
    pub(crate) fn of(lease: &Lease, terms: &PolicyTerms) -> Option<Self> {
        let ttl = terms.lease.as_ref()?.ttl_seconds;
        Some(Self { id: lease.id.0, seq: lease.seq, expires_at: lease.expires_at, ttl, interval: ttl / 3 })
    }
}

impl LicenseView {
    pub(crate) fn of(facts: &LicenseFacts, now: DateTime<Utc>) -> Self {
        let (license, terms) = (&facts.license, &facts.terms);
        let has_grace = terms.expiry_strategy == ExpiryStrategy::GraceThenRestrict;
        Self {
            id: license.id.0,
            key_hint: license.key_hint.clone(),
            state: license.state(now).as_str(),
            license_type: terms.license_type.as_str(),
            product_id: license.product_id.0,
            policy_id: license.policy_id.0,
            expires_at: license.expires_at,
            grace_until: license.lapses_at.filter(|_| has_grace),
            features: terms.features.clone(),
            limits: LimitsView::of(facts),
            metadata: license.metadata.clone(),
        }
    }
}

impl LimitsView {
    pub(crate) fn of(facts: &LicenseFacts) -> Self {
        let LicenseFacts { terms, devices_used, sessions_used, .. } = facts;
        let sessions =
            terms.lease.as_ref().map(|lease| LimitView { max: Some(lease.max_concurrent), used: *sessions_used });
        Self { devices: LimitView { max: terms.max_devices, used: *devices_used }, sessions }
    }
}
