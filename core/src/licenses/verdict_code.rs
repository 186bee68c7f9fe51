//! The codes of verdicts, and the warnings of those that are valid.

use crate::string_enum::string_enum;

string_enum! {
    /// The codes of verdicts, in the order of precedence: if several hold, a verdict has the first. Public and stable.
    VerdictCode {
        /// The text is not a license key.
        MalformedKey => "MALFORMED_KEY",
        /// No license has this key, or the caller may not know of it.
        NotFound => "NOT_FOUND",
        /// The license is for another product.
        ProductMismatch => "PRODUCT_MISMATCH",
        /// The owner of the license is banned.
        Banned => "BANNED",
        /// The license was revoked.
        Revoked => "REVOKED",
        /// The license is suspended.
        Suspended => "SUSPENDED",
        /// The license has expired.
        Expired => "EXPIRED",
        /// The license is not assigned to anyone.
        NotAssigned => "NOT_ASSIGNED",
        /// The license is valid on activated devices only, and the request names none.
        DeviceRequired => "DEVICE_REQUIRED",
        /// The device is banned.
        DeviceBlocked => "DEVICE_BLOCKED",
        /// The license is not activated on any device.
        NotActivated => "NOT_ACTIVATED",
        /// The license is not activated on this device.
        DeviceNotActivated => "DEVICE_NOT_ACTIVATED",
        /// The device differs too much from the one that was activated, or the session belongs to another one.
        DeviceMismatch => "DEVICE_MISMATCH",
        /// More devices are in use than the license allows, or would be.
        DeviceLimitExceeded => "DEVICE_LIMIT_EXCEEDED",
        /// The license needs a floating session, and the request names none.
        LeaseRequired => "LEASE_REQUIRED",
        /// The session has expired.
        LeaseExpired => "LEASE_EXPIRED",
        /// The session was ended by a newer one.
        LeaseSuperseded => "LEASE_SUPERSEDED",
        /// All sessions are in use.
        LeaseLimitExceeded => "LEASE_LIMIT_EXCEEDED",
        /// The device has not validated for too long, and has to be activated again.
        CheckInOverdue => "CHECK_IN_OVERDUE",
        /// The license does not include a feature that the request asks for.
        FeatureMissing => "FEATURE_MISSING",
        /// The license is not valid for this version of the app.
        VersionNotAllowed => "VERSION_NOT_ALLOWED",
        /// Nothing is left of a usage quota.
        QuotaExceeded => "QUOTA_EXCEEDED",
        /// The key may be used.
        Valid => "VALID",
    }

    /// What the user of a valid license should know. Public and stable.
    Warning {
        /// The license ends within three days.
        ExpiringSoon => "EXPIRING_SOON",
        /// The license has expired, and its grace has not ended.
        GracePeriod => "GRACE_PERIOD",
        /// The license has expired, and stays valid.
        Expired => "EXPIRED",
        /// More devices are in use than the license has, which its policy tolerates.
        OverLimitAllowed => "OVER_LIMIT_ALLOWED",
        /// The device was recognized by its components, because its fingerprint has changed.
        FingerprintDrift => "FINGERPRINT_DRIFT",
        /// The clock of the client is more than five minutes off.
        ClockSkew => "CLOCK_SKEW",
    }
}
