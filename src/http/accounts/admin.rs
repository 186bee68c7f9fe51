//! Looking after others: people, their sessions and roles, and the outbox.

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

/// Where a list begins and how long it is.
#[derive(Clone, Copy)]
struct Pages {
    page: u64,
    size: u64,
}

impl Pages {
    fn of(page: Option<u64>, size: Option<u64>) -> Result<Self, Problem> {
        let (page, size) = (page.unwrap_or(1), size.unwrap_or(20));
        let fits = (1..=1_000_000).contains(&page) && (1..=100).contains(&size);
        let wrong = || Problem::new(Code::ValidationError, "page is at least 1, limit 1 to 100.");
        fits.then_some(Self { page, size }).ok_or_else(wrong)
    }
}

/// Which people.
#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
pub(in crate::http) struct PeopleQuery {
    /// From 1.
    page: Option<u64>,
    /// 1 to 100; 20 if not given.
    limit: Option<u64>,
    /// Part of a name or address.
    search: Option<String>,
    #[param(value_type = Option<String>)]
    status: Option<AccountStatus>,
    #[param(value_type = Option<String>)]
    role: Option<Role>,
    /// Only who holds something in this Discord server; its managers may ask too.
    guild_id: Option<String>,
}

/// A page of people.
#[derive(Serialize, ToSchema)]
pub(in crate::http) struct PeopleView {
    users: Vec<UserView>,
    pagination: Pagination,
}

/// Where the page stands.
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

/// Who is there. From MODERATOR.
#[utoipa::path(get, path = "/admin/users", tag = "administration", security(("bearer" = [])), params(PeopleQuery),
    responses((status = 200, body = PeopleView), Refusals))]
pub(in crate::http) async fn list(
    State(app): State<App>,
    CurrentUser(principal): CurrentUser,
    Query(query): Query<PeopleQuery>,
) -> Result<Json<PeopleView>, Problem> {
    let Pages { page, size } = Pages::of(query.page, query.limit)?;
    let guild = query.guild_id.as_deref().map(snowflake).transpose()?;
    let search = query.search.filter(|text| !text.is_empty());
    if search.as_deref().is_some_and(|text| text.contains(char::is_control) || text.len() > 254) {
        return Err(Problem::new(Code::ValidationError, "search is one line of up to 254 bytes."));
    }
    let wanted = UserFilter { search, status: query.status, role: query.role, guild: None };
    let (found, total) = admin::list(&app.core, principal, guild, wanted, page, size).await?;
    let mut users = Vec::new();
    for user in found {
        users.push(UserView::of(&app.core, user).await?);
    }
    let pages = total.div_ceil(size);
    let pagination = Pagination { total, page, pages, limit: size, has_next: page < pages, has_prev: page > 1 };
    Ok(Json(PeopleView { users, pagination }))
}

fn snowflake(text: &str) -> Result<Snowflake, Problem> {
    let wrong = || Problem::new(Code::ValidationError, "guildId is the number of a Discord server.");
    text.parse().map(Snowflake).map_err(|_| wrong())
}

async fn view(app: &App, user: User) -> Result<Json<UserView>, Problem> {
    Ok(Json(UserView::of(&app.core, user).await?))
}

/// One person. From MODERATOR.
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

/// What an admin may change about a person; every other field is ignored.
#[derive(Deserialize, ToSchema)]
pub(in crate::http) struct StandingRequest {
    /// `ACTIVE`, `SUSPENDED` or `BANNED`.
    #[schema(value_type = String)]
    status: AccountStatus,
    /// Why.
    #[serde(default)]
    reason: Option<String>,
}

/// Suspend a person, ban them, or let them in again. From ADMIN.
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

/// Why.
#[derive(Default, Deserialize, ToSchema)]
pub(in crate::http) struct ReasonRequest {
    #[serde(default)]
    reason: Option<String>,
}

/// Ban a person; their sessions end. From ADMIN.
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

/// Let a person in again. From ADMIN.
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

/// Plan the deletion of a person's account; signing in within 14 days takes it back. From ADMIN.
#[utoipa::path(delete, path = "/admin/users/{id}", tag = "administration", security(("bearer" = [])),
    params(("id" = Uuid, Path)), responses((status = 202, body = Value), Refusals))]
pub(in crate::http) async fn delete(
    State(app): State<App>,
    CurrentUser(principal): CurrentUser,
    PathParams(id): PathParams<Uuid>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let admin = Admin::at_least(&app.core, Role::Admin, principal)?;
    let at = admin::plan_deletion(&app.core, &admin, UserId(id)).await?;
    Ok((StatusCode::ACCEPTED, Json(json!({ "deletionAt": at }))))
}

/// Where a person is signed in. From MODERATOR.
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

/// Sign a person out everywhere. From ADMIN.
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

/// Take a lost second factor away; the person's sessions end. From ADMIN.
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

/// Which page of a list.
#[derive(Deserialize, IntoParams)]
pub(in crate::http) struct PageQuery {
    /// From 1.
    page: Option<u64>,
    /// 1 to 100; 20 if not given.
    limit: Option<u64>,
}

/// Every live session. From ADMIN.
#[utoipa::path(get, path = "/admin/sessions", tag = "administration", security(("bearer" = [])), params(PageQuery),
    responses((status = 200, body = [SessionView]), Refusals))]
pub(in crate::http) async fn all_sessions(
    State(app): State<App>,
    CurrentUser(principal): CurrentUser,
    Query(query): Query<PageQuery>,
) -> Result<Json<Vec<SessionView>>, Problem> {
    let admin = Admin::at_least(&app.core, Role::Admin, principal)?;
    let Pages { page, size } = Pages::of(query.page, query.limit)?;
    let live = sessions::list_all(&app.core, page, size).await?;
    Ok(Json(live.into_iter().map(|session| SessionView::of(session, admin.principal.session.id)).collect()))
}

/// End one session. From ADMIN.
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

/// The roles there are, from least to most. From MODERATOR.
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

/// A role for a person, or a Discord server to manage.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::http) struct RoleRequest {
    user_id: Uuid,
    /// A role of this installation; `GUILD_MANAGER` with a `guildId`.
    role: String,
    #[serde(default)]
    guild_id: Option<String>,
}

/// The role of a server's manager.
const GUILD_MANAGER: &str = "GUILD_MANAGER";

async fn set_role(app: &App, admin: &Admin, form: &RoleRequest, gives: bool) -> Result<Json<UserView>, Problem> {
    let id = UserId(form.user_id);
    if form.role == GUILD_MANAGER {
        let guild = snowflake(form.guild_id.as_deref().unwrap_or_default())?;
        admin::set_manager(&app.core, admin, id, guild, gives).await?;
        return view(app, admin::get(&app.core, id).await?).await;
    }
    let wrong = || Problem::new(Code::ValidationError, "role is none that is known.").at("role".to_owned());
    let role: Role = form.role.parse().map_err(|_| wrong())?;
    let changed = if gives {
        admin::set_role(&app.core, admin, id, role).await?
    } else {
        admin::take_role(&app.core, admin, id, role).await?
    };
    view(app, changed).await
}

/// Give a person a role below one's own. From SUPER_ADMIN.
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

/// Take a role from a person: they are a USER again, or no longer the server's manager. From SUPER_ADMIN.
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

/// Which deliveries.
#[derive(Deserialize, IntoParams)]
pub(in crate::http) struct OutboxQuery {
    /// From 1.
    page: Option<u64>,
    /// 1 to 100; 20 if not given.
    limit: Option<u64>,
    /// `pending`, `sent`, `undelivered` or `dead`.
    #[param(value_type = Option<String>)]
    state: Option<DeliveryState>,
}

/// A delivery: what, how it stands, and why. No address and no secret is in it.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::http) struct DeliveryView {
    id: Uuid,
    kind: String,
    /// Ids of what it is about.
    about: Value,
    state: String,
    attempt: i32,
    due_at: DateTime<Utc>,
    expires_at: Option<DateTime<Utc>>,
    last_error: Option<String>,
    created_at: DateTime<Utc>,
}

/// The outbox, newest first. From ADMIN.
#[utoipa::path(get, path = "/admin/outbox", tag = "administration", security(("bearer" = [])), params(OutboxQuery),
    responses((status = 200, body = [DeliveryView]), Refusals))]
pub(in crate::http) async fn outbox(
    State(app): State<App>,
    CurrentUser(principal): CurrentUser,
    Query(query): Query<OutboxQuery>,
) -> Result<Json<Vec<DeliveryView>>, Problem> {
    Admin::at_least(&app.core, Role::Admin, principal)?;
    let Pages { page, size } = Pages::of(query.page, query.limit)?;
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

/// Try a delivery again that was given up. From ADMIN.
#[utoipa::path(post, path = "/admin/outbox/{id}/replay", tag = "administration", security(("bearer" = [])),
    params(("id" = Uuid, Path)), responses((status = 202, body = Message), Refusals))]
pub(in crate::http) async fn replay(
    State(app): State<App>,
    CurrentUser(principal): CurrentUser,
    PathParams(id): PathParams<Uuid>,
) -> Result<(StatusCode, Json<Message>), Problem> {
    let admin = Admin::at_least(&app.core, Role::Admin, principal)?;
    outbox::replay(&app.core, &Actor::User(admin.principal.user.id), id).await?;
    Ok((StatusCode::ACCEPTED, Message::json("It is tried again")))
}
