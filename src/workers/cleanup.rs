//! Deletes what is no longer needed.

use std::time::Duration;

use dca_core::{accounts::erasure, outbox, workers};

use super::scheduled::ScheduledWorker;
use crate::App;

/// Deletes old deliveries, expired account data and accounts due for deletion.
pub const CLEANUP: ScheduledWorker = ScheduledWorker {
    name: workers::CLEANUP,
    interval: |_| Duration::from_hours(24),
    can_run: |_| true,
    run: |app| Box::pin(clean_up(app)),
};

async fn clean_up(app: &App) -> anyhow::Result<String> {
    let (deleted, erased) = (outbox::delete_old(&app.core).await?, erasure::erase_due(&app.core).await?);
    Ok(format!("{deleted} deliveries deleted, {erased} accounts erased"))
}
