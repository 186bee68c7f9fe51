//! The one decision: given every source of a claim, is there something to do?

use chrono::{DateTime, Utc};

use super::Source;

/// What to do about a claim (one member, one product).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// A live source and no license: issue one.
    Issue,
    /// A license, and its last source is over, grace included: end it.
    Revoke,
    /// Nothing.
    Keep,
}

/// Decides from all sources of a claim and whether a license stands on it.
///
/// * A license stands while at least one source is live or in its grace.
/// * A consumed source (its license was ended by an admin) neither issues nor holds one until it is
///   lost and gained anew.
/// * A license without any source was never born of one and is nobody's business here.
#[must_use]
pub fn decide(sources: &[Source], has_license: bool, now: DateTime<Utc>) -> Decision {
    let mut counting = sources.iter().filter(|source| !source.consumed);
    if has_license {
        let stands = sources.is_empty() || counting.any(|source| source.ends_at.is_none_or(|at| at > now));
        return if stands { Decision::Keep } else { Decision::Revoke };
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
    fn the_table() {
        let (live, grace, over) = (source(None, false), source(Some(1), false), source(Some(0), false));
        let (consumed, ended) = (source(None, true), source(Some(-1), true));
        for (sources, has_license, expected) in [
            (vec![], false, Decision::Keep),
            (vec![], true, Decision::Keep),
            (vec![live.clone()], false, Decision::Issue),
            (vec![live.clone()], true, Decision::Keep),
            (vec![grace.clone()], false, Decision::Keep),
            (vec![grace.clone()], true, Decision::Keep),
            (vec![over.clone()], false, Decision::Keep),
            (vec![over.clone()], true, Decision::Revoke),
            (vec![over.clone(), live.clone()], true, Decision::Keep),
            (vec![over.clone(), grace.clone()], true, Decision::Keep),
            (vec![over.clone(), live.clone()], false, Decision::Issue),
            (vec![consumed.clone()], false, Decision::Keep),
            (vec![consumed.clone()], true, Decision::Revoke),
            (vec![consumed.clone(), live], true, Decision::Keep),
            (vec![consumed, grace], false, Decision::Keep),
            (vec![ended, over], true, Decision::Revoke),
        ] {
            assert_eq!(decide(&sources, has_license, DateTime::UNIX_EPOCH), expected, "{sources:?} {has_license}");
        }
    }
}
