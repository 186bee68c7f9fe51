//! The list and the update of licenses of the earlier DCA-Auth. Both differ from the native routes in more than names: the
//! list has page numbers and totals, and one update can be several commands.

use axum::extract::State;
use axum::response::IntoResponse;
use axum::routing::{get, patch};
use axum::{Json, Router};
use chrono::{DateTime, Utc};
use dca_core::ids::{LicenseId, UserId};
use dca_core::licenses::{self, Change, License, LicenseOrder, LicenseSearch, LicenseState, NameChange, OwnTerms};
use dca_core::licenses::{Renewal, SortOrder};
use dca_core::limiter::Bucket;
use dca_core::policy::LicenseType;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;

use super::earlier_dca_licenses::{Status, license};
use crate::App;
use crate::http::admin::params::{PageParams, Pagination};
use crate::http::extract::{Authenticated, JsonBody, PathParams, Query};
use crate::http::idempotency::idempotent;
use crate::http::licenses::{details::LicenseDetails, details::answer, manage::present};
use crate::http::precondition::Precondition;
use crate::http::problem::{JsonResult, Problem};
use crate::http::rate_limit::limited;

pub(super) fn routes() -> Router<App> {
    let routes = OpenApiRouter::new().route("/api/licenses", get(list)).route("/api/licenses/{id}", patch(update));
    limited(Bucket::Manage, idempotent(routes)).into()
}

/// The command that leads to a status.
fn command(status: Status) -> Result<Change, Problem> {
    match status {
        Status::Active => Ok(Change::Resume),
        Status::Suspended => Ok(Change::Suspend { reason: "suspended".to_owned() }),
        Status::Revoked => Ok(Change::Revoke { reason: "revoked".to_owned() }),
        Status::Inactive | Status::Expired | Status::Exhausted => {
            Err(Problem::invalid_field("status", "status can be set to ACTIVE, SUSPENDED or REVOKED"))
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ListQuery {
    page: Option<u64>,
    #[serde(alias = "pageSize")]
    limit: Option<u64>,
    sort_by: Option<LicenseOrder>,
    sort_order: Option<SortOrder>,
    #[serde(rename = "type")]
    license_type: Option<String>,
    status: Option<Status>,
    owner_id: Option<Uuid>,
    search: Option<String>,
    is_expired: Option<bool>,
}

impl ListQuery {
    fn search(self) -> Result<LicenseSearch, Problem> {
        let license_type = self.license_type.map(|name| {
            LicenseType::named(&name).ok_or_else(|| Problem::invalid_field("type", "type is not a known license type"))
        });
        let expired = |state: &LicenseState| *state == LicenseState::Expired;
        let asked = |state: &LicenseState| {
            self.status.is_none_or(|status| status.states().contains(state))
                && self.is_expired.is_none_or(|is_expired| is_expired == expired(state))
        };
        let is_limited = self.status.is_some() || self.is_expired.is_some();
        Ok(LicenseSearch {
            owner: self.owner_id.map(UserId),
            states: is_limited.then(|| LicenseState::ALL.iter().copied().filter(asked).collect()),
            license_type: license_type.transpose()?,
            text: self.search,
        })
    }
}

async fn list(
    State(app): State<App>,
    Authenticated(caller): Authenticated,
    Query(query): Query<ListQuery>,
) -> JsonResult<Value> {
    let params = PageParams::of(query.page, query.limit)?;
    let order = (query.sort_by.unwrap_or(LicenseOrder::CreatedAt), query.sort_order.unwrap_or(SortOrder::Descending));
    let search = query.search()?;
    let (found, total) = licenses::search(&app.core, &caller, &search, order, (params.page, params.size)).await?;
    let now = app.core.clock.now();
    let all: Vec<Value> = found.into_iter().map(|facts| license(json!(LicenseDetails::from((facts, now))))).collect();
    let pagination = Pagination::of(params, total);
    Ok(Json(json!({
        "licenseKeys": all,
        "data": all,
        "total": total,
        "page": params.page,
        "pageSize": params.size,
        "totalPages": pagination.pages,
        "pagination": pagination,
    })))
}

/// What to change. Absent members, and those that are `null` or as they are already, stay.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct UpdateRequest {
    #[serde(default, deserialize_with = "present")]
    name: NameChange,
    status: Option<Status>,
    max_activations: Option<u32>,
    expires_at: Option<DateTime<Utc>>,
    features: Option<Vec<String>>,
    #[serde(default)]
    metadata: Map<String, Value>,
}

impl UpdateRequest {
    /// The commands that make it of a license, in the order in which they are possible.
    fn changes(self, license: &License, now: DateTime<Utc>) -> Result<Vec<Change>, Problem> {
        let terms = OwnTerms { max_devices: self.max_activations, features: self.features };
        let edit = Change::Edit { name: self.name, metadata: self.metadata, terms };
        let expires_at = self.expires_at.filter(|at| license.expires_at != Some(*at));
        let renew = expires_at.map(|at| Change::Renew(Renewal::Until(at)));
        let status = self.status.filter(|status| !status.states().contains(&license.state(now)));
        let command = status.map(command).transpose()?;
        Ok([Some(edit), renew, command].into_iter().flatten().collect())
    }
}

async fn update(
    State(app): State<App>,
    Authenticated(caller): Authenticated,
    PathParams(id): PathParams<Uuid>,
    Precondition(if_match): Precondition,
    JsonBody(request): JsonBody<UpdateRequest>,
) -> Result<impl IntoResponse, Problem> {
    let id = LicenseId(id);
    let changes = request.changes(&licenses::show(&app.core, &caller, id).await?, app.core.clock.now())?;
    let changed = licenses::change_all(&app.core, &caller, id, &if_match, changes).await?;
    let (etag, Json(details)) = answer(&app.core, changed).await?;
    Ok((etag, Json(license(json!(details)))))
}
