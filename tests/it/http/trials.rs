//! A user has one trial of a product, and gets messages only where they can be delivered.

use dca_core::{
    entitlements::{self, Level},
    policy::PolicyPatch,
    users::Role,
};
use serde_json::json;

use super::license_commands::{Client, new_user};
use crate::support::{
    accounts::signed_in_as,
    fixtures::{RECONCILED, TestTenant, rows},
    harness::it_unstarted,
};

#[test]
fn a_second_trial_of_a_product_is_refused_whatever_gives_it() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let tenant = TestTenant::new(t.core(), "Makers").await;
        let trial = PolicyPatch::default().with("type", "TRIAL").with("sourceGraceSeconds", 0);
        let gold = tenant.product_with("Gold", "GOLD", trial.clone()).await;
        let silver = tenant.product_with("Silver", "SILVER", trial).await;
        let client = Client::new(&t, &tenant, &[&gold, &silver]).await;

        let (first, _) = tenant.license(&gold, 1).await;
        let member = first.user_id.unwrap();
        tenant.observe(&gold, 1, Level::Absent, RECONCILED).await.unwrap();
        tenant.observe(&gold, 1, Level::Present, RECONCILED).await.unwrap();
        assert_eq!(tenant.unrevoked_licenses(&gold, 1).await, [], "a source gives no second trial");
        let granted = entitlements::grant(t.core(), &tenant.caller, gold.id, member).await.unwrap_err();
        assert_eq!(granted.code().as_str(), "CONFLICT", "{granted}");
        let (unassigned, _) = tenant.generated(&gold).await;
        let to_member = json!({ "userId": member });
        let assigned = client.post(&format!("/licenses/{}/assign", unassigned.id), to_member.clone()).await;
        assert_eq!((assigned.status, assigned.code()), (409, "CONFLICT"), "{assigned:?}");
        assert!(assigned.body["detail"].as_str().unwrap().contains("trial"), "{assigned:?}");
        let new = json!({ "productId": gold.id, "count": 1, "userId": member });
        assert_eq!(client.post("/admin/licenses/generate", new.clone()).await.status, 409);
        tenant.license(&silver, 1).await;

        let (ana, ana_id) = signed_in_as(&t, "ana@x.example", Role::User).await;
        let keys = [tenant.generated(&gold).await, tenant.generated(&gold).await];
        let redeem = async |key: &str| ana.post("/licenses/redeem", json!({ "licenseKey": key })).await;
        assert_eq!(redeem(&keys[0].1).await.status, 200);
        let revoke = format!("/licenses/{}/revoke", keys[0].0.id);
        assert_eq!(client.post(&revoke, json!({ "reason": "test" })).await.status, 200);
        let second = redeem(&keys[1].1).await;
        assert_eq!((second.status, second.code()), (409, "CONFLICT"), "{second:?}");
        let paid = json!({ "productId": gold.id, "count": 1, "userId": ana_id, "type": "PERPETUAL" });
        assert_eq!(client.post("/admin/licenses/generate", paid).await.status, 201, "another type is no trial");
        t
    });
}

#[test]
fn a_grant_to_a_user_without_discord_queues_no_message() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let tenant = TestTenant::new(t.core(), "Makers").await;
        let gold = tenant.product("Gold", "GOLD").await;
        let queued = async || rows(t.core().db.writer(), "SELECT kind FROM outbox WHERE kind = 'key_dm'").await.len();
        entitlements::grant(t.core(), &tenant.caller, gold.id, new_user(&t).await).await.unwrap();
        assert_eq!(queued().await, 0, "it could not be delivered");
        entitlements::grant(t.core(), &tenant.caller, gold.id, tenant.user(1).await).await.unwrap();
        assert_eq!(queued().await, 1);
        // Nothing sends the message here.
        t.abandon();
        t
    });
}
