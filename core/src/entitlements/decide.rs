//! The pure part: how an observation changes a source, and what the sources mean for the license.

use chrono::{DateTime, Utc};

use super::types::{Evidence, Level};
use super::{kinds::Announce, stamp::Stamp};
use crate::licenses::{Command, ENTITLEMENT_LOST, License};
use crate::{entity::source::Model as Source, outbox::Notify, policy::OnSourceLost};

/// The changing part of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SourceState {
    /// The newest observation.
    pub stamp: Stamp,
    /// Since when it counts.
    pub live_since: DateTime<Utc>,
    /// When it stops counting, grace included; `None` while it is present.
    pub ends_at: Option<DateTime<Utc>>,
    /// Whether an admin revoked the license it gave; it does not count then.
    pub suppressed: bool,
}

impl SourceState {
    pub(super) fn of(source: &Source) -> Self {
        let Source { stamp, live_since, ends_at, suppressed, .. } = *source;
        Self { stamp: Stamp(stamp), live_since, ends_at, suppressed }
    }
}

/// The state of a source after an observation; `None` if there is nothing to store, because the observation is older
/// than what is stored or the source was never there. A source that is lost at `now` counts until `grace_ends`;
/// one that is gained counts unless its entitlement is `suppressed`.
pub(super) fn next(
    stored: Option<SourceState>,
    level: Level,
    stamp: Stamp,
    now: DateTime<Utc>,
    grace_ends: DateTime<Utc>,
    suppressed: bool,
) -> Option<SourceState> {
    match (stored, level) {
        (Some(stored), _) if stored.stamp >= stamp => None,
        (None, Level::Absent | Level::Withdrawn) => None,
        (None | Some(SourceState { ends_at: Some(_), .. }), Level::Present) => {
            Some(SourceState { stamp, live_since: now, ends_at: None, suppressed })
        }
        (Some(stored @ SourceState { ends_at: None, .. }), Level::Absent | Level::Withdrawn) => {
            Some(SourceState { stamp, ends_at: Some(grace_ends), ..stored })
        }
        (Some(stored), _) => Some(SourceState { stamp, ..stored }),
    }
}

/// Merges the states of a source that two merged users both had: the one that entitles longer wins, otherwise the
/// suppressed one, otherwise the newer one.
pub(super) fn merge(one: SourceState, other: SourceState, now: DateTime<Utc>) -> SourceState {
    let rank = |state: &SourceState| match state {
        SourceState { suppressed: false, ends_at: None, .. } => (3, None, state.stamp),
        SourceState { suppressed: false, ends_at, .. } if *ends_at > Some(now) => (2, *ends_at, state.stamp),
        SourceState { suppressed, .. } => (i32::from(*suppressed), None, state.stamp),
    };
    let stronger = if rank(&other) > rank(&one) { other } else { one };
    SourceState { stamp: one.stamp.max(other.stamp), ..stronger }
}

/// What to do about an entitlement (one user, one product).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// There is a live source and no license.
    Issue,
    /// There is a license, and its last source has ended, grace included.
    Revoke,
    /// The same, under a policy that suspends the license.
    Suspend,
    /// The license was suspended when its last source ended, and there is a source again.
    Resume,
    /// No change.
    Keep,
}

/// When a license with these sources ends, grace included. `None`: one of them is live, or there are none, because the
/// license was issued directly.
pub(super) fn ends_at(sources: &[SourceState]) -> Option<DateTime<Utc>> {
    let counting = || sources.iter().filter(|source| !source.suppressed);
    if sources.is_empty() || counting().any(|source| source.ends_at.is_none()) {
        return None;
    }
    // If none counts, it has ended.
    Some(counting().filter_map(|source| source.ends_at).max().unwrap_or(DateTime::UNIX_EPOCH))
}

/// Decides from all sources of an entitlement and its license.
///
/// * A license is kept while at least one source is live or in its grace. What happens then is a rule of its policy.
/// * A suppressed source neither issues nor keeps a license. An admin's revocation suppresses what a user has, and what
///   they gain until they have lost it all.
/// * A license without any source was issued directly; this function does not manage it.
pub(super) fn decide(sources: &[SourceState], license: Option<&License>, now: DateTime<Utc>) -> Decision {
    let is_live = |source: &SourceState| !source.suppressed && source.ends_at.is_none();
    let Some(license) = license else {
        return if sources.iter().any(is_live) { Decision::Issue } else { Decision::Keep };
    };
    let ends_at = license.end_with_sources(ends_at(sources));
    let has_ended = ends_at.is_some_and(|ends_at| ends_at <= now);
    let is_suspended_for_it = license.suspend_reason.as_deref() == Some(ENTITLEMENT_LOST);
    let state = License { sources_end_at: None, ..license.clone() }.state(now);
    match (has_ended, license.on_source_lost) {
        (true, OnSourceLost::Suspend) if state.allows(Command::Suspend) => Decision::Suspend,
        (true, OnSourceLost::Suspend) => Decision::Keep,
        (true, _) => Decision::Revoke,
        (false, _) if is_suspended_for_it && state.allows(Command::Resume) => Decision::Resume,
        (false, _) => Decision::Keep,
    }
}

/// When the key of a license issued because of this source is sent.
pub(super) fn key_timing(evidence: Evidence, initial_announce: Option<Announce>) -> Notify {
    match evidence {
        Evidence::Reported => Notify::Now,
        Evidence::Reconciled { .. } if initial_announce == Some(Announce::Silently) => Notify::Silent,
        Evidence::Reconciled { message_interval } => Notify::Staggered(message_interval),
    }
}

#[cfg(test)]
mod tests {
    use chrono::Duration;

    use super::*;
    use crate::licenses::LicenseState;

    const NOW: DateTime<Utc> = DateTime::UNIX_EPOCH;

    fn state(stamp: i64, ends_in_hours: Option<i64>, suppressed: bool) -> SourceState {
        let ends_at = ends_in_hours.map(|hours| NOW + Duration::hours(hours));
        SourceState { stamp: Stamp(stamp), live_since: NOW - Duration::hours(9), ends_at, suppressed }
    }

    #[test]
    fn of_two_sources_for_the_same_thing_the_one_that_entitles_longest_stays() {
        let (live, grace, ended) = (state(1, None, false), state(2, Some(5), false), state(3, Some(-5), false));
        let revoked = state(4, None, true);
        for (one, other, expected) in [
            (live, revoked, live),
            (live, grace, live),
            (grace, revoked, grace),
            (grace, ended, grace),
            (ended, revoked, revoked),
            (state(9, None, false), live, state(9, None, false)),
        ] {
            let expected = SourceState { stamp: one.stamp.max(other.stamp), ..expected };
            assert_eq!([merge(one, other, NOW), merge(other, one, NOW)], [expected; 2], "{one:?} {other:?}");
        }
    }

    #[test]
    fn only_newer_observations_change_a_source() {
        let live = state(1, None, false);
        let (in_grace, suppressed) = (state(1, Some(5), false), state(1, None, true));
        let gained = SourceState { stamp: Stamp(2), live_since: NOW, ends_at: None, suppressed: false };
        for (stored, level, stamp, expected) in [
            (None, Level::Absent, 2, None),
            (None, Level::Present, 2, Some(gained)),
            (Some(live), Level::Present, 2, Some(SourceState { stamp: Stamp(2), ..live })),
            (Some(live), Level::Absent, 2, Some(state(2, Some(24), false))),
            (Some(live), Level::Absent, 1, None),
            (Some(live), Level::Present, 0, None),
            (Some(in_grace), Level::Present, 2, Some(gained)),
            (Some(in_grace), Level::Absent, 2, Some(state(2, Some(5), false))),
            (Some(suppressed), Level::Present, 2, Some(state(2, None, true))),
            (Some(suppressed), Level::Absent, 2, Some(state(2, Some(24), true))),
            (Some(suppressed), Level::Withdrawn, 2, Some(state(2, Some(24), true))),
            (Some(state(1, Some(5), true)), Level::Present, 2, Some(gained)),
            (None, Level::Withdrawn, 2, None),
        ] {
            let grace_ends = NOW + Duration::hours(24);
            assert_eq!(
                next(stored, level, Stamp(stamp), NOW, grace_ends, false),
                expected,
                "{stored:?} {level:?} {stamp}"
            );
        }
        let inherited = next(None, Level::Present, Stamp(2), NOW, NOW, true);
        assert_eq!(inherited, Some(SourceState { suppressed: true, ..gained }));
    }

    #[test]
    fn decides_every_combination_of_sources_and_license() {
        let (live, grace, ended) = (state(0, None, false), state(0, Some(1), false), state(0, Some(0), false));
        let (suppressed, past) = (state(0, None, true), state(0, Some(-1), true));
        for (sources, has_license, expected) in [
            (vec![], false, Decision::Keep),
            (vec![], true, Decision::Keep),
            (vec![live], false, Decision::Issue),
            (vec![live], true, Decision::Keep),
            (vec![grace], false, Decision::Keep),
            (vec![grace], true, Decision::Keep),
            (vec![ended], false, Decision::Keep),
            (vec![ended], true, Decision::Revoke),
            (vec![ended, live], true, Decision::Keep),
            (vec![ended, grace], true, Decision::Keep),
            (vec![ended, live], false, Decision::Issue),
            (vec![suppressed], false, Decision::Keep),
            (vec![suppressed], true, Decision::Revoke),
            (vec![suppressed, live], true, Decision::Keep),
            (vec![suppressed, grace], false, Decision::Keep),
            (vec![past, ended], true, Decision::Revoke),
        ] {
            let license = License::in_state(LicenseState::Active, NOW);
            let license = has_license.then_some(&license);
            assert_eq!(decide(&sources, license, NOW), expected, "{sources:?} {has_license}");
        }
    }

    #[test]
    fn the_rule_of_the_policy_decides_what_the_end_of_the_sources_does() {
        let (live, ended) = (state(0, None, false), state(0, Some(0), false));
        let (day, lost) = (Duration::days(1), Some(ENTITLEMENT_LOST.to_owned()));
        let active = License::in_state(LicenseState::Active, NOW);
        let rule = |on_source_lost| License { on_source_lost, ..active.clone() };
        let suspend = rule(OnSourceLost::Suspend);
        let expiring = License { expires_at: Some(NOW + day), ..rule(OnSourceLost::ExpireAtPeriodEnd) };
        let by_admin =
            License { suspended_at: Some(NOW - day), suspend_reason: Some("test".to_owned()), ..suspend.clone() };
        let by_loss = License { suspend_reason: lost, ..by_admin.clone() };
        let lapsed = License { lapses_at: Some(NOW), ..suspend.clone() };
        let lapsed_after = License { lapses_at: Some(NOW), ..by_loss.clone() };
        for (what, license, after_loss, after_return) in [
            ("grace_revoke", active.clone(), Decision::Revoke, Decision::Keep),
            ("keep", rule(OnSourceLost::Keep), Decision::Keep, Decision::Keep),
            ("expire_at_period_end", expiring, Decision::Keep, Decision::Keep),
            ("the same, without expiry", rule(OnSourceLost::ExpireAtPeriodEnd), Decision::Revoke, Decision::Keep),
            ("suspend", suspend, Decision::Suspend, Decision::Keep),
            ("suspended by the loss", by_loss, Decision::Keep, Decision::Resume),
            ("suspended by an admin", by_admin, Decision::Keep, Decision::Keep),
            ("expired before the loss", lapsed, Decision::Keep, Decision::Keep),
            ("suspended by the loss, and expired", lapsed_after, Decision::Keep, Decision::Keep),
        ] {
            assert_eq!(decide(&[ended], Some(&license), NOW), after_loss, "{what}: lost");
            assert_eq!(decide(&[ended, live], Some(&license), NOW), after_return, "{what}: returned");
        }
    }
}
