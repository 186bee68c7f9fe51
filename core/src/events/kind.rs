//! What happened, and who did it.

use crate::ids::{ApiKeyId, DiscordUserId, UserId};
use crate::string_enum::string_enum;

string_enum! {
    /// The kinds of events. The wire strings are public and stable.
    EventKind {
        LicenseCreated => "license.created",
        LicenseAssigned => "license.assigned",
        LicenseActivated => "license.activated",
        LicenseChanged => "license.changed",
        LicenseTransferred => "license.transferred",
        LicenseSuspended => "license.suspended",
        LicenseResumed => "license.resumed",
        LicenseDeactivated => "license.deactivated",
        DeviceLimitReached => "device.limit_reached",
        LeaseSuperseded => "lease.superseded",
        BanCreated => "ban.created",
        BanLifted => "ban.lifted",
        DeviceReset => "device.reset",
        LicenseExpired => "license.expired",
        LicenseRenewed => "license.renewed",
        KeyRotated => "license.key_rotated",
        LicenseRevoked => "license.revoked",
        LicenseCheckedOut => "license.checked_out",
        KeyUndelivered => "license.key_undelivered",
        RoleChanged => "user.role_changed",
        ProductCreated => "product.created",
        ProductRenamed => "product.renamed",
        PolicyChanged => "policy.changed",
        MappingCreated => "mapping.created",
        MappingRemoved => "mapping.removed",
        SourceUnverifiable => "source.unverifiable",
        BreakerTripped => "sync.breaker_tripped",
        SyncConfirmed => "sync.confirmed",
        UserRegistered => "user.registered",
        SignUpRepeated => "user.sign_up_repeated",
        EmailVerified => "user.email_verified",
        EmailChanged => "user.email_changed",
        SignedIn => "user.signed_in",
        SignInRefused => "user.sign_in_refused",
        PasswordChanged => "user.password_changed",
        SecondFactorChanged => "user.second_factor_changed",
        IdentityLinked => "user.identity_linked",
        IdentityUnlinked => "user.identity_unlinked",
        ProfileChanged => "user.profile_changed",
        UserStatusChanged => "user.status_changed",
        AccessChanged => "user.access_changed",
        SessionRevoked => "session.revoked",
        TokenReused => "session.token_reused",
        UserExported => "user.exported",
        DeletionPlanned => "user.deletion_planned",
        DeletionUndone => "user.deletion_undone",
        UserErased => "user.erased",
        ApiKeyCreated => "api_key.created",
        ApiKeyRotated => "api_key.rotated",
        ApiKeyRevoked => "api_key.revoked",
        DeliveryReplayed => "delivery.replayed",
    }
}

/// The originator of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Actor {
    /// The service itself, such as a worker.
    System,
    /// The operator at the command line.
    Operator,
    /// A Discord user or bot.
    Discord(DiscordUserId),
    /// An app that uses an API key.
    ApiKey(ApiKeyId),
    /// A signed-in user.
    User(UserId),
}

impl std::fmt::Display for Actor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::System => f.write_str("system"),
            Self::Operator => f.write_str("operator"),
            Self::Discord(id) => write!(f, "discord:{id}"),
            Self::ApiKey(id) => write!(f, "api_key:{id}"),
            Self::User(id) => write!(f, "user:{id}"),
        }
    }
}
