//! Administration of sessions.

use axum::{Json, extract::State};
use dca_core::{
    accounts::{
        admin::{self, Admin},
        sessions,
    },
    ids::{SessionId, UserId},
    users::Role,
};
use serde_json::{Value, json};
use uuid::Uuid;

use super::params::{PageParams, PageQuery, ReasonRequest};
use crate::{
    App,
    http::{
        accounts::views::{Message, Refusals, SessionView},
        extract::{CurrentUser, OptionalJson, PathParams, Query},
        problem::Problem,
    },
};

/// List the sessions of a user
///
/// Requires the role `MODERATOR`.
#[utoipa::path(get, path = "/admin/users/{id}/sessions", tag = "administration", security(("bearer" = [])),
    params(("id" = Uuid, Path)), responses((status = 200, body = [SessionView]), Refusals))]
pub(crate) async fn sessions(
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
pub(crate) async fn end_sessions(
    State(app): State<App>,
    CurrentUser(principal): CurrentUser,
    PathParams(id): PathParams<Uuid>,
) -> Result<Json<Value>, Problem> {
    let admin = Admin::at_least(&app.core, Role::Admin, principal)?;
    let ended = admin::end_sessions(&app.core, &admin, UserId(id)).await?;
    Ok(Json(json!({ "revoked": ended })))
}

/// List all sessions
///
/// Requires the role `ADMIN`.
#[utoipa::path(get, path = "/admin/sessions", tag = "administration", security(("bearer" = [])), params(PageQuery),
    responses((status = 200, body = [SessionView]), Refusals))]
pub(crate) async fn all_sessions(
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
pub(crate) async fn end_session(
    State(app): State<App>,
    CurrentUser(principal): CurrentUser,
    PathParams(id): PathParams<Uuid>,
    OptionalJson(form): OptionalJson<ReasonRequest>,
) -> Result<Json<Message>, Problem> {
    let admin = Admin::at_least(&app.core, Role::Admin, principal)?;
    admin::end_session(&app.core, &admin, SessionId(id), form.reason).await?;
    Ok(Message::json("Session revoked"))
}
