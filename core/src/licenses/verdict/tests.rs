use std::sync::Arc;

use serde_json::json;
use uuid::Uuid;

use super::*;
use crate::ids::{DeviceId, LeaseId, LicenseId, PolicyId, ProductId, TenantId};
use crate::policy::{LeaseTerms, OnFull, OnSourceLost};
use crate::{fingerprint::Fingerprint, licenses::LicenseState};

fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_782_907_200, 0).unwrap()
}

fn id(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

/// An active license on a perpetual policy.
fn license() -> License {
    License {
        id: LicenseId(id(1)),
        tenant_id: TenantId(id(2)),
        product_id: ProductId(id(3)),
        policy_id: PolicyId(id(4)),
        user_id: None,
        name: None,
        metadata: json!({}),
        key_lookup: Vec::new(),
        key_sealed: Vec::new(),
        key_hint: String::new(),
        key_epoch: 1,
        created_at: now(),
        assigned_at: Some(now()),
        activated_at: Some(now()),
        first_valid_at: Some(now()),
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

fn device(n: u128) -> Arc<Device> {
    Arc::new(Device {
        id: DeviceId(id(n)),
        license_id: LicenseId(id(1)),
        fingerprint: Vec::new(),
        components: json!({}),
        name: None,
        platform: None,
        app_version: None,
        activated_at: now(),
        last_seen_at: now(),
    })
}

fn lease(device: u128) -> Lease {
    Lease {
        id: LeaseId(id(9)),
        license_id: LicenseId(id(1)),
        device_id: Some(DeviceId(id(device))),
        seq: 1,
        nonce: None,
        opened_at: now(),
        expires_at: now() + Duration::minutes(3),
        superseded_at: None,
    }
}

/// A valid license, with everything that a policy can require, and a request that meets it.
struct World {
    license: License,
    terms: PolicyTerms,
    devices: u64,
    facts: Facts,
    asked: Question,
}

impl World {
    fn new() -> Self {
        let lease_terms = LeaseTerms { ttl_seconds: 180, max_concurrent: 1, on_full: OnFull::Reject };
        let terms = PolicyTerms {
            device_required: true,
            max_devices: Some(2),
            check_in_seconds: Some(3_600),
            lease: Some(lease_terms),
            features: vec!["pro".to_owned()],
            versions: Some(">=2, <3".to_owned()),
            ..PolicyTerms::default()
        };
        let facts = Facts {
            license: LicenseFacts {
                license: Arc::new(license()),
                terms: Arc::new(terms.clone()),
                devices_used: 0,
                sessions_used: 1,
            },
            owner_banned: false,
            device: DeviceMatching::Exact(device(7)),
            device_blocked: false,
            lease: Some(Arc::new(lease(7))),
            is_quota_exhausted: false,
        };
        let asked = Question {
            device: Some(Fingerprint::parse("0123456789abcdef", std::collections::BTreeMap::new()).unwrap()),
            lease: Some(LeaseId(id(9))),
            features: vec!["pro".to_owned()],
            version: Some(Version::new(2, 4, 1)),
            ..Question::default()
        };
        Self { license: license(), terms, devices: 1, facts, asked }
    }

    fn verdict(&self) -> Verdict {
        let license = LicenseFacts {
            license: Arc::new(self.license.clone()),
            terms: Arc::new(self.terms.clone()),
            devices_used: self.devices,
            sessions_used: 1,
        };
        judge(Some(&Facts { license, ..self.facts.clone() }), &self.asked, now())
    }

    fn set_lease(&mut self, change: fn(&mut Lease)) {
        change(Arc::make_mut(self.facts.lease.get_or_insert_with(|| Arc::new(lease(7)))));
    }
}

type Cause = fn(&mut World);

/// What makes a valid license have each code, in the order of precedence.
const CAUSES: [(VerdictCode, Cause); 19] = [
    (VerdictCode::ProductMismatch, |world| world.asked.product = Some(ProductId(id(99)))),
    (VerdictCode::Banned, |world| world.facts.owner_banned = true),
    (VerdictCode::Revoked, |world| world.license.revoked_at = Some(now())),
    (VerdictCode::Suspended, |world| world.license.suspended_at = Some(now())),
    (VerdictCode::Expired, |world| world.license.lapses_at = Some(now())),
    (VerdictCode::NotAssigned, |world| world.license.assigned_at = None),
    (VerdictCode::DeviceRequired, |world| {
        (world.asked.device, world.facts.device) = (None, DeviceMatching::Unknown);
    }),
    (VerdictCode::DeviceBlocked, |world| world.facts.device_blocked = true),
    (VerdictCode::NotActivated, |world| (world.devices, world.facts.device) = (0, DeviceMatching::Unknown)),
    (VerdictCode::DeviceNotActivated, |world| world.facts.device = DeviceMatching::Unknown),
    (VerdictCode::DeviceMismatch, |world| world.facts.device = DeviceMatching::Mismatch),
    (VerdictCode::DeviceLimitExceeded, |world| world.devices = 3),
    (VerdictCode::LeaseRequired, |world| (world.asked.lease, world.facts.lease) = (None, None)),
    (VerdictCode::LeaseExpired, |world| world.set_lease(|lease| lease.expires_at = now())),
    (VerdictCode::LeaseSuperseded, |world| world.set_lease(|lease| lease.superseded_at = Some(now()))),
    (VerdictCode::CheckInOverdue, |world| {
        let late = Device { last_seen_at: now() - Duration::seconds(3_601), ..(*device(7)).clone() };
        world.facts.device = DeviceMatching::Exact(Arc::new(late));
    }),
    (VerdictCode::FeatureMissing, |world| world.asked.features.push("team".to_owned())),
    (VerdictCode::VersionNotAllowed, |world| world.asked.version = Some(Version::new(3, 0, 0))),
    (VerdictCode::QuotaExceeded, |world| world.facts.is_quota_exhausted = true),
];

/// Pairs of which the second cause removes the first: they cannot hold at once.
const EXCLUSIVE: [(VerdictCode, VerdictCode); 10] = {
    use VerdictCode::{CheckInOverdue, DeviceLimitExceeded, DeviceMismatch, DeviceNotActivated, DeviceRequired};
    use VerdictCode::{LeaseExpired, LeaseRequired, LeaseSuperseded, NotActivated};
    [
        (NotActivated, DeviceLimitExceeded),
        (NotActivated, CheckInOverdue),
        (DeviceNotActivated, DeviceMismatch),
        (DeviceNotActivated, CheckInOverdue),
        (DeviceMismatch, CheckInOverdue),
        (LeaseRequired, LeaseExpired),
        (LeaseRequired, LeaseSuperseded),
        (DeviceRequired, DeviceMismatch),
        (DeviceRequired, CheckInOverdue),
        // The unknown device of one is the device that matches partly of the other.
        (NotActivated, DeviceMismatch),
    ]
};

#[test]
fn of_any_two_reasons_the_earlier_one_wins() {
    assert_eq!(World::new().verdict().code, VerdictCode::Valid);
    for (index, (first, cause)) in CAUSES.iter().enumerate() {
        let mut world = World::new();
        cause(&mut world);
        assert_eq!(world.verdict().code, *first);
        for (second, other) in &CAUSES[index + 1..] {
            if EXCLUSIVE.contains(&(*first, *second)) {
                continue;
            }
            let mut both = World::new();
            other(&mut both);
            cause(&mut both);
            assert_eq!(both.verdict().code, *first, "{first} and {second}");
        }
    }
}

#[test]
fn checks_are_in_the_order_of_the_codes_and_cover_all_of_them() {
    let checked: Vec<_> = CHECKS.iter().map(|(code, _)| *code).collect();
    assert_eq!(checked, CAUSES.map(|(code, _)| code));
    let without_check =
        [VerdictCode::MalformedKey, VerdictCode::NotFound, VerdictCode::LeaseLimitExceeded, VerdictCode::Valid];
    let rest: Vec<_> = VerdictCode::ALL.iter().copied().filter(|code| !without_check.contains(code)).collect();
    assert_eq!(checked, rest);
}

#[test]
fn a_device_matters_only_if_the_policy_requires_one() {
    for (required, matching, asks, expected) in [
        (false, DeviceMatching::Unknown, false, VerdictCode::Valid),
        (false, DeviceMatching::Unknown, true, VerdictCode::Valid),
        (false, DeviceMatching::Mismatch, true, VerdictCode::Valid),
        (true, DeviceMatching::Unknown, false, VerdictCode::DeviceRequired),
        (true, DeviceMatching::Unknown, true, VerdictCode::DeviceNotActivated),
        (true, DeviceMatching::Mismatch, true, VerdictCode::DeviceMismatch),
        (true, DeviceMatching::Exact(device(7)), true, VerdictCode::Valid),
        (true, DeviceMatching::Drifted(device(7)), true, VerdictCode::Valid),
        (true, DeviceMatching::Exact(device(8)), true, VerdictCode::DeviceMismatch),
    ] {
        let mut world = World::new();
        world.terms.device_required = required;
        world.asked.device = world.asked.device.filter(|_| asks);
        world.facts.device = matching;
        assert_eq!(world.verdict().code, expected, "{required} {:?}", world.facts.device);
    }
}

#[test]
fn an_expired_license_that_is_maintained_is_valid_but_not_if_it_is_suspended_too() {
    let mut world = World::new();
    world.terms.expiry_strategy = ExpiryStrategy::Maintain;
    world.license.expires_at = Some(now() - Duration::days(9));
    world.license.lapses_at = world.terms.lapse(world.license.expires_at);
    let verdict = world.verdict();
    assert_eq!((verdict.code, verdict.warnings), (VerdictCode::Valid, vec![Warning::Expired]));
    assert_eq!(world.license.state(now()), LicenseState::Expired);
    assert_eq!(verdict.offline_until, Some(now() + Duration::days(14)));
    world.license.suspended_at = Some(now());
    assert_eq!(world.verdict().code, VerdictCode::Suspended);
}

#[test]
fn each_warning_has_its_condition_and_only_valid_licenses_have_them() {
    let causes: [(Warning, Cause); 6] = [
        (Warning::ExpiringSoon, |world| {
            world.license.expires_at = Some(now() + Duration::days(3));
            world.license.lapses_at = world.license.expires_at;
        }),
        (Warning::GracePeriod, |world| {
            (world.terms.expiry_strategy, world.terms.grace_seconds) = (ExpiryStrategy::GraceThenRestrict, 60);
            world.license.expires_at = Some(now());
            world.license.lapses_at = world.terms.lapse(world.license.expires_at);
        }),
        (Warning::Expired, |world| {
            world.terms.expiry_strategy = ExpiryStrategy::Maintain;
            (world.license.expires_at, world.license.lapses_at) = (Some(now()), Some(now()));
        }),
        (Warning::OverLimitAllowed, |world| (world.devices, world.terms.overage) = (3, Overage::Half)),
        (Warning::FingerprintDrift, |world| world.facts.device = DeviceMatching::Drifted(device(7))),
        (Warning::ClockSkew, |world| world.asked.client_time = Some(now() - Duration::seconds(301))),
    ];
    assert_eq!(causes.map(|(warning, _)| warning), *Warning::ALL);
    for (warning, cause) in causes {
        let mut world = World::new();
        assert_eq!(world.verdict().warnings, []);
        cause(&mut world);
        let verdict = world.verdict();
        assert_eq!((verdict.code, verdict.warnings), (VerdictCode::Valid, vec![warning]));
        world.facts.owner_banned = true;
        let verdict = world.verdict();
        assert_eq!(verdict.warnings, if warning == Warning::ClockSkew { vec![warning] } else { vec![] });
        assert_eq!((verdict.next_check_at, verdict.offline_until), (None, None));
    }
}

#[test]
fn an_app_may_rely_on_a_verdict_until_its_limit_or_the_end_of_the_license() {
    let (hour, end) = (now() + Duration::hours(1), now() + Duration::minutes(10));
    let mut world = World::new();
    world.terms.check_in_seconds = None;
    let times = |world: &World| (world.verdict().next_check_at.unwrap(), world.verdict().offline_until.unwrap());
    assert_eq!(times(&world), (hour, now() + Duration::days(14)));
    (world.license.expires_at, world.license.lapses_at) = (Some(end), Some(end + Duration::minutes(5)));
    assert_eq!(times(&world), (end, end + Duration::minutes(5)), "until the end of the grace");
    world.license.sources_end_at = Some(now() + Duration::minutes(2));
    assert_eq!(
        times(&world),
        (now() + Duration::minutes(2), now() + Duration::minutes(2)),
        "until the last source ends"
    );
    world = World::new();
    (world.terms.check_in_seconds, world.terms.offline_max_seconds) = (Some(60), 0);
    assert_eq!(times(&world), (now() + Duration::minutes(1), now()));
}

#[test]
fn a_policy_that_names_versions_requires_one() {
    for (allowed, version, code) in [
        (None, None, VerdictCode::Valid),
        (Some(">=2, <3"), Some("2.9.9"), VerdictCode::Valid),
        (Some(">=2, <3"), Some("3.0.0"), VerdictCode::VersionNotAllowed),
        (Some(">=2, <3"), None, VerdictCode::VersionNotAllowed),
        (Some("nonsense"), Some("2.0.0"), VerdictCode::VersionNotAllowed),
    ] {
        let mut world = World::new();
        world.terms.versions = allowed.map(str::to_owned);
        world.asked.version = version.map(|version| Version::parse(version).unwrap());
        assert_eq!(world.verdict().code, code, "{allowed:?} {version:?}");
    }
}

#[test]
fn overage_allows_more_devices() {
    let limits = Overage::ALL.iter().map(|overage| {
        PolicyTerms { max_devices: Some(5), overage: *overage, ..PolicyTerms::default() }.device_limit()
    });
    assert_eq!(limits.collect::<Vec<_>>(), [Some(5), Some(6), Some(7), Some(10), None]);
    assert_eq!(PolicyTerms::default().device_limit(), None);
}
