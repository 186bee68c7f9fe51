//! What the requests of apps about a license key have in common.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use dca_core::crypto::proof::Operation;
use dca_core::fingerprint::Fingerprint;
use dca_core::licenses::{NewDevice, ProofContext};
use serde::{Deserialize, Deserializer, de};
use utoipa::ToSchema;

use crate::http::problem::Problem;

/// A random value that the proof of the answer repeats, so that nobody can present the answer to another request: 16 to
/// 32 bytes in base64url without padding.
#[derive(Clone, Debug, ToSchema)]
#[schema(value_type = String, example = "q83vASNFZ4mrze8BI0VniQ", min_length = 22, max_length = 43)]
pub(crate) struct Nonce(pub(crate) String);

impl<'de> Deserialize<'de> for Nonce {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let is_valid = URL_SAFE_NO_PAD.decode(&text).is_ok_and(|bytes| (16..=32).contains(&bytes.len()));
        let expected = &"16 to 32 bytes in base64url without padding";
        is_valid.then_some(Self(text)).ok_or_else(|| de::Error::invalid_value(de::Unexpected::Other("text"), expected))
    }
}

/// The device that an app runs on.
#[derive(Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct DeviceFields {
    /// What identifies the device: 16 to 128 of the characters `A-Z a-z 0-9 _ . : -`, best a hash.
    #[schema(example = "9f2c61d0a3b84e57b1c7d2f09e4a6c35", min_length = 16, max_length = 128)]
    fingerprint: String,
    /// Hashes of parts of the device, by which it is recognized after one of them has changed, if the policy allows it: at
    /// most 16, with names of up to 32 characters and values of up to 128.
    #[serde(default)]
    components: BTreeMap<String, String>,
    /// What the user calls the device. An activation stores it, as the next two.
    #[schema(example = "Desk PC", max_length = 64)]
    name: Option<String>,
    #[schema(example = "windows-x64", max_length = 64)]
    platform: Option<String>,
    #[schema(example = "2.4.1", max_length = 64)]
    app_version: Option<String>,
}

impl DeviceFields {
    /// The device of a request; `flat` is the fingerprint as an earlier field gives it.
    pub(crate) fn parse(device: Option<Self>, flat: Option<String>) -> Result<Option<Fingerprint>, Problem> {
        let flat = flat.map(|fingerprint| Self { fingerprint, ..Self::default() });
        let parse = |device: Self| Fingerprint::parse(&device.fingerprint, device.components);
        Ok(device.or(flat).map(parse).transpose()?)
    }

    /// The device to activate or deactivate; `flat` is its fingerprint and its name as earlier fields give them.
    pub(crate) fn required(device: Option<Self>, flat: (Option<String>, Option<String>)) -> Result<NewDevice, Problem> {
        let (fingerprint, name) = flat;
        let flat = fingerprint.map(|fingerprint| Self { fingerprint, name, ..Self::default() });
        let missing = || Problem::invalid_field("device", "device is required, with its fingerprint");
        let Self { fingerprint, components, name, platform, app_version } = device.or(flat).ok_or_else(missing)?;
        let [name, platform, version] = [name.as_deref(), platform.as_deref(), app_version.as_deref()];
        Ok(NewDevice::new(Fingerprint::parse(&fingerprint, components)?, name, platform, version)?)
    }
}

/// What the proof of an answer repeats of its request.
pub(crate) fn context(
    op: Operation,
    nonce: Option<Nonce>,
    body: [u8; 32],
    device: Option<&Fingerprint>,
) -> ProofContext {
    ProofContext { op, nonce: nonce.map(|nonce| nonce.0), body, fingerprint: device.map(Fingerprint::digest) }
}
