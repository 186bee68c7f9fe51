//! Counts requests against rate limits, and tells clients what is left (draft-ietf-httpapi-ratelimit-headers).

use std::fmt::Display;
use std::hash::Hash;
use std::io::Write;
use std::time::Duration;

use axum::body::Bytes;
use axum::http::{HeaderName, HeaderValue};
use dca_core::limiter::{Bucket, Rate};

use super::problem::Problem;
use crate::App;

/// What a bucket allows.
pub(super) const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
/// What is left of it, and when it is full again.
pub(super) const STATE: HeaderName = HeaderName::from_static("ratelimit");

/// Counts a request against a bucket. Returns how many are left.
pub(super) async fn count(app: &App, bucket: Bucket, key: &(impl Hash + Display + Sync)) -> Result<u32, Problem> {
    let limiter = &app.core.limiter;
    limiter.check(bucket, key).await.map_err(|wait| {
        let mut problem = Problem::rate_limited(wait);
        if let Some(rate) = limiter.rate(bucket) {
            problem.headers.extend([(POLICY, policy(bucket, rate)), (STATE, state_until(bucket, 0, wait))]);
        }
        problem
    })
}

/// The value of `RateLimit-Policy`.
pub(super) fn policy(bucket: Bucket, rate: Rate) -> HeaderValue {
    let burst = rate.burst.get();
    header(format_args!("\"{bucket}\";q={burst};w={}", seconds(rate.every * burst)))
}

/// The value of `RateLimit` with this many requests left.
pub(super) fn state(bucket: Bucket, rate: Rate, left: u32) -> HeaderValue {
    state_until(bucket, left, rate.every * rate.burst.get().saturating_sub(left))
}

fn state_until(bucket: Bucket, left: u32, reset: Duration) -> HeaderValue {
    header(format_args!("\"{bucket}\";r={left};t={}", seconds(reset)))
}

/// In whole seconds, rounded up.
fn seconds(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).div_ceil(1_000)
}

/// Formats a header without an intermediate string.
fn header(text: std::fmt::Arguments<'_>) -> HeaderValue {
    let mut bytes = Vec::with_capacity(48);
    _ = bytes.write_fmt(text);
    HeaderValue::from_maybe_shared(Bytes::from(bytes)).unwrap_or_else(|_| HeaderValue::from_static(""))
}
