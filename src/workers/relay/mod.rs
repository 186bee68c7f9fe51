//! Performs deliveries. Each transport has an apalis worker that reads from a stream of claims. The state is kept
//! in the outbox row, so the stream never fails, and every claim is completed even if the delivery panics.
//!
//! ```text
//! due? -> reserve (the limit of direct messages) -> claim many -> deliver, each -> complete many
//! ```
//! Deliveries are claimed only when they may be performed, so those that wait for a limit cost nothing. As many are
//! claimed with one statement as can be performed at once, and as many are completed with one as have been performed
//! meanwhile; a single one does not wait for others.

mod deliver;
mod dm_limit;

use std::{convert::Infallible, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use apalis::prelude::{Data, Monitor, WorkerBuilder, WorkerBuilderExt};
use dca_core::outbox::{self, Claim, Outcome, Transport};
use dca_core::{Core, bus::Topic};
use futures::{FutureExt, Stream, StreamExt, stream, stream::BoxStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use self::dm_limit::DmLimit;
use super::runtime::{RETRY_DELAY, notifications, run_until};
use crate::{App, outbound::mail};

/// How much longer a lease lasts than the longest attempt.
const LEASE_MARGIN: Duration = Duration::from_secs(5);

/// A pause from which on waiting deliveries are due later, so that nothing has to count them meanwhile.
const POSTPONED_FROM: Duration = Duration::from_secs(5);

/// How often the outbox is checked without a notification.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

struct TransportSettings {
    /// How many deliveries are claimed and performed at once.
    concurrency: usize,
    /// The longest duration of an attempt.
    attempt_timeout: Duration,
    /// Whether this process can perform them; if not, they stay queued.
    can_send: bool,
}

impl TransportSettings {
    fn of(transport: Transport, app: &App) -> Self {
        match transport {
            Transport::DirectMessages | Transport::Discord => Self {
                concurrency: 16,
                attempt_timeout: app.config.discord.delivery_timeout * 2,
                can_send: app.discord.is_some(),
            },
            Transport::Smtp => {
                Self { concurrency: 4, attempt_timeout: mail::ATTEMPT_TIMEOUT, can_send: app.mailer.can_send() }
            }
        }
    }
}

/// Performs the deliveries of a transport until `stop`. Each transport has its own worker, so that a stalled one does
/// not block the others.
pub async fn run(app: App, transport: Transport, stop: CancellationToken) -> anyhow::Result<()> {
    let (attempts, finished) = mpsc::channel(1_000);
    tokio::spawn(complete(app.core.clone(), transport, finished));
    let settings = TransportSettings::of(transport, &app);
    let slots = Arc::new(Semaphore::new(settings.concurrency));
    let dm_limit = DmLimit::new(app.clone());
    let relay = Arc::new(Relay { app, transport, settings, slots, dm_limit, attempts });
    let monitor = Monitor::new().register(move |_| {
        WorkerBuilder::new(format!("relay-{transport}"))
            .backend(jobs(relay.clone()))
            .enable_tracing()
            .concurrency(relay.settings.concurrency)
            .data(relay.clone())
            .build(perform)
    });
    run_until(stop, monitor).await
}

/// What the claims and the attempts of a transport share.
struct Relay {
    app: App,
    transport: Transport,
    settings: TransportSettings,
    /// One for each delivery that can be performed now, so that a process that dies leaves few claims behind.
    slots: Arc<Semaphore>,
    dm_limit: DmLimit,
    attempts: mpsc::Sender<Attempt>,
}

/// A claim to perform.
#[derive(Clone)]
struct Job {
    claim: Claim,
    _slot: Arc<OwnedSemaphorePermit>,
}

/// A performed claim, and who waits until its outcome is recorded.
struct Attempt {
    claim: Claim,
    outcome: Outcome,
    recorded: oneshot::Sender<dca_core::Result<bool>>,
}

/// The claims of a transport, as there are slots to perform them.
fn jobs(relay: Arc<Relay>) -> BoxStream<'static, Result<Job, Infallible>> {
    let topics = [Topic::Outbox, relay.transport.topic()];
    let notified = notifications(&relay.app, topics).boxed().fuse();
    let batches = stream::unfold((relay, notified), |(relay, mut notified)| async move {
        let jobs = relay.next_jobs(&mut notified).await;
        Some((stream::iter(jobs.into_iter().map(Ok)), (relay, notified)))
    });
    batches.flatten().boxed()
}

impl Relay {
    async fn next_jobs(&self, notified: &mut (impl Stream<Item = ()> + Unpin)) -> Vec<Job> {
        loop {
            let slots = self.free_slots().await;
            // What follows answers all notifications so far.
            while let Some(Some(())) = notified.next().now_or_never() {}
            match self.claim(slots.len()).await {
                Ok(claims) if claims.is_empty() => {
                    drop(slots);
                    // A notification, or the next poll.
                    _ = tokio::time::timeout(POLL_INTERVAL, notified.next()).await;
                }
                Ok(claims) => {
                    return claims.into_iter().zip(slots).map(|(claim, slot)| Job { claim, _slot: slot }).collect();
                }
                Err(pause) => {
                    drop(slots);
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    /// All free slots; waits for the first one.
    async fn free_slots(&self) -> Vec<Arc<OwnedSemaphorePermit>> {
        let first = self.slots.clone().acquire_owned().await;
        let others = std::iter::from_fn(|| self.slots.clone().try_acquire_owned().ok());
        first.into_iter().chain(others).map(Arc::new).collect()
    }

    /// Claims deliveries for the slots that are free. Fails with a pause, during which nothing may be claimed.
    async fn claim(&self, slots: usize) -> Result<Vec<Claim>, Duration> {
        match self.claim_due(slots as u64).await {
            Ok(claims) => claims,
            Err(error) => {
                warn!(%error, "could not claim deliveries; trying again");
                Err(RETRY_DELAY)
            }
        }
    }

    async fn claim_due(&self, slots: u64) -> dca_core::Result<Result<Vec<Claim>, Duration>> {
        let (core, transport) = (&self.app.core, self.transport);
        if !self.settings.can_send {
            return Ok(Ok(Vec::new()));
        }
        let due = outbox::count_due(core, transport, slots).await?;
        if due == 0 {
            return Ok(Ok(Vec::new()));
        }
        let lease = self.settings.attempt_timeout + LEASE_MARGIN;
        if transport != Transport::DirectMessages {
            return outbox::claim(core, transport, due, lease).await.map(Ok);
        }
        if let Some(wait) = self.dm_limit.pause() {
            if wait < POSTPONED_FROM {
                return Ok(Err(wait));
            }
            outbox::postpone(core, transport, wait).await?;
            core.bus.notify_locally(transport.topic());
            return Ok(Ok(Vec::new()));
        }
        let reserved = match self.dm_limit.reserve(due).await {
            Ok(reserved) => reserved,
            Err(wait) => return Ok(Err(wait)),
        };
        let claimed = outbox::claim(core, transport, reserved, lease).await;
        // Another instance may have been faster.
        self.dm_limit.refund(reserved - claimed.as_ref().map_or(0, |claims| claims.len() as u64));
        claimed.map(Ok)
    }
}

/// Performs one delivery, and returns once its outcome is recorded.
async fn perform(job: Job, relay: Data<Arc<Relay>>) -> Result<(), Infallible> {
    let claim = job.claim.clone();
    let attempt =
        tokio::time::timeout(relay.settings.attempt_timeout, deliver::deliver(&relay.app, &relay.dm_limit, &claim));
    let outcome = match AssertUnwindSafe(attempt).catch_unwind().await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => Outcome::Failed("timed out".to_owned()),
        Err(_) => Outcome::Failed("panicked".to_owned()),
    };
    match &outcome {
        Outcome::Dead(reason) => error!(delivery = %claim.id, reason, "a delivery failed permanently"),
        Outcome::Failed(reason) => {
            warn!(delivery = %claim.id, attempt = claim.attempt, reason, "a delivery failed and will be retried");
        }
        Outcome::Undelivered(reason) => info!(delivery = %claim.id, reason, "not delivered"),
        Outcome::Sent | Outcome::Wait(_) => {}
    }
    metrics::counter!("dca_deliveries_total", "outcome" => outcome.as_str()).increment(1);
    let (id, (recorded, answer)) = (claim.id, oneshot::channel());
    // `complete` ends after the last attempt.
    _ = relay.attempts.send(Attempt { claim, outcome, recorded }).await;
    match answer.await {
        Ok(Ok(true)) => {}
        Ok(Ok(false)) => warn!(delivery = %id, "another instance already completed this delivery"),
        Ok(Err(error)) => {
            error!(delivery = %id, %error, "could not record a delivery's outcome; it is retried when its lease expires");
        }
        Err(_) => error!(delivery = %id, "could not record a delivery's outcome; it is retried when its lease expires"),
    }
    Ok(())
}

/// Records the outcomes of attempts, those that have accumulated meanwhile with one transaction.
async fn complete(core: Core, transport: Transport, mut finished: mpsc::Receiver<Attempt>) {
    let mut attempts = Vec::new();
    while finished.recv_many(&mut attempts, 1_000).await > 0 {
        let outcomes = attempts.iter().map(|attempt| (&attempt.claim, attempt.outcome.clone())).collect();
        let all = outbox::complete_all(&core, outcomes).await;
        for Attempt { claim, outcome, recorded } in attempts.drain(..) {
            let is_recorded = match &all {
                Ok(ids) => Ok(ids.contains(&claim.id)),
                // One by one, so that one that cannot be recorded does not repeat the others.
                Err(_) => outbox::complete(&core, &claim, outcome).await,
            };
            _ = recorded.send(is_recorded);
        }
        // The next delivery with the same ordering key may be performed now.
        core.bus.notify_locally(transport.topic());
    }
}
