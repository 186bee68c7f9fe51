//! How the life of a license goes on over time: expiry and renewal, the loss of its sources, and what was stored late.

use chrono::Duration;
use dca_auth::workers::EXPIRE;
use dca_core::{
    crypto::api_key::ApiKeyKind,
    entitlements::Level,
    licenses::{self, Change, LicenseState, Question, Renewal},
    policy::PolicyPatch,
    precondition::IfMatch,
    users::Recipient,
};
use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use super::license_commands::{Client, assigned, find, set_terms, sql_id};
use crate::support::{
    fixtures::{RECONCILED, TestTenant, rows},
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

#[test]
fn an_expired_license_is_renewed_and_a_suspension_can_pause_the_expiry() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let tenant = TestTenant::new(t.core(), "Makers").await;
        let gold = tenant.product("Gold", "GOLD").await;
        let client = Client::new(&t, &tenant, &[&gold]).await;
        for pauses in [false, true] {
            let terms = json!({ "durationSeconds": 3600, "suspensionPausesExpiry": pauses });
            set_terms(&t, &gold, terms).await;
            let (license, _) = assigned(&t, &tenant, &gold).await;
            let post = async |command: &str, body: Value| {
                client.post(&format!("/licenses/{}/{command}", license.id), body).await
            };
            let expires_at = license.expires_at.unwrap();
            assert_eq!(post("suspend", json!({ "reason": "test" })).await.status, 200);
            t.advance(Duration::hours(2));
            let resumed = post("resume", Value::Null).await;
            if pauses {
                let shifted = expires_at + Duration::hours(2);
                assert_eq!((resumed.status, &resumed.body["expiresAt"]), (200, &json!(shifted)), "{resumed:?}");
                t.advance(Duration::hours(1));
            } else {
                assert_eq!((resumed.status, resumed.code()), (409, "INVALID_TRANSITION"), "{resumed:?}");
            }
            t.run_worker(EXPIRE).await;
            let renewed = post("renew", Value::Null).await;
            assert_eq!(renewed.body["state"], "renewed", "{renewed:?}");
            assert_eq!(renewed.body["expiresAt"], json!(t.clock.now() + Duration::hours(1)));
            let extended = post("renew", json!({ "seconds": 60 })).await;
            assert_eq!(extended.body["expiresAt"], json!(t.clock.now() + Duration::hours(1) + Duration::seconds(60)));
            let sql = format!("SELECT kind FROM events WHERE license_id = {} ORDER BY seq", sql_id(&t, license.id.0));
            let kinds = format!("{:?}", rows(t.core().db.writer(), &sql).await);
            assert_eq!([kinds.matches("expired").count(), kinds.matches("renewed").count()], [1, 2], "{kinds}");
        }
        t
    });
}

#[test]
fn the_policy_says_what_happens_when_the_last_source_is_lost_and_returns() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let tenant = TestTenant::new(t.core(), "Makers").await;
        let gold = tenant.product("Gold", "GOLD").await;
        for (member, (rule, duration, grace_over, returned)) in (1..).zip([
            ("grace_revoke", None, LicenseState::Revoked, LicenseState::Assigned),
            ("suspend", None, LicenseState::Suspended, LicenseState::Assigned),
            ("expire_at_period_end", None, LicenseState::Revoked, LicenseState::Assigned),
            ("expire_at_period_end", Some(3 * 3600), LicenseState::Assigned, LicenseState::Assigned),
            ("keep", None, LicenseState::Assigned, LicenseState::Assigned),
        ]) {
            let terms = json!({ "onSourceLost": rule, "sourceGraceSeconds": 3600, "durationSeconds": duration });
            set_terms(&t, &gold, terms).await;
            let (license, _) = tenant.license(&gold, member).await;
            let state = async || find(&t, &tenant, license.id).await.1;
            tenant.observe(&gold, member, Level::Absent, RECONCILED).await.unwrap();
            assert_eq!(state().await, LicenseState::Assigned, "{rule}: in its grace");
            t.advance(Duration::hours(1));
            assert_eq!(state().await, grace_over, "{rule}: before the worker");
            t.run_worker(EXPIRE).await;
            t.run_worker(EXPIRE).await;
            assert_eq!(state().await, grace_over, "{rule}: after the worker");
            tenant.observe(&gold, member, Level::Present, RECONCILED).await.unwrap();
            let current = tenant.unrevoked_licenses(&gold, member).await.pop().unwrap();
            assert_eq!(current.state(t.clock.now()), returned, "{rule}: returned");
            assert_eq!(current.id == license.id, grace_over != LicenseState::Revoked, "{rule}: a revoked one stays so");
            let sql = format!("SELECT kind FROM events WHERE license_id = {} ORDER BY seq", sql_id(&t, license.id.0));
            let kinds = format!("{:?}", rows(t.core().db.writer(), &sql).await);
            let count = |kind: &str| kinds.matches(kind).count();
            let suspends = usize::from(rule == "suspend");
            assert_eq!([count("suspended"), count("resumed")], [suspends; 2], "{rule}: {kinds}");
            assert_eq!(count("revoked"), usize::from(grace_over == LicenseState::Revoked), "{rule}: {kinds}");
        }
        t
    });
}

#[test]
fn an_admins_suspension_does_not_end_with_a_returning_source() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let tenant = TestTenant::new(t.core(), "Makers").await;
        let gold = tenant.product("Gold", "GOLD").await;
        set_terms(&t, &gold, json!({ "onSourceLost": "suspend", "sourceGraceSeconds": 0 })).await;
        let client = Client::new(&t, &tenant, &[&gold]).await;
        let (license, _) = tenant.license(&gold, 1).await;
        let path = format!("/licenses/{}", license.id);
        assert_eq!(client.post(&format!("{path}/suspend"), json!({ "reason": "test" })).await.status, 200);
        tenant.observe(&gold, 1, Level::Absent, RECONCILED).await.unwrap();
        t.run_worker(EXPIRE).await;
        let resumed = client.post(&format!("{path}/resume"), Value::Null).await;
        assert_eq!((resumed.status, resumed.code()), (409, "CONFLICT"), "nothing entitles: {resumed:?}");
        tenant.observe(&gold, 1, Level::Present, RECONCILED).await.unwrap();
        assert_eq!(find(&t, &tenant, license.id).await.1, LicenseState::Suspended);
        assert_eq!(client.post(&format!("{path}/resume"), Value::Null).await.body["state"], "assigned");
        t
    });
}
