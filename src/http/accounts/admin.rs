//! Administration: users, their sessions and roles, and the outbox.

use axum::{Json, extract::State, http::StatusCode};
use chrono::{DateTime, Utc};
use dca_core::{
    Code, Snowflake,
    accounts::{
        AccountStatus, Role,
        admin::{self, Admin, UserFilter},
        sessions,
    },
    events::Actor,
    ids::{SessionId, UserId},
    outbox::{self, DeliveryState},
    users::User,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::{Message, Refusals, UserView, account::SessionView};
use crate::{
    App,
    http::{
        extract::{CurrentUser, JsonBody, OptionalJson, PathParams, Query},
        problem::Problem,
    },
};

/// Validated `page` and `limit` parameters.
#[derive(Clone, Copy)]
struct PageParams {
    page: u64,
    size: u64,
}

impl PageParams {
    fn of(page: Option<u64>, size: Option<u64>) -> Result<Self, Problem> {
        let (page, size) = (page.unwrap_or(1), size.unwrap_or(20));
        let valid = (1..=1_000_000).contains(&page) && (1..=100).contains(&size);
        let invalid = || Problem::new(Code::ValidationError, "page must be 1 to 1000000, and limit 1 to 100.");
        valid.then_some(Self { page, size }).ok_or_else(invalid)
    }
}

/// Filters the list of users.
#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
pub(in crate::http) struct PeopleQuery {
    /// The page number, starting at 1.
    page: Option<u64>,
    /// The number of entries per page, 1 to 100. Defaults to 20.
    limit: Option<u64>,
    /// Part of a name or email.
    search: Option<String>,
    #[param(value_type = Option<String>)]
    status: Option<AccountStatus>,
    #[param(value_type = Option<String>)]
    role: Option<Role>,
    /// Only users with licenses in this Discord server. Managers of the server can use this filter too.
    guild_id: Option<String>,
}

/// A page of users.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct PeopleView {
    users: Vec<UserView>,
    pagination: Pagination,
}

/// The position of the page in the list.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Pagination {
    total: u64,
    page: u64,
    pages: u64,
    limit: u64,
    has_next: bool,
    has_prev: bool,
}

/// List users
///
/// Requires the role `MODERATOR`.
#[utoipa::path(get, path = "/admin/users", tag = "administration", security(("bearer" = [])), params(PeopleQuery),
    responses((status = 200, body = PeopleView), Refusals))]
pub(in crate::http) async fn list(
    State(app): State<App>,
    CurrentUser(principal): CurrentUser,
    Query(query): Query<PeopleQuery>,
) -> Result<Json<PeopleView>, Problem> {
    let PageParams { page, size } = PageParams::of(query.page, query.limit)?;
    let guild = query.guild_id.as_deref().map(snowflake).transpose()?;
    let search = query.search.filter(|text| !text.is_empty());
    if search.as_deref().is_some_and(|text| text.contains(char::is_control) || text.len() > 254) {
        return Err(Problem::new(Code::ValidationError, "search must be one line of at most 254 bytes."));
    }
    let filter = UserFilter { search, status: query.status, role: query.role, guild: None };
    let (rows, total) = admin::list(&app.core, principal, guild, filter, page, size).await?;
    let mut users = Vec::new();
    for user in rows {
        users.push(UserView::of(&app.core, user).await?);
    }
    let pages = total.div_ceil(size);
    let pagination = Pagination { total, page, pages, limit: size, has_next: page < pages, has_prev: page > 1 };
    Ok(Json(PeopleView { users, pagination }))
}

fn snowflake(text: &str) -> Result<Snowflake, Problem> {
    let invalid =
        |_| Problem::new(Code::ValidationError, "guildId must be a Discord server ID, for example 80351110224678912.");
    text.parse().map(Snowflake).map_err(invalid)
}

async fn view(app: &App, user: User) -> Result<Json<UserView>, Problem> {
    Ok(Json(UserView::of(&app.core, user).await?))
}

/// Retrieve a user
///
/// Requires the role `MODERATOR`.
#[utoipa::path(get, path = "/admin/users/{id}", tag = "administration", security(("bearer" = [])),
    params(("id" = Uuid, Path)), responses((status = 200, body = UserView), Refusals))]
pub(in crate::http) async fn get(
    State(app): State<App>,
    CurrentUser(principal): CurrentUser,
    PathParams(id): PathParams<Uuid>,
) -> Result<Json<UserView>, Problem> {
    Admin::at_least(&app.core, Role::Moderator, principal)?;
    view(&app, admin::get(&app.core, UserId(id)).await?).await
}

/// The fields to change. Other fields are ignored.
#[derive(Deserialize, ToSchema)]
pub(in crate::http) struct StandingRequest {
    /// `ACTIVE`, `SUSPENDED` or `BANNED`.
    #[schema(value_type = String)]
    status: AccountStatus,
    /// The reason for the change.
    #[serde(default)]
    reason: Option<String>,
}

/// Update the status of a user
///
/// Suspends, bans or reactivates the user. Suspending and banning end all of their sessions. Requires the role
/// `ADMIN`.
#[utoipa::path(patch, path = "/admin/users/{id}", tag = "administration", security(("bearer" = [])),
    params(("id" = Uuid, Path)), request_body = StandingRequest, responses((status = 200, body = UserView), Refusals))]
pub(in crate::http) async fn change(
    State(app): State<App>,
    CurrentUser(principal): CurrentUser,
    PathParams(id): PathParams<Uuid>,
    JsonBody(form): JsonBody<StandingRequest>,
) -> Result<Json<UserView>, Problem> {
    let admin = Admin::at_least(&app.core, Role::Admin, principal)?;
    view(&app, admin::set_status(&app.core, &admin, UserId(id), form.status, form.reason).await?).await
}

/// The reason for the change.
#[derive(Default, Deserialize, ToSchema)]
pub(in crate::http) struct ReasonRequest {
    #[serde(default)]
    reason: Option<String>,
}

/// Ban a user
///
/// Ends all of their sessions. Requires the role `ADMIN`.
#[utoipa::path(post, path = "/admin/users/{id}/ban", tag = "administration", security(("bearer" = [])),
    params(("id" = Uuid, Path)), request_body = Option<ReasonRequest>, responses((status = 200, body = UserView), Refusals))]
pub(in crate::http) async fn ban(
    State(app): State<App>,
    CurrentUser(principal): CurrentUser,
    PathParams(id): PathParams<Uuid>,
    OptionalJson(form): OptionalJson<ReasonRequest>,
) -> Result<Json<UserView>, Problem> {
    let admin = Admin::at_least(&app.core, Role::Admin, principal)?;
    view(&app, admin::set_status(&app.core, &admin, UserId(id), AccountStatus::Banned, form.reason).await?).await
}

/// Unban a user
///
/// Sets their status to `ACTIVE`. Requires the role `ADMIN`.
#[utoipa::path(post, path = "/admin/users/{id}/unban", tag = "administration", security(("bearer" = [])),
    params(("id" = Uuid, Path)), responses((status = 200, body = UserView), Refusals))]
pub(in crate::http) async fn unban(
    State(app): State<App>,
    CurrentUser(principal): CurrentUser,
    PathParams(id): PathParams<Uuid>,
) -> Result<Json<UserView>, Problem> {
    let admin = Admin::at_least(&app.core, Role::Admin, principal)?;
    view(&app, admin::set_status(&app.core, &admin, UserId(id), AccountStatus::Active, None).await?).await
}

/// Delete a user
///
/// Ends all of their sessions and schedules the deletion in 14 days. The user can cancel it by signing in before
/// then. Requires the role `ADMIN`.
#[utoipa::path(delete, path = "/admin/users/{id}", tag = "administration", security(("bearer" = [])),
    params(("id" = Uuid, Path)), responses((status = 202, body = Value), Refusals))]
pub(in crate::http) async fn delete(
    State(app): State<App>,
    CurrentUser(principal): CurrentUser,
    PathParams(id): PathParams<Uuid>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let admin = Admin::at_least(&app.core, Role::Admin, principal)?;
    let deletion_at = admin::schedule_deletion(&app.core, &admin, UserId(id)).await?;
    Ok((StatusCode::ACCEPTED, Json(json!({ "deletionAt": deletion_at }))))
}

/// List the sessions of a user
///
/// Requires the role `MODERATOR`.
#[utoipa::path(get, path = "/admin/users/{id}/sessions", tag = "administration", security(("bearer" = [])),
    params(("id" = Uuid, Path)), responses((status = 200, body = [SessionView]), Refusals))]
pub(in crate::http) async fn sessions(
    State(app): State<App>,
    CurrentUser(principal): CurrentUser,
    PathParams(id): PathParams<Uuid>,
) -> Result<Json<Vec<SessionView>>, Problem> {
    let admin = Admin::at_least(&app.core, Role::Moderator, principal)?;
    let user = admin::get(&app.core, UserId(id)).await?;
    let live = sessions::list(&app.core, user.id).await?;
    Ok(Json(live.into_iter().map(|session| SessionView::of(session, admin.principal.session.id)).collect()))
}

/// End all sessions of a user
///
/// Requires the role `ADMIN`.
#[utoipa::path(delete, path = "/admin/users/{id}/sessions", tag = "administration", security(("bearer" = [])),
    params(("id" = Uuid, Path)), responses((status = 200, body = Value), Refusals))]
pub(in crate::http) async fn end_sessions(
    State(app): State<App>,
    CurrentUser(principal): CurrentUser,
    PathParams(id): PathParams<Uuid>,
) -> Result<Json<Value>, Problem> {
    let admin = Admin::at_least(&app.core, Role::Admin, principal)?;
    let ended = admin::end_sessions(&app.core, &admin, UserId(id)).await?;
    Ok(Json(json!({ "revoked": ended })))
}

/// Disable two-factor authentication of a user
///
/// For users who lost their second factor. Ends all of their sessions. Requires the role `ADMIN`.
#[utoipa::path(delete, path = "/admin/users/{id}/2fa", tag = "administration", security(("bearer" = [])),
    params(("id" = Uuid, Path)), responses((status = 200, body = Message), Refusals))]
pub(in crate::http) async fn remove_second_factor(
    State(app): State<App>,
    CurrentUser(principal): CurrentUser,
    PathParams(id): PathParams<Uuid>,
) -> Result<Json<Message>, Problem> {
    let admin = Admin::at_least(&app.core, Role::Admin, principal)?;
    admin::remove_second_factor(&app.core, &admin, UserId(id)).await?;
    Ok(Message::json("Second factor removed"))
}

/// Selects a page of a list.
#[derive(Deserialize, IntoParams)]
pub(in crate::http) struct PageQuery {
    /// The page number, starting at 1.
    page: Option<u64>,
    /// The number of entries per page, 1 to 100. Defaults to 20.
    limit: Option<u64>,
}

/// List all sessions
///
/// Requires the role `ADMIN`.
#[utoipa::path(get, path = "/admin/sessions", tag = "administration", security(("bearer" = [])), params(PageQuery),
    responses((status = 200, body = [SessionView]), Refusals))]
pub(in crate::http) async fn all_sessions(
    State(app): State<App>,
    CurrentUser(principal): CurrentUser,
    Query(query): Query<PageQuery>,
) -> Result<Json<Vec<SessionView>>, Problem> {
    let admin = Admin::at_least(&app.core, Role::Admin, principal)?;
    let PageParams { page, size } = PageParams::of(query.page, query.limit)?;
    let live = sessions::list_all(&app.core, page, size).await?;
    Ok(Json(live.into_iter().map(|session| SessionView::of(session, admin.principal.session.id)).collect()))
}

/// End a session
///
/// Requires the role `ADMIN`.
#[utoipa::path(post, path = "/admin/sessions/{id}/revoke", tag = "administration", security(("bearer" = [])),
    params(("id" = Uuid, Path)), request_body = Option<ReasonRequest>, responses((status = 200, body = Message), Refusals))]
pub(in crate::http) async fn end_session(
    State(app): State<App>,
    CurrentUser(principal): CurrentUser,
    PathParams(id): PathParams<Uuid>,
    OptionalJson(form): OptionalJson<ReasonRequest>,
) -> Result<Json<Message>, Problem> {
    let admin = Admin::at_least(&app.core, Role::Admin, principal)?;
    admin::end_session(&app.core, &admin, SessionId(id), form.reason).await?;
    Ok(Message::json("Session revoked"))
}

/// List roles
///
/// Returns all roles, from lowest to highest. Requires the role `MODERATOR`.
#[utoipa::path(get, path = "/admin/roles", tag = "administration", security(("bearer" = [])),
    responses((status = 200, body = Value), Refusals))]
pub(in crate::http) async fn roles(
    State(app): State<App>,
    CurrentUser(principal): CurrentUser,
) -> Result<Json<Value>, Problem> {
    Admin::at_least(&app.core, Role::Moderator, principal)?;
    let roles: Vec<Value> =
        Role::ALL.iter().map(|role| json!({ "name": role, "description": role.description() })).collect();
    Ok(Json(json!({ "roles": roles })))
}

/// The role to assign to a user or to remove.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::http) struct RoleRequest {
    user_id: Uuid,
    /// The name of a role, or `GUILD_MANAGER` together with `guildId`.
    role: String,
    #[serde(default)]
    guild_id: Option<String>,
}

/// The role of the managers of a Discord server.
const GUILD_MANAGER: &str = "GUILD_MANAGER";

async fn set_role(app: &App, admin: &Admin, form: &RoleRequest, assign: bool) -> Result<Json<UserView>, Problem> {
    let id = UserId(form.user_id);
    if form.role == GUILD_MANAGER {
        let guild = snowflake(form.guild_id.as_deref().unwrap_or_default())?;
        admin::set_manager(&app.core, admin, id, guild, assign).await?;
        return view(app, admin::get(&app.core, id).await?).await;
    }
    let invalid = || {
        let detail = "Unknown role. GET /admin/roles lists the roles, for example MODERATOR.";
        Problem::new(Code::ValidationError, detail).at("role".to_owned())
    };
    let role: Role = form.role.parse().map_err(|_| invalid())?;
    let user = if assign {
        admin::set_role(&app.core, admin, id, role).await?
    } else {
        admin::remove_role(&app.core, admin, id, role).await?
    };
    view(app, user).await
}

/// Assign a role to a user
///
/// The role must be lower than your own. Requires the role `SUPER_ADMIN`.
#[utoipa::path(post, path = "/admin/roles/assign", tag = "administration", security(("bearer" = [])),
    request_body = RoleRequest, responses((status = 200, body = UserView), Refusals))]
pub(in crate::http) async fn assign_role(
    State(app): State<App>,
    CurrentUser(principal): CurrentUser,
    JsonBody(form): JsonBody<RoleRequest>,
) -> Result<Json<UserView>, Problem> {
    let admin = Admin::at_least(&app.core, Role::SuperAdmin, principal)?;
    set_role(&app, &admin, &form, true).await
}

/// Remove a role from a user
///
/// The user becomes a `USER` again. For `GUILD_MANAGER`, the user no longer manages the server. Requires the role
/// `SUPER_ADMIN`.
#[utoipa::path(post, path = "/admin/roles/revoke", tag = "administration", security(("bearer" = [])),
    request_body = RoleRequest, responses((status = 200, body = UserView), Refusals))]
pub(in crate::http) async fn revoke_role(
    State(app): State<App>,
    CurrentUser(principal): CurrentUser,
    JsonBody(form): JsonBody<RoleRequest>,
) -> Result<Json<UserView>, Problem> {
    let admin = Admin::at_least(&app.core, Role::SuperAdmin, principal)?;
    set_role(&app, &admin, &form, false).await
}

/// Filters the list of deliveries.
#[derive(Deserialize, IntoParams)]
pub(in crate::http) struct OutboxQuery {
    /// The page number, starting at 1.
    page: Option<u64>,
    /// The number of entries per page, 1 to 100. Defaults to 20.
    limit: Option<u64>,
    /// `pending`, `sent`, `undelivered` or `dead`.
    #[param(value_type = Option<String>)]
    state: Option<DeliveryState>,
}

/// A delivery of the outbox. Contains no email addresses and no secrets.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::http) struct DeliveryView {
    id: Uuid,
    kind: String,
    /// The IDs of the objects that the delivery refers to.
    about: Value,
    state: String,
    attempt: i32,
    due_at: DateTime<Utc>,
    expires_at: Option<DateTime<Utc>>,
    last_error: Option<String>,
    created_at: DateTime<Utc>,
}

/// List deliveries
///
/// Returns the deliveries of the outbox, newest first. Requires the role `ADMIN`.
#[utoipa::path(get, path = "/admin/outbox", tag = "administration", security(("bearer" = [])), params(OutboxQuery),
    responses((status = 200, body = [DeliveryView]), Refusals))]
pub(in crate::http) async fn outbox(
    State(app): State<App>,
    CurrentUser(principal): CurrentUser,
    Query(query): Query<OutboxQuery>,
) -> Result<Json<Vec<DeliveryView>>, Problem> {
    Admin::at_least(&app.core, Role::Admin, principal)?;
    let PageParams { page, size } = PageParams::of(query.page, query.limit)?;
    let rows = outbox::list(&app.core, query.state, page, size).await?;
    let view = |row: outbox::OutboxRow| DeliveryView {
        id: row.id,
        kind: row.kind,
        about: row.payload,
        state: row.state,
        attempt: row.attempt,
        due_at: row.due_at,
        expires_at: row.expires_at,
        last_error: row.last_error,
        created_at: row.created_at,
    };
    Ok(Json(rows.into_iter().map(view).collect()))
}

/// Retry a delivery
///
/// Queues a `dead` or `undelivered` delivery again. Requires the role `ADMIN`.
#[utoipa::path(post, path = "/admin/outbox/{id}/replay", tag = "administration", security(("bearer" = [])),
    params(("id" = Uuid, Path)), responses((status = 202, body = Message), Refusals))]
pub(in crate::http) async fn replay(
    State(app): State<App>,
    CurrentUser(principal): CurrentUser,
    PathParams(id): PathParams<Uuid>,
) -> Result<(StatusCode, Json<Message>), Problem> {
    let admin = Admin::at_least(&app.core, Role::Admin, principal)?;
    outbox::replay(&app.core, &Actor::User(admin.principal.user.id), id).await?;
    Ok((StatusCode::ACCEPTED, Message::json("Delivery queued")))
}
