//! The public keys of this service.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use dca_core::{crypto::jws::Jwk, key_list};
use serde_json::json;

use super::problem::Problem;
use crate::App;

/// Less than the time until a new key takes effect, so that everyone who caches the keys knows it by then.
const CACHING: &str = "public, max-age=240";

/// Retrieve the public keys
///
/// Returns the public keys (JWK set, RFC 7517) with which your servers can verify access tokens and verdicts. Cache them
/// for the time in `Cache-Control`: a new key is listed before it is first used. Apps on the computers of your users must
/// use `/.well-known/dca-keys` instead, which nobody else can sign.
#[utoipa::path(get, path = "/.well-known/jwks.json", tag = "operations",
    responses((status = 200, body = Value), (status = 304, description = "Not modified")))]
pub(super) async fn jwks(State(app): State<App>, headers: HeaderMap) -> Response {
    let keys = key_list::jwks(&app.core);
    let kids: Vec<&str> = keys.iter().map(|Jwk { kid, .. }| kid.as_str()).collect();
    cached(&headers, &kids.join("."), "application/jwk-set+json", || json!({ "keys": keys }).to_string())
}

/// Retrieve the signed list of verdict keys
///
/// Returns a compact JWS (`typ` `dca-keys+jwt`), signed with the root key that your app contains
/// (`dca-auth keys root`). Its claim `keys` lists the keys that sign verdicts as JWKs, each with `nbf` and `exp`. `seq` only
/// rises: an app never replaces its list by one with a lower `seq`.
#[utoipa::path(get, path = "/.well-known/dca-keys", tag = "operations", responses(
    (status = 200, body = String, content_type = "application/jose"), (status = 304, description = "Not modified")))]
pub(super) async fn list(State(app): State<App>, headers: HeaderMap) -> Result<Response, Problem> {
    let (jws, seq) = key_list::current(&app.core).await?;
    Ok(cached(&headers, &seq.to_string(), "application/jose", || jws))
}

/// A response with a strong entity tag, or 304 if the client knows it already.
fn cached(headers: &HeaderMap, tag: &str, content_type: &'static str, body: impl FnOnce() -> String) -> Response {
    let tag = format!("\"{tag}\"");
    let known = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let is_known = known
        .flat_map(|tags| tags.split(','))
        .map(str::trim)
        .any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag);
    let caching = [(header::CACHE_CONTROL, CACHING.to_owned()), (header::ETAG, tag)];
    if is_known {
        return (StatusCode::NOT_MODIFIED, caching).into_response();
    }
    (caching, [(header::CONTENT_TYPE, content_type)], body()).into_response()
}
