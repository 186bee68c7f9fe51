//! The answer to "may this key be used here?", computed from the facts, the question and the clock.

use std::sync::Arc;

use chrono::{DateTime, Duration, Utc};
use semver::{Version, VersionReq};

use super::facts::{Device, DeviceMatching, Facts, Lease, LicenseFacts};
use super::question::Question;
use super::verdict_code::{VerdictCode, Warning};
use crate::crypto::license_key::Malformed;
use crate::entity::license::Model as License;
use crate::policy::{ExpiryStrategy, Overage, PolicyTerms};

/// How long before its end a license is about to expire.
const EXPIRING: Duration = Duration::days(3);

/// How far the clock of a client may be off.
const TOLERATED_SKEW: Duration = Duration::seconds(300);

/// How long an app may wait before it asks again.
const CHECK_INTERVAL: Duration = Duration::hours(1);

/// The answer to a question, positive or negative.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// `VALID`, or the first reason why the key cannot be used.
    pub code: VerdictCode,
    /// What the user should know, although the license is valid.
    pub warnings: Vec<Warning>,
    /// What is wrong with a malformed key.
    pub malformed: Option<Malformed>,
    /// The license, if the caller may see it.
    pub facts: Option<LicenseFacts>,
    /// The device of the request, if the license is activated on it.
    pub device: Option<Arc<Device>>,
    /// The floating session of the request.
    pub lease: Option<Arc<Lease>>,
    /// When the license was checked.
    pub checked_at: DateTime<Utc>,
    /// When the app should ask again. `None` unless the license is valid.
    pub next_check_at: Option<DateTime<Utc>>,
    /// Until when the app may rely on this answer without a connection. `None` unless the license is valid.
    pub offline_until: Option<DateTime<Utc>>,
    /// Whether it is the answer to a test key, about no license.
    pub is_test: bool,
}

impl Verdict {
    /// A verdict that reveals no license.
    pub(crate) fn without_license(code: VerdictCode, now: DateTime<Utc>) -> Self {
        Self {
            code,
            warnings: Vec::new(),
            malformed: None,
            facts: None,
            device: None,
            lease: None,
            checked_at: now,
            next_check_at: None,
            offline_until: None,
            is_test: false,
        }
    }

    /// The verdict about a text that is no license key.
    pub(crate) fn malformed(why: Malformed, now: DateTime<Utc>) -> Self {
        Self { malformed: Some(why), ..Self::without_license(VerdictCode::MalformedKey, now) }
    }

    /// A verdict about a license that the caller may see.
    pub(crate) fn of(code: VerdictCode, facts: &Facts, question: &Question, now: DateTime<Utc>) -> Self {
        let (is_valid, case) = (code == VerdictCode::Valid, Case::new(facts, question, now));
        let applies = |warning| is_valid || warning == Warning::ClockSkew;
        let warnings = WARNINGS.iter().filter(|(warning, holds)| applies(*warning) && holds(&case));
        Self {
            warnings: warnings.map(|(warning, _)| *warning).collect(),
            facts: Some(facts.license.clone()),
            device: facts.device.device().cloned(),
            lease: facts.lease.clone(),
            next_check_at: is_valid.then(|| next_check(&facts.license, now)),
            offline_until: is_valid.then(|| offline_until(&facts.license, now)),
            ..Self::without_license(code, now)
        }
    }

    /// Whether the key may be used.
    pub fn is_valid(&self) -> bool {
        self.code == VerdictCode::Valid
    }
}

/// What a verdict is computed from.
struct Case<'a> {
    facts: &'a Facts,
    license: &'a License,
    terms: &'a PolicyTerms,
    asked: &'a Question,
    now: DateTime<Utc>,
}

/// Whether something about a license is the case.
type Condition = fn(&Case) -> bool;

/// Every reason why a license that was found cannot be used, in order of precedence. `LEASE_LIMIT_EXCEEDED` is missing: it
/// is the answer to a heartbeat that finds no free session.
const CHECKS: &[(VerdictCode, Condition)] = &[
    (VerdictCode::ProductMismatch, |case| case.asked.product.is_some_and(|wanted| wanted != case.license.product_id)),
    (VerdictCode::Banned, |case| case.facts.owner_banned),
    (VerdictCode::Revoked, |case| case.license.ended_at(case.now).is_some()),
    (VerdictCode::Suspended, |case| case.license.is_suspended(case.now)),
    (VerdictCode::Expired, |case| case.has_lapsed() && case.terms.expiry_strategy != ExpiryStrategy::Maintain),
    (VerdictCode::NotAssigned, |case| case.license.assigned_at.is_none()),
    (VerdictCode::DeviceRequired, |case| case.terms.device_required && case.asked.device.is_none()),
    (VerdictCode::DeviceBlocked, |case| case.facts.device_blocked),
    (VerdictCode::NotActivated, |case| case.needs_activation() && case.facts.license.devices_used == 0),
    (VerdictCode::DeviceNotActivated, |case| case.needs_activation() && case.facts.device == DeviceMatching::Unknown),
    (VerdictCode::DeviceMismatch, |case| case.needs_activation() || case.is_session_of_another_device()),
    (VerdictCode::DeviceLimitExceeded, |case| case.has_devices_beyond(case.terms.device_limit())),
    (VerdictCode::LeaseRequired, |case| case.terms.lease.is_some() && case.asked.lease.is_none()),
    // A session that does not exist any more has expired.
    (VerdictCode::LeaseExpired, |case| case.asked.lease.is_some() && !case.has_session()),
    (VerdictCode::LeaseSuperseded, |case| case.lease().is_some_and(|lease| lease.superseded_at.is_some())),
    (VerdictCode::CheckInOverdue, |case| case.check_in_deadline().is_some_and(|deadline| deadline < case.now)),
    (VerdictCode::FeatureMissing, |case| case.asked.features.iter().any(|name| !case.terms.features.contains(name))),
    (VerdictCode::VersionNotAllowed, |case| !case.terms.allows_version(case.asked.version.as_ref())),
    (VerdictCode::QuotaExceeded, |case| case.facts.is_quota_exhausted),
];

/// Every warning, with its condition.
const WARNINGS: &[(Warning, Condition)] = &[
    (Warning::ExpiringSoon, |case| {
        let ends = case.license.expires_at.into_iter().chain(case.license.sources_end_at);
        ends.min().is_some_and(|end| case.now < end && end <= case.now + EXPIRING)
    }),
    (Warning::GracePeriod, |case| case.license.expires_at.is_some_and(|end| end <= case.now) && !case.has_lapsed()),
    (Warning::Expired, |case| case.has_lapsed()),
    (Warning::OverLimitAllowed, |case| case.has_devices_beyond(case.terms.max_devices.map(u64::from))),
    (Warning::FingerprintDrift, |case| matches!(case.facts.device, DeviceMatching::Drifted(_))),
    (Warning::ClockSkew, |case| {
        case.asked.client_time.is_some_and(|time| time.signed_duration_since(case.now).abs() > TOLERATED_SKEW)
    }),
];

impl<'a> Case<'a> {
    fn new(facts: &'a Facts, asked: &'a Question, now: DateTime<Utc>) -> Self {
        let LicenseFacts { license, terms, .. } = &facts.license;
        Self { facts, license, terms, asked, now }
    }

    /// Whether the license is past its expiry, grace included.
    fn has_lapsed(&self) -> bool {
        self.license.lapses_at.is_some_and(|lapses_at| lapses_at <= self.now)
    }

    /// Whether the license has to be activated on the device of the request.
    fn needs_activation(&self) -> bool {
        self.terms.device_required && self.facts.device.device().is_none()
    }

    fn has_devices_beyond(&self, limit: Option<u64>) -> bool {
        limit.is_some_and(|limit| self.facts.license.devices_used > limit)
    }

    fn lease(&self) -> Option<&Lease> {
        self.facts.lease.as_deref()
    }

    /// Whether the session of the request has not expired.
    fn has_session(&self) -> bool {
        self.lease().is_some_and(|lease| lease.expires_at > self.now)
    }

    fn is_session_of_another_device(&self) -> bool {
        let session = self.lease().and_then(|lease| lease.device_id);
        let device = self.facts.device.device().map(|device| device.id);
        session.zip(device).is_some_and(|(session, device)| session != device)
    }

    /// When the device has to be activated again, unless it validates before.
    fn check_in_deadline(&self) -> Option<DateTime<Utc>> {
        let interval = Duration::seconds(self.terms.check_in_seconds?);
        self.facts.device.device()?.last_seen_at.checked_add_signed(interval)
    }
}

/// The verdict about a license that was found; `None` if none was, or the caller may not know of it. Pure.
pub fn judge(facts: Option<&Facts>, question: &Question, now: DateTime<Utc>) -> Verdict {
    let Some(facts) = facts else { return Verdict::without_license(VerdictCode::NotFound, now) };
    match first_reason(facts, question, now, |_| true).unwrap_or(VerdictCode::Valid) {
        VerdictCode::ProductMismatch => Verdict::without_license(VerdictCode::ProductMismatch, now),
        code => Verdict::of(code, facts, question, now),
    }
}

/// The first reason that counts why a license cannot be used, in order of precedence.
pub(super) fn first_reason(
    facts: &Facts,
    question: &Question,
    now: DateTime<Utc>,
    counts: impl Fn(VerdictCode) -> bool,
) -> Option<VerdictCode> {
    let case = Case::new(facts, question, now);
    CHECKS.iter().find(|(code, fails)| counts(*code) && fails(&case)).map(|(code, _)| *code)
}

/// The earlier of an hour from now and the next time when the verdict may change by itself.
fn next_check(facts: &LicenseFacts, now: DateTime<Utc>) -> DateTime<Utc> {
    let check_in = facts.terms.check_in_seconds.and_then(|seconds| now.checked_add_signed(Duration::seconds(seconds)));
    let times = [check_in, facts.license.expires_at, facts.license.lapses_at, facts.license.sources_end_at];
    times.into_iter().flatten().filter(|time| *time > now).fold(now + CHECK_INTERVAL, DateTime::min)
}

fn offline_until(facts: &LicenseFacts, now: DateTime<Utc>) -> DateTime<Utc> {
    let longest = now.checked_add_signed(Duration::seconds(facts.terms.offline_max_seconds)).unwrap_or(now);
    facts.valid_until().map_or(longest, |end| longest.min(end))
}

impl LicenseFacts {
    /// When the license ends, grace included; `None` if it does not.
    pub fn valid_until(&self) -> Option<DateTime<Utc>> {
        let expires = self.terms.expiry_strategy != ExpiryStrategy::Maintain;
        self.license.lapses_at.filter(|_| expires).into_iter().chain(self.license.sources_end_at).min()
    }
}

impl PolicyTerms {
    /// How many devices are accepted, overage included; `None` if any number.
    pub fn device_limit(&self) -> Option<u64> {
        let max = u64::from(self.max_devices?);
        match self.overage {
            Overage::None => Some(max),
            Overage::Quarter => Some(max * 5 / 4),
            Overage::Half => Some(max * 3 / 2),
            Overage::Double => Some(max * 2),
            Overage::Always => None,
        }
    }

    /// Whether an app of this version may be used. If the terms name versions, an app has to say its own.
    fn allows_version(&self, version: Option<&Version>) -> bool {
        let Some(allowed) = &self.versions else { return true };
        let allowed = VersionReq::parse(allowed);
        version.is_some_and(|version| allowed.is_ok_and(|allowed| allowed.matches(version)))
    }
}

#[cfg(test)]
mod tests;
