//! Refuses request heads that are too large or whose host is not clear, as problems. hyper's own limits are higher: it
//! refuses what exceeds them without a body.

use axum::http::uri::Authority;
use axum::http::{HeaderMap, Version, header, request::Parts};
use dca_core::Code;

use super::problem::Problem;

const MAX_HEADERS: usize = 64;
const MAX_BYTES: usize = 32 * 1024;

pub(super) fn check(request: &Parts) -> Result<(), Problem> {
    let headers = &request.headers;
    let url = request.uri.path_and_query().map_or(0, |url| url.as_str().len());
    let size = |(name, value): (&header::HeaderName, &header::HeaderValue)| name.as_str().len() + value.len() + 4;
    if headers.len() > MAX_HEADERS || url + headers.iter().map(size).sum::<usize>() > MAX_BYTES {
        return Err(Problem::of(Code::HeadersTooLarge));
    }
    if !is_host_clear(request.version, headers) {
        return Err(Problem::new(
            Code::BadRequest,
            "Send exactly one valid Host header, for example `Host: example.com`.",
        ));
    }
    Ok(())
}

/// HTTP/1.1 requires one `Host` (RFC 9112, section 3.2). HTTP/1.0 and HTTP/2 may have none.
fn is_host_clear(version: Version, headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => Authority::try_from(host.as_bytes()).is_ok(),
        (None, _) => version != Version::HTTP_11,
        (Some(_), Some(_)) => false,
    }
}
