//! What a delivery is: its effect, its recipient, and the service that performs it.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::ids::{ChannelId, DiscordUserId, GuildId, LicenseId, UserId};
use crate::{bus::Topic, string_enum::string_enum};

/// The effect to perform and its recipient.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[expect(missing_docs, reason = "fields are named after what they hold")]
pub enum Delivery {
    /// Sends members their license key by direct message.
    KeyDm { license: LicenseId },
    /// Posts the event with this sequence number to a guild's log channel.
    LogLine { channel: ChannelId, seq: i64 },
    /// Fetches a member from Discord before revoking a license on uncertain information.
    #[serde(rename = "refetch")]
    RecheckMember { guild: GuildId, user: DiscordUserId },
    /// Sends an email; `token` is the id of the one-time token that it is about.
    #[serde(rename = "mail")]
    Email {
        #[serde(rename = "letter")]
        template: EmailTemplate,
        user: UserId,
        token: Option<Uuid>,
    },
}

string_enum! {
    /// What performs a delivery. Each is claimed separately, so that they do not delay each other.
    Transport {
        /// Discord's direct messages, which have a limit of their own.
        DirectMessages => "direct_messages",
        /// Everything else at Discord.
        Discord => "discord",
        Smtp => "smtp",
    }
}

impl Transport {
    /// What is notified when one of its deliveries may be due.
    pub const fn topic(self) -> Topic {
        match self {
            Self::DirectMessages => Topic::DirectMessages,
            Self::Discord => Topic::Discord,
            Self::Smtp => Topic::Smtp,
        }
    }
}

impl Delivery {
    /// The kind of the delivery.
    pub(crate) fn kind(&self) -> DeliveryKind {
        match self {
            Self::KeyDm { .. } => DeliveryKind::KeyDm,
            Self::LogLine { .. } => DeliveryKind::LogLine,
            Self::RecheckMember { .. } => DeliveryKind::RecheckMember,
            Self::Email { .. } => DeliveryKind::Email,
        }
    }

    /// Deliveries with the same key are performed one at a time, in order.
    pub(crate) fn ordering_key(&self) -> String {
        match self {
            Self::KeyDm { license } => format!("license:{license}"),
            Self::LogLine { channel, .. } => format!("channel:{channel}"),
            Self::RecheckMember { guild, user } => format!("member:{guild}:{user}"),
            // Unique, so that a delayed email does not delay others, which may expire earlier.
            Self::Email { template, user, token } => format!("mail:{template}:{user}:{}", token.unwrap_or_default()),
        }
    }
}

string_enum! {
    /// The variants of [`Delivery`].
    DeliveryKind {
        KeyDm => "key_dm",
        LogLine => "log_line",
        RecheckMember => "refetch",
        Email => "mail",
    }
}

impl DeliveryKind {
    /// The service that performs it.
    pub(crate) const fn transport(self) -> Transport {
        match self {
            Self::KeyDm => Transport::DirectMessages,
            Self::LogLine | Self::RecheckMember => Transport::Discord,
            Self::Email => Transport::Smtp,
        }
    }
}

string_enum! {
    /// The state of a delivery.
    DeliveryState {
        /// Waiting to be performed.
        Pending => "pending",
        /// Performed.
        Sent => "sent",
        /// The recipient could not be reached, or the delivery expired or is obsolete.
        Undelivered => "undelivered",
        /// Given up after a permanent failure or too many attempts.
        Dead => "dead",
    }
}

string_enum! {
    /// The emails, named after their templates.
    EmailTemplate {
        VerifyEmail => "verify-email",
        WelcomeEmail => "welcome-email",
        ResetPassword => "reset-password",
        /// Confirm this address to make it the new one of your account.
        ChangeEmail => "change-email",
        /// The address of your account is no longer this one.
        EmailChanged => "email-changed",
        /// Someone wants to use your address for another account.
        AlreadyRegistered => "already-registered",
        PasswordChanged => "password-changed",
        /// A refresh token was reused; you were signed out everywhere.
        SessionsEnded => "sessions-ended",
        SecondFactorChanged => "second-factor-changed",
        /// An account at a provider was linked or unlinked.
        SignInMethodsChanged => "sign-in-methods-changed",
        /// Someone entered several wrong codes of your second factor.
        WrongCodes => "wrong-codes",
        /// Your account will be deleted. Sign in to keep it.
        DeletionPlanned => "deletion-planned",
        /// An admin scheduled the deletion of your account.
        DeletionByAdmin => "deletion-by-admin",
    }
}
