//! How many direct messages may be sent now: the bot's own limit, and what Discord says.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use dca_core::limiter::Bucket;

use crate::App;

pub(super) struct DmLimit {
    app: App,
    /// Messages that the limit has allowed and that were not sent.
    reserved: AtomicU64,
}

impl DmLimit {
    pub fn new(app: App) -> Self {
        Self { app, reserved: AtomicU64::new(0) }
    }

    /// How long Discord accepts no direct messages.
    pub fn pause(&self) -> Option<Duration> {
        self.app.dm_pause.remaining().max(self.app.discord.as_ref()?.wait_before_dm())
    }

    /// Counts up to `count` messages against the limit. Returns how many may be sent, or fails with the time to wait.
    pub async fn reserve(&self, count: u64) -> Result<u64, Duration> {
        let mut reserved = self.reserved.swap(0, Ordering::Relaxed);
        while reserved < count {
            match self.app.core.limiter.check(Bucket::Dm, "all").await {
                Ok(_) => reserved += 1,
                Err(wait) if reserved == 0 => return Err(wait),
                Err(_) => break,
            }
        }
        self.refund(reserved.saturating_sub(count));
        Ok(reserved.min(count))
    }

    /// Keeps what was reserved and not used for later messages.
    pub fn refund(&self, count: u64) {
        self.reserved.fetch_add(count, Ordering::Relaxed);
    }
}
