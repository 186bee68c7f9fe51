//! Which terms are valid.

use std::collections::HashSet;

use chrono::Datelike;
use semver::VersionReq;

use super::{DAY, ExpiryBasis, ExpiryStrategy, PolicyTerms};
use crate::field::FieldFault;

const CENTURY: i64 = 36_525 * DAY;
/// The longest version requirement, in bytes.
const MAX_REQUIREMENT: usize = 128;
const MAX_FEATURES: usize = 64;
const MAX_QUOTAS: usize = 32;
/// The years that a license may expire in.
const YEARS: std::ops::RangeInclusive<i32> = 2000..=2999;

type Fault = Option<(&'static str, FieldFault)>;

impl PolicyTerms {
    /// The first invalid member, and what is wrong with it.
    pub(super) fn fault(&self) -> Fault {
        self.number_out_of_range().or_else(|| self.expiry_fault()).or_else(|| self.list_fault())
    }

    fn number_out_of_range(&self) -> Fault {
        let lease = self.lease.as_ref();
        let numbers = [
            ("durationSeconds", self.duration_seconds, 1..=CENTURY),
            ("graceSeconds", Some(self.grace_seconds), 0..=366 * DAY),
            ("maxDevices", self.max_devices.map(i64::from), 1..=100_000),
            ("lease.ttlSeconds", lease.map(|lease| lease.ttl_seconds), 30..=DAY),
            ("lease.maxConcurrent", lease.map(|lease| lease.max_concurrent.into()), 1..=100_000),
            ("checkInSeconds", self.check_in_seconds, 60..=CENTURY),
            ("offlineMaxSeconds", Some(self.offline_max_seconds), 0..=366 * DAY),
            ("resetCooldownSeconds", Some(self.reset_cooldown_seconds), 0..=CENTURY),
            ("resetsPer30Days", Some(self.resets_per_30_days.into()), 0..=10_000),
            ("transferCooldownSeconds", Some(self.transfer_cooldown_seconds), 0..=CENTURY),
            ("sourceGraceSeconds", Some(self.source_grace_seconds), 0..=CENTURY),
        ];
        let mut outside = numbers.into_iter().filter(|(_, n, range)| n.is_some_and(|n| !range.contains(&n)));
        outside.next().map(|(field, _, range)| (field, FieldFault::Range { min: *range.start(), max: *range.end() }))
    }

    fn expiry_fault(&self) -> Fault {
        let is_fixed = self.expiry_basis == ExpiryBasis::FixedDate;
        let has_grace = self.expiry_strategy == ExpiryStrategy::GraceThenRestrict;
        let only_with = |field, value| FieldFault::OnlyWith { field, value };
        match self.expires_at {
            Some(_) if !is_fixed => return Some(("expiresAt", only_with("policy.expiryBasis", "fixed_date"))),
            Some(date) if !YEARS.contains(&date.year()) => {
                return Some(("expiresAt", FieldFault::Years { first: *YEARS.start(), last: *YEARS.end() }));
            }
            None if is_fixed => return Some(("expiryBasis", FieldFault::Needs { field: "policy.expiresAt" })),
            _ => {}
        }
        match self.grace_seconds {
            0 if has_grace => Some(("expiryStrategy", FieldFault::Needs { field: "policy.graceSeconds" })),
            1.. if !has_grace => Some(("graceSeconds", only_with("policy.expiryStrategy", "grace_then_restrict"))),
            _ => None,
        }
    }

    fn list_fault(&self) -> Fault {
        let quotas: Vec<&String> = self.quotas.iter().map(|quota| &quota.name).collect();
        let features: Vec<&String> = self.features.iter().collect();
        for (field, names, max) in [("features", features, MAX_FEATURES), ("quotas", quotas, MAX_QUOTAS)] {
            if names.len() > max {
                return Some((field, FieldFault::TooMany { max }));
            }
            if !names.iter().all(|name| is_name(name)) {
                return Some((field, FieldFault::Name));
            }
            if names.iter().collect::<HashSet<_>>().len() < names.len() {
                return Some((field, FieldFault::Duplicate));
            }
        }
        let limits = 1..=1_000_000_000_000_000;
        if !self.quotas.iter().all(|quota| limits.contains(&quota.limit)) {
            return Some(("quotas", FieldFault::Range { min: *limits.start(), max: *limits.end() }));
        }
        let is_requirement = |text: &String| text.len() <= MAX_REQUIREMENT && VersionReq::parse(text).is_ok();
        let has_requirement = self.versions.as_ref().is_none_or(is_requirement);
        (!has_requirement).then_some(("versions", FieldFault::Requirement))
    }
}

/// Whether it is a name of a feature or quota: `[a-z0-9][a-z0-9._-]{0,63}`.
fn is_name(name: &str) -> bool {
    let is_letter = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let rest_fits = name.bytes().all(|c| is_letter(c) || matches!(c, b'.' | b'_' | b'-'));
    name.len() <= 64 && rest_fits && name.bytes().next().is_some_and(is_letter)
}
