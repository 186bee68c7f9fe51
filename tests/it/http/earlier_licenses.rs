//! The license routes of the earlier DCA-Auth.

use dca_core::crypto::{api_key::ApiKeyKind, jws::base64url, sha256};
use dca_core::{licenses, users::Role};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    accounts::signed_in_as,
    browser::Browser,
    fixtures::{Answer, Request, TestTenant},
    harness::{TestApp, it_unstarted},
    proofs::parts,
};

const NONCE: &str = "q83vASNFZ4mrze8BI0VniQ";

/// Sends a request with an API key, or without if it is empty.
async fn call(t: &TestApp, line: &str, api_key: &str, body: &Value) -> Answer {
    let request = Request::new(line).with("Content-Type", "application/json").with("X-Correlation-ID", "mine-1");
    let request = if api_key.is_empty() { request } else { request.with("X-API-Key", api_key) };
    request.body(body.to_string()).ask(t.addr()).await.unwrap()
}

#[test]
fn validations_have_the_members_and_codes_of_the_earlier_system_and_a_proof() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let tenant = TestTenant::new(t.core(), "Makers").await;
        let gold = tenant.product("Gold", "GOLD").await;
        let ((license, key), api_key) =
            (tenant.license(&gold, 1).await, tenant.api_key(ApiKeyKind::Publishable, &[&gold]).await.1);
        let foreign = TestTenant::new(t.core(), "Others").await;
        let blue = foreign.product("Blue", "BLUE").await;
        let foreign_key = foreign.license(&blue, 1).await.1;
        for path in ["validate", "verify"] {
            let line = format!("POST /api/licenses/{path}");
            let body = json!({ "key": key, "hardwareId": "desk-pc:0123456789abcdef", "nonce": NONCE });
            let answer = call(&t, &line, &api_key, &body).await;
            assert_eq!((answer.status, answer.header("x-correlation-id")), (200, "mine-1"), "{answer:?}");
            let valid = answer.json();
            let expected = json!({
                "valid": true, "licenseKey": license.key_hint, "activation": null, "remainingActivations": null,
                "expiresIn": null, "features": [], "metadata": {},
            });
            for (name, value) in expected.as_object().unwrap() {
                assert_eq!(&valid[name], value, "{name}: {valid}");
            }
            assert_eq!((&valid["license"]["status"], &valid["license"]["id"]), (&json!("ACTIVE"), &json!(license.id)));
            assert!(!answer.body.contains(&key), "the key is repeated");
            let claims = parts(valid["proof"].as_str().unwrap()).1;
            assert_eq!(
                (&claims["nonce"], &claims["req"]),
                (&json!(NONCE), &json!(base64url(sha256(body.to_string().as_bytes())))),
                "{path}"
            );
        }
        t.wait_until_stored().await;
        for (key, code) in [("GOLD-1", "INVALID_KEY"), (foreign_key.as_str(), "INVALID_KEY")] {
            let refused = call(&t, "POST /api/licenses/validate", &api_key, &json!({ "key": key })).await.json();
            assert_eq!((&refused["valid"], &refused["code"]), (&json!(false), &json!(code)), "{refused}");
            assert_eq!((&refused["reason"], &refused["license"]), (&refused["detail"], &Value::Null), "{refused}");
        }
        licenses::revoke(t.core(), &tenant.caller, license.id, "refunded").await.unwrap();
        let revoked = call(&t, "POST /api/licenses/verify", &api_key, &json!({ "key": key })).await.json();
        assert_eq!((&revoked["code"], &revoked["license"]["status"]), (&json!("KEY_REVOKED"), &json!("REVOKED")));
        let invalid = call(&t, "POST /api/licenses/validate", &api_key, &json!({ "hardwareId": "short" })).await;
        let error = invalid.json();
        assert_eq!((invalid.status, &error["code"]), (400, &json!("VALIDATION_ERROR")), "{error}");
        assert_eq!(
            (&error["error"]["code"], &error["error"]["details"]),
            (&error["code"], &error["details"]),
            "{error}"
        );
        assert_eq!(error["error"]["correlationId"], "mine-1");
        t
    });
}

#[test]
fn keys_are_validated_with_an_api_key_and_outside_of_urls_unless_switches_allow_it() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let tenant = TestTenant::new(t.core(), "Makers").await;
        let (gold, blue) = (tenant.product("Gold", "GOLD").await, tenant.product("Blue", "BLUE").await);
        let ((_, key), (_, other)) = (tenant.license(&gold, 1).await, tenant.license(&blue, 1).await);
        let api_key = tenant.api_key(ApiKeyKind::Publishable, &[&gold]).await.1;
        let in_url = format!("GET /api/licenses/key/{key}");
        let validate = "POST /api/licenses/validate";
        let closed = call(&t, validate, "", &json!({ "key": key })).await;
        assert_eq!((closed.status, &closed.json()["error"]["code"]), (401, &json!("NO_API_KEY")), "{closed:?}");
        let closed = call(&t, &in_url, &api_key, &json!({})).await;
        assert_eq!((closed.status, &closed.json()["code"]), (404, &json!("NOT_FOUND")), "{closed:?}");
        assert!(closed.json()["detail"].as_str().unwrap().contains("POST /api/licenses/validate"), "{closed:?}");

        t.stop().await;
        t.set("DCA_ALLOW_VALIDATION_WITHOUT_API_KEY", &api_key);
        t.set("DCA_ALLOW_KEYS_IN_URLS", "true");
        t.start_without_bot().await;
        let open = call(&t, validate, "", &json!({ "key": key })).await.json();
        assert_eq!(open["valid"], true, "{open}");
        let other = call(&t, validate, "", &json!({ "key": other })).await.json();
        assert_eq!(other["code"], "INVALID_KEY", "only licenses of the products of the API key");
        let wrong = call(&t, validate, "dca_pk_wrong", &json!({ "key": key })).await;
        assert_eq!(wrong.json()["code"], "INVALID_API_KEY", "a wrong API key is not replaced: {wrong:?}");
        let native = call(&t, "POST /licenses/validate", "", &json!({ "key": key })).await;
        assert_eq!(native.status, 401, "{native:?}");
        let open = call(&t, &in_url, &api_key, &json!({})).await;
        assert_eq!((open.status, &open.json()["valid"]), (200, &json!(true)), "{open:?}");
        let closed = call(&t, &in_url, "", &json!({})).await;
        assert_eq!(closed.status, 401, "{closed:?}");
        t.wait_until_stored().await;
        t
    });
}

#[test]
fn licenses_are_managed_under_the_earlier_routes() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let tenant = TestTenant::new(t.core(), "Makers").await;
        let gold = tenant.product("Gold", "GOLD").await;
        let (admin, _) = signed_in_as(&t, "ana@x.example", Role::Admin).await;
        let (member, _) = signed_in_as(&t, "ben@x.example", Role::User).await;
        let new = json!({ "productId": gold.id, "type": "LIFETIME", "maxActivations": 2, "features": ["pro"], "name": "One" });
        let created = admin.post("/api/licenses", new.clone()).await;
        let license = &created.body;
        assert_eq!(
            (created.status, &license["status"], &license["maxActivations"]),
            (201, &json!("INACTIVE"), &json!(2))
        );
        assert!(license["key"].as_str().unwrap().starts_with("GOLD-"), "{created:?}");
        assert_eq!((&license["shortKey"], &license["features"]), (&license["keyHint"], &json!(["pro"])));
        let refused = member.post("/api/licenses", new).await;
        assert_eq!((refused.status, refused.body["error"]["code"].is_string()), (404, true), "{refused:?}");
        let batch = json!({ "productId": gold.id, "count": 3, "type": "TRIAL" });
        for path in ["/api/licenses/batch", "/api/licenses/generate-bulk"] {
            let batch = admin.post(path, batch.clone()).await;
            assert_eq!((batch.status, &batch.body["count"]), (201, &json!(3)), "{batch:?}");
            assert_eq!(batch.body["licenseKeys"].as_array().unwrap().len(), 3, "{batch:?}");
        }
        manage(&tenant.license(&gold, 1).await.0.id.to_string(), &admin, &member).await;
        t
    });
}

async fn manage(id: &str, admin: &Browser, member: &Browser) {
    for (method, path, body, status, expected) in [
        (Method::GET, "", json!({}), 200, "ACTIVE"),
        (Method::PATCH, "", json!({ "name": "Two", "metadata": { "a": 1 } }), 200, "ACTIVE"),
        (Method::POST, "/suspend", json!({}), 200, "SUSPENDED"),
        (Method::POST, "/suspend", json!({ "reason": "again" }), 409, "INVALID_TRANSITION"),
        (Method::POST, "/unsuspend", json!({}), 200, "ACTIVE"),
        (Method::POST, "/reactivate", json!({}), 409, "INVALID_TRANSITION"),
        (Method::POST, "/extend", json!({ "expiresAt": "2000-01-01T00:00:00Z" }), 400, "VALIDATION_ERROR"),
        (Method::POST, "/extend", json!({ "days": 0 }), 400, "VALIDATION_ERROR"),
        (Method::POST, "/transfer", json!({ "toUserId": "nobody" }), 400, "VALIDATION_ERROR"),
        (Method::PATCH, "", json!({ "status": "ACTIVE" }), 400, "VALIDATION_ERROR"),
        (Method::POST, "/revoke", json!({ "reason": "refunded" }), 200, "REVOKED"),
        (Method::DELETE, "", json!({}), 409, "INVALID_TRANSITION"),
        (Method::POST, "/reactivate", json!({}), 409, "INVALID_TRANSITION"),
    ] {
        let path = format!("/api/licenses/{id}{path}");
        let foreign = member.ask(method.clone(), &path, body.clone(), &[]).await;
        assert!([403, 404].contains(&foreign.status) || status == 400, "{method} {path}: {foreign:?}");
        let answer = admin.ask(method.clone(), &path, body, &[]).await;
        let found = if answer.status == 200 { &answer.body["status"] } else { &answer.body["error"]["code"] };
        assert_eq!((answer.status, found), (status, &json!(expected)), "{method} {path}: {answer:?}");
        assert!(answer.body["key"].is_null(), "the key is shown: {answer:?}");
    }
}
