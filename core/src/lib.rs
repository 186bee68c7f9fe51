//! The domain: accounts, entitlements and licenses, independent of HTTP, Discord, SMTP and Patreon.
//!
//! An **Observation** is a fact reported by a source. [`entitlements::observe`] records it if it is newer
//! than what is stored, a pure function takes the **Decision**, and [`licenses`] applies the **Action** that
//! follows. All of
//! this happens in one [`tx::Tx`], which also writes the **Events** (the event log) and the **Deliveries**
//! (the outbox). [`licenses::judge`] computes a **Verdict** from a license and the current time.
//! A **Refusal** ([`error`]) is a declined action; a verdict is never an error.
//!
//! Suggested reading order: `entitlements/mod`, `entitlements/decide`, `licenses/mod`, `licenses/state`,
//! `licenses/verdict`.

pub mod accounts;
pub mod api_key_scopes;
pub mod api_keys;
pub mod bans;
pub mod bus;
pub mod cache;
mod caller;
pub mod changes;
pub mod cleanup;
pub mod clock;
mod connection;
mod core;
pub mod crypto;
pub mod db;
pub mod entitlements;
pub mod error;
pub mod events;
pub mod field;
pub mod fingerprint;
pub mod guilds;
pub mod health;
pub mod idempotency;
pub mod identifies;
pub mod ids;
pub mod interner;
pub mod key_list;
pub mod key_rotation;
pub mod keyring;
pub mod licenses;
pub mod limiter;
pub mod log_channel;
pub mod log_limit;
pub mod mappings;
mod merge_patch;
pub mod outbox;
pub mod page;
mod plain_text;
pub mod policy;
pub mod precondition;
pub mod products;
mod string_enum;
pub mod tenants;
mod throttles;
pub mod tx;
pub mod users;
pub mod workers;
pub mod write_behind;

mod entity;

pub use crate::caller::{Access, AppCaller, Caller, CoveredProduct, Scope};
pub use crate::error::{Code, Error, Reason, Refusal, Result};
pub use crate::ids::{ChannelId, DiscordUserId, GuildId, Ids, RoleId};
pub use crate::{
    bus::Bus,
    clock::Clock,
    core::{Core, Settings},
    db::Db,
    limiter::Limiter,
};
