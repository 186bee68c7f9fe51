//! Account routes. `auth`: sign-up, sign-in, sessions and passwords. `account`: the signed-in user's own account.
//! `providers`: sign-in with Discord or Google. `pages` and
//! `page_text`: HTML pages for links in emails if no frontend is configured.

use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, extract::State};
use dca_core::crypto::access_token;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::problem::Problem;
use crate::App;

pub(super) mod account;
pub(super) mod auth;
mod page_text;
pub(super) mod pages;
pub(super) mod providers;
pub(super) mod views;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(auth::sign_up))
        .routes(routes!(auth::sign_in))
        .routes(routes!(auth::second_factor))
        .routes(routes!(auth::verify_email))
        .routes(routes!(auth::resend_verification))
        .routes(routes!(auth::refresh))
        .routes(routes!(auth::sign_out))
        .routes(routes!(auth::sign_out_everywhere))
        .routes(routes!(auth::request_reset))
        .routes(routes!(auth::reset_password))
        .routes(routes!(account::check))
        .routes(routes!(account::with_session))
        .routes(routes!(account::profile, account::change, account::delete))
        .routes(routes!(account::export))
        .routes(routes!(account::change_password))
        .routes(routes!(account::sessions))
        .routes(routes!(account::end_session))
        .routes(routes!(account::set_up_second_factor))
        .routes(routes!(account::enable_second_factor))
        .routes(routes!(account::disable_second_factor))
        .routes(routes!(account::renew_recovery_codes))
        .routes(routes!(providers::begin, providers::begin_as_json))
        .routes(routes!(providers::callback, providers::callback_as_json))
        .routes(routes!(providers::link))
        .routes(routes!(providers::unlink))
        .routes(routes!(jwks))
}

/// Retrieve the signing keys
///
/// Returns the public keys (JWK set, RFC 7517) with which your servers can verify access tokens. Cache them for the time
/// in `Cache-Control`: a new key is listed before it is first used.
#[utoipa::path(get, path = "/.well-known/jwks.json", tag = "accounts",
    responses((status = 200, body = Value), (status = 304, description = "Not modified")))]
async fn jwks(State(app): State<App>, headers: HeaderMap) -> Result<Response, Problem> {
    let set = access_token::jwks(&app.core)?;
    let kids: Vec<&str> = set["keys"].as_array().into_iter().flatten().filter_map(|key| key["kid"].as_str()).collect();
    let etag = format!("\"{}\"", kids.join("."));
    let is_current = headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == etag.as_bytes());
    let caching = [(header::CACHE_CONTROL, "public, max-age=240".to_owned()), (header::ETAG, etag)];
    Ok(if is_current {
        (StatusCode::NOT_MODIFIED, caching).into_response()
    } else {
        (caching, Json(set)).into_response()
    })
}
