//! The state of a license: a function of its times and the clock, never a column. A worker that comes
//! late therefore changes no answer.

use chrono::{DateTime, Utc};

use super::License;
use crate::error::string_enum;

string_enum! {
    /// Where a license is in its life.
    LicenseState {
        Generated => ("generated", "made, and nobody's"),
        Assigned => ("assigned", "somebody's, and not used yet"),
        Active => ("active", "in use"),
        Expired => ("expired", "past its end"),
        Revoked => ("revoked", "ended for good"),
    }
}

impl LicenseState {
    /// Revoked is terminal; everything else may still be ended.
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
    } else if license.expires_at.is_some_and(|at| at <= now) {
        LicenseState::Expired
    } else if license.first_valid_at.is_some() {
        LicenseState::Active
    } else if license.assigned_at.is_some() {
        LicenseState::Assigned
    } else {
        LicenseState::Generated
    }
}
