//! What validations keep in memory, and that no instance uses it after something changed.

use chrono::TimeDelta;
use dca_core::{
    Caller, Core, api_keys,
    bans::{self, NewBan, Target},
    fingerprint::Fingerprint,
    licenses::{self, LicenseSelection, NewDevice, Question, Requested, Run},
    policy::PolicyTerms,
    precondition::IfMatch,
};
use serde_json::json;

use super::{validate::validate_request, verdicts::Shop};
use crate::support::{
    accounts::execute,
    fixtures::{TestTenant, send_request_head},
    harness::it_unstarted,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The code that an instance answers with, and how many statements that took.
async fn ask(core: &Core, shop: &Shop, question: &Question) -> (String, u64) {
    let before = core.db.statements();
    let code = match licenses::validate(core, &shop.api_key, question, None).await {
        Ok(answer) => answer.verdict.code.to_string(),
        Err(error) => error.code().to_string(),
    };
    (code, core.db.statements() - before)
}

fn question(key: &str, device: Option<&str>) -> Question {
    let device = device.map(|text| Fingerprint::parse(text, std::collections::BTreeMap::new()).unwrap());
    Question { key: key.to_owned(), device, ..Question::default() }
}

#[test]
fn many_requests_for_one_license_read_it_once() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let shop = Shop::new(&t, PolicyTerms::default()).await;
        let [first, key] = [shop.key(1).await, shop.key(2).await];
        let core = t.instance().await;
        assert_eq!(ask(&core, &shop, &question(&first, None)).await, ("VALID".to_owned(), 2));
        let before = core.db.statements();
        let asked = question(&key, None);
        let answers = futures::future::join_all((0..200).map(|_| ask(&core, &shop, &asked))).await;
        assert!(answers.iter().all(|(code, _)| code == "VALID"), "{answers:?}");
        assert_eq!(core.db.statements() - before, 1);
        t
    });
}

#[test]
fn an_acknowledged_change_holds_at_every_instance() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let shop = Shop::new(&t, PolicyTerms::default()).await;
        let (acting, asked) = (t.core().clone(), t.instance().await);
        for member in 1..=5 {
            let (license, key) = shop.tenant.license(&shop.product, member).await;
            let question = question(&key, None);
            assert_eq!(ask(&asked, &shop, &question).await.0, "VALID");
            assert_eq!(ask(&asked, &shop, &question).await, ("VALID".to_owned(), 0), "from memory");
            let by = &shop.tenant.caller;
            let any = IfMatch::default();
            let change = |change| licenses::change(&acting, by, license.id, &any, change);
            let reason = || "test".to_owned();
            let expected = match member {
                1 => change(licenses::Change::Revoke { reason: reason() }).await.map(|_| "REVOKED"),
                2 => change(licenses::Change::Suspend { reason: reason() }).await.map(|_| "SUSPENDED"),
                3 => {
                    let one = LicenseSelection::Ids(vec![license.id]);
                    licenses::revoke_all(&acting, by, &one, "test", Run::Real).await.map(|_| "REVOKED")
                }
                4 => {
                    let target = Target::User(license.user_id.unwrap());
                    let ban = NewBan { tenant: None, product: None, target, reason: reason(), expires_at: None };
                    bans::create(&acting, by, ban).await.map(|_| "BANNED")
                }
                _ => {
                    let key = &api_keys::list_all(&acting, by).await.unwrap()[0].key;
                    api_keys::revoke(&acting, by, &key.id.to_string()).await.map(|_| "INVALID_API_KEY")
                }
            };
            assert_eq!(ask(&asked, &shop, &question).await.0, expected.unwrap());
        }
        t
    });
}

#[test]
fn what_becomes_valid_is_valid_at_every_instance_at_once() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let terms = PolicyTerms { device_required: true, max_devices: Some(3), ..PolicyTerms::default() };
        let shop = Shop::new(&t, terms).await;
        let (license, key) = shop.tenant.license(&shop.product, 1).await;
        let (acting, asked) = (t.core().clone(), t.instance().await);
        let question = question(&key, Some("0123456789abcdef"));
        for _ in 0..2 {
            assert_eq!(ask(&asked, &shop, &question).await.0, "NOT_ACTIVATED");
        }
        let device = NewDevice::new(question.device.clone().unwrap(), None, None, None).unwrap();
        let app = Caller::App(api_keys::authenticate(&acting, &shop.api_key).await.unwrap());
        licenses::activate(&acting, &app, &Requested::Key(key.clone()), &device).await.unwrap();
        assert_eq!(ask(&asked, &shop, &question).await.0, "VALID");

        let by = TestTenant::on_instance(&shop.tenant, &acting).caller;
        let none = IfMatch::default();
        let suspend = licenses::Change::Suspend { reason: "test".to_owned() };
        licenses::change(&acting, &by, license.id, &none, suspend).await.unwrap();
        for _ in 0..2 {
            assert_eq!(ask(&asked, &shop, &question).await.0, "SUSPENDED");
        }
        licenses::change(&acting, &by, license.id, &none, licenses::Change::Resume).await.unwrap();
        assert_eq!(ask(&asked, &shop, &question).await.0, "VALID");
        t
    });
}

#[test]
fn a_check_in_at_another_instance_counts() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let terms = PolicyTerms { check_in_seconds: Some(3_600), device_required: true, ..PolicyTerms::default() };
        let shop = Shop::new(&t, PolicyTerms { auto_activate: true, max_devices: Some(1), ..terms }).await;
        let key = shop.key(1).await;
        let (one, other) = (t.core().clone(), t.instance().await);
        let question = question(&key, Some("0123456789abcdef"));
        for core in [&one, &other] {
            assert_eq!(ask(core, &shop, &question).await.0, "VALID");
        }
        t.advance(TimeDelta::minutes(50));
        assert_eq!(ask(&one, &shop, &question).await.0, "VALID");
        t.wait_until_stored().await;
        t.advance(TimeDelta::minutes(50));
        assert_eq!(ask(&other, &shop, &question).await.0, "VALID", "the device was seen by the other instance");
        t.advance(TimeDelta::minutes(61));
        assert_eq!(ask(&one, &shop, &question).await.0, "CHECK_IN_OVERDUE");
        t
    });
}

#[test]
fn a_request_that_began_before_a_revocation_is_not_answered_with_valid_after_it() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let shop = Shop::new(&t, PolicyTerms::default()).await;
        let (license, key) = shop.tenant.license(&shop.product, 1).await;
        let body = json!({ "licenseKey": key }).to_string();
        let warm = validate_request(&shop.api_key, body.clone()).ask(t.addr()).await.unwrap().json();
        assert_eq!(warm["code"], "VALID");
        let mut requests = Vec::new();
        for _ in 0..10 {
            requests.push(send_request_head(t.addr(), &shop.api_key, &body).await);
        }
        licenses::revoke(&t.instance().await, &shop.tenant.caller, license.id, "test").await.unwrap();
        for mut request in requests {
            request.write_all(body.as_bytes()).await.unwrap();
            let mut answer = vec![0; 4_096];
            let length = request.read(&mut answer).await.unwrap();
            let answer = String::from_utf8_lossy(&answer[..length]).into_owned();
            assert!(answer.contains("\"code\":\"REVOKED\""), "{answer}");
        }
        t
    });
}

#[test]
fn after_events_were_deleted_nothing_from_before_is_used() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let shop = Shop::new(&t, PolicyTerms::default()).await;
        let (license, key) = shop.tenant.license(&shop.product, 1).await;
        let asked = t.instance().await;
        let question = question(&key, None);
        assert_eq!(ask(&asked, &shop, &question).await.0, "VALID");
        licenses::revoke(t.core(), &shop.tenant.caller, license.id, "test").await.unwrap();
        execute(t.core(), "DELETE FROM events").await;
        assert_eq!(ask(&asked, &shop, &question).await.0, "REVOKED");
        t
    });
}
