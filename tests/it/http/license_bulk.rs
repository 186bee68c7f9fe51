//! Lists of licenses, and many licenses at once.

use dca_core::{licenses::LicenseState, log_channel, users::Role};
use serde_json::{Value, json};
use uuid::Uuid;

use super::license_commands::{Client, assigned, find, generated, manager, new_user, set_terms};
use crate::support::{
    accounts::{execute, signed_in_as},
    fixtures::{TestTenant, log_head, rows},
    harness::{TestApp, it_unstarted},
};

async fn count(t: &TestApp) -> usize {
    rows(t.core().db.writer(), "SELECT key_epoch FROM licenses").await.len()
}

#[test]
fn a_thousand_licenses_are_generated_or_none() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let (tenant, other) = (TestTenant::new(t.core(), "Makers").await, TestTenant::new(t.core(), "Others").await);
        let (gold, silver) = (tenant.product("Gold", "GOLD").await, other.product("Silver", "SILVER").await);
        set_terms(&t, &gold, json!({ "durationSeconds": 3600, "expiryBasis": "creation" })).await;
        let client = Client::new(&t, &tenant, &[&gold]).await;
        let generate = async |body: Value| client.post("/admin/licenses/generate", body).await;
        let head = log_head(t.core()).await;
        let dry = generate(json!({ "productId": gold.id, "count": 1000, "dryRun": true })).await;
        assert_eq!((dry.status, &dry.body), (200, &json!({ "count": 1000, "licenses": [] })));
        let user = new_user(&t).await;
        for (body, status, code) in [
            (json!({ "productId": gold.id, "count": 0 }), 422, "VALIDATION_ERROR"),
            (json!({ "productId": gold.id, "count": 1001 }), 422, "VALIDATION_ERROR"),
            (json!({ "productId": gold.id, "count": -1 }), 422, "VALIDATION_ERROR"),
            (json!({ "productId": gold.id, "count": 2, "userId": user }), 422, "VALIDATION_ERROR"),
            (json!({ "productId": gold.id, "count": 2, "userId": user, "more": 1 }), 422, "VALIDATION_ERROR"),
            (json!({ "productId": gold.id, "count": 1, "expiresAt": "2020-01-01T00:00:00Z" }), 422, "VALIDATION_ERROR"),
            (json!({ "productId": gold.id, "count": 1, "metadata": { "a": "\0" } }), 422, "VALIDATION_ERROR"),
            (json!({ "productId": gold.id, "count": 1, "userId": Uuid::max() }), 404, "NOT_FOUND"),
            (json!({ "productId": silver.id, "count": 1 }), 404, "NOT_FOUND"),
            (json!({ "productId": Uuid::max(), "count": 1 }), 404, "NOT_FOUND"),
        ] {
            let answer = generate(body.clone()).await;
            assert_eq!((answer.status, answer.code()), (status, code), "{body}: {answer:?}");
        }
        assert_eq!((count(&t).await, log_head(t.core()).await), (0, head));
        let made =
            generate(json!({ "productId": gold.id, "count": 1000, "name": "Batch", "metadata": { "n": 1 } })).await;
        assert_eq!((made.status, &made.body["count"]), (201, &json!(1000)), "{:.300}", made.text);
        assert_eq!((count(&t).await, log_head(t.core()).await), (1000, head + 1000));
        let licenses = made.body["licenses"].as_array().unwrap();
        let keys: std::collections::HashSet<_> =
            licenses.iter().map(|license| license["key"].as_str().unwrap()).collect();
        assert_eq!(keys.len(), 1000);
        let last = licenses.last().unwrap();
        assert_eq!(
            (&last["name"], &last["metadata"], &last["state"]),
            (&json!("Batch"), &json!({ "n": 1 }), &json!("generated"))
        );
        assert_eq!(last["expiresAt"], "2026-03-01T13:00:00Z");
        assert_eq!(client.get(&format!("/licenses/{}", last["id"].as_str().unwrap())).await.body["name"], "Batch");
        let owned =
            generate(json!({ "productId": gold.id, "count": 1, "userId": user, "expiresAt": "2030-01-01T00:00:00Z" }));
        let owned = owned.await.body["licenses"][0].clone();
        assert_eq!((&owned["state"], &owned["expiresAt"]), (&json!("assigned"), &json!("2030-01-01T00:00:00Z")));
        let twice = generate(json!({ "productId": gold.id, "count": 1, "userId": user })).await;
        assert_eq!((twice.status, twice.code(), count(&t).await), (409, "CONFLICT", 1001));
        t
    });
}

#[test]
fn licenses_are_revoked_together_or_not_at_all() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let (tenant, other) = (TestTenant::new(t.core(), "Makers").await, TestTenant::new(t.core(), "Others").await);
        let (gold, silver) = (tenant.product("Gold", "GOLD").await, other.product("Silver", "SILVER").await);
        let client = Client::new(&t, &tenant, &[&gold]).await;
        let revoke = async |body: Value| client.post("/admin/licenses/revoke", body).await;
        let (mut ids, foreign) = (Vec::new(), generated(&other, &silver).await.0.id);
        for _ in 0..3 {
            ids.push(assigned(&t, &tenant, &gold).await.0.id);
            ids.push(generated(&tenant, &gold).await.0.id);
        }
        let first = revoke(json!({ "ids": [ids[0]], "reason": "leaked" })).await;
        assert_eq!(
            first.body,
            json!({ "revoked": 1, "unchanged": 0, "results": [{ "id": ids[0], "outcome": "revoked" }] })
        );
        let head = log_head(t.core()).await;
        let filter = json!({ "productId": gold.id });
        let too_many = vec![Uuid::max(); 1001];
        for (body, status) in [
            (json!({ "ids": [ids[1], foreign], "reason": "x" }), 404),
            (json!({ "ids": [ids[1], Uuid::max()], "reason": "x" }), 404),
            (json!({ "filter": { "productId": silver.id }, "reason": "x" }), 404),
            (json!({ "ids": [], "reason": "x" }), 422),
            (json!({ "ids": too_many, "reason": "x" }), 422),
            (json!({ "ids": ids, "reason": "" }), 422),
            (json!({ "ids": ids, "filter": filter, "reason": "x" }), 422),
            (json!({ "reason": "x" }), 422),
            (json!({ "filter": { "productId": gold.id, "age": 1 }, "reason": "x" }), 422),
        ] {
            assert_eq!(revoke(body.clone()).await.status, status, "{body:.120}");
        }
        let dry = revoke(json!({ "filter": filter, "reason": "leaked", "dryRun": true })).await;
        assert_eq!((&dry.body["revoked"], &dry.body["unchanged"]), (&json!(5), &json!(0)), "{dry:?}");
        assert_eq!(log_head(t.core()).await, head);
        let unassigned = json!({ "productId": gold.id, "state": "generated", "createdBefore": "2026-03-02T00:00:00Z" });
        assert_eq!(revoke(json!({ "filter": unassigned, "reason": "leaked" })).await.body["revoked"], 3);
        let rest = revoke(json!({ "ids": ids, "reason": "leaked" })).await;
        assert_eq!((&rest.body["revoked"], &rest.body["unchanged"]), (&json!(2), &json!(4)), "{rest:?}");
        assert_eq!(log_head(t.core()).await, head + 5);
        for id in ids {
            let (license, state) = find(&t, &tenant, id).await;
            assert_eq!((state, license.revoke_reason.as_deref()), (LicenseState::Revoked, Some("leaked")));
        }
        let live = "SELECT id FROM entitlement_sources WHERE ends_at IS NULL";
        assert_eq!(rows(t.core().db.writer(), live).await, [Value::Null; 0], "what was given has ended");
        t
    });
}

#[test]
fn everybody_lists_what_concerns_them() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let (tenant, other) = (TestTenant::new(t.core(), "Makers").await, TestTenant::new(t.core(), "Others").await);
        let (gold, silver) = (tenant.product("Gold", "GOLD").await, other.product("Silver", "SILVER").await);
        let client = Client::new(&t, &tenant, &[&gold]).await;
        let manager = manager(&t, &tenant, 73, "manager@x.example").await;
        let (ana, _) = signed_in_as(&t, "ana@x.example", Role::User).await;
        let (license, owner) = assigned(&t, &tenant, &gold).await;
        let foreign = generated(&other, &silver).await;
        let (own, key) = generated(&tenant, &gold).await;
        assert_eq!(ana.post("/licenses/redeem", json!({ "licenseKey": key })).await.status, 200);
        let unassigned = generated(&tenant, &gold).await.0;
        let ids = |page: &Value| -> Vec<String> {
            page["data"].as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap().to_owned()).collect()
        };
        let text = |id: &dyn ToString| id.to_string();
        let all = [text(&unassigned.id), text(&own.id), text(&license.id)];
        assert_eq!(ids(&client.get("/licenses").await.body), all, "newest first");
        assert_eq!(ids(&client.get("/licenses?state=generated").await.body), all[..1]);
        assert_eq!(ids(&client.get(&format!("/licenses?userId={owner}&state=assigned")).await.body), all[2..]);
        assert_eq!(ids(&ana.get("/licenses").await.body), all[1..2]);
        assert_eq!(
            ids(&ana.get(&format!("/licenses?productId={}", gold.id)).await.body),
            all[1..2],
            "nothing of others"
        );
        assert_eq!(ids(&ana.get(&format!("/licenses?userId={owner}")).await.body), [""; 0]);
        assert_eq!(ids(&manager.get("/licenses").await.body), [""; 0], "none of their own");
        assert_eq!(ids(&manager.get(&format!("/licenses?productId={}", gold.id)).await.body), all);
        assert_eq!(ids(&manager.get(&format!("/licenses?productId={}", silver.id)).await.body), [""; 0]);
        let first = client.get("/licenses?limit=2").await;
        assert_eq!(ids(&first.body), all[..2]);
        let cursor = first.body["nextCursor"].as_str().unwrap();
        assert!(first.header("link").contains(cursor), "{first:?}");
        let rest = client.get(&format!("/licenses?limit=2&cursor={cursor}")).await;
        assert_eq!((ids(&rest.body), &rest.body["nextCursor"]), (all[2..].to_vec(), &Value::Null));
        for path in [format!("/licenses?state=assigned&cursor={cursor}"), format!("/licenses?cursor={cursor}A")] {
            let refused = client.get(&path).await;
            assert_eq!((refused.status, refused.code()), (400, "INVALID_CURSOR"), "{path}");
        }
        assert_eq!(ana.get(&format!("/licenses?cursor={cursor}")).await.code(), "INVALID_CURSOR", "of another caller");
        assert_eq!(client.get("/licenses?state=lost").await.status, 422);
        assert_eq!(foreign.0.tenant_id, other.caller.scope().tenant());
        t
    });
}

#[test]
fn a_bulk_command_is_one_line_of_the_log_channel() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let tenant = TestTenant::new(t.core(), "Makers").await;
        let gold = tenant.product("Gold", "GOLD").await;
        let client = Client::new(&t, &tenant, &[&gold]).await;
        let (owned, _) = assigned(&t, &tenant, &gold).await;
        manager(&t, &tenant, 71, "manager@x.example").await;
        execute(t.core(), "UPDATE guilds SET log_channel_id = 5").await;
        let head = log_head(t.core()).await;
        let generate = json!({ "productId": gold.id, "count": 120 });
        let made = client.post("/admin/licenses/generate", generate).await.body;
        let mut ids: Vec<&Value> = made["licenses"].as_array().unwrap().iter().map(|made| &made["id"]).collect();
        let owned = json!(owned.id);
        ids.push(&owned);
        let revoked = client.post("/admin/licenses/revoke", json!({ "ids": ids, "reason": "leaked" })).await;
        assert_eq!((revoked.status, &revoked.body["revoked"]), (200, &json!(121)), "{revoked:?}");
        log_channel::enqueue_log_lines(t.core()).await.unwrap();
        let mut lines = Vec::new();
        for row in rows(t.core().db.writer(), "SELECT payload FROM outbox WHERE kind = 'log_line' ORDER BY id").await {
            let payload = row["payload"].as_str().map_or(row["payload"].clone(), |text| text.parse().unwrap());
            let seq = payload["seq"].as_i64().unwrap();
            let entry = log_channel::find_entry(t.core(), seq).await.unwrap().unwrap();
            lines.extend((seq > head).then(|| dca_commands::reply::log_line(&entry)));
        }
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].starts_with("`license.created` · **Gold** · 120 licenses · by api"), "{lines:?}");
        assert!(lines[1].starts_with("`license.revoked` · **Gold** · 121 licenses · leaked · by api"), "{lines:?}");
        // Nothing posts the lines here.
        t.abandon();
        t
    });
}
