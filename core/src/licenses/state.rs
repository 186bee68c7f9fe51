//! The state of a license, computed from its times and the clock. It is not stored, so a late worker
//! never changes a verdict.

use chrono::{DateTime, Utc};

use super::License;
use crate::error::string_enum;

string_enum! {
    /// The state of a license.
    LicenseState {
        Generated => ("generated", "Not assigned to anyone."),
        Assigned => ("assigned", "Assigned, not used yet."),
        Active => ("active", "Validated at least once."),
        Expired => ("expired", "Past its expiry."),
        Revoked => ("revoked", "Revoked; this is final."),
    }
}

impl LicenseState {
    /// Whether the license may be revoked: in every state but `Revoked`.
    #[must_use]
    pub fn may_revoke(self) -> bool {
        self != Self::Revoked
    }
}

/// The state at `now`.
#[must_use]
pub fn state(license: &License, now: DateTime<Utc>) -> LicenseState {
    if license.revoked_at.is_some() {
        LicenseState::Revoked
    } else if license.expires_at.is_some_and(|expires_at| expires_at <= now) {
        LicenseState::Expired
    } else if license.first_valid_at.is_some() {
        LicenseState::Active
    } else if license.assigned_at.is_some() {
        LicenseState::Assigned
    } else {
        LicenseState::Generated
    }
}
