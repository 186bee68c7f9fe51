//! License files: what they say, how long they live, and who gets one.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::TimeDelta;
use dca_core::{
    bans::{self, NewBan, Target},
    crypto::{api_key::ApiKeyKind, license_key::LicenseKey, proof, sha256},
    entitlements,
    fingerprint::Fingerprint,
    ids::{LicenseId, UserId},
    licenses,
    products::Product,
    users::Role,
};
use hmac::{Hmac, KeyInit, Mac};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::Sha256;

use crate::support::{
    accounts::{events_of_kind, execute, signed_in_as},
    browser::{Browser, Response},
    fixtures::{TestTenant, rows},
    harness::{TestApp, it_unstarted},
    proofs::{encode, parts, root_of, verify_as_app},
};

const FINGERPRINT: &str = "9f2c41d0b7e84a55a1c6f3d2e8b09a7c";

fn base64url(bytes: [u8; 32]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A tenant with a product, and a user who owns a license for it, which is activated on a device.
struct Fixture {
    tenant: TestTenant,
    product: Product,
    owner: Browser,
    license: LicenseId,
    key: String,
}

impl Fixture {
    async fn new(t: &TestApp, duration: Option<Duration>) -> Self {
        let tenant = TestTenant::new(t.core(), "Makers").await;
        let product = tenant.terms("Tools", "TOOLS", duration).await;
        let (owner, user) = signed_in_as(t, "ana@x.example", Role::User).await;
        let (license, key) = Self::license(t, &tenant, &product, user).await;
        Self { tenant, product, owner, license, key }
    }

    async fn license(t: &TestApp, tenant: &TestTenant, product: &Product, user: UserId) -> (LicenseId, String) {
        let id = entitlements::grant(t.core(), &tenant.caller, product.id, user).await.unwrap();
        let (license, _) = licenses::inspect(t.core(), &tenant.caller.scope(), &id.to_string()).await.unwrap();
        (id, licenses::reveal_key(t.core(), &license).unwrap())
    }

    /// Changes the terms of all licenses.
    async fn set_terms(&self, t: &TestApp, terms: &Value) {
        execute(t.core(), &format!("UPDATE policies SET terms = '{terms}'")).await;
    }

    /// Activates the license on a device.
    async fn activate(&self, fingerprint: &str, components: &[(&str, &str)]) {
        let components: Value = components.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        let device = json!({ "fingerprint": fingerprint, "components": components });
        let body = json!({ "licenseId": self.license, "device": device });
        assert_eq!(self.owner.post("/licenses/activate", body).await.status, 201);
    }

    async fn checkout(&self, by: &Browser, body: Value) -> Response {
        by.post(&format!("/licenses/{}/checkout", self.license), body).await
    }
}

/// The compact JWS in a license file.
fn unwrap(file: &str) -> String {
    let body = file.strip_prefix("-----BEGIN DCA LICENSE FILE-----\n");
    let body = body.and_then(|rest| rest.strip_suffix("\n-----END DCA LICENSE FILE-----\n")).expect("a PEM block");
    assert!(body.lines().all(|line| line.len() <= 64));
    body.replace('\n', "")
}

/// The claims of a file, as an app verifies them without a connection: with the list of keys in the file.
async fn verify_file(t: &TestApp, file: &str) -> Option<Value> {
    let jws = unwrap(file);
    let list = parts(&jws).1["keys"].as_str()?.to_owned();
    verify_as_app(&root_of(t.core()).await, &list, &jws, proof::LICENSE_FILE, t.clock.now().timestamp())
}

#[test]
fn a_license_file_is_valid_without_a_connection_until_it_ends() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let fixture = Fixture::new(&t, None).await;
        fixture.activate(FINGERPRINT, &[("board", "B1"), ("disk", "D1")]).await;
        let terms = json!({
            "maxDevices": 3, "deviceMatch": "two", "features": ["pro"], "offlineMaxSeconds": 366 * 86_400,
        });
        fixture.set_terms(&t, &terms).await;
        let components = json!({ "board": "B1", "disk": "of another device", "os": "O1" });
        let body = json!({ "fingerprint": FINGERPRINT, "components": components, "ttlSeconds": 366 * 86_400 });
        let response = fixture.checkout(&fixture.owner, body).await;
        assert_eq!(response.status, 201, "{response:?}");
        let file = response.body["file"].as_str().unwrap().to_owned();
        let claims = verify_file(&t, &file).await.expect("the root key verifies the file");
        let key = LicenseKey::parse(&fixture.key, &[]).unwrap().canonical();
        let now = t.clock.now().timestamp();
        for (name, value) in [
            ("iss", json!(t.app().config.http.public_url)),
            ("aud", json!(fixture.product.id)),
            ("sub", json!(fixture.license)),
            ("iat", json!(now)),
            ("exp", json!(now + 366 * 86_400)),
            ("ver", json!(1)),
            ("keyHash", json!(base64url(sha256(key.as_bytes())))),
            ("keyEpoch", json!(1)),
            ("match", json!("two")),
            ("features", json!(["pro"])),
            ("limits", json!({ "devices": 3 })),
            ("metadata", json!({})),
        ] {
            assert_eq!(claims[name], value, "{name}");
        }
        let device = json!({
            "fph": base64url(sha256(FINGERPRINT.as_bytes())), "components": { "board": base64url(sha256(b"B1")) },
        });
        assert_eq!(claims["devices"], json!([device]), "only components of the activated device");
        for absent in ["licenseExpiresAt", "nonce", "minimum"] {
            assert!(claims.get(absent).is_none(), "{absent}");
        }
        let as_verdict = verify_as_app(
            &root_of(t.core()).await,
            claims["keys"].as_str().unwrap(),
            &unwrap(&file),
            proof::VERDICT,
            now,
        );
        assert_eq!(as_verdict, None, "a file is no verdict");
        let events = events_of_kind(t.core(), "license.checked_out").await;
        assert!(events.len() == 1 && !format!("{events:?}").contains(FINGERPRINT), "{events:?}");
        assert!(!t.log.text().contains(FINGERPRINT));
        t.advance(TimeDelta::days(366) - TimeDelta::seconds(1));
        fixture.owner.sign_in("ana@x.example").await;
        assert!(verify_file(&t, &file).await.is_some());
        t.advance(TimeDelta::seconds(1));
        fixture.owner.sign_in("ana@x.example").await;
        assert!(verify_file(&t, &file).await.is_none());
        // Without a bot, the messages with the keys are not sent.
        t.stop().await;
        t
    });
}

#[test]
fn a_license_file_never_outlives_the_license() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let fixture = Fixture::new(&t, Some(Duration::from_hours(48))).await;
        fixture.activate(FINGERPRINT, &[]).await;
        let start = t.clock.now();
        let end = async |ttl: Option<i64>| {
            let body = json!({ "fingerprint": FINGERPRINT, "ttlSeconds": ttl });
            let response = fixture.checkout(&fixture.owner, body).await;
            let claims = verify_file(&t, response.body["file"].as_str().expect("a file")).await.unwrap();
            (claims["exp"].as_i64().unwrap() - start.timestamp(), claims["licenseExpiresAt"].clone())
        };
        let expires = json!(start.timestamp() + 48 * 3_600);
        assert_eq!(end(Some(3_600)).await, (3_600, expires.clone()));
        assert_eq!(end(None).await, (48 * 3_600, expires.clone()), "less than the default of 14 days");
        execute(t.core(), "UPDATE licenses SET sources_end_at = '2026-03-01T22:00:00+00:00'").await;
        assert_eq!(end(None).await, (10 * 3_600, expires), "the grace after the last role was lost");
        t.advance(TimeDelta::hours(10));
        fixture.owner.sign_in("ana@x.example").await;
        let late = fixture.checkout(&fixture.owner, json!({ "fingerprint": FINGERPRINT })).await;
        assert_eq!((late.status, late.code()), (409, "INVALID_TRANSITION"));
        // Without a bot, the messages with the keys are not sent.
        t.stop().await;
        t
    });
}

#[test]
fn a_license_file_asks_for_as_many_components_as_the_activated_device_has() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let fixture = Fixture::new(&t, None).await;
        let stored = [("board", "B1"), ("cpu", "C1"), ("disk", "D1"), ("os", "O1"), ("tpm", "T1")];
        fixture.activate(FINGERPRINT, &stored).await;
        for (rule, sent, minimum) in [
            ("all", 1, None),
            ("all", 5, Some(5)),
            ("most", 2, None),
            ("most", 3, Some(3)),
            ("two", 1, None),
            ("two", 2, Some(2)),
            ("any", 0, None),
            ("any", 1, Some(1)),
            ("exact", 5, None),
        ] {
            fixture.set_terms(&t, &json!({ "deviceMatch": rule })).await;
            let components: Value = stored[..sent].iter().map(|(name, v)| ((*name).to_owned(), json!(v))).collect();
            let body = json!({ "fingerprint": FINGERPRINT, "components": components });
            let response = fixture.checkout(&fixture.owner, body).await;
            let claims = verify_file(&t, response.body["file"].as_str().expect("a file")).await.unwrap();
            assert_eq!(claims.get("minimum").and_then(Value::as_u64), minimum, "{rule} with {sent}");
        }
        // Without a bot, the messages with the keys are not sent.
        t.stop().await;
        t
    });
}

#[test]
fn a_license_that_a_verdict_would_decline_gets_no_file() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let fixture = Fixture::new(&t, Some(Duration::from_hours(48))).await;
        fixture.activate(FINGERPRINT, &[]).await;
        let code = async || {
            let response = fixture.checkout(&fixture.owner, json!({ "fingerprint": FINGERPRINT })).await;
            (response.status, response.code().to_owned())
        };
        let refused = |status, code: &str| (status, code.to_owned());
        t.advance(TimeDelta::hours(2));
        fixture.owner.sign_in("ana@x.example").await;
        fixture.set_terms(&t, &json!({ "checkInSeconds": 3_600 })).await;
        assert_eq!(code().await, refused(409, "CONFLICT"), "the device has to check in");
        fixture.set_terms(&t, &json!({})).await;
        let device = Fingerprint::parse(FINGERPRINT, BTreeMap::new()).unwrap();
        let (target, reason) = (Target::Fingerprint(device), "chargeback".to_owned());
        let ban = NewBan { tenant: None, target, product: Some(fixture.product.id), reason, expires_at: None };
        bans::create(t.core(), &fixture.tenant.caller, ban).await.unwrap();
        assert_eq!(code().await, refused(409, "CONFLICT"), "the device is banned");
        execute(t.core(), "UPDATE bans SET lifted_at = created_at").await;
        assert_eq!(code().await.0, 201);
        t.advance(TimeDelta::hours(48));
        fixture.owner.sign_in("ana@x.example").await;
        assert_eq!(code().await, refused(409, "INVALID_TRANSITION"), "it has expired");
        fixture.set_terms(&t, &json!({ "expiryStrategy": "maintain" })).await;
        assert_eq!(code().await.0, 201, "it has expired, and stays valid");
        execute(t.core(), "UPDATE key_lists SET expires_at = '2026-03-01T00:00:00+00:00'").await;
        assert_eq!(code().await, refused(503, "UNAVAILABLE"), "no app would accept the keys");
        // Without a bot, the messages with the keys are not sent.
        t.stop().await;
        t
    });
}

#[test]
fn only_those_who_may_use_or_manage_a_license_get_a_file_for_an_activated_device() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let fixture = Fixture::new(&t, None).await;
        fixture.activate(FINGERPRINT, &[]).await;
        let body = || json!({ "fingerprint": FINGERPRINT });
        let (stranger, _) = signed_in_as(&t, "eve@x.example", Role::User).await;
        let (admin, _) = signed_in_as(&t, "root@x.example", Role::Admin).await;
        let (_, secret) = fixture.tenant.api_key(ApiKeyKind::Secret, &[&fixture.product]).await;
        let (_, publishable) = fixture.tenant.api_key(ApiKeyKind::Publishable, &[&fixture.product]).await;
        let other = TestTenant::new(t.core(), "Others").await;
        let others_product = other.product("Other", "OTHER").await;
        let (_, foreign) = other.api_key(ApiKeyKind::Secret, &[&others_product]).await;
        let path = format!("/licenses/{}/checkout", fixture.license);
        let with_key = async |key: &str| Browser::new(&t).ask(Method::POST, &path, body(), &[("x-api-key", key)]).await;
        for (who, response, status) in [
            ("nobody", fixture.checkout(&Browser::new(&t), body()).await, 401),
            ("another user", fixture.checkout(&stranger, body()).await, 404),
            ("a key of another tenant", with_key(&foreign).await, 404),
            ("a publishable key", with_key(&publishable).await, 404),
            ("a secret key", with_key(&secret).await, 201),
            ("an admin", fixture.checkout(&admin, body()).await, 201),
            ("the owner", fixture.checkout(&fixture.owner, body()).await, 201),
        ] {
            assert_eq!(response.status, status, "{who}: {response:?}");
        }
        let before = events_of_kind(t.core(), "license.checked_out").await.len();
        for (what, body, status, code) in [
            ("no fingerprint", json!({}), 422, "VALIDATION_ERROR"),
            ("a short fingerprint", json!({ "fingerprint": "short" }), 422, "VALIDATION_ERROR"),
            ("another device", json!({ "fingerprint": "0123456789abcdef" }), 409, "CONFLICT"),
            ("an unknown member", json!({ "fingerprint": FINGERPRINT, "ttl": 3_600 }), 422, "VALIDATION_ERROR"),
            ("too short", json!({ "fingerprint": FINGERPRINT, "ttlSeconds": 3_599 }), 422, "VALIDATION_ERROR"),
            ("too long", json!({ "fingerprint": FINGERPRINT, "ttlSeconds": 14 * 86_400 + 1 }), 422, "VALIDATION_ERROR"),
            ("no number", json!({ "fingerprint": FINGERPRINT, "ttlSeconds": "1 d" }), 422, "VALIDATION_ERROR"),
        ] {
            let response = fixture.checkout(&fixture.owner, body).await;
            assert_eq!((response.status, response.code()), (status, code), "{what}: {response:?}");
        }
        let unknown = fixture.owner.post(&format!("/licenses/{}/checkout", uuid(&t)), body()).await;
        assert_eq!((unknown.status, unknown.code()), (404, "NOT_FOUND"));
        fixture.set_terms(&t, &json!({ "offlineMaxSeconds": 0 })).await;
        let response = fixture.checkout(&fixture.owner, body()).await;
        assert_eq!((response.status, response.code()), (409, "CONFLICT"), "the terms allow no file");
        assert_eq!(events_of_kind(t.core(), "license.checked_out").await.len(), before);
        // Without a bot, the messages with the keys are not sent.
        t.stop().await;
        t
    });
}

fn uuid(t: &TestApp) -> String {
    t.core().ids.v4().to_string()
}

/// The request that an app shows which has this license key.
fn offline_request(fixture: &Fixture, key: &str, fingerprint: &str) -> String {
    let payload =
        json!({ "fingerprint": fingerprint, "productId": fixture.product.id, "nonce": "q83vASNFZ4mrze8BI0VniQ" });
    let signed = format!("DCAREQ1.{}", encode(&payload));
    let hash = sha256(LicenseKey::parse(key, &[]).unwrap().canonical().as_bytes());
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&hash).unwrap();
    mac.update(signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
}

#[test]
fn a_device_without_a_connection_is_activated_by_its_request_and_gets_a_file() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let fixture = Fixture::new(&t, None).await;
        fixture.set_terms(&t, &json!({ "maxDevices": 1 })).await;
        let send = async |by: &Browser, body: Value| by.post("/licenses/offline-activate", body).await;
        let request = offline_request(&fixture, &fixture.key, FINGERPRINT);
        let (stranger, user) = signed_in_as(&t, "eve@x.example", Role::User).await;
        let (admin, _) = signed_in_as(&t, "root@x.example", Role::Admin).await;
        let (_, others_key) = Fixture::license(&t, &fixture.tenant, &fixture.product, user).await;
        let forged = offline_request(&fixture, &others_key, FINGERPRINT);
        let too_long = json!({ "request": request, "ttlSeconds": 14 * 86_400 + 1 });
        for (what, by, body, status, code) in [
            ("nobody", &Browser::new(&t), json!({ "request": request }), 401, "NO_TOKEN"),
            ("no request", &fixture.owner, json!({ "request": "DCAREQ1.x.y" }), 422, "VALIDATION_ERROR"),
            ("of another license", &fixture.owner, json!({ "request": forged }), 409, "CONFLICT"),
            ("the owner of another license", &stranger, json!({ "request": request }), 409, "CONFLICT"),
            ("a stolen key", &stranger, json!({ "request": request, "licenseKey": fixture.key }), 404, "NOT_FOUND"),
            ("no key", &admin, json!({ "request": request }), 404, "NOT_FOUND"),
            ("no seat for a file that is not allowed", &fixture.owner, too_long, 422, "VALIDATION_ERROR"),
        ] {
            let response = send(by, body).await;
            assert_eq!((response.status, response.code()), (status, code), "{what}: {response:?}");
        }
        assert!(rows(t.core().db.writer(), "SELECT name FROM devices").await.is_empty());

        for by in [&fixture.owner, &admin] {
            let response = send(by, json!({ "request": request, "licenseKey": fixture.key })).await;
            assert_eq!(response.status, 201, "{response:?}");
            let claims = verify_file(&t, response.body["file"].as_str().unwrap()).await.unwrap();
            assert_eq!(claims["devices"][0]["fph"], base64url(sha256(FINGERPRINT.as_bytes())));
            assert_eq!(claims["nonce"], "q83vASNFZ4mrze8BI0VniQ");
        }
        assert_eq!(rows(t.core().db.writer(), "SELECT name FROM devices").await.len(), 1, "one seat");
        let second = offline_request(&fixture, &fixture.key, "0123456789abcdef");
        let full = send(&fixture.owner, json!({ "request": second })).await;
        assert_eq!((full.status, full.code()), (409, "DEVICE_LIMIT_EXCEEDED"));
        assert!(full.body["proof"].is_string() && !t.log.text().contains(FINGERPRINT), "{full:?}");
        // Without a bot, the messages with the keys are not sent.
        t.stop().await;
        t
    });
}
