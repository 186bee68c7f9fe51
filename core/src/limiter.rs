//! Rate limits with token buckets (GCRA): `governor` within a process, a Lua script when instances share
//! Redis. If Redis does not respond, the limits of the process apply.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{collections::HashMap, num::NonZeroU32};

use governor::clock::{Clock as _, DefaultClock};
use governor::state::keyed::DefaultKeyedStateStore;
use governor::{Quota, RateLimiter, middleware::StateInformationMiddleware};
use redis::{Script, aio::ConnectionManager};
use tracing::warn;

use crate::{Clock, log_limit::LogLimit, string_enum::string_enum};

string_enum! {
    /// The kind of request to limit.
    Bucket {
        /// Questions about a license, and its usage.
        Validate => "validate",
        /// Activations, deactivations and redemptions.
        Activate => "activate",
        /// Management of licenses, products, policies, API keys and bans.
        Manage => "manage",
        /// Invalid API keys, per client address.
        AuthFailure => "auth_failure",
        /// Direct messages, for the whole bot.
        Dm => "dm",
        /// Account requests, per network.
        Auth => "auth",
        /// Emails, per recipient domain.
        Email => "mail",
    }
}

/// A rate: bursts of `burst` requests, replenished by one per `every`.
#[derive(Clone, Copy, Debug)]
pub struct Rate {
    /// The number of requests allowed at once.
    pub burst: NonZeroU32,
    /// The time to replenish one request.
    pub every: Duration,
}

impl Rate {
    /// `n` requests per minute, all of which may be made at once.
    pub fn per_minute(n: NonZeroU32) -> Self {
        Self { burst: n, every: Duration::from_mins(1) / n.get() }
    }
}

/// The rate limiter of an instance.
#[derive(Clone)]
pub struct Limiter(Arc<Inner>);

type LocalLimiter = RateLimiter<String, DefaultKeyedStateStore<String>, DefaultClock, StateInformationMiddleware>;

struct Inner {
    buckets: HashMap<Bucket, (Rate, LocalLimiter)>,
    shared: Option<(ConnectionManager, String, Script)>,
    /// When Redis may be used again after a failure.
    redis_paused_until: Mutex<Option<Instant>>,
    warnings: LogLimit,
}

/// How long Redis is not used after a failure, so that a stalled Redis does not slow every request.
const REDIS_PAUSE: Duration = Duration::from_secs(2);

/// `KEYS[1]`: bucket. `ARGV`: now, interval and tolerance in µs. Returns the number of requests that are left, or the
/// negative number of µs to wait.
const GCRA: &str = "
local now, every, burst = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local tat = math.max(tonumber(redis.call('GET', KEYS[1]) or now), now)
local wait = tat + every - burst - now
if wait > 0 then return -wait end
redis.call('SET', KEYS[1], string.format('%.0f', tat + every), 'PX', math.ceil((tat + every - now) / 1000))
return math.floor(-wait / every)";

impl Limiter {
    /// Creates buckets with these rates. With `shared`, they are stored in Redis under `<prefix>:limit:`.
    ///
    /// # Panics
    /// Never: periods are at least one nanosecond.
    pub fn new(rates: &[(Bucket, Rate)], shared: Option<(ConnectionManager, &str)>) -> Self {
        let buckets = rates.iter().map(|&(bucket, rate)| {
            let quota = Quota::with_period(rate.every.max(Duration::from_nanos(1)))
                .expect("a period is never zero")
                .allow_burst(rate.burst);
            (bucket, (rate, RateLimiter::keyed(quota).with_middleware()))
        });
        let shared = shared.map(|(connection, prefix)| (connection, format!("{prefix}:limit"), Script::new(GCRA)));
        Self(Arc::new(Inner {
            buckets: buckets.collect(),
            shared,
            redis_paused_until: Mutex::new(None),
            warnings: LogLimit::default(),
        }))
    }

    /// The rate of a bucket, if it is limited.
    pub fn rate(&self, bucket: Bucket) -> Option<Rate> {
        self.0.buckets.get(&bucket).map(|(rate, _)| *rate)
    }

    /// Counts a request against a bucket. Returns how many more are allowed at once, or fails with the time to wait if
    /// the limit is exceeded.
    pub async fn check(&self, bucket: Bucket, key: &str) -> Result<u32, Duration> {
        let Some((rate, local)) = self.0.buckets.get(&bucket) else { return Ok(u32::MAX) };
        let paused_until = || self.0.redis_paused_until.lock().unwrap_or_else(PoisonError::into_inner);
        let is_paused = paused_until().is_some_and(|until| until > Instant::now());
        if let Some((connection, prefix, script)) = self.0.shared.as_ref().filter(|_| !is_paused) {
            let every = micros(rate.every);
            let response = script
                .key(format!("{prefix}:{bucket}:{key}"))
                .arg(Clock::system().now().timestamp_micros())
                .arg(every)
                .arg(every.saturating_mul(rate.burst.get().into()))
                .invoke_async::<i64>(&mut connection.clone())
                .await;
            match response {
                Ok(left) if left >= 0 => return Ok(u32::try_from(left).unwrap_or(u32::MAX)),
                Ok(wait) => return Err(Duration::from_micros(wait.unsigned_abs())),
                Err(error) => {
                    if self.0.warnings.allows() {
                        warn!(%error, "Redis does not respond; rate limits are not shared between instances until it does");
                    }
                    *paused_until() = Some(Instant::now() + REDIS_PAUSE);
                }
            }
        }
        let now = DefaultClock::default().now();
        let checked = local.check_key(&key.to_owned());
        checked.map(|state| state.remaining_burst_capacity()).map_err(|not_until| not_until.wait_time_from(now))
    }

    /// Drops the buckets that have refilled. Called regularly to bound memory use.
    pub fn drop_idle(&self) {
        for (_, local) in self.0.buckets.values() {
            local.retain_recent();
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX).max(1)
}
