//! Counts requests against rate limits, and tells clients what is left (draft-ietf-httpapi-ratelimit-headers).

use std::time::Duration;

use axum::http::{HeaderName, HeaderValue};
use dca_core::limiter::Bucket;

use super::problem::Problem;
use crate::App;

/// `RateLimit-Policy` and `RateLimit`.
pub(super) type QuotaHeaders = Vec<(HeaderName, HeaderValue)>;

/// Counts a request against a bucket. Returns the headers for its response.
pub(super) async fn count(app: &App, bucket: Bucket, key: &str) -> Result<QuotaHeaders, Problem> {
    let limiter = &app.core.limiter;
    let headers = |left: u32, wait: Option<Duration>| {
        let Some(rate) = limiter.rate(bucket) else { return Vec::new() };
        let burst = rate.burst.get();
        let reset = wait.unwrap_or_else(|| rate.every * burst.saturating_sub(left));
        let seconds = |time: Duration| time.as_millis().div_ceil(1_000);
        let policy = format!("\"{bucket}\";q={burst};w={}", seconds(rate.every * burst));
        let state = format!("\"{bucket}\";r={left};t={}", seconds(reset));
        let header = |name, text: &str| Some((HeaderName::from_static(name), HeaderValue::from_str(text).ok()?));
        [header("ratelimit-policy", &policy), header("ratelimit", &state)].into_iter().flatten().collect()
    };
    match limiter.check(bucket, key).await {
        Ok(left) => Ok(headers(left, None)),
        Err(wait) => {
            let mut problem = Problem::rate_limited(wait);
            problem.headers.extend(headers(0, Some(wait)));
            Err(problem)
        }
    }
}
