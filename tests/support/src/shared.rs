//! What every Sim stands on: a state behind one lock, a bell that rings at each change, and a way to
//! wait for something that has a limit and, past it, panics with the Sim's history.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How long a waiting verb waits.
pub(crate) const LIMIT: Duration = Duration::from_secs(10);
/// How much history a panic prints.
const HISTORY_SHOWN: usize = 80;

/// A state that remembers what happened to it.
pub(crate) trait History {
    /// The Sim's name, as panics print it.
    const SIM: &'static str;

    /// Everything that happened, one line each.
    fn history_lines(&self) -> &[String];
}

/// The state, its lock and its bell: what a Sim's server and its handles share.
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
        // A verb that panicked (a test's mistake) must not hide behind a poisoned lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state and wakes everyone who waits for something.
    pub fn change<T>(&self, change: impl FnOnce(&mut S) -> T) -> T {
        let result = change(&mut self.lock());
        self.changed.send_replace(());
        result
    }

    /// Waits until `look` finds something; it is asked again after each change.
    pub async fn wait<T>(&self, what: &str, limit: Duration, look: impl FnMut(&mut S) -> Option<T>) -> T {
        let found = tokio::time::timeout(limit, self.found(look)).await;
        found.unwrap_or_else(|_| panic!("{}: no {what} within {limit:?}\n{}", S::SIM, self.history()))
    }

    /// [`Self::wait`] without a limit, for what the Sim's server waits for.
    pub async fn found<T>(&self, mut look: impl FnMut(&mut S) -> Option<T>) -> T {
        let mut changed = self.changed.subscribe();
        loop {
            if let Some(found) = look(&mut self.lock()) {
                return found;
            }
            changed.changed().await.expect("the sender lives in self");
        }
    }

    /// Everything that happened lately, as panics print it.
    pub fn history(&self) -> String {
        let state = self.lock();
        let history = state.history_lines();
        history[history.len().saturating_sub(HISTORY_SHOWN)..].join("\n")
    }
}
