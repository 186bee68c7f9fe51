//! The state of a license: a function of its times and the clock, never a column. A worker that comes
//! late therefore changes no answer.

use chrono::{DateTime, Utc};

use super::License;
use crate::error::words;

words! {
    /// Where a license is in its life.
    State {
        Generated => ("generated", "made, and nobody's"),
        Assigned => ("assigned", "somebody's, and not used yet"),
        Active => ("active", "in use"),
        Expired => ("expired", "past its end"),
        Revoked => ("revoked", "ended for good"),
    }
}

impl State {
    /// Revoked is terminal; everything else may still be ended.
    #[must_use]
    pub fn may_revoke(self) -> bool {
        self != Self::Revoked
    }
}

/// The state at `now`.
#[must_use]
pub fn state(license: &License, now: DateTime<Utc>) -> State {
    if license.revoked_at.is_some() {
        State::Revoked
    } else if license.expires_at.is_some_and(|at| at <= now) {
        State::Expired
    } else if license.first_valid_at.is_some() {
        State::Active
    } else if license.assigned_at.is_some() {
        State::Assigned
    } else {
        State::Generated
    }
}
