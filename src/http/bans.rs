//! Bans of users and devices, for those who manage licenses.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::{Json, http::StatusCode};
use chrono::{DateTime, Utc};
use dca_core::bans::{self, Ban, NewBan, Target};
use dca_core::entitlements;
use dca_core::fingerprint::Fingerprint;
use dca_core::ids::{BanId, DeviceId, DiscordUserId, ProductId, TenantId, UserId};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::extract::{Authenticated, JsonBody, PathParams, Query};
use super::paging::{PageResult, PageView, Paging};
use super::problem::{Problem, Refusals, StatusResult};
use crate::App;

/// A ban. Name a user or a device in exactly one of `userId`, `discordId`, `deviceId` and `fingerprint`.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BanRequest {
    user_id: Option<Uuid>,
    /// The ID of a Discord account, whether or not its user is known yet.
    #[schema(example = "80351110224678912")]
    discord_id: Option<String>,
    /// The ID of a device that a license is activated on.
    device_id: Option<Uuid>,
    /// The fingerprint of a device.
    fingerprint: Option<String>,
    /// The product that the ban is for. Without it, all products of the tenant.
    product_id: Option<Uuid>,
    /// The tenant, if you manage several.
    tenant_id: Option<Uuid>,
    /// Why. Only those who manage licenses see it.
    #[schema(example = "Charged back", max_length = 200)]
    reason: String,
    /// When the ban ends. Without it, when it is lifted.
    expires_at: Option<DateTime<Utc>>,
}

impl BanRequest {
    fn target(&self) -> Result<Target, Problem> {
        let invalid = || Problem::invalid_field("discordId", "discordId must be the ID of a Discord account");
        let discord = |id: &String| id.parse().ok().filter(|id| *id > 0).map(DiscordUserId).ok_or_else(invalid);
        let targets = [
            self.user_id.map(|id| Target::User(UserId(id))),
            self.discord_id.as_ref().map(discord).transpose()?.map(Target::Discord),
            self.device_id.map(|id| Target::Device(DeviceId(id))),
            match &self.fingerprint {
                Some(text) => Some(Target::Fingerprint(Fingerprint::parse(text, BTreeMap::new())?)),
                None => None,
            },
        ];
        let message = "Name exactly one of userId, discordId, deviceId and fingerprint.";
        let [target] = <[Target; 1]>::try_from(targets.into_iter().flatten().collect::<Vec<_>>())
            .map_err(|_| Problem::invalid_field("userId", message))?;
        Ok(target)
    }
}

/// A ban of a user or a device.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct BanView {
    id: Uuid,
    tenant_id: Uuid,
    /// `null` if the ban is for all products of the tenant.
    product_id: Option<Uuid>,
    /// `null` if a device is banned.
    user_id: Option<Uuid>,
    reason: String,
    /// Who created it.
    created_by: String,
    created_at: DateTime<Utc>,
    expires_at: Option<DateTime<Utc>>,
    lifted_at: Option<DateTime<Utc>>,
}

impl From<Ban> for BanView {
    fn from(ban: Ban) -> Self {
        Self {
            id: ban.id.0,
            tenant_id: ban.tenant_id.0,
            product_id: ban.product_id.map(|id| id.0),
            user_id: ban.user_id.map(|id| id.0),
            reason: ban.reason,
            created_by: ban.actor,
            created_at: ban.created_at,
            expires_at: ban.expires_at,
            lifted_at: ban.lifted_at,
        }
    }
}

/// Ban a user or a device
///
/// The licenses of a banned user are not valid, and no source gives them new ones; nothing is revoked. A banned device
/// cannot be used with any license.
#[utoipa::path(post, path = "/bans", tag = "licenses", security(("bearer" = []), ("api_key" = [])),
    request_body = BanRequest, responses((status = 201, body = BanView), Refusals))]
pub(crate) async fn create(
    State(app): State<App>,
    Authenticated(caller): Authenticated,
    JsonBody(request): JsonBody<BanRequest>,
) -> StatusResult<BanView> {
    let target = request.target()?;
    let (tenant, product) = (request.tenant_id.map(TenantId), request.product_id.map(ProductId));
    let new = NewBan { tenant, product, target, reason: request.reason, expires_at: request.expires_at };
    let ban = bans::create(&app.core, &caller, new).await?;
    Ok((StatusCode::CREATED, Json(ban.into())))
}

/// Filters the list of bans.
#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BansQuery {
    /// Only bans of this user.
    #[param(nullable = false)]
    user_id: Option<Uuid>,
}

/// List bans
///
/// Lifted and expired ones too.
#[utoipa::path(get, path = "/bans", tag = "licenses", security(("bearer" = []), ("api_key" = [])),
    params(BansQuery, Paging), responses((status = 200, body = PageView<BanView>), Refusals))]
pub(crate) async fn list(
    State(app): State<App>,
    Authenticated(caller): Authenticated,
    Query(query): Query<BansQuery>,
    paging: Paging,
) -> PageResult<BanView> {
    let page = bans::list(&app.core, &caller, query.user_id.map(UserId), &paging.request).await?;
    Ok(paging.render(page))
}

/// Lift a ban
///
/// The licenses of the user are valid again, and a user whose sources entitle them to a license gets one.
#[utoipa::path(delete, path = "/bans/{id}", tag = "licenses", security(("bearer" = []), ("api_key" = [])),
    params(("id" = Uuid, Path)), responses((status = 204), Refusals))]
pub(crate) async fn lift(
    State(app): State<App>,
    Authenticated(caller): Authenticated,
    PathParams(id): PathParams<Uuid>,
) -> Result<StatusCode, Problem> {
    entitlements::lift_ban(&app.core, &caller, BanId(id)).await?;
    Ok(StatusCode::NO_CONTENT)
}
