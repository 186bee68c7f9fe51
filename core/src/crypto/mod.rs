//! Cryptography: license keys, API keys, tokens, passwords, and encryption at rest.

pub mod access_token;
pub mod api_key;
pub mod base32;
pub mod license_key;
pub(crate) mod one_time;
pub mod password;
pub mod seal;

pub use one_time::is_equal;
