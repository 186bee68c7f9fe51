//! Floating sessions: heartbeats, copies of sessions, and the limit under concurrency.

use chrono::Duration;
use dca_core::{crypto::api_key::ApiKeyKind, events};
use futures::future::join_all;
use serde_json::{Value, json};

use crate::support::{
    fixtures::{Request, TestTenant, rows},
    harness::{TestApp, it_unstarted},
};

/// A license with floating sessions, and an API key.
struct Fixture {
    tenant: TestTenant,
    key: String,
    api_key: String,
}

async fn fixture(t: &TestApp, max: u32, on_full: &str) -> Fixture {
    let tenant = TestTenant::new(t.core(), "Makers").await;
    let product = tenant.product("Studio", "STUDIO").await;
    let lease = json!({ "ttlSeconds": 180, "maxConcurrent": max, "onFull": on_full });
    tenant.set_terms(&product, json!({ "lease": lease })).await;
    let key = tenant.license(&product, 1).await.1;
    let api_key = tenant.api_key(ApiKeyKind::Publishable, &[&product]).await.1;
    Fixture { tenant, key, api_key }
}

/// A nonce that differs for each number.
fn nonce(number: usize) -> String {
    format!("nonceOfTheHeartbeatNumber{number:07}")
}

impl Fixture {
    async fn send(&self, t: &TestApp, route: &str, body: Value) -> Value {
        let request = Request::new(&format!("POST /licenses/{route}")).with("Content-Type", "application/json");
        let answer = request.with("X-API-Key", &self.api_key).body(body.to_string()).ask(t.addr()).await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    /// Sends a heartbeat with a nonce of its own.
    async fn beat(&self, t: &TestApp, lease: &Value, seq: i64, number: usize) -> Value {
        let body = json!({ "licenseKey": self.key, "leaseId": lease, "seq": seq, "nonce": nonce(number) });
        self.send(t, "heartbeat", body).await
    }

    async fn open(&self, t: &TestApp, number: usize) -> Value {
        self.beat(t, &Value::Null, 1, number).await
    }

    async fn end(&self, t: &TestApp, lease: &Value) -> u16 {
        let request = Request::new(&format!("DELETE /licenses/leases/{}", lease.as_str().unwrap()));
        request.with("X-API-Key", &self.api_key).ask(t.addr()).await.unwrap().status
    }
}

#[test]
fn heartbeats_open_a_session_and_renew_it() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let fixture = fixture(&t, 2, "reject").await;
        assert_eq!(fixture.send(&t, "validate", json!({ "licenseKey": fixture.key })).await["code"], "LEASE_REQUIRED");
        let first = fixture.open(&t, 1).await;
        let lease = &first["lease"];
        assert_eq!((&first["valid"], &first["nonce"]), (&json!(true), &json!(nonce(1))), "{first}");
        assert_eq!((&lease["seq"], &lease["ttl"], &lease["interval"]), (&json!(1), &json!(180), &json!(60)));
        assert_eq!(lease["expiresAt"], "2026-03-01T12:03:00Z");
        assert_eq!(first["license"]["limits"]["sessions"], json!({ "max": 2, "used": 1 }));
        assert!(first["proof"].as_str().is_some_and(|proof| proof.split('.').count() == 3));

        t.advance(Duration::seconds(60));
        let second = fixture.beat(&t, &lease["id"], 2, 2).await;
        assert_eq!(
            (&second["lease"]["id"], &second["lease"]["expiresAt"]),
            (&lease["id"], &json!("2026-03-01T12:04:00Z"))
        );
        let validated = json!({ "licenseKey": fixture.key, "leaseId": lease["id"] });
        assert_eq!(fixture.send(&t, "validate", validated.clone()).await["code"], "VALID");
        assert_eq!(fixture.end(&t, &lease["id"]).await, 204);
        assert_eq!(fixture.end(&t, &lease["id"]).await, 404);
        assert_eq!(fixture.send(&t, "validate", validated).await["code"], "LEASE_EXPIRED");
        t
    });
}

#[test]
fn a_repeated_heartbeat_gets_the_same_session_and_a_copy_of_it_none() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let fixture = fixture(&t, 3, "reject").await;
        let first = fixture.open(&t, 1).await["lease"].clone();
        assert_eq!(fixture.open(&t, 1).await["lease"], first, "the first heartbeat, sent again");
        let second = fixture.beat(&t, &first["id"], 2, 2).await["lease"].clone();
        assert_eq!(fixture.beat(&t, &first["id"], 2, 2).await["lease"], second, "the second heartbeat, sent again");
        for (seq, number) in [(2, 3), (1, 1), (0, 4)] {
            let copy = fixture.beat(&t, &first["id"], seq, number).await;
            assert_eq!((&copy["valid"], &copy["code"]), (&json!(false), &json!("LEASE_SUPERSEDED")), "{seq}");
        }
        assert_eq!(fixture.beat(&t, &first["id"], 3, 5).await["code"], "VALID", "the original continues");
        assert_eq!(rows(t.core().db.writer(), "SELECT 1 AS n FROM leases").await.len(), 1);
        t
    });
}

#[test]
fn a_full_license_refuses_a_session_until_another_one_ends() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let fixture = fixture(&t, 1, "reject").await;
        let first = fixture.open(&t, 1).await["lease"]["id"].clone();
        let refused = fixture.open(&t, 2).await;
        assert_eq!((&refused["code"], &refused["lease"]), (&json!("LEASE_LIMIT_EXCEEDED"), &Value::Null), "{refused}");
        fixture.end(&t, &first).await;
        assert_eq!(fixture.open(&t, 3).await["code"], "VALID");
        t
    });
}

#[test]
fn a_new_session_ends_the_oldest_if_the_policy_says_so() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let fixture = fixture(&t, 2, "kick_oldest").await;
        let mut sessions = Vec::new();
        for number in 1..=3 {
            let answer = fixture.open(&t, number).await;
            assert_eq!(answer["code"], "VALID", "{answer}");
            sessions.push(answer["lease"]["id"].clone());
            t.advance(Duration::seconds(1));
        }
        let codes = join_all(sessions.iter().map(|lease| fixture.beat(&t, lease, 2, 9))).await;
        let codes: Vec<_> = codes.iter().map(|answer| answer["code"].as_str().unwrap()).collect();
        assert_eq!(codes, ["LEASE_SUPERSEDED", "VALID", "VALID"]);
        let events = events::list(t.core(), &fixture.tenant.caller.scope(), 100).await.unwrap();
        let mut superseded = events.iter().filter(|event| event.kind.as_str() == "lease.superseded");
        assert_eq!(superseded.next().unwrap().after.as_ref().unwrap()["leaseId"], sessions[0]);
        assert!(superseded.next().is_none());
        t
    });
}

#[test]
fn an_expired_session_continues_for_a_while_if_there_is_room() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let fixture = fixture(&t, 1, "reject").await;
        let first = fixture.open(&t, 1).await["lease"]["id"].clone();
        t.advance(Duration::seconds(181));
        assert_eq!(fixture.beat(&t, &first, 2, 2).await["code"], "VALID", "within the duration of a session");
        t.advance(Duration::seconds(181));
        let second = fixture.open(&t, 3).await["lease"]["id"].clone();
        assert_eq!(fixture.beat(&t, &first, 3, 4).await["code"], "LEASE_LIMIT_EXCEEDED", "another one took its place");
        t.advance(Duration::seconds(361));
        for lease in [&first, &second] {
            assert_eq!(fixture.beat(&t, lease, 9, 5).await["code"], "LEASE_EXPIRED", "too late");
        }
        t.advance(Duration::days(3));
        t.run_worker(dca_auth::workers::CLEANUP).await;
        assert!(rows(t.core().db.writer(), "SELECT 1 AS n FROM leases").await.is_empty());
        t
    });
}

#[test]
fn parallel_first_heartbeats_open_no_more_sessions_than_there_are() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let fixture = fixture(&t, 3, "reject").await;
        let answers = join_all((0..50).map(|number| fixture.open(&t, number))).await;
        let count = |code: &str| answers.iter().filter(|answer| answer["code"] == code).count();
        assert_eq!((count("VALID"), count("LEASE_LIMIT_EXCEEDED")), (3, 47));
        t
    });
}

#[test]
fn sessions_of_others_and_invalid_heartbeats_are_refused() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let fixture = fixture(&t, 1, "reject").await;
        let lease = fixture.open(&t, 1).await["lease"]["id"].clone();
        let foreign = TestTenant::new(t.core(), "Others").await;
        let other = foreign.product("Other", "OTHER").await;
        let api_key = foreign.api_key(ApiKeyKind::Secret, &[&other]).await.1;
        let foreigner = Fixture { tenant: foreign, key: fixture.key.clone(), api_key };
        assert_eq!(foreigner.end(&t, &lease).await, 404);
        assert_eq!(foreigner.beat(&t, &lease, 2, 2).await["code"], "NOT_FOUND");
        for (body, field) in [
            (json!({ "licenseKey": "x", "seq": 1 }), "nonce"),
            (json!({ "licenseKey": "x", "seq": 1, "nonce": "short" }), "nonce"),
            (json!({ "licenseKey": "x", "nonce": nonce(1) }), "seq"),
            (json!({ "licenseKey": "x", "seq": -1, "nonce": nonce(1) }), "seq"),
            (json!({ "licenseKey": "x", "seq": 1.5, "nonce": nonce(1) }), "seq"),
            (json!({ "licenseKey": "x", "seq": 1, "nonce": nonce(1), "leaseId": "x" }), "leaseId"),
        ] {
            let request = Request::new("POST /licenses/heartbeat").with("Content-Type", "application/json");
            let answer =
                request.with("X-API-Key", &fixture.api_key).body(body.to_string()).ask(t.addr()).await.unwrap();
            assert_eq!((answer.status, &answer.json()["field"]), (422, &json!(field)), "{body}: {answer:?}");
        }
        t
    });
}
