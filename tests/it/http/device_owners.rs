//! What owners and managers do with devices in their sessions, and devices on several instances.

use std::collections::BTreeMap;

use chrono::Duration;
use dca_core::{
    Caller, Core, api_keys,
    crypto::api_key::ApiKeyKind,
    fingerprint::Fingerprint,
    licenses::{self, NewDevice, Requested, VerdictCode},
    policy::PolicyPatch,
    users::Role,
};
use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use super::license_commands::manager;
use crate::support::{
    accounts::signed_in_as,
    browser::{Browser, Response},
    fixtures::{TestTenant, log_head, rows},
    harness::it_unstarted,
};

fn device(number: usize) -> Value {
    json!({ "fingerprint": format!("fingerprint-of-device:{number:04}"), "name": format!("Device {number}") })
}

/// Activates a license, named by its ID, on a device.
async fn activate(by: &Browser, license: &Value, number: usize) -> Response {
    by.post("/licenses/activate", json!({ "licenseId": license, "device": device(number) })).await
}

#[test]
fn owners_manage_the_devices_of_their_licenses() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let tenant = TestTenant::new(t.core(), "Makers").await;
        let gold = tenant.product_with("Gold", "GOLD", PolicyPatch::default().with("maxDevices", 2)).await;
        let (license, key) = tenant.generated(&gold).await;
        let (owner, _) = signed_in_as(&t, "ana@x.example", Role::User).await;
        let (stranger, _) = signed_in_as(&t, "ben@x.example", Role::User).await;
        let manager = manager(&t, &tenant, 71, "manager@x.example").await;
        assert_eq!(owner.post("/licenses/redeem", json!({ "licenseKey": key })).await.status, 200);
        let (id, path) = (json!(license.id), format!("/licenses/{}", license.id));
        let first = activate(&owner, &id, 1).await;
        assert_eq!((first.status, &first.body["device"]["name"]), (201, &json!("Device 1")), "{first:?}");
        let second = activate(&manager, &id, 2).await;
        assert_eq!(second.status, 201, "{second:?}");
        let full = activate(&owner, &id, 3).await;
        assert_eq!((full.status, full.code()), (409, "DEVICE_LIMIT_EXCEEDED"), "{full:?}");
        let head = log_head(t.core()).await;
        for refused in [
            activate(&stranger, &id, 4).await,
            stranger.get(&format!("{path}/devices")).await,
            stranger.ask(Method::DELETE, &format!("{path}/deactivate"), Value::Null, &[]).await,
            stranger.post(&format!("{path}/reset-devices"), Value::Null).await,
            stranger.post("/licenses/deactivate", json!({ "licenseId": id, "device": device(1) })).await,
        ] {
            assert_eq!((refused.status, refused.code()), (404, "NOT_FOUND"), "{refused:?}");
        }
        assert_eq!(log_head(t.core()).await, head);
        let page = owner.get(&format!("{path}/devices?limit=1")).await;
        assert_eq!(
            (&page.body["data"][0]["name"], page.body["data"].as_array().unwrap().len()),
            (&json!("Device 2"), 1)
        );
        let next = format!("{path}/devices?limit=1&cursor={}", page.body["nextCursor"].as_str().unwrap());
        let last = owner.get(&next).await.body;
        assert_eq!((&last["data"][0]["name"], &last["nextCursor"]), (&json!("Device 1"), &Value::Null));

        let one = format!("{path}/deactivate?deviceId={}", first.body["device"]["id"].as_str().unwrap());
        for removed in [1, 0] {
            let answer = owner.ask(Method::DELETE, &one, Value::Null, &[]).await;
            assert_eq!((answer.status, &answer.body["deactivated"]), (200, &json!(removed)), "{answer:?}");
        }
        let by_device = owner.post("/licenses/deactivate", json!({ "licenseId": id, "device": device(2) })).await;
        assert_eq!((by_device.status, &by_device.body["deactivated"]), (200, &json!(1)), "{by_device:?}");
        for number in [5, 6] {
            assert_eq!(activate(&owner, &id, number).await.status, 201);
        }
        let all = owner.ask(Method::DELETE, &format!("{path}/deactivate"), Value::Null, &[]).await;
        assert_eq!(
            (&all.body["deactivated"], &all.body["limits"]["devices"]["used"]),
            (&json!(2), &json!(0)),
            "{all:?}"
        );
        t
    });
}

#[test]
fn owners_wait_between_two_resets_of_their_devices_and_managers_do_not() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let tenant = TestTenant::new(t.core(), "Makers").await;
        let gold = tenant.product_with("Gold", "GOLD", PolicyPatch::default().with("resetsPer30Days", 1)).await;
        let (license, key) = tenant.generated(&gold).await;
        let (owner, _) = signed_in_as(&t, "ana@x.example", Role::User).await;
        let manager = manager(&t, &tenant, 71, "manager@x.example").await;
        assert_eq!(owner.post("/licenses/redeem", json!({ "licenseKey": key })).await.status, 200);
        let (id, path) = (json!(license.id), format!("/licenses/{}/reset-devices", license.id));
        let reset = async |key: &str| owner.ask(Method::POST, &path, Value::Null, &[("Idempotency-Key", key)]).await;
        let later = async |by: Duration| {
            t.advance(by);
            for (browser, email) in [(&owner, "ana@x.example"), (&manager, "manager@x.example")] {
                assert_eq!(browser.sign_in(email).await.status, 200);
            }
        };
        let empty = reset("empty").await;
        assert_eq!((empty.status, &empty.body["deactivated"]), (200, &json!(0)), "nothing to reset: {empty:?}");
        assert_eq!(activate(&owner, &id, 1).await.status, 201);
        let free = reset("first").await;
        let next = json!("2026-03-08T12:00:00Z");
        assert_eq!((&free.body["deactivated"], &free.body["nextResetAt"]), (&json!(1), &next), "{free:?}");
        assert_eq!(activate(&owner, &id, 2).await.status, 201);
        assert_eq!(reset("first").await.header("idempotency-replayed"), "true");
        later(Duration::hours(1)).await;
        let early = reset("second").await;
        assert_eq!((early.status, early.code(), &early.body["availableAt"]), (429, "RESET_COOLDOWN", &next));
        assert_eq!(early.header("retry-after"), (167 * 3600).to_string(), "{early:?}");
        assert_eq!(activate(&owner, &id, 2).await.status, 200, "nothing was removed");
        later(Duration::hours(167)).await;
        let counted = reset("second").await;
        assert_eq!((counted.status, &counted.body["deactivated"]), (200, &json!(1)), "it was not stored: {counted:?}");
        assert_eq!(counted.body["nextResetAt"], "2026-04-07T12:00:00Z", "one in 30 days");
        assert_eq!(activate(&owner, &id, 3).await.status, 201);
        let forced = manager.post(&path, Value::Null).await;
        assert_eq!((forced.status, &forced.body["nextResetAt"]), (200, &counted.body["nextResetAt"]), "{forced:?}");

        tenant.set_terms(&gold, json!({ "resetsPer30Days": 0 })).await;
        assert_eq!(activate(&owner, &id, 4).await.status, 201);
        let never = reset("never").await;
        assert_eq!((never.status, never.code(), never.header("retry-after")), (409, "CONFLICT", ""), "{never:?}");
        t
    });
}

#[test]
fn instances_together_take_no_more_seats_than_there_are() {
    it_unstarted(|t| async {
        let instances = [t.instance().await, t.instance().await];
        let tenant = TestTenant::new(&instances[0], "Makers").await;
        let gold = tenant.product_with("Gold", "GOLD", PolicyPatch::default().with("maxDevices", 3)).await;
        let ((_, key), (_, same)) = (tenant.license(&gold, 1).await, tenant.license(&gold, 2).await);
        let api_key = tenant.api_key(ApiKeyKind::Publishable, &[&gold]).await.1;
        let activate = async |core: &Core, key: &str, number: usize| {
            let caller = Caller::App(api_keys::authenticate(core, &api_key).await.unwrap());
            let text = device(number)["fingerprint"].as_str().unwrap().to_owned();
            let new = NewDevice::new(Fingerprint::parse(&text, BTreeMap::new()).unwrap(), None, None, None).unwrap();
            let activation = licenses::activate(core, &caller, &Requested::Key(key.to_owned()), &new).await.unwrap();
            (activation.verdict.code, activation.created)
        };
        let spread = |number: usize| &instances[number % 2];
        let taken = join_all((0..24).map(|number| activate(spread(number), &key, number))).await;
        assert_eq!(taken.iter().filter(|(_, created)| *created).count(), 3, "{taken:?}");
        assert_eq!(taken.iter().filter(|(code, _)| *code == VerdictCode::DeviceLimitExceeded).count(), 21, "{taken:?}");
        let one = join_all((0..24).map(|number| activate(spread(number), &same, 1))).await;
        assert!(one.iter().all(|(code, _)| *code == VerdictCode::Valid), "{one:?}");
        assert_eq!(one.iter().filter(|(_, created)| *created).count(), 1, "{one:?}");
        assert_eq!(rows(instances[0].db.writer(), "SELECT name FROM devices").await.len(), 4);
        t
    });
}
