//! Devices: activation, seats under concurrency, recognition, deactivation and resets.

use chrono::Duration;
use dca_core::{crypto::api_key::ApiKeyKind, ids::LicenseId, products::Product};
use futures::future::join_all;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::{
    fixtures::{Answer, Request, TestTenant, log_head, rows},
    harness::{TestApp, it_unstarted},
};

/// A product with these terms, a license for it, and an API key.
struct Fixture {
    tenant: TestTenant,
    product: Product,
    license: LicenseId,
    key: String,
    api_key: String,
}

async fn fixture(t: &TestApp, terms: Value) -> Fixture {
    let tenant = TestTenant::new(t.core(), "Makers").await;
    let product = tenant.product("Studio", "STUDIO").await;
    tenant.set_terms(&product, terms).await;
    let (license, key) = tenant.license(&product, 1).await;
    let api_key = tenant.api_key(ApiKeyKind::Publishable, &[&product]).await.1;
    Fixture { tenant, product, license: license.id, key, api_key }
}

/// A fingerprint that differs for each number.
fn fingerprint(number: usize) -> String {
    format!("fingerprint-of-device:{number:04}")
}

impl Fixture {
    fn request(&self, route: &str, body: &Value) -> Request {
        let request = Request::new(&format!("POST /licenses/{route}")).with("Content-Type", "application/json");
        request.with("X-API-Key", &self.api_key).body(body.to_string())
    }

    async fn send(&self, t: &TestApp, route: &str, device: Value) -> Answer {
        let body = json!({ "licenseKey": self.key, "device": device });
        self.request(route, &body).ask(t.addr()).await.unwrap()
    }

    async fn activate(&self, t: &TestApp, number: usize) -> Answer {
        self.send(t, "activate", json!({ "fingerprint": fingerprint(number) })).await
    }

    async fn deactivate(&self, t: &TestApp, number: usize) -> Value {
        let answer = self.send(t, "deactivate", json!({ "fingerprint": fingerprint(number) })).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }
}

/// The number of rows of a table.
async fn count(t: &TestApp, table: &str) -> usize {
    rows(t.core().db.writer(), &format!("SELECT 1 AS n FROM {table}")).await.len()
}

/// The events of a kind, oldest first.
async fn events(fixture: &Fixture, kind: &str) -> Vec<Value> {
    let all = dca_core::events::list(&fixture.tenant.core, &fixture.tenant.caller.scope(), 1_000).await.unwrap();
    let of_kind = all.into_iter().rev().filter(|event| event.kind.as_str() == kind);
    of_kind.map(|event| event.after.unwrap_or_default()).collect()
}

#[test]
fn the_first_device_activates_a_license_and_begins_its_duration() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let terms = json!({ "maxDevices": 2, "durationSeconds": 864_000, "expiryBasis": "first_activation" });
        let fixture = fixture(&t, terms).await;
        let nonce = "q83vASNFZ4mrze8BI0VniQ";
        let device = json!({ "fingerprint": fingerprint(1), "name": " Desk PC ", "platform": "windows-x64" });
        let body = json!({ "key": fixture.key, "nonce": nonce, "device": device });
        let answer = fixture.request("activate", &body).ask(t.addr()).await.unwrap();
        let first = answer.json();
        assert_eq!(
            (answer.status, &first["activated"], &first["created"]),
            (201, &json!(true), &json!(true)),
            "{first}"
        );
        assert_eq!((&first["code"], &first["nonce"], &first["warnings"]), (&json!("VALID"), &json!(nonce), &json!([])));
        assert_eq!(
            (&first["device"]["name"], &first["device"]["platform"]),
            (&json!("Desk PC"), &json!("windows-x64"))
        );
        assert_eq!(
            (&first["license"]["state"], &first["license"]["limits"]["devices"]["used"]),
            (&json!("activated"), &json!(1))
        );
        assert_eq!(first["license"]["expiresAt"], "2026-03-11T12:00:00Z");
        let activated = events(&fixture, "license.activated").await;
        assert_eq!(activated, [json!({ "state": "activated", "deviceId": first["device"]["id"] })]);

        t.advance(Duration::hours(1));
        let again = fixture.activate(&t, 1).await;
        let view = again.json();
        assert_eq!(
            (again.status, &view["created"], &view["device"]["id"]),
            (200, &json!(false), &first["device"]["id"])
        );
        assert_eq!(
            (&view["device"]["name"], &view["device"]["lastSeenAt"]),
            (&json!("Desk PC"), &json!("2026-03-01T13:00:00Z"))
        );
        let second = fixture.activate(&t, 2).await;
        assert_eq!((second.status, &second.json()["license"]["expiresAt"]), (201, &first["license"]["expiresAt"]));
        assert_eq!(events(&fixture, "license.activated").await.len(), 2);
        t
    });
}

#[test]
fn flat_members_name_the_device_as_nested_ones_do() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let fixture = fixture(&t, json!({})).await;
        for (member, status) in [("deviceId", 201), ("hardwareId", 200)] {
            let body = json!({ "licenseKey": fixture.key, member: fingerprint(1), "deviceName": "Laptop" });
            let answer = fixture.request("activate", &body).ask(t.addr()).await.unwrap();
            assert_eq!((answer.status, &answer.json()["device"]["name"]), (status, &json!("Laptop")), "{member}");
        }
        t
    });
}

#[test]
fn parallel_activations_take_no_more_seats_than_there_are() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let fixture = fixture(&t, json!({ "maxDevices": 1 })).await;
        let answers = join_all((0..50).map(|number| fixture.activate(&t, number))).await;
        let created = answers.iter().filter(|answer| answer.status == 201).count();
        let full = answers.iter().filter(|answer| answer.json()["code"] == "DEVICE_LIMIT_EXCEEDED").count();
        assert_eq!((created, full, count(&t, "devices").await), (1, 49, 1));
        assert_eq!(events(&fixture, "license.activated").await.len(), 1);
        assert_eq!(events(&fixture, "device.limit_reached").await, [json!({ "max": 1, "used": 1 })]);
        t
    });
}

#[test]
fn a_fresh_key_validates_and_activates_exactly_as_many_devices_as_it_has() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let fixture = fixture(&t, json!({ "maxDevices": 5 })).await;
        assert_eq!(t.validate(&fixture.api_key, &fixture.key).await["code"], "VALID");
        let answers = join_all((0..25).map(|number| fixture.activate(&t, number))).await;
        assert_eq!(answers.iter().filter(|answer| answer.status == 201).count(), 5);
        assert_eq!(answers.iter().filter(|answer| answer.status == 409).count(), 20);
        assert_eq!(count(&t, "devices").await, 5);
        t
    });
}

#[test]
fn parallel_activations_of_one_device_take_one_seat() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let fixture = fixture(&t, json!({ "maxDevices": 1 })).await;
        let answers = join_all((0..30).map(|_| fixture.activate(&t, 1))).await;
        assert!(answers.iter().all(|answer| [200, 201].contains(&answer.status)), "{answers:?}");
        assert_eq!(answers.iter().filter(|answer| answer.status == 201).count(), 1);
        assert_eq!(count(&t, "devices").await, 1);
        t
    });
}

#[test]
fn a_full_license_names_its_devices_and_the_next_reset() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let fixture = fixture(&t, json!({ "maxDevices": 1 })).await;
        let first = fixture.activate(&t, 1).await.json();
        for _ in 0..3 {
            let answer = fixture.activate(&t, 2).await;
            let problem = answer.json();
            assert_eq!((answer.status, &problem["code"]), (409, &json!("DEVICE_LIMIT_EXCEEDED")));
            let device = json!({ "id": first["device"]["id"], "name": null, "lastSeenAt": "2026-03-01T12:00:00Z" });
            assert_eq!(problem["devices"], json!([device]));
            let how = format!("POST /licenses/{}/reset-devices", fixture.license);
            assert_eq!(problem["reset"], json!({ "availableAt": "2026-03-01T12:00:00Z", "how": how }));
        }
        assert_eq!(events(&fixture, "device.limit_reached").await.len(), 1);
        t.advance(Duration::minutes(61));
        fixture.activate(&t, 2).await;
        assert_eq!(events(&fixture, "device.limit_reached").await.len(), 2, "once an hour");

        assert_eq!(fixture.deactivate(&t, 1).await["deactivated"], 1);
        assert_eq!(fixture.activate(&t, 2).await.status, 201);
        assert_eq!(fixture.activate(&t, 1).await.status, 409);
        t
    });
}

#[test]
fn overage_accepts_more_devices_with_a_warning() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let fixture = fixture(&t, json!({})).await;
        for (overage, max, accepted) in [("none", 4, 4), ("1.25x", 4, 5), ("1.25x", 1, 1), ("1.5x", 2, 3), ("2x", 2, 4)]
        {
            fixture.tenant.set_terms(&fixture.product, json!({ "maxDevices": max, "overage": overage })).await;
            for number in 0..accepted {
                let answer = fixture.activate(&t, number).await;
                let expected = if number < max { json!([]) } else { json!(["OVER_LIMIT_ALLOWED"]) };
                assert_eq!(
                    (answer.status, &answer.json()["warnings"]),
                    (201, &expected),
                    "{overage} of {max}: {number}"
                );
            }
            assert_eq!(fixture.activate(&t, accepted).await.status, 409, "{overage} of {max}");
            for number in 0..accepted {
                fixture.deactivate(&t, number).await;
            }
        }
        fixture.tenant.set_terms(&fixture.product, json!({ "maxDevices": 1, "overage": "always" })).await;
        for number in 0..5 {
            assert_eq!(fixture.activate(&t, number).await.status, 201);
        }
        t
    });
}

#[test]
fn a_device_whose_fingerprint_has_changed_keeps_its_seat() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let fixture = fixture(&t, json!({ "maxDevices": 1, "deviceMatch": "two" })).await;
        let device = |number, disk: &str| {
            let components = json!({ "board": "B-1", "disk": disk, "os": "O-1" });
            json!({ "fingerprint": fingerprint(number), "components": components })
        };
        let first = fixture.send(&t, "activate", device(1, "D-1")).await.json();
        let drifted = fixture.send(&t, "activate", device(2, "D-2")).await;
        let view = drifted.json();
        assert_eq!((drifted.status, &view["device"]["id"]), (200, &first["device"]["id"]), "{view}");
        assert_eq!(view["warnings"], json!(["FINGERPRINT_DRIFT"]));
        assert_eq!(
            fixture.send(&t, "activate", device(2, "D-2")).await.json()["warnings"],
            json!([]),
            "it is known now"
        );
        let other =
            json!({ "fingerprint": fingerprint(3), "components": { "board": "B-1", "disk": "D-9", "os": "O-9" } });
        assert_eq!(fixture.send(&t, "activate", other).await.status, 409);
        assert_eq!(fixture.send(&t, "deactivate", device(4, "D-2")).await.json()["deactivated"], 1);
        t
    });
}

#[test]
fn what_identifies_a_device_is_stored_as_keyed_hashes_only() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let fixture = fixture(&t, json!({})).await;
        let device = json!({ "fingerprint": fingerprint(1), "components": { "disk": "S3R1AL-0F-D1SK" } });
        assert_eq!(fixture.send(&t, "activate", device).await.status, 201);
        let stored = rows(t.core().db.writer(), "SELECT fingerprint, components FROM devices").await;
        let stored = serde_json::to_string(&stored).unwrap();
        let events = serde_json::to_string(&events(&fixture, "license.activated").await).unwrap();
        for text in [stored, events, t.log.text()] {
            assert!(!text.contains("S3R1AL") && !text.contains("fingerprint-of-device"), "{text}");
        }
        t
    });
}

#[test]
fn invalid_devices_are_refused_and_nothing_is_written() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let fixture = fixture(&t, json!({})).await;
        let head = log_head(t.core()).await;
        let text = |length: usize| "x".repeat(length);
        let many: Value = (0..17).map(|n| (format!("part{n}"), json!("v"))).collect::<serde_json::Map<_, _>>().into();
        let good = fingerprint(1);
        for (device, field) in [
            (json!({}), "device.fingerprint"),
            (json!({}), "device.fingerprint"),
            (json!({ "fingerprint": null }), "device.fingerprint"),
            (json!({ "fingerprint": text(0) }), "device.fingerprint"),
            (json!({ "fingerprint": text(15) }), "device.fingerprint"),
            (json!({ "fingerprint": text(129) }), "device.fingerprint"),
            (json!({ "fingerprint": "ｆｉｎｇｅｒｐｒｉｎｔ－ｏｆ－ｍｅ" }), "device.fingerprint"),
            (json!({ "fingerprint": format!("{good} ") }), "device.fingerprint"),
            (json!({ "fingerprint": good, "components": many }), "device.components"),
            (json!({ "fingerprint": good, "components": { "": "x" } }), "device.components"),
            (json!({ "fingerprint": good, "components": { "disk": "" } }), "device.components"),
            (json!({ "fingerprint": good, "components": { text(33): "x" } }), "device.components"),
            (json!({ "fingerprint": good, "components": { "disk": text(129) } }), "device.components"),
            (json!({ "fingerprint": good, "components": { "disk": 1 } }), "device.components.disk"),
            (json!({ "fingerprint": good, "name": text(65) }), "device.name"),
            (json!({ "fingerprint": good, "name": "a\u{202E}b" }), "device.name"),
            (json!({ "fingerprint": good, "platform": "" }), "device.platform"),
            (json!({ "fingerprint": good, "appVersion": "1\n2" }), "device.appVersion"),
            (json!(null), "device"),
        ] {
            let answer = fixture.send(&t, "activate", device.clone()).await;
            let problem = answer.json();
            assert_eq!((answer.status, &problem["field"]), (422, &json!(field)), "{device}: {problem}");
            assert_eq!(problem["code"], "VALIDATION_ERROR");
        }
        for nonce in ["", "short", &text(21), &text(44), "q83vASNFZ4mrze8BI0VniQ=="] {
            let body = json!({ "licenseKey": fixture.key, "nonce": nonce, "device": { "fingerprint": good } });
            let problem = fixture.request("activate", &body).ask(t.addr()).await.unwrap().json();
            assert_eq!(problem["field"], "nonce", "{nonce:?}");
        }
        let by_id = json!({ "licenseId": fixture.license, "device": { "fingerprint": good } });
        let problem = fixture.request("activate", &by_id).ask(t.addr()).await.unwrap().json();
        assert_eq!(
            (&problem["status"], &problem["field"]),
            (&json!(422), &json!("licenseKey")),
            "an API key names the key"
        );
        assert_eq!((log_head(t.core()).await, count(&t, "devices").await), (head, 0));
        for length in [16, 128] {
            assert_eq!(fixture.send(&t, "activate", json!({ "fingerprint": text(length) })).await.status, 201);
        }
        t
    });
}

#[test]
fn a_license_that_cannot_be_used_is_not_activated() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let fixture = fixture(&t, json!({})).await;
        let tenant = &fixture.tenant;
        let foreign = TestTenant::new(t.core(), "Others").await;
        let other = foreign.product("Other", "OTHER").await;
        let foreign_key = foreign.license(&other, 2).await.1;
        let unassigned = tenant.generated(&fixture.product).await.1;
        let (ended, revoked) = tenant.license(&fixture.product, 3).await;
        dca_core::licenses::revoke(t.core(), &tenant.caller, ended.id, "refund").await.unwrap();
        let (lapsing, expired) = tenant.license(&fixture.product, 4).await;
        let (held, suspended) = tenant.license(&fixture.product, 5).await;
        set(&t, lapsing.id, "lapses_at").await;
        set(&t, held.id, "suspended_at").await;
        t.advance(Duration::seconds(1));
        let head = log_head(t.core()).await;
        for (key, status, code) in [
            ("no key at all", 422, "MALFORMED_KEY"),
            (&foreign_key, 404, "NOT_FOUND"),
            (&unassigned, 403, "NOT_ASSIGNED"),
            (&revoked, 403, "REVOKED"),
            (&expired, 403, "EXPIRED"),
            (&suspended, 403, "SUSPENDED"),
        ] {
            let body = json!({ "licenseKey": key, "device": { "fingerprint": fingerprint(1) } });
            let answer = fixture.request("activate", &body).ask(t.addr()).await.unwrap();
            assert_eq!((answer.status, &answer.json()["code"]), (status, &json!(code)), "{answer:?}");
        }
        assert_eq!((log_head(t.core()).await, count(&t, "devices").await), (head, 0));
        t
    });
}

/// Sets a time of a license to the start of the test.
async fn set(t: &TestApp, license: LicenseId, column: &str) {
    use sea_orm_migration::sea_orm::{ConnectionTrait, Statement};
    let db = t.core().db.writer();
    let sql = format!("UPDATE licenses SET {column} = $1 WHERE id = $2");
    let values = [t.clock.now().into(), license.0.into()];
    db.execute_raw(Statement::from_sql_and_values(db.get_database_backend(), sql, values)).await.unwrap();
}

#[test]
fn a_deactivation_frees_the_seat_and_may_be_repeated() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let fixture = fixture(&t, json!({ "maxDevices": 1 })).await;
        let id = fixture.activate(&t, 1).await.json()["device"]["id"].clone();
        let first = fixture.deactivate(&t, 1).await;
        assert_eq!((&first["deactivated"], &first["devices"]), (&json!(1), &json!([id])));
        assert_eq!(
            (&first["licenseState"], &first["limits"]["devices"]),
            (&json!("activated"), &json!({ "max": 1, "used": 0 }))
        );
        let second = fixture.deactivate(&t, 1).await;
        assert_eq!((&second["deactivated"], &second["devices"]), (&json!(0), &json!([])));
        assert_eq!(events(&fixture, "license.deactivated").await, [json!({ "devices": [id] })]);
        assert_eq!(fixture.activate(&t, 2).await.status, 201);
        t
    });
}

#[test]
fn an_unknown_license_has_no_devices_for_anyone() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let fixture = fixture(&t, json!({})).await;
        let foreign = TestTenant::new(t.core(), "Others").await;
        let other = foreign.product("Other", "OTHER").await;
        let license = foreign.license(&other, 2).await.0.id;
        let secret = fixture.tenant.api_key(ApiKeyKind::Secret, &[&fixture.product]).await.1;
        for id in [license.0, Uuid::nil()] {
            for line in
                ["GET /licenses/ID/devices", "DELETE /licenses/ID/deactivate", "POST /licenses/ID/reset-devices"]
            {
                let request = Request::new(&line.replace("ID", &id.to_string())).with("X-API-Key", &secret);
                let answer = request.ask(t.addr()).await.unwrap();
                assert_eq!((answer.status, &answer.json()["code"]), (404, &json!("NOT_FOUND")), "{line}: {answer:?}");
            }
        }
        t
    });
}
