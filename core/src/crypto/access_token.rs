//! Access tokens: JWTs for doors, signed with Ed25519 under a key of their own.
//!
//! RFC 9068 (`typ: at+jwt`) and the rules of RFC 8725: the algorithm, the issuer, the audience and the
//! type are ours to say, not the token's; `kid` is compared, never followed. A token says who and which
//! session, and nothing personal: what the person may do is read from the database at each request.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Duration, Utc};
use ed25519_dalek::{SigningKey, pkcs8::EncodePrivateKey};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, decode_header, encode};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{
    Code, Core, Error, Result,
    crypto::seal::Purpose,
    ids::{SessionId, UserId},
};

/// Who signs.
pub const ISSUER: &str = "dca-auth";
/// Whom the token is for.
pub const AUDIENCE: &str = "dca-auth-users";
const TYPE: &str = "at+jwt";

/// Two clocks may differ by this much.
const LEEWAY: Duration = Duration::seconds(5);

/// Longer than any token of ours; what is longer is not even parsed.
const LONGEST: usize = 8 * 1024;

/// What an access token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    iss: String,
    aud: String,
    /// Whose token it is.
    pub sub: UserId,
    /// Which session it came from.
    pub sid: SessionId,
    jti: Uuid,
    iat: i64,
    /// When it ends, in seconds since 1970.
    pub exp: i64,
    /// `access`, as earlier clients expect it beside the header's `typ`.
    #[serde(rename = "type")]
    kind: String,
}

/// The signing key and what the world may know of it.
struct Signer {
    key: SigningKey,
    kid: String,
}

impl Signer {
    fn of(core: &Core) -> Result<Self> {
        let seed = core.keys().key(Purpose::AccessToken).try_into();
        let key =
            SigningKey::from_bytes(seed.map_err(|_| Error::Broken("the signing key has no 32 bytes".to_owned()))?);
        let kid = URL_SAFE_NO_PAD.encode(&Sha256::digest(key.verifying_key().as_bytes())[..9]);
        Ok(Self { key, kid })
    }
}

/// A token for a session, good until `expires_at`.
pub(crate) fn issue(core: &Core, user: UserId, session: SessionId, expires_at: DateTime<Utc>) -> Result<String> {
    let signer = Signer::of(core)?;
    let der = signer.key.to_pkcs8_der().map_err(|error| Error::Broken(error.to_string()))?;
    let header = Header { typ: Some(TYPE.to_owned()), kid: Some(signer.kid), ..Header::new(Algorithm::EdDSA) };
    let claims = Claims {
        iss: ISSUER.to_owned(),
        aud: AUDIENCE.to_owned(),
        sub: user,
        sid: session,
        jti: core.ids.v4(),
        iat: core.clock.now().timestamp(),
        exp: expires_at.timestamp(),
        kind: "access".to_owned(),
    };
    encode(&header, &claims, &EncodingKey::from_ed_der(der.as_bytes()))
        .map_err(|error| Error::Broken(error.to_string()))
}

/// What a token says, if we signed it for this door and its time is not over.
///
/// # Errors
/// `INVALID_TOKEN`, `TOKEN_EXPIRED`.
pub(crate) fn read(core: &Core, token: &str) -> Result<Claims> {
    let refuse = || Code::InvalidToken.refusal();
    let signer = Signer::of(core)?;
    let header = Some(token).filter(|token| token.len() <= LONGEST).and_then(|token| decode_header(token).ok());
    let header = header.ok_or_else(refuse)?;
    if header.typ.as_deref() != Some(TYPE) || header.kid != Some(signer.kid) {
        return Err(refuse());
    }
    let mut rules = Validation::new(Algorithm::EdDSA);
    rules.set_issuer(&[ISSUER]);
    rules.set_audience(&[AUDIENCE]);
    rules.set_required_spec_claims(&["iss", "aud", "sub", "exp"]);
    // The library asks the machine's clock; ours is asked below.
    rules.validate_exp = false;
    let key = DecodingKey::from_ed_der(signer.key.verifying_key().as_bytes());
    let claims = decode::<Claims>(token, &key, &rules).map_err(|_| refuse())?.claims;
    let now = core.clock.now();
    let ends = DateTime::from_timestamp(claims.exp, 0).ok_or_else(refuse)?;
    if ends + LEEWAY <= now {
        return Err(Code::TokenExpired.refusal());
    }
    Ok(claims)
}

/// The public key as a JWK set (RFC 7517, RFC 8037), for servers that check access tokens themselves.
///
/// # Errors
/// Never, once the keyring is open.
pub fn jwks(core: &Core) -> Result<Value> {
    let signer = Signer::of(core)?;
    let x = URL_SAFE_NO_PAD.encode(signer.key.verifying_key().as_bytes());
    Ok(json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": signer.kid, "x": x }] }))
}
