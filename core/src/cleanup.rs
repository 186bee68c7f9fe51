//! Deletes what is no longer needed, one step for each kind of row.

use std::time::Duration;

use futures::future::BoxFuture;

use crate::accounts::{erasure, one_time, sessions};
use crate::{Core, Result, events, outbox, throttles, users};

/// How long rows are kept whose retention is configured.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// Events; `None` keeps them all.
    pub events: Option<Duration>,
}

/// What a step deletes, and its function, which returns how many rows it deleted.
type Step = (&'static str, for<'a> fn(&'a Core, &'a Retention) -> BoxFuture<'a, Result<u64>>);

const STEPS: [Step; 8] = [
    ("deliveries", |core, _| Box::pin(outbox::delete_old(core))),
    ("accounts", |core, _| Box::pin(erasure::erase_due(core))),
    ("unverified accounts", |core, _| Box::pin(users::delete_unverified(core))),
    ("one-time tokens", |core, _| Box::pin(one_time::delete_old(core))),
    ("refresh tokens", |core, _| Box::pin(sessions::delete_expired_tokens(core))),
    ("sessions", |core, _| Box::pin(sessions::delete_old(core))),
    ("throttles", |core, _| Box::pin(throttles::delete_old(core))),
    ("events", |core, retention| Box::pin(delete_events(core, retention.events))),
];

async fn delete_events(core: &Core, age: Option<Duration>) -> Result<u64> {
    match age {
        Some(age) => events::delete_older_than(core, age).await,
        None => Ok(0),
    }
}

/// Runs every step, also after one has failed. Returns what each deletes, and how many rows it deleted.
pub async fn run(core: &Core, retention: &Retention) -> Vec<(&'static str, Result<u64>)> {
    let mut results = Vec::new();
    for (rows, step) in STEPS {
        results.push((rows, step(core, retention).await));
    }
    results
}
