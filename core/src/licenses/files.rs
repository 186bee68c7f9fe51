//! License files, with which a device without a connection knows what its license is worth.
//!
//! A file is a PEM block around a compact JWS ([`crate::crypto::jws`]) of type `dca-license+jwt`, wrapped at 64 columns:
//!
//! ```text
//! -----BEGIN DCA LICENSE FILE-----
//! eyJhbGciOiJFZERTQSIsInR5cCI6ImRjYS1saWNlbnNlK2p3dCIsImtpZCI6Ii4u
//! …
//! -----END DCA LICENSE FILE-----
//! ```
//!
//! ```json
//! {"iss":"https://auth.example.com","aud":"<productId>","sub":"<licenseId>","jti":"01a1fc38-…","iat":1782907200,
//!  "nbf":1782907195,"exp":1784116800,"ver":1,"licenseExpiresAt":1798761600,"keyHash":"<43 characters>","keyEpoch":1,
//!  "devices":[{"fph":"<43 characters>","components":{"board":"<43 characters>","disk":"<43 characters>"}}],
//!  "match":"two","minimum":2,"features":["pro"],"limits":{"devices":3},"metadata":{},"seq":17,
//!  "nonce":"q83vASNFZ4mrze8BI0VniQ","keys":"<the list of signing keys, a compact JWS>"}
//! ```
//!
//! An app accepts a file if the root key that it contains signed `keys` ([`crate::key_list`]), a key of that list signed
//! the file, `typ` and `aud` are as expected, the time is between `nbf` and `exp` and never earlier than an `iat` that it
//! has seen, and a device of `devices` is this one: `fph` is the SHA-256 of its fingerprint or, if there is a `minimum`,
//! so many of its components have the SHA-256 of this device's values (all in base64url). `keyHash` is the SHA-256 of the
//! license key without separators; `keyEpoch` and `seq` rise when the key or the license changes.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;

use chrono::{DateTime, Duration, Utc};
use serde::Serialize;
use serde_json::Value;
use uuid::Uuid;

use super::facts::{Device, LicenseFacts};
use super::load;
use super::question::Question;
use super::state::{Command, NotAllowed};
use super::verdict::first_reason;
use super::verdict_code::VerdictCode;
use super::{License, device_store, record, reveal_key, store};
use crate::crypto::jws::base64url;
use crate::crypto::{license_key::LicenseKey, proof, seal::Purpose, sha256};
use crate::events::EventData;
use crate::ids::{LicenseId, ProductId};
use crate::key_list::{self, KeyList};
use crate::policy::{DeviceMatch, PolicyTerms};
use crate::{Access, Caller, Core, Error, Reason, Result, fingerprint::Fingerprint, tx::Tx, users};

/// How long a file is valid, in seconds, if the terms of the license allow it.
const LIFETIME: RangeInclusive<i64> = 3_600..=366 * 86_400;

/// How long a file is valid if the request does not say it, in seconds.
const DEFAULT_LIFETIME: i64 = 14 * 86_400;

/// A license file.
#[derive(Clone, Debug)]
pub struct LicenseFile {
    /// The PEM block.
    pub text: String,
    /// When it ends.
    pub expires_at: DateTime<Utc>,
}

/// What a file is asked for.
#[derive(Clone, Debug)]
pub struct FileRequest {
    /// The device.
    pub device: Fingerprint,
    /// How long the file is wanted for, in seconds.
    pub lifetime: Option<i64>,
    /// Repeated in the file, so that an app recognizes the answer to its request.
    pub nonce: Option<String>,
}

#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct FileClaims {
    iss: String,
    aud: ProductId,
    sub: LicenseId,
    jti: Uuid,
    iat: i64,
    nbf: i64,
    exp: i64,
    ver: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    license_expires_at: Option<i64>,
    key_hash: String,
    key_epoch: i32,
    devices: [DeviceClaims; 1],
    #[serde(rename = "match")]
    device_match: DeviceMatch,
    #[serde(skip_serializing_if = "Option::is_none")]
    minimum: Option<usize>,
    features: Vec<String>,
    limits: BTreeMap<String, i64>,
    metadata: Value,
    seq: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    nonce: Option<String>,
    keys: String,
}

#[derive(Debug, PartialEq, Serialize)]
struct DeviceClaims {
    fph: String,
    components: BTreeMap<String, String>,
}

/// Writes a file for a device on which the license is activated, if a verdict about it would be `VALID`. Refused with
/// `NOT_FOUND`, `ACCESS_DENIED`, `REQUIRES_2FA`, `INVALID_TRANSITION`, `VALIDATION_ERROR`; `CONFLICT` if the license cannot be
/// used on this device or the terms allow no file; `UNAVAILABLE` if no list of signing keys is valid.
pub async fn checkout(core: &Core, caller: &Caller, id: LicenseId, request: &FileRequest) -> Result<LicenseFile> {
    let known = store::find(core, id).await?.ok_or_else(|| Reason::NoLicense.refusal())?;
    caller.require(Access::Own, &known)?;
    let mut tx = Tx::begin(core).await?;
    if let Some(owner) = known.user_id {
        users::lock_holder(&tx, known.tenant_id, owner).await?;
    }
    let license = store::lock(&tx, id).await?;
    if license.user_id != known.user_id {
        return Err(Reason::ChangedMeanwhile.refusal());
    }
    let facts = Checkout::load(&tx, license, &request.device).await?;
    let LicenseFacts { license, terms, .. } = &facts.license;
    let signing = core.keys().in_effect_at(Purpose::VerdictSigning, tx.now());
    let wanted = tx.now() + lifetime(terms, request.lifetime)?;
    let expires_at = wanted.min(facts.end()).min(key_list::end_of_key(signing.not_before));
    let claims = facts.claims(core, request, tx.now(), expires_at)?;
    let text = pem(&signing.signer().sign(proof::LICENSE_FILE, &claims)?);
    let written = EventData::LicenseCheckedOut { device_id: facts.device.id, expires_at };
    record(&mut tx, caller, license, written);
    tx.commit().await?;
    Ok(LicenseFile { text, expires_at })
}

/// What a file says, and what limits it.
struct Checkout {
    license: LicenseFacts,
    device: Arc<Device>,
    list: KeyList,
}

impl Checkout {
    async fn load(tx: &Tx, license: License, seen: &Fingerprint) -> Result<Self> {
        let (now, state) = (tx.now(), license.allow(Command::CheckOut, tx.now())?);
        let facts = device_store::facts(tx, license, seen).await?;
        let asked = Question { device: Some(seen.clone()), ..Question::default() };
        // A file is for no floating session, and for no particular version of the app.
        let counts = |code| !matches!(code, VerdictCode::LeaseRequired | VerdictCode::VersionNotAllowed);
        match first_reason(&facts, &asked, now, counts) {
            Some(VerdictCode::Expired) => return Err(NotAllowed { command: Command::CheckOut, state }.into()),
            Some(VerdictCode::Banned) => return Err(Reason::UserBanned.refusal()),
            Some(VerdictCode::NotActivated | VerdictCode::DeviceNotActivated | VerdictCode::DeviceMismatch) => {
                return Err(Reason::DeviceNotActivated.refusal());
            }
            Some(code) => return Err(Reason::NotValid { code }.refusal()),
            None => {}
        }
        let device = facts.device.device().cloned().ok_or_else(|| Reason::DeviceNotActivated.refusal())?;
        let list = key_list::get(tx).await?;
        if list.expires_at <= now {
            return Err(Reason::KeyListEnded.refusal());
        }
        Ok(Self { license: facts.license, device, list })
    }

    /// When the license, or the list of signing keys in the file, ends.
    fn end(&self) -> DateTime<Utc> {
        self.license.valid_until().map_or(self.list.expires_at, |end| self.list.expires_at.min(end))
    }

    fn claims(&self, core: &Core, request: &FileRequest, now: DateTime<Utc>, end: DateTime<Utc>) -> Result<FileClaims> {
        let Self { license: LicenseFacts { license, terms, .. }, device, list } = self;
        let stored = device.components.as_object().map_or(0, serde_json::Map::len);
        let components = request.device.confirmed_components(core.keys(), &device.components);
        Ok(FileClaims {
            iss: core.issuer.to_string(),
            aud: license.product_id,
            sub: license.id,
            jti: core.ids.v7(now),
            iat: now.timestamp(),
            nbf: (now - proof::LEEWAY).timestamp(),
            exp: end.timestamp(),
            ver: proof::VERSION,
            license_expires_at: license.expires_at.map(|time| time.timestamp()),
            key_hash: base64url(key_hash(core, license)?),
            key_epoch: license.key_epoch,
            device_match: terms.device_match,
            minimum: minimum(terms.device_match, stored).filter(|minimum| *minimum <= components.len()),
            devices: [DeviceClaims { fph: base64url(request.device.digest()), components }],
            features: terms.features.clone(),
            limits: terms.limits(),
            metadata: license.metadata.clone(),
            seq: license.rev,
            nonce: request.nonce.clone(),
            keys: list.jws.clone(),
        })
    }
}

/// How many of its components must be equal for a device with so many to be the same. `None`: only its fingerprint counts.
fn minimum(rule: DeviceMatch, components: usize) -> Option<usize> {
    match rule {
        DeviceMatch::Exact => None,
        DeviceMatch::Any => Some(1),
        DeviceMatch::Two => Some(2),
        DeviceMatch::Most => Some(components / 2 + 1),
        DeviceMatch::All => Some(components.max(1)),
    }
}

/// Refused with `VALIDATION_ERROR` or `CONFLICT` if the terms of a license allow no file that lives so long.
pub(super) async fn check_lifetime(core: &Core, license: &License, requested: Option<i64>) -> Result<()> {
    let facts = load::load_license_facts(core, license.clone()).await?;
    lifetime(&facts.terms, requested).map(drop)
}

/// How long a file is valid: as requested, within the limits of the terms.
fn lifetime(terms: &PolicyTerms, requested: Option<i64>) -> Result<Duration> {
    let (min, max) = (*LIFETIME.start(), terms.offline_max_seconds.min(*LIFETIME.end()));
    if max < min {
        return Err(Reason::NoOfflineUse.refusal());
    }
    let seconds = requested.unwrap_or(DEFAULT_LIFETIME.min(max));
    let valid = (min..=max).contains(&seconds).then(|| Duration::seconds(seconds));
    valid.ok_or_else(|| Reason::FileLifetime { min, max }.refusal())
}

/// The SHA-256 of a license's key without separators.
pub(super) fn key_hash(core: &Core, license: &License) -> Result<[u8; 32]> {
    let key = LicenseKey::parse(&reveal_key(core, license)?, &[]);
    let key = key.map_err(|_| Error::Internal(format!("the key of license {} is malformed", license.id)))?;
    Ok(sha256(key.canonical().as_bytes()))
}

fn pem(jws: &str) -> String {
    let lines: Vec<String> = jws.as_bytes().chunks(64).map(|line| String::from_utf8_lossy(line).into_owned()).collect();
    format!("-----BEGIN DCA LICENSE FILE-----\n{}\n-----END DCA LICENSE FILE-----\n", lines.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Code;

    #[test]
    fn a_file_is_wrapped_at_64_columns() {
        let (begin, end) = ("-----BEGIN DCA LICENSE FILE-----\n", "\n-----END DCA LICENSE FILE-----\n");
        for (length, lines) in [(1, 1), (64, 1), (65, 2), (128, 2)] {
            let text = pem(&"x".repeat(length));
            let body = text.strip_prefix(begin).and_then(|rest| rest.strip_suffix(end)).unwrap();
            assert_eq!((body.lines().count(), body.replace('\n', "")), (lines, "x".repeat(length)));
            assert!(body.lines().all(|line| line.len() <= 64));
        }
    }

    #[test]
    fn a_device_is_the_same_if_enough_components_are_equal() {
        use DeviceMatch::{All, Any, Exact, Most, Two};
        for (rule, components, expected) in [
            (Exact, 3, None),
            (Any, 3, Some(1)),
            (Two, 3, Some(2)),
            (Most, 3, Some(2)),
            (Most, 4, Some(3)),
            (All, 3, Some(3)),
        ] {
            assert_eq!(minimum(rule, components), expected, "{rule} of {components}");
        }
        assert!(
            [Any, Two, Most, All].iter().all(|rule| minimum(*rule, 0) > Some(0)),
            "without components, only the fingerprint"
        );
    }

    #[test]
    fn a_file_lives_as_long_as_requested_within_the_limits_of_the_terms() {
        const HOUR: i64 = 3_600;
        let lived = |max, requested| {
            let terms = PolicyTerms { offline_max_seconds: max, ..PolicyTerms::default() };
            lifetime(&terms, requested).map(|lifetime| lifetime.num_seconds()).map_err(|error| error.code())
        };
        for (max, requested, expected) in [
            (30 * 24 * HOUR, None, Ok(14 * 24 * HOUR)),
            (2 * HOUR, None, Ok(2 * HOUR)),
            (2 * HOUR, Some(HOUR), Ok(HOUR)),
            (2 * HOUR, Some(2 * HOUR), Ok(2 * HOUR)),
            (2 * HOUR, Some(2 * HOUR + 1), Err(Code::ValidationError)),
            (2 * HOUR, Some(HOUR - 1), Err(Code::ValidationError)),
            (2 * HOUR, Some(i64::MIN), Err(Code::ValidationError)),
            (i64::MAX, Some(i64::MAX), Err(Code::ValidationError)),
            (i64::MAX, Some(366 * 24 * HOUR), Ok(366 * 24 * HOUR)),
            (HOUR - 1, None, Err(Code::Conflict)),
            (0, Some(HOUR), Err(Code::Conflict)),
        ] {
            assert_eq!(lived(max, requested), expected, "{requested:?} of {max}");
        }
    }
}
