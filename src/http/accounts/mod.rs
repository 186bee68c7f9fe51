//! Account routes, and their common types.
//!
//! `auth`: sign-up, sign-in, sessions and passwords. `account`: the signed-in user's own account. `providers`:
//! sign-in with Discord or Google. `admin`: user administration. `pages`: HTML pages for links in emails if no
//! frontend is configured.

use axum::{Json, extract::State};
use chrono::{DateTime, Utc};
use dca_core::{
    Core,
    accounts::{SignedIn, second_factor},
    crypto::access_token,
    users::{self, Provider, User},
};
use serde::Serialize;
use serde_json::Value;
use utoipa::{IntoResponses, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::problem::Problem;
use crate::App;

pub(super) mod account;
pub(super) mod admin;
pub(super) mod auth;
pub(super) mod pages;
pub(super) mod providers;

/// All account routes, with their documentation.
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
        .routes(routes!(admin::list))
        .routes(routes!(admin::get, admin::change, admin::delete))
        .routes(routes!(admin::ban))
        .routes(routes!(admin::unban))
        .routes(routes!(admin::sessions, admin::end_sessions))
        .routes(routes!(admin::remove_second_factor))
        .routes(routes!(admin::all_sessions))
        .routes(routes!(admin::end_session))
        .routes(routes!(admin::roles))
        .routes(routes!(admin::assign_role))
        .routes(routes!(admin::revoke_role))
        .routes(routes!(admin::outbox))
        .routes(routes!(admin::replay))
        .routes(routes!(jwks))
}

/// The problems that any account route may return.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "only describes responses; handlers return Problem")]
pub(super) enum Refusals {
    /// Malformed request, or invalid or expired token
    #[response(status = 400, content_type = "application/problem+json")]
    Wrong(#[to_schema] Problem),
    /// Not signed in, or wrong credentials
    #[response(status = 401, content_type = "application/problem+json")]
    Unproved(#[to_schema] Problem),
    /// Not allowed for this account
    #[response(status = 403, content_type = "application/problem+json")]
    Forbidden(#[to_schema] Problem),
    /// Not found
    #[response(status = 404, content_type = "application/problem+json")]
    Unknown(#[to_schema] Problem),
    /// Conflicts with the current state
    #[response(status = 409, content_type = "application/problem+json")]
    Conflict(#[to_schema] Problem),
    /// The body is larger than 16 KiB
    #[response(status = 413, content_type = "application/problem+json")]
    TooLarge(#[to_schema] Problem),
    /// The content type is not application/json
    #[response(status = 415, content_type = "application/problem+json")]
    NotJson(#[to_schema] Problem),
    /// Too many attempts; see Retry-After
    #[response(status = 429, content_type = "application/problem+json")]
    TooMany(#[to_schema] Problem),
    /// The database is unavailable; see Retry-After
    #[response(status = 503, content_type = "application/problem+json")]
    Away(#[to_schema] Problem),
}

/// A confirmation.
#[derive(Serialize, ToSchema)]
pub(super) struct Message {
    /// What happened.
    message: &'static str,
}

impl Message {
    pub(super) const fn json(message: &'static str) -> Json<Self> {
        Json(Self { message })
    }
}

/// A user account. Some values are repeated under other names for compatibility with existing clients.
#[derive(Clone, Serialize, ToSchema)]
pub(super) struct UserView {
    id: Uuid,
    /// The same as `id`.
    id_user: Uuid,
    email: Option<String>,
    email_verified: bool,
    /// The same as `email_verified`.
    #[serde(rename = "isEmailVerified")]
    is_email_verified: bool,
    name: Option<String>,
    /// The same as `name`.
    username: Option<String>,
    /// The same as `name`.
    display_name: Option<String>,
    /// Always `null`.
    surname: Option<String>,
    /// Always `null`.
    photo_url: Option<String>,
    /// Always `null`.
    phone_number: Option<String>,
    /// The user's Discord ID, if a Discord account is linked.
    #[serde(rename = "discordId")]
    discord_id: Option<String>,
    /// `PENDING`, `ACTIVE`, `SUSPENDED` or `BANNED`.
    status: String,
    /// `USER`, `PREMIUM`, `MODERATOR`, `ADMIN` or `SUPER_ADMIN`.
    role: String,
    /// The same as `role`, in an array.
    roles: [String; 1],
    locale: Option<String>,
    #[serde(rename = "twoFactorEnabled")]
    two_factor_enabled: bool,
    #[serde(rename = "createdAt")]
    created_at: DateTime<Utc>,
    /// When the account will be deleted, if its deletion was requested.
    #[serde(rename = "deletionAt")]
    deletion_at: Option<DateTime<Utc>>,
}

impl UserView {
    pub(super) async fn of(core: &Core, user: User) -> Result<Self, Problem> {
        let identities = users::identities(core, user.id).await?;
        let discord = identities.into_iter().find(|identity| identity.provider == Provider::Discord.as_str());
        let email_verified = user.email_verified_at.is_some();
        Ok(Self {
            id: user.id.0,
            id_user: user.id.0,
            email: user.email,
            email_verified,
            is_email_verified: email_verified,
            username: user.name.clone(),
            display_name: user.name.clone(),
            name: user.name,
            surname: None,
            photo_url: None,
            phone_number: None,
            discord_id: discord.map(|identity| identity.subject),
            status: user.status,
            roles: [user.role.clone()],
            role: user.role,
            locale: user.locale,
            two_factor_enabled: second_factor::is_enabled(core, user.id).await?,
            created_at: user.created_at,
            deletion_at: user.deletion_at,
        })
    }
}

/// The tokens of a session. Some values are repeated under other names for compatibility with existing clients.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct TokensView {
    /// The access token.
    #[serde(rename = "access_token")]
    access_token_snake: String,
    /// The same as `access_token`.
    access_token: String,
    /// `Bearer`.
    token_type: &'static str,
    /// The lifetime of the access token in seconds.
    expires_in: i64,
    session_id: Uuid,
    user: UserView,
    /// Whether this sign-in created the account.
    is_new_user: bool,
    /// The refresh token. Present only for clients that store it themselves; otherwise it is in a cookie.
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<String>,
    /// The same tokens in one object. Present together with `refreshToken`.
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens: Option<TokenPair>,
}

/// An access token and its refresh token.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct TokenPair {
    access_token: String,
    refresh_token: String,
    expires_in: i64,
    token_type: &'static str,
}

impl TokensView {
    pub(super) async fn of(core: &Core, signed_in: SignedIn, in_body: bool) -> Result<Self, Problem> {
        let refresh_token = in_body.then(|| signed_in.refresh_token.clone());
        let pair = |refresh_token: String| TokenPair {
            access_token: signed_in.access_token.clone(),
            refresh_token,
            expires_in: signed_in.access_expires_in,
            token_type: "Bearer",
        };
        Ok(Self {
            tokens: refresh_token.clone().map(pair),
            refresh_token,
            access_token_snake: signed_in.access_token.clone(),
            access_token: signed_in.access_token,
            token_type: "Bearer",
            expires_in: signed_in.access_expires_in,
            session_id: signed_in.session.id.0,
            user: UserView::of(core, signed_in.user).await?,
            is_new_user: signed_in.is_new,
        })
    }
}

/// Retrieve the signing keys
///
/// Returns the public keys (JWK set, RFC 7517) with which your servers can verify access tokens.
#[utoipa::path(get, path = "/.well-known/jwks.json", tag = "accounts", responses((status = 200, body = Value)))]
async fn jwks(State(app): State<App>) -> Result<Json<Value>, Problem> {
    Ok(Json(access_token::jwks(&app.core)?))
}
