//! One-time tokens: 64 hex digits, made of an id and half of its HMAC under the key of the purpose.
//!
//! The text is derived when needed and never stored, so that read access to the database yields no tokens. A token
//! is valid for one purpose only.

use uuid::Uuid;

use crate::{Core, crypto::seal::Purpose, keyring::Keyring};

/// The token for an id.
pub(crate) fn encode(keys: &Keyring, purpose: Purpose, id: Uuid) -> String {
    let id = id.simple().to_string();
    let proof = hex(&keys.mac(purpose, &id)[..16]);
    id + &proof
}

/// The id in a token; `None` if the token is not authentic for this purpose.
pub(crate) fn decode(core: &Core, purpose: Purpose, token: &str) -> Option<Uuid> {
    let (id, proof) = token.split_at_checked(32)?;
    let proofs = core.keys().macs(purpose, id);
    let is_authentic = proofs.iter().any(|valid| is_equal(&hex(&valid[..16]), proof));
    Uuid::try_parse(id).ok().filter(|_| is_authentic)
}

/// Lowercase hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from_digit(value.into(), 16).unwrap_or_default();
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// Compares in constant time for a given length.
pub fn is_equal(left: &str, right: &str) -> bool {
    left.len() == right.len() && left.bytes().zip(right.bytes()).fold(0, |diff, (a, b)| diff | (a ^ b)) == 0
}
