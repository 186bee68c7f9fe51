//! Tests of terms: the documentation names all of them, presets, changes, and what is refused.

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::{Error, Reason, field::FieldFault};

const DOCUMENTATION: &str = include_str!("../../../docs/POLICIES.md");

fn patch(patch: &Value) -> PolicyPatch {
    serde_json::from_value(patch.clone()).unwrap()
}

/// The defaults with a change; or else the invalid member and its fault.
fn patched(change: &Value) -> Result<PolicyTerms, (String, FieldFault)> {
    PolicyTerms::default().patched(&patch(change)).map_err(|error| match error {
        Error::Refused(refusal) => match refusal.reason {
            Reason::InvalidField { field, fault } => (field.strip_prefix("policy.").unwrap().to_owned(), fault),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    })
}

/// The rows of the table under a heading, as cells.
fn table(heading: &str) -> Vec<Vec<String>> {
    let section = DOCUMENTATION.split(heading).nth(1).unwrap().split("\n#").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| `"));
    rows.map(|row| row.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// A value in the documentation, with or without the quotes of JSON.
fn value(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|_| text.into())
}

/// The members that a preset changes.
fn differences(terms: &PolicyTerms) -> Map<String, Value> {
    let default = json!(PolicyTerms::default());
    let Value::Object(terms) = json!(terms) else { unreachable!() };
    terms.into_iter().filter(|(member, value)| default[member] != *value && member != "type").collect()
}

#[test]
fn the_documentation_has_each_member_with_its_default() {
    let members = table("## Members").into_iter();
    let documented = members.map(|row| (row[0].trim_matches('`').to_owned(), value(row[1].trim_matches('`'))));
    assert_eq!(Value::Object(documented.collect()), json!(PolicyTerms::default()));
}

#[test]
fn the_documentation_has_each_type_with_its_aliases_and_preset() {
    let quoted = |text: &str| -> Vec<String> { text.split('`').skip(1).step_by(2).map(str::to_owned).collect() };
    let documented = table("## Types").into_iter().map(|row| {
        let changes = quoted(&row[2]);
        let changes = changes.chunks(2).map(|pair| (pair[0].clone(), value(&pair[1]))).collect::<Map<_, _>>();
        (quoted(&row[0]).concat(), quoted(&row[1]), changes)
    });
    let known = LicenseType::ALL.iter().map(|known| {
        let aliases = LicenseType::ALIASES.iter().filter(|(_, of)| of == known);
        let aliases = aliases.map(|(alias, _)| (*alias).to_owned()).collect();
        (known.to_string(), aliases, differences(&PolicyTerms::preset(*known)))
    });
    assert_eq!(documented.collect::<Vec<_>>(), known.collect::<Vec<_>>());
}

#[test]
fn a_preset_is_a_valid_policy_and_is_found_by_each_of_its_names() {
    for name in LicenseType::ALL.iter().map(|known| known.as_str()).chain(LicenseType::ALIASES.iter().map(|(n, _)| *n))
    {
        let known = LicenseType::named(name).unwrap();
        let preset = PolicyTerms::preset(known);
        assert_eq!(preset.license_type, known);
        assert_eq!(patched(&json!({ "type": name })), Ok(preset));
    }
    assert_eq!(LicenseType::named("trial"), None);
}

#[test]
fn a_type_begins_with_its_preset_whatever_the_terms_were() {
    let current = patched(&json!({ "features": ["pro"], "maxDevices": 9 })).unwrap();
    let floating = current.patched(&patch(&json!({ "type": "FLOATING", "lease": { "maxConcurrent": 9 } }))).unwrap();
    let lease = LeaseTerms { ttl_seconds: 180, max_concurrent: 9, on_full: OnFull::Reject };
    assert_eq!(floating, PolicyTerms { lease: Some(lease), ..PolicyTerms::preset(LicenseType::Floating) });
    assert_eq!(current.patched(&patch(&json!({ "type": null }))).unwrap(), PolicyTerms::default());
}

#[test]
fn a_limit_of_devices_requires_activation_unless_the_change_decides_it() {
    let required = |change| patched(&change).unwrap().device_required;
    assert!(required(json!({ "maxDevices": 3 })));
    assert!(!required(json!({ "maxDevices": 3, "deviceRequired": false })));
    assert!(!required(json!({ "maxDevices": null })));
    assert!(!required(json!({ "features": ["pro"] })));
}

#[test]
fn null_restores_the_default_of_a_member() {
    let changed = patched(&json!({ "offlineMaxSeconds": 60, "durationSeconds": 60, "features": ["a"] })).unwrap();
    let restored = json!({ "offlineMaxSeconds": null, "durationSeconds": null, "features": null });
    assert_eq!(changed.patched(&patch(&restored)).unwrap(), PolicyTerms::default());
}

#[test]
fn numbers_are_valid_up_to_their_bounds_only() {
    let century = 36_525 * DAY;
    for (member, min, max) in [
        ("durationSeconds", 1, century),
        ("maxDevices", 1, 100_000),
        ("checkInSeconds", 60, century),
        ("offlineMaxSeconds", 0, 366 * DAY),
        ("resetCooldownSeconds", 0, century),
        ("resetsPer30Days", 0, 10_000),
        ("transferCooldownSeconds", 0, century),
        ("sourceGraceSeconds", 0, century),
        ("lease.ttlSeconds", 30, DAY),
        ("lease.maxConcurrent", 1, 100_000),
        ("graceSeconds", 1, 366 * DAY),
    ] {
        let change = |n: i64| match member.strip_prefix("lease.") {
            Some(member) => {
                let mut lease = json!({ "ttlSeconds": 60, "maxConcurrent": 1, "onFull": "reject" });
                lease[member] = n.into();
                json!({ "lease": lease })
            }
            None if member == "graceSeconds" => json!({ member: n, "expiryStrategy": "grace_then_restrict" }),
            None => json!({ member: n }),
        };
        for valid in [min, max] {
            assert!(patched(&change(valid)).is_ok(), "{member} {valid}");
        }
        assert_eq!(patched(&change(max + 1)).unwrap_err().0, member);
        let below = if member == "graceSeconds" { -1 } else { min - 1 };
        let (field, fault) = patched(&change(below)).unwrap_err();
        let is_range = fault == FieldFault::Range { min: min.min(below + 1), max };
        assert!(field == member && (is_range || fault == FieldFault::Expected("u32".to_owned())), "{member} {fault:?}");
    }
}

#[test]
fn members_that_do_not_fit_are_named() {
    let quota = |name: &str, limit: i64| json!({ "name": name, "limit": limit, "period": "day" });
    let many = |n| (0..n).map(|n| format!("f{n}")).collect::<Vec<_>>();
    for (field, change) in [
        ("colour", json!({ "colour": 1 })),
        ("lease.colour", json!({ "lease": { "ttlSeconds": 60, "maxConcurrent": 1, "onFull": "reject", "colour": 1 } })),
        ("lease.onFull", json!({ "lease": { "ttlSeconds": 60, "maxConcurrent": 1 } })),
        ("lease", json!({ "lease": 5 })),
        ("type", json!({ "type": "GOLD" })),
        ("type", json!({ "type": 5 })),
        ("durationSeconds", json!({ "durationSeconds": "1" })),
        ("durationSeconds", json!({ "durationSeconds": 1.5 })),
        ("durationSeconds", json!({ "durationSeconds": 1e30 })),
        ("maxDevices", json!({ "maxDevices": 1_000_000_000_000_000_000_u64 })),
        ("deviceRequired", json!({ "deviceRequired": "yes" })),
        ("deviceMatch", json!({ "deviceMatch": "EXACT" })),
        ("expiryBasis", json!({ "expiryBasis": "fixed_date" })),
        ("expiresAt", json!({ "expiresAt": "2030-01-01T00:00:00Z" })),
        ("expiresAt", json!({ "expiryBasis": "fixed_date", "expiresAt": "0000-01-01T00:00:00Z" })),
        ("expiresAt", json!({ "expiryBasis": "fixed_date", "expiresAt": "9999-12-31T23:59:59Z" })),
        ("expiresAt", json!({ "expiryBasis": "fixed_date", "expiresAt": "+10000-01-01T00:00:00Z" })),
        ("expiresAt", json!({ "expiryBasis": "fixed_date", "expiresAt": 1_000_000_000_000_000_000_u64 })),
        ("expiryStrategy", json!({ "expiryStrategy": "grace_then_restrict" })),
        ("graceSeconds", json!({ "graceSeconds": 60 })),
        ("features", json!({ "features": many(65) })),
        ("features", json!({ "features": ["a", "a"] })),
        ("features", json!({ "features": [""] })),
        ("features", json!({ "features": ["Pro"] })),
        ("features", json!({ "features": ["-a"] })),
        ("features", json!({ "features": ["a b"] })),
        ("features", json!({ "features": ["é"] })),
        ("features", json!({ "features": ["a".repeat(65)] })),
        ("features[0]", json!({ "features": [1] })),
        ("quotas", json!({ "quotas": many(33).iter().map(|name| quota(name, 1)).collect::<Vec<_>>() })),
        ("quotas", json!({ "quotas": [quota("a", 1), quota("a", 2)] })),
        ("quotas", json!({ "quotas": [quota("A", 1)] })),
        ("quotas", json!({ "quotas": [quota("a", 0)] })),
        ("quotas", json!({ "quotas": [quota("a", 1_000_000_000_000_001)] })),
        ("quotas[0].period", json!({ "quotas": [{ "name": "a", "limit": 1, "period": "hour" }] })),
        ("quotas[1].limit", json!({ "quotas": [quota("a", 1), { "name": "b", "period": "day" }] })),
        ("versions", json!({ "versions": "two" })),
        ("versions", json!({ "versions": ">=2,".repeat(40) })),
    ] {
        assert_eq!(patched(&change).map_err(|(field, _)| field), Err(field.to_owned()), "{change}");
    }
    let largest = json!({
        "features": many(64), "versions": ">=2.1, <3", "expiryBasis": "fixed_date", "expiresAt": "2999-12-31T23:59:59Z",
        "quotas": (0..32).map(|n| quota(&format!("{n}{}", ".".repeat(62)), 1_000_000_000_000_000)).collect::<Vec<_>>(),
    });
    assert!(patched(&largest).is_ok(), "{:?}", patched(&largest));
}

fn any_of<T: Copy + std::fmt::Debug + 'static>(all: &'static [T]) -> impl Strategy<Value = T> {
    prop::sample::select(all)
}

prop_compose! {
    fn any_terms()(
        license_type in any_of(LicenseType::ALL), expiry_strategy in any_of(ExpiryStrategy::ALL),
        expiry_basis in any_of(ExpiryBasis::ALL), overage in any_of(Overage::ALL), on_full in any_of(OnFull::ALL),
        device_match in any_of(DeviceMatch::ALL), on_source_lost in any_of(OnSourceLost::ALL),
        duration_seconds in prop::option::of(1..=36_525 * DAY), grace_seconds in 1..=366 * DAY,
        max_devices in prop::option::of(1..=100_000_u32), device_required: bool, auto_activate: bool,
        lease in prop::option::of((30..=DAY, 1..=100_000_u32)), check_in_seconds in prop::option::of(60..=DAY),
        year in 2000..=2999, features in prop::collection::btree_set("[a-z0-9][a-z0-9._-]{0,63}", 0..=5),
        limit in 1..=1_000_000_000_000_000_i64, versions in prop::option::of(">=[1-9][0-9]{0,2}"),
    ) -> PolicyTerms {
        let has_grace = expiry_strategy == ExpiryStrategy::GraceThenRestrict;
        let date = (expiry_basis == ExpiryBasis::FixedDate).then(|| format!("{year}-06-01T12:00:00.5Z").parse().unwrap());
        let quotas = features.iter().map(|name| Quota { name: name.clone(), limit, period: QuotaPeriod::Month });
        PolicyTerms {
            license_type, expiry_strategy, expiry_basis, overage, device_match, on_source_lost, duration_seconds,
            grace_seconds: if has_grace { grace_seconds } else { 0 }, expires_at: date, max_devices, device_required,
            auto_activate, check_in_seconds, versions, quotas: quotas.collect(),
            lease: lease.map(|(ttl_seconds, max_concurrent)| LeaseTerms { ttl_seconds, max_concurrent, on_full }),
            features: features.into_iter().collect(), ..PolicyTerms::default()
        }
    }
}

proptest! {
    #[test]
    fn valid_terms_survive_json_and_a_change_to_themselves(terms in any_terms(), other in any_terms()) {
        let text = json!(terms).to_string();
        prop_assert_eq!(&serde_json::from_str::<PolicyTerms>(&text).unwrap(), &terms);
        let whole: PolicyPatch = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(&other.patched(&whole).unwrap(), &terms);
        prop_assert_eq!(&terms.patched(&PolicyPatch::default()).unwrap(), &terms);
    }
}
