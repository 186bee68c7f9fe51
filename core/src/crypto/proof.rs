//! Proofs: signed verdicts, with which an app can rely on an answer although its user controls the network.
//!
//! A proof is a compact JWS ([`super::jws`]) of type `dca-verdict+jwt`, signed with a key that the list of
//! [`crate::key_list`] names. An app reads the claims ([`VerdictClaims`]) only, and treats an answer as *no answer* unless
//!
//! 1. the header is `alg` `EdDSA` (or `Ed25519`), `typ` `dca-verdict+jwt`, and a `kid` of the list, and the signature fits;
//! 2. `nonce` is what it sent, `req` is the SHA-256 of the body it sent, and `op` and `aud` (its product) are as expected;
//! 3. `iat` is at most 300 seconds from its own clock, before or after.
//!
//! ```json
//! {"iss":"https://auth.example.com","aud":"<productId>","sub":"<licenseId>","jti":"01a1fc38-…","iat":1782907200,
//!  "nbf":1782907195,"exp":1782907500,"ver":1,"op":"validate","nonce":"q83vASNFZ4mrze8BI0VniQ","req":"<43 characters>",
//!  "valid":true,"code":"VALID","warnings":["EXPIRING_SOON"],"state":"active","device":"<deviceId>",
//!  "fph":"<43 characters>","licenseExpiresAt":1783036800,"features":["pro"],"limits":{"devices":3},
//!  "offlineUntil":1783036800,"nextCheckAt":1782910800}
//! ```
//!
//! Further claims may be added; `ver` changes if one changes its meaning.

use std::collections::BTreeMap;

use chrono::{DateTime, Duration, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::ids::{LicenseId, ProductId};
use crate::{Core, Result, crypto::seal::Purpose, string_enum::string_enum};

/// The `typ` of a signed verdict.
pub const VERDICT: &str = "dca-verdict+jwt";
/// The `typ` of a license file.
pub const LICENSE_FILE: &str = "dca-license+jwt";

/// The version of the claims.
pub const VERSION: u32 = 1;

/// How long a proof may be presented.
const LIFETIME: Duration = Duration::seconds(300);

/// Tolerates clocks that are slow.
pub(crate) const LEEWAY: Duration = Duration::seconds(5);

string_enum! {
    /// The operation that a verdict answers.
    Operation {
        Validate => "validate",
        Activate => "activate",
        Deactivate => "deactivate",
        Heartbeat => "heartbeat",
        Usage => "usage",
    }
}

/// Signs claims of type `typ` with the key for verdicts.
pub fn sign(core: &Core, typ: &str, claims: &impl Serialize) -> Result<String> {
    core.keys().in_effect_at(Purpose::VerdictSigning, core.clock.now()).signer().sign(typ, claims)
}

/// The claims of a signed verdict. Times are seconds since the Unix epoch. An absent claim is unknown or does not apply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VerdictClaims {
    /// The public URL of the service.
    pub iss: String,
    /// The product of the license.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aud: Option<ProductId>,
    /// The license.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sub: Option<LicenseId>,
    /// The id of this proof.
    pub jti: Uuid,
    /// When the verdict was reached.
    pub iat: i64,
    /// Five seconds before `iat`.
    pub nbf: i64,
    /// Five minutes after `iat`.
    pub exp: i64,
    /// [`VERSION`].
    pub ver: u32,
    /// What was asked.
    pub op: Operation,
    /// The nonce of the request, as it was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nonce: Option<String>,
    /// The SHA-256 of the request body, in base64url.
    pub req: String,
    /// Whether the license is valid for this device now.
    pub valid: bool,
    /// The verdict.
    pub code: String,
    /// Codes of what the user should know although the license is valid.
    pub warnings: Vec<String>,
    /// The state of the license.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// The device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<Uuid>,
    /// The SHA-256 of the fingerprint of the request, in base64url.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fph: Option<String>,
    /// When the license expires.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub license_expires_at: Option<i64>,
    /// The features of the license.
    pub features: Vec<String>,
    /// The limits of the license, by name, for example `devices`.
    pub limits: BTreeMap<String, i64>,
    /// Until when the app may rely on this verdict without a connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub offline_until: Option<i64>,
    /// When the app should ask again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_check_at: Option<i64>,
    /// The lease of a floating license.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease: Option<Uuid>,
    /// `true` for a test key, whose verdict says nothing about a license. Apps must not accept one in production.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub test: bool,
}

impl VerdictClaims {
    /// The claims that every verdict has; the caller sets those that it knows in addition. `req` is the SHA-256 of the
    /// request body.
    pub fn new(core: &Core, op: Operation, req: &[u8; 32], code: &str, now: DateTime<Utc>) -> Self {
        Self {
            iss: core.issuer.to_string(),
            aud: None,
            sub: None,
            jti: core.ids.v7(now),
            iat: now.timestamp(),
            nbf: (now - LEEWAY).timestamp(),
            exp: (now + LIFETIME).timestamp(),
            ver: VERSION,
            op,
            nonce: None,
            req: super::jws::base64url(req),
            valid: false,
            code: code.to_owned(),
            warnings: Vec::new(),
            state: None,
            device: None,
            fph: None,
            license_expires_at: None,
            features: Vec::new(),
            limits: BTreeMap::new(),
            offline_until: None,
            next_check_at: None,
            lease: None,
            test: false,
        }
    }

    /// Signs the claims: the `proof` of an answer.
    pub fn sign(&self, core: &Core) -> Result<String> {
        sign(core, VERDICT, self)
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode};
    use serde_json::json;

    use super::*;
    use crate::crypto::jws::Signer;

    fn minimal() -> serde_json::Value {
        json!({
            "iss": "https://auth.example.com", "jti": "01a1fc38-462e-700d-8a24-1b00a6834fc4", "iat": 1_782_907_200,
            "nbf": 1_782_907_195, "exp": 1_782_907_500, "ver": 1, "op": "validate", "req": "x".repeat(43),
            "valid": false, "code": "NOT_FOUND", "warnings": [], "features": [], "limits": {},
        })
    }

    #[test]
    fn claims_survive_signing_and_unknown_ones_are_absent() {
        let mut full = minimal();
        let known = json!({
            "aud": "01a1fc38-45b8-7004-b3a1-5d1a2f6e0c27", "sub": "01a1fc38-45b8-7004-b3a1-5d1a2f6e0c28",
            "nonce": "q83vASNFZ4mrze8BI0VniQ", "valid": true, "code": "VALID", "warnings": ["EXPIRING_SOON"],
            "state": "active", "device": "01a1fc38-45b8-7004-b3a1-5d1a2f6e0c29", "fph": "y".repeat(43),
            "licenseExpiresAt": 1_783_036_800, "features": ["pro"], "limits": { "devices": 3 },
            "offlineUntil": 1_783_036_800, "nextCheckAt": 1_782_910_800,
            "lease": "01a1fc38-45b8-7004-b3a1-5d1a2f6e0c2a", "test": true,
        });
        full.as_object_mut().unwrap().extend(known.as_object().unwrap().clone());
        let signer = Signer::new(&[7; 32]);
        let mut validation = Validation::new(Algorithm::EdDSA);
        (validation.validate_exp, validation.validate_aud) = (false, false);
        for claims in [minimal(), full] {
            let parsed: VerdictClaims = serde_json::from_value(claims.clone()).unwrap();
            let proof = signer.sign(VERDICT, &parsed).unwrap();
            let key = DecodingKey::from_ed_der(&signer.public_key());
            let token = decode::<serde_json::Value>(&proof, &key, &validation).unwrap();
            assert_eq!(token.claims, claims);
            assert_eq!(
                (token.header.typ.as_deref(), token.header.kid),
                (Some(VERDICT), Some(signer.jwk().kid.clone()))
            );
        }
    }
}
