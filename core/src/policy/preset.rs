//! The types of licenses: presets of terms.

use super::{
    DAY, ExpiryBasis, ExpiryStrategy, LeaseTerms, LicenseType, OnFull, OnSourceLost, PolicyTerms, TransferRule,
};

impl LicenseType {
    /// Other names of types, which clients of other systems use.
    pub const ALIASES: &'static [(&'static str, Self)] = &[
        ("LIFETIME", Self::Perpetual),
        ("STANDARD", Self::Subscription),
        ("PREMIUM", Self::Subscription),
        ("ENTERPRISE", Self::Volume),
    ];

    /// The type with this name or alias.
    pub fn named(name: &str) -> Option<Self> {
        let alias = Self::ALIASES.iter().find(|(alias, _)| *alias == name);
        alias.map(|(_, license_type)| *license_type).or_else(|| name.parse().ok())
    }
}

impl PolicyTerms {
    /// The terms that a type begins with. Unlike those of a new product, each has a limit of devices or sessions.
    pub fn preset(license_type: LicenseType) -> Self {
        let on_devices = |devices| Self {
            license_type,
            max_devices: Some(devices),
            device_required: true,
            transfer: TransferRule::Off,
            ..Self::default()
        };
        match license_type {
            LicenseType::Perpetual => Self { transfer: TransferRule::Owner, ..on_devices(3) },
            LicenseType::Subscription => Self {
                duration_seconds: Some(30 * DAY),
                expiry_strategy: ExpiryStrategy::GraceThenRestrict,
                grace_seconds: 3 * DAY,
                transfer: TransferRule::Owner,
                on_source_lost: OnSourceLost::ExpireAtPeriodEnd,
                ..on_devices(3)
            },
            // A reset would allow one trial after another on new devices.
            LicenseType::Trial => Self {
                duration_seconds: Some(14 * DAY),
                expiry_basis: ExpiryBasis::FirstActivation,
                offline_max_seconds: DAY,
                resets_per_30_days: 0,
                first_reset_free: false,
                ..on_devices(1)
            },
            LicenseType::Volume => Self {
                duration_seconds: Some(365 * DAY),
                expiry_strategy: ExpiryStrategy::GraceThenRestrict,
                grace_seconds: 14 * DAY,
                ..on_devices(100)
            },
            // Without a connection nobody knows how many sessions there are.
            LicenseType::Floating => Self {
                license_type,
                duration_seconds: Some(365 * DAY),
                lease: Some(LeaseTerms { ttl_seconds: 180, max_concurrent: 5, on_full: OnFull::Reject }),
                offline_max_seconds: 0,
                transfer: TransferRule::Off,
                ..Self::default()
            },
        }
    }
}
