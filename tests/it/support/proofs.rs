//! Verifies proofs as an app does: with the public root key and the raw signatures, without the product's code.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use dca_core::{Core, key_list, key_rotation};
use ed25519_dalek::{Signature, VerifyingKey};
use serde_json::Value;

use crate::support::{browser::Browser, harness::TestApp};

fn decode(part: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(part).unwrap_or_default()
}

pub fn encode(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

/// Header and claims of a JWS, without verification.
pub fn parts(jws: &str) -> (Value, Value) {
    let mut parts = jws.split('.').map(|part| serde_json::from_slice(&decode(part)).unwrap_or_default());
    (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
}

/// The claims of a JWS of this type, if this key signed it.
fn verify(jws: &str, typ: &str, key: &[u8]) -> Option<Value> {
    let (header, claims) = parts(jws);
    let (message, signature) = jws.rsplit_once('.')?;
    let key = VerifyingKey::from_bytes(key.try_into().ok()?).ok()?;
    let signature = Signature::from_slice(&decode(signature)).ok()?;
    let is_expected = header["alg"] == "EdDSA" && header["typ"] == typ;
    (is_expected && key.verify_strict(message.as_bytes(), &signature).is_ok()).then_some(claims)
}

/// The claims of `jws` for an app that contains the root key and has this list, at this time.
pub fn verify_as_app(root: &[u8], list: &str, jws: &str, typ: &str, now: i64) -> Option<Value> {
    let list = verify(list, key_list::TYPE, root).filter(|list| list["exp"].as_i64() > Some(now))?;
    let kid = parts(jws).0["kid"].clone();
    let jwk = list["keys"].as_array()?.iter().find(|jwk| jwk["kid"] == kid)?;
    let claims = verify(jws, typ, &decode(jwk["x"].as_str()?))?;
    let signed_in_time = claims["iat"].as_i64() >= jwk["nbf"].as_i64() && claims["exp"].as_i64() <= jwk["exp"].as_i64();
    (signed_in_time && claims["exp"].as_i64() > Some(now)).then_some(claims)
}

pub async fn root_of(core: &Core) -> Vec<u8> {
    decode(&key_rotation::status(core).await.unwrap().root.x)
}

/// The list as apps fetch it.
pub async fn fetch_list(t: &TestApp) -> String {
    let response = Browser::new(t).get("/.well-known/dca-keys").await;
    assert_eq!((response.status, response.header("content-type")), (200, "application/jose"));
    response.text
}
