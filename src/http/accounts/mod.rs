//! Account routes. `auth`: sign-up, sign-in, sessions and passwords. `account`: the signed-in user's own account.
//! `providers`: sign-in with Discord or Google. `pages` and
//! `page_text`: HTML pages for links in emails if no frontend is configured.

use utoipa_axum::{router::OpenApiRouter, routes};

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
}
