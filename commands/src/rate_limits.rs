//! What Discord has said about its rate limits: until when a route, or every route, must not be called.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use dca_core::Clock;
use reqwest::{Method, StatusCode, header::HeaderMap};
use serde_json::Value;
use tracing::warn;

/// Every route.
const GLOBAL: &str = "all routes";

/// The pause if a 429 does not say how long.
const DEFAULT_PAUSE: Duration = Duration::from_secs(30);

/// The routes that must not be called. Uses domain time, because a delivery is due again when its limit ends.
pub(crate) struct RateLimits {
    clock: Clock,
    until: Mutex<HashMap<String, DateTime<Utc>>>,
}

impl RateLimits {
    pub fn new(clock: Clock) -> Self {
        Self { clock, until: Mutex::default() }
    }

    /// How long a bucket must not be used; `None` if it may.
    pub fn wait_for(&self, bucket: &str) -> Option<Duration> {
        let until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        let limits = [GLOBAL, bucket].into_iter().filter_map(|key| until.get(key));
        limits.max().and_then(|until| (*until - self.clock.now()).to_std().ok()).filter(|wait| !wait.is_zero())
    }

    /// Remembers what a response says about the limits of its bucket.
    pub fn learn(&self, bucket: String, status: StatusCode, headers: &HeaderMap, body: &Value) {
        let (bucket, wait) = if status == StatusCode::TOO_MANY_REQUESTS {
            let wait = retry_after(headers, body);
            // A proxy that blocks the address sends no JSON.
            let is_global = headers.contains_key("x-ratelimit-global") || body["global"] == true || body.is_null();
            let bucket = if is_global { GLOBAL.to_owned() } else { bucket };
            warn!(bucket, seconds = wait.as_secs_f64(), "Discord's rate limit is reached");
            (bucket, wait)
        } else if number(headers, "x-ratelimit-remaining") == Some(0.0) {
            (bucket, seconds(number(headers, "x-ratelimit-reset-after")).unwrap_or_default())
        } else {
            return;
        };
        let now = self.clock.now();
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        until.retain(|_, until| *until > now);
        // Of concurrent requests, one may say less than another.
        let known = until.entry(bucket).or_default();
        *known = (now + wait).max(*known);
    }
}

/// The limits that a request counts for: its method and path, with the first id but without the others, which is how
/// Discord groups them.
pub(crate) fn bucket(method: &Method, path: &str) -> String {
    let path = path.split('?').next().unwrap_or(path);
    let is_id = |segment: &str| segment.bytes().all(|byte| byte.is_ascii_digit());
    let segments = path.trim_start_matches('/').split('/').enumerate();
    let segments = segments.map(|(n, segment)| if n > 1 && is_id(segment) { ":id" } else { segment });
    format!("{method} /{}", segments.collect::<Vec<_>>().join("/"))
}

/// How long to wait after a 429.
pub(crate) fn retry_after(headers: &HeaderMap, body: &Value) -> Duration {
    seconds(body["retry_after"].as_f64().or_else(|| number(headers, "retry-after"))).unwrap_or(DEFAULT_PAUSE)
}

fn number(headers: &HeaderMap, name: &str) -> Option<f64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

/// A number of seconds, unless it is no sensible duration.
fn seconds(number: Option<f64>) -> Option<Duration> {
    number.and_then(|seconds| Duration::try_from_secs_f64(seconds.min(86_400.0)).ok())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_shorter_limit_does_not_replace_a_longer_one() {
        let limits = RateLimits::new(Clock::manual(DateTime::UNIX_EPOCH));
        for seconds in [600, 1] {
            let body = json!({ "retry_after": seconds });
            limits.learn("bucket".to_owned(), StatusCode::TOO_MANY_REQUESTS, &HeaderMap::new(), &body);
        }
        assert_eq!(limits.wait_for("bucket"), Some(Duration::from_mins(10)));
    }
}
