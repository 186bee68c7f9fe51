//! Floating sessions.

use axum::extract::State;
use axum::{Json, http::StatusCode};
use dca_core::crypto::proof::Operation;
use dca_core::ids::LeaseId;
use dca_core::licenses::{self, Beat, Question};
use serde::Deserialize;
use utoipa::ToSchema;
use uuid::Uuid;

use super::questions::{self, DeviceFields, Nonce};
use super::validate::ValidateResponse;
use crate::App;
use crate::http::extract::{ApiKeyCredential, Authenticated, DigestedJson, PathParams};
use crate::http::problem::{JsonResult, Problem, Refusals};

/// A heartbeat of a floating session.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeartbeatRequest {
    /// The license key as the user typed it. `key` is accepted as an alias.
    #[serde(alias = "key")]
    #[schema(example = "STUDIO-5FWM-4TA3-8QAZ-E0EE-JHDN-SGB2-20N5")]
    license_key: String,
    /// The session, as the first heartbeat returned it. `null` opens one.
    lease_id: Option<Uuid>,
    /// The number of the heartbeat, higher than that of the one before. Send the same number only to repeat a heartbeat
    /// that got no answer, with the same nonce.
    #[schema(minimum = 0, example = 42)]
    seq: i64,
    nonce: Nonce,
    device: Option<DeviceFields>,
    /// The fingerprint of the device, for clients that send no `device`. `deviceId` is accepted as an alias.
    #[serde(alias = "deviceId")]
    hardware_id: Option<String>,
}

/// Open or renew a floating session
///
/// Returns status 200 with a verdict, as `POST /licenses/validate` does. Send the next heartbeat after `lease.interval`
/// seconds; without one, the session ends at `lease.expiresAt`.
#[utoipa::path(post, path = "/licenses/heartbeat", tag = "licenses", security(("api_key" = []), ("bearer" = [])),
    request_body = HeartbeatRequest, responses((status = 200, body = ValidateResponse), Refusals))]
pub(crate) async fn heartbeat(
    State(app): State<App>,
    api_key: ApiKeyCredential,
    DigestedJson { value: request, digest }: DigestedJson<HeartbeatRequest>,
) -> JsonResult<ValidateResponse> {
    if request.seq < 0 {
        return Err(Problem::invalid_field("seq", "seq must not be negative"));
    }
    let beat = Beat { seq: request.seq, nonce: request.nonce.0.clone() };
    let device = DeviceFields::parse(request.device, request.hardware_id)?;
    let context = questions::context(Operation::Heartbeat, Some(request.nonce), digest, device.as_ref());
    let lease = request.lease_id.map(LeaseId);
    let asked = Question { key: request.license_key, device, lease, ..Question::default() };
    let answer = licenses::heartbeat(&app.core, api_key.expose(), &asked, &beat, Some(&context)).await;
    Ok(Json(ValidateResponse::of(api_key.checked(answer).await?, context.nonce)))
}

/// End a floating session
///
/// For an app of the product, the owner of the license and those who manage it.
#[utoipa::path(delete, path = "/licenses/leases/{id}", tag = "licenses",
    security(("api_key" = []), ("bearer" = [])), params(("id" = Uuid, Path)), responses((status = 204), Refusals))]
pub(crate) async fn end(
    State(app): State<App>,
    Authenticated(caller): Authenticated,
    PathParams(id): PathParams<Uuid>,
) -> Result<StatusCode, Problem> {
    licenses::end_lease(&app.core, &caller, LeaseId(id)).await?;
    Ok(StatusCode::NO_CONTENT)
}
