//! The pause of direct messages while Discord limits them.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long direct messages are paused when Discord asks for it.
pub(crate) const DM_PAUSE: Duration = Duration::from_mins(15);

/// The time until which direct messages are paused.
#[derive(Clone, Default)]
pub(crate) struct DmPause(Arc<Mutex<Option<Instant>>>);

impl DmPause {
    pub(crate) fn start(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + DM_PAUSE);
    }

    pub(crate) fn remaining(&self) -> Option<Duration> {
        let until = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        until.and_then(|until| until.checked_duration_since(Instant::now())).filter(|remaining| !remaining.is_zero())
    }
}
