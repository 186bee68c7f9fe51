//! What a license was before it was transferred or renewed does not count after that, however late it is stored.

use chrono::Duration;
use dca_core::{
    crypto::api_key::ApiKeyKind,
    licenses::{self, Change, Question, Renewal},
    policy::PolicyPatch,
    precondition::IfMatch,
    users::Recipient,
};
use futures::future::join_all;
use reqwest::Method;
use serde_json::json;

use super::license_commands::Client;
use crate::support::{
    fixtures::{TestTenant, rows},
    harness::it_unstarted,
};

#[test]
fn a_first_validation_that_is_stored_late_does_not_count_for_the_next_life() {
    it_unstarted(|t| async {
        // Nobody stores what waits, until the test does.
        let core = t.instance().await;
        let tenant = TestTenant::new(&core, "Makers").await;
        let gold = tenant.product_with("Gold", "GOLD", PolicyPatch::default().with("durationSeconds", 3_600)).await;
        let api_key = tenant.api_key(ApiKeyKind::Secret, &[&gold]).await.1;
        let next = tenant.user(9).await;
        for (member, change, after) in [
            (1, Change::Transfer(Recipient::User(next)), Duration::minutes(1)),
            (2, Change::Renew(Renewal::Once), Duration::hours(2)),
        ] {
            let (license, key) = tenant.license(&gold, member).await;
            let validate = async |key: String| {
                let asked = Question { key, ..Question::default() };
                assert!(licenses::validate(&core, &api_key, &asked, None).await.unwrap().verdict.is_valid());
            };
            let stored = async || licenses::show(&core, &tenant.caller, license.id).await.unwrap();
            validate(key).await;
            t.clock.advance(after);
            licenses::change(&core, &tenant.caller, license.id, &IfMatch::default(), change).await.unwrap();
            licenses::store_pending(&core).await.unwrap();
            assert_eq!(stored().await.first_valid_at, None, "member {member}");
            validate(licenses::reveal_key(&core, &stored().await).unwrap()).await;
            licenses::store_pending(&core).await.unwrap();
            assert_eq!(stored().await.first_valid_at, Some(t.clock.now()), "member {member}");
        }
        t
    });
}

#[test]
fn a_license_renewed_while_expiries_are_recorded_is_not_recorded_as_expired() {
    it_unstarted(|t| async {
        let core = t.instance().await;
        let tenant = TestTenant::new(&core, "Makers").await;
        let gold = tenant.product_with("Gold", "GOLD", PolicyPatch::default().with("durationSeconds", 3_600)).await;
        let mut ids = Vec::new();
        for member in 1..=20 {
            ids.push(tenant.license(&gold, member).await.0.id);
        }
        t.clock.advance(Duration::hours(2));
        let renew = async |id| {
            let change = Change::Renew(Renewal::Once);
            licenses::change(&core, &tenant.caller, id, &IfMatch::default(), change).await.unwrap();
        };
        let (announced, _) = tokio::join!(licenses::announce_expired(&core), join_all(ids.into_iter().map(renew)));
        announced.unwrap();
        let wrong = rows(core.db.writer(), "SELECT id FROM licenses WHERE lapse_seen_at IS NOT NULL").await;
        assert_eq!(wrong.len(), 0, "renewed, and recorded as expired");
        t.clock.advance(Duration::hours(2));
        assert_eq!(licenses::announce_expired(&core).await.unwrap(), 20);
        t
    });
}

#[test]
fn the_reasons_that_the_service_gives_itself_are_refused() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let tenant = TestTenant::new(t.core(), "Makers").await;
        let gold = tenant.product("Gold", "GOLD").await;
        let client = Client::new(&t, &tenant, &[&gold]).await;
        let (license, _) = tenant.license(&gold, 1).await;
        for path in [
            format!("/licenses/{}/suspend", license.id),
            format!("/licenses/{}/revoke", license.id),
            "/admin/licenses/revoke".to_owned(),
        ] {
            let mut body = json!({ "reason": " entitlement_lost " });
            if path.starts_with("/admin") {
                body["ids"] = json!([license.id]);
            }
            let response = client.ask(Method::POST, &path, body, &[]).await;
            assert_eq!((response.status, response.body["field"].as_str()), (422, Some("reason")), "{response:?}");
        }
        t
    });
}
