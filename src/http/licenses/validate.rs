//! License validation for apps.

use std::collections::BTreeMap;

use axum::{Json, extract::State};
use chrono::{DateTime, Utc};
use dca_core::crypto::{license_key::Malformed, proof::Operation, sha256};
use dca_core::ids::{LeaseId, ProductId};
use dca_core::licenses::{self, Answer, ProofContext, Question, Version};
use serde::{Deserialize, Serialize};
use utoipa::openapi::{RefOr, Response};
use utoipa::{IntoResponses, ToSchema};
use uuid::Uuid;

use super::questions::{self, DeviceFields, Nonce};
use super::views::{DeviceView, LeaseView, LicenseView};
use crate::http::extract::{ApiKeyCredential, SentJson};
use crate::http::problem::{self, JsonResult, Problem};
use crate::http::schemas;
use crate::{App, wording};

/// How many features or quotas one request may ask for.
const MAX_NAMES: usize = 32;

/// How long a version may be.
const MAX_VERSION: usize = 64;

/// A license key to validate.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ValidateRequest {
    /// The license key as the user typed it. Case and spaces are ignored, and look-alike characters such as `O`
    /// and `0` are treated as the same. `key` is accepted as an alias.
    #[serde(alias = "key")]
    #[schema(example = "STUDIO-5FWM-4TA3-8QAZ-E0EE-JHDN-SGB2-20N5")]
    pub(super) license_key: String,
    /// The product that the license must be for. Useful if the API key covers several products.
    pub(super) product_id: Option<Uuid>,
    pub(super) nonce: Option<Nonce>,
    pub(super) device: Option<DeviceFields>,
    /// The fingerprint of the device, for clients that send no `device`. `deviceId` is accepted as an alias.
    #[serde(alias = "deviceId")]
    pub(super) hardware_id: Option<String>,
    pub(super) scope: Option<ScopeFields>,
    /// The floating session of the app, from the last heartbeat.
    pub(super) lease_id: Option<Uuid>,
    /// The time according to the app. If it is more than five minutes off, there is a warning.
    pub(super) client_time: Option<DateTime<Utc>>,
    /// Whether to sign the answer, which is the default. A server that its users cannot modify may do without.
    #[serde(default = "signed")]
    #[schema(required = false)]
    pub(super) proof: bool,
}

fn signed() -> bool {
    true
}

/// What the license must allow.
#[derive(Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ScopeFields {
    /// Features that the license must include, at most 32. `entitlements` is accepted as an alias.
    #[serde(default, alias = "entitlements")]
    #[schema(example = json!(["pro"]), max_items = 32)]
    features: Vec<String>,
    /// The version of the app, as in <https://semver.org>. Required if the policy names versions.
    #[schema(example = "2.4.1", max_length = 64)]
    version: Option<String>,
    /// Usage quotas of which something must be left, at most 32. Nothing is counted.
    #[serde(default)]
    #[schema(example = json!(["exports"]), max_items = 32)]
    quotas: Vec<String>,
}

/// A validation.
pub(super) struct Asked {
    pub(super) question: Question,
    /// What the proof of the answer repeats of the request, if the answer is signed.
    pub(super) proof: Option<ProofContext>,
    pub(super) nonce: Option<String>,
}

impl ValidateRequest {
    /// What the request with this body asks.
    pub(super) fn parse(self, op: Operation, body: &[u8]) -> Result<Asked, Problem> {
        let device = DeviceFields::parse(self.device, self.hardware_id)?;
        let nonce = self.nonce.as_ref().map(|nonce| nonce.0.clone());
        let proof = self.proof.then(|| questions::context(op, self.nonce, sha256(body), device.as_ref()));
        let scope = self.scope.unwrap_or_default();
        for (field, names) in [("scope.features", &scope.features), ("scope.quotas", &scope.quotas)] {
            if names.len() > MAX_NAMES {
                return Err(Problem::invalid_field(field, format!("{field} may have at most {MAX_NAMES} entries")));
            }
        }
        let question = Question {
            key: self.license_key,
            product: self.product_id.map(ProductId),
            device,
            lease: self.lease_id.map(LeaseId),
            features: scope.features,
            version: scope.version.as_deref().map(version).transpose()?,
            quotas: scope.quotas,
            client_time: self.client_time,
        };
        Ok(Asked { question, proof, nonce })
    }
}

fn version(text: &str) -> Result<Version, Problem> {
    let parsed = Some(text).filter(|text| text.len() <= MAX_VERSION).and_then(|text| Version::parse(text).ok());
    let message = "scope.version must be a version as in https://semver.org, for example 2.4.1";
    parsed.ok_or_else(|| Problem::invalid_field("scope.version", message))
}

/// The result of a validation. Invalid keys are reported with status 200 too.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(example = json!({
    "valid": true, "code": "VALID", "detail": "This license is valid.", "warnings": [],
    "checkedAt": "2026-11-21T03:48:28.864477Z", "nonce": "q83vASNFZ4mrze8BI0VniQ",
    "license": {
        "id": "01a1fc38-462e-700d-8a24-1b00a6834fc4", "keyHint": "STUDIO-…-20N5", "state": "active",
        "productId": "01a1fc38-45b8-7004-b3a1-5d1a2f6e0c27", "policyId": "01a1fc38-45b8-7005-9ef2-83c40d7715ab",
        "type": "PERPETUAL", "expiresAt": null, "graceUntil": null, "features": ["pro"],
        "limits": { "devices": { "max": 3, "used": 1 }, "sessions": null }, "metadata": {},
    },
    "device": {
        "id": "01a1fc38-4700-7011-9b1c-0d6a5f2e7c34", "activatedAt": "2026-11-20T18:02:11Z",
        "lastSeenAt": "2026-11-21T03:40:00Z",
    },
    "lease": null, "nextCheckAt": "2026-11-21T04:48:28.864477Z", "offlineUntil": "2026-12-05T03:48:28.864477Z",
    "proof": "eyJ0eXAiOiJkY2EtdmVyZGljdCtqd3QiLCJhbGciOiJFZERTQSJ9.eyJpc3MiOiJodHRwczovL2F1dGguZXhhbXBsZS5jb20ifQ.c2ln",
}))]
pub struct ValidateResponse {
    /// Whether the license is valid now.
    valid: bool,
    #[schema(value_type = schemas::VerdictCode)]
    code: &'static str,
    /// A sentence that you can show to the user.
    detail: String,
    /// What the user should know, although the license is valid.
    #[schema(value_type = Vec<schemas::Warning>)]
    warnings: Vec<&'static str>,
    /// When the license was checked.
    checked_at: DateTime<Utc>,
    /// The position of the typing error in a malformed key, in characters from 1, if it can be determined.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    position: Option<usize>,
    /// The nonce of the request.
    nonce: Option<String>,
    /// The license. `null` if there is none that the API key may read.
    license: Option<LicenseView>,
    /// `true` if the API key is for testing: the answer is about no license.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    test: Option<bool>,
    /// The device of the request. `null` if the license is not activated on it.
    device: Option<DeviceView>,
    /// The floating session of the request.
    lease: Option<LeaseView>,
    /// When the app should ask again. `null` unless the license is valid.
    next_check_at: Option<DateTime<Utc>>,
    /// Until when the app may rely on this answer without a connection. `null` unless the license is valid.
    offline_until: Option<DateTime<Utc>>,
    /// The signed form of this answer, a JWS. An app that its users could modify reads only this. `null` if the request
    /// did without.
    proof: Option<String>,
}

impl ValidateResponse {
    /// The answer to a request with this nonce.
    pub(crate) fn of(answer: Answer, nonce: Option<String>) -> Self {
        let verdict = &answer.verdict;
        metrics::counter!("license_verifications_total", "result" => verdict.code.as_str()).increment(1);
        let terms = verdict.facts.as_ref().map(|facts| &facts.terms);
        Self {
            proof: answer.proof,
            valid: verdict.is_valid(),
            code: verdict.code.as_str(),
            detail: wording::verdict(verdict.code, verdict.malformed.as_ref()),
            warnings: verdict.warnings.iter().map(|warning| warning.as_str()).collect(),
            checked_at: verdict.checked_at,
            position: verdict.malformed.as_ref().and_then(Malformed::position),
            nonce,
            license: verdict.facts.as_ref().map(|facts| LicenseView::of(facts, verdict.checked_at)),
            test: verdict.is_test.then_some(true),
            device: verdict.device.as_deref().map(DeviceView::of),
            lease: verdict.lease.as_deref().zip(terms).and_then(|(lease, terms)| LeaseView::of(lease, terms)),
            next_check_at: verdict.next_check_at,
            offline_until: verdict.offline_until,
        }
    }
}

pub(super) struct ValidateProblems;

impl IntoResponses for ValidateProblems {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        problem::responses(&[400, 401, 403, 413, 415, 422, 429, 503])
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
pub(crate) async fn validate(
    State(app): State<App>,
    api_key: ApiKeyCredential,
    SentJson { value: request, body }: SentJson<ValidateRequest>,
) -> JsonResult<ValidateResponse> {
    let Asked { question, proof, nonce } = request.parse(Operation::Validate, &body)?;
    let answer = licenses::validate(&app.core, api_key.expose(), &question, proof.as_ref()).await;
    Ok(Json(ValidateResponse::of(api_key.checked(answer).await?, nonce)))
}
