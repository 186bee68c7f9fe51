//! Administration of roles.

use dca_core::accounts::{admin, guild_managers};

use super::params::guild_id;
use crate::{http::prelude::*, wording};

/// List roles
///
/// Returns all roles, from lowest to highest. Requires the role `MODERATOR`.
#[utoipa::path(get, path = "/admin/roles", tag = "administration", security(("bearer" = [])),
    responses((status = 200, body = Value), Refusals))]
pub(crate) async fn roles(user: CurrentUser) -> JsonResult<Value> {
    Admin::at_least(&user.app.core, Role::Moderator, user.principal)?;
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
    guild_id: Option<String>,
}

/// The role of the managers of a Discord server.
const GUILD_MANAGER: &str = "GUILD_MANAGER";

#[derive(Clone, Copy)]
enum RoleChange {
    Assign,
    Revoke,
}

async fn change_role(user: CurrentUser, form: &RoleRequest, change: RoleChange) -> JsonResult<UserView> {
    let admin = &Admin::at_least(&user.app.core, Role::SuperAdmin, user.principal)?;
    let (core, id) = (&user.app.core, UserId(form.user_id));
    if form.role == GUILD_MANAGER {
        let guild = guild_id(form.guild_id.as_deref().unwrap_or_default())?;
        match change {
            RoleChange::Assign => guild_managers::add(core, admin, id, guild).await?,
            RoleChange::Revoke => guild_managers::remove(core, admin, id, guild).await?,
        }
        return user.dialect.user_view(core, admin::get(core, id).await?).await;
    }
    let invalid =
        || Problem::invalid_field("role", "Unknown role. GET /admin/roles lists the roles, for example MODERATOR.");
    let role: Role = form.role.parse().map_err(|_| invalid())?;
    let changed = match change {
        RoleChange::Assign => admin::set_role(core, admin, id, role).await?,
        RoleChange::Revoke => admin::remove_role(core, admin, id, role).await?,
    };
    user.dialect.user_view(core, changed).await
}

/// Assign a role to a user
///
/// The role must be lower than your own. Requires the role `SUPER_ADMIN`.
#[utoipa::path(post, path = "/admin/roles/assign", tag = "administration", security(("bearer" = [])),
    request_body = RoleRequest, responses((status = 200, body = UserView), Refusals))]
pub(crate) async fn assign_role(user: CurrentUser, JsonBody(form): JsonBody<RoleRequest>) -> JsonResult<UserView> {
    change_role(user, &form, RoleChange::Assign).await
}

/// Remove a role from a user
///
/// The user becomes a `USER` again. For `GUILD_MANAGER`, the user no longer manages the server. Requires the role
/// `SUPER_ADMIN`.
#[utoipa::path(post, path = "/admin/roles/revoke", tag = "administration", security(("bearer" = [])),
    request_body = RoleRequest, responses((status = 200, body = UserView), Refusals))]
pub(crate) async fn revoke_role(user: CurrentUser, JsonBody(form): JsonBody<RoleRequest>) -> JsonResult<UserView> {
    change_role(user, &form, RoleChange::Revoke).await
}
