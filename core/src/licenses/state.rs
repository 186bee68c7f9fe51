//! The state of a license, computed from its times and the clock. It is not stored, so a late worker never
//! changes a verdict.

use chrono::{DateTime, Utc};

use crate::ids::{LicenseId, PolicyId, ProductId, TenantId};
use crate::{entity::license::Model as License, string_enum::string_enum};

string_enum! {
    /// The state of a license.
    LicenseState {
        /// Not assigned to anyone.
        Generated => "generated",
        /// Assigned, not used yet.
        Assigned => "assigned",
        /// Validated at least once.
        Active => "active",
        /// Past its expiry.
        Expired => "expired",
        /// Revoked, or without a source since its grace ended; this is final.
        Revoked => "revoked",
    }
}

/// What verdicts depend on; cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "fields are named after what they hold")]
pub struct LicenseFacts {
    pub id: LicenseId,
    pub tenant: TenantId,
    pub product: ProductId,
    /// The version of the policy it was issued under.
    pub policy: PolicyId,
    /// Prefix and last group of the key.
    pub key_hint: String,
    pub assigned_at: Option<DateTime<Utc>>,
    pub first_valid_at: Option<DateTime<Utc>>,
    pub expires_at: Option<DateTime<Utc>>,
    /// When its last source ends, grace included; `None` while one is live or if it has none.
    pub sources_end_at: Option<DateTime<Utc>>,
    pub revoked_at: Option<DateTime<Utc>>,
}

impl From<&License> for LicenseFacts {
    fn from(license: &License) -> Self {
        Self {
            id: license.id,
            tenant: license.tenant_id,
            product: license.product_id,
            policy: license.policy_id,
            key_hint: license.key_hint.clone(),
            assigned_at: license.assigned_at,
            first_valid_at: license.first_valid_at,
            expires_at: license.expires_at,
            sources_end_at: license.sources_end_at,
            revoked_at: license.revoked_at,
        }
    }
}

impl LicenseFacts {
    /// When it was revoked, or its grace ended; `None` if neither has happened at `now`.
    pub fn ended_at(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.revoked_at.or(self.sources_end_at.filter(|ends_at| *ends_at <= now))
    }

    /// The state at `now`.
    pub fn state(&self, now: DateTime<Utc>) -> LicenseState {
        if self.ended_at(now).is_some() {
            LicenseState::Revoked
        } else if self.expires_at.is_some_and(|expires_at| expires_at <= now) {
            LicenseState::Expired
        } else if self.first_valid_at.is_some() {
            LicenseState::Active
        } else if self.assigned_at.is_some() {
            LicenseState::Assigned
        } else {
            LicenseState::Generated
        }
    }
}

impl License {
    /// When it was revoked, or its grace ended; `None` if neither has happened at `now`.
    pub fn ended_at(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        LicenseFacts::from(self).ended_at(now)
    }

    /// The state at `now`.
    pub fn state(&self, now: DateTime<Utc>) -> LicenseState {
        LicenseFacts::from(self).state(now)
    }
}
