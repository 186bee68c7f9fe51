//! One-time tokens: 64 hex digits, an id and half of its HMAC under the purpose's own key.
//!
//! The text is derived and never stored, neither in the table nor in the outbox: whoever reads the
//! database holds no token, and a token of one purpose is noise to another.

use uuid::Uuid;

use crate::{
    Core,
    crypto::seal::{Keyring, Purpose},
};

/// The token with this id.
pub(crate) fn encode(keys: &Keyring, purpose: Purpose, id: Uuid) -> String {
    let id = id.simple().to_string();
    let proof = keys.mac(purpose, &id);
    id + &hex(&proof[..16])
}

/// The id in a token that was derived under this purpose.
pub(crate) fn decode(core: &Core, purpose: Purpose, token: &str) -> Option<Uuid> {
    let id = Uuid::try_parse(token.get(..32)?).ok()?;
    is_equal(&encode(core.keys(), purpose, id), token).then_some(id)
}

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let digit = |value: u8| char::from_digit(value.into(), 16).unwrap_or_default();
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// Compares in a time that depends on the length alone.
pub(crate) fn is_equal(one: &str, other: &str) -> bool {
    one.len() == other.len() && one.bytes().zip(other.bytes()).fold(0, |seen, (a, b)| seen | (a ^ b)) == 0
}
