//! The proof of a verdict: its signed form, which an app can trust although its user controls the network.

use super::verdict::Verdict;
use super::verdict_code::VerdictCode;
use crate::crypto::jws::base64url;
use crate::crypto::proof::{Operation, VerdictClaims};
use crate::{Core, Result};

/// What a proof repeats of the request that it answers.
#[derive(Clone, Debug)]
pub struct ProofContext {
    /// What was asked.
    pub op: Operation,
    /// The nonce, as it was sent.
    pub nonce: Option<String>,
    /// The SHA-256 of the body.
    pub body: [u8; 32],
    /// The SHA-256 of the fingerprint.
    pub fingerprint: Option<[u8; 32]>,
}

/// Signs a verdict, positive or negative.
pub fn prove(core: &Core, request: &ProofContext, verdict: &Verdict) -> Result<String> {
    let code = verdict.code.as_str();
    let claims = VerdictClaims::new(core, request.op, &request.body, code, verdict.checked_at);
    let known = verdict.facts.as_ref();
    let terms = known.map(|facts| &facts.terms);
    let seconds = |time: chrono::DateTime<chrono::Utc>| time.timestamp();
    let claims = VerdictClaims {
        aud: known.map(|facts| facts.license.product_id),
        sub: known.map(|facts| facts.license.id),
        nonce: request.nonce.clone(),
        valid: verdict.code == VerdictCode::Valid,
        warnings: verdict.warnings.iter().map(|warning| warning.as_str().to_owned()).collect(),
        state: known.map(|facts| facts.license.state(verdict.checked_at).to_string()),
        device: verdict.device.as_ref().map(|device| device.id.0),
        fph: request.fingerprint.as_ref().map(base64url),
        license_expires_at: known.and_then(|facts| facts.license.expires_at).map(seconds),
        features: terms.map(|terms| terms.features.clone()).unwrap_or_default(),
        limits: terms.map(|terms| terms.limits()).unwrap_or_default(),
        offline_until: verdict.offline_until.map(seconds),
        next_check_at: verdict.next_check_at.map(seconds),
        lease: verdict.lease.as_ref().map(|lease| lease.id.0),
        test: verdict.is_test,
        ..claims
    };
    claims.sign(core)
}
