//! Questions about licenses, asked by apps.

use axum::{Json, extract::State};
use chrono::{DateTime, Utc};
use dca_core::{
    ids::ProductId,
    licenses::{self, Question, Verdict},
    limiter::Bucket,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::{
    extract::{ApiKey, JsonBody},
    problem::Problem,
};
use crate::App;

/// What an app asks.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ValidateRequest {
    /// The key as the member typed it: case, spaces and look-alike characters are forgiven. `key` is
    /// understood too.
    #[serde(alias = "key")]
    #[schema(example = "ACME-67H9-S2ZS-VN6F-YHCR-F3GP-KWKT-GCZJ")]
    license_key: String,
    /// The product the key should be for, when the API key covers several.
    #[serde(default)]
    product_id: Option<Uuid>,
}

/// The verdict. Negative ones are 200 too: they are answers.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ValidateResponse {
    /// Whether the key may be used now.
    valid: bool,
    /// `VALID`, or why not: `MALFORMED_KEY`, `NOT_FOUND`, `PRODUCT_MISMATCH`, `REVOKED`, `EXPIRED`,
    /// `NOT_ASSIGNED`.
    #[schema(example = "VALID")]
    code: &'static str,
    /// One sentence for the member.
    detail: String,
    /// What the app may want to tell the member beside it.
    warnings: Vec<String>,
    /// When this was true.
    checked_at: DateTime<Utc>,
    /// Where a malformed key is wrong: 1-based character.
    #[serde(skip_serializing_if = "Option::is_none")]
    position: Option<usize>,
    /// The license; `null` when there is none the caller may know of.
    license: Option<LicenseView>,
}

/// A license as apps see it.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LicenseView {
    /// Its id, safe to store and show.
    id: Uuid,
    /// Prefix and last group of the key.
    key_hint: String,
    /// `assigned`, `active`, `expired`, `revoked` or `generated`.
    state: &'static str,
    /// The product.
    product_id: Uuid,
    /// The rules it was born under.
    policy_id: Uuid,
    /// When it ends, if it does.
    expires_at: Option<DateTime<Utc>>,
}

impl From<Verdict> for ValidateResponse {
    fn from(verdict: Verdict) -> Self {
        Self {
            valid: verdict.code == dca_core::Code::Valid,
            code: verdict.code.as_str(),
            detail: verdict.detail,
            warnings: Vec::new(),
            checked_at: verdict.checked_at,
            position: verdict.position,
            license: verdict.license.map(|(license, state)| LicenseView {
                id: license.id.0,
                key_hint: license.key_hint,
                state: state.as_str(),
                product_id: license.product_id.0,
                policy_id: license.policy_id.0,
                expires_at: license.expires_at,
            }),
        }
    }
}

/// May this key be used?
#[utoipa::path(
    post,
    path = "/licenses/validate",
    tag = "licenses",
    security(("api_key" = []), ("bearer" = [])),
    request_body = ValidateRequest,
    responses(
        (status = 200, description = "The verdict, negative ones too", body = ValidateResponse),
        (status = 400, description = "Not JSON", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "No API key, or a wrong one", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "Body over 16 KiB", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "Not application/json", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "A wrong or missing field", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "Too many requests; see Retry-After", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database does not answer", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn validate(
    State(app): State<App>,
    ApiKey { caller, client }: ApiKey,
    JsonBody(request): JsonBody<ValidateRequest>,
) -> Result<Json<ValidateResponse>, Problem> {
    let bucket = format!("{}:{client}", caller.actor);
    app.core.limiter.check(Bucket::Validate, &bucket).await.map_err(Problem::slow_down)?;
    let question = Question { key: request.license_key, product: request.product_id.map(ProductId) };
    let verdict = licenses::validate(&app.core, &caller, &question).await?;
    metrics::counter!("license_verifications_total", "result" => verdict.code.as_str()).increment(1);
    Ok(Json(verdict.into()))
}
