//! The order of observations.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use crate::Clock;

/// A position in the order of observations: strictly increasing within an instance, and above every stored
/// stamp when an instance starts to observe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp(pub(super) i64);

/// Issues stamps.
#[derive(Clone, Debug, Default)]
pub struct Stamps(Arc<AtomicI64>);

impl Stamps {
    /// A stamp later than every previous one: the clock in microseconds, or the last stamp plus one.
    pub fn next(&self, clock: &Clock) -> Stamp {
        let now = clock.now().timestamp_micros();
        let last = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |last| Some(now.max(last + 1)));
        Stamp(last.map_or(now, |last| now.max(last + 1)))
    }

    /// Makes every further stamp later than this one.
    pub(super) fn raise_above(&self, stamp: i64) {
        self.0.fetch_max(stamp, Ordering::SeqCst);
    }
}
