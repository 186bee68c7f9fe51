//! Administration of sessions.

use dca_core::accounts::{admin, sessions};

use super::params::{PageParams, PageQuery, ReasonRequest};
use crate::http::prelude::*;

/// List the sessions of a user
///
/// Requires the role `MODERATOR`.
#[utoipa::path(get, path = "/admin/users/{id}/sessions", tag = "administration", security(("bearer" = [])),
    params(("id" = Uuid, Path)), responses((status = 200, body = [SessionView]), Refusals))]
pub(crate) async fn sessions(user: CurrentUser, PathParams(id): PathParams<Uuid>) -> JsonResult<Vec<SessionView>> {
    let admin = Admin::at_least(&user.app.core, Role::Moderator, user.principal)?;
    let target = admin::get(&user.app.core, UserId(id)).await?;
    let live = sessions::list(&user.app.core, target.id).await?;
    Ok(Json(live.into_iter().map(|session| SessionView::of(session, admin.principal.session.id)).collect()))
}

/// End all sessions of a user
///
/// Requires the role `ADMIN`.
#[utoipa::path(delete, path = "/admin/users/{id}/sessions", tag = "administration", security(("bearer" = [])),
    params(("id" = Uuid, Path)), responses((status = 200, body = Value), Refusals))]
pub(crate) async fn end_sessions(user: CurrentUser, PathParams(id): PathParams<Uuid>) -> JsonResult<Value> {
    let admin = Admin::at_least(&user.app.core, Role::Admin, user.principal)?;
    let ended = admin::end_sessions(&user.app.core, &admin, UserId(id)).await?;
    Ok(Json(json!({ "revoked": ended })))
}

/// List all sessions
///
/// Requires the role `ADMIN`.
#[utoipa::path(get, path = "/admin/sessions", tag = "administration", security(("bearer" = [])), params(PageQuery),
    responses((status = 200, body = [SessionView]), Refusals))]
pub(crate) async fn all_sessions(user: CurrentUser, Query(query): Query<PageQuery>) -> JsonResult<Vec<SessionView>> {
    let admin = Admin::at_least(&user.app.core, Role::Admin, user.principal)?;
    let PageParams { page, size } = PageParams::of(query.page, query.limit)?;
    let live = sessions::list_all(&user.app.core, page, size).await?;
    Ok(Json(live.into_iter().map(|session| SessionView::of(session, admin.principal.session.id)).collect()))
}

/// End a session
///
/// Requires the role `ADMIN`.
#[utoipa::path(post, path = "/admin/sessions/{id}/revoke", tag = "administration", security(("bearer" = [])),
    params(("id" = Uuid, Path)), request_body = Option<ReasonRequest>, responses((status = 200, body = Message), Refusals))]
pub(crate) async fn end_session(
    user: CurrentUser,
    PathParams(id): PathParams<Uuid>,
    OptionalJson(form): OptionalJson<ReasonRequest>,
) -> JsonResult<Message> {
    let admin = Admin::at_least(&user.app.core, Role::Admin, user.principal)?;
    admin::end_session(&user.app.core, &admin, SessionId(id), form.reason).await?;
    Ok(Message::json("Session revoked"))
}
