//! What all workers share: the run of an apalis worker, and the stream of notifications.

use std::time::Duration;

use anyhow::{Result, bail};
use apalis::prelude::Monitor;
use dca_core::bus::Topic;
use futures::{Stream, stream};
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use crate::App;

/// How long to wait after a database error.
pub(super) const RETRY_DELAY: Duration = Duration::from_secs(5);

/// How long running work may take to finish after `stop`.
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// Runs the worker of `monitor` until `stop`, then waits for running work to finish. If the worker ends by itself,
/// `Monitor::run_with_signal` would still wait for the signal.
pub(super) async fn run_until(stop: CancellationToken, monitor: Monitor) -> Result<()> {
    let context = monitor.context();
    let mut run = std::pin::pin!(monitor.run());
    tokio::select! {
        ended = &mut run => return Ok(ended?),
        () = stop.cancelled() => {}
    }
    context.shutdown()?;
    match tokio::time::timeout(STOP_TIMEOUT, run).await {
        Ok(ended) => Ok(ended?),
        Err(_) => bail!("it did not stop in time; its leases will expire"),
    }
}

/// Yields an item for each notification of these topics, and one if notifications were missed.
pub(super) fn notifications<const N: usize>(app: &App, topics: [Topic; N]) -> impl Stream<Item = ()> + Send + use<N> {
    stream::unfold(app.core.bus.subscribe(), move |mut receiver| async move {
        loop {
            match receiver.recv().await {
                Ok(received) if topics.contains(&received) => return Some(((), receiver)),
                Ok(_) => {}
                Err(RecvError::Lagged(_)) => return Some(((), receiver)),
                Err(RecvError::Closed) => return None,
            }
        }
    })
}
