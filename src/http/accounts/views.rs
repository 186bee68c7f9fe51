//! The native views of accounts: each value once, in camel case. A dialect adds the names of earlier systems.

use std::collections::BTreeMap;

use axum::Json;
use base64::{Engine, prelude::BASE64_STANDARD as STANDARD};
use chrono::{DateTime, Utc};
use dca_core::accounts::{SignedIn, second_factor};
use dca_core::ids::{SessionId, UserId};
use dca_core::users::{self, AccountStatus, Locale, Role, SignInMethod, User};
use dca_core::{Core, Error, accounts::second_factor::TotpSetup, accounts::sessions::Session};
use qrcode::{QrCode, render::svg};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::openapi::{RefOr, Response};
use utoipa::{IntoResponses, ToSchema};
use uuid::Uuid;

use crate::http::problem::{self, Problem};
use crate::http::schemas;

/// The problems that any account route may return.
pub(crate) struct Refusals;

impl IntoResponses for Refusals {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        problem::responses(&[400, 401, 403, 404, 409, 413, 415, 429, 503])
    }
}

/// A confirmation.
#[derive(Serialize, ToSchema)]
pub(crate) struct Message {
    /// What happened.
    message: &'static str,
}

impl Message {
    pub(crate) const fn json(message: &'static str) -> Json<Self> {
        Json(Self { message })
    }
}

/// A verified email address.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct VerifiedView {
    pub(crate) message: &'static str,
    /// Whether the user must choose a password first, with the link in the email that was just sent.
    pub(crate) password_required: bool,
}

/// The names under which clients of earlier systems read the values of a view.
pub(crate) type Names = Map<String, Value>;

/// The result of a sign-up. It does not reveal whether the email already had an account.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SignUpView {
    pub(crate) message: &'static str,
    pub(crate) user_id: Uuid,
    pub(crate) email: String,
    pub(crate) name: String,
    pub(crate) created_at: DateTime<Utc>,
    #[serde(flatten)]
    #[schema(ignore)]
    pub(crate) names: Names,
}

/// A user account.
#[derive(Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct UserView {
    pub(crate) id: Uuid,
    #[schema(format = Email, example = "ana@example.com")]
    pub(crate) email: Option<String>,
    pub(crate) is_email_verified: bool,
    #[schema(example = "Ana")]
    pub(crate) name: Option<String>,
    /// The user's Discord ID, if a Discord account is linked.
    #[schema(example = "80351110224678912")]
    pub(crate) discord_id: Option<String>,
    #[schema(value_type = schemas::AccountStatus)]
    pub(crate) status: AccountStatus,
    #[schema(value_type = schemas::Role)]
    pub(crate) role: Role,
    #[schema(value_type = Option<schemas::Locale>)]
    pub(crate) locale: Option<Locale>,
    /// Not shown to managers of a Discord server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) two_factor_enabled: Option<bool>,
    pub(crate) created_at: DateTime<Utc>,
    /// When the account will be deleted, if its deletion was requested.
    pub(crate) deletion_at: Option<DateTime<Utc>>,
    #[serde(flatten)]
    #[schema(ignore)]
    pub(crate) names: Names,
}

impl UserView {
    pub(crate) async fn of(core: &Core, user: User) -> Result<Self, Problem> {
        Ok(Self::list(core, vec![user]).await?.swap_remove(0))
    }

    /// The views of several users, with one query for each table.
    pub(crate) async fn list(core: &Core, users: Vec<User>) -> Result<Vec<Self>, Problem> {
        let ids: Vec<UserId> = users.iter().map(|user| user.id).collect();
        let mut discord_ids = users::discord_ids(core, &ids).await?;
        let two_factor_users = second_factor::list_enabled(core, &ids).await?;
        let view = |user: User| Self {
            id: user.id.0,
            email: user.email,
            is_email_verified: user.email_verified_at.is_some(),
            name: user.name,
            discord_id: discord_ids.remove(&user.id),
            status: user.status,
            role: user.role,
            locale: user.locale,
            two_factor_enabled: Some(two_factor_users.contains(&user.id)),
            created_at: user.created_at,
            deletion_at: user.deletion_at,
            names: Names::new(),
        };
        Ok(users.into_iter().map(view).collect())
    }
}

/// The tokens of a session.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TokensView {
    pub(crate) access_token: String,
    /// `Bearer`.
    #[schema(example = "Bearer")]
    pub(crate) token_type: &'static str,
    /// The lifetime of the access token in seconds.
    #[schema(example = 900)]
    pub(crate) expires_in: i64,
    pub(crate) session_id: Uuid,
    pub(crate) user: UserView,
    /// Whether this sign-in created the account.
    pub(crate) is_new_user: bool,
    /// Whether another account has the email address of this new one. Offer to sign in to that account and link the
    /// provider to it instead.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) email_in_use: bool,
    /// The refresh token. Present only for clients that store it themselves; otherwise it is in a cookie.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) refresh_token: Option<String>,
    #[serde(flatten)]
    #[schema(ignore)]
    pub(crate) names: Names,
}

/// Where a response returns the refresh token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RefreshTokenIn {
    /// In a cookie only.
    Cookie,
    /// In the body too, for clients that store it themselves.
    Body,
}

impl TokensView {
    pub(crate) async fn of(core: &Core, signed_in: SignedIn, place: RefreshTokenIn) -> Result<Self, Problem> {
        Ok(Self {
            access_token: signed_in.access_token,
            token_type: "Bearer",
            expires_in: signed_in.access_expires_in,
            session_id: signed_in.session.id.0,
            user: UserView::of(core, signed_in.user).await?,
            is_new_user: signed_in.is_new,
            email_in_use: signed_in.is_email_in_use,
            refresh_token: (place == RefreshTokenIn::Body).then_some(signed_in.refresh_token),
            names: Names::new(),
        })
    }
}

/// The secret for an authenticator app.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TotpSetupView {
    /// The secret for manual entry.
    #[schema(example = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP")]
    secret: String,
    /// The `otpauth` URL that the QR code contains.
    otpauth_url: String,
    /// The QR code, as a data URL of an SVG image.
    qr_code: String,
    #[serde(skip)]
    pub(crate) recovery_codes: Vec<String>,
    #[serde(flatten)]
    #[schema(ignore)]
    pub(crate) names: Names,
}

impl TotpSetupView {
    pub(crate) fn of(setup: TotpSetup) -> Result<Self, Problem> {
        let qr_code = QrCode::new(&setup.url).map_err(|error| Error::Internal(error.to_string()))?;
        let image = qr_code.render::<svg::Color<'_>>().min_dimensions(240, 240).build();
        Ok(Self {
            secret: setup.secret,
            otpauth_url: setup.url,
            qr_code: format!("data:image/svg+xml;base64,{}", STANDARD.encode(image)),
            recovery_codes: setup.recovery_codes,
            names: Names::new(),
        })
    }
}

/// Recovery codes. They cannot be retrieved again.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RecoveryCodesView {
    pub(crate) recovery_codes: Vec<String>,
    #[serde(flatten)]
    #[schema(ignore)]
    pub(crate) names: Names,
}

/// A session.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SessionView {
    id: Uuid,
    user_id: Uuid,
    #[schema(value_type = schemas::SignInMethod)]
    method: SignInMethod,
    /// The `User-Agent` of the client.
    user_agent: Option<String>,
    /// The network of the client: /24 for IPv4, /64 for IPv6.
    #[schema(example = "203.0.113.0/24")]
    ip: String,
    created_at: DateTime<Utc>,
    /// When the session was last refreshed.
    last_seen_at: DateTime<Utc>,
    expires_at: DateTime<Utc>,
    second_factor_at: Option<DateTime<Utc>>,
    /// Whether this is the session of the current request.
    current: bool,
}

impl SessionView {
    pub(crate) fn of(session: Session, current: SessionId) -> Self {
        Self {
            current: session.id == current,
            id: session.id.0,
            user_id: session.user_id.0,
            method: session.method,
            user_agent: session.agent,
            ip: session.network,
            created_at: session.created_at,
            last_seen_at: session.last_seen_at,
            expires_at: session.expires_at,
            second_factor_at: session.second_factor_at,
        }
    }
}

/// A user and their current session.
#[derive(Serialize, ToSchema)]
pub(crate) struct MeView {
    #[serde(flatten)]
    pub(crate) fields: UserView,
    pub(crate) user: UserView,
    pub(crate) session: SessionView,
}
