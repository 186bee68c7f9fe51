//! The pure part: what an observation makes of a source, and what the sources make of the license.

use chrono::{DateTime, Utc};

use super::{
    kinds::Announce,
    stamp::Stamp,
    types::{Evidence, Level},
};
use crate::{entity::source::Model as Source, outbox::Notify};

/// The changing part of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SourceState {
    /// The newest observation.
    pub stamp: Stamp,
    /// Since when it counts.
    pub live_since: DateTime<Utc>,
    /// When it stops counting, grace included; `None` while it is present.
    pub ends_at: Option<DateTime<Utc>>,
    /// Whether an admin revoked its license; it counts again after it was lost and gained.
    pub consumed: bool,
}

impl SourceState {
    pub(super) fn of(source: &Source) -> Self {
        let Source { stamp, live_since, ends_at, consumed, .. } = *source;
        Self { stamp: Stamp(stamp), live_since, ends_at, consumed }
    }
}

/// The state of a source after an observation; `None` if there is nothing to store, because the observation is
/// older than what is stored or the source was never there. A source that is lost at `now` counts until
/// `grace_ends`.
pub(super) fn next(
    stored: Option<SourceState>,
    level: Level,
    stamp: Stamp,
    now: DateTime<Utc>,
    grace_ends: DateTime<Utc>,
) -> Option<SourceState> {
    match (stored, level) {
        (Some(stored), _) if stored.stamp >= stamp => None,
        (None, Level::Absent) => None,
        (None | Some(SourceState { ends_at: Some(_), .. }), Level::Present) => {
            Some(SourceState { stamp, live_since: now, ends_at: None, consumed: false })
        }
        (Some(stored @ SourceState { ends_at: None, .. }), Level::Absent) => {
            Some(SourceState { stamp, ends_at: Some(grace_ends), ..stored })
        }
        (Some(stored), _) => Some(SourceState { stamp, ..stored }),
    }
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

/// Decides from all sources of an entitlement and whether it has a license.
///
/// * A license is kept while at least one source is live or in its grace.
/// * A consumed source neither issues nor keeps a license until it is lost and gained again.
/// * A license without any source was issued directly; this function does not manage it.
pub(super) fn decide(sources: &[SourceState], has_license: bool, now: DateTime<Utc>) -> Decision {
    let mut counting = sources.iter().filter(|source| !source.consumed);
    if has_license {
        let keep = sources.is_empty() || counting.any(|source| source.ends_at.is_none_or(|ends_at| ends_at > now));
        return if keep { Decision::Keep } else { Decision::Revoke };
    }
    if counting.any(|source| source.ends_at.is_none()) { Decision::Issue } else { Decision::Keep }
}

/// When the key of a license issued because of this source is sent.
pub(super) fn notify(evidence: Evidence, rollout: Option<Announce>) -> Notify {
    match evidence {
        Evidence::Reported => Notify::Now,
        Evidence::Reconciled { .. } if rollout == Some(Announce::Silently) => Notify::Silent,
        Evidence::Reconciled { interval } => Notify::Staggered(interval),
    }
}

#[cfg(test)]
mod tests {
    use chrono::Duration;

    use super::*;

    const NOW: DateTime<Utc> = DateTime::UNIX_EPOCH;

    fn state(stamp: i64, ends_in_hours: Option<i64>, consumed: bool) -> SourceState {
        let ends_at = ends_in_hours.map(|hours| NOW + Duration::hours(hours));
        SourceState { stamp: Stamp(stamp), live_since: NOW - Duration::hours(9), ends_at, consumed }
    }

    #[test]
    fn only_newer_observations_change_a_source() {
        let live = state(1, None, false);
        let (in_grace, consumed) = (state(1, Some(5), false), state(1, None, true));
        let gained = SourceState { stamp: Stamp(2), live_since: NOW, ends_at: None, consumed: false };
        for (stored, level, stamp, expected) in [
            (None, Level::Absent, 2, None),
            (None, Level::Present, 2, Some(gained)),
            (Some(live), Level::Present, 2, Some(SourceState { stamp: Stamp(2), ..live })),
            (Some(live), Level::Absent, 2, Some(state(2, Some(24), false))),
            (Some(live), Level::Absent, 1, None),
            (Some(live), Level::Present, 0, None),
            (Some(in_grace), Level::Present, 2, Some(gained)),
            (Some(in_grace), Level::Absent, 2, Some(state(2, Some(5), false))),
            (Some(consumed), Level::Present, 2, Some(state(2, None, true))),
            (Some(consumed), Level::Absent, 2, Some(state(2, Some(24), true))),
            (Some(state(1, Some(5), true)), Level::Present, 2, Some(gained)),
        ] {
            let next = next(stored, level, Stamp(stamp), NOW, NOW + Duration::hours(24));
            assert_eq!(next, expected, "{stored:?} {level:?} {stamp}");
        }
    }

    #[test]
    fn decides_every_combination_of_sources_and_license() {
        let (live, grace, ended) = (state(0, None, false), state(0, Some(1), false), state(0, Some(0), false));
        let (consumed, past) = (state(0, None, true), state(0, Some(-1), true));
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
            (vec![consumed], false, Decision::Keep),
            (vec![consumed], true, Decision::Revoke),
            (vec![consumed, live], true, Decision::Keep),
            (vec![consumed, grace], false, Decision::Keep),
            (vec![past, ended], true, Decision::Revoke),
        ] {
            assert_eq!(decide(&sources, has_license, NOW), expected, "{sources:?} {has_license}");
        }
    }
}
