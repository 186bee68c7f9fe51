//! Compact JWS (RFC 7515) signed with Ed25519 (RFC 8037), and public keys as JWK (RFC 7517).
//!
//! The header is `{"alg":"EdDSA","typ":"…","kid":"…"}`. `kid` is the thumbprint of the public key (RFC 7638), so a key
//! has the same id wherever it is published.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, EncodePrivateKey, KeypairBytes};
use ed25519_dalek::{Signer as _, SigningKey};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use zeroize::Zeroizing;

use super::sha256;
use crate::{Error, Result};

/// A public key as a JWK.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Jwk {
    kty: String,
    crv: String,
    #[serde(rename = "use")]
    usage: String,
    alg: String,
    /// The thumbprint of the key.
    pub kid: String,
    /// The 32 bytes of the key in base64url.
    pub x: String,
    /// When the key may sign from, in seconds since the Unix epoch. Only in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nbf: Option<i64>,
    /// When everything that the key signed has expired, in seconds since the Unix epoch. Only in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exp: Option<i64>,
}

impl Jwk {
    pub(crate) fn new(public_key: &[u8; 32]) -> Self {
        let [kty, crv, usage, alg] = ["OKP", "Ed25519", "sig", "EdDSA"].map(str::to_owned);
        let x = base64url(public_key);
        // The required members in lexicographic order, without whitespace.
        let members = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#);
        let kid = base64url(sha256(members.as_bytes()));
        Self { kty, crv, usage, alg, kid, x, nbf: None, exp: None }
    }

    pub(crate) fn with_period(self, nbf: DateTime<Utc>, exp: DateTime<Utc>) -> Self {
        Self { nbf: Some(nbf.timestamp()), exp: Some(exp.timestamp()), ..self }
    }
}

/// A private key, ready to sign.
pub(crate) struct Signer {
    key: SigningKey,
    jwk: Jwk,
}

/// Base64url without padding.
pub fn base64url(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

impl Signer {
    /// The key with this 32-byte private key.
    pub(crate) fn new(secret: &[u8; 32]) -> Self {
        let key = SigningKey::from_bytes(secret);
        let jwk = Jwk::new(key.verifying_key().as_bytes());
        Self { key, jwk }
    }

    /// Reads a private key in PKCS#8 PEM, such as the output of `openssl genpkey -algorithm ed25519`.
    pub(crate) fn from_pem(pem: &str) -> Option<Self> {
        KeypairBytes::from_pkcs8_pem(pem).ok().map(|pair| Self::new(&pair.secret_key))
    }

    /// The private key in PKCS#8 PEM.
    pub(crate) fn to_pem(&self) -> Result<Zeroizing<String>> {
        // Without the public key, which older versions of OpenSSL do not expect.
        let pair = KeypairBytes { secret_key: self.key.to_bytes(), public_key: None };
        pair.to_pkcs8_pem(LineEnding::LF).map_err(|error| Error::Internal(error.to_string()))
    }

    /// The 32 bytes of the public key.
    pub(crate) fn public_key(&self) -> [u8; 32] {
        self.key.verifying_key().to_bytes()
    }

    /// The public key.
    pub(crate) fn jwk(&self) -> &Jwk {
        &self.jwk
    }

    /// Signs claims of type `typ`.
    pub(crate) fn sign(&self, typ: &str, claims: &impl Serialize) -> Result<String> {
        let claims = serde_json::to_vec(claims).map_err(|error| Error::Internal(error.to_string()))?;
        let header = format!(r#"{{"alg":"EdDSA","typ":"{typ}","kid":"{}"}}"#, self.jwk.kid);
        let message = format!("{}.{}", base64url(header), base64url(claims));
        let signature = base64url(self.key.sign(message.as_bytes()).to_bytes());
        Ok(format!("{message}.{signature}"))
    }
}

/// The claims of a JWS that this service has stored itself. Its signature is not verified.
pub(crate) fn claims<T: DeserializeOwned>(jws: &str) -> Result<T> {
    let payload = jws.split('.').nth(1).and_then(|part| URL_SAFE_NO_PAD.decode(part).ok()).unwrap_or_default();
    serde_json::from_slice(&payload).map_err(|error| Error::Internal(format!("a stored JWS is malformed: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 8037, appendix A.
    const SECRET: &str = "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A";

    fn signer() -> Signer {
        Signer::new(&URL_SAFE_NO_PAD.decode(SECRET).unwrap().try_into().unwrap())
    }

    #[test]
    fn keys_are_published_as_in_rfc_8037() {
        let signer = signer();
        let jwk = signer.jwk();
        assert_eq!(jwk.x, "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo");
        assert_eq!(jwk.kid, "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    }

    #[test]
    fn private_keys_survive_pem_and_what_is_none_is_refused() {
        let pem = signer().to_pem().unwrap();
        assert!(pem.starts_with("-----BEGIN PRIVATE KEY-----\n"));
        assert_eq!(Signer::from_pem(&pem).unwrap().jwk(), signer().jwk());
        // Of RFC 8410, section 10.3, as OpenSSL writes it.
        let openssl = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n-----END PRIVATE KEY-----\n";
        assert_eq!(base64url(&Signer::from_pem(openssl).unwrap().public_key()[..3]), "Gb9E");
        for wrong in ["", "-----BEGIN PRIVATE KEY-----", &pem.replace("PRIVATE", "PUBLIC"), &pem[..60]] {
            assert!(Signer::from_pem(wrong).is_none(), "{wrong}");
        }
    }
}
