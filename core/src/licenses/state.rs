//! The state of a license, computed from its times and the clock, and what each state allows. The state is not stored,
//! so a late worker never changes a verdict.

use chrono::{DateTime, Utc};

use crate::entity::license::Model as License;
use crate::policy::{OnSourceLost, PolicyTerms};
use crate::string_enum::string_enum;

string_enum! {
    /// The state of a license.
    LicenseState {
        /// Not assigned to anyone.
        Generated => "generated",
        /// Assigned, not used yet.
        Assigned => "assigned",
        /// Activated on a device, not validated yet.
        Activated => "activated",
        /// Validated at least once.
        Active => "active",
        /// Suspended; it can be resumed.
        Suspended => "suspended",
        /// Past its expiry, grace included.
        Expired => "expired",
        /// Renewed after it expired, not validated since.
        Renewed => "renewed",
        /// Revoked, or without a source since its grace ended; this is final.
        Revoked => "revoked",
    }

    /// What can be done with a license. The strings are those of refusals.
    Command {
        /// Give it to a user.
        Assign => "assign",
        /// Activate it on a device.
        Activate => "activate",
        /// Record its first valid verdict since it was assigned or renewed.
        Validate => "validate",
        /// Suspend it.
        Suspend => "suspend",
        /// End its suspension.
        Resume => "resume",
        /// Move its expiry.
        Renew => "renew",
        /// Revoke it.
        Revoke => "revoke",
        /// Give it to another user.
        Transfer => "transfer",
        /// Replace its key.
        RotateKey => "rotate-key",
        /// Remove all of its devices.
        ResetDevices => "reset-devices",
        /// Write an offline license file.
        CheckOut => "checkout",
    }
}

/// Every allowed command, with the states it is allowed in. Time adds two edges that no command can refuse: a license
/// becomes `Expired` when it lapses, and `Revoked` or `Suspended` when its last source ends.
const ALLOWED: &[(Command, &[LicenseState])] = {
    use LicenseState::{Activated, Active, Assigned, Expired, Generated, Renewed, Suspended};
    &[
        (Command::Assign, &[Generated]),
        (Command::Activate, &[Assigned, Activated, Active, Renewed]),
        (Command::Validate, &[Assigned, Activated, Active, Renewed]),
        (Command::Suspend, &[Assigned, Activated, Active, Renewed]),
        (Command::Resume, &[Suspended]),
        (Command::Renew, &[Assigned, Activated, Active, Renewed, Expired]),
        (Command::Revoke, &[Generated, Assigned, Activated, Active, Suspended, Expired, Renewed]),
        (Command::Transfer, &[Assigned, Activated, Active, Renewed]),
        (Command::RotateKey, &[Generated, Assigned, Activated, Active, Suspended, Expired, Renewed]),
        (Command::ResetDevices, &[Assigned, Activated, Active, Suspended, Expired, Renewed]),
        // One that has expired is valid under some policies.
        (Command::CheckOut, &[Assigned, Activated, Active, Renewed, Expired]),
    ]
};

/// A command that the state of a license does not allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAllowed {
    /// The command.
    pub command: Command,
    /// The state.
    pub state: LicenseState,
}

impl LicenseState {
    /// Whether a license in this state allows a command.
    pub fn allows(self, command: Command) -> bool {
        ALLOWED.iter().any(|(allowed, states)| *allowed == command && states.contains(&self))
    }
}

impl License {
    /// When it was revoked, or ended with its last source; `None` if neither has happened at `now`.
    pub fn ended_at(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let revokes = self.on_source_lost != OnSourceLost::Suspend;
        self.revoked_at.or(self.sources_ended_at(now).filter(|_| revokes))
    }

    /// When the end of its last source, at `ends_at`, revokes or suspends it; `None` if it does neither.
    pub(crate) fn end_with_sources(&self, ends_at: Option<DateTime<Utc>>) -> Option<DateTime<Utc>> {
        match self.on_source_lost {
            OnSourceLost::GraceRevoke | OnSourceLost::Suspend => ends_at,
            OnSourceLost::ExpireAtPeriodEnd => ends_at.filter(|_| self.expires_at.is_none()),
            OnSourceLost::Keep => None,
        }
    }

    /// When it becomes `Expired` under its terms; `None` if it does not, or if that waits for the end of a suspension.
    pub(crate) fn lapse(&self, terms: &PolicyTerms) -> Option<DateTime<Utc>> {
        let lapses_at = terms.lapse(self.expires_at)?;
        let ends_at = self.sources_end_at.filter(|_| self.on_source_lost == OnSourceLost::Suspend);
        let suspended_from = self.suspended_at.into_iter().chain(ends_at).min();
        let waits = terms.suspension_pauses_expiry && suspended_from.is_some_and(|from| from < lapses_at);
        (!waits).then_some(lapses_at)
    }

    /// When its last source ended, unless that is later than `now`.
    pub(crate) fn sources_ended_at(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.sources_end_at.filter(|ends_at| *ends_at <= now)
    }

    /// Whether it is suspended at `now`, or was when it expired.
    pub(crate) fn is_suspended(&self, now: DateTime<Utc>) -> bool {
        self.suspended_at.is_some() || self.sources_ended_at(now).is_some()
    }

    /// The state at `now`.
    pub fn state(&self, now: DateTime<Utc>) -> LicenseState {
        if self.ended_at(now).is_some() {
            LicenseState::Revoked
        } else if self.lapses_at.is_some_and(|lapses_at| lapses_at <= now) {
            LicenseState::Expired
        } else if self.is_suspended(now) {
            LicenseState::Suspended
        } else if self.assigned_at.is_none() {
            LicenseState::Generated
        } else if self.first_valid_at.is_some() {
            LicenseState::Active
        } else if self.renewed_at.is_some() {
            LicenseState::Renewed
        } else if self.activated_at.is_some() {
            LicenseState::Activated
        } else {
            LicenseState::Assigned
        }
    }

    /// The state at `now`, if it allows the command.
    pub fn allow(&self, command: Command, now: DateTime<Utc>) -> Result<LicenseState, NotAllowed> {
        let state = self.state(now);
        state.allows(command).then_some(state).ok_or(NotAllowed { command, state })
    }
}

#[cfg(test)]
impl License {
    /// An unassigned license that was created at the epoch.
    pub(crate) fn of_test() -> Self {
        use crate::ids::{LicenseId, PolicyId, ProductId, TenantId};
        let id = uuid::Uuid::nil();
        Self {
            id: LicenseId(id),
            tenant_id: TenantId(id),
            product_id: ProductId(id),
            policy_id: PolicyId(id),
            user_id: None,
            name: None,
            metadata: serde_json::json!({}),
            key_lookup: Vec::new(),
            key_sealed: Vec::new(),
            key_hint: String::new(),
            key_epoch: 1,
            created_at: DateTime::UNIX_EPOCH,
            assigned_at: None,
            activated_at: None,
            first_valid_at: None,
            last_seen_at: None,
            renewed_at: None,
            transferred_at: None,
            expires_at: None,
            lapses_at: None,
            lapse_seen_at: None,
            suspended_at: None,
            suspend_reason: None,
            on_source_lost: OnSourceLost::GraceRevoke,
            sources_end_at: None,
            revoked_at: None,
            revoke_reason: None,
            rev: 1,
        }
    }

    /// A license in a state at this time, reached in the usual order.
    pub(crate) fn in_state(state: LicenseState, now: DateTime<Utc>) -> Self {
        use LicenseState::{Activated, Active, Assigned, Expired, Generated, Renewed, Revoked, Suspended};
        let past = Some(now - chrono::Duration::days(2));
        let generated = Self::of_test();
        let assigned =
            Self { assigned_at: past, user_id: Some(crate::ids::UserId(generated.id.0)), ..generated.clone() };
        let activated = Self { activated_at: past, ..assigned.clone() };
        let active = Self { first_valid_at: past, ..activated.clone() };
        match state {
            Generated => generated,
            Assigned => assigned,
            Activated => activated,
            Active => active,
            Suspended => Self { suspended_at: past, suspend_reason: Some("test".to_owned()), ..active },
            Expired => Self { expires_at: Some(now), lapses_at: Some(now), ..active },
            Renewed => Self { renewed_at: past, ..activated },
            Revoked => Self { revoked_at: past, ..active },
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::Duration;

    use super::*;

    const NOW: DateTime<Utc> = DateTime::UNIX_EPOCH;

    #[test]
    fn the_table_allows_each_command_in_its_states_only() {
        let states = LicenseState::ALL;
        // One column per state, in their order: generated, assigned, activated, active, suspended, expired, renewed, revoked.
        for (command, row) in [
            (Command::Assign, "x......."),
            (Command::Activate, ".xxx..x."),
            (Command::Validate, ".xxx..x."),
            (Command::Suspend, ".xxx..x."),
            (Command::Resume, "....x..."),
            (Command::Renew, ".xxx.xx."),
            (Command::Revoke, "xxxxxxx."),
            (Command::Transfer, ".xxx..x."),
            (Command::RotateKey, "xxxxxxx."),
            (Command::ResetDevices, ".xxxxxx."),
            (Command::CheckOut, ".xxx.xx."),
        ] {
            let allowed: String = states.iter().map(|state| if state.allows(command) { 'x' } else { '.' }).collect();
            assert_eq!(allowed, row, "{command}");
        }
        assert_eq!((states.len(), Command::ALL.len()), (8, 11));
        for &state in states {
            let license = License::in_state(state, NOW);
            assert_eq!(license.state(NOW), state);
            for &command in Command::ALL {
                assert_eq!(license.allow(command, NOW).is_ok(), state.allows(command), "{command} {state}");
            }
        }
    }

    #[test]
    fn times_decide_the_state_to_the_microsecond() {
        let (tick, active) = (Duration::microseconds(1), License::in_state(LicenseState::Active, NOW));
        let lapsing = License { lapses_at: Some(NOW), ..active.clone() };
        let ending = License { sources_end_at: Some(NOW), ..active.clone() };
        let suspending = License { on_source_lost: OnSourceLost::Suspend, ..ending.clone() };
        for (license, then) in [
            (lapsing.clone(), LicenseState::Expired),
            (ending.clone(), LicenseState::Revoked),
            (suspending.clone(), LicenseState::Suspended),
            (License { lapses_at: Some(NOW), ..suspending }, LicenseState::Expired),
            (License { lapses_at: Some(NOW), ..ending }, LicenseState::Revoked),
            (License { suspended_at: Some(NOW - tick), ..lapsing }, LicenseState::Expired),
        ] {
            let before = if license.suspended_at.is_some() { LicenseState::Suspended } else { LicenseState::Active };
            assert_eq!(
                [license.state(NOW - tick), license.state(NOW), license.state(NOW + tick)],
                [before, then, then]
            );
        }
    }

    #[test]
    fn the_rule_of_the_policy_says_what_the_end_of_sources_does() {
        let (ends_at, expires_at) = (Some(NOW), Some(NOW + Duration::days(1)));
        for (on_source_lost, expires_at, expected) in [
            (OnSourceLost::GraceRevoke, None, ends_at),
            (OnSourceLost::GraceRevoke, expires_at, ends_at),
            (OnSourceLost::Suspend, expires_at, ends_at),
            (OnSourceLost::ExpireAtPeriodEnd, None, ends_at),
            (OnSourceLost::ExpireAtPeriodEnd, expires_at, None),
            (OnSourceLost::Keep, None, None),
        ] {
            let license = License { expires_at, on_source_lost, ..License::of_test() };
            assert_eq!(license.end_with_sources(ends_at), expected, "{on_source_lost} {expires_at:?}");
            assert_eq!(license.end_with_sources(None), None);
        }
    }

    #[test]
    fn an_expiry_waits_for_a_suspension_that_pauses_it() {
        let terms = |suspension_pauses_expiry| PolicyTerms { suspension_pauses_expiry, ..PolicyTerms::default() };
        let expires_at = Some(NOW + Duration::days(1));
        let license = License { expires_at, ..License::in_state(LicenseState::Active, NOW) };
        let suspended = License { suspended_at: Some(NOW), ..license.clone() };
        let late = License { suspended_at: expires_at, ..license.clone() };
        let without_source =
            License { sources_end_at: Some(NOW), on_source_lost: OnSourceLost::Suspend, ..license.clone() };
        let revoking = License { sources_end_at: Some(NOW), ..license.clone() };
        for (what, license, paused) in [
            ("active", license, expires_at),
            ("suspended", suspended, None),
            ("suspended at its expiry", late, expires_at),
            ("without a source", without_source, None),
            ("to be revoked", revoking, expires_at),
        ] {
            assert_eq!(license.lapse(&terms(true)), paused, "{what}");
            assert_eq!(license.lapse(&terms(false)), expires_at, "{what}");
        }
    }
}
