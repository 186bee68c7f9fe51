//! The bodies of `POST /licenses/validate`.

use dca_core::crypto::api_key::ApiKeyKind;
use regex::Regex;
use serde_json::json;

use super::validate::{typo, validate_request};
use crate::support::{
    fixtures::{Answer, TestTenant},
    harness::it_unstarted,
};

#[test]
fn response_bodies_match_the_snapshots() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let tenant = TestTenant::new(t.core(), "Makers").await;
        let month = tenant.terms("Month", "MONTH", Some(std::time::Duration::from_hours(720))).await;
        let (key, api_key) = (tenant.license(&month, 1).await.1, tenant.api_key(ApiKeyKind::Secret, &[&month]).await.1);
        let valid = validate_request(&api_key, json!({ "licenseKey": key }).to_string()).ask(t.addr()).await.unwrap();
        insta::assert_snapshot!(normalized(&valid), @r#"
        200 application/json
        {
        "valid":true,
        "code":"VALID",
        "detail":"This license is valid.",
        "warnings":[],
        "checkedAt":"2026-03-01T12:00:00Z",
        "nonce":null,
        "license":{
        "id":"[id]",
        "keyHint":"MONTH-…-[end]",
        "state":"active",
        "type":"PERPETUAL",
        "productId":"[id]",
        "policyId":"[id]",
        "expiresAt":"2026-03-31T12:00:00Z",
        "graceUntil":null,
        "features":[],
        "limits":{
        "devices":{
        "max":null,
        "used":0
        },
        "sessions":null
        },
        "metadata":{

        }
        },
        "device":null,
        "lease":null,
        "nextCheckAt":"2026-03-01T13:00:00Z",
        "offlineUntil":"2026-03-15T12:00:00Z",
        "proof":"[proof]"
        }
        "#);
        let malformed = validate_request(&api_key, r#"{"licenseKey":"MONTH-U"}"#).ask(t.addr()).await.unwrap();
        insta::assert_snapshot!(normalized(&malformed), @r#"
        200 application/json
        {
        "valid":false,
        "code":"MALFORMED_KEY",
        "detail":"This is not a license key: it has 6 letters and digits; a key has 28 after its prefix.",
        "warnings":[],
        "checkedAt":"2026-03-01T12:00:00Z",
        "nonce":null,
        "license":null,
        "device":null,
        "lease":null,
        "nextCheckAt":null,
        "offlineUntil":null,
        "proof":"[proof]"
        }
        "#);
        let typing_error = validate_request(&api_key, json!({ "licenseKey": typo(&key, 21) }).to_string())
            .ask(t.addr())
            .await
            .unwrap();
        insta::assert_snapshot!(normalized(&typing_error), @r#"
        200 application/json
        {
        "valid":false,
        "code":"MALFORMED_KEY",
        "detail":"This is not a license key: there seems to be a typing error at character 22.",
        "warnings":[],
        "checkedAt":"2026-03-01T12:00:00Z",
        "position":22,
        "nonce":null,
        "license":null,
        "device":null,
        "lease":null,
        "nextCheckAt":null,
        "offlineUntil":null,
        "proof":"[proof]"
        }
        "#);
        let problem = validate_request(&api_key, r#"{"licenseKey":7}"#).ask(t.addr()).await.unwrap();
        insta::assert_snapshot!(normalized(&problem), @r#"
        422 application/problem+json
        {
        "type":"http://127.0.0.1:0/errors#VALIDATION_ERROR",
        "title":"The request has a wrong or missing field.",
        "status":422,
        "code":"VALIDATION_ERROR",
        "detail":"licenseKey must be a string",
        "field":"licenseKey",
        "errors":[{
        "field":"licenseKey",
        "message":"licenseKey must be a string"
        }]
        }
        "#);
        t
    });
}

/// Status, content type and body with one member per line; ids and key endings are replaced.
fn normalized(answer: &Answer) -> String {
    let id = Regex::new(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}").unwrap();
    let body = answer.body.replace(",\"", ",\n\"").replace('{', "{\n").replace('}', "\n}");
    let body = id.replace_all(&body, "[id]");
    let proof = Regex::new(r#""proof":"[\w-]+\.[\w-]+\.[\w-]+""#).unwrap();
    let body = proof.replace(&body, r#""proof":"[proof]""#);
    let hint = Regex::new("…-[0-9A-Z]{4}").unwrap();
    format!("{} {}\n{}", answer.status, answer.header("content-type"), hint.replace_all(&body, "…-[end]"))
}
