//! Background work, on apalis: `relay` performs deliveries, the timer runs scheduled workers.
//!
//! Each scheduled worker has a row (`dca_core::workers`), so that only one instance runs it at a time. The timer
//! checks every second and on each notification, and calls [`App::run`]; tests call it directly.

use std::{convert::Infallible, time::Duration};

use apalis::prelude::*;
use dca_core::{
    accounts::erasure,
    bus::Topic,
    entitlements, licenses, log_channel,
    outbox::{self, Transport},
    workers as rows,
};
use futures::{Stream, StreamExt, stream};
use tokio::{sync::broadcast::error::RecvError, time::MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use crate::App;

mod reconcile_roles;
pub mod relay;

/// The scheduled workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worker {
    /// Expires licenses, and revokes those whose grace period has ended.
    Expire,
    /// Reconciles the roles of all members of every guild.
    ReconcileRoles,
    /// Queues new events for the log channels.
    LogChannel,
    /// Deletes old deliveries, expired account data and accounts due for deletion.
    Cleanup,
}

/// How long to wait after a database error.
pub(crate) const RETRY_DELAY: Duration = Duration::from_secs(5);

/// How long a run is reserved for an instance. Renewed while the worker runs.
const LEASE: Duration = Duration::from_secs(30);

impl Worker {
    /// Every scheduled worker.
    pub const ALL: [Self; 4] = [Self::Expire, Self::ReconcileRoles, Self::LogChannel, Self::Cleanup];

    /// The name in the worker's row.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Expire => rows::EXPIRE,
            Self::ReconcileRoles => rows::RECONCILE_ROLES,
            Self::LogChannel => rows::LOG_CHANNEL,
            Self::Cleanup => rows::CLEANUP,
        }
    }

    /// The time between the starts of two runs.
    fn interval(self, app: &App) -> Duration {
        match self {
            Self::Expire => Duration::from_hours(1),
            Self::ReconcileRoles => app.config.reconcile_interval,
            Self::LogChannel => Duration::from_mins(1),
            Self::Cleanup => Duration::from_hours(24),
        }
    }

    /// Whether this instance can run the worker.
    fn can_run(self, app: &App) -> bool {
        match self {
            // The instance that holds the gateway lease, so that events and reconciliation use the same
            // stamps; or a process that never connects to the gateway.
            Self::ReconcileRoles => match &app.bot {
                Some(bot) => bot.gateway_lease().is_some(),
                None => app.discord.is_some(),
            },
            Self::Expire | Self::LogChannel | Self::Cleanup => true,
        }
    }

    /// Runs the worker once and returns a summary for its row.
    async fn run(self, app: &App) -> anyhow::Result<String> {
        let core = &app.core;
        Ok(match self {
            Self::Expire => {
                let announced = licenses::announce_expired(core).await?;
                let ended = entitlements::end_expired_grace(core).await?;
                format!("{ended} licenses ended after their grace period, {announced} expired")
            }
            Self::ReconcileRoles => reconcile_roles::run(app).await?,
            Self::LogChannel => format!("{} events read", log_channel::enqueue_log_lines(core).await?),
            Self::Cleanup => {
                let (deleted, erased) = (outbox::delete_old(core).await?, erasure::erase_due(core).await?);
                format!("{deleted} deliveries deleted, {erased} accounts erased")
            }
        })
    }
}

impl App {
    /// Runs a worker if it is due and no other instance runs it. Returns whether it ran. A failed run is logged,
    /// recorded in the worker's row, and tried again within a minute.
    pub async fn run(&self, worker: Worker) -> dca_core::Result<bool> {
        if !worker.can_run(self) {
            return Ok(false);
        }
        let next = self.core.clock.now() + worker.interval(self);
        let Some(lease) = rows::acquire(&self.core, worker.name(), LEASE, next).await? else { return Ok(false) };
        let result = tokio::select! {
            result = worker.run(self) => result,
            () = self.renew_lease(&lease) => Err(anyhow::anyhow!("another instance took over the run")),
        };
        if let Err(error) = &result {
            error!(worker = worker.name(), error = format!("{error:#}"), "a worker failed");
            rows::schedule_in(&self.core, worker.name(), Duration::from_secs(30)).await?;
        }
        let result_text = result.unwrap_or_else(|error| format!("failed: {error:#}"));
        debug!(worker = worker.name(), result_text, "worker finished");
        rows::release(&self.core, &lease, &result_text).await?;
        Ok(true)
    }

    /// Renews the lease of a run until it is lost.
    async fn renew_lease(&self, lease: &rows::Lease) {
        loop {
            tokio::time::sleep(LEASE / 3).await;
            match rows::renew(&self.core, lease, LEASE).await {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => warn!(worker = lease.name, %error, "could not renew a worker's lease; trying again"),
            }
        }
    }
}

/// Runs the relay and the timer until `stop`, then waits for running work to finish.
pub async fn run(app: App, stop: CancellationToken) {
    futures::join!(relay(app.clone(), stop.clone()), timer(app, stop));
}

/// Performs deliveries until `stop`. Each transport has its own worker, so that a stalled one does not block the
/// others.
pub async fn relay(app: App, stop: CancellationToken) {
    let monitor = Transport::ALL.iter().fold(Monitor::new(), |monitor, &transport| {
        let app = app.clone();
        monitor.register(move |_| {
            WorkerBuilder::new(format!("relay-{transport}"))
                .backend(relay::claims(app.clone(), transport))
                .enable_tracing()
                .concurrency(relay::concurrency(transport))
                .data(app.clone())
                .data(transport)
                .build(relay::perform)
        })
    });
    run_until(stop, monitor).await;
}

/// Runs due workers, every second and on each notification, until `stop`.
async fn timer(app: App, stop: CancellationToken) {
    let monitor = Monitor::new().register(move |_| {
        WorkerBuilder::new("timer").backend(ticks(&app)).concurrency(1).data(app.clone()).build(run_due_workers)
    });
    run_until(stop, monitor).await;
}

async fn run_until(stop: CancellationToken, monitor: Monitor) {
    let (stopped, timeout) = (stop.clone(), async {
        stop.cancelled().await;
        tokio::time::sleep(Duration::from_secs(15)).await;
    });
    let monitor = monitor.should_restart(|_, error| {
        error!(%error, "a worker stopped unexpectedly; restarting it");
        true
    });
    let run = monitor.run_with_signal(async move {
        stopped.cancelled().await;
        Ok(())
    });
    tokio::select! {
        result = run => if let Err(error) = result {
            warn!(%error, "a worker did not stop cleanly");
        },
        () = timeout => warn!("a worker did not stop in time; its leases will expire"),
    }
}

/// A check for due workers.
#[derive(Debug)]
struct Tick;

/// One tick per second, and one for each notification. Ticks missed during a long run are skipped.
fn ticks(app: &App) -> stream::BoxStream<'static, Result<Tick, Infallible>> {
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let seconds = stream::unfold(seconds, |mut seconds| async move {
        seconds.tick().await;
        Some((Ok(Tick), seconds))
    });
    stream::select(seconds, notifications(app, Topic::Workers).map(|()| Ok(Tick))).boxed()
}

/// Yields an item for each notification of `topic`, and one if notifications were missed.
fn notifications(app: &App, topic: Topic) -> impl Stream<Item = ()> + Send + use<> {
    stream::unfold(app.core.bus.subscribe(), move |mut receiver| async move {
        loop {
            match receiver.recv().await {
                Ok(received) if received == topic => return Some(((), receiver)),
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => return Some(((), receiver)),
                Err(RecvError::Closed) => return None,
            }
        }
    })
}

async fn run_due_workers(_: Tick, app: Data<App>) -> Result<(), Infallible> {
    for worker in Worker::ALL {
        if let Err(error) = app.run(worker).await {
            warn!(worker = worker.name(), %error, "could not check for due workers; trying again");
            tokio::time::sleep(RETRY_DELAY).await;
            break;
        }
    }
    Ok(())
}
