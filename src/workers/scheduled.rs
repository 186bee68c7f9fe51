//! Runs scheduled workers.
//!
//! Each has a row (`dca_core::workers`), so that only one instance runs it at a time. Its timer checks every second and
//! on each notification whether it is due, and calls [`App::run_worker`]; tests call it directly. The timers are
//! independent, so that a long reconciliation delays no expiry.

use std::{convert::Infallible, panic::AssertUnwindSafe, time::Duration};

use anyhow::{Result, anyhow};
use apalis::prelude::{Data, Monitor, WorkerBuilder, WorkerBuilderExt};
use dca_core::{bus::Topic, workers};
use futures::{FutureExt, StreamExt, future::BoxFuture, stream, stream::BoxStream};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use super::runtime::{RETRY_DELAY, notifications, run_until};
use crate::App;

/// A scheduled worker. It takes no input and is idempotent.
#[derive(Clone, Copy, Debug)]
pub struct ScheduledWorker {
    /// The name of its row.
    pub name: &'static str,
    /// The time between the starts of two runs.
    pub interval: fn(&App) -> Duration,
    /// Whether this instance can run it.
    pub can_run: fn(&App) -> bool,
    /// Runs it once and returns a summary for its row.
    pub run: for<'a> fn(&'a App) -> BoxFuture<'a, Result<String>>,
}

/// How long a run is reserved for an instance. Renewed while the worker runs.
const LEASE_DURATION: Duration = Duration::from_secs(30);

impl App {
    /// Runs a worker if it is due and no other instance runs it. Returns whether it ran. A failed run is logged,
    /// recorded in the worker's row, and tried again within a minute.
    pub async fn run_worker(&self, worker: ScheduledWorker) -> dca_core::Result<bool> {
        if !(worker.can_run)(self) {
            return Ok(false);
        }
        let next = self.core.clock.now() + (worker.interval)(self);
        let Some(lease) = workers::acquire(&self.core, self.instance, worker.name, LEASE_DURATION, next).await? else {
            return Ok(false);
        };
        let result = tokio::select! {
            result = AssertUnwindSafe((worker.run)(self)).catch_unwind() => {
                result.unwrap_or_else(|_| Err(anyhow!("panicked")))
            }
            () = workers::keep(&self.core, &lease, LEASE_DURATION) => Err(anyhow!("its lease was lost")),
        };
        if let Err(error) = &result {
            error!(worker = worker.name, error = format!("{error:#}"), "a worker failed");
            workers::schedule_in(&self.core, worker.name, Duration::from_secs(30)).await?;
        }
        let result_text = result.unwrap_or_else(|error| format!("failed: {error:#}"));
        debug!(worker = worker.name, result_text, "worker finished");
        workers::release(&self.core, &lease, &result_text).await?;
        Ok(true)
    }
}

/// Runs a worker whenever it is due, until `stop`.
pub async fn run(app: App, worker: ScheduledWorker, stop: CancellationToken) -> Result<()> {
    let monitor = Monitor::new().register(move |_| {
        WorkerBuilder::new(worker.name)
            .backend(ticks(&app))
            .concurrency(1)
            .data(app.clone())
            .data(worker)
            .build(run_if_due)
    });
    run_until(stop, monitor).await
}

/// One tick per second, and one for each notification. Ticks missed during a long run are skipped.
fn ticks(app: &App) -> BoxStream<'static, Result<(), Infallible>> {
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let seconds = stream::unfold(seconds, |mut seconds| async move {
        seconds.tick().await;
        Some((Ok(()), seconds))
    });
    stream::select(seconds, notifications(app, [Topic::Workers]).map(Ok)).boxed()
}

async fn run_if_due((): (), app: Data<App>, worker: Data<ScheduledWorker>) -> Result<(), Infallible> {
    if let Err(error) = app.run_worker(*worker).await {
        warn!(worker = worker.name, %error, "could not check whether a worker is due; trying again");
        tokio::time::sleep(RETRY_DELAY).await;
    }
    Ok(())
}
