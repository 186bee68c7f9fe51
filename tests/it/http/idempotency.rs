//! Idempotency keys: a request is executed once, whatever happens to its process and its answer.

use chrono::TimeDelta;
use dca_auth::workers::CLEANUP;
use dca_core::{
    Code, Core, Error,
    crypto::sha256,
    idempotency::{self, BeginOutcome, Execution},
    tenants,
    users::{self, Provider},
};
use futures::future::join_all;

use crate::support::{
    fixtures::rows,
    harness::{TestApp, it_unstarted},
};

async fn begin(core: &Core, key: &str, body: &str) -> dca_core::Result<BeginOutcome> {
    idempotency::begin(core, key, sha256(body.as_bytes())).await
}

async fn begin_new(core: &Core, key: &str) -> Execution {
    match begin(core, key, "body").await.unwrap() {
        BeginOutcome::Execute(execution) => execution,
        BeginOutcome::Replay(answer) => panic!("{answer}"),
    }
}

/// The answer of another request with the same key and body: the stored answer, or the code of the refusal.
async fn repeat(core: &Core, key: &str) -> Result<String, Code> {
    match begin(core, key, "body").await {
        Ok(BeginOutcome::Replay(answer)) => Ok(answer),
        Ok(BeginOutcome::Execute(_)) => panic!("{key} is executed again"),
        Err(error) => Err(error.code()),
    }
}

/// Executes a change.
async fn create_tenant(core: &Core, execution: Execution, name: &str) -> dca_core::Result<()> {
    idempotency::execute(execution, tenants::create(core, name)).await.map(drop)
}

async fn count(t: &TestApp, table: &str) -> usize {
    rows(t.core().db.writer(), &format!("SELECT 1 AS n FROM {table}")).await.len()
}

#[test]
fn a_repeated_request_gets_the_stored_answer_and_another_body_is_refused() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let (core, answer) = (t.core(), "the answer with STUDIO-5FWM");
        let execution = begin_new(core, "a").await;
        assert_eq!(repeat(core, "a").await, Err(Code::IdempotencyInProgress));
        create_tenant(core, execution, "Makers").await.unwrap();
        assert_eq!(repeat(core, "a").await, Err(Code::IdempotencyInProgress), "committed, but not answered yet");
        idempotency::finish(core, execution, Some(answer)).await.unwrap();
        assert_eq!(repeat(core, "a").await, Ok(answer.to_owned()));
        assert_eq!(begin(core, "a", "other").await.unwrap_err().code(), Code::IdempotencyKeyReused);
        begin_new(core, "b").await;
        let stored = format!("{:?}", rows(core.db.writer(), "SELECT * FROM idempotency_keys").await);
        let bytes = |text: &str| format!("{:?}", text.bytes().collect::<Vec<_>>()).replace(['[', ']'], "");
        assert!(!stored.contains("STUDIO") && !stored.contains(&bytes("STUDIO")), "{stored}");

        t.advance(TimeDelta::hours(24));
        begin_new(t.core(), "a").await;
        assert_eq!(count(&t, "idempotency_keys").await, 2, "the expired row was replaced");
        t.run_worker(CLEANUP).await;
        assert_eq!(count(&t, "idempotency_keys").await, 1);
        t
    });
}

#[test]
fn of_parallel_requests_with_one_key_one_is_executed() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        for round in 0..3 {
            let key = format!("key {round}");
            let begun = join_all((0..20).map(|_| begin(t.core(), &key, "body"))).await;
            let executed = begun.iter().filter(|begun| matches!(begun, Ok(BeginOutcome::Execute(_)))).count();
            let refused = begun.iter().filter_map(|begun| begun.as_ref().err());
            assert!(refused.map(Error::code).all(|code| code == Code::IdempotencyInProgress));
            assert_eq!(executed, 1);
        }
        t
    });
}

#[test]
fn a_request_whose_process_died_is_executed_again_only_if_it_changed_nothing() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let (unchanged, changed) = (begin_new(t.core(), "unchanged").await, begin_new(t.core(), "changed").await);
        create_tenant(t.core(), changed, "Makers").await.unwrap();
        t.advance(TimeDelta::seconds(59));
        for key in ["unchanged", "changed"] {
            assert_eq!(repeat(t.core(), key).await, Err(Code::IdempotencyInProgress), "{key}");
        }
        t.advance(TimeDelta::seconds(1));
        assert_eq!(repeat(t.core(), "changed").await, Err(Code::IdempotencyAnswerLost));
        let taken_over = join_all((0..10).map(|_| begin(t.core(), "unchanged", "body"))).await;
        let mut executions = taken_over.into_iter().filter_map(|begun| match begun {
            Ok(BeginOutcome::Execute(execution)) => Some(execution),
            _ => None,
        });
        let (second, none) = (executions.next().unwrap(), executions.next());
        assert!(none.is_none(), "only one request takes over");

        // The first process was only frozen.
        let late = create_tenant(t.core(), unchanged, "Twice").await.unwrap_err();
        assert_eq!(late.code(), Code::IdempotencyInProgress);
        idempotency::finish(t.core(), unchanged, Some("late")).await.unwrap();
        idempotency::finish(t.core(), unchanged, None).await.unwrap();
        create_tenant(t.core(), second, "Once").await.unwrap();
        idempotency::finish(t.core(), second, Some("second")).await.unwrap();
        assert_eq!(repeat(t.core(), "unchanged").await, Ok("second".to_owned()));
        let names = rows(t.core().db.writer(), "SELECT name FROM tenants ORDER BY name").await;
        let names: Vec<_> = names.iter().map(|row| row["name"].as_str().unwrap()).collect();
        assert!(names.contains(&"Once") && names.contains(&"Makers") && !names.contains(&"Twice"), "{names:?}");
        t
    });
}

#[test]
fn an_answer_that_is_not_stored_releases_the_key_unless_something_changed() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let unchanged = begin_new(t.core(), "unchanged").await;
        idempotency::finish(t.core(), unchanged, None).await.unwrap();
        let known = begin_new(t.core(), "unchanged").await;
        idempotency::execute(known, users::ensure(t.core(), Provider::Discord, "5")).await.unwrap();
        idempotency::finish(t.core(), known, None).await.unwrap();
        // A user who has become known is no change: the next execution finds them.
        begin_new(t.core(), "unchanged").await;
        let changed = begin_new(t.core(), "changed").await;
        create_tenant(t.core(), changed, "Makers").await.unwrap();
        idempotency::finish(t.core(), changed, None).await.unwrap();
        assert_eq!(repeat(t.core(), "changed").await, Err(Code::IdempotencyAnswerLost));
        t
    });
}

#[test]
fn a_request_that_only_created_the_recipient_is_executed_again() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let core = t.core();
        let execution = begin_new(core, "a").await;
        idempotency::execute(execution, users::ensure(core, Provider::Discord, "42")).await.unwrap();
        idempotency::finish(core, execution, None).await.unwrap();
        begin_new(core, "a").await;
        t
    });
}
