//! License files, for devices without a connection.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::{Json, http::StatusCode};
use chrono::{DateTime, Utc};
use dca_core::crypto::proof::Operation;
use dca_core::fingerprint::Fingerprint;
use dca_core::ids::LicenseId;
use dca_core::licenses::{self, Activation, FileRequest, LicenseFile, ProofContext};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::devices::declined;
use crate::App;
use crate::http::extract::{Authenticated, DigestedJson, JsonBody, PathParams};
use crate::http::problem::{Refusals, StatusResult};

/// A device for which to write a license file.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CheckoutRequest {
    /// The fingerprint of a device on which the license is activated.
    #[schema(example = "9f2c41d0b7e84a55a1c6f3d2e8b09a7c")]
    fingerprint: String,
    /// The parts that the fingerprint was made of, by name. Those with which the device was activated are in the file, so
    /// that it stays valid if the policy tolerates that others change.
    #[serde(default)]
    components: BTreeMap<String, String>,
    /// How long the file is valid, in seconds. By default 14 days, or as long as the policy allows.
    #[schema(example = 604_800)]
    ttl_seconds: Option<i64>,
}

/// A license file.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FileResponse {
    /// The content of the file.
    #[schema(example = "-----BEGIN DCA LICENSE FILE-----\neyJhbGciOiJFZERTQSIs…\n-----END DCA LICENSE FILE-----\n")]
    file: String,
    /// When it ends: never later than the license.
    expires_at: DateTime<Utc>,
}

impl From<LicenseFile> for FileResponse {
    fn from(LicenseFile { text, expires_at }: LicenseFile) -> Self {
        Self { file: text, expires_at }
    }
}

/// Write a license file
///
/// For a device that is not always connected: it accepts the signed file until `expiresAt`. The license must be activated
/// on the device.
#[utoipa::path(post, path = "/licenses/{id}/checkout", tag = "licenses", security(("bearer" = []), ("api_key" = [])),
    params(("id" = Uuid, Path, description = "The license ID")), request_body = CheckoutRequest,
    responses((status = 201, body = FileResponse), Refusals))]
pub(crate) async fn checkout(
    State(app): State<App>,
    Authenticated(caller): Authenticated,
    PathParams(id): PathParams<Uuid>,
    JsonBody(request): JsonBody<CheckoutRequest>,
) -> StatusResult<FileResponse> {
    let device = Fingerprint::parse(&request.fingerprint, request.components)?;
    let wanted = FileRequest { device, lifetime: request.ttl_seconds, nonce: None };
    let file = licenses::checkout(&app.core, &caller, LicenseId(id), &wanted).await?;
    Ok((StatusCode::CREATED, Json(file.into())))
}

/// The request of an app that has no connection.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct OfflineActivationRequest {
    /// What the app shows.
    #[schema(example = "DCAREQ1.eyJmaW5nZXJwcmludCI6Ii4uLiJ9.q83vASNFZ4mrze8BI0VniQ")]
    request: String,
    /// The license key. Not needed if you are signed in and own the license.
    license_key: Option<String>,
    /// How long the file is valid, in seconds. By default 14 days, or as long as the policy allows.
    #[schema(example = 604_800)]
    ttl_seconds: Option<i64>,
}

/// Activate a device without a connection
///
/// Takes the request that the app shows on that device, activates the license there, and returns the license file to bring
/// back. The file repeats the nonce of the request. Declined like `/licenses/activate`.
#[utoipa::path(post, path = "/licenses/offline-activate", tag = "licenses", security(("bearer" = []), ("api_key" = [])),
    request_body = OfflineActivationRequest, responses((status = 201, body = FileResponse), Refusals))]
pub(crate) async fn activate_offline(
    State(app): State<App>,
    Authenticated(caller): Authenticated,
    DigestedJson { value, digest }: DigestedJson<OfflineActivationRequest>,
) -> StatusResult<FileResponse> {
    let OfflineActivationRequest { request, license_key, ttl_seconds } = value;
    let key = license_key.as_deref();
    match licenses::activate_offline(&app.core, &caller, &request, key, ttl_seconds).await? {
        Ok(file) => Ok((StatusCode::CREATED, Json(file.into()))),
        Err(Activation { verdict, full, .. }) => {
            let context = ProofContext { op: Operation::Activate, nonce: None, body: digest, fingerprint: None };
            Err(declined(&app.core, &context, &verdict, full))
        }
    }
}
