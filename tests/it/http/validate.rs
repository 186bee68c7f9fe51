//! `POST /licenses/validate`: refused requests, verdicts, rate limits, and the activation by the first `VALID`.

use std::collections::HashSet;

use chrono::Duration;
use dca_core::{
    Ids, api_keys,
    crypto::{
        api_key::{ApiKeyKind, ApiKeyMode, ApiKeyText},
        license_key::LicenseKey,
    },
    licenses,
};
use serde_json::json;

use crate::support::{
    fixtures::{Answer, Request, TestTenant, log_head, rows},
    harness::{TestApp, it_unstarted},
};

/// A value that no response may repeat.
const SECRET_VALUE: &str = "s3cr3t-value";

/// The largest body, in bytes.
const LIMIT: usize = 16 * 1024;

pub(super) fn validate_request(api_key: &str, body: impl AsRef<[u8]>) -> Request {
    let request = Request::new("POST /licenses/validate").with("Content-Type", "application/json");
    request.with("X-API-Key", api_key).body(body)
}

/// A request that must be refused, and the expected problem.
struct InvalidRequest {
    what: &'static str,
    request: Request,
    status: u16,
    code: &'static str,
    field: Option<&'static str>,
}

fn invalid(what: &'static str, request: Request, status: u16, code: &'static str) -> InvalidRequest {
    InvalidRequest { what, request, status, code, field: None }
}

fn missing_credentials(good: &Request, api_key: &str) -> Vec<InvalidRequest> {
    let bare = good.clone().without("X-API-Key");
    let none = [
        ("no API key", bare.clone()),
        ("an API key in the query", bare.clone().to(&format!("?api_key={api_key}"))),
        ("another scheme", bare.clone().with("Authorization", "Basic czNjcjN0LXZhbHVl")),
        ("a scheme without a token", bare.with("Authorization", "Bearer")),
    ];
    none.into_iter().map(|(what, request)| invalid(what, request, 401, "NO_API_KEY")).collect()
}

fn invalid_credentials(good: &Request, api_key: &str, revoked: &str, license: &str) -> Vec<InvalidRequest> {
    let with = |api_key: &[u8]| good.clone().with("X-API-Key", api_key);
    let foreign = ApiKeyText::generate(ApiKeyKind::Secret, ApiKeyMode::Live, &Ids::seeded(99));
    let wrong = [
        ("an empty API key", with(b"")),
        ("garbage as API key", with(SECRET_VALUE.as_bytes())),
        ("an API key that is not UTF-8", with(b"\xff\xfe")),
        ("a truncated API key", with(&api_key.as_bytes()[..20])),
        ("an API key with a typing error", with(format!("{}!", &api_key[..42]).as_bytes())),
        ("an API key of another installation", with(foreign.expose().as_bytes())),
        ("a revoked API key", with(revoked.as_bytes())),
        ("a license key as API key", with(license.as_bytes())),
        (
            "garbage as bearer token",
            good.clone().without("X-API-Key").with("Authorization", format!("Bearer {SECRET_VALUE}")),
        ),
    ];
    wrong.into_iter().map(|(what, request)| invalid(what, request, 401, "INVALID_API_KEY")).collect()
}

fn malformed_json(api_key: &str) -> Vec<InvalidRequest> {
    let utf16 = r#"{"licenseKey":"x"}"#.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let nested = |open: &str, close: &str| {
        format!(r#"{{"licenseKey":"s3cr3t-value","more":{}{}}}"#, open.repeat(2_000), close.repeat(2_000)).into()
    };
    let bodies: [(_, Vec<u8>); 15] = [
        ("nested brackets in an unknown field", nested("[", "]")),
        ("nested objects in an unknown field", nested("{\"a\":", "}")),
        ("9,000 opening brackets", format!(r#"{{"licenseKey":{}"#, "[".repeat(9_000)).into()),
        ("9,000 opening brackets after a string", format!(r#"{{"a":"\"{{","licenseKey":{}"#, "[".repeat(9_000)).into()),
        ("an empty body", b"".into()),
        ("half an object", br#"{"licenseKey":"#.into()),
        ("not JSON", SECRET_VALUE.into()),
        ("single quotes", b"{'licenseKey':'s3cr3t-value'}".into()),
        ("a trailing comma", br#"{"licenseKey":"s3cr3t-value",}"#.into()),
        ("trailing data", br#"{"licenseKey":"s3cr3t-value"} {}"#.into()),
        ("a trailing NUL", b"{\"licenseKey\":\"s3cr3t-value\"}\0".into()),
        ("a NUL in a string", b"{\"licenseKey\":\"s3cr3t-value\0\"}".into()),
        ("half a surrogate pair", br#"{"licenseKey":"s3cr3t-value\ud800"}"#.into()),
        ("invalid UTF-8", b"{\"licenseKey\":\"\xff\xfe\"}".into()),
        ("UTF-16", utf16),
    ];
    bodies.into_iter().map(|(what, body)| invalid(what, validate_request(api_key, body), 400, "BAD_REQUEST")).collect()
}

fn invalid_fields(api_key: &str) -> Vec<InvalidRequest> {
    let bodies = [
        ("a number as key", "licenseKey", r#"{"licenseKey":4242424242}"#),
        ("null as key", "licenseKey", r#"{"licenseKey":null}"#),
        ("an object as key", "licenseKey", r#"{"licenseKey":{"s3cr3t-value":1}}"#),
        ("no key", "licenseKey", "{}"),
        ("other fields only", "licenseKey", r#"{"s3cr3t-value":1,"productId":null}"#),
        ("the key twice", "licenseKey", r#"{"licenseKey":"s3cr3t-value","key":"s3cr3t-value"}"#),
        ("a product that is not an id", "productId", r#"{"licenseKey":"x","productId":"s3cr3t-value"}"#),
        ("a product that is a number", "productId", r#"{"licenseKey":"x","productId":4242424242}"#),
        ("a nonce of 15 bytes", "nonce", r#"{"licenseKey":"x","nonce":"q83vASNFZ4mrze8BI0Vn"}"#),
        ("a padded nonce", "nonce", r#"{"licenseKey":"x","nonce":"q83vASNFZ4mrze8BI0VniQ=="}"#),
        ("a nonce that is not base64url", "nonce", r#"{"licenseKey":"x","nonce":"s3cr3t-value/+s3cr3t-value"}"#),
        ("a nonce that is a number", "nonce", r#"{"licenseKey":"x","nonce":4242424242}"#),
        ("a device that is a text", "device", r#"{"licenseKey":"x","device":"s3cr3t-value"}"#),
        ("a device without a fingerprint", "device.fingerprint", r#"{"licenseKey":"x","device":{}}"#),
        ("an empty fingerprint", "device.fingerprint", r#"{"licenseKey":"x","device":{"fingerprint":""}}"#),
        ("a short fingerprint", "device.fingerprint", r#"{"licenseKey":"x","hardwareId":"s3cr3t-value"}"#),
        ("Unicode in a fingerprint", "device.fingerprint", r#"{"licenseKey":"x","deviceId":"s3cr3t-value-é-é-é"}"#),
        ("a session that is not an id", "leaseId", r#"{"licenseKey":"x","leaseId":"s3cr3t-value"}"#),
        ("features that are a text", "scope.features", r#"{"licenseKey":"x","scope":{"features":"s3cr3t-value"}}"#),
        ("a version that is none", "scope.version", r#"{"licenseKey":"x","scope":{"version":"s3cr3t-value"}}"#),
        ("a short version", "scope.version", r#"{"licenseKey":"x","scope":{"version":"2.4"}}"#),
        ("a time that is none", "clientTime", r#"{"licenseKey":"x","clientTime":"s3cr3t-value"}"#),
        ("a time out of range", "clientTime", r#"{"licenseKey":"x","clientTime":"99999-01-01T00:00:00Z"}"#),
        ("a proof that is a text", "proof", r#"{"licenseKey":"x","proof":"s3cr3t-value"}"#),
        ("an array", "", r#"["s3cr3t-value"]"#),
        ("a string", "", r#""s3cr3t-value""#),
    ];
    let row = |(what, field, body): (_, &'static str, &str)| InvalidRequest {
        field: Some(field).filter(|field| !field.is_empty()),
        ..invalid(what, validate_request(api_key, body), 422, "VALIDATION_ERROR")
    };
    let names = vec![SECRET_VALUE; 33];
    let too_many = [
        ("33 features", "scope.features", json!({ "licenseKey": "x", "scope": { "features": names } }).to_string()),
        ("33 quotas", "scope.quotas", json!({ "licenseKey": "x", "scope": { "quotas": names } }).to_string()),
        (
            "a version of 65 characters",
            "scope.version",
            json!({ "licenseKey": "x", "scope": { "version": format!("1.0.0-{}", "x".repeat(59)) } }).to_string(),
        ),
    ];
    let too_many = too_many.iter().map(|(what, field, body)| row((what, field, body)));
    bodies.into_iter().map(row).chain(too_many).collect()
}

fn unsupported_requests(good: &Request, api_key: &str) -> Vec<InvalidRequest> {
    let padded = format!(r#"{{"licenseKey":"{SECRET_VALUE}","pad":"{}"}}"#, "x".repeat(LIMIT));
    let typed = |content_type: &str| good.clone().with("Content-Type", content_type);
    vec![
        invalid("plain text", typed("text/plain"), 415, "UNSUPPORTED_MEDIA_TYPE"),
        invalid("a form", typed("application/x-www-form-urlencoded"), 415, "UNSUPPORTED_MEDIA_TYPE"),
        invalid("almost JSON", typed("application/jsonp"), 415, "UNSUPPORTED_MEDIA_TYPE"),
        invalid("an empty content type", typed(""), 415, "UNSUPPORTED_MEDIA_TYPE"),
        invalid("no content type", good.clone().without("Content-Type"), 415, "UNSUPPORTED_MEDIA_TYPE"),
        invalid("one byte too many", validate_request(api_key, &padded[..=LIMIT]), 413, "PAYLOAD_TOO_LARGE"),
        invalid("chunks beyond the limit", good.clone().chunked(&padded), 413, "PAYLOAD_TOO_LARGE"),
        invalid("another route", good.clone().to("/s3cr3t-value"), 404, "NOT_FOUND"),
        invalid("a trailing slash", good.clone().to("/"), 404, "NOT_FOUND"),
        invalid("a NUL in the path", good.clone().to("%00"), 405, "METHOD_NOT_ALLOWED"),
        invalid("GET", Request::new("GET /licenses/validate"), 405, "METHOD_NOT_ALLOWED"),
        invalid("DELETE", Request::new("DELETE /licenses/validate"), 405, "METHOD_NOT_ALLOWED"),
        invalid("an unknown method", Request::new("FROB /licenses/validate"), 405, "METHOD_NOT_ALLOWED"),
    ]
}

#[test]
fn a_refusal_before_the_end_of_the_body_says_that_it_closes_the_connection() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let long = Request::new("POST /licenses/validate").with("Content-Type", "application/json");
        let answer = long.without("Connection").body("x".repeat(LIMIT + 1)).ask(t.addr()).await.unwrap();
        assert_eq!((answer.status, answer.header("connection")), (413, "close"));
        t
    });
}

fn assert_refused(invalid: &InvalidRequest, answer: &Answer) {
    let (what, problem) = (invalid.what, answer.json());
    assert_eq!((answer.status, problem["code"].as_str()), (invalid.status, Some(invalid.code)), "{what}: {answer:?}");
    assert_eq!(answer.header("content-type"), "application/problem+json", "{what}");
    assert_eq!((&problem["status"], &problem["field"]), (&invalid.status.into(), &invalid.field.into()), "{what}");
    assert!(problem["type"].as_str().unwrap().ends_with(&format!("/errors#{}", invalid.code)), "{what}: {answer:?}");
    assert!(!answer.body.contains(SECRET_VALUE) && !answer.body.contains("4242424242"), "{what} is echoed: {answer:?}");
    assert_eq!(answer.header("www-authenticate").is_empty(), invalid.status != 401, "{what}");
    assert_eq!(answer.header("allow").is_empty(), invalid.status != 405, "{what}: {answer:?}");
}

#[test]
fn an_invalid_request_is_refused_with_a_problem_and_changes_nothing() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let tenant = TestTenant::new(t.core(), "Makers").await;
        let gold = tenant.product("Gold", "GOLD").await;
        let (key, api_key) = (tenant.license(&gold, 1).await.1, tenant.api_key(ApiKeyKind::Secret, &[&gold]).await.1);
        let (row, revoked) = tenant.api_key(ApiKeyKind::Secret, &[&gold]).await;
        api_keys::revoke(t.core(), &tenant.caller, &row.id.to_string()).await.unwrap();

        let valid = validate_request(&api_key, json!({ "licenseKey": key }).to_string());
        let table = [
            missing_credentials(&valid, &api_key),
            invalid_credentials(&valid, &api_key, &revoked, &key),
            malformed_json(&api_key),
            invalid_fields(&api_key),
            unsupported_requests(&valid, &api_key),
        ];
        let (head, mut ids) = (log_head(t.core()).await, HashSet::new());
        for invalid in table.iter().flatten() {
            let answer = invalid.request.ask(t.addr()).await.expect(invalid.what);
            assert_refused(invalid, &answer);
            let id = answer.header("x-request-id");
            assert!(id.parse::<uuid::Uuid>().is_ok() && ids.insert(id.to_owned()), "{}: {answer:?}", invalid.what);
        }
        assert_eq!(log_head(t.core()).await, head, "a refused request recorded an event");
        assert_eq!(tenant.unrevoked_licenses(&gold, 1).await[0].first_valid_at, None);
        assert_eq!(valid.ask(t.addr()).await.unwrap().json()["code"], "VALID", "the unmodified request");
        t
    });
}

#[test]
fn request_headers_are_limited_in_number_and_size() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let many = |count: usize| (0..count).fold(Request::new("GET /live"), |r, n| r.with(&format!("X-N{n}"), "v"));
        let long = |length: usize| Request::new("GET /live").with("X-Long", "v".repeat(length));
        assert_eq!(many(50).ask(t.addr()).await.unwrap().status, 200);
        assert_eq!(long(20 * 1024).ask(t.addr()).await.unwrap().status, 200);
        let long_path = Request::new(&format!("GET /live?{}", "q".repeat(40 * 1024)));
        for (what, request) in
            [("70 headers", many(70)), ("a header of 40 KiB", long(40 * 1024)), ("a path of 40 KiB", long_path)]
        {
            let status = request.ask(t.addr()).await.map(|answer| answer.status);
            assert!(matches!(status, None | Some(414 | 431)), "{what}: {status:?}");
        }
        let head = Request::new("HEAD /live").ask(t.addr()).await.unwrap();
        assert_eq!((head.status, head.body.as_str()), (200, ""));
        let options = Request::new("OPTIONS /licenses/validate").ask(t.addr()).await.unwrap();
        assert_eq!(options.status, 200);
        assert!(options.header("access-control-allow-origin").is_empty(), "no origin is allowed");
        t
    });
}

#[test]
fn bodies_up_to_16_kib_and_keys_in_any_notation_are_accepted() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let tenant = TestTenant::new(t.core(), "Makers").await;
        let gold = tenant.product("Gold", "GOLD").await;
        let (key, api_key) = (tenant.license(&gold, 1).await.1, tenant.api_key(ApiKeyKind::Secret, &[&gold]).await.1);
        let padding = LIMIT - json!({ "licenseKey": key, "pad": "" }).to_string().len();
        let full = json!({ "licenseKey": key, "pad": "x".repeat(padding) }).to_string();
        let nested = format!(r#"{{"licenseKey":"{key}","more":{}{}}}"#, "[".repeat(31), "]".repeat(31));
        let with_key = |key: &str| validate_request(&api_key, json!({ "licenseKey": key }).to_string());
        for (what, request) in [
            ("exactly 16 KiB", validate_request(&api_key, full)),
            ("31 nested brackets in an unknown field", validate_request(&api_key, nested)),
            ("chunked", with_key("").chunked(&json!({ "licenseKey": key }).to_string())),
            ("the field name `key`", validate_request(&api_key, json!({ "key": key }).to_string())),
            ("a charset", with_key(&key).with("Content-Type", "application/json; charset=utf-8")),
            ("a suffix", with_key(&key).with("Content-Type", "Application/Vnd.Api+JSON")),
            ("no product", validate_request(&api_key, json!({ "licenseKey": key, "productId": null }).to_string())),
            ("lower case and spaces", with_key(&key.to_lowercase().replace('-', " "))),
            ("a NUL and a line end", with_key(&format!("{key}\0\n"))),
            ("a key without its prefix", with_key(key.strip_prefix("GOLD-").unwrap())),
            ("a bearer token", with_key(&key).without("X-API-Key").with("Authorization", format!("Bearer {api_key}"))),
            (
                "an upper-case bearer scheme",
                with_key(&key).without("X-API-Key").with("Authorization", format!("BEARER  {api_key}")),
            ),
        ] {
            let answer = request.ask(t.addr()).await.unwrap();
            assert_eq!((answer.status, &answer.json()["code"]), (200, &"VALID".into()), "{what}: {answer:?}");
        }
        t
    });
}

/// The key with another symbol at `index`.
pub(super) fn typo(key: &str, index: usize) -> String {
    let other = if key.as_bytes()[index] == b'7' { "8" } else { "7" };
    format!("{}{other}{}", &key[..index], &key[index + 1..])
}

#[test]
fn every_verdict_has_its_code() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let (tenant, rival) = (TestTenant::new(t.core(), "Makers").await, TestTenant::new(t.core(), "Rivals").await);
        let (gold, silver) = (tenant.product("Gold", "GOLD").await, tenant.product("Silver", "SILVER").await);
        let bronze = tenant.product("Bronze", "BRONZE").await;
        let theirs = rival.product("Theirs", "THEIRS").await;
        let month = tenant.terms("Month", "MONTH", Some(std::time::Duration::from_hours(720))).await;
        let covered = [&gold, &silver, &month];
        let (secret, publishable) = (
            tenant.api_key(ApiKeyKind::Secret, &covered).await.1,
            tenant.api_key(ApiKeyKind::Publishable, &[&gold]).await.1,
        );

        let (active, valid) = tenant.license(&gold, 1).await;
        let (_, of_silver) = tenant.license(&silver, 1).await;
        let (_, of_bronze) = tenant.license(&bronze, 1).await;
        let (_, of_theirs) = rival.license(&theirs, 1).await;
        let (ended, revoked) = tenant.license(&gold, 2).await;
        licenses::revoke(t.core(), &tenant.caller, ended.id, "test").await.unwrap();
        let (_, expired) = tenant.license(&month, 1).await;
        let (expired_row, both) = tenant.license(&month, 2).await;
        licenses::revoke(t.core(), &tenant.caller, expired_row.id, "test").await.unwrap();
        let (_, generated) = tenant.generated(&gold).await;
        let unknown = LicenseKey::new("GOLD", Ids::seeded(99).v4()).display("GOLD");
        t.advance(Duration::days(30));

        let (gold_id, silver_id, none) = (Some(gold.id), Some(silver.id), None);
        for (what, api_key, key, product, code, position, state) in [
            ("a key", &secret, &valid, none, "VALID", 0, "active"),
            ("a key for its product", &secret, &valid, gold_id, "VALID", 0, "active"),
            ("a publishable API key", &publishable, &valid, none, "VALID", 0, "active"),
            ("no key", &secret, &String::new(), none, "MALFORMED_KEY", 0, ""),
            ("nonsense", &secret, &"nonsense".to_owned(), none, "MALFORMED_KEY", 0, ""),
            ("a very long text", &secret, &"A".repeat(1_000), none, "MALFORMED_KEY", 0, ""),
            (
                "a symbol that keys do not contain",
                &secret,
                &valid.replacen(&valid[7..8], "U", 1),
                none,
                "MALFORMED_KEY",
                8,
                "",
            ),
            ("a typing error", &secret, &typo(&valid, 20), none, "MALFORMED_KEY", 21, ""),
            ("a typing error at the end", &secret, &typo(&valid, 38), none, "MALFORMED_KEY", 39, ""),
            ("two typing errors", &secret, &typo(&typo(&valid, 20), 30), none, "MALFORMED_KEY", 0, ""),
            ("another prefix", &secret, &valid.replace("GOLD", "SILVER"), none, "MALFORMED_KEY", 0, ""),
            ("an unknown key", &secret, &unknown, none, "NOT_FOUND", 0, ""),
            ("a key of another tenant", &secret, &of_theirs, none, "NOT_FOUND", 0, ""),
            ("a product of another tenant named", &secret, &of_theirs, Some(theirs.id), "NOT_FOUND", 0, ""),
            ("a product not covered", &secret, &of_bronze, none, "NOT_FOUND", 0, ""),
            ("a product not covered, named", &secret, &of_bronze, Some(bronze.id), "NOT_FOUND", 0, ""),
            ("a product the publishable API key does not cover", &publishable, &of_silver, none, "NOT_FOUND", 0, ""),
            ("another product named", &secret, &valid, silver_id, "PRODUCT_MISMATCH", 0, ""),
            ("another product of a revoked key", &secret, &revoked, silver_id, "PRODUCT_MISMATCH", 0, ""),
            ("a revoked key", &secret, &revoked, none, "REVOKED", 0, "revoked"),
            ("an expired key", &secret, &expired, none, "EXPIRED", 0, "expired"),
            ("a key revoked and then expired", &secret, &both, none, "REVOKED", 0, "revoked"),
            ("an unassigned key", &secret, &generated, none, "NOT_ASSIGNED", 0, "generated"),
        ] {
            let body = json!({ "licenseKey": key, "productId": product });
            let answer = validate_request(api_key, body.to_string()).ask(t.addr()).await.unwrap();
            let verdict = answer.json();
            assert_eq!((answer.status, &verdict["code"]), (200, &code.into()), "{what}: {verdict}");
            assert_eq!(verdict["valid"], code == "VALID", "{what}");
            assert_eq!(verdict["position"].as_u64().unwrap_or(0), position, "{what}: {verdict}");
            assert_eq!(verdict["license"]["state"].as_str().unwrap_or(""), state, "{what}: {verdict}");
            assert!(key.is_empty() || !answer.body.contains(key.as_str()), "{what} is echoed: {answer:?}");
        }
        let active =
            tenant.unrevoked_licenses(&gold, 1).await.into_iter().find(|license| license.id == active.id).unwrap();
        assert_eq!(active.first_valid_at, Some(t.clock.now()));
        t
    });
}

#[test]
fn an_answer_is_signed_unless_the_request_does_without() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let tenant = TestTenant::new(t.core(), "Makers").await;
        let gold = tenant.product("Gold", "GOLD").await;
        let (key, api_key) = (tenant.license(&gold, 1).await.1, tenant.api_key(ApiKeyKind::Secret, &[&gold]).await.1);
        t.validate(&api_key, &key).await;
        for (key, code) in [(key.as_str(), "VALID"), ("x", "MALFORMED_KEY")] {
            let asked = json!({ "licenseKey": key, "nonce": "q83vASNFZ4mrze8BI0VniQ" });
            let mut answers = Vec::new();
            for proof in [None, Some(true), Some(false)] {
                let mut asked = asked.clone();
                asked.as_object_mut().unwrap().extend(proof.map(|proof| ("proof".to_owned(), json!(proof))));
                let answer = validate_request(&api_key, asked.to_string()).ask(t.addr()).await.unwrap();
                let mut answer = answer.json();
                let signed = answer["proof"].take();
                assert_eq!(
                    (signed.is_string(), signed.is_null()),
                    (proof != Some(false), proof == Some(false)),
                    "{code}"
                );
                assert_eq!((&answer["code"], &answer["nonce"]), (&json!(code), &asked["nonce"]));
                answers.push(answer);
            }
            assert!(answers.iter().all(|answer| answer == &answers[0]), "nothing else differs: {answers:?}");
        }
        t
    });
}

#[test]
fn concurrent_validations_activate_a_license_once() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let tenant = TestTenant::new(t.core(), "Makers").await;
        let gold = tenant.product("Gold", "GOLD").await;
        let (key, api_key) = (tenant.license(&gold, 1).await.1, tenant.api_key(ApiKeyKind::Secret, &[&gold]).await.1);
        let verdicts = futures::future::join_all((0..20).map(|_| t.validate(&api_key, &key))).await;
        for verdict in verdicts {
            assert_eq!((&verdict["code"], &verdict["license"]["state"]), (&"VALID".into(), &"active".into()));
        }
        assert_eq!(activations(&t).await, 1);
        t.advance(Duration::hours(1));
        t.validate(&api_key, &key).await;
        assert_eq!(activations(&t).await, 1);
        assert_eq!(tenant.unrevoked_licenses(&gold, 1).await[0].rev, 2, "later validations do not write");
        t
    });
}

async fn activations(t: &TestApp) -> usize {
    rows(t.core().db.writer(), "SELECT seq FROM events WHERE kind = 'license.activated'").await.len()
}
