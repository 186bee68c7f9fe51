//! Token buckets (GCRA): `governor` in one process, one Lua script when instances share Redis.
//! A Redis that does not answer falls back to the process's own buckets: no lockout, no open door.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter, clock::Clock as _};
use redis::{Script, aio::ConnectionManager};
use tracing::warn;

use crate::{Clock, error::string_enum};

string_enum! {
    /// What is counted.
    Bucket {
        Validate => ("validate", "Validations, per API key and client address."),
        AuthFailure => ("auth_failure", "Wrong API keys, per client address."),
        Dm => ("dm", "Direct messages, for the whole bot."),
        Auth => ("auth", "Account requests, per network."),
        Mail => ("mail", "E-mails, per domain they go to."),
    }
}

/// How many may pass: a burst of `burst`, refilled one per `every`.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// Passes that may be used at once.
    pub burst: NonZeroU32,
    /// Time to win one pass back.
    pub every: Duration,
}

impl Rate {
    /// `n` per minute, all of which may be used at once.
    #[must_use]
    pub fn per_minute(n: NonZeroU32) -> Self {
        Self { burst: n, every: Duration::from_mins(1) / n.get() }
    }
}

/// All buckets of an instance.
#[derive(Clone)]
pub struct Limiter(Arc<Inner>);

struct Inner {
    buckets: HashMap<Bucket, (Rate, DefaultKeyedRateLimiter<String>)>,
    shared: Option<(ConnectionManager, String, Script)>,
    /// Until when Redis is left alone after it did not answer.
    away_until: Mutex<Option<Instant>>,
}

/// How long Redis is left alone after it did not answer: a stalled one must not slow every request.
const AWAY: Duration = Duration::from_secs(2);

/// KEYS[1] bucket; ARGV now, interval, tolerance (µs). Answers 0, or the µs to wait.
const GCRA: &str = "
local now, every, burst = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local tat = math.max(tonumber(redis.call('GET', KEYS[1]) or now), now)
local wait = tat + every - burst - now
if wait > 0 then return wait end
redis.call('SET', KEYS[1], string.format('%.0f', tat + every), 'PX', math.ceil((tat + every - now) / 1000))
return 0";

impl Limiter {
    /// Buckets with these rates; shared through Redis under `<prefix>:limit:` when given.
    ///
    /// # Panics
    /// Never: a rate's period is at least a nanosecond.
    #[must_use]
    pub fn new(rates: &[(Bucket, Rate)], shared: Option<(ConnectionManager, &str)>) -> Self {
        let buckets = rates.iter().map(|&(bucket, rate)| {
            let quota = Quota::with_period(rate.every.max(Duration::from_nanos(1)))
                .expect("a period is never zero")
                .allow_burst(rate.burst);
            (bucket, (rate, RateLimiter::keyed(quota)))
        });
        let shared = shared.map(|(connection, prefix)| (connection, format!("{prefix}:limit"), Script::new(GCRA)));
        Self(Arc::new(Inner { buckets: buckets.collect(), shared, away_until: Mutex::new(None) }))
    }

    /// Takes one pass.
    ///
    /// # Errors
    /// The time to wait when there is none.
    pub async fn check(&self, bucket: Bucket, key: &str) -> Result<(), Duration> {
        let Some((rate, local)) = self.0.buckets.get(&bucket) else { return Ok(()) };
        let away = self
            .0
            .away_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some_and(|until| until > Instant::now());
        if let Some((connection, prefix, script)) = self.0.shared.as_ref().filter(|_| !away) {
            let every = micros(rate.every);
            let answer = script
                .key(format!("{prefix}:{bucket}:{key}"))
                .arg(Clock::system().now().timestamp_micros())
                .arg(every)
                .arg(every.saturating_mul(rate.burst.get().into()))
                .invoke_async::<u64>(&mut connection.clone())
                .await;
            match answer {
                Ok(0) => return Ok(()),
                Ok(wait) => return Err(Duration::from_micros(wait)),
                Err(error) => {
                    warn!(%error, "rate limits are this instance's own until Redis is back");
                    let until = Some(Instant::now() + AWAY);
                    *self.0.away_until.lock().unwrap_or_else(PoisonError::into_inner) = until;
                }
            }
        }
        local
            .check_key(&key.to_owned())
            .map_err(|not_until| not_until.wait_time_from(governor::clock::DefaultClock::default().now()))
    }

    /// Forgets what no longer limits anybody; called by the cleanup of a long-lived process.
    pub fn drop_idle(&self) {
        for (_, local) in self.0.buckets.values() {
            local.retain_recent();
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX).max(1)
}
