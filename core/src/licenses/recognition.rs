//! How a device is recognized after its fingerprint has changed.

use std::sync::Arc;

use super::facts::{Device, DeviceMatching};
use crate::{fingerprint::Fingerprint, keyring::Keyring, policy::DeviceMatch};

/// Compares a device whose fingerprint is unknown with those of a license. It is the one with the most equal components,
/// if the policy accepts so many as the same device; of several, the one that was seen last.
pub(super) fn compare(devices: Vec<Device>, seen: &Fingerprint, rule: DeviceMatch, keys: &Keyring) -> DeviceMatching {
    if rule == DeviceMatch::Exact {
        return DeviceMatching::Unknown;
    }
    let components = seen.component_lookups(keys);
    let counted = devices.into_iter().map(|device| {
        let is_equal = |(name, hashes): &(&String, &Vec<String>)| {
            let stored = device.components.get(name.as_str()).and_then(serde_json::Value::as_str);
            stored.is_some_and(|stored| hashes.iter().any(|hash| hash == stored))
        };
        let stored = device.components.as_object().map_or(0, serde_json::Map::len);
        (components.iter().filter(is_equal).count(), stored.max(components.len()), device)
    });
    let similar = counted
        .filter(|(equal, ..)| *equal > 0)
        .max_by_key(|(equal, total, device)| (is_same(rule, *equal, *total), *equal, device.last_seen_at, device.id));
    match similar {
        Some((equal, total, device)) if is_same(rule, equal, total) => DeviceMatching::Drifted(Arc::new(device)),
        Some(_) => DeviceMatching::Mismatch,
        None => DeviceMatching::Unknown,
    }
}

/// Whether a device is the same if this many of its components are equal. `total` counts those of the side that has more,
/// so that leaving components out is no advantage.
fn is_same(rule: DeviceMatch, equal: usize, total: usize) -> bool {
    match rule {
        DeviceMatch::Exact => false,
        DeviceMatch::Any => equal >= 1,
        DeviceMatch::Two => equal >= 2,
        DeviceMatch::Most => equal * 2 > total,
        DeviceMatch::All => equal >= 1 && equal == total,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use chrono::{DateTime, TimeDelta};
    use serde_json::json;

    use super::*;
    use crate::{Ids, ids::DeviceId, ids::LicenseId};

    fn fingerprint(components: &[(&str, &str)]) -> Fingerprint {
        let owned: BTreeMap<_, _> = components.iter().map(|(name, v)| ((*name).to_owned(), (*v).to_owned())).collect();
        Fingerprint::parse("0123456789abcdef", owned).unwrap()
    }

    fn device(keys: &Keyring, ids: &Ids, components: &[(&str, &str)], seen: i64) -> Device {
        let at = DateTime::UNIX_EPOCH + TimeDelta::days(seen);
        let seen = fingerprint(components);
        Device {
            id: DeviceId(ids.v4()),
            license_id: LicenseId(ids.v4()),
            fingerprint: seen.hash(keys),
            components: json!(seen.component_hashes(keys)),
            name: None,
            platform: None,
            app_version: None,
            activated_at: at,
            last_seen_at: at,
        }
    }

    type Components = &'static [(&'static str, &'static str)];

    #[test]
    fn a_device_is_recognized_by_as_many_components_as_the_policy_says() {
        use DeviceMatch::{All, Any, Exact, Most, Two};
        let ids = Ids::seeded(1);
        let keys = Keyring::of_test(&ids);
        let stored = [("board", "b1"), ("disk", "d1"), ("os", "o1")];
        let table: [(Components, &[DeviceMatch]); 9] = [
            (&[("board", "b1"), ("disk", "d1"), ("os", "o1")], &[Any, Two, Most, All]),
            (&[("board", "b1"), ("disk", "d1"), ("os", "o2")], &[Any, Two, Most]),
            (&[("board", "b1"), ("disk", "d1")], &[Any, Two, Most]),
            (&[("board", "b1"), ("disk", "d2"), ("os", "o2")], &[Any]),
            (&[("board", "b1")], &[Any]),
            (&[("board", "b1"), ("disk", "d1"), ("x", "1"), ("y", "1")], &[Any, Two]),
            (&[("board", "b2"), ("disk", "d2"), ("os", "o2")], &[]),
            (&[("disk", "b1"), ("os", "d1"), ("board", "o1")], &[]),
            (&[], &[]),
        ];
        for (seen, accepting) in table {
            for rule in [Exact, Any, Two, Most, All] {
                let devices = vec![device(&keys, &ids, &stored, 1)];
                let matching = compare(devices, &fingerprint(seen), rule, &keys);
                let expected = accepting.contains(&rule);
                assert_eq!(matching.device().is_some(), expected, "{seen:?} under {rule}");
                let is_similar = seen.iter().any(|component| stored.contains(component));
                let differs = rule != Exact && is_similar && !expected;
                assert_eq!(matching == DeviceMatching::Mismatch, differs, "{seen:?} under {rule}");
            }
        }
        let bare = vec![device(&keys, &ids, &[], 1)];
        assert_eq!(compare(bare, &fingerprint(&[]), All, &keys), DeviceMatching::Unknown);
    }

    #[test]
    fn the_most_similar_device_is_recognized_and_then_the_last_seen() {
        let ids = Ids::seeded(1);
        let keys = Keyring::of_test(&ids);
        let similar = device(&keys, &ids, &[("a", "1"), ("b", "1")], 1);
        let later = device(&keys, &ids, &[("a", "1")], 3);
        let earlier = device(&keys, &ids, &[("a", "1")], 2);
        let devices = [earlier, similar.clone(), later.clone()];
        let best = |seen| {
            let matching = compare(devices.to_vec(), &fingerprint(seen), DeviceMatch::Any, &keys);
            matching.device().unwrap().id
        };
        assert_eq!(best(&[("a", "1"), ("b", "1")]), similar.id);
        assert_eq!(best(&[("a", "1"), ("b", "2")]), later.id);
    }
}
