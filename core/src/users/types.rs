//! What describes a user: role, status, language, and the providers that know them.

use crate::ids::{DiscordUserId, UserId};
use crate::string_enum::string_enum;

/// Who is to be given something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recipient {
    /// A user.
    User(UserId),
    /// The user with this Discord account, who need not be known yet.
    Discord(DiscordUserId),
}

string_enum! {
    /// The status of an account.
    AccountStatus {
        /// Signed up; the email address is not verified yet.
        Pending => "PENDING",
        /// Can sign in.
        Active => "ACTIVE",
        /// Cannot sign in for now.
        Suspended => "SUSPENDED",
        /// Cannot sign in.
        Banned => "BANNED",
    }

    /// The roles of users in this installation, from lowest to highest.
    Role {
        /// Manages their own account.
        User => "USER",
        /// Same rights as USER; free for the operator to use.
        Premium => "PREMIUM",
        /// Sees users and their sessions.
        Moderator => "MODERATOR",
        /// Suspends and bans users, ends sessions, replays deliveries.
        Admin => "ADMIN",
        /// Assigns and removes roles.
        SuperAdmin => "SUPER_ADMIN",
    }

    /// The languages of emails (ISO 639-1).
    Locale {
        En => "en",
        Es => "es",
    }

    /// An identity provider.
    Provider {
        Discord => "discord",
        Google => "google",
    }

    /// How a session was opened.
    SignInMethod {
        Password => "password",
        Discord => "discord",
        Google => "google",
    }
}

impl From<Provider> for SignInMethod {
    fn from(provider: Provider) -> Self {
        match provider {
            Provider::Discord => Self::Discord,
            Provider::Google => Self::Google,
        }
    }
}
