//! Accounts over HTTP: one file per thing a person does, and what they have in common.
//!
//! `entry` in and out, `me` one's own account, `providers` through somebody else's door, `people` looking after
//! others, `pages` what a link in a letter opens when there is no frontend.

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

/// Every account route, with its documentation.
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

/// What may be refused, everywhere here.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "it describes answers; a Problem is what is answered")]
pub(super) enum Refusals {
    /// A field that does not fit, or a token that is over
    #[response(status = 400, content_type = "application/problem+json")]
    Wrong(#[to_schema] Problem),
    /// Not signed in, or not with the right secret
    #[response(status = 401, content_type = "application/problem+json")]
    Unproved(#[to_schema] Problem),
    /// Signed in, but not allowed
    #[response(status = 403, content_type = "application/problem+json")]
    Forbidden(#[to_schema] Problem),
    /// There is no such thing
    #[response(status = 404, content_type = "application/problem+json")]
    Unknown(#[to_schema] Problem),
    /// It does not fit how things stand
    #[response(status = 409, content_type = "application/problem+json")]
    Conflict(#[to_schema] Problem),
    /// Body over 16 KiB
    #[response(status = 413, content_type = "application/problem+json")]
    TooLarge(#[to_schema] Problem),
    /// Not application/json
    #[response(status = 415, content_type = "application/problem+json")]
    NotJson(#[to_schema] Problem),
    /// Too many attempts; see Retry-After
    #[response(status = 429, content_type = "application/problem+json")]
    TooMany(#[to_schema] Problem),
    /// The database does not answer; see Retry-After
    #[response(status = 503, content_type = "application/problem+json")]
    Away(#[to_schema] Problem),
}

/// A sentence.
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

/// A person, in the words of every client there is: the same values under several names.
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
    /// Not kept here; always null.
    surname: Option<String>,
    /// Not kept here; always null.
    photo_url: Option<String>,
    /// Not kept here; always null.
    phone_number: Option<String>,
    /// Their Discord account, if they linked one.
    #[serde(rename = "discordId")]
    discord_id: Option<String>,
    /// `PENDING`, `ACTIVE`, `SUSPENDED` or `BANNED`.
    status: String,
    /// `USER`, `PREMIUM`, `MODERATOR`, `ADMIN` or `SUPER_ADMIN`.
    role: String,
    /// The same as `role`, in a list.
    roles: [String; 1],
    locale: Option<String>,
    #[serde(rename = "twoFactorEnabled")]
    two_factor_enabled: bool,
    #[serde(rename = "createdAt")]
    created_at: DateTime<Utc>,
    /// When the account will be deleted, if that was asked for.
    #[serde(rename = "deletionAt")]
    deletion_at: Option<DateTime<Utc>>,
}

impl UserView {
    pub(super) async fn of(core: &Core, user: User) -> Result<Self, Problem> {
        let identities = users::identities(core, user.id).await?;
        let discord = identities.into_iter().find(|known| known.provider == Provider::Discord.as_str());
        let proved = user.email_verified_at.is_some();
        Ok(Self {
            id: user.id.0,
            id_user: user.id.0,
            email: user.email,
            email_verified: proved,
            is_email_verified: proved,
            username: user.name.clone(),
            display_name: user.name.clone(),
            name: user.name,
            surname: None,
            photo_url: None,
            phone_number: None,
            discord_id: discord.map(|known| known.subject),
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

/// Tokens, in the words of every client there is.
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
    /// Seconds the access token lives.
    expires_in: i64,
    session_id: Uuid,
    user: UserView,
    /// Whether this sign-in made the account.
    is_new_user: bool,
    /// Only where the client keeps it itself; otherwise it is in the cookie.
    #[serde(skip_serializing_if = "Option::is_none")]
    refresh_token: Option<String>,
    /// The same once more, together.
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens: Option<TokenPair>,
}

/// Both tokens.
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

/// The public key of access tokens, for servers that check them themselves (RFC 7517).
#[utoipa::path(get, path = "/.well-known/jwks.json", tag = "accounts", responses((status = 200, body = Value)))]
async fn jwks(State(app): State<App>) -> Result<Json<Value>, Problem> {
    Ok(Json(access_token::jwks(&app.core)?))
}
