//! The devices that licenses are activated on.

use axum::extract::State;
use axum::{Json, http::StatusCode};
use chrono::{DateTime, Utc};
use dca_core::crypto::{license_key::Malformed, proof::Operation};
use dca_core::ids::{DeviceId, LicenseId};
use dca_core::licenses::{self, Activation, Deactivation, Device, FullLicense, LicenseFacts, NewDevice, Requested};
use dca_core::licenses::{ProofContext, Verdict, Warning};
use dca_core::{Code, Core};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::questions::{self, DeviceFields, Nonce};
use super::views::{DeviceView, LicenseView, LimitsView};
use crate::http::extract::{Authenticated, DigestedJson, PathParams, Query};
use crate::http::paging::{PageResult, PageView, Paging};
use crate::http::problem::{JsonResult, Problem, Refusals, StatusResult};
use crate::http::schemas;
use crate::{App, wording};

/// A license, and the device that an app runs on.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ActivateRequest {
    /// The license key as the user typed it. `key` is accepted as an alias.
    #[serde(alias = "key")]
    #[schema(example = "STUDIO-5FWM-4TA3-8QAZ-E0EE-JHDN-SGB2-20N5")]
    license_key: Option<String>,
    /// The license ID, instead of the key. Only for users who are signed in.
    license_id: Option<Uuid>,
    nonce: Option<Nonce>,
    device: Option<DeviceFields>,
    /// `device.fingerprint` in the format of earlier clients. `deviceId` is accepted as an alias.
    #[serde(alias = "deviceId")]
    hardware_id: Option<String>,
    /// `device.name` in the format of earlier clients.
    device_name: Option<String>,
}

impl ActivateRequest {
    fn parse(self, op: Operation, body: [u8; 32]) -> Result<(Requested, NewDevice, ProofContext), Problem> {
        let wanted = match (self.license_key, self.license_id) {
            (Some(key), _) => Requested::Key(key),
            (None, Some(id)) => Requested::Id(LicenseId(id)),
            (None, None) => return Err(Problem::invalid_field("licenseKey", "licenseKey is required")),
        };
        let device = DeviceFields::required(self.device, (self.hardware_id, self.device_name))?;
        let context = questions::context(op, self.nonce, body, Some(device.fingerprint()));
        Ok((wanted, device, context))
    }
}

/// A device that a license is activated on, as the app described it.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ActivatedDevice {
    #[serde(flatten)]
    device: DeviceView,
    #[schema(example = "Desk PC")]
    name: Option<String>,
    #[schema(example = "windows-x64")]
    platform: Option<String>,
    /// The version of the app that the device was last activated with.
    #[schema(example = "2.4.1")]
    app_version: Option<String>,
}

impl From<Device> for ActivatedDevice {
    fn from(device: Device) -> Self {
        let view = DeviceView::of(&device);
        let Device { name, platform, app_version, .. } = device;
        Self { device: view, name, platform, app_version }
    }
}

/// A license that was activated.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ActivateResponse {
    /// Always `true`: an activation that is declined is a problem.
    activated: bool,
    /// Whether the device is new. One that was activated before keeps its seat.
    created: bool,
    #[schema(value_type = schemas::VerdictCode)]
    code: &'static str,
    /// A sentence that you can show to the user.
    detail: String,
    #[schema(value_type = Vec<schemas::Warning>)]
    warnings: Vec<&'static str>,
    checked_at: DateTime<Utc>,
    nonce: Option<String>,
    device: ActivatedDevice,
    license: Option<LicenseView>,
    /// When the app should validate the license.
    next_check_at: Option<DateTime<Utc>>,
    /// Until when the app may rely on this answer without a connection.
    offline_until: Option<DateTime<Utc>>,
    /// The signed form of this answer, a JWS. An app that its users could modify reads only this.
    proof: String,
}

/// Activate a license on a device
///
/// The license takes a seat on the device. A device that is activated again, or that is recognized by its components,
/// keeps its seat: the status is 200 then, and 201 for a new device. If no seat is free, the problem lists the `devices`,
/// and says in `reset` when the owner may remove them all.
#[utoipa::path(post, path = "/licenses/activate", tag = "licenses", security(("api_key" = []), ("bearer" = [])),
    request_body = ActivateRequest,
    responses((status = 201, body = ActivateResponse), (status = 200, body = ActivateResponse), Refusals))]
pub(crate) async fn activate(
    State(app): State<App>,
    Authenticated(caller): Authenticated,
    DigestedJson { value: request, digest }: DigestedJson<ActivateRequest>,
) -> StatusResult<ActivateResponse> {
    let (wanted, device, context) = request.parse(Operation::Activate, digest)?;
    let activation = licenses::activate(&app.core, &caller, &wanted, &device).await?;
    let Activation { verdict, created, full, .. } = activation.clone();
    let Some(device) = verdict.device.as_deref().filter(|_| verdict.is_valid()) else {
        return Err(declined(&app.core, &context, &verdict, full));
    };
    let response = ActivateResponse {
        activated: true,
        created,
        code: verdict.code.as_str(),
        detail: wording::verdict(verdict.code, None),
        warnings: verdict.warnings.iter().copied().map(Warning::as_str).collect(),
        checked_at: verdict.checked_at,
        device: device.clone().into(),
        license: verdict.facts.as_ref().map(|facts| LicenseView::of(facts, verdict.checked_at)),
        next_check_at: verdict.next_check_at,
        offline_until: verdict.offline_until,
        proof: licenses::prove(&app.core, &context, &verdict)?,
        nonce: context.nonce,
    };
    activation.require_recent()?;
    Ok((if created { StatusCode::CREATED } else { StatusCode::OK }, Json(response)))
}

/// The problem of a command that the verdict declines, with its proof.
pub(super) fn declined(core: &Core, context: &ProofContext, verdict: &Verdict, full: Option<FullLicense>) -> Problem {
    let proof = match licenses::prove(core, context, verdict) {
        Ok(proof) => proof,
        Err(error) => return error.into(),
    };
    // Every verdict that declines a command is a code of problems too.
    let code = verdict.code.as_str().parse().unwrap_or(Code::InvalidTransition);
    let mut problem = Problem::new(code, wording::verdict(verdict.code, verdict.malformed.as_ref()));
    let mut add = |name: &str, value| problem.names.insert(name.to_owned(), value);
    if let Some(position) = verdict.malformed.as_ref().and_then(Malformed::position) {
        add("position", position.into());
    }
    if let Some(facts) = &verdict.facts {
        add("license", json!(LicenseView::of(facts, verdict.checked_at)));
    }
    if let (Some(FullLicense { devices, reset }), Some(facts)) = (full, &verdict.facts) {
        let named = |device: Device| json!({ "id": device.id, "name": device.name, "lastSeenAt": device.last_seen_at });
        let how = format!("POST /licenses/{}/reset-devices", facts.license.id);
        add("devices", devices.into_iter().map(named).collect());
        add("reset", json!({ "availableAt": reset.available_at, "how": how }));
    }
    add("nonce", json!(context.nonce));
    add("proof", proof.into());
    problem
}

/// The devices that were removed from a license.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DeactivateResponse {
    /// How many devices were removed. 0 if the license was not activated on them.
    deactivated: usize,
    /// The IDs of the devices that were removed.
    devices: Vec<Uuid>,
    /// The state of the license, which stays.
    #[schema(value_type = schemas::LicenseState)]
    license_state: &'static str,
    limits: LimitsView,
    /// The nonce of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    nonce: Option<String>,
    /// For apps: the verdict about the license on this device, signed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    proof: Option<String>,
}

impl DeactivateResponse {
    fn of(facts: &LicenseFacts, devices: &[DeviceId], now: DateTime<Utc>) -> Self {
        Self {
            deactivated: devices.len(),
            devices: devices.iter().map(|device| device.0).collect(),
            license_state: facts.license.state(now).as_str(),
            limits: LimitsView::of(facts),
            nonce: None,
            proof: None,
        }
    }
}

/// Deactivate a license on the device that an app runs on
///
/// Frees the seat of the device. Without effect if the license is not activated on it.
#[utoipa::path(post, path = "/licenses/deactivate", tag = "licenses", security(("api_key" = []), ("bearer" = [])),
    request_body = ActivateRequest, responses((status = 200, body = DeactivateResponse), Refusals))]
pub(crate) async fn deactivate(
    State(app): State<App>,
    Authenticated(caller): Authenticated,
    DigestedJson { value: request, digest }: DigestedJson<ActivateRequest>,
) -> JsonResult<DeactivateResponse> {
    let (wanted, device, context) = request.parse(Operation::Deactivate, digest)?;
    let Deactivation { verdict, devices } =
        licenses::deactivate(&app.core, &caller, &wanted, device.fingerprint()).await?;
    let Some(facts) = &verdict.facts else { return Err(declined(&app.core, &context, &verdict, None)) };
    let proof = Some(licenses::prove(&app.core, &context, &verdict)?);
    let removed = DeactivateResponse::of(facts, &devices, verdict.checked_at);
    Ok(Json(DeactivateResponse { nonce: context.nonce, proof, ..removed }))
}

/// What to deactivate.
#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct DeactivateQuery {
    /// The device to remove. Without it, all devices of the license.
    #[param(nullable = false)]
    device_id: Option<Uuid>,
}

/// Deactivate a license on one or all of its devices
///
/// For the owner of the license and those who manage it.
#[utoipa::path(delete, path = "/licenses/{id}/deactivate", tag = "licenses",
    security(("bearer" = []), ("api_key" = [])), params(("id" = Uuid, Path), DeactivateQuery),
    responses((status = 200, body = DeactivateResponse), Refusals))]
pub(crate) async fn deactivate_by_owner(
    State(app): State<App>,
    Authenticated(caller): Authenticated,
    PathParams(id): PathParams<Uuid>,
    Query(query): Query<DeactivateQuery>,
) -> JsonResult<DeactivateResponse> {
    let device = query.device_id.map(DeviceId);
    let (facts, devices) = licenses::deactivate_by_owner(&app.core, &caller, LicenseId(id), device).await?;
    Ok(Json(DeactivateResponse::of(&facts, &devices, app.core.clock.now())))
}

/// The devices that were reset.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ResetResponse {
    #[serde(flatten)]
    removed: DeactivateResponse,
    /// When the owner may reset the devices again. `null` if never.
    next_reset_at: Option<DateTime<Utc>>,
}

/// Reset the devices of a license
///
/// Removes all devices, such as those that were lost. The owner has to wait between two resets, as the policy of the
/// license says; those who manage the license do not.
#[utoipa::path(post, path = "/licenses/{id}/reset-devices", tag = "licenses",
    security(("bearer" = []), ("api_key" = [])), params(("id" = Uuid, Path)),
    responses((status = 200, body = ResetResponse), Refusals))]
pub(crate) async fn reset(
    State(app): State<App>,
    Authenticated(caller): Authenticated,
    PathParams(id): PathParams<Uuid>,
) -> JsonResult<ResetResponse> {
    let (facts, devices, next) = licenses::reset_devices(&app.core, &caller, LicenseId(id)).await?;
    let removed = DeactivateResponse::of(&facts, &devices, app.core.clock.now());
    Ok(Json(ResetResponse { removed, next_reset_at: next.available_at }))
}

/// List the devices of a license
#[utoipa::path(get, path = "/licenses/{id}/devices", tag = "licenses",
    security(("bearer" = []), ("api_key" = [])), params(("id" = Uuid, Path), Paging),
    responses((status = 200, body = PageView<ActivatedDevice>), Refusals))]
pub(crate) async fn list(
    State(app): State<App>,
    Authenticated(caller): Authenticated,
    PathParams(id): PathParams<Uuid>,
    paging: Paging,
) -> PageResult<ActivatedDevice> {
    let page = licenses::list_devices(&app.core, &caller, LicenseId(id), &paging.request).await?;
    Ok(paging.render(page))
}
