//! Administration of users.

use dca_core::accounts::{admin, guild_managers};
use dca_core::users::{AccountStatus, UserFilter};

use super::params::{PageParams, Pagination, ReasonRequest, guild_id};
use crate::http::prelude::*;

/// Filters the list of users.
#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
pub(crate) struct UsersQuery {
    /// The page number, starting at 1.
    #[param(nullable = false, minimum = 1, default = 1)]
    page: Option<u64>,
    /// The number of entries per page.
    #[param(nullable = false, minimum = 1, maximum = 100, default = 20)]
    limit: Option<u64>,
    /// Part of a name or email; for managers of a Discord server, of a name.
    #[param(nullable = false)]
    search: Option<String>,
    #[param(value_type = Option<schemas::AccountStatus>, nullable = false)]
    status: Option<AccountStatus>,
    #[param(value_type = Option<schemas::Role>, nullable = false)]
    role: Option<Role>,
    /// Only users with licenses in this Discord server. Managers of the server can use this filter too.
    #[param(nullable = false, example = "80351110224678912")]
    guild_id: Option<String>,
}

/// A page of users.
#[derive(Serialize, ToSchema)]
pub(crate) struct UsersPage {
    users: Vec<UserView>,
    pagination: Pagination,
}

/// List users
///
/// Requires the role `MODERATOR`.
#[utoipa::path(get, path = "/admin/users", tag = "administration", security(("bearer" = [])), params(UsersQuery),
    responses((status = 200, body = UsersPage), Refusals))]
pub(crate) async fn list(user: CurrentUser, Query(query): Query<UsersQuery>) -> JsonResult<UsersPage> {
    let PageParams { page, size } = PageParams::of(query.page, query.limit)?;
    let guild = query.guild_id.as_deref().map(guild_id).transpose()?;
    let search = query.search.filter(|text| !text.is_empty());
    if search.as_deref().is_some_and(|text| text.contains(char::is_control) || text.len() > 254) {
        return Err(Problem::invalid_field("search", "search must be one line of at most 254 bytes"));
    }
    let filter = UserFilter { search, status: query.status, role: query.role, ..UserFilter::default() };
    let core = &user.app.core;
    let (listed, has_details) = if let Some(guild) = guild {
        guild_managers::list_members(core, user.principal, guild, filter, page, size).await?
    } else {
        (admin::list(core, user.principal, &filter, page, size).await?, true)
    };
    let pagination = Pagination::of_users(PageParams { page, size }, &listed);
    let mut users = UserView::list(core, listed.users).await?;
    for view in users.iter_mut().filter(|_| !has_details) {
        view.two_factor_enabled = None;
    }
    let users = users.into_iter().map(|view| user.dialect.user(view)).collect();
    Ok(Json(UsersPage { users, pagination }))
}

/// Retrieve a user
///
/// Requires the role `MODERATOR`.
#[utoipa::path(get, path = "/admin/users/{id}", tag = "administration", security(("bearer" = [])),
    params(("id" = Uuid, Path)), responses((status = 200, body = UserView), Refusals))]
pub(crate) async fn get(user: CurrentUser, PathParams(id): PathParams<Uuid>) -> JsonResult<UserView> {
    Admin::at_least(&user.app.core, Role::Moderator, user.principal)?;
    user.dialect.user_view(&user.app.core, admin::get(&user.app.core, UserId(id)).await?).await
}

/// The fields to change. Other fields are ignored.
#[derive(Deserialize, ToSchema)]
pub(crate) struct UpdateStatusRequest {
    /// `ACTIVE`, `SUSPENDED` or `BANNED`.
    #[schema(value_type = schemas::AccountStatus)]
    status: AccountStatus,
    /// The reason for the change.
    reason: Option<String>,
}

async fn set_status(
    user: CurrentUser,
    id: Uuid,
    status: AccountStatus,
    reason: Option<String>,
) -> JsonResult<UserView> {
    let admin = Admin::at_least(&user.app.core, Role::Admin, user.principal)?;
    let changed = admin::set_status(&user.app.core, &admin, UserId(id), status, reason).await?;
    user.dialect.user_view(&user.app.core, changed).await
}

/// Update the status of a user
///
/// Suspends, bans or reactivates the user. Suspending and banning end all of their sessions. Requires the role
/// `ADMIN`.
#[utoipa::path(patch, path = "/admin/users/{id}", tag = "administration", security(("bearer" = [])),
    params(("id" = Uuid, Path)), request_body = UpdateStatusRequest, responses((status = 200, body = UserView), Refusals))]
pub(crate) async fn change(
    user: CurrentUser,
    PathParams(id): PathParams<Uuid>,
    JsonBody(form): JsonBody<UpdateStatusRequest>,
) -> JsonResult<UserView> {
    set_status(user, id, form.status, form.reason).await
}

/// Ban a user
///
/// Ends all of their sessions. Requires the role `ADMIN`.
#[utoipa::path(post, path = "/admin/users/{id}/ban", tag = "administration", security(("bearer" = [])),
    params(("id" = Uuid, Path)), request_body = Option<ReasonRequest>, responses((status = 200, body = UserView), Refusals))]
pub(crate) async fn ban(
    user: CurrentUser,
    PathParams(id): PathParams<Uuid>,
    OptionalJson(form): OptionalJson<ReasonRequest>,
) -> JsonResult<UserView> {
    set_status(user, id, AccountStatus::Banned, form.reason).await
}

/// Unban a user
///
/// Sets their status to `ACTIVE`. Requires the role `ADMIN`.
#[utoipa::path(post, path = "/admin/users/{id}/unban", tag = "administration", security(("bearer" = [])),
    params(("id" = Uuid, Path)), responses((status = 200, body = UserView), Refusals))]
pub(crate) async fn unban(user: CurrentUser, PathParams(id): PathParams<Uuid>) -> JsonResult<UserView> {
    set_status(user, id, AccountStatus::Active, None).await
}

/// Delete a user
///
/// Ends all of their sessions and schedules the deletion in 14 days. The user can cancel it by signing in before
/// then. Requires the role `ADMIN`.
#[utoipa::path(delete, path = "/admin/users/{id}", tag = "administration", security(("bearer" = [])),
    params(("id" = Uuid, Path)), responses((status = 202, body = Value), Refusals))]
pub(crate) async fn delete(user: CurrentUser, PathParams(id): PathParams<Uuid>) -> StatusResult<Value> {
    let admin = Admin::at_least(&user.app.core, Role::Admin, user.principal)?;
    let deletion_at = admin::schedule_deletion(&user.app.core, &admin, UserId(id)).await?;
    Ok((StatusCode::ACCEPTED, Json(json!({ "deletionAt": deletion_at }))))
}

/// Disable two-factor authentication of a user
///
/// For users who lost their second factor. Ends all of their sessions. Requires the role `ADMIN`.
#[utoipa::path(delete, path = "/admin/users/{id}/2fa", tag = "administration", security(("bearer" = [])),
    params(("id" = Uuid, Path)), responses((status = 200, body = Message), Refusals))]
pub(crate) async fn remove_second_factor(user: CurrentUser, PathParams(id): PathParams<Uuid>) -> JsonResult<Message> {
    let admin = Admin::at_least(&user.app.core, Role::Admin, user.principal)?;
    admin::remove_second_factor(&user.app.core, &admin, UserId(id)).await?;
    Ok(Message::json("Second factor removed"))
}
