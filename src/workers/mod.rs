//! Background work on apalis: `relay` performs deliveries, the timer runs what is due.
//!
//! A scheduled worker is a row (`dca_core::workers`): any instance may run it, one does. The timer
//! looks every second and whenever somebody notifications; a test calls [`App::run`], which is what the timer
//! calls.

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
    /// Ends what the clock ends.
    Expire,
    /// The full pass over every guild.
    ReconcileRoles,
    /// Reads the log on for the log channels.
    LogChannel,
    /// Forgets what is over.
    Cleanup,
}

/// How long nothing is tried while the database is away.
pub(crate) const RETRY_DELAY: Duration = Duration::from_secs(5);

/// How long a run stays with an instance that fell silent; renewed while it works.
const LEASE: Duration = Duration::from_secs(30);

impl Worker {
    /// Every scheduled worker.
    pub const ALL: [Self; 4] = [Self::Expire, Self::ReconcileRoles, Self::LogChannel, Self::Cleanup];

    /// The name of its row.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Expire => rows::EXPIRE,
            Self::ReconcileRoles => rows::RECONCILE_ROLES,
            Self::LogChannel => rows::LOG_CHANNEL,
            Self::Cleanup => rows::CLEANUP,
        }
    }

    /// From the beginning of a run to the next.
    fn every(self, app: &App) -> Duration {
        match self {
            Self::Expire => Duration::from_hours(1),
            Self::ReconcileRoles => app.config.reconcile_interval,
            Self::LogChannel => Duration::from_mins(1),
            Self::Cleanup => Duration::from_hours(24),
        }
    }

    /// Whether this instance can do it at all.
    fn can_run(self, app: &App) -> bool {
        match self {
            // Where the gateway is heard, so that both order their observations alike; or in a process
            // that never hears it.
            Self::ReconcileRoles => match &app.bot {
                Some(bot) => bot.gateway_lease().is_some(),
                None => app.discord.is_some(),
            },
            Self::Expire | Self::LogChannel | Self::Cleanup => true,
        }
    }

    /// One run; the sentence goes into its row.
    async fn run(self, app: &App) -> anyhow::Result<String> {
        let core = &app.core;
        Ok(match self {
            Self::Expire => {
                let announced = licenses::announce_expired(core).await?;
                let ended = entitlements::end_expired_grace(core).await?;
                format!("{ended} ended after their grace, {announced} expired")
            }
            Self::ReconcileRoles => reconcile_roles::run(app).await?,
            Self::LogChannel => format!("{} events read", log_channel::read_on(core).await?),
            Self::Cleanup => {
                let (forgotten, erased) = (outbox::delete_old(core).await?, erasure::sweep(core).await?);
                format!("{forgotten} deliveries forgotten, {erased} accounts erased")
            }
        })
    }
}

impl App {
    /// Runs a worker if it is due and no other instance does. Answers whether it ran.
    ///
    /// # Errors
    /// When the database does not answer. A run that fails is logged, reported in its row, and due
    /// again within a minute.
    pub async fn run(&self, worker: Worker) -> dca_core::Result<bool> {
        if !worker.can_run(self) {
            return Ok(false);
        }
        let next = self.core.clock.now() + worker.every(self);
        let Some(lease) = rows::acquire(&self.core, worker.name(), LEASE, next).await? else { return Ok(false) };
        let result = tokio::select! {
            result = worker.run(self) => result,
            () = self.renew_lease(&lease) => Err(anyhow::anyhow!("another instance took the run over")),
        };
        if let Err(failed) = &result {
            error!(worker = worker.name(), error = format!("{failed:#}"), "a worker failed");
            rows::wake_in(&self.core, worker.name(), Duration::from_secs(30)).await?;
        }
        let result_text = result.unwrap_or_else(|failed| format!("failed: {failed:#}"));
        debug!(worker = worker.name(), result_text, "ran");
        rows::release(&self.core, &lease, &result_text).await?;
        Ok(true)
    }

    /// Renews a run's lease; returns when it is lost.
    async fn renew_lease(&self, lease: &rows::Lease) {
        loop {
            tokio::time::sleep(LEASE / 3).await;
            match rows::renew(&self.core, lease, LEASE).await {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => warn!(worker = lease.name, %error, "a lease could not be renewed"),
            }
        }
    }
}

/// Runs relay and timer until `stop`, then lets what is running finish.
pub async fn run(app: App, stop: CancellationToken) {
    futures::join!(relay(app.clone(), stop.clone()), timer(app, stop));
}

/// Performs deliveries until `stop`: each transport has a worker of its own, so that one that stalls holds up
/// nothing else.
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
    until(stop, monitor).await;
}

/// Runs what is due, every second and when notified, until `stop`.
async fn timer(app: App, stop: CancellationToken) {
    let monitor = Monitor::new().register(move |_| {
        WorkerBuilder::new("timer").backend(ticks(&app)).concurrency(1).data(app.clone()).build(run_due_workers)
    });
    until(stop, monitor).await;
}

async fn until(stop: CancellationToken, monitor: Monitor) {
    let (stopped, timeout) = (stop.clone(), async {
        stop.cancelled().await;
        tokio::time::sleep(Duration::from_secs(15)).await;
    });
    let monitor = monitor.should_restart(|_, error| {
        error!(%error, "a worker ended and is started again");
        true
    });
    let ended = monitor.run_with_signal(async move {
        stopped.cancelled().await;
        Ok(())
    });
    tokio::select! {
        ended = ended => if let Err(error) = ended {
            warn!(%error, "a worker did not end cleanly");
        },
        () = timeout => warn!("a worker did not end in time; its leases end by themselves"),
    }
}

/// A look at what is due.
#[derive(Debug)]
struct Tick;

/// One look a second, and one for each nudge. A look that took longer is followed by a second's rest, not by
/// those that were missed.
fn ticks(app: &App) -> stream::BoxStream<'static, Result<Tick, Infallible>> {
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    seconds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let seconds = stream::unfold(seconds, |mut seconds| async move {
        seconds.tick().await;
        Some((Ok(Tick), seconds))
    });
    stream::select(seconds, notifications(app, Topic::Workers).map(|()| Ok(Tick))).boxed()
}

/// An item for each nudge of this topic, and one for notifications that were missed.
fn notifications(app: &App, wanted: Topic) -> impl Stream<Item = ()> + Send + use<> {
    stream::unfold(app.core.bus.subscribe(), move |mut notifications| async move {
        loop {
            match notifications.recv().await {
                Ok(topic) if topic == wanted => return Some(((), notifications)),
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => return Some(((), notifications)),
                Err(RecvError::Closed) => return None,
            }
        }
    })
}

async fn run_due_workers(_: Tick, app: Data<App>) -> Result<(), Infallible> {
    for worker in Worker::ALL {
        if let Err(error) = app.run(worker).await {
            warn!(worker = worker.name(), %error, "the workers cannot be asked for; trying again");
            tokio::time::sleep(RETRY_DELAY).await;
            break;
        }
    }
    Ok(())
}
