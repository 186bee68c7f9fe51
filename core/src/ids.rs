//! Typed ids, and the source of randomness they are generated from.

use std::sync::{Arc, Mutex, PoisonError};

use chrono::{DateTime, Utc};
use rand::{Rng, SeedableRng, TryRng, rngs::StdRng, rngs::SysRng};
use sea_orm::{DbErr, DeriveValueType, TryFromU64};
use serde::{Deserialize, Serialize};
use uuid::{Builder, Uuid};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, DeriveValueType, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        id! { $(#[$doc])* $name(Uuid) }

        impl TryFromU64 for $name {
            fn try_from_u64(n: u64) -> Result<Self, DbErr> {
                Uuid::try_from_u64(n).map(Self)
            }
        }
    )*};
}

ids! {
    /// A tenant: the owner of guilds, products and API keys.
    TenantId,
    /// A user, whether known from Discord or signed up here.
    UserId,
    /// A licensed product.
    ProductId,
    /// One version of a product's license terms.
    PolicyId,
    /// A mapping from a Discord role to a product.
    MappingId,
    /// A license. The id is public, unlike the license key.
    LicenseId,
    /// A device that a license is activated on.
    DeviceId,
    /// A floating session of a license.
    LeaseId,
    /// A ban of a user or a device.
    BanId,
    /// An API key. The id is public, unlike the key.
    ApiKeyId,
    /// A session: one sign-in of a user.
    SessionId,
    /// An instance of the service: what holds a lease.
    InstanceId,
}

impl TenantId {
    /// The owner of events that belong to no tenant, such as account events.
    pub const INSTALLATION: Self = Self(Uuid::nil());
}

macro_rules! discord_ids {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        id! { $(#[$doc])* #[doc = "\n\nA Discord snowflake, below 2^63."] $name(i64) }

        impl From<u64> for $name {
            fn from(id: u64) -> Self {
                Self(id.cast_signed())
            }
        }

        impl From<$name> for u64 {
            fn from(id: $name) -> Self {
                id.0.cast_unsigned()
            }
        }
    )*};
}

discord_ids! {
    /// A guild: what Discord shows as a server.
    GuildId,
    /// A role of a guild.
    RoleId,
    /// A channel of a guild.
    ChannelId,
    /// A Discord account.
    DiscordUserId,
}

/// Generates ids, keys and nonces, from the operating system or from a seed in tests.
#[derive(Clone, Debug)]
pub struct Ids {
    seeded: Option<Arc<Mutex<StdRng>>>,
    last: Arc<Mutex<Last>>,
}

/// What the next `UUIDv7` follows.
#[derive(Debug, Default)]
struct Last {
    /// The timestamp in milliseconds, and the 12-bit counter within it.
    at: (u64, u16),
    /// Randomness for further ids: asking the system for each costs more than the rest of it.
    random: Vec<u8>,
}

impl Last {
    fn take_random(&mut self) -> [u8; 10] {
        if self.random.is_empty() {
            self.random.extend(Ids::system().bytes::<1_000>());
        }
        let rest = self.random.len() - 10;
        let mut taken = [0; 10];
        taken.copy_from_slice(&self.random[rest..]);
        self.random.truncate(rest);
        taken
    }
}

impl Ids {
    /// Uses the operating system's CSPRNG.
    pub fn system() -> Self {
        Self { seeded: None, last: Arc::default() }
    }

    /// Produces a repeatable sequence, for tests.
    pub fn seeded(seed: u64) -> Self {
        Self { seeded: Some(Arc::new(Mutex::new(StdRng::seed_from_u64(seed)))), last: Arc::default() }
    }

    /// `N` random bytes.
    ///
    /// # Panics
    /// If the operating system provides no randomness.
    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        match &self.seeded {
            Some(seeded) => seeded.lock().unwrap_or_else(PoisonError::into_inner).fill_bytes(&mut bytes),
            None => SysRng.try_fill_bytes(&mut bytes).expect("operating system randomness"),
        }
        bytes
    }

    /// A `UUIDv7` (RFC 9562). Ids sort by `now`, and by order of generation within a millisecond.
    pub fn v7(&self, now: DateTime<Utc>) -> Uuid {
        let now = now.timestamp_millis().max(0).cast_unsigned();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.at = match last.at {
            (millis, 0xFFF) if millis >= now => (millis + 1, 0),
            (millis, count) if millis >= now && millis - now < 1_000 => (millis, count + 1),
            _ => (now, 0),
        };
        let (millis, count) = last.at;
        let mut tail = match &self.seeded {
            Some(_) => self.bytes::<10>(),
            None => last.take_random(),
        };
        tail[..2].copy_from_slice(&count.to_be_bytes());
        Builder::from_unix_timestamp_millis(millis, &tail).into_uuid()
    }

    /// A `UUIDv4` (RFC 9562): 122 random bits.
    pub fn v4(&self) -> Uuid {
        Builder::from_random_bytes(self.bytes()).into_uuid()
    }
}
