//! License validation for apps.

use axum::{Json, extract::State};
use chrono::{DateTime, Utc};
use dca_core::licenses::{self, Question, Verdict, VerdictCode};
use dca_core::{ids::ProductId, limiter::Bucket};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::extract::{ApiKey, JsonBody};
use super::problem::Problem;
use crate::{App, wording};

/// A license key to validate.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ValidateRequest {
    /// The license key as the user typed it. Case and spaces are ignored, and look-alike characters such as `O`
    /// and `0` are treated as the same. `key` is accepted as an alias.
    #[serde(alias = "key")]
    #[schema(example = "ACME-67H9-S2ZS-VN6F-YHCR-F3GP-KWKT-GCZJ")]
    license_key: String,
    /// The product that the license must be for. Useful if the API key covers several products.
    product_id: Option<Uuid>,
}

/// The result of a validation. Invalid keys are reported with status 200 too.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ValidateResponse {
    /// Whether the license is valid now.
    valid: bool,
    /// `VALID`, or why the license is not valid: `MALFORMED_KEY`, `NOT_FOUND`, `PRODUCT_MISMATCH`, `REVOKED`,
    /// `EXPIRED` or `NOT_ASSIGNED`.
    #[schema(example = "VALID")]
    code: &'static str,
    /// A sentence that you can show to the user.
    detail: String,
    /// Further messages that you can show to the user.
    warnings: Vec<String>,
    /// When the license was checked.
    checked_at: DateTime<Utc>,
    /// The position of the typing error in a malformed key, in characters from 1, if it can be determined.
    #[serde(skip_serializing_if = "Option::is_none")]
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
    /// `assigned`, `active`, `expired`, `revoked` or `generated`.
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
        (status = 400, description = "The body is not valid JSON", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "Missing or invalid API key", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is larger than 16 KiB", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "The content type is not application/json", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "Invalid or missing field", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "Too many requests; see Retry-After", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database is unavailable; see Retry-After", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn validate(
    State(app): State<App>,
    ApiKey { caller, client }: ApiKey,
    JsonBody(request): JsonBody<ValidateRequest>,
) -> Result<Json<ValidateResponse>, Problem> {
    let bucket = format!("api_key:{}:{client}", caller.key);
    app.core.limiter.check(Bucket::Validate, &bucket).await.map_err(Problem::rate_limited)?;
    let question = Question { key: request.license_key, product: request.product_id.map(ProductId) };
    let verdict = licenses::validate(&app.core, &caller, &question).await?;
    metrics::counter!("license_verifications_total", "result" => verdict.code.as_str()).increment(1);
    Ok(Json(verdict.into()))
}
