//! Browsers that signed in before.

use uuid::Uuid;

use crate::{
    Core,
    accounts::client::ClientInfo,
    crypto::{
        one_time::{hex, is_equal},
        seal::Purpose,
    },
};

pub(crate) fn device_proof(core: &Core, device: &str, account: &str) -> String {
    hex(&core.keys().mac(Purpose::KnownDevice, &format!("{device}:{account}"))[..16])
}

/// The device id from the client's device cookie, if it was issued for this account.
pub(crate) fn known_device(core: &Core, client: &ClientInfo, account: &str) -> Option<String> {
    let (device, proof) = client.device.as_deref()?.split_once('.')?;
    let device = Uuid::try_parse(device).ok()?.simple().to_string();
    is_equal(&device_proof(core, &device, account), proof).then_some(device)
}
