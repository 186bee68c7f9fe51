//! Rate limits with token buckets (GCRA): `governor` within a process, a Lua script when instances share
//! Redis. If Redis does not respond, the limits of the process apply.
//!
//! Redis is not asked for every request. An instance that gets many requests with one key takes several tokens at once
//! and spends them itself, for up to `TOKEN_LIFETIME`; what is left then goes back with the next question. Tokens are taken
//! before they are spent, so all instances together never allow more than the limit, and only what one of them is
//! holding can be missing to another. The fewer tokens are left, the fewer are taken at once: the last ones one by one.
//! A refusal needs no further question until its wait has passed.

use std::collections::HashMap;
use std::fmt::Display;
use std::hash::{BuildHasher, Hash, RandomState};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use governor::clock::{Clock as _, DefaultClock};
use governor::state::keyed::DefaultKeyedStateStore;
use governor::{Quota, RateLimiter, middleware::StateInformationMiddleware};
use redis::{RedisResult, Script, aio::ConnectionManager};
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

/// Keys are hashed: with a secret of the process, so that no client can choose one that collides with another's.
type LocalLimiter = RateLimiter<u64, DefaultKeyedStateStore<u64>, DefaultClock, StateInformationMiddleware>;

struct Inner {
    /// In the order of [`Bucket::ALL`].
    buckets: Vec<Option<Limits>>,
    hasher: RandomState,
    shared: Option<Shared>,
    warnings: LogLimit,
}

/// A bucket.
struct Limits {
    rate: Rate,
    local: LocalLimiter,
    /// What Redis has said about keys that were in use lately.
    batches: Mutex<HashMap<u64, TokenBatch>>,
}

impl Limiter {
    /// Creates buckets with these rates. With `shared`, they are stored in Redis under `<prefix>:limit:`.
    ///
    /// # Panics
    /// Never: periods are at least one nanosecond.
    pub fn new(rates: &[(Bucket, Rate)], shared: Option<(ConnectionManager, &str)>) -> Self {
        let limits = |bucket: &Bucket| {
            let (_, rate) = *rates.iter().find(|(known, _)| known == bucket)?;
            let quota = Quota::with_period(rate.every.max(Duration::from_nanos(1)))
                .expect("a period is never zero")
                .allow_burst(rate.burst);
            Some(Limits { rate, local: RateLimiter::keyed(quota).with_middleware(), batches: Mutex::default() })
        };
        Self(Arc::new(Inner {
            buckets: Bucket::ALL.iter().map(limits).collect(),
            hasher: RandomState::new(),
            shared: shared.map(|(connection, prefix)| Shared::new(connection, prefix)),
            warnings: LogLimit::default(),
        }))
    }

    fn limits(&self, bucket: Bucket) -> Option<&Limits> {
        self.0.buckets[bucket as usize].as_ref()
    }

    /// The rate of a bucket, if it is limited.
    pub fn rate(&self, bucket: Bucket) -> Option<Rate> {
        self.limits(bucket).map(|limits| limits.rate)
    }

    /// Counts a request against a bucket. Returns how many more are allowed at once, or fails with the time to wait if
    /// the limit is exceeded. `key` is hashed within the process, and displayed for other instances.
    pub async fn check(&self, bucket: Bucket, key: &(impl Hash + Display + ?Sized)) -> Result<u32, Duration> {
        let Some(limits) = self.limits(bucket) else { return Ok(u32::MAX) };
        let hash = self.0.hasher.hash_one(key);
        if let Some(shared) = self.0.shared.as_ref().filter(|shared| !shared.is_paused()) {
            let request = match limits.take(hash) {
                Taken::Known(answer) => return answer,
                Taken::Ask(request) => request,
            };
            match shared.ask(limits.rate, request, &format!("{bucket}:{key}")).await {
                Ok(answer) => return limits.store(hash, answer),
                Err(error) => {
                    if self.0.warnings.allows() {
                        warn!(%error, "Redis does not respond; rate limits are not shared between instances until it does");
                    }
                    shared.pause();
                }
            }
        }
        let checked = limits.local.check_key(&hash);
        checked
            .map(|state| state.remaining_burst_capacity())
            .map_err(|not_until| not_until.wait_time_from(DefaultClock::default().now()))
    }

    /// Drops the buckets that have refilled. Called regularly to bound memory use.
    pub fn drop_idle(&self) {
        for limits in self.0.buckets.iter().flatten() {
            limits.local.retain_recent();
            limits.batches().retain(|_, batch| batch.until > Instant::now());
        }
    }
}

/// How long an instance may spend the tokens that it has taken.
const TOKEN_LIFETIME: Duration = Duration::from_secs(1);

/// The most tokens that an instance takes at once.
const MAX_BATCH: u32 = 64;

/// What Redis has said about a key.
struct TokenBatch {
    /// Tokens that were taken and not spent yet.
    tokens: u32,
    /// How many were taken.
    size: u32,
    /// How many tokens are left in Redis.
    left: u32,
    /// Until when the tokens may be spent. Without any: when it makes sense to ask again.
    until: Instant,
    is_refused: bool,
}

/// A question to Redis.
struct Request {
    /// How many tokens to take, if there are plenty.
    wanted: u32,
    /// Tokens of an earlier batch that were not spent.
    returned: u32,
}

enum Taken {
    Known(Result<u32, Duration>),
    Ask(Request),
}

/// The tokens that were taken and those that are left, or the time to wait.
type Answer = Result<(u32, u32), Duration>;

impl Limits {
    fn batches(&self) -> MutexGuard<'_, HashMap<u64, TokenBatch>> {
        self.batches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Spends a token, if there is one.
    fn take(&self, hash: u64) -> Taken {
        let (mut batches, now) = (self.batches(), Instant::now());
        let Some(batch) = batches.get_mut(&hash) else { return Taken::Ask(Request { wanted: 1, returned: 0 }) };
        match batch.until.checked_duration_since(now) {
            Some(wait) if batch.is_refused => Taken::Known(Err(wait)),
            Some(_) if batch.tokens > 0 => {
                batch.tokens -= 1;
                Taken::Known(Ok(batch.left.saturating_add(batch.tokens)))
            }
            // Spent in time: the key is in demand. Of several requests that ask now, the first one asks for more.
            Some(_) => {
                Taken::Ask(Request { wanted: (std::mem::take(&mut batch.size) * 2).clamp(1, MAX_BATCH), returned: 0 })
            }
            None => {
                batch.size = 0;
                Taken::Ask(Request { wanted: 1, returned: std::mem::take(&mut batch.tokens) })
            }
        }
    }

    /// Stores an answer; returns that to the request, which has spent one of the tokens.
    fn store(&self, hash: u64, answer: Answer) -> Result<u32, Duration> {
        let now = Instant::now();
        let mut batches = self.batches();
        let batch =
            batches.entry(hash).or_insert(TokenBatch { tokens: 0, size: 0, left: 0, until: now, is_refused: false });
        batch.is_refused = answer.is_err();
        match answer {
            Ok((taken, left)) => {
                // Requests that asked at the same time have stored theirs already.
                batch.tokens += taken.saturating_sub(1);
                (batch.size, batch.left, batch.until) = (batch.size.max(taken), left, now + TOKEN_LIFETIME);
                Ok(left.saturating_add(batch.tokens))
            }
            Err(wait) => {
                batch.until = now + wait;
                Err(wait)
            }
        }
    }
}

/// The buckets that instances share.
struct Shared {
    connection: ConnectionManager,
    prefix: String,
    script: Script,
    /// When Redis may be used again after a failure.
    paused_until: Mutex<Option<Instant>>,
}

/// How long Redis is not used after a failure, so that a stalled Redis does not slow every request.
const REDIS_PAUSE: Duration = Duration::from_secs(2);

/// `KEYS[1]`: bucket. `ARGV`: now, interval and tolerance in µs, the tokens wanted and those returned. Takes one token,
/// and more only from what is plenty. Returns the numbers of tokens taken and left, or 0 and the µs to wait.
const GCRA: &str = "
local now, every, burst = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local stored = tonumber(redis.call('GET', KEYS[1]) or now)
local tat = math.max(stored - tonumber(ARGV[5]) * every, now)
local wait = tat + every - burst - now
if wait > 0 then return {0, wait} end
local left = math.floor(-wait / every)
local more = math.min(tonumber(ARGV[4]) - 1, math.floor(left / 8))
tat = tat + every * (1 + more)
redis.call('SET', KEYS[1], string.format('%.0f', tat), 'PX', math.ceil((tat - now) / 1000))
return {1 + more, left - more}";

impl Shared {
    fn new(connection: ConnectionManager, prefix: &str) -> Self {
        let (prefix, script) = (format!("{prefix}:limit"), Script::new(GCRA));
        Self { connection, prefix, script, paused_until: Mutex::new(None) }
    }

    fn paused_until(&self) -> MutexGuard<'_, Option<Instant>> {
        self.paused_until.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_paused(&self) -> bool {
        self.paused_until().is_some_and(|until| until > Instant::now())
    }

    fn pause(&self) {
        *self.paused_until() = Some(Instant::now() + REDIS_PAUSE);
    }

    async fn ask(&self, rate: Rate, request: Request, key: &str) -> RedisResult<Answer> {
        let every = micros(rate.every);
        let response = self
            .script
            .key(format!("{}:{key}", self.prefix))
            .arg(Clock::system().now().timestamp_micros())
            .arg(every)
            .arg(every.saturating_mul(rate.burst.get().into()))
            .arg(request.wanted)
            .arg(request.returned)
            .invoke_async::<(u32, u64)>(&mut self.connection.clone())
            .await?;
        Ok(match response {
            (0, wait) => Err(Duration::from_micros(wait)),
            (taken, left) => Ok((taken, u32::try_from(left).unwrap_or(u32::MAX))),
        })
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX).max(1)
}
