//! The pure part: how an observation changes a source, and what the sources mean for the license.

use chrono::{DateTime, Utc};

use super::types::{Evidence, Level};
use super::{kinds::Announce, stamp::Stamp};
use crate::{entity::source::Model as Source, ids::LicenseId, outbox::Notify};

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
/// * A license is kept while at least one source is live or in its grace.
/// * A suppressed source neither issues nor keeps a license. An admin's revocation suppresses what a user has, and what
///   they gain until they have lost it all.
/// * A license without any source was issued directly; this function does not manage it.
pub(super) fn decide(sources: &[SourceState], license: Option<LicenseId>, now: DateTime<Utc>) -> Decision {
    let is_live = |source: &SourceState| !source.suppressed && source.ends_at.is_none();
    match license {
        Some(_) if ends_at(sources).is_some_and(|ends_at| ends_at <= now) => Decision::Revoke,
        None if sources.iter().any(is_live) => Decision::Issue,
        _ => Decision::Keep,
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
    use uuid::Uuid;

    use super::*;

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
            let license = has_license.then_some(LicenseId(Uuid::nil()));
            assert_eq!(decide(&sources, license, NOW), expected, "{sources:?} {has_license}");
        }
    }
}
