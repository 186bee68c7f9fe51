//! The base of every Sim: state behind one lock, a notification on each change, and waiting with a limit that
//! panics with the Sim's history.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How long waiting methods wait.
pub(crate) const LIMIT: Duration = Duration::from_secs(10);
/// How many lines of history a panic prints.
const HISTORY_LINES: usize = 80;

/// State that records its history.
pub(crate) trait History {
    /// The Sim's name for panic messages.
    const SIM: &'static str;

    /// The history, one line per event.
    fn history_lines(&self) -> &[String];
}

/// The state that a Sim's server and its handles share.
pub(crate) struct Shared<S> {
    state: Mutex<S>,
    pub changed: watch::Sender<()>,
    pub shutdown: CancellationToken,
}

impl<S: History> Shared<S> {
    pub fn new(state: S) -> Self {
        Self { state: Mutex::new(state), changed: watch::Sender::new(()), shutdown: CancellationToken::new() }
    }

    pub fn lock(&self) -> MutexGuard<'_, S> {
        // A panic in one method must not turn later failures into lock errors.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and wakes all waiters.
    pub fn change<T>(&self, change: impl FnOnce(&mut S) -> T) -> T {
        let result = change(&mut self.lock());
        self.changed.send_replace(());
        result
    }

    /// Waits until `find` returns a value; it is called again after each change.
    pub async fn wait<T>(&self, what: &str, limit: Duration, find: impl FnMut(&mut S) -> Option<T>) -> T {
        let found = tokio::time::timeout(limit, self.wait_unlimited(find)).await;
        found.unwrap_or_else(|_| panic!("{}: no {what} within {limit:?}\n{}", S::SIM, self.history()))
    }

    /// [`Self::wait`] without a limit, for the Sim's server.
    pub async fn wait_unlimited<T>(&self, mut find: impl FnMut(&mut S) -> Option<T>) -> T {
        let mut changed = self.changed.subscribe();
        loop {
            if let Some(found) = find(&mut self.lock()) {
                return found;
            }
            changed.changed().await.expect("the sender is owned by self");
        }
    }

    /// The last lines of the history, for panic messages.
    pub fn history(&self) -> String {
        let state = self.lock();
        let history = state.history_lines();
        history[history.len().saturating_sub(HISTORY_LINES)..].join("\n")
    }
}
