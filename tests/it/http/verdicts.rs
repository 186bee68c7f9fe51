//! Verdicts at the HTTP API: what a policy requires of a request, the proof of the answer, and what is stored behind it.

use std::time::{Duration, Instant};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::TimeDelta;
use dca_core::{
    Ids,
    crypto::{api_key::ApiKeyKind, license_key::LicenseKey, proof, sha256},
    licenses::{self, Question},
    policy::{ExpiryBasis, ExpiryStrategy, PolicyTerms},
    products::Product,
};
use serde_json::{Value, json};

use super::validate::validate_request;
use crate::support::{
    accounts::execute,
    fixtures::{Request, TestTenant, rows},
    harness::{TestApp, it_unstarted},
    proofs::{fetch_list, parts, root_of, verify_as_app},
};

const NONCE: &str = "q83vASNFZ4mrze8BI0VniQ";

/// A product whose licenses have these terms, and the API key of an app for it.
pub(super) struct Shop {
    pub tenant: TestTenant,
    pub product: Product,
    pub api_key: String,
}

impl Shop {
    pub async fn new(t: &TestApp, terms: PolicyTerms) -> Self {
        let tenant = TestTenant::new(t.core(), "Makers").await;
        let product = tenant.product("Gold", "GOLD").await;
        set_terms(t, &product, &terms).await;
        let api_key = tenant.api_key(ApiKeyKind::Publishable, &[&product]).await.1;
        Self { tenant, product, api_key }
    }

    pub async fn key(&self, member: u64) -> String {
        self.tenant.license(&self.product, member).await.1
    }

    pub async fn ask(&self, t: &TestApp, body: &Value) -> Value {
        let answer = validate_request(&self.api_key, body.to_string()).ask(t.addr()).await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        t.wait_until_stored().await;
        answer.json()
    }
}

/// Changes the terms of the licenses that a product has and will have.
async fn set_terms(t: &TestApp, product: &Product, terms: &PolicyTerms) {
    let (terms, prefix) = (serde_json::to_string(terms).unwrap(), &product.prefix);
    let id = format!("SELECT policy_id FROM products WHERE prefix = '{prefix}'");
    execute(t.core(), &format!("UPDATE policies SET terms = '{terms}' WHERE id = ({id})")).await;
}

fn warnings(answer: &Value) -> Vec<&str> {
    answer["warnings"].as_array().unwrap().iter().filter_map(Value::as_str).collect()
}

#[test]
fn a_request_may_ask_for_features_versions_and_quotas() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let terms = json!({
            "features": ["pro", "export.pdf"], "versions": ">=2, <3",
            "quotas": [{ "name": "exports", "limit": 2, "period": "day" }],
        });
        let shop = Shop::new(&t, serde_json::from_value(terms).unwrap()).await;
        let key = shop.key(1).await;
        for (scope, code) in [
            (json!({ "version": "2.4.1" }), "VALID"),
            (json!({ "version": "2.4.1+build.7", "features": ["pro", "export.pdf"], "quotas": ["exports"] }), "VALID"),
            (json!({ "version": "2.4.1", "entitlements": ["pro"] }), "VALID"),
            (json!({ "version": "2.4.1", "features": ["pro", "team"] }), "FEATURE_MISSING"),
            (json!({ "version": "1.9.9", "features": ["team"] }), "FEATURE_MISSING"),
            (json!({ "version": "3.0.0" }), "VERSION_NOT_ALLOWED"),
            (json!({ "version": "2.5.0-beta.1" }), "VERSION_NOT_ALLOWED"),
            (json!({}), "VERSION_NOT_ALLOWED"),
            (json!({ "version": "2.4.1", "quotas": ["imports"] }), "QUOTA_EXCEEDED"),
            (json!({ "version": "3.0.0", "quotas": ["imports"] }), "VERSION_NOT_ALLOWED"),
        ] {
            let answer = shop.ask(&t, &json!({ "licenseKey": key, "scope": scope })).await;
            assert_eq!((&answer["code"], &answer["valid"]), (&json!(code), &json!(code == "VALID")), "{scope}");
            assert_eq!(answer["license"]["features"], json!(["pro", "export.pdf"]), "{scope}");
        }
        t
    });
}

#[test]
fn a_license_past_its_expiry_is_valid_in_its_grace_or_if_it_is_maintained() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let days = |days: i64| TimeDelta::days(days).num_seconds();
        let terms = PolicyTerms { duration_seconds: Some(days(10)), ..PolicyTerms::default() };
        let (grace_seconds, grace) = (days(2), ExpiryStrategy::GraceThenRestrict);
        let strict = Shop::new(&t, PolicyTerms { ..terms.clone() }).await;
        let lenient = strict.tenant.product("Silver", "SILVER").await;
        set_terms(&t, &lenient, &PolicyTerms { expiry_strategy: grace, grace_seconds, ..terms.clone() }).await;
        let endless = strict.tenant.product("Bronze", "BRONZE").await;
        let maintain = ExpiryStrategy::Maintain;
        set_terms(&t, &endless, &PolicyTerms { expiry_strategy: maintain, ..terms.clone() }).await;
        let api_key = strict.tenant.api_key(ApiKeyKind::Secret, &[&strict.product, &lenient, &endless]).await.1;
        let mut keys = Vec::new();
        for product in [&strict.product, &lenient, &endless] {
            keys.push(strict.tenant.license(product, 1).await.1);
        }
        for (after, expected) in [
            (6, [("VALID", "active", ""), ("VALID", "active", ""), ("VALID", "active", "")]),
            (1, [("VALID", "active", "EXPIRING_SOON"); 3]),
            (3, [("EXPIRED", "expired", ""), ("VALID", "active", "GRACE_PERIOD"), ("VALID", "expired", "EXPIRED")]),
            (2, [("EXPIRED", "expired", ""), ("EXPIRED", "expired", ""), ("VALID", "expired", "EXPIRED")]),
        ] {
            t.advance(TimeDelta::days(after));
            for (key, (code, state, warning)) in keys.iter().zip(expected) {
                let answer = t.validate(&api_key, key).await;
                assert_eq!((&answer["code"], &answer["license"]["state"]), (&json!(code), &json!(state)), "{answer}");
                assert_eq!(warnings(&answer).join(" "), warning, "{answer}");
                assert_eq!(answer["offlineUntil"].is_null(), code != "VALID", "{answer}");
            }
        }
        t
    });
}

#[test]
fn the_first_valid_begins_the_duration_and_is_stored_once() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        for (basis, prefix) in [(ExpiryBasis::FirstValidation, "FIRST"), (ExpiryBasis::FirstActivation, "SECOND")] {
            let tenant = TestTenant::new(t.core(), prefix).await;
            let product = tenant.product(prefix, prefix).await;
            let terms = PolicyTerms { duration_seconds: Some(86_400), expiry_basis: basis, ..PolicyTerms::default() };
            set_terms(&t, &product, &terms).await;
            let api_key = tenant.api_key(ApiKeyKind::Publishable, &[&product]).await.1;
            let (license, key) = tenant.license(&product, 1).await;
            assert_eq!(license.expires_at, None);
            t.advance(TimeDelta::days(5));
            let first = t.clock.now();
            let answer = t.validate(&api_key, &key).await;
            assert_eq!(answer["license"]["expiresAt"], json!(first + TimeDelta::days(1)));
            t.advance(TimeDelta::hours(1));
            assert_eq!(t.validate(&api_key, &key).await["license"]["expiresAt"], answer["license"]["expiresAt"]);
            let stored = tenant.unrevoked_licenses(&product, 1).await.remove(0);
            assert_eq!(stored.first_valid_at, Some(first), "{basis}");
            assert_eq!(stored.lapses_at, Some(first + TimeDelta::days(1)));
            t.advance(TimeDelta::days(1));
            assert_eq!(t.validate(&api_key, &key).await["code"], "EXPIRED");
        }
        t
    });
}

#[test]
fn a_clock_that_is_off_is_a_warning_on_every_verdict() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let shop = Shop::new(&t, PolicyTerms::default()).await;
        let key = shop.key(1).await;
        for (seconds, expected) in [(0, false), (300, false), (301, true), (-300, false), (-301, true)] {
            let at = t.clock.now() + TimeDelta::seconds(seconds);
            let answer = shop.ask(&t, &json!({ "licenseKey": key, "clientTime": at })).await;
            assert_eq!(warnings(&answer).contains(&"CLOCK_SKEW"), expected, "{seconds}: {answer}");
            assert_eq!(answer["code"], "VALID");
        }
        t
    });
}

#[test]
fn the_proof_of_an_answer_fits_no_other_request() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let shop = Shop::new(&t, PolicyTerms { features: vec!["pro".into()], ..PolicyTerms::default() }).await;
        let (key, now) = (shop.key(1).await, t.clock.now().timestamp());
        let (root, list) = (root_of(t.core()).await, fetch_list(&t).await);
        let fingerprint = "0123456789abcdef";
        let body = json!({ "licenseKey": key, "nonce": NONCE, "device": { "fingerprint": fingerprint } });
        let answer = shop.ask(&t, &body).await;
        let claims = verify_as_app(&root, &list, answer["proof"].as_str().unwrap(), proof::VERDICT, now).unwrap();
        let encoded = |bytes: &[u8]| json!(URL_SAFE_NO_PAD.encode(sha256(bytes)));
        for (name, expected) in [
            ("op", json!("validate")),
            ("aud", json!(shop.product.id)),
            ("sub", answer["license"]["id"].clone()),
            ("nonce", json!(NONCE)),
            ("req", encoded(body.to_string().as_bytes())),
            ("fph", encoded(fingerprint.as_bytes())),
            ("valid", json!(true)),
            ("code", json!("VALID")),
            ("state", json!("active")),
            ("features", json!(["pro"])),
            ("iat", json!(now)),
            ("nextCheckAt", json!(now + 3_600)),
            ("offlineUntil", json!(now + 14 * 86_400)),
        ] {
            assert_eq!(claims[name], expected, "{name}");
        }
        assert_eq!((&answer["nonce"], &answer["device"]), (&json!(NONCE), &Value::Null));
        // The same question with another nonce, or another text of the body, has another proof.
        for other in [
            json!({ "licenseKey": key, "nonce": "AAAAAAAAAAAAAAAAAAAAAA", "device": { "fingerprint": fingerprint } }),
            json!({ "licenseKey": format!("{key} "), "nonce": NONCE, "device": { "fingerprint": fingerprint } }),
        ] {
            let answer = shop.ask(&t, &other).await;
            let others = parts(answer["proof"].as_str().unwrap()).1;
            assert_eq!(others["code"], "VALID");
            assert_ne!((&others["nonce"], &others["req"]), (&claims["nonce"], &claims["req"]));
            assert_ne!(others["req"], claims["req"]);
        }
        for (what, body, code) in [
            ("malformed", json!({ "licenseKey": "x", "nonce": NONCE }), "MALFORMED_KEY"),
            ("of another product", json!({ "licenseKey": key, "productId": uuid::Uuid::nil() }), "PRODUCT_MISMATCH"),
        ] {
            let answer = shop.ask(&t, &body).await;
            let claims = verify_as_app(&root, &list, answer["proof"].as_str().unwrap(), proof::VERDICT, now).unwrap();
            assert_eq!((&claims["valid"], &claims["code"]), (&json!(false), &json!(code)), "{what}");
            assert_eq!((&claims["aud"], &claims["sub"]), (&Value::Null, &Value::Null), "{what}");
            assert_eq!(claims["req"], encoded(body.to_string().as_bytes()), "{what}");
        }
        t
    });
}

#[test]
fn a_license_and_an_api_key_are_read_once_and_stored_once_a_minute() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let shop = Shop::new(&t, PolicyTerms::default()).await;
        let key = shop.key(1).await;
        // An app whose parts do not run, so that only the validations use the database.
        let core = t.instance().await;
        let fingerprint =
            dca_core::fingerprint::Fingerprint::parse("0123456789abcdef", std::collections::BTreeMap::new());
        let device = Some(fingerprint.unwrap());
        let question = |key: &str| Question { key: key.to_owned(), device: device.clone(), ..Question::default() };
        let bare = key.strip_prefix("GOLD-").unwrap();
        let unknown = LicenseKey::new("GOLD", Ids::seeded(7).v4()).display("GOLD");
        for (what, key, code, statements) in [
            ("a key, for an app that is not known yet", key.as_str(), "VALID", 2),
            ("the key again", &key, "VALID", 0),
            ("a key with wrong check symbols", "GOLD-4000-0000-0000-0000-0000-0000-0000", "MALFORMED_KEY", 0),
            ("a key without its prefix", bare, "VALID", 0),
            ("no key", "nonsense", "MALFORMED_KEY", 0),
            ("a key that does not exist", &unknown, "NOT_FOUND", 1),
            ("a key that does not exist, again", &unknown, "NOT_FOUND", 0),
        ] {
            let before = core.db.statements();
            let verdict = licenses::validate(&core, &shop.api_key, &question(key), None).await.unwrap().verdict;
            assert_eq!((verdict.code.as_str(), core.db.statements() - before), (code, statements), "{what}");
        }
        licenses::store_pending(&core).await.unwrap();
        let stored = shop.tenant.unrevoked_licenses(&shop.product, 1).await.remove(0);
        assert_eq!((stored.first_valid_at, stored.rev), (Some(t.clock.now()), 2));
        assert_eq!(stored.last_seen_at, Some(t.clock.now()));
        // The first VALID was stored with an event, after which the license is read again.
        for (later, statements) in [(59, 1), (1, 2)] {
            t.advance(TimeDelta::seconds(later));
            let before = core.db.statements();
            licenses::validate(&core, &shop.api_key, &question(&key), None).await.unwrap();
            licenses::store_pending(&core).await.unwrap();
            assert_eq!(core.db.statements() - before, statements, "the license and API key are stored once a minute");
        }
        let stored = shop.tenant.unrevoked_licenses(&shop.product, 1).await.remove(0);
        assert_eq!((stored.last_seen_at, stored.rev), (Some(t.clock.now()), 2));
        let used = rows(core.db.writer(), "SELECT id FROM api_keys WHERE last_used_at IS NOT NULL").await;
        assert_eq!(used.len(), 1);
        t
    });
}

#[test]
fn a_database_that_cannot_write_refuses_no_good_key() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let shop = Shop::new(&t, PolicyTerms::default()).await;
        let key = shop.key(1).await;
        // PostgreSQL has a full disk; with SQLite, another process holds the writer.
        let other = t.instance().await;
        let (stall, resume) = if other.db.is_shared() {
            (
                "CREATE FUNCTION fill() RETURNS trigger LANGUAGE plpgsql AS \
                 $$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END $$; \
                 CREATE TRIGGER fill BEFORE UPDATE ON licenses EXECUTE FUNCTION fill()",
                "DROP TRIGGER fill ON licenses",
            )
        } else {
            ("BEGIN IMMEDIATE", "ROLLBACK")
        };
        execute(&other, stall).await;
        let first = t.clock.now();
        let asked = Instant::now();
        for _ in 0..20 {
            let body = json!({ "licenseKey": key }).to_string();
            let answer = validate_request(&shop.api_key, body).ask(t.addr()).await.unwrap().json();
            assert_eq!((&answer["code"], &answer["license"]["state"]), (&json!("VALID"), &json!("active")));
            t.advance(TimeDelta::seconds(1));
        }
        assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
        execute(&other, resume).await;
        t.wait_until_stored().await;
        let stored = shop.tenant.unrevoked_licenses(&shop.product, 1).await.remove(0);
        assert_eq!((stored.first_valid_at, stored.rev), (Some(first), 2));
        let events = rows(t.core().db.writer(), "SELECT seq FROM events WHERE kind = 'license.activated'").await;
        assert_eq!(events.len(), 1);
        t
    });
}

#[test]
fn what_waits_behind_answers_is_stored_at_shutdown() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let shop = Shop::new(&t, PolicyTerms::default()).await;
        let body = json!({ "licenseKey": shop.key(1).await }).to_string();
        assert_eq!(validate_request(&shop.api_key, body).ask(t.addr()).await.unwrap().json()["code"], "VALID");
        let core = t.instance().await;
        t.stop().await;
        let stored = shop.tenant.on_instance(&core).unrevoked_licenses(&shop.product, 1).await.remove(0);
        assert!(stored.first_valid_at.is_some());
        t
    });
}

/// Calls a route of apps with a device.
async fn call(t: &TestApp, shop: &Shop, route: &str, body: &Value) -> Value {
    let request = Request::new(&format!("POST {route}")).with("Content-Type", "application/json");
    let answer = request.with("X-API-Key", &shop.api_key).body(body.to_string()).ask(t.addr()).await.unwrap();
    t.wait_until_stored().await;
    answer.json()
}

fn with_device(key: &str, fingerprint: &str, components: &Value) -> Value {
    json!({ "licenseKey": key, "device": { "fingerprint": fingerprint, "components": components } })
}

#[test]
fn a_license_that_needs_a_device_is_valid_on_activated_and_recognized_devices_only() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let terms = json!({ "deviceRequired": true, "maxDevices": 1, "deviceMatch": "two", "checkInSeconds": 3_600 });
        let shop = Shop::new(&t, serde_json::from_value(terms).unwrap()).await;
        let key = shop.key(1).await;
        let (first, second, none) = ("0123456789abcdef", "fedcba9876543210", json!({}));
        let stored = json!({ "board": "b1", "disk": "d1", "os": "o1" });
        assert_eq!(shop.ask(&t, &json!({ "licenseKey": key })).await["code"], "DEVICE_REQUIRED");
        let unknown = with_device(&key, first, &stored);
        assert_eq!(shop.ask(&t, &unknown).await["code"], "NOT_ACTIVATED");
        let activated = call(&t, &shop, "/licenses/activate", &unknown).await;
        assert_eq!(activated["code"], "VALID", "{activated}");
        for (what, fingerprint, components, code, warning) in [
            ("the device", first, &none, "VALID", ""),
            ("two of three", second, &json!({ "board": "b1", "disk": "d1", "os": "o2" }), "VALID", "FINGERPRINT_DRIFT"),
            ("one of three", second, &json!({ "board": "b1", "disk": "d2", "os": "o2" }), "DEVICE_MISMATCH", ""),
            ("another device", second, &json!({ "board": "b2" }), "DEVICE_NOT_ACTIVATED", ""),
            ("another device without components", second, &none, "DEVICE_NOT_ACTIVATED", ""),
        ] {
            let answer = shop.ask(&t, &with_device(&key, fingerprint, components)).await;
            assert_eq!((&answer["code"], warnings(&answer).join(" ").as_str()), (&json!(code), warning), "{what}");
            let device = (code == "VALID").then(|| &activated["device"]["id"]);
            assert_eq!(answer["device"].get("id"), device, "{what}");
        }
        t.advance(TimeDelta::seconds(3_600));
        let device = with_device(&key, first, &none);
        assert_eq!(shop.ask(&t, &device).await["code"], "VALID", "just in time");
        t.advance(TimeDelta::seconds(3_601));
        assert_eq!(shop.ask(&t, &device).await["code"], "CHECK_IN_OVERDUE");
        assert_eq!(shop.ask(&t, &device).await["code"], "CHECK_IN_OVERDUE", "a refused check-in is none");
        call(&t, &shop, "/licenses/activate", &device).await;
        assert_eq!(shop.ask(&t, &device).await["code"], "VALID");
        t
    });
}

#[test]
fn a_policy_may_activate_unknown_devices_while_seats_are_free() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let (first, second, none) = ("0123456789abcdef", "fedcba9876543210", json!({}));
        for (required, prefix, refused) in [(true, "NEEDS", "DEVICE_LIMIT_EXCEEDED"), (false, "TAKES", "VALID")] {
            let tenant = TestTenant::new(t.core(), prefix).await;
            let product = tenant.product(prefix, prefix).await;
            let terms = json!({ "deviceRequired": required, "maxDevices": 1, "autoActivate": true });
            set_terms(&t, &product, &serde_json::from_value(terms).unwrap()).await;
            let api_key = tenant.api_key(ApiKeyKind::Publishable, &[&product]).await.1;
            let shop = Shop { tenant, product, api_key };
            let key = shop.key(1).await;
            for (fingerprint, code, is_activated) in
                [(first, "VALID", true), (second, refused, false), (first, "VALID", true)]
            {
                let answer = shop.ask(&t, &with_device(&key, fingerprint, &none)).await;
                assert_eq!((&answer["code"], answer["device"].is_object()), (&json!(code), is_activated), "{answer}");
                assert_eq!(answer["license"]["limits"]["devices"], json!({ "max": 1, "used": 1 }), "{answer}");
            }
        }
        t
    });
}

#[test]
fn a_license_with_floating_sessions_is_valid_in_one_of_them() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let lease = json!({ "ttlSeconds": 180, "maxConcurrent": 1, "onFull": "kick_oldest" });
        let shop = Shop::new(&t, serde_json::from_value(json!({ "lease": lease })).unwrap()).await;
        let key = shop.key(1).await;
        let ask = |lease: Value| json!({ "licenseKey": key, "leaseId": lease });
        assert_eq!(shop.ask(&t, &ask(Value::Null)).await["code"], "LEASE_REQUIRED");
        assert_eq!(shop.ask(&t, &ask(json!(uuid::Uuid::nil()))).await["code"], "LEASE_EXPIRED", "an unknown session");
        let beat = json!({ "licenseKey": key, "leaseId": null, "seq": 1, "nonce": NONCE });
        let opened = call(&t, &shop, "/licenses/heartbeat", &beat).await;
        let session = opened["lease"]["id"].clone();
        let answer = shop.ask(&t, &ask(session.clone())).await;
        assert_eq!((&answer["code"], &answer["lease"]["id"]), (&json!("VALID"), &session), "{opened}");
        assert_eq!(answer["license"]["limits"]["sessions"], json!({ "max": 1, "used": 1 }));
        let beat = json!({ "licenseKey": key, "leaseId": null, "seq": 1, "nonce": "AAAAAAAAAAAAAAAAAAAAAA" });
        let newer = call(&t, &shop, "/licenses/heartbeat", &beat).await["lease"]["id"].clone();
        assert_eq!(shop.ask(&t, &ask(session.clone())).await["code"], "LEASE_SUPERSEDED");
        assert_eq!(shop.ask(&t, &ask(newer.clone())).await["code"], "VALID");
        t.advance(TimeDelta::seconds(180));
        assert_eq!(shop.ask(&t, &ask(newer)).await["code"], "LEASE_EXPIRED");
        t
    });
}
