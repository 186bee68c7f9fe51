//! Deletes what is no longer needed.

use std::time::Duration;

use anyhow::bail;
use dca_core::{cleanup, workers};

use super::scheduled::ScheduledWorker;
use crate::App;

/// Deletes old deliveries and events, expired account data and accounts due for deletion.
pub const CLEANUP: ScheduledWorker = ScheduledWorker {
    name: workers::CLEANUP,
    interval: |_| Duration::from_hours(1),
    can_run: |_| true,
    run: |app| Box::pin(clean_up(app)),
};

async fn clean_up(app: &App) -> anyhow::Result<String> {
    let (mut deleted, mut failed) = (Vec::new(), Vec::new());
    for (rows, result) in cleanup::run(&app.core, app.config.storage.event_retention).await {
        match result {
            Ok(count) => deleted.push(format!("{count} {rows}")),
            Err(error) => failed.push(format!("{rows}: {error}")),
        }
    }
    let summary = format!("deleted {}", deleted.join(", "));
    if failed.is_empty() { Ok(summary) } else { bail!("could not delete {}; {summary}", failed.join("; ")) }
}
