//! Decides from the sources of an entitlement whether to issue or revoke its license.

use chrono::{DateTime, Utc};

use super::Source;

/// What to do about an entitlement (one user, one product).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
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
/// * A consumed source (its license was revoked by an admin) neither issues nor keeps a license until
///   it is lost and gained again.
/// * A license without any source was issued directly; this function does not manage it.
#[must_use]
pub fn decide(sources: &[Source], has_license: bool, now: DateTime<Utc>) -> Decision {
    let mut counting = sources.iter().filter(|source| !source.consumed);
    if has_license {
        let keep = sources.is_empty() || counting.any(|source| source.ends_at.is_none_or(|ends_at| ends_at > now));
        return if keep { Decision::Keep } else { Decision::Revoke };
    }
    if counting.any(|source| source.ends_at.is_none()) { Decision::Issue } else { Decision::Keep }
}

#[cfg(test)]
mod tests {
    use chrono::Duration;

    use super::*;
    use crate::ids::{ProductId, TenantId, UserId};

    fn source(ends_in_hours: Option<i64>, consumed: bool) -> Source {
        let ends_at = ends_in_hours.map(|hours| DateTime::UNIX_EPOCH + Duration::hours(hours));
        Source {
            id: uuid::Uuid::nil(),
            tenant_id: TenantId(uuid::Uuid::nil()),
            user_id: UserId(uuid::Uuid::nil()),
            product_id: ProductId(uuid::Uuid::nil()),
            kind: "manual".to_owned(),
            reference: uuid::Uuid::nil(),
            stamp: 0,
            live_since: DateTime::UNIX_EPOCH,
            ends_at,
            consumed,
        }
    }

    #[test]
    fn decides_every_combination_of_sources_and_license() {
        let (live, grace, ended) = (source(None, false), source(Some(1), false), source(Some(0), false));
        let (consumed, consumed_and_ended) = (source(None, true), source(Some(-1), true));
        for (sources, has_license, expected) in [
            (vec![], false, Decision::Keep),
            (vec![], true, Decision::Keep),
            (vec![live.clone()], false, Decision::Issue),
            (vec![live.clone()], true, Decision::Keep),
            (vec![grace.clone()], false, Decision::Keep),
            (vec![grace.clone()], true, Decision::Keep),
            (vec![ended.clone()], false, Decision::Keep),
            (vec![ended.clone()], true, Decision::Revoke),
            (vec![ended.clone(), live.clone()], true, Decision::Keep),
            (vec![ended.clone(), grace.clone()], true, Decision::Keep),
            (vec![ended.clone(), live.clone()], false, Decision::Issue),
            (vec![consumed.clone()], false, Decision::Keep),
            (vec![consumed.clone()], true, Decision::Revoke),
            (vec![consumed.clone(), live], true, Decision::Keep),
            (vec![consumed, grace], false, Decision::Keep),
            (vec![consumed_and_ended, ended], true, Decision::Revoke),
        ] {
            assert_eq!(decide(&sources, has_license, DateTime::UNIX_EPOCH), expected, "{sources:?} {has_license}");
        }
    }
}
