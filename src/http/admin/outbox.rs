//! Administration of the outbox.

use chrono::{DateTime, Utc};
use dca_core::outbox::{self, DeliveryKind, DeliveryState};

use super::params::PageParams;
use crate::http::prelude::*;

/// Filters the list of deliveries.
#[derive(Deserialize, IntoParams)]
pub(crate) struct OutboxQuery {
    /// The page number, starting at 1.
    #[param(nullable = false, minimum = 1, default = 1)]
    page: Option<u64>,
    /// The number of entries per page.
    #[param(nullable = false, minimum = 1, maximum = 100, default = 20)]
    limit: Option<u64>,
    #[param(value_type = Option<schemas::DeliveryState>, nullable = false)]
    state: Option<DeliveryState>,
}

/// A delivery of the outbox. Contains no email addresses and no secrets.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DeliveryView {
    id: Uuid,
    #[schema(value_type = schemas::DeliveryKind)]
    kind: DeliveryKind,
    /// The IDs of the objects that the delivery refers to.
    about: Value,
    #[schema(value_type = schemas::DeliveryState)]
    state: DeliveryState,
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
pub(crate) async fn outbox(user: CurrentUser, Query(query): Query<OutboxQuery>) -> JsonResult<Vec<DeliveryView>> {
    Admin::at_least(&user.app.core, Role::Admin, user.principal)?;
    let PageParams { page, size } = PageParams::of(query.page, query.limit)?;
    let rows = outbox::list(&user.app.core, query.state, page, size).await?;
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
pub(crate) async fn replay(user: CurrentUser, PathParams(id): PathParams<Uuid>) -> StatusResult<Message> {
    let admin = Admin::at_least(&user.app.core, Role::Admin, user.principal)?;
    outbox::replay(&user.app.core, &admin.caller(), id).await?;
    Ok((StatusCode::ACCEPTED, Message::json("Delivery queued")))
}
