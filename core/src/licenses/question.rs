//! What an app asks about a license key.

use chrono::{DateTime, Utc};

use crate::fingerprint::Fingerprint;
use crate::ids::{LeaseId, ProductId};

pub use semver::Version;

/// A request of an app.
#[derive(Clone, Debug, Default)]
pub struct Question {
    /// The key as the user typed it.
    pub key: String,
    /// The expected product, if the API key covers several.
    pub product: Option<ProductId>,
    /// The device that the app runs on.
    pub device: Option<Fingerprint>,
    /// The floating session.
    pub lease: Option<LeaseId>,
    /// The features that the license must include.
    pub features: Vec<String>,
    /// The version of the app.
    pub version: Option<Version>,
    /// The quotas of which something must be left.
    pub quotas: Vec<String>,
    /// The time according to the client.
    pub client_time: Option<DateTime<Utc>>,
}
