//! Limits emails per recipient domain: few concurrently, at a steady rate, and with a pause for a domain that asks
//! for one. Emails that wait for one domain do not delay those to others.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{collections::HashMap, time::Duration};

use chrono::{DateTime, Utc};

/// How many emails are sent to one domain concurrently.
const MAX_CONCURRENT: u32 = 2;

/// How long a domain is paused after it deferred an email.
const PAUSE: Duration = Duration::from_secs(30);

/// The state of each recipient domain in this process. Times come from [`dca_core::Clock`].
#[derive(Clone)]
pub(super) struct Domains {
    /// The interval between two queued emails to the same domain.
    every: Duration,
    known: Arc<Mutex<HashMap<String, Domain>>>,
}

struct Domain {
    sending: u32,
    paused_until: DateTime<Utc>,
    /// When the last queued email is due.
    queue_ends: DateTime<Utc>,
}

/// Permission to send one email; released on drop.
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

    /// Acquires a permit, or returns how long to wait for one.
    pub(super) fn acquire<'a>(&'a self, domain: &'a str, now: DateTime<Utc>) -> Result<SendPermit<'a>, Duration> {
        let mut known = self.known();
        known.retain(|_, domain| domain.sending > 0 || domain.paused_until > now || domain.queue_ends > now);
        let entry = known.entry(domain.to_owned()).or_insert(Domain { sending: 0, paused_until: now, queue_ends: now });
        if entry.sending >= MAX_CONCURRENT || entry.paused_until > now {
            return Err(entry.enqueue(now, self.every));
        }
        entry.sending += 1;
        Ok(SendPermit { domains: self, domain })
    }

    /// How long an email that cannot be sent yet must wait, at least `at_least`. Emails are queued one after the
    /// other, so that not all of them are tried again at once.
    pub(super) fn queue(&self, permit: &SendPermit, at_least: Duration, now: DateTime<Utc>) -> Duration {
        self.known().get_mut(permit.domain).map_or(at_least, |domain| domain.enqueue(now, self.every).max(at_least))
    }

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
    /// Adds an email to the end of the queue and returns how long it must wait.
    fn enqueue(&mut self, now: DateTime<Utc>, every: Duration) -> Duration {
        self.queue_ends = self.queue_ends.max(self.paused_until).max(now) + every;
        (self.queue_ends - now).to_std().unwrap_or(every)
    }
}
