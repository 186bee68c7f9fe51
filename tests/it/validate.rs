//! `POST /licenses/validate`: what it refuses, what it answers, how often, and that the first VALID is
//! the first once.

use std::collections::HashSet;

use chrono::Duration;
use dca_core::{
    Ids, api_keys,
    crypto::{
        api_key::{ApiKeyKind, ApiKeyText},
        license_key::LicenseKey,
    },
    licenses,
};
use regex::Regex;
use serde_json::{Value, json};

use crate::{
    fixtures::{Answer, Request, TestTenant, log_head, rows},
    harness::{TestApp, it_unstarted},
};

/// What no answer may repeat.
const MARK: &str = "s3cr3t-value";
/// The largest body, in bytes.
const LIMIT: usize = 16 * 1024;

fn ask(api_key: &str, body: impl AsRef<[u8]>) -> Request {
    let request = Request::new("POST /licenses/validate").with("Content-Type", "application/json");
    request.with("X-API-Key", api_key).body(body)
}

/// A request that must be refused, and how.
struct Bad {
    what: &'static str,
    request: Request,
    status: u16,
    code: &'static str,
    field: Option<&'static str>,
}

fn bad(what: &'static str, request: Request, status: u16, code: &'static str) -> Bad {
    Bad { what, request, status, code, field: None }
}

fn without_credentials(good: &Request, api_key: &str) -> Vec<Bad> {
    let bare = good.clone().without("X-API-Key");
    let none = [
        ("no API key", bare.clone()),
        ("an API key in the query", bare.clone().to(&format!("?api_key={api_key}"))),
        ("another scheme", bare.clone().with("Authorization", "Basic czNjcjN0LXZhbHVl")),
        ("a scheme alone", bare.with("Authorization", "Bearer")),
    ];
    none.into_iter().map(|(what, request)| bad(what, request, 401, "NO_API_KEY")).collect()
}

fn with_wrong_credentials(good: &Request, api_key: &str, revoked: &str, license: &str) -> Vec<Bad> {
    let with = |api_key: &[u8]| good.clone().with("X-API-Key", api_key);
    let foreign = ApiKeyText::generate(ApiKeyKind::Secret, &Ids::seeded(99));
    let wrong = [
        ("an empty API key", with(b"")),
        ("garbage as API key", with(MARK.as_bytes())),
        ("an API key that is no text", with(b"\xff\xfe")),
        ("an API key cut short", with(&api_key.as_bytes()[..20])),
        ("an API key with a typing error", with(format!("{}!", &api_key[..42]).as_bytes())),
        ("an API key of another installation", with(foreign.expose().as_bytes())),
        ("a revoked API key", with(revoked.as_bytes())),
        ("a license key as API key", with(license.as_bytes())),
        ("a bearer of garbage", good.clone().without("X-API-Key").with("Authorization", format!("Bearer {MARK}"))),
    ];
    wrong.into_iter().map(|(what, request)| bad(what, request, 401, "INVALID_API_KEY")).collect()
}

fn that_is_no_json(api_key: &str) -> Vec<Bad> {
    let utf16 = r#"{"licenseKey":"x"}"#.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let bodies: [(_, Vec<u8>); 11] = [
        ("an empty body", b"".into()),
        ("half an object", br#"{"licenseKey":"#.into()),
        ("no JSON", MARK.into()),
        ("another kind of quotes", b"{'licenseKey':'s3cr3t-value'}".into()),
        ("a comma too many", br#"{"licenseKey":"s3cr3t-value",}"#.into()),
        ("something behind the value", br#"{"licenseKey":"s3cr3t-value"} {}"#.into()),
        ("a NUL behind the value", b"{\"licenseKey\":\"s3cr3t-value\"}\0".into()),
        ("a NUL in a string", b"{\"licenseKey\":\"s3cr3t-value\0\"}".into()),
        ("half a surrogate pair", br#"{"licenseKey":"s3cr3t-value\ud800"}"#.into()),
        ("no UTF-8", b"{\"licenseKey\":\"\xff\xfe\"}".into()),
        ("UTF-16", utf16),
    ];
    bodies.into_iter().map(|(what, body)| bad(what, ask(api_key, body), 400, "BAD_REQUEST")).collect()
}

fn with_wrong_fields(api_key: &str) -> Vec<Bad> {
    let deep = format!(r#"{{"licenseKey":{}"#, "[".repeat(9_000));
    let bodies = [
        ("a number as key", "licenseKey", r#"{"licenseKey":4242424242}"#),
        ("null as key", "licenseKey", r#"{"licenseKey":null}"#),
        ("an object as key", "licenseKey", r#"{"licenseKey":{"s3cr3t-value":1}}"#),
        ("nine thousand brackets", "licenseKey", &deep),
        ("no key", "licenseKey", "{}"),
        ("no key, but others", "licenseKey", r#"{"s3cr3t-value":1,"productId":null}"#),
        ("the key twice", "licenseKey", r#"{"licenseKey":"s3cr3t-value","key":"s3cr3t-value"}"#),
        ("a product that is no id", "productId", r#"{"licenseKey":"x","productId":"s3cr3t-value"}"#),
        ("a product that is a number", "productId", r#"{"licenseKey":"x","productId":4242424242}"#),
        ("an array", "", r#"["s3cr3t-value"]"#),
        ("a string", "", r#""s3cr3t-value""#),
    ];
    let row = |(what, field, body): (_, &'static str, &str)| Bad {
        field: Some(field).filter(|field| !field.is_empty()),
        ..bad(what, ask(api_key, body), 422, "VALIDATION_ERROR")
    };
    bodies.into_iter().map(row).collect()
}

fn that_do_not_fit(good: &Request, api_key: &str) -> Vec<Bad> {
    let padded = format!(r#"{{"licenseKey":"{MARK}","pad":"{}"}}"#, "x".repeat(LIMIT));
    let typed = |content_type: &str| good.clone().with("Content-Type", content_type);
    vec![
        bad("text", typed("text/plain"), 415, "UNSUPPORTED_MEDIA_TYPE"),
        bad("a form", typed("application/x-www-form-urlencoded"), 415, "UNSUPPORTED_MEDIA_TYPE"),
        bad("almost JSON", typed("application/jsonp"), 415, "UNSUPPORTED_MEDIA_TYPE"),
        bad("an empty content type", typed(""), 415, "UNSUPPORTED_MEDIA_TYPE"),
        bad("no content type", good.clone().without("Content-Type"), 415, "UNSUPPORTED_MEDIA_TYPE"),
        bad("a byte too many", ask(api_key, &padded[..=LIMIT]), 413, "PAYLOAD_TOO_LARGE"),
        bad("a chunk too many", good.clone().chunked(&padded), 413, "PAYLOAD_TOO_LARGE"),
        bad("another route", good.clone().to("/s3cr3t-value"), 404, "NOT_FOUND"),
        bad("a slash too many", good.clone().to("/"), 404, "NOT_FOUND"),
        bad("a NUL in the path", good.clone().to("%00"), 404, "NOT_FOUND"),
        bad("GET", Request::new("GET /licenses/validate"), 405, "METHOD_NOT_ALLOWED"),
        bad("DELETE", Request::new("DELETE /licenses/validate"), 405, "METHOD_NOT_ALLOWED"),
        bad("a made-up method", Request::new("FROB /licenses/validate"), 405, "METHOD_NOT_ALLOWED"),
    ]
}

fn assert_refused(bad: &Bad, answer: &Answer) {
    let (what, problem) = (bad.what, answer.json());
    assert_eq!((answer.status, problem["code"].as_str()), (bad.status, Some(bad.code)), "{what}: {answer:?}");
    assert_eq!(answer.header("content-type"), "application/problem+json", "{what}");
    assert_eq!((&problem["status"], &problem["field"]), (&bad.status.into(), &bad.field.into()), "{what}");
    assert_eq!(problem["type"], format!("urn:dca-auth:{}", bad.code), "{what}");
    assert!(!answer.body.contains(MARK) && !answer.body.contains("4242424242"), "{what} is repeated: {answer:?}");
    assert_eq!(answer.header("www-authenticate").is_empty(), bad.status != 401, "{what}");
    assert_eq!(answer.header("allow").is_empty(), bad.status != 405, "{what}: {answer:?}");
}

#[test]
fn a_bad_request_is_refused_clearly_and_leaves_no_trace() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let tenant = TestTenant::new(t.core(), "Makers").await;
        let gold = tenant.product("Gold", "GOLD").await;
        let (key, api_key) = (tenant.license(&gold, 1).await.1, tenant.api_key(ApiKeyKind::Secret, &[&gold]).await.1);
        let (row, revoked) = tenant.api_key(ApiKeyKind::Secret, &[&gold]).await;
        api_keys::revoke(t.core(), &tenant.caller.scope, row.id.0).await.unwrap();

        let fine = ask(&api_key, json!({ "licenseKey": key }).to_string());
        let table = [
            without_credentials(&fine, &api_key),
            with_wrong_credentials(&fine, &api_key, &revoked, &key),
            that_is_no_json(&api_key),
            with_wrong_fields(&api_key),
            that_do_not_fit(&fine, &api_key),
        ];
        let (head, mut ids) = (log_head(t.core()).await, HashSet::new());
        for bad in table.iter().flatten() {
            let answer = bad.request.ask(t.addr()).await.expect(bad.what);
            assert_refused(bad, &answer);
            let id = answer.header("x-request-id");
            assert!(id.parse::<uuid::Uuid>().is_ok() && ids.insert(id.to_owned()), "{}: {answer:?}", bad.what);
        }
        assert_eq!(log_head(t.core()).await, head, "a refused request wrote something");
        assert_eq!(tenant.standing(&gold, 1).await[0].first_valid_at, None);
        assert_eq!(fine.ask(t.addr()).await.unwrap().json()["code"], "VALID", "the same without its fault");
        t
    });
}

#[test]
fn the_head_of_a_request_has_its_limits() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let many = |count: usize| (0..count).fold(Request::new("GET /live"), |r, n| r.with(&format!("X-N{n}"), "v"));
        let long = |length: usize| Request::new("GET /live").with("X-Long", "v".repeat(length));
        assert_eq!(many(50).ask(t.addr()).await.unwrap().status, 200);
        assert_eq!(long(20 * 1024).ask(t.addr()).await.unwrap().status, 200);
        let endless = Request::new(&format!("GET /live?{}", "q".repeat(40 * 1024)));
        for (what, request) in
            [("70 headers", many(70)), ("a header of 40 KiB", long(40 * 1024)), ("a long line", endless)]
        {
            let status = request.ask(t.addr()).await.map(|answer| answer.status);
            assert!(matches!(status, None | Some(414 | 431)), "{what}: {status:?}");
        }
        let head = Request::new("HEAD /live").ask(t.addr()).await.unwrap();
        assert_eq!((head.status, head.body.as_str()), (200, ""));
        let options = Request::new("OPTIONS /licenses/validate").ask(t.addr()).await.unwrap();
        assert_eq!(options.status, 200);
        assert!(options.header("access-control-allow-origin").is_empty(), "no browser is invited");
        t
    });
}

#[test]
fn sixteen_kib_and_forgiven_keys_are_understood() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let tenant = TestTenant::new(t.core(), "Makers").await;
        let gold = tenant.product("Gold", "GOLD").await;
        let (key, api_key) = (tenant.license(&gold, 1).await.1, tenant.api_key(ApiKeyKind::Secret, &[&gold]).await.1);
        let padding = LIMIT - json!({ "licenseKey": key, "pad": "" }).to_string().len();
        let full = json!({ "licenseKey": key, "pad": "x".repeat(padding) }).to_string();
        let nested = format!(r#"{{"licenseKey":"{key}","more":{}{}}}"#, "[".repeat(5_000), "]".repeat(5_000));
        let asked = |key: &str| ask(&api_key, json!({ "licenseKey": key }).to_string());
        for (what, request) in [
            ("exactly 16 KiB", ask(&api_key, full)),
            ("brackets in a field of a newer app", ask(&api_key, nested)),
            ("chunks", asked("").chunked(&json!({ "licenseKey": key }).to_string())),
            ("the other name", ask(&api_key, json!({ "key": key }).to_string())),
            ("a charset", asked(&key).with("Content-Type", "application/json; charset=utf-8")),
            ("a suffix", asked(&key).with("Content-Type", "Application/Vnd.Api+JSON")),
            ("no product", ask(&api_key, json!({ "licenseKey": key, "productId": null }).to_string())),
            ("lower case and spaces", asked(&key.to_lowercase().replace('-', " "))),
            ("a NUL and a line end", asked(&format!("{key}\0\n"))),
            ("a key without its prefix", asked(key.strip_prefix("GOLD-").unwrap())),
            ("a bearer", asked(&key).without("X-API-Key").with("Authorization", format!("Bearer {api_key}"))),
            ("a shouted bearer", asked(&key).without("X-API-Key").with("Authorization", format!("BEARER  {api_key}"))),
        ] {
            let answer = request.ask(t.addr()).await.unwrap();
            assert_eq!((answer.status, &answer.json()["code"]), (200, &"VALID".into()), "{what}: {answer:?}");
        }
        t
    });
}

/// A key whose symbol at `place` (0-based) is another one.
fn typo(key: &str, place: usize) -> String {
    let other = if key.as_bytes()[place] == b'7' { "8" } else { "7" };
    format!("{}{other}{}", &key[..place], &key[place + 1..])
}

#[test]
fn every_verdict_has_its_reason() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let (tenant, rival) = (TestTenant::new(t.core(), "Makers").await, TestTenant::new(t.core(), "Rivals").await);
        let (gold, silver) = (tenant.product("Gold", "GOLD").await, tenant.product("Silver", "SILVER").await);
        let bronze = tenant.product("Bronze", "BRONZE").await;
        let theirs = rival.product("Theirs", "THEIRS").await;
        let month = tenant.terms("Month", "MONTH", Some(std::time::Duration::from_hours(720))).await;
        let covered = [&gold, &silver, &month];
        let (secret, shipped) = (
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
        let (_, generated) = licenses::generate(t.core(), &tenant.caller, gold.id).await.unwrap();
        let unknown = LicenseKey::new("GOLD", Ids::seeded(99).v4()).display("GOLD");
        t.advance(Duration::days(30));

        let (gold_id, silver_id, none) = (Some(gold.id), Some(silver.id), None);
        for (what, api_key, key, product, code, position, state) in [
            ("a key", &secret, &valid, none, "VALID", 0, "active"),
            ("a key for its product", &secret, &valid, gold_id, "VALID", 0, "active"),
            ("a shipped API key", &shipped, &valid, none, "VALID", 0, "active"),
            ("no key", &secret, &String::new(), none, "MALFORMED_KEY", 0, ""),
            ("nonsense", &secret, &"nonsense".to_owned(), none, "MALFORMED_KEY", 0, ""),
            ("too much", &secret, &"A".repeat(1_000), none, "MALFORMED_KEY", 0, ""),
            ("a letter no key has", &secret, &valid.replacen(&valid[7..8], "U", 1), none, "MALFORMED_KEY", 8, ""),
            ("a typing error", &secret, &typo(&valid, 20), none, "MALFORMED_KEY", 21, ""),
            ("a typing error at the end", &secret, &typo(&valid, 38), none, "MALFORMED_KEY", 39, ""),
            ("two typing errors", &secret, &typo(&typo(&valid, 20), 30), none, "MALFORMED_KEY", 0, ""),
            ("another prefix", &secret, &valid.replace("GOLD", "SILVER"), none, "MALFORMED_KEY", 0, ""),
            ("a key of nobody", &secret, &unknown, none, "NOT_FOUND", 0, ""),
            ("a key of a rival", &secret, &of_theirs, none, "NOT_FOUND", 0, ""),
            ("a rival's product named", &secret, &of_theirs, Some(theirs.id), "NOT_FOUND", 0, ""),
            ("a product not covered", &secret, &of_bronze, none, "NOT_FOUND", 0, ""),
            ("a product not covered, named", &secret, &of_bronze, Some(bronze.id), "NOT_FOUND", 0, ""),
            ("a product the shipped API key lacks", &shipped, &of_silver, none, "NOT_FOUND", 0, ""),
            ("another product named", &secret, &valid, silver_id, "PRODUCT_MISMATCH", 0, ""),
            ("another product of a revoked key", &secret, &revoked, silver_id, "PRODUCT_MISMATCH", 0, ""),
            ("a revoked key", &secret, &revoked, none, "REVOKED", 0, "revoked"),
            ("an expired key", &secret, &expired, none, "EXPIRED", 0, "expired"),
            ("a key revoked and then expired", &secret, &both, none, "REVOKED", 0, "revoked"),
            ("a key without a member", &secret, &generated, none, "NOT_ASSIGNED", 0, "generated"),
        ] {
            let asked = json!({ "licenseKey": key, "productId": product });
            let answer = ask(api_key, asked.to_string()).ask(t.addr()).await.unwrap();
            let verdict = answer.json();
            assert_eq!((answer.status, &verdict["code"]), (200, &code.into()), "{what}: {verdict}");
            assert_eq!(verdict["valid"], code == "VALID", "{what}");
            assert_eq!(verdict["position"].as_u64().unwrap_or(0), position, "{what}: {verdict}");
            assert_eq!(verdict["license"]["state"].as_str().unwrap_or(""), state, "{what}: {verdict}");
            assert!(key.is_empty() || !answer.body.contains(key.as_str()), "{what} is repeated: {answer:?}");
        }
        let active = tenant.standing(&gold, 1).await.into_iter().find(|license| license.id == active.id).unwrap();
        assert_eq!(active.first_valid_at, Some(t.clock.now()));
        t
    });
}

#[test]
fn the_answers_look_like_this() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let tenant = TestTenant::new(t.core(), "Makers").await;
        let month = tenant.terms("Month", "MONTH", Some(std::time::Duration::from_hours(720))).await;
        let (key, api_key) = (tenant.license(&month, 1).await.1, tenant.api_key(ApiKeyKind::Secret, &[&month]).await.1);
        let valid = ask(&api_key, json!({ "licenseKey": key }).to_string()).ask(t.addr()).await.unwrap();
        insta::assert_snapshot!(shown(&valid), @r#"
        200 application/json
        {
        "valid":true,
        "code":"VALID",
        "detail":"License is valid.",
        "warnings":[],
        "checkedAt":"2026-03-01T12:00:00Z",
        "license":{
        "id":"[id]",
        "keyHint":"MONTH-…-[end]",
        "state":"active",
        "productId":"[id]",
        "policyId":"[id]",
        "expiresAt":"2026-03-31T12:00:00Z"
        }
        }
        "#);
        let malformed = ask(&api_key, r#"{"licenseKey":"MONTH-U"}"#).ask(t.addr()).await.unwrap();
        insta::assert_snapshot!(shown(&malformed), @r#"
        200 application/json
        {
        "valid":false,
        "code":"MALFORMED_KEY",
        "detail":"This is not a license key: 6 symbols in all; a key has 28 after its prefix.",
        "warnings":[],
        "checkedAt":"2026-03-01T12:00:00Z",
        "license":null
        }
        "#);
        let typing_error =
            ask(&api_key, json!({ "licenseKey": typo(&key, 21) }).to_string()).ask(t.addr()).await.unwrap();
        insta::assert_snapshot!(shown(&typing_error), @r#"
        200 application/json
        {
        "valid":false,
        "code":"MALFORMED_KEY",
        "detail":"This is not a license key: there seems to be a typing error at character 22.",
        "warnings":[],
        "checkedAt":"2026-03-01T12:00:00Z",
        "position":22,
        "license":null
        }
        "#);
        let problem = ask(&api_key, r#"{"licenseKey":7}"#).ask(t.addr()).await.unwrap();
        insta::assert_snapshot!(shown(&problem), @r#"
        422 application/problem+json
        {
        "type":"urn:dca-auth:VALIDATION_ERROR",
        "title":"The request has a wrong or missing field.",
        "status":422,
        "code":"VALIDATION_ERROR",
        "detail":"The request has a wrong or missing field.",
        "field":"licenseKey"
        }
        "#);
        t
    });
}

/// Status, what kind, and the body, one member a line, without what differs from run to run.
fn shown(answer: &Answer) -> String {
    let drawn = Regex::new(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}").unwrap();
    let body = answer.body.replace(",\"", ",\n\"").replace('{', "{\n").replace('}', "\n}");
    let body = drawn.replace_all(&body, "[id]");
    let hint = Regex::new("…-[0-9A-Z]{4}").unwrap();
    format!("{} {}\n{}", answer.status, answer.header("content-type"), hint.replace_all(&body, "…-[end]"))
}

#[test]
fn the_first_valid_comes_once_however_many_ask() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let tenant = TestTenant::new(t.core(), "Makers").await;
        let gold = tenant.product("Gold", "GOLD").await;
        let (key, api_key) = (tenant.license(&gold, 1).await.1, tenant.api_key(ApiKeyKind::Secret, &[&gold]).await.1);
        let verdicts = futures::future::join_all((0..20).map(|_| t.validate(&api_key, &key))).await;
        for verdict in verdicts {
            assert_eq!((&verdict["code"], &verdict["license"]["state"]), (&"VALID".into(), &"active".into()));
        }
        assert_eq!(first_valids(&t).await, 1);
        t.advance(Duration::hours(1));
        t.validate(&api_key, &key).await;
        assert_eq!(first_valids(&t).await, 1);
        assert_eq!(tenant.standing(&gold, 1).await[0].rev, 2, "a license that is in use is only read");
        t
    });
}

async fn first_valids(t: &TestApp) -> usize {
    rows(t.core().db.writer(), "SELECT seq FROM events WHERE kind = 'license.activated'").await.len()
}

fn from(client: &str, request: &Request) -> Request {
    request.clone().with("X-Forwarded-For", client)
}

async fn slowed(t: &TestApp, request: &Request) -> bool {
    let answer = request.ask(t.addr()).await.unwrap();
    if answer.status != 429 {
        assert!(answer.header("retry-after").is_empty() && matches!(answer.status, 200 | 401), "{answer:?}");
        return false;
    }
    let problem: Value = answer.json();
    assert_eq!(problem["code"], "RATE_LIMIT_EXCEEDED");
    let wait: u64 = answer.header("retry-after").parse().unwrap();
    assert!((1..=20).contains(&wait), "{wait} s for one of three a minute");
    true
}

#[test]
fn a_client_that_asks_too_often_waits_alone() {
    it_unstarted(|mut t| async {
        t.set("DCA_VALIDATE_PER_MINUTE", "3");
        t.set("DCA_TRUSTED_PROXIES", "127.0.0.0/8");
        t.start_without_bot().await;
        let tenant = TestTenant::new(t.core(), "Makers").await;
        let gold = tenant.product("Gold", "GOLD").await;
        let (api_key, other) = (
            tenant.api_key(ApiKeyKind::Secret, &[&gold]).await.1,
            tenant.api_key(ApiKeyKind::Secret, &[&gold]).await.1,
        );
        let request = ask(&api_key, r#"{"licenseKey":"x"}"#);
        for _ in 0..3 {
            assert!(!slowed(&t, &from("203.0.113.1", &request)).await);
        }
        assert!(slowed(&t, &from("203.0.113.1", &request)).await, "the fourth");
        assert!(
            slowed(&t, &from("198.51.100.9, 203.0.113.1", &request)).await,
            "what the client itself wrote is no address"
        );
        assert!(!slowed(&t, &from("203.0.113.2", &request)).await, "another client");
        assert!(!slowed(&t, &from("203.0.113.1", &request.with("X-API-Key", other))).await, "another app");
        t
    });
}

#[test]
fn a_client_that_guesses_api_keys_waits_and_apps_behind_the_same_address_do_not() {
    it_unstarted(|mut t| async {
        t.set("DCA_AUTH_FAILURES_PER_MINUTE", "3");
        t.set("DCA_TRUSTED_PROXIES", "127.0.0.0/8");
        t.start_without_bot().await;
        let tenant = TestTenant::new(t.core(), "Makers").await;
        let gold = tenant.product("Gold", "GOLD").await;
        let right = ask(&tenant.api_key(ApiKeyKind::Secret, &[&gold]).await.1, r#"{"licenseKey":"x"}"#);
        let guess = |n: u64| {
            let guessed = ApiKeyText::generate(ApiKeyKind::Secret, &Ids::seeded(n));
            from("203.0.113.1", &right.clone().with("X-API-Key", guessed.expose()))
        };
        for n in 0..3 {
            assert!(!slowed(&t, &guess(n)).await);
        }
        assert!(slowed(&t, &guess(3)).await, "the fourth");
        assert!(!slowed(&t, &from("203.0.113.1", &right)).await, "the right API key");
        assert!(!slowed(&t, &from("203.0.113.2", &guess(4))).await, "another client");
        t
    });
}

#[test]
fn forwarded_addresses_of_a_stranger_are_not_believed() {
    it_unstarted(|mut t| async {
        t.set("DCA_VALIDATE_PER_MINUTE", "3");
        t.set("DCA_AUTH_FAILURES_PER_MINUTE", "3");
        t.set("DCA_TRUSTED_PROXIES", "10.0.0.0/8");
        t.start_without_bot().await;
        let tenant = TestTenant::new(t.core(), "Makers").await;
        let gold = tenant.product("Gold", "GOLD").await;
        let right = ask(&tenant.api_key(ApiKeyKind::Secret, &[&gold]).await.1, r#"{"licenseKey":"x"}"#);
        let wrong = right.clone().with("X-API-Key", "x");
        for request in [right, wrong] {
            for n in 0..3 {
                assert!(!slowed(&t, &from(&format!("203.0.113.{n}"), &request)).await);
            }
            assert!(slowed(&t, &from("203.0.113.9", &request)).await, "one address in truth");
        }
        t
    });
}
