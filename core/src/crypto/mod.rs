//! Keys: the license-key codec, API keys, and what is sealed at rest.

pub mod api_key;
pub mod base32;
pub mod license_key;
pub mod seal;
