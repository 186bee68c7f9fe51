//! Expires licenses and ends grace periods.

use std::time::Duration;

use dca_core::{entitlements, licenses, workers};

use super::scheduled::ScheduledWorker;
use crate::App;

/// Expires licenses, and revokes those whose grace period has ended. A state change is due at its exact time:
/// `dca_core` schedules the next run for it.
pub const EXPIRE: ScheduledWorker = ScheduledWorker {
    name: workers::EXPIRE,
    interval: |_| Duration::from_hours(1),
    can_run: |_| true,
    run: |app| Box::pin(expire(app)),
};

async fn expire(app: &App) -> anyhow::Result<String> {
    let announced = licenses::announce_expired(&app.core).await?;
    let ended = entitlements::end_expired_grace(&app.core).await?;
    Ok(format!("{ended} licenses ended after their grace period, {announced} expired"))
}
