//! The rate policy of each route, and what its requests are counted by.

use std::collections::BTreeSet;

use dca_core::{crypto::api_key::ApiKeyKind, limiter::Bucket, users::Role};

use super::{api_document, validate::validate_request};
use crate::support::{
    accounts::signed_in_as,
    fixtures::{Request, TestTenant},
    harness::it_unstarted,
};

#[test]
fn every_operation_follows_the_rate_policy_that_the_document_names() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let (document, _) = api_document::document();
        let mut unlimited = BTreeSet::new();
        for (method, path, operation) in api_document::operations(&document) {
            let policy = operation["x-rate-limit"].as_str();
            let policy = policy.unwrap_or_else(|| panic!("{method} {path} has no rate policy"));
            let url = path.replace("{provider}", "google").replace("{id}", "01a1fc38-462e-700d-8a24-1b00a6834fc4");
            let line = format!("{} {}", method.to_uppercase(), url.replace(['{', '}'], ""));
            let answer = Request::new(&line).ask(t.addr()).await.unwrap();
            let headers = [answer.header("ratelimit-policy"), answer.header("ratelimit")];
            if policy == "unlimited" {
                assert_eq!(headers, ["", ""], "{line}");
                unlimited.insert(path);
            } else {
                assert!(Bucket::ALL.iter().any(|bucket| bucket.as_str() == policy), "{line}: {policy}");
                let is_named = |header: &str| header.starts_with(&format!("\"{policy}\";"));
                assert!(headers.into_iter().all(is_named), "{line} is not limited by {policy}: {answer:?}");
            }
        }
        let expected = ["/.well-known/", "/health", "/live", "/metrics", "/ready"];
        let is_expected = |path: &&str| expected.iter().any(|known| path.starts_with(known));
        assert!(unlimited.iter().all(is_expected), "{unlimited:?}");
        t
    });
}

#[test]
fn requests_are_counted_by_api_key_and_client_or_else_by_network() {
    it_unstarted(|mut t| async {
        t.set("DCA_TRUSTED_PROXIES", "127.0.0.0/8");
        t.start_with_limits(&[("DCA_VALIDATE_PER_MINUTE", "2"), ("DCA_AUTH_PER_MINUTE", "4")]).await;
        let (browser, _) = signed_in_as(&t, "ana@x.example", Role::User).await;
        let token = format!("Bearer {}", browser.access_token().unwrap());
        let tenant = TestTenant::new(t.core(), "Makers").await;
        let gold = tenant.product("Gold", "GOLD").await;
        let api_key = tenant.api_key(ApiKeyKind::Secret, &[&gold]).await.1;
        let good = validate_request(&api_key, r#"{"licenseKey":"x"}"#);
        let bare = good.clone().without("X-API-Key");
        let bearer = bare.clone().with("Authorization", format!("Bearer {api_key}"));
        let with_token = bare.clone().with("Authorization", &token);
        let with_both = good.clone().with("Authorization", &token);
        let account = |n: u32| Request::new("GET /me").with("X-API-Key", format!("{api_key}{n}"));
        let mut statuses = Vec::new();
        for (what, client, request, expected) in [
            ("an API key", "203.0.113.1", &good, 200),
            ("the same as a Bearer token", "203.0.113.1", &bearer, 200),
            ("the same again", "203.0.113.1", &good, 429),
            ("the same from another client of the network", "203.0.113.2", &good, 200),
            ("no API key", "203.0.113.3", &bare, 401),
            ("an access token", "203.0.113.4", &with_token, 401),
            ("an access token and an API key", "203.0.113.5", &with_both, 429),
            ("no API key in another network", "203.0.114.1", &bare, 401),
        ] {
            let answer = request.clone().with("X-Forwarded-For", client).ask(t.addr()).await.unwrap();
            assert_eq!(answer.status, expected, "{what}: {answer:?}");
        }
        for n in 0..5 {
            let request = account(n).with("X-Forwarded-For", format!("198.51.100.{n}"));
            statuses.push(request.ask(t.addr()).await.unwrap().status);
        }
        assert_eq!(statuses, [401, 401, 401, 401, 429], "account requests are counted by network only");
        t
    });
}
