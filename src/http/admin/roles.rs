//! Administration of roles.

use axum::{Json, extract::State};
use dca_core::{
    Code,
    accounts::{
        admin::{self, Admin},
        guild_managers,
    },
    ids::UserId,
    users::Role,
};
use serde::Deserialize;
use serde_json::{Value, json};
use utoipa::ToSchema;
use uuid::Uuid;

use super::params::{guild_id, user_view};
use crate::{
    App,
    http::{
        accounts::views::{Refusals, UserView},
        compat::dialect::Dialect,
        extract::{CurrentUser, JsonBody},
        problem::Problem,
    },
    wording,
};

/// List roles
///
/// Returns all roles, from lowest to highest. Requires the role `MODERATOR`.
#[utoipa::path(get, path = "/admin/roles", tag = "administration", security(("bearer" = [])),
    responses((status = 200, body = Value), Refusals))]
pub(crate) async fn roles(State(app): State<App>, CurrentUser(principal): CurrentUser) -> Result<Json<Value>, Problem> {
    Admin::at_least(&app.core, Role::Moderator, principal)?;
    let roles: Vec<Value> =
        Role::ALL.iter().map(|role| json!({ "name": role, "description": wording::role(*role) })).collect();
    Ok(Json(json!({ "roles": roles })))
}

/// The role to assign to a user or to remove.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RoleRequest {
    user_id: Uuid,
    /// The name of a role, or `GUILD_MANAGER` together with `guildId`.
    role: String,
    #[serde(default)]
    guild_id: Option<String>,
}

/// The role of the managers of a Discord server.
const GUILD_MANAGER: &str = "GUILD_MANAGER";

/// What to do with a role.
#[derive(Clone, Copy)]
enum RoleChange {
    Assign,
    Revoke,
}

async fn change_role(
    app: &App,
    dialect: Dialect,
    admin: &Admin,
    form: &RoleRequest,
    change: RoleChange,
) -> Result<Json<UserView>, Problem> {
    let (core, id) = (&app.core, UserId(form.user_id));
    if form.role == GUILD_MANAGER {
        let guild = guild_id(form.guild_id.as_deref().unwrap_or_default())?;
        match change {
            RoleChange::Assign => guild_managers::add(core, admin, id, guild).await?,
            RoleChange::Revoke => guild_managers::remove(core, admin, id, guild).await?,
        }
        return user_view(app, dialect, admin::get(core, id).await?).await;
    }
    let invalid = || {
        let detail = "Unknown role. GET /admin/roles lists the roles, for example MODERATOR.";
        Problem::new(Code::ValidationError, detail).with_field("role".to_owned())
    };
    let role: Role = form.role.parse().map_err(|_| invalid())?;
    let user = match change {
        RoleChange::Assign => admin::set_role(core, admin, id, role).await?,
        RoleChange::Revoke => admin::remove_role(core, admin, id, role).await?,
    };
    user_view(app, dialect, user).await
}

/// Assign a role to a user
///
/// The role must be lower than your own. Requires the role `SUPER_ADMIN`.
#[utoipa::path(post, path = "/admin/roles/assign", tag = "administration", security(("bearer" = [])),
    request_body = RoleRequest, responses((status = 200, body = UserView), Refusals))]
pub(crate) async fn assign_role(
    State(app): State<App>,
    dialect: Dialect,
    CurrentUser(principal): CurrentUser,
    JsonBody(form): JsonBody<RoleRequest>,
) -> Result<Json<UserView>, Problem> {
    let admin = Admin::at_least(&app.core, Role::SuperAdmin, principal)?;
    change_role(&app, dialect, &admin, &form, RoleChange::Assign).await
}

/// Remove a role from a user
///
/// The user becomes a `USER` again. For `GUILD_MANAGER`, the user no longer manages the server. Requires the role
/// `SUPER_ADMIN`.
#[utoipa::path(post, path = "/admin/roles/revoke", tag = "administration", security(("bearer" = [])),
    request_body = RoleRequest, responses((status = 200, body = UserView), Refusals))]
pub(crate) async fn revoke_role(
    State(app): State<App>,
    dialect: Dialect,
    CurrentUser(principal): CurrentUser,
    JsonBody(form): JsonBody<RoleRequest>,
) -> Result<Json<UserView>, Problem> {
    let admin = Admin::at_least(&app.core, Role::SuperAdmin, principal)?;
    change_role(&app, dialect, &admin, &form, RoleChange::Revoke).await
}
