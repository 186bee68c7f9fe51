//! License validation for apps.

use std::collections::BTreeMap;

use axum::{Json, extract::State, http::HeaderMap};
use chrono::{DateTime, Utc};
use dca_core::licenses::{self, Question, Verdict, VerdictCode};
use dca_core::{ids::ProductId, limiter::Bucket};
use serde::{Deserialize, Serialize};
use utoipa::openapi::{RefOr, Response};
use utoipa::{IntoResponses, ToSchema};
use uuid::Uuid;

use super::extract::{ApiKey, JsonBody};
use super::problem::{self, Problem};
use super::quota;
use crate::{App, http::schemas, wording};

/// A license key to validate.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ValidateRequest {
    /// The license key as the user typed it. Case and spaces are ignored, and look-alike characters such as `O`
    /// and `0` are treated as the same. `key` is accepted as an alias.
    #[serde(alias = "key")]
    #[schema(example = "STUDIO-5FWM-4TA3-8QAZ-E0EE-JHDN-SGB2-20N5")]
    license_key: String,
    /// The product that the license must be for. Useful if the API key covers several products.
    product_id: Option<Uuid>,
}

/// The result of a validation. Invalid keys are reported with status 200 too.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({
    "valid": true, "code": "VALID", "detail": "License is valid.", "warnings": [],
    "checkedAt": "2026-11-21T03:48:28.864477Z",
    "license": {
        "id": "01a1fc38-462e-700d-8a24-1b00a6834fc4", "keyHint": "STUDIO-…-20N5", "state": "active",
        "productId": "01a1fc38-45b8-7004-b3a1-5d1a2f6e0c27", "policyId": "01a1fc38-45b8-7005-9ef2-83c40d7715ab",
        "expiresAt": null,
    },
}))]
pub struct ValidateResponse {
    /// Whether the license is valid now.
    valid: bool,
    #[schema(value_type = schemas::VerdictCode)]
    code: &'static str,
    /// A sentence that you can show to the user.
    detail: String,
    /// Further messages that you can show to the user.
    warnings: Vec<String>,
    /// When the license was checked.
    checked_at: DateTime<Utc>,
    /// The position of the typing error in a malformed key, in characters from 1, if it can be determined.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    position: Option<usize>,
    /// The license. `null` if there is none that the API key may read.
    license: Option<LicenseView>,
}

/// A license.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LicenseView {
    /// The license ID. Unlike the key, it is safe to store and show.
    id: Uuid,
    /// The prefix and the last group of the key, for example `ACME-…-GCZJ`.
    key_hint: String,
    #[schema(value_type = schemas::LicenseState)]
    state: &'static str,
    /// The product that the license is for.
    product_id: Uuid,
    /// The policy that the license was issued under.
    policy_id: Uuid,
    /// When the license expires. `null` if it does not expire.
    expires_at: Option<DateTime<Utc>>,
}

impl From<Verdict> for ValidateResponse {
    fn from(verdict: Verdict) -> Self {
        Self {
            valid: verdict.code == VerdictCode::Valid,
            code: verdict.code.as_str(),
            detail: wording::verdict(verdict.code, verdict.malformed.as_ref()),
            warnings: Vec::new(),
            checked_at: verdict.checked_at,
            position: verdict.malformed.and_then(|malformed| malformed.position()),
            license: verdict.license.map(|(license, state)| LicenseView {
                id: license.id.0,
                key_hint: license.key_hint,
                state: state.as_str(),
                product_id: license.product.0,
                policy_id: license.policy.0,
                expires_at: license.expires_at,
            }),
        }
    }
}

struct ValidateProblems;

impl IntoResponses for ValidateProblems {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        problem::responses(&[400, 401, 413, 415, 422, 429, 503])
    }
}

/// Validate a license key
///
/// Returns status 200 for every key, whether it is valid or not. See `valid` and `code`.
#[utoipa::path(
    post,
    path = "/licenses/validate",
    tag = "licenses",
    security(("api_key" = []), ("bearer" = [])),
    request_body = ValidateRequest,
    responses(
        (status = 200, description = "The result of the validation", body = ValidateResponse),
        ValidateProblems,
    )
)]
pub(super) async fn validate(
    State(app): State<App>,
    ApiKey { caller, client }: ApiKey,
    JsonBody(request): JsonBody<ValidateRequest>,
) -> Result<(HeaderMap, Json<ValidateResponse>), Problem> {
    let bucket = format!("api_key:{}:{client}", caller.key);
    let headers = quota::count(&app, Bucket::Validate, &bucket).await?;
    let question = Question { key: request.license_key, product: request.product_id.map(ProductId) };
    let verdict = licenses::validate(&app.core, &caller, &question).await?;
    metrics::counter!("license_verifications_total", "result" => verdict.code.as_str()).increment(1);
    Ok((HeaderMap::from_iter(headers), Json(verdict.into())))
}
