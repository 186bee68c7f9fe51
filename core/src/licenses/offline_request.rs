//! Activation of a device that has no connection: its app shows a request, which its user brings to a device that has
//! one, and the license file back.
//!
//! A request is `DCAREQ1.<payload>.<mac>`. The payload is JSON in base64url:
//!
//! ```json
//! {"fingerprint":"9f2c…","components":{"board":"…"},"productId":"01a1fc38-…","nonce":"q83vASNFZ4mrze8BI0VniQ"}
//! ```
//!
//! The MAC is HMAC-SHA-256 over `DCAREQ1.<payload>` in base64url; its key is the SHA-256 of the license key without
//! separators. So a request activates only the license whose key was entered on that device.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use serde::Deserialize;
use sha2::Sha256;

use super::devices::{self, Activation, NewDevice};
use super::files::{self, FileRequest, LicenseFile, checkout, key_hash};
use super::requested::{self, Requested};
use super::{store, verdict_code::VerdictCode};
use crate::api_key_scopes::ApiKeyScope;
use crate::ids::ProductId;
use crate::{Access, Caller, Core, Reason, Result, fingerprint::Fingerprint};

/// Longer requests are refused without parsing.
const MAX_LENGTH: usize = 8 * 1024;

/// Longer nonces are refused.
const MAX_NONCE: usize = 128;

const VERSION: &str = "DCAREQ1";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Payload {
    fingerprint: String,
    #[serde(default)]
    components: BTreeMap<String, String>,
    product_id: ProductId,
    nonce: String,
}

/// A request of an app, as it was read. Its MAC is not verified yet.
struct OfflineRequest<'t> {
    signed: &'t str,
    mac: Vec<u8>,
    payload: Payload,
}

impl<'t> OfflineRequest<'t> {
    fn parse(text: &'t str) -> Option<Self> {
        let (signed, mac) = Some(text.trim()).filter(|text| text.len() <= MAX_LENGTH)?.rsplit_once('.')?;
        let payload = URL_SAFE_NO_PAD.decode(signed.strip_prefix(VERSION)?.strip_prefix('.')?).ok()?;
        let payload: Payload = serde_json::from_slice(&payload).ok()?;
        let mac = URL_SAFE_NO_PAD.decode(mac).ok()?;
        (payload.nonce.len() <= MAX_NONCE).then_some(Self { signed, mac, payload })
    }

    /// Whether the request was made with the key of this hash.
    fn is_made_with(&self, key_hash: &[u8; 32]) -> bool {
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key_hash).expect("HMAC takes any key length");
        mac.update(self.signed.as_bytes());
        mac.verify_slice(&self.mac).is_ok()
    }
}

/// Activates a license on a device without a connection, and writes its license file; or says why the license cannot be
/// activated. The key says which license; without it, it is that of the signed-in user for the product of the request.
///
/// Refused with `VALIDATION_ERROR` if the text is no request, `CONFLICT` if it was made for another license, and as
/// [`checkout`] is.
pub async fn activate_offline(
    core: &Core,
    caller: &Caller,
    request: &str,
    key: Option<&str>,
    lifetime: Option<i64>,
) -> Result<std::result::Result<LicenseFile, Activation>> {
    let request = OfflineRequest::parse(request).ok_or_else(|| Reason::InvalidOfflineRequest.refusal())?;
    let Payload { fingerprint, components, product_id, nonce } = &request.payload;
    let device = Fingerprint::parse(fingerprint, components.clone())?;
    let wanted = match (key, caller) {
        (Some(key), _) => Requested::Key(key.to_owned()),
        (None, Caller::User(user)) => Requested::Id(store::find_of_user(core, user.user, *product_id).await?),
        (None, _) => return Err(Reason::LicenseKeyRequired.refusal()),
    };
    let license = match requested::find(core, caller, ApiKeyScope::Activate, &wanted).await? {
        Ok(license) => license,
        Err(verdict) => return Ok(Err(verdict.into())),
    };
    caller.require(Access::Own, &license)?;
    if license.product_id != *product_id || !request.is_made_with(&key_hash(core, &license)?) {
        return Err(Reason::OtherLicense.refusal());
    }
    // Before a seat is taken.
    files::check_lifetime(core, &license, lifetime).await?;
    let new = NewDevice::new(device.clone(), None, None, None)?;
    let activation = devices::activate(core, caller, &wanted, &new).await?;
    if activation.verdict.code != VerdictCode::Valid {
        return Ok(Err(activation));
    }
    let wanted = FileRequest { device, lifetime, nonce: Some(nonce.clone()) };
    checkout(core, caller, license.id, &wanted).await.map(Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(payload: &str, key: &[u8]) -> String {
        let signed = format!("DCAREQ1.{}", URL_SAFE_NO_PAD.encode(payload));
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key).unwrap();
        mac.update(signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
    }

    const PAYLOAD: &str =
        r#"{"fingerprint":"f","productId":"01a1fc38-45b8-7004-b3a1-5d1a2f6e0c27","nonce":"n","later":1}"#;

    #[test]
    fn a_request_is_bound_to_the_license_key_and_its_content() {
        let text = request(PAYLOAD, &[7; 32]);
        assert!(OfflineRequest::parse(&format!("  {text}\n")).unwrap().is_made_with(&[7; 32]));
        assert!(!OfflineRequest::parse(&text).unwrap().is_made_with(&[8; 32]));
        let other = request(&PAYLOAD.replace("\"f\"", "\"g\""), &[7; 32]);
        let mixed = format!("{}.{}", other.rsplit_once('.').unwrap().0, text.rsplit_once('.').unwrap().1);
        assert!(!OfflineRequest::parse(&mixed).unwrap().is_made_with(&[7; 32]));
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let text = request(PAYLOAD, &[7; 32]);
        let long = PAYLOAD.replace("\"n\"", &format!("\"{}\"", "n".repeat(129)));
        for wrong in [
            "",
            "DCAREQ1",
            "DCAREQ1.",
            "DCAREQ1..",
            "DCAREQ1.e30.AA",
            &text.replace("DCAREQ1", "DCAREQ2"),
            &text.replacen("DCAREQ1.", "DCAREQ1", 1),
            &format!("{text}="),
            &request(&long, &[7; 32]),
            &request("[]", &[7; 32]),
            &request(&PAYLOAD.replace("01a1", "x"), &[7; 32]),
            &"x".repeat(MAX_LENGTH + 1),
        ] {
            assert!(OfflineRequest::parse(wrong).is_none(), "{wrong}");
        }
    }
}
