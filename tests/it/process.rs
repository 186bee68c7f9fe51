//! The parts of a process: none ends unnoticed, and none waits for another.

use std::time::Duration;

use anyhow::anyhow;
use dca_auth::workers::{EXPIRE, RECONCILE_ROLES, scheduled};
use dca_test_support::{Fault, FaultKind};
use tokio_util::sync::CancellationToken;

use crate::support::harness::{LIMIT, TestApp, it, it_unstarted};

/// Starts a process with a part that ends at once, and returns the error of the process.
async fn failure_of<F: Future<Output = anyhow::Result<()>> + Send + 'static>(t: &TestApp, part: F) -> String {
    let mut running = t.build().await.start().await.unwrap();
    running.spawn("test part", part);
    let failure = tokio::time::timeout(LIMIT, running.failure()).await.expect("the end of the part was not noticed");
    running.stop().await.unwrap();
    format!("{failure:#}")
}

#[test]
fn a_part_that_ends_by_itself_ends_the_process_with_its_name() {
    it_unstarted(|t| async {
        for (failure, cause) in [
            (failure_of(&t, async { panic!("test") }).await, "it panicked"),
            (failure_of(&t, async { Err(anyhow!("out of order")) }).await, "out of order"),
            (failure_of(&t, async { Ok(()) }).await, "it ended without an error"),
        ] {
            assert!(failure.starts_with("the test part stopped, so the process stops. Restart it;"), "{failure}");
            assert!(failure.ends_with(cause), "{failure}");
        }
        t
    });
}

#[test]
fn a_process_whose_parts_run_reports_no_failure() {
    it_unstarted(|t| async {
        let mut running = t.build().await.start().await.unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(300), running.failure()).await.is_err());
        running.stop().await.unwrap();
        t
    });
}

#[test]
fn a_stalled_reconciliation_delays_no_expiry() {
    it(|t| async {
        let (guild, gold, ana) = t.guild_with_product("Tools", 1).await;
        ana.grant(gold);
        t.discord.next_dm(&ana).await;
        ana.take(gold);
        t.wait_for_events_of_kind(&guild, "user.role_changed", 2).await;
        t.discord.fault(Fault::on("GET", "/roles", FaultKind::Hold));
        t.advance(chrono::Duration::hours(2));
        let stop = CancellationToken::new();
        let workers = [RECONCILE_ROLES, EXPIRE].map(|worker| {
            let run = scheduled::run(t.app().clone(), worker, stop.clone());
            tokio::spawn(run)
        });
        t.discord.held().await;
        t.wait_for_events_of_kind(&guild, "license.revoked", 1).await;
        t.discord.release();
        stop.cancel();
        for worker in workers {
            worker.await.unwrap().unwrap();
        }
        t
    });
}

#[test]
fn a_worker_that_panics_is_recorded_as_failed_and_released() {
    it(|mut t| async {
        t.expect_error("a worker failed");
        let panicking = scheduled::ScheduledWorker { run: |_| Box::pin(async { panic!("test") }), ..EXPIRE };
        t.advance(chrono::Duration::hours(2));
        assert!(t.app().run_worker(panicking).await.unwrap());
        let rows = dca_core::workers::list(t.core()).await.unwrap();
        let row = rows.into_iter().find(|row| row.name == EXPIRE.name).unwrap();
        assert_eq!((row.last_result.as_deref(), row.lease_until), (Some("failed: panicked"), None));
        t
    });
}
