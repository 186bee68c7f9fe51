//! Deletes what is no longer needed, one step for each kind of row.

use std::time::Duration;

use futures::future::BoxFuture;

use crate::accounts::{erasure, one_time, sessions};
use crate::{Core, Result, events, idempotency, licenses, outbox, throttles, users};

/// What a step deletes, and its function, which returns how many rows it deleted.
type Step = (&'static str, for<'a> fn(&'a Core, Option<Duration>) -> BoxFuture<'a, Result<u64>>);

const STEPS: [Step; 10] = [
    ("deliveries", |core, _| Box::pin(outbox::delete_old(core))),
    ("accounts", |core, _| Box::pin(erasure::erase_due(core))),
    ("unverified accounts", |core, _| Box::pin(users::delete_unverified(core))),
    ("one-time tokens", |core, _| Box::pin(one_time::delete_old(core))),
    ("refresh tokens", |core, _| Box::pin(sessions::delete_expired_tokens(core))),
    ("sessions", |core, _| Box::pin(sessions::delete_old(core))),
    ("floating sessions", |core, _| Box::pin(licenses::delete_expired_leases(core))),
    ("throttles", |core, _| Box::pin(throttles::delete_old(core))),
    ("idempotency keys", |core, _| Box::pin(idempotency::delete_old(core))),
    ("events", |core, age| Box::pin(delete_events(core, age))),
];

async fn delete_events(core: &Core, age: Option<Duration>) -> Result<u64> {
    match age {
        Some(age) => events::delete_older_than(core, age).await,
        None => Ok(0),
    }
}

/// Runs every step, also after one has failed. Events are deleted at `event_age`; `None` keeps them all. Returns what each
/// step deletes, and how many rows it deleted.
pub async fn run(core: &Core, event_age: Option<Duration>) -> Vec<(&'static str, Result<u64>)> {
    let mut results = Vec::new();
    for (rows, step) in STEPS {
        results.push((rows, step(core, event_age).await));
    }
    results
}
