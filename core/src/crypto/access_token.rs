//! Access tokens: JWTs signed with Ed25519.
//!
//! They follow RFC 9068 (`typ: at+jwt`) and RFC 8725: algorithm, issuer, audience and type are fixed, and `kid` is
//! only compared with the ids of our keys. A token carries the ids of the user and the session and no personal data;
//! permissions are read from the database on each request.

use chrono::{DateTime, Duration, Utc};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::ids::{SessionId, UserId};
use crate::{Code, Core, Result, crypto::seal::Purpose};

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

/// Issues a token for a session, valid until `expires_at`.
pub(crate) fn issue(core: &Core, user: UserId, session: SessionId, expires_at: DateTime<Utc>) -> Result<String> {
    let now = core.clock.now();
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
    core.keys().in_effect_at(Purpose::AccessToken, now).signer().sign(TOKEN_TYPE, &claims)
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
    let key = keys.iter().find(|key| header.kid.as_ref() == Some(&key.signer().jwk().kid)).ok_or_else(refuse)?;
    let mut validation = Validation::new(Algorithm::EdDSA);
    validation.set_issuer(&[ISSUER]);
    validation.set_audience(&[AUDIENCE]);
    validation.set_required_spec_claims(&["iss", "aud", "sub", "exp"]);
    // The library uses the system clock; expiry is checked against `core.clock` below.
    validation.validate_exp = false;
    let key = DecodingKey::from_ed_der(&key.signer().public_key());
    let claims = decode::<Claims>(token, &key, &validation).map_err(|_| refuse())?.claims;
    let now = core.clock.now();
    let expires_at = DateTime::from_timestamp(claims.exp, 0).ok_or_else(refuse)?;
    if expires_at + LEEWAY <= now {
        return Err(Code::TokenExpired.refusal());
    }
    Ok(claims)
}
