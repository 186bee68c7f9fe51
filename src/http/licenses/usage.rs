//! Usage quotas for apps.

use axum::{Json, extract::State};
use chrono::{DateTime, Utc};
use dca_core::crypto::proof::Operation;
use dca_core::licenses::{self, Usage};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::questions::{DeviceFields, Nonce};
use super::validate::{Asked, ScopeFields, ValidateProblems, ValidateRequest, ValidateResponse};
use crate::App;
use crate::http::extract::{ApiKeyCredential, SentJson};
use crate::http::problem::{JsonResult, Problem};

/// The most that one request may count.
const MAX_AMOUNT: i64 = 1_000_000_000;

/// Usage to count. The license has to be valid as for a validation.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct UsageRequest {
    /// The license key as the user typed it. `key` is accepted as an alias.
    #[serde(alias = "key")]
    #[schema(example = "STUDIO-5FWM-4TA3-8QAZ-E0EE-JHDN-SGB2-20N5")]
    license_key: String,
    /// The name of the quota, as in the policy.
    #[schema(example = "exports")]
    quota: String,
    /// How much is used.
    #[serde(default = "one")]
    #[schema(minimum = 1, maximum = 1_000_000_000, default = 1)]
    amount: i64,
    product_id: Option<Uuid>,
    nonce: Option<Nonce>,
    device: Option<DeviceFields>,
    /// The fingerprint of the device, for clients that send no `device`. `deviceId` is accepted as an alias.
    #[serde(alias = "deviceId")]
    hardware_id: Option<String>,
    scope: Option<ScopeFields>,
    /// The floating session of the app, from the last heartbeat.
    lease_id: Option<Uuid>,
    /// The time according to the app.
    client_time: Option<DateTime<Utc>>,
}

fn one() -> i64 {
    1
}

/// Whether the usage was counted, and what is used of the quota.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct UsageResponse {
    /// `VALID` if the usage was counted. If not, nothing was.
    #[serde(flatten)]
    verdict: ValidateResponse,
    /// The quota. `null` if the license is not valid.
    usage: Option<UsageView>,
}

/// How much of a quota is used.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct UsageView {
    quota: String,
    /// How much was used in this period.
    used: i64,
    /// How much may be used in a period. 0 if the license has no such quota.
    limit: i64,
    /// When the next period begins. `null` if never.
    resets_at: Option<DateTime<Utc>>,
}

impl From<Usage> for UsageView {
    fn from(Usage { quota, used, limit, resets_at }: Usage) -> Self {
        Self { quota, used, limit, resets_at }
    }
}

/// Count usage of a license
///
/// Counts the amount if so much is left of the quota in this period, and otherwise nothing: the code is `QUOTA_EXCEEDED`
/// then. Send an `Idempotency-Key`, so that a repeated request counts once.
#[utoipa::path(
    post,
    path = "/licenses/usage",
    tag = "licenses",
    security(("api_key" = []), ("bearer" = [])),
    request_body = UsageRequest,
    responses(
        (status = 200, description = "Whether the usage was counted", body = UsageResponse),
        ValidateProblems,
    )
)]
pub(crate) async fn count(
    State(app): State<App>,
    api_key: ApiKeyCredential,
    SentJson { value: request, body }: SentJson<UsageRequest>,
) -> JsonResult<UsageResponse> {
    let UsageRequest { license_key, quota, amount, product_id, nonce, device, hardware_id, scope, .. } = request;
    let UsageRequest { lease_id, client_time, .. } = request;
    if !(1..=MAX_AMOUNT).contains(&amount) {
        return Err(Problem::invalid_field("amount", format!("amount must be from 1 to {MAX_AMOUNT}")));
    }
    let asked = ValidateRequest {
        license_key,
        product_id,
        nonce,
        device,
        hardware_id,
        scope,
        lease_id,
        client_time,
        proof: true,
    };
    let Asked { question, proof, nonce } = asked.parse(Operation::Usage, &body)?;
    let counted = licenses::count_usage(&app.core, api_key.expose(), &question, &quota, amount, proof.as_ref()).await;
    let (answer, usage) = api_key.checked(counted).await?;
    let verdict = ValidateResponse::of(answer, nonce);
    Ok(Json(UsageResponse { verdict, usage: usage.map(UsageView::from) }))
}
