//! Rows that are no longer needed are deleted, and nothing else.

use chrono::TimeDelta;
use dca_auth::workers::CLEANUP;
use dca_core::users::Role;
use serde_json::Value;

use crate::support::{
    accounts::{execute, signed_in_as},
    browser::Browser,
    fixtures::rows,
    harness::{TestApp, it_unstarted},
};

async fn count(t: &TestApp, table: &str) -> usize {
    rows(t.core().db.writer(), &format!("SELECT 1 AS n FROM {table}")).await.len()
}

async fn last_result(t: &TestApp) -> String {
    let workers = dca_core::workers::list(t.core()).await.unwrap();
    workers.into_iter().find(|row| row.name == CLEANUP.name).unwrap().last_result.unwrap()
}

#[test]
fn cleanup_deletes_in_batches_and_a_step_that_fails_does_not_stop_the_others() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let id = if t.core().db.is_shared() { "gen_random_uuid()" } else { "randomblob(16)" };
        let numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1200)";
        for sql in [
            format!(
                "INSERT INTO outbox (id, kind, transport, ordering_key, dedupe_key, payload, due_at, attempt, lease_token, \
                 state, created_at) {numbers} SELECT {id}, 'mail', 'smtp', 'a', 'key ' || i, '{{}}', \
                 CASE i WHEN 1200 THEN TIMESTAMP '2025-02-01 00:00:00' ELSE TIMESTAMP '2025-01-01 00:00:00' END, 1, 1, \
                 'sent', TIMESTAMP '2025-01-01 00:00:00' FROM n"
            ),
            format!(
                "INSERT INTO throttles (name, used, resets_at) {numbers} SELECT 'name ' || i, 1, \
                 TIMESTAMP '2025-01-01 00:00:00' FROM n"
            ),
            "CREATE TABLE pins (id uuid REFERENCES outbox (id))".to_owned(),
            "INSERT INTO pins SELECT id FROM outbox WHERE dedupe_key = 'key 1200'".to_owned(),
        ] {
            // SQLite has no timestamp literals.
            let sql = if t.core().db.is_shared() { sql } else { sql.replace("TIMESTAMP ", "") };
            execute(t.core(), &sql).await;
        }
        t.expect_error("a worker failed");
        t.run_worker(CLEANUP).await;
        assert_eq!(count(&t, "outbox").await, 200, "the last batch could not be deleted");
        assert_eq!(count(&t, "throttles").await, 0);
        let result = last_result(&t).await;
        assert!(result.starts_with("failed: could not delete deliveries: database: "), "{result}");
        assert!(result.contains("1200 throttles"), "{result}");

        execute(t.core(), "DROP TABLE pins").await;
        t.advance(TimeDelta::seconds(30));
        t.run_worker(CLEANUP).await;
        assert_eq!(count(&t, "outbox").await, 0);
        assert!(last_result(&t).await.starts_with("deleted 200 deliveries, "), "{}", last_result(&t).await);
        t
    });
}

#[test]
fn used_refresh_tokens_are_deleted_when_they_expire_and_the_session_stays() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[("DCA_REFRESH_TOKEN_SECONDS", "3600")]).await;
        let (ana, _) = signed_in_as(&t, "ana@x.example", Role::User).await;
        for _ in 0..6 {
            t.advance_when_idle(TimeDelta::minutes(30)).await;
            assert_eq!(ana.post("/auth/refresh", Value::Null).await.status, 200);
        }
        assert_eq!(count(&t, "refresh_tokens").await, 7);
        t.run_worker(CLEANUP).await;
        assert_eq!(count(&t, "refresh_tokens").await, 3, "those of the last hour");
        t.advance_when_idle(TimeDelta::minutes(30)).await;
        assert_eq!(ana.post("/auth/refresh", Value::Null).await.status, 200);
        t
    });
}

#[test]
fn the_state_of_an_abandoned_sign_in_is_deleted_when_it_expires() {
    it_unstarted(|mut t| async {
        let _google = t.with_google().await;
        t.start_with_limits(&[]).await;
        for _ in 0..5 {
            assert_eq!(Browser::new(&t).post("/auth/google", Value::Null).await.status, 200);
        }
        t.run_worker(CLEANUP).await;
        assert_eq!(count(&t, "one_time_tokens").await, 5, "still valid");
        t.advance_when_idle(TimeDelta::hours(1)).await;
        t.run_worker(CLEANUP).await;
        assert_eq!(count(&t, "one_time_tokens").await, 0);
        t
    });
}

#[test]
fn events_are_kept_unless_a_retention_is_configured() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        signed_in_as(&t, "ana@x.example", Role::User).await;
        let events = count(&t, "events").await;
        t.advance_when_idle(TimeDelta::days(400)).await;
        t.run_worker(CLEANUP).await;
        assert_eq!(count(&t, "events").await, events);
        t.stop().await;
        t.start_with_limits(&[("DCA_EVENT_RETENTION_DAYS", "365")]).await;
        signed_in_as(&t, "ben@x.example", Role::User).await;
        let newer = count(&t, "events").await - events;
        t.advance_when_idle(TimeDelta::hours(2)).await;
        t.run_worker(CLEANUP).await;
        assert_eq!(count(&t, "events").await, newer);
        t
    });
}
