//! The native views of accounts: each value once, in camel case. A dialect adds the names of earlier systems.

use axum::Json;
use chrono::{DateTime, Utc};
use dca_core::accounts::{SignedIn, second_factor};
use dca_core::ids::{SessionId, UserId};
use dca_core::users::{self, AccountStatus, Locale, Role, SignInMethod, User};
use dca_core::{Core, accounts::sessions::Session};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::{IntoResponses, ToSchema};
use uuid::Uuid;

use crate::http::problem::Problem;

/// The problems that any account route may return.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "only describes responses; handlers return Problem")]
pub(crate) enum Refusals {
    /// Malformed request, or invalid or expired token
    #[response(status = 400, content_type = "application/problem+json")]
    BadRequest(#[to_schema] Problem),
    /// Not signed in, or wrong credentials
    #[response(status = 401, content_type = "application/problem+json")]
    Unauthorized(#[to_schema] Problem),
    /// Not allowed for this account
    #[response(status = 403, content_type = "application/problem+json")]
    Forbidden(#[to_schema] Problem),
    /// Not found
    #[response(status = 404, content_type = "application/problem+json")]
    NotFound(#[to_schema] Problem),
    /// Conflicts with the current state
    #[response(status = 409, content_type = "application/problem+json")]
    Conflict(#[to_schema] Problem),
    /// The body is larger than 16 KiB
    #[response(status = 413, content_type = "application/problem+json")]
    TooLarge(#[to_schema] Problem),
    /// The content type is not application/json
    #[response(status = 415, content_type = "application/problem+json")]
    UnsupportedMediaType(#[to_schema] Problem),
    /// Too many attempts; see Retry-After
    #[response(status = 429, content_type = "application/problem+json")]
    RateLimited(#[to_schema] Problem),
    /// The database is unavailable; see Retry-After
    #[response(status = 503, content_type = "application/problem+json")]
    Unavailable(#[to_schema] Problem),
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
    #[serde(flatten)]
    #[schema(ignore)]
    pub(crate) names: Names,
}

/// A user account.
#[derive(Clone, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct UserView {
    pub(crate) id: Uuid,
    pub(crate) email: Option<String>,
    pub(crate) is_email_verified: bool,
    pub(crate) name: Option<String>,
    /// The user's Discord ID, if a Discord account is linked.
    pub(crate) discord_id: Option<String>,
    /// `PENDING`, `ACTIVE`, `SUSPENDED` or `BANNED`.
    #[schema(value_type = String)]
    pub(crate) status: AccountStatus,
    /// `USER`, `PREMIUM`, `MODERATOR`, `ADMIN` or `SUPER_ADMIN`.
    #[schema(value_type = String)]
    pub(crate) role: Role,
    #[schema(value_type = Option<String>)]
    pub(crate) locale: Option<Locale>,
    pub(crate) two_factor_enabled: bool,
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
            two_factor_enabled: two_factor_users.contains(&user.id),
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
    pub(crate) token_type: &'static str,
    /// The lifetime of the access token in seconds.
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
    /// The sign-in method: `password`, `discord` or `google`.
    #[schema(value_type = String)]
    method: SignInMethod,
    /// The `User-Agent` of the client.
    user_agent: Option<String>,
    /// The network of the client: /24 for IPv4, /64 for IPv6.
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
