//! Consideration for the domains that receive letters: few at once, one after the other, and a rest for
//! one that asks for it. What waits for one domain holds up no other.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};

/// Letters on their destination to one domain at once.
const MAX_CONCURRENT: u32 = 2;

/// How long a domain rests that said "not now".
const PAUSE: Duration = Duration::from_secs(30);

/// What this process knows of the domains it writes to. Times are domain time, as when a letter is due.
#[derive(Clone)]
pub(super) struct Domains {
    /// Between two letters that wait for the same domain.
    every: Duration,
    known: Arc<Mutex<HashMap<String, Domain>>>,
}

struct Domain {
    sending: u32,
    paused_until: DateTime<Utc>,
    /// When the last of those that wait is due.
    queue_ends: DateTime<Utc>,
}

/// The right to send one letter, until it is dropped.
pub(super) struct SendPermit<'a> {
    domains: &'a Domains,
    domain: &'a str,
}

impl Drop for SendPermit<'_> {
    fn drop(&mut self) {
        if let Some(domain) = self.domains.known().get_mut(self.domain) {
            domain.sending -= 1;
        }
    }
}

impl Domains {
    pub(super) fn new(every: Duration) -> Self {
        Self { every, known: Arc::default() }
    }

    /// Takes a permit.
    ///
    /// # Errors
    /// The time to wait when there is none.
    pub(super) fn acquire<'a>(&'a self, domain: &'a str, now: DateTime<Utc>) -> Result<SendPermit<'a>, Duration> {
        let mut known = self.known();
        known.retain(|_, domain| domain.sending > 0 || domain.paused_until > now || domain.queue_ends > now);
        let it = known.entry(domain.to_owned()).or_insert(Domain { sending: 0, paused_until: now, queue_ends: now });
        if it.sending >= MAX_CONCURRENT || it.paused_until > now {
            return Err(it.place(now, self.every));
        }
        it.sending += 1;
        Ok(SendPermit { domains: self, domain })
    }

    /// How long a letter waits that must not go yet: behind the others, so that a long queue is not looked
    /// through again for each that leaves it.
    pub(super) fn queue(&self, permit: &SendPermit, at_least: Duration, now: DateTime<Utc>) -> Duration {
        self.known().get_mut(permit.domain).map_or(at_least, |domain| domain.place(now, self.every).max(at_least))
    }

    /// Lets a domain rest.
    pub(super) fn pause(&self, permit: &SendPermit, now: DateTime<Utc>) {
        if let Some(domain) = self.known().get_mut(permit.domain) {
            domain.paused_until = now + PAUSE;
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Domain>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Domain {
    /// The time to the end of the queue, which moves on.
    fn place(&mut self, now: DateTime<Utc>, every: Duration) -> Duration {
        self.queue_ends = self.queue_ends.max(self.paused_until).max(now) + every;
        (self.queue_ends - now).to_std().unwrap_or(every)
    }
}
