//! Rate limits of validations, and how they count clients behind proxies.

use dca_core::{
    Ids,
    crypto::api_key::{ApiKeyKind, ApiKeyMode, ApiKeyText},
};
use serde_json::Value;

use super::validate::validate_request;
use crate::support::{
    fixtures::{Request, TestTenant},
    harness::{TestApp, it_unstarted},
};

fn forwarded_for(client: &str, request: &Request) -> Request {
    request.clone().with("X-Forwarded-For", client)
}

async fn is_rate_limited(t: &TestApp, request: &Request) -> bool {
    let answer = request.ask(t.addr()).await.unwrap();
    if answer.status != 429 {
        assert!(answer.header("retry-after").is_empty() && matches!(answer.status, 200 | 401), "{answer:?}");
        return false;
    }
    let problem: Value = answer.json();
    assert_eq!(problem["code"], "RATE_LIMIT_EXCEEDED");
    let wait: u64 = answer.header("retry-after").parse().unwrap();
    assert!((1..=20).contains(&wait), "{wait} s at three per minute");
    true
}

#[test]
fn validations_are_rate_limited_per_client_and_api_key() {
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
        let request = validate_request(&api_key, r#"{"licenseKey":"x"}"#);
        for _ in 0..3 {
            assert!(!is_rate_limited(&t, &forwarded_for("203.0.113.1", &request)).await);
        }
        assert!(is_rate_limited(&t, &forwarded_for("203.0.113.1", &request)).await, "the fourth request");
        assert!(
            is_rate_limited(&t, &forwarded_for("198.51.100.9, 203.0.113.1", &request)).await,
            "an address added by the client is not trusted"
        );
        assert!(!is_rate_limited(&t, &forwarded_for("203.0.113.2", &request)).await, "another client");
        assert!(
            !is_rate_limited(&t, &forwarded_for("203.0.113.1", &request.with("X-API-Key", other))).await,
            "another app"
        );
        t
    });
}

#[test]
fn guessing_api_keys_is_rate_limited_without_affecting_valid_keys_from_the_same_address() {
    it_unstarted(|mut t| async {
        t.set("DCA_AUTH_FAILURES_PER_MINUTE", "3");
        t.set("DCA_TRUSTED_PROXIES", "127.0.0.0/8");
        t.start_without_bot().await;
        let tenant = TestTenant::new(t.core(), "Makers").await;
        let gold = tenant.product("Gold", "GOLD").await;
        let right = validate_request(&tenant.api_key(ApiKeyKind::Secret, &[&gold]).await.1, r#"{"licenseKey":"x"}"#);
        let guess = |n: u64| {
            let guessed = ApiKeyText::generate(ApiKeyKind::Secret, ApiKeyMode::Live, &Ids::seeded(n));
            forwarded_for("203.0.113.1", &right.clone().with("X-API-Key", guessed.expose()))
        };
        for n in 0..3 {
            assert!(!is_rate_limited(&t, &guess(n)).await);
        }
        assert!(is_rate_limited(&t, &guess(3)).await, "the fourth request");
        assert!(!is_rate_limited(&t, &forwarded_for("203.0.113.1", &right)).await, "the right API key");
        assert!(!is_rate_limited(&t, &forwarded_for("203.0.113.2", &guess(4))).await, "another client");
        t
    });
}

/// Allows three validations, and three failed authentications; returns a request with the right API key and one with a
/// wrong one.
async fn start_with_limits_of_three(t: &mut TestApp, trusted_proxies: &str) -> [Request; 2] {
    t.set("DCA_VALIDATE_PER_MINUTE", "3");
    t.set("DCA_AUTH_FAILURES_PER_MINUTE", "3");
    t.set("DCA_TRUSTED_PROXIES", trusted_proxies);
    t.start_without_bot().await;
    let tenant = TestTenant::new(t.core(), "Makers").await;
    let gold = tenant.product("Gold", "GOLD").await;
    let right = validate_request(&tenant.api_key(ApiKeyKind::Secret, &[&gold]).await.1, r#"{"licenseKey":"x"}"#);
    let wrong = right.clone().with("X-API-Key", "x");
    [right, wrong]
}

#[test]
fn an_ipv6_network_and_an_ipv4_address_count_as_one_client() {
    it_unstarted(|mut t| async {
        for request in start_with_limits_of_three(&mut t, "127.0.0.0/8").await {
            for (same_client, other) in [
                (["2001:db8:1:2::1", "2001:db8:1:2::2", "2001:db8:1:2:ffff::3"], "2001:db8:1:3::1"),
                (["198.51.100.1", "::ffff:198.51.100.1", "::ffff:c633:6401"], "::ffff:198.51.100.2"),
            ] {
                for client in same_client {
                    assert!(!is_rate_limited(&t, &forwarded_for(client, &request)).await, "{client}");
                }
                assert!(is_rate_limited(&t, &forwarded_for(same_client[0], &request)).await, "the fourth request");
                assert!(!is_rate_limited(&t, &forwarded_for(other, &request)).await, "{other}");
            }
        }
        t
    });
}

#[test]
fn forwarded_addresses_of_untrusted_proxies_are_ignored() {
    it_unstarted(|mut t| async {
        for request in start_with_limits_of_three(&mut t, "10.0.0.0/8").await {
            for n in 0..3 {
                assert!(!is_rate_limited(&t, &forwarded_for(&format!("203.0.113.{n}"), &request)).await);
            }
            assert!(
                is_rate_limited(&t, &forwarded_for("203.0.113.9", &request)).await,
                "all requests come from one address"
            );
        }
        t
    });
}
