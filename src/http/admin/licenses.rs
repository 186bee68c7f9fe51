//! Many licenses at once.

use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::{Json, http::StatusCode};
use chrono::{DateTime, Utc};
use dca_core::ids::{LicenseId, ProductId, UserId};
use dca_core::licenses::{self, LicenseBatch, LicenseFilter, LicenseSelection, LicenseState, Revocation, Run};
use dca_core::policy::PolicyPatch;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use crate::App;
use crate::http::extract::{Authenticated, JsonBody};
use crate::http::licenses::details::LicenseWithKey;
use crate::http::problem::{JsonResult, Problem, Refusals};
use crate::http::schemas;

pub(crate) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(generate)).routes(routes!(revoke))
}

const fn run(dry_run: bool) -> Run {
    if dry_run { Run::Dry } else { Run::Real }
}

/// What licenses to generate.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct GenerateRequest {
    product_id: Uuid,
    /// How many, at most 1000.
    #[schema(minimum = 1, maximum = 1000)]
    count: usize,
    /// Who gets the license, if there is one.
    #[schema(nullable = false)]
    user_id: Option<Uuid>,
    /// The preset that the licenses begin with instead of the current policy of the product.
    #[serde(rename = "type")]
    license_type: Option<String>,
    /// The members of the policy that differ.
    #[schema(value_type = Option<schemas::PolicyTerms>)]
    policy: Option<PolicyPatch>,
    /// When the licenses expire, whatever the policy says.
    expires_at: Option<DateTime<Utc>>,
    /// A name for all of them.
    name: Option<String>,
    /// Metadata for all of them.
    #[serde(default)]
    metadata: Map<String, Value>,
    /// Checks the request and changes nothing.
    #[serde(default)]
    dry_run: bool,
}

/// The new licenses.
#[derive(Serialize, ToSchema)]
pub(crate) struct GenerateResponse {
    /// How many licenses were generated, or would be.
    count: usize,
    /// The licenses with their keys. Store the keys; they are not shown again.
    licenses: Vec<LicenseWithKey>,
}

/// Generate licenses
///
/// All of them, or none if one cannot be generated. With `userId`, the license is assigned at once.
#[utoipa::path(post, path = "/admin/licenses/generate", tag = "licenses",
    security(("api_key" = []), ("bearer" = [])), request_body = GenerateRequest,
    responses((status = 201, body = GenerateResponse), (status = 200, body = GenerateResponse), Refusals))]
pub(crate) async fn generate(
    State(app): State<App>,
    Authenticated(caller): Authenticated,
    JsonBody(request): JsonBody<GenerateRequest>,
) -> Result<Response, Problem> {
    let (count, run) = (request.count, run(request.dry_run));
    let wanted = LicenseBatch {
        product: ProductId(request.product_id),
        count,
        owner: request.user_id.map(UserId),
        policy: request.policy.unwrap_or_default().of_type(request.license_type)?,
        expires_at: request.expires_at,
        name: request.name,
        metadata: request.metadata,
    };
    let generated = licenses::generate_all(&app.core, &caller, wanted, run).await?;
    let licenses = LicenseWithKey::list(&app.core, generated)?;
    let status = if run == Run::Dry { StatusCode::OK } else { StatusCode::CREATED };
    Ok((status, Json(GenerateResponse { count, licenses })).into_response())
}

/// Which licenses to revoke: either `ids` or `filter`.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct RevokeRequest {
    #[schema(nullable = false, max_items = 1000)]
    ids: Option<Vec<Uuid>>,
    #[schema(nullable = false)]
    filter: Option<RevokeFilter>,
    /// One line of at most 200 characters.
    #[schema(example = "leaked")]
    reason: String,
    /// Reports what would be revoked and changes nothing.
    #[serde(default)]
    dry_run: bool,
}

/// Selects the licenses of a product, at most 1000.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct RevokeFilter {
    product_id: Uuid,
    #[schema(nullable = false)]
    user_id: Option<Uuid>,
    #[schema(value_type = Option<schemas::LicenseState>, nullable = false)]
    state: Option<LicenseState>,
    #[schema(nullable = false)]
    created_before: Option<DateTime<Utc>>,
}

/// What happened to each license.
#[derive(Serialize, ToSchema)]
pub(crate) struct RevokeResponse {
    /// How many licenses were revoked, or would be.
    revoked: usize,
    /// How many were revoked already.
    unchanged: usize,
    results: Vec<RevokeResult>,
}

/// What happened to a license.
#[derive(Serialize, ToSchema)]
pub(crate) struct RevokeResult {
    id: Uuid,
    /// `revoked` or `unchanged`.
    outcome: &'static str,
}

/// Revoke licenses
///
/// All of them, or none if one is not found.
#[utoipa::path(post, path = "/admin/licenses/revoke", tag = "licenses",
    security(("api_key" = []), ("bearer" = [])), request_body = RevokeRequest,
    responses((status = 200, body = RevokeResponse), Refusals))]
pub(crate) async fn revoke(
    State(app): State<App>,
    Authenticated(caller): Authenticated,
    JsonBody(request): JsonBody<RevokeRequest>,
) -> JsonResult<RevokeResponse> {
    let selection = match (request.ids, request.filter) {
        (Some(ids), None) => LicenseSelection::Ids(ids.into_iter().map(LicenseId).collect()),
        (None, Some(RevokeFilter { product_id, user_id, state, created_before })) => {
            let filter = LicenseFilter { user: user_id.map(UserId), state, created_before, product: None };
            LicenseSelection::Matching(ProductId(product_id), filter)
        }
        _ => return Err(Problem::invalid_field("ids", "either ids or filter is required")),
    };
    let run = run(request.dry_run);
    let results = licenses::revoke_all(&app.core, &caller, &selection, &request.reason, run).await?;
    let revoked = results.iter().filter(|(_, outcome)| *outcome == Revocation::Revoked).count();
    let unchanged = results.len() - revoked;
    let result = |(id, outcome): (LicenseId, Revocation)| RevokeResult { id: id.0, outcome: outcome.as_str() };
    Ok(Json(RevokeResponse { revoked, unchanged, results: results.into_iter().map(result).collect() }))
}
