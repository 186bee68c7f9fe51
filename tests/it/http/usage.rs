//! `POST /licenses/usage`: counting against the quotas of a license.

use chrono::TimeDelta;
use dca_core::crypto::{api_key::ApiKeyKind, proof};
use serde_json::{Value, json};

use crate::support::{
    fixtures::{Answer, Request, rows},
    harness::{TestApp, it_unstarted},
    proofs::{fetch_list, root_of, verify_as_app},
};

use super::verdicts::Shop;

fn usage_request(api_key: &str, body: &Value) -> Request {
    let request = Request::new("POST /licenses/usage").with("Content-Type", "application/json");
    request.with("X-API-Key", api_key).body(body.to_string())
}

async fn count(t: &TestApp, shop: &Shop, body: &Value) -> Answer {
    usage_request(&shop.api_key, body).ask(t.addr()).await.unwrap()
}

async fn shop(t: &TestApp) -> Shop {
    let quotas = json!([
        { "name": "exports", "limit": 3, "period": "day" },
        { "name": "renders", "limit": 100, "period": "never" },
    ]);
    Shop::new(t, serde_json::from_value(json!({ "quotas": quotas })).unwrap()).await
}

#[test]
fn usage_is_counted_up_to_the_limit_and_begins_again_with_the_period() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let shop = shop(&t).await;
        let key = shop.key(1).await;
        let tomorrow = json!("2026-03-02T00:00:00Z");
        for (amount, code, used) in [
            (json!(2), "VALID", 2),
            (json!(2), "QUOTA_EXCEEDED", 2),
            (json!(1_000_000_000), "QUOTA_EXCEEDED", 2),
            (Value::Null, "VALID", 3),
            (Value::Null, "QUOTA_EXCEEDED", 3),
        ] {
            let mut body = json!({ "licenseKey": key, "quota": "exports" });
            if !amount.is_null() {
                body["amount"] = amount;
            }
            let answer = count(&t, &shop, &body).await;
            let answer = (answer.status, answer.json());
            assert_eq!((answer.0, &answer.1["code"]), (200, &json!(code)), "{answer:?}");
            assert_eq!(answer.1["valid"], code == "VALID");
            let usage = json!({ "quota": "exports", "used": used, "limit": 3, "resetsAt": tomorrow });
            assert_eq!(answer.1["usage"], usage);
        }
        let asks = json!({ "licenseKey": key, "scope": { "quotas": ["renders", "exports"] } });
        assert_eq!(shop.ask(&t, &asks).await["code"], "QUOTA_EXCEEDED");
        t.advance(TimeDelta::hours(12));
        assert_eq!(shop.ask(&t, &asks).await["code"], "VALID", "a validation counts nothing");
        let answer = count(&t, &shop, &json!({ "licenseKey": key, "quota": "exports" })).await.json();
        assert_eq!(
            (&answer["usage"]["used"], &answer["usage"]["resetsAt"]),
            (&json!(1), &json!("2026-03-03T00:00:00Z"))
        );
        let other = json!({ "licenseKey": shop.key(2).await, "quota": "exports", "amount": 4 });
        assert_eq!(count(&t, &shop, &other).await.json()["code"], "QUOTA_EXCEEDED");
        t.wait_until_stored().await;
        let used = rows(t.core().db.writer(), "SELECT 1 AS n FROM licenses WHERE first_valid_at IS NOT NULL").await;
        assert_eq!(used.len(), 1, "a license that was declined was not used");
        let periods = rows(t.core().db.writer(), "SELECT used FROM license_usage").await;
        assert_eq!(periods.len(), 1, "earlier periods are deleted");
        t
    });
}

#[test]
fn of_200_parallel_increments_at_a_quota_of_100_exactly_100_are_counted() {
    it_unstarted(|mut t| async {
        t.set("DCA_VALIDATE_PER_MINUTE", "1000");
        t.start_without_bot().await;
        let shop = shop(&t).await;
        let body = json!({ "licenseKey": shop.key(1).await, "quota": "renders" });
        let answers = futures::future::join_all((0..200).map(|_| count(&t, &shop, &body))).await;
        let of = |code: &str| answers.iter().filter(|answer| answer.json()["code"] == code).count();
        assert_eq!((of("VALID"), of("QUOTA_EXCEEDED")), (100, 100));
        let counted = rows(t.core().db.writer(), "SELECT used FROM license_usage").await;
        assert_eq!(counted, [json!({ "used": 100 })]);
        t.wait_until_stored().await;
        t
    });
}

#[test]
fn usage_with_an_idempotency_key_is_counted_once() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let shop = shop(&t).await;
        let body = json!({ "licenseKey": shop.key(1).await, "quota": "renders", "amount": 7 });
        let request = usage_request(&shop.api_key, &body).with("Idempotency-Key", "export-1");
        let (first, second) = (request.ask(t.addr()).await.unwrap(), request.ask(t.addr()).await.unwrap());
        assert_eq!((first.status, first.json()["usage"]["used"].as_i64()), (200, Some(7)));
        assert_eq!((second.header("idempotency-replayed"), &second.body), ("true", &first.body));
        let other = json!({ "licenseKey": "x", "quota": "renders" });
        let other = usage_request(&shop.api_key, &other).with("Idempotency-Key", "export-1");
        assert_eq!(other.ask(t.addr()).await.unwrap().json()["code"], "IDEMPOTENCY_KEY_REUSED");
        assert_eq!(count(&t, &shop, &body).await.json()["usage"]["used"], 14);
        t
    });
}

#[test]
fn a_license_that_is_not_valid_counts_nothing_and_every_answer_is_signed() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let shop = shop(&t).await;
        let key = shop.key(1).await;
        let (_, unassigned) = shop.tenant.generated(&shop.product).await;
        let (root, list, now) = (root_of(t.core()).await, fetch_list(&t).await, t.clock.now().timestamp());
        let unknown = json!({ "quota": "imports", "used": 0, "limit": 0, "resetsAt": null });
        for (key, quota, code, usage) in [
            (&unassigned, "renders", "NOT_ASSIGNED", Value::Null),
            (&"x".to_owned(), "renders", "MALFORMED_KEY", Value::Null),
            (&key, "imports", "QUOTA_EXCEEDED", unknown),
        ] {
            let body = json!({ "licenseKey": key, "quota": quota, "nonce": "q83vASNFZ4mrze8BI0VniQ" });
            let answer = count(&t, &shop, &body).await.json();
            assert_eq!((&answer["code"], &answer["usage"]), (&json!(code), &usage));
            let claims = verify_as_app(&root, &list, answer["proof"].as_str().unwrap(), proof::VERDICT, now).unwrap();
            assert_eq!(
                (&claims["op"], &claims["code"], &claims["valid"]),
                (&json!("usage"), &json!(code), &json!(false))
            );
        }
        assert_eq!(rows(t.core().db.writer(), "SELECT used FROM license_usage").await.len(), 0);
        t.wait_until_stored().await;
        t
    });
}

#[test]
fn usage_out_of_range_is_refused_and_counts_nothing() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let shop = shop(&t).await;
        let key = shop.key(1).await;
        for (amount, status) in [
            (json!(0), 422),
            (json!(-1), 422),
            (json!(1.5), 422),
            (json!("1"), 422),
            (json!(1_000_000_001), 422),
            (json!(9_223_372_036_854_775_807_u64), 422),
            (json!(18_446_744_073_709_551_615_u64), 422),
        ] {
            let answer = count(&t, &shop, &json!({ "licenseKey": key, "quota": "renders", "amount": amount })).await;
            assert_eq!(
                (answer.status, answer.json()["field"].as_str()),
                (status, Some("amount")),
                "{amount}: {answer:?}"
            );
        }
        let answer = count(&t, &shop, &json!({ "licenseKey": key })).await;
        assert_eq!((answer.status, answer.json()["field"].as_str()), (422, Some("quota")));
        let rival = shop.tenant.product("Silver", "SILVER").await;
        let foreign = shop.tenant.api_key(ApiKeyKind::Secret, &[&rival]).await.1;
        let answer = usage_request(&foreign, &json!({ "licenseKey": key, "quota": "renders" })).ask(t.addr()).await;
        assert_eq!(answer.unwrap().json()["code"], "NOT_FOUND");
        assert_eq!(rows(t.core().db.writer(), "SELECT used FROM license_usage").await.len(), 0);
        t
    });
}
