//! The client that sends a request, and browsers that signed in before.

use uuid::Uuid;

use crate::Core;
use crate::crypto::one_time::{hex, is_equal};
use crate::crypto::seal::Purpose;
use crate::ids::UserId;
use crate::users::{Locale, User};

/// What is known about the client that sent a request.
#[derive(Clone, Debug)]
pub struct ClientInfo {
    /// The client's network: /24 for IPv4, /64 for IPv6. The full address is never stored.
    pub network: String,
    /// The `User-Agent`.
    pub agent: Option<String>,
    /// The device cookie of a browser that signed in before.
    pub device: Option<String>,
    /// The sign-up cookie of a browser that created an account.
    pub sign_up: Option<String>,
    /// The preferred language.
    pub locale: Locale,
}

/// The name of an account to which a browser is known: the address that its user signs in with.
pub(crate) fn account_of(user: &User) -> String {
    user.folded_email.clone().unwrap_or_else(|| user.id.to_string())
}

pub(crate) fn device_proof(core: &Core, device: &str, account: &str) -> String {
    proof(&core.keys().mac(Purpose::KnownDevice, &format!("{device}:{account}")))
}

fn proof(mac: &[u8]) -> String {
    hex(&mac[..16])
}

/// The value of the sign-up cookie, which identifies the browser that created an account.
pub(crate) fn sign_up_proof(core: &Core, user: UserId) -> String {
    device_proof(core, "sign-up", &user.to_string())
}

/// The device id from the client's device cookie, if it was issued for this account.
pub(crate) fn known_device(core: &Core, client: &ClientInfo, account: &str) -> Option<String> {
    let (device, given) = client.device.as_deref()?.split_once('.')?;
    let device = Uuid::try_parse(device).ok()?.simple().to_string();
    let valid = core.keys().macs(Purpose::KnownDevice, &format!("{device}:{account}"));
    valid.iter().any(|mac| is_equal(&proof(mac), given)).then_some(device)
}
