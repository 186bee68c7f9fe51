//! Bans of users and devices.

use chrono::Duration;
use dca_core::{crypto::api_key::ApiKeyKind, entitlements::Level, products::Product};
use serde_json::{Value, json};

use crate::support::{
    fixtures::{Answer, RECONCILED, Request, TestTenant, log_head},
    harness::{TestApp, it_unstarted},
};

struct Fixture {
    tenant: TestTenant,
    product: Product,
    secret: String,
}

async fn fixture(t: &TestApp, name: &str, prefix: &str) -> Fixture {
    let tenant = TestTenant::new(t.core(), name).await;
    let product = tenant.product(name, prefix).await;
    let secret = tenant.api_key(ApiKeyKind::Secret, &[&product]).await.1;
    Fixture { tenant, product, secret }
}

impl Fixture {
    async fn send(&self, t: &TestApp, line: &str, body: &Value) -> Answer {
        let request = Request::new(line).with("Content-Type", "application/json").with("X-API-Key", &self.secret);
        request.body(body.to_string()).ask(t.addr()).await.unwrap()
    }

    /// Bans for the product; returns the ban.
    async fn ban(&self, t: &TestApp, mut body: Value) -> Value {
        body["productId"] = json!(self.product.id);
        body["reason"] = json!("Charged back");
        let answer = self.send(t, "POST /bans", &body).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.json()
    }

    async fn lift(&self, t: &TestApp, ban: &Value) -> u16 {
        self.send(t, &format!("DELETE /bans/{}", ban["id"].as_str().unwrap()), &json!({})).await.status
    }
}

#[test]
fn a_banned_user_has_no_valid_license_and_gets_no_new_one() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let fixture = fixture(&t, "Studio", "STUDIO").await;
        let (_, key) = fixture.tenant.license(&fixture.product, 1).await;
        let ban = fixture.ban(&t, json!({ "userId": fixture.tenant.user(1).await })).await;
        assert_eq!(t.validate(&fixture.secret, &key).await["code"], "BANNED");
        let activation = json!({ "licenseKey": key, "device": { "fingerprint": "0123456789abcdef" } });
        let refused = fixture.send(&t, "POST /licenses/activate", &activation).await;
        assert_eq!((refused.status, &refused.json()["code"]), (403, &json!("BANNED")), "{refused:?}");
        assert_eq!(fixture.lift(&t, &ban).await, 204);
        assert_eq!(fixture.lift(&t, &ban).await, 204, "again");
        assert_eq!(t.validate(&fixture.secret, &key).await["code"], "VALID");

        let ban = fixture.ban(&t, json!({ "discordId": "2" })).await;
        fixture.tenant.observe(&fixture.product, 2, Level::Present, RECONCILED).await.unwrap();
        assert!(fixture.tenant.unrevoked_licenses(&fixture.product, 2).await.is_empty());
        let user = fixture.tenant.user(2).await;
        let granted = dca_core::entitlements::grant(t.core(), &fixture.tenant.caller, fixture.product.id, user).await;
        assert_eq!(granted.unwrap_err().code(), dca_core::Code::Conflict);
        assert_eq!(fixture.lift(&t, &ban).await, 204);
        assert_eq!(fixture.tenant.unrevoked_licenses(&fixture.product, 2).await.len(), 1, "its source still counts");
        // Without a bot, the message with the key is not sent.
        t.stop().await;
        t
    });
}

#[test]
fn a_ban_ends_by_itself() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let fixture = fixture(&t, "Studio", "STUDIO").await;
        let (_, key) = fixture.tenant.license(&fixture.product, 1).await;
        let user = fixture.tenant.user(1).await;
        fixture.ban(&t, json!({ "userId": user, "expiresAt": "2026-03-01T13:00:00Z" })).await;
        assert_eq!(t.validate(&fixture.secret, &key).await["code"], "BANNED");
        t.advance(Duration::hours(1));
        assert_eq!(t.validate(&fixture.secret, &key).await["code"], "VALID");
        t
    });
}

#[test]
fn a_banned_device_cannot_be_used_with_any_license_of_the_product() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let fixture = fixture(&t, "Studio", "STUDIO").await;
        let (first, second) =
            (fixture.tenant.license(&fixture.product, 1).await.1, fixture.tenant.license(&fixture.product, 2).await.1);
        let body = |key: &str| json!({ "licenseKey": key, "device": { "fingerprint": "0123456789abcdef" } });
        let device = fixture.send(&t, "POST /licenses/activate", &body(&first)).await.json()["device"]["id"].clone();
        fixture.ban(&t, json!({ "deviceId": device })).await;
        for key in [&first, &second] {
            let refused = fixture.send(&t, "POST /licenses/activate", &body(key)).await;
            assert_eq!((refused.status, &refused.json()["code"]), (403, &json!("DEVICE_BLOCKED")), "{refused:?}");
            assert_eq!(fixture.send(&t, "POST /licenses/validate", &body(key)).await.json()["code"], "DEVICE_BLOCKED");
        }
        let other = json!({ "licenseKey": second, "device": { "fingerprint": "fedcba9876543210" } });
        assert_eq!(fixture.send(&t, "POST /licenses/activate", &other).await.status, 201);
        fixture.ban(&t, json!({ "fingerprint": "fedcba9876543210" })).await;
        assert_eq!(fixture.send(&t, "POST /licenses/activate", &other).await.status, 403);
        t
    });
}

#[test]
fn bans_are_for_those_who_manage_the_product() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let own = fixture(&t, "Studio", "STUDIO").await;
        let other = fixture(&t, "Other", "OTHER").await;
        let user = own.tenant.user(1).await;
        let ban = own.ban(&t, json!({ "userId": user })).await;
        assert_eq!(other.lift(&t, &ban).await, 404);
        let list = |answer: Answer| answer.json()["data"].as_array().map(Vec::len);
        assert_eq!(list(own.send(&t, "GET /bans", &json!({})).await), Some(1));
        assert_eq!(list(other.send(&t, "GET /bans", &json!({})).await), Some(0));
        let head = log_head(t.core()).await;
        let good = json!({ "userId": user, "productId": own.product.id, "reason": "x" });
        for (changes, status, field) in [
            (json!({ "productId": other.product.id }), 404, None),
            (json!({ "productId": null }), 403, None),
            (json!({ "userId": uuid::Uuid::nil() }), 404, None),
            (json!({ "userId": null, "deviceId": uuid::Uuid::nil() }), 404, None),
            (json!({ "userId": null }), 422, Some("userId")),
            (json!({ "discordId": "1" }), 422, Some("userId")),
            (json!({ "userId": null, "discordId": "ana" }), 422, Some("discordId")),
            (json!({ "userId": null, "fingerprint": "short" }), 422, Some("device.fingerprint")),
            (json!({ "reason": "" }), 422, Some("reason")),
            (json!({ "reason": "x".repeat(201) }), 422, Some("reason")),
            (json!({ "expiresAt": "2026-03-01T12:00:00Z" }), 422, Some("expiresAt")),
            (json!({ "expiresAt": "+12026-03-01T12:00:00Z" }), 422, Some("expiresAt")),
            (json!({ "device": {} }), 422, Some("device")),
        ] {
            let mut body = good.clone();
            for (name, value) in changes.as_object().unwrap() {
                body[name] = value.clone();
            }
            let answer = own.send(&t, "POST /bans", &body).await;
            assert_eq!((answer.status, &answer.json()["field"]), (status, &json!(field)), "{changes}: {answer:?}");
        }
        assert_eq!(log_head(t.core()).await, head);
        t
    });
}
