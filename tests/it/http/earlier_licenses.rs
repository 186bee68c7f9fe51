//! The license routes of the earlier DCA-Auth.

use chrono::Duration;
use dca_core::crypto::{api_key::ApiKeyKind, jws::base64url, sha256};
use dca_core::{licenses, policy::PolicyPatch, users::Role};
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
        (Method::PATCH, "", json!({ "status": "EXPIRED" }), 400, "VALIDATION_ERROR"),
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

/// What each update does: the body, the status, and the expected members or the error code.
fn updates() -> Vec<(Value, u16, Value)> {
    let (date, past) = ("2030-01-01T00:00:00Z", "2000-01-01T00:00:00Z");
    vec![
        (json!({ "status": "SUSPENDED" }), 200, json!({ "status": "SUSPENDED" })),
        (json!({ "status": "SUSPENDED", "name": "One" }), 200, json!({ "status": "SUSPENDED", "name": "One" })),
        (json!({ "expiresAt": date }), 409, json!("INVALID_TRANSITION")),
        (json!({ "status": "ACTIVE", "name": "Two" }), 200, json!({ "status": "ACTIVE", "name": "Two" })),
        (json!({ "name": "Three", "expiresAt": past }), 400, json!("VALIDATION_ERROR")),
        (json!({ "name": "Three", "status": "INACTIVE" }), 400, json!("VALIDATION_ERROR")),
        (json!({ "name": "Three", "maxActivations": 0 }), 400, json!("VALIDATION_ERROR")),
        (json!({ "name": "Three", "maxActivations": "5" }), 400, json!("VALIDATION_ERROR")),
        (json!({ "name": "Three", "features": ["not a name"] }), 400, json!("VALIDATION_ERROR")),
        (json!({ "restrictions": {} }), 400, json!("VALIDATION_ERROR")),
        (json!({ "expiresAt": date }), 200, json!({ "name": "Two", "expiresAt": date })),
        (json!({ "maxActivations": 5 }), 200, json!({ "maxActivations": 5, "features": [] })),
        (json!({ "features": ["pro"] }), 200, json!({ "maxActivations": 5, "features": ["pro"] })),
        (
            json!({ "status": "REVOKED", "metadata": { "a": 1 } }),
            200,
            json!({ "status": "REVOKED", "metadata": { "a": 1 } }),
        ),
        (json!({ "status": "ACTIVE" }), 409, json!("INVALID_TRANSITION")),
    ]
}

#[test]
fn an_update_makes_all_of_its_changes_or_none() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let tenant = TestTenant::new(t.core(), "Makers").await;
        let gold = tenant.product("Gold", "GOLD").await;
        let ((license, _), (other, _)) = (tenant.license(&gold, 1).await, tenant.license(&gold, 2).await);
        let (admin, _) = signed_in_as(&t, "ana@x.example", Role::Admin).await;
        let (moderator, _) = signed_in_as(&t, "mia@x.example", Role::Moderator).await;
        let path = format!("/api/licenses/{}", license.id);
        let patch = async |by: &Browser, body: Value| by.ask(Method::PATCH, &path, body, &[]).await;
        for (body, status, expected) in updates() {
            let answer = patch(&admin, body.clone()).await;
            assert_eq!(answer.status, status, "{body}: {answer:?}");
            for (name, value) in expected.as_object().into_iter().flatten() {
                assert_eq!(&answer.body[name], value, "{body}: {name} of {answer:?}");
            }
            if expected.is_string() {
                assert_eq!(answer.body["error"]["code"], expected, "{body}: {answer:?}");
                assert_ne!(admin.get(&path).await.body["name"], "Three", "{body}");
                continue;
            }
            let repeated = patch(&admin, body.clone()).await;
            assert_eq!(repeated.body["rev"], answer.body["rev"], "nothing is left to change: {body}");
        }
        let other = format!("/api/licenses/{}", other.id);
        let untouched = admin.get(&other).await.body;
        assert_eq!((&untouched["maxActivations"], &untouched["features"]), (&Value::Null, &json!([])), "{untouched}");
        let suspended = moderator.ask(Method::PATCH, &other, json!({ "status": "SUSPENDED", "name": "x" }), &[]).await;
        assert_eq!(suspended.status, 403, "a moderator cannot rename it: {suspended:?}");
        assert_eq!(admin.get(&other).await.body["status"], "ACTIVE", "nothing was changed");
        t
    });
}

/// The names of the licenses that a list shows.
fn names(list: &Value) -> Vec<&str> {
    list["licenseKeys"].as_array().unwrap().iter().map(|license| license["name"].as_str().unwrap_or_default()).collect()
}

#[test]
fn the_list_has_page_numbers_totals_and_filters() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let tenant = TestTenant::new(t.core(), "Makers").await;
        let gold = tenant.product("Gold", "GOLD").await;
        let (admin, _) = signed_in_as(&t, "ana@x.example", Role::Admin).await;
        let (member, ben) = signed_in_as(&t, "ben@x.example", Role::User).await;
        for (name, more) in [
            ("Echo", json!({ "type": "TRIAL" })),
            ("Alpha", json!({ "ownerId": ben })),
            ("Delta 100%", json!({ "expiresAt": "2026-03-02T00:00:00Z" })),
            ("Bravo", json!({ "type": "STANDARD" })),
            ("Charlie", json!({})),
        ] {
            let mut new = json!({ "productId": gold.id, "name": name });
            new.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let created = admin.post("/api/licenses", new).await;
            assert_eq!(created.status, 201, "{created:?}");
        }
        let foreign = TestTenant::new(t.core(), "Others").await;
        let blue = foreign.product("Blue", "BLUE").await;
        let foreign_key = foreign.api_key(ApiKeyKind::Secret, &[&blue]).await.1;
        let own_key = tenant.api_key(ApiKeyKind::Secret, &[&gold]).await.1;
        t.advance(Duration::days(2));
        for (browser, email) in [(&admin, "ana@x.example"), (&member, "ben@x.example")] {
            assert_eq!(browser.sign_in(email).await.status, 200, "the sessions have ended");
        }

        let page = admin.get("/api/licenses?limit=2&page=2&sortBy=name&sortOrder=asc").await.body;
        assert_eq!(names(&page), ["Charlie", "Delta 100%"], "{page}");
        let pagination = json!({ "total": 5, "page": 2, "pages": 3, "limit": 2, "hasNext": true, "hasPrev": true });
        assert_eq!((&page["pagination"], &page["data"]), (&pagination, &page["licenseKeys"]));
        assert_eq!([&page["total"], &page["page"], &page["pageSize"], &page["totalPages"]], [5, 2, 2, 3]);
        let by_expiry = admin.get("/api/licenses?sortBy=expiresAt&limit=1").await.body;
        assert_eq!(names(&by_expiry), ["Delta 100%"], "those without an expiry come last");
        for (query, expected) in [
            ("", &["Charlie", "Bravo", "Delta 100%", "Alpha", "Echo"][..]),
            ("page=9", &[]),
            ("type=TRIAL", &["Echo"]),
            ("type=PREMIUM", &["Bravo"]),
            ("status=ACTIVE", &["Alpha"]),
            ("status=EXPIRED", &["Delta 100%"]),
            ("status=EXHAUSTED", &[]),
            ("isExpired=true", &["Delta 100%"]),
            ("isExpired=false&status=EXPIRED", &[]),
            ("isExpired=false&status=INACTIVE", &["Charlie", "Bravo", "Echo"]),
            ("search=ALPH", &["Alpha"]),
            ("search=0%25", &["Delta 100%"]),
            ("search=_", &[]),
            ("search=gold-&limit=1", &["Charlie"]),
            (&format!("ownerId={ben}"), &["Alpha"]),
            (&format!("ownerId={ben}&search=echo"), &[]),
        ] {
            let list = admin.get(&format!("/api/licenses?{query}")).await;
            assert_eq!(names(&list.body), expected, "{query}: {list:?}");
            assert!(!list.text.contains("\"key\""), "{query}: keys are not listed");
        }
        assert_eq!(names(&member.get("/api/licenses").await.body), ["Alpha"], "only their own");
        for query in ["page=0", "limit=101", "sortBy=key", "sortOrder=up", "status=OPEN", "type=BEST", "ownerId=1"] {
            let refused = admin.get(&format!("/api/licenses?{query}")).await;
            assert_eq!((refused.status, &refused.body["error"]["code"]), (400, &json!("VALIDATION_ERROR")), "{query}");
        }
        assert_eq!(call(&t, "GET /api/licenses", &foreign_key, &json!({})).await.json()["total"], 0);
        assert_eq!(call(&t, "GET /api/licenses", &own_key, &json!({})).await.json()["total"], 5);
        assert_eq!(Browser::new(&t).get("/api/licenses").await.status, 401);
        t
    });
}

#[test]
fn devices_are_activated_and_removed_under_the_earlier_routes() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let tenant = TestTenant::new(t.core(), "Makers").await;
        let gold = tenant.product_with("Gold", "GOLD", PolicyPatch::default().with("maxDevices", 1)).await;
        let (license, key) = tenant.generated(&gold).await;
        let api_key = tenant.api_key(ApiKeyKind::Publishable, &[&gold]).await.1;
        let (owner, _) = signed_in_as(&t, "ana@x.example", Role::User).await;
        let (stranger, _) = signed_in_as(&t, "ben@x.example", Role::User).await;
        assert_eq!(owner.post("/licenses/redeem", json!({ "licenseKey": key })).await.status, 200);
        let base = format!("/api/licenses/{}", license.id);
        let device = |number: u8| json!({ "key": key, "hardwareId": format!("hardware-of-{number}-0123"), "deviceName": "Desk" });
        let activate = async |number| call(&t, "POST /api/licenses/activate", &api_key, &device(number)).await;

        let activated = activate(1).await;
        let view = activated.json();
        assert_eq!((activated.status, activated.header("x-correlation-id")), (201, "mine-1"), "{view}");
        let activation = &view["activation"];
        assert_eq!((&activation["deviceName"], &activation["status"]), (&json!("Desk"), &json!("ACTIVE")), "{view}");
        let expected = json!({
            "id": license.id, "type": "PERPETUAL", "status": "ACTIVE", "expiresAt": null, "shortKey": license.key_hint,
        });
        assert_eq!((&view["licenseKey"], &view["license"]["currentActivations"]), (&expected, &json!(1)), "{view}");
        assert_eq!(activate(1).await.status, 200, "it keeps its seat");
        let full = activate(2).await;
        let details = json!({ "maxActivations": 1, "currentActivations": 1 });
        assert_eq!((full.status, &full.json()["code"]), (409, &json!("MAX_ACTIVATIONS_REACHED")), "{full:?}");
        assert_eq!((&full.json()["details"], &full.json()["error"]["details"]), (&details, &details));

        let list = owner.get(&format!("{base}/activations")).await;
        assert_eq!(list.body["activations"], list.body["data"], "{list:?}");
        assert_eq!(list.body["activations"][0]["id"], activation["id"], "{list:?}");
        let one = format!("{base}/activations/{}", activation["id"].as_str().unwrap());
        for refused in [
            stranger.get(&format!("{base}/activations")).await,
            stranger.ask(Method::DELETE, &one, Value::Null, &[]).await,
            stranger.post(&format!("{base}/deactivate"), json!({ "hardwareId": "hardware-of-1-0123" })).await,
        ] {
            assert_eq!((refused.status, &refused.body["error"]["code"]), (404, &json!("NOT_FOUND")), "{refused:?}");
        }
        let removed = owner.ask(Method::DELETE, &one, Value::Null, &[]).await;
        assert_eq!(
            (removed.status, &removed.body["success"], &removed.body["deactivated"]),
            (200, &json!(true), &json!(1))
        );
        assert_eq!(activate(2).await.status, 201, "the seat is free");
        let by_id = owner.post(&format!("{base}/deactivate"), json!({ "hardwareId": "hardware-of-2-0123" })).await;
        assert_eq!((by_id.status, &by_id.body["deactivated"]), (200, &json!(1)), "{by_id:?}");
        assert_eq!(activate(3).await.status, 201);
        for removed in [1, 0] {
            let answer = call(&t, "POST /api/licenses/deactivate", &api_key, &device(3)).await;
            assert_eq!((answer.status, &answer.json()["deactivated"]), (200, &json!(removed)), "{answer:?}");
        }
        assert_eq!(owner.get(&format!("{base}/activations")).await.body["activations"], json!([]));
        let unknown = call(&t, "POST /api/licenses/activate", &api_key, &json!({ "key": key })).await;
        assert_eq!((unknown.status, &unknown.json()["code"]), (400, &json!("VALIDATION_ERROR")), "{unknown:?}");
        t
    });
}
