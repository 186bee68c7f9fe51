//! Rotates the key that signs verdicts.

use std::time::Duration;

use dca_core::{key_rotation, workers};
use tracing::warn;

use super::scheduled::ScheduledWorker;
use crate::App;

/// Rotates the key that signs verdicts, and signs the list of these keys. If the root key was exported, reminds the
/// operator to do so.
pub const SIGNING_KEYS: ScheduledWorker = ScheduledWorker {
    name: workers::SIGNING_KEYS,
    interval: |_| Duration::from_hours(24),
    can_run: |_| true,
    run: |app| Box::pin(renew(app)),
};

async fn renew(app: &App) -> anyhow::Result<String> {
    key_rotation::renew(&app.core).await?;
    let status = key_rotation::status(&app.core).await?;
    if status.is_publication_due {
        warn!(
            next_rotation = %status.next_rotation,
            list_expires_at = %status.list_expires_at,
            "sign a new list of the signing keys: dca-auth keys publish --root FILE"
        );
    }
    Ok(format!("the next signing key is due at {}", status.next_rotation))
}
