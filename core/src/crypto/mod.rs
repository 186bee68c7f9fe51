//! Cryptography: license keys, API keys, tokens, passwords, and encryption at rest.

pub mod access_token;
pub mod api_key;
pub mod base32;
pub mod jws;
pub mod license_key;
pub(crate) mod one_time;
pub mod password;
pub mod proof;
pub mod seal;

use sha2::{Digest, Sha256};

pub use one_time::{hex, is_equal};

/// SHA-256.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}
