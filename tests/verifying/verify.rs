use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ed25519_dalek::{Signature, VerifyingKey};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

pub struct Verifier<'a> {
    pub root: &'a str,
    pub product: &'a str,
}

impl Verifier<'_> {
    /// `None` is no answer. Read `valid` and `code` in the claims, and nowhere else.
    pub fn verify(&self, proof: &str, list: &str, op: &str, nonce: &str, body: &[u8], now: i64) -> Option<Value> {
        let claims = self.open_verdict(proof, list, now)?;
        let is_mine = claims["op"] == op && claims["nonce"] == nonce && claims["req"] == sha256(body);
        (is_mine && claims["iat"].as_i64()?.abs_diff(now) <= 300).then_some(claims)
    }

    pub fn verify_offline(&self, proof: &str, list: &str, fingerprint: &str, latest: i64, now: i64) -> Option<Value> {
        let claims = self.open_verdict(proof, list, now)?;
        let is_mine = claims["valid"] == true && claims["fph"] == sha256(fingerprint);
        let is_in_time = claims["iat"].as_i64()?.max(latest) - 300 <= now && now < claims["offlineUntil"].as_i64()?;
        (is_mine && is_in_time).then_some(claims)
    }

    fn open_verdict(&self, proof: &str, list: &str, now: i64) -> Option<Value> {
        let list = open(list, "dca-keys+jwt", |_| Some(json!({ "x": self.root, "nbf": 0, "exp": i64::MAX })))?;
        let find = |kid: &Value| list["keys"].as_array()?.iter().find(|key| key["kid"] == *kid).cloned();
        let claims = open(proof, "dca-verdict+jwt", find)?;
        let is_current = now < list["exp"].as_i64()? && claims["ver"] == 1 && claims["test"].is_null();
        // An unknown key has no product.
        let is_mine = claims["aud"] == self.product || (claims["aud"].is_null() && claims["valid"] == false);
        (is_current && is_mine).then_some(claims)
    }
}

fn open(jws: &str, typ: &str, find_key: impl Fn(&Value) -> Option<Value>) -> Option<Value> {
    let (message, signature) = jws.rsplit_once('.')?;
    let (head, body) = message.split_once('.')?;
    let header: Value = serde_json::from_slice(&decode(head)?).ok()?;
    let claims: Value = serde_json::from_slice(&decode(body)?).ok()?;
    let key = find_key(&header["kid"])?;
    let x = VerifyingKey::from_bytes(&decode(key["x"].as_str()?)?.try_into().ok()?).ok()?;
    x.verify_strict(message.as_bytes(), &Signature::from_slice(&decode(signature)?).ok()?).ok()?;
    let is_expected = (header["alg"] == "EdDSA" || header["alg"] == "Ed25519") && header["typ"] == typ;
    let is_covered =
        key["nbf"].as_i64()? <= claims["iat"].as_i64()? && claims["exp"].as_i64()? <= key["exp"].as_i64()?;
    (is_expected && is_covered).then_some(claims)
}

fn decode(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text).ok()
}

fn sha256(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(bytes))
}
