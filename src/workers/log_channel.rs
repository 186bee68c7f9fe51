//! Queues the lines of log channels.

use std::time::Duration;

use dca_core::{log_channel, workers};

use super::scheduled::ScheduledWorker;
use crate::App;

/// Queues new events for the log channels. Each new event schedules a run.
pub const LOG_CHANNEL: ScheduledWorker = ScheduledWorker {
    name: workers::LOG_CHANNEL,
    interval: |_| Duration::from_mins(1),
    can_run: |_| true,
    run: |app| Box::pin(enqueue_log_lines(app)),
};

async fn enqueue_log_lines(app: &App) -> anyhow::Result<String> {
    Ok(format!("{} events read", log_channel::enqueue_log_lines(&app.core).await?))
}
