//! The client that sends a request.

use crate::users::Locale;

/// What is known about the client that sent a request.
#[derive(Clone, Debug)]
pub struct ClientInfo {
    /// The client's network: /24 for IPv4, /64 for IPv6. The full address is never stored.
    pub network: String,
    /// The `User-Agent`.
    pub agent: Option<String>,
    /// The device cookie of a browser that signed in before.
    pub device: Option<String>,
    /// The preferred language.
    pub locale: Locale,
}
