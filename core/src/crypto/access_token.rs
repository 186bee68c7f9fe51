//! Access tokens: JWTs signed with Ed25519.
//!
//! They follow RFC 9068 (`typ: at+jwt`) and RFC 8725: algorithm, issuer, audience and type are fixed, and `kid` is
//! only compared with the ids of our keys. A token carries the ids of the user and the session and no personal data;
//! permissions are read from the database on each request.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Duration, Utc};
use ed25519_dalek::{SigningKey, pkcs8::EncodePrivateKey};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, decode_header, encode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::ids::{SessionId, UserId};
use crate::{Code, Core, Error, Result, crypto::seal::Purpose, keyring::DataKey};

/// The `iss` claim.
pub const ISSUER: &str = "dca-auth";
/// The `aud` claim.
pub const AUDIENCE: &str = "dca-auth-users";
const TOKEN_TYPE: &str = "at+jwt";

/// Tolerated clock difference between instances.
const LEEWAY: Duration = Duration::seconds(5);

/// Longer tokens are rejected without parsing.
const MAX_LENGTH: usize = 8 * 1024;

/// The claims of an access token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    iss: String,
    aud: String,
    /// The user.
    pub sub: UserId,
    /// The session.
    pub sid: SessionId,
    jti: Uuid,
    iat: i64,
    /// Expiry, in seconds since the Unix epoch.
    pub exp: i64,
    /// Always `access`; earlier clients expect it in addition to the header's `typ`.
    #[serde(rename = "type")]
    kind: String,
}

fn signing_key(key: &DataKey) -> Result<SigningKey> {
    let seed = key.secret.as_slice().try_into();
    let seed = seed.map_err(|_| Error::Internal("the signing key is not 32 bytes long".to_owned()))?;
    Ok(SigningKey::from_bytes(seed))
}

/// The public id of a key.
fn kid(key: &DataKey) -> String {
    key.id.simple().to_string()
}

/// Issues a token for a session, valid until `expires_at`.
pub(crate) fn issue(core: &Core, user: UserId, session: SessionId, expires_at: DateTime<Utc>) -> Result<String> {
    let now = core.clock.now();
    let key = core.keys().in_effect_at(Purpose::AccessToken, now);
    let der = signing_key(&key)?.to_pkcs8_der().map_err(|error| Error::Internal(error.to_string()))?;
    let header = Header { typ: Some(TOKEN_TYPE.to_owned()), kid: Some(kid(&key)), ..Header::new(Algorithm::EdDSA) };
    let claims = Claims {
        iss: ISSUER.to_owned(),
        aud: AUDIENCE.to_owned(),
        sub: user,
        sid: session,
        jti: core.ids.v4(),
        iat: now.timestamp(),
        exp: expires_at.timestamp(),
        kind: "access".to_owned(),
    };
    encode(&header, &claims, &EncodingKey::from_ed_der(der.as_bytes()))
        .map_err(|error| Error::Internal(error.to_string()))
}

/// Verifies a token and returns its claims. Refused with `INVALID_TOKEN`, `TOKEN_EXPIRED`.
pub(crate) fn verify(core: &Core, token: &str) -> Result<Claims> {
    let refuse = || Code::InvalidToken.refusal();
    let header = Some(token).filter(|token| token.len() <= MAX_LENGTH).and_then(|token| decode_header(token).ok());
    let header = header.ok_or_else(refuse)?;
    if header.typ.as_deref() != Some(TOKEN_TYPE) {
        return Err(refuse());
    }
    let keys = core.keys().all(Purpose::AccessToken);
    let key = keys.iter().find(|key| header.kid.as_ref() == Some(&kid(key))).ok_or_else(refuse)?;
    let mut validation = Validation::new(Algorithm::EdDSA);
    validation.set_issuer(&[ISSUER]);
    validation.set_audience(&[AUDIENCE]);
    validation.set_required_spec_claims(&["iss", "aud", "sub", "exp"]);
    // The library uses the system clock; expiry is checked against `core.clock` below.
    validation.validate_exp = false;
    let key = DecodingKey::from_ed_der(signing_key(key)?.verifying_key().as_bytes());
    let claims = decode::<Claims>(token, &key, &validation).map_err(|_| refuse())?.claims;
    let now = core.clock.now();
    let expires_at = DateTime::from_timestamp(claims.exp, 0).ok_or_else(refuse)?;
    if expires_at + LEEWAY <= now {
        return Err(Code::TokenExpired.refusal());
    }
    Ok(claims)
}

/// The public keys as a JWK set (RFC 7517, RFC 8037), for servers that check access tokens themselves: the one in
/// effect, one that will be, and those whose tokens are still valid. Fails if a key is malformed, which an open keyring
/// rules out.
pub fn jwks(core: &Core) -> Result<Value> {
    let jwk = |key: &Arc<DataKey>| {
        let x = URL_SAFE_NO_PAD.encode(signing_key(key)?.verifying_key().as_bytes());
        Ok(json!({ "kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": kid(key), "x": x }))
    };
    let keys: Result<Vec<Value>> = core.keys().all(Purpose::AccessToken).iter().map(jwk).collect();
    Ok(json!({ "keys": keys? }))
}
