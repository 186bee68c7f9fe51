//! What verdicts and views of a license depend on.

use std::sync::Arc;

use crate::entity::license::Model as License;
use crate::policy::PolicyTerms;

pub use crate::entity::device::Model as Device;
pub use crate::entity::lease::Model as Lease;

/// A license, its terms, and how much of them is in use. Cheap to clone.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "fields are named after what they hold")]
pub struct LicenseFacts {
    pub license: Arc<License>,
    pub terms: Arc<PolicyTerms>,
    pub devices_used: u64,
    /// Floating sessions that have not ended.
    pub sessions_used: u64,
}

/// What a verdict depends on, besides the question and the time. Cheap to clone.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// The license.
    pub license: LicenseFacts,
    /// Whether the owner of the license is banned.
    pub owner_banned: bool,
    /// The device of the request.
    pub device: DeviceMatching,
    /// Whether the device of the request is banned.
    pub device_blocked: bool,
    /// The session of the request, if there is one.
    pub lease: Option<Arc<Lease>>,
    /// Whether nothing is left of a quota of the request.
    pub is_quota_exhausted: bool,
}

/// How the device of a request compares with those that a license is activated on.
#[derive(Clone, Debug, PartialEq)]
pub enum DeviceMatching {
    /// It is none of them, or the request names none.
    Unknown,
    /// It has the fingerprint of this one.
    Exact(Arc<Device>),
    /// It has another fingerprint than this one, but enough equal components.
    Drifted(Arc<Device>),
    /// It has equal components, but too few.
    Mismatch,
}

impl DeviceMatching {
    /// The device, if the license is activated on it.
    pub fn device(&self) -> Option<&Arc<Device>> {
        match self {
            Self::Exact(device) | Self::Drifted(device) => Some(device),
            Self::Unknown | Self::Mismatch => None,
        }
    }
}

impl Facts {
    /// Whether all that changes them has an event, so that they can be used again. Floating sessions are renewed without
    /// one, and bans end without one.
    pub(crate) fn is_reusable(&self) -> bool {
        let has_sessions = self.license.terms.lease.is_some() || self.lease.is_some();
        !has_sessions && !self.owner_banned && !self.device_blocked
    }

    /// About how many bytes they take.
    pub(crate) fn size(&self) -> u32 {
        let text = self.license.license.metadata.to_string().len();
        u32::try_from(text).unwrap_or(u32::MAX).saturating_mul(3).saturating_add(2_048)
    }
}
