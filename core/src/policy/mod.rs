//! The terms of a license. A product has one current policy; a change adds a version, and a license keeps the version
//! that it was issued under.

use std::collections::BTreeMap;

use chrono::{DateTime, Duration, Utc};
use serde::{Deserialize, Serialize};

use crate::string_enum::string_enum;

mod patch;
mod preset;
#[cfg(test)]
mod tests;
mod validate;

pub use self::patch::PolicyPatch;

string_enum! {
    /// The type of a license: a preset of terms.
    LicenseType {
        /// Does not expire.
        Perpetual => "PERPETUAL",
        /// Expires unless it is renewed.
        Subscription => "SUBSCRIPTION",
        /// Expires, once per user and device.
        Trial => "TRIAL",
        /// For many devices of one organization.
        Volume => "VOLUME",
        /// For a number of sessions at the same time.
        Floating => "FLOATING",
    }

    /// When the duration of a license begins.
    ExpiryBasis {
        /// When it is created.
        Creation => "creation",
        /// When it is assigned to a user.
        Assignment => "assignment",
        /// When it is activated on its first device.
        FirstActivation => "first_activation",
        /// When it is valid for the first time.
        FirstValidation => "first_validation",
        /// It expires on a fixed date.
        FixedDate => "fixed_date",
    }

    /// From when a renewal extends a license.
    RenewalBasis {
        /// From its expiry.
        FromExpiry => "from_expiry",
        /// From the renewal.
        FromNow => "from_now",
        /// From the renewal if it has expired, or else from its expiry.
        FromNowIfExpired => "from_now_if_expired",
    }

    /// What happens when a license expires.
    ExpiryStrategy {
        /// It is no longer valid.
        Restrict => "restrict",
        /// It is valid until the end of its grace, with a warning.
        GraceThenRestrict => "grace_then_restrict",
        /// It stays valid, with a warning.
        Maintain => "maintain",
    }

    /// How a device is recognized.
    DeviceMatch {
        /// By its fingerprint.
        Exact => "exact",
        /// By its fingerprint, or one equal component.
        Any => "any",
        /// By its fingerprint, or two equal components.
        Two => "two",
        /// By its fingerprint, or more than half of its components.
        Most => "most",
        /// By its fingerprint, or all of its components.
        All => "all",
    }

    /// How many devices beyond the limit are accepted, with a warning.
    Overage {
        /// None.
        None => "none",
        /// A quarter more.
        Quarter => "1.25x",
        /// Half more.
        Half => "1.5x",
        /// Twice as many.
        Double => "2x",
        /// Any number.
        Always => "always",
    }

    /// What happens when a session is opened and all are in use.
    OnFull {
        /// The new session is refused.
        Reject => "reject",
        /// The oldest session ends.
        KickOldest => "kick_oldest",
    }

    /// Who may transfer a license to another user.
    TransferRule {
        /// Nobody.
        Off => "off",
        /// Managers.
        Admin => "admin",
        /// The owner, and managers.
        Owner => "owner",
    }

    /// What a transfer does to the expiry.
    TransferExpiry {
        /// It stays.
        Keep => "keep",
        /// The duration begins again.
        Reset => "reset",
    }

    /// What happens to a license when its last source has ended, grace included.
    OnSourceLost {
        /// It is revoked.
        GraceRevoke => "grace_revoke",
        /// It is suspended until a source returns.
        Suspend => "suspend",
        /// It is not renewed any more. One that does not expire is revoked.
        ExpireAtPeriodEnd => "expire_at_period_end",
        /// Nothing.
        Keep => "keep",
    }

    /// How the devices of a license were reset.
    ResetKind {
        /// By its owner, without waiting.
        Free => "free",
        /// By its owner.
        SelfService => "self_service",
        /// By a manager.
        Forced => "forced",
    }

    /// When a usage quota begins again, in UTC.
    QuotaPeriod {
        /// Every day.
        Day => "day",
        /// Every week, on Monday.
        Week => "week",
        /// Every month.
        Month => "month",
        /// Every year.
        Year => "year",
        /// Never.
        Never => "never",
    }
}

/// Floating sessions: how many there may be, and how long one lasts without a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct LeaseTerms {
    /// How long a session lasts after a heartbeat.
    pub ttl_seconds: i64,
    /// How many sessions there may be at the same time.
    pub max_concurrent: u32,
    /// What happens when one more is opened.
    pub on_full: OnFull,
}

/// How often something may be used in each period.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Quota {
    /// The name that apps count usage under.
    pub name: String,
    /// The limit of a period.
    pub limit: i64,
    /// The period.
    pub period: QuotaPeriod,
}

/// The terms of a license. Durations are in seconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, sea_orm::FromJsonQueryResult)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
#[expect(clippy::struct_excessive_bools, reason = "independent members of the API")]
pub struct PolicyTerms {
    /// The preset that the terms began with.
    #[serde(rename = "type")]
    pub license_type: LicenseType,
    /// How long a license lasts. `None`: it does not expire.
    pub duration_seconds: Option<i64>,
    /// When the duration begins.
    pub expiry_basis: ExpiryBasis,
    /// When a license expires, for `fixed_date`.
    pub expires_at: Option<DateTime<Utc>>,
    /// From when a renewal extends a license.
    pub renewal_basis: RenewalBasis,
    /// What happens when a license expires.
    pub expiry_strategy: ExpiryStrategy,
    /// How long an expired license stays valid, for `grace_then_restrict`.
    pub grace_seconds: i64,
    /// How many devices a license may be activated on. `None`: any number.
    pub max_devices: Option<u32>,
    /// Whether a license is valid on activated devices only.
    pub device_required: bool,
    /// Whether the validation of an unknown device activates it if a seat is free.
    pub auto_activate: bool,
    /// How a device is recognized.
    pub device_match: DeviceMatch,
    /// How many devices beyond the limit are accepted.
    pub overage: Overage,
    /// Floating sessions. `None`: an app needs no session.
    pub lease: Option<LeaseTerms>,
    /// A device that has not validated for longer than this has to be activated again. `None`: never.
    pub check_in_seconds: Option<i64>,
    /// How long an app may trust a verdict or license file without asking again.
    pub offline_max_seconds: i64,
    /// How long the owner waits between two resets of the devices.
    pub reset_cooldown_seconds: i64,
    /// How many resets the owner has in 30 days.
    pub resets_per_30_days: u32,
    /// Whether the first reset needs no waiting and is not counted.
    pub first_reset_free: bool,
    /// Who may transfer a license.
    pub transfer: TransferRule,
    /// What a transfer does to the expiry.
    pub transfer_expiry: TransferExpiry,
    /// How long the owner waits between two transfers.
    pub transfer_cooldown_seconds: i64,
    /// What happens when the last source has ended.
    pub on_source_lost: OnSourceLost,
    /// How long a source counts after it was lost. Zero ends it at once.
    pub source_grace_seconds: i64,
    /// Whether the expiry of a suspended license waits until it is resumed.
    pub suspension_pauses_expiry: bool,
    /// The app versions that a license is valid for, as a `SemVer` requirement such as `>=2, <3`. `None`: all.
    pub versions: Option<String>,
    /// The features that a verdict lists.
    pub features: Vec<String>,
    /// The usage quotas.
    pub quotas: Vec<Quota>,
}

const DAY: i64 = 24 * 3_600;

/// The terms of a new product: a perpetual license without device limit. A lost role ends it after a day, because a
/// revoked license never comes back and a role may have been removed by mistake.
impl Default for PolicyTerms {
    fn default() -> Self {
        Self {
            license_type: LicenseType::Perpetual,
            duration_seconds: None,
            expiry_basis: ExpiryBasis::Assignment,
            expires_at: None,
            renewal_basis: RenewalBasis::FromNowIfExpired,
            expiry_strategy: ExpiryStrategy::Restrict,
            grace_seconds: 0,
            max_devices: None,
            device_required: false,
            auto_activate: false,
            device_match: DeviceMatch::Exact,
            overage: Overage::None,
            lease: None,
            check_in_seconds: None,
            offline_max_seconds: 14 * DAY,
            reset_cooldown_seconds: 7 * DAY,
            resets_per_30_days: 3,
            first_reset_free: true,
            transfer: TransferRule::Admin,
            transfer_expiry: TransferExpiry::Keep,
            transfer_cooldown_seconds: 0,
            on_source_lost: OnSourceLost::GraceRevoke,
            source_grace_seconds: DAY,
            suspension_pauses_expiry: false,
            versions: None,
            features: Vec::new(),
            quotas: Vec::new(),
        }
    }
}

impl PolicyTerms {
    /// When a license that begins its duration at `start` expires; `None` if it does not expire.
    pub fn expiry_from(&self, start: DateTime<Utc>) -> Option<DateTime<Utc>> {
        start.checked_add_signed(Duration::seconds(self.duration_seconds?))
    }

    /// The limits that signed claims name.
    pub fn limits(&self) -> BTreeMap<String, i64> {
        let devices = self.max_devices.map(|max| ("devices", max));
        let sessions = self.lease.as_ref().map(|lease| ("sessions", lease.max_concurrent));
        devices.into_iter().chain(sessions).map(|(name, max)| (name.to_owned(), i64::from(max))).collect()
    }

    /// When a license that expires at `expires_at` is in the state `Expired`, grace included.
    pub fn lapse(&self, expires_at: Option<DateTime<Utc>>) -> Option<DateTime<Utc>> {
        let grace = match self.expiry_strategy {
            ExpiryStrategy::GraceThenRestrict => self.grace_seconds,
            ExpiryStrategy::Restrict | ExpiryStrategy::Maintain => 0,
        };
        expires_at?.checked_add_signed(Duration::seconds(grace))
    }
}
