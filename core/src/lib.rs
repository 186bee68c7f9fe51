//! Everything the product knows, and nothing of HTTP, Discord, SMTP or Patreon's wire.
//!
//! The cast: an **Observation** is a fact someone saw; [`entitlements::observe`] records it if it is
//! newer, lets the pure `decide` answer with an **Action**, and [`licenses`] applies it, all in one
//! [`tx::Tx`] that also writes the **Events** (the one log) and the **Deliveries** (the outbox).
//! [`licenses::judge`] answers an app's question from a license's facts and the clock.
//! A **Refusal** ([`error`]) is a declined action; a verdict is never an error.
//!
//! Read in this order: `entitlements/mod`, `entitlements/decide`, `licenses/mod`, `licenses/state`,
//! `licenses/verdict`.

pub mod accounts;
pub mod api_keys;
pub mod bus;
pub mod clock;
mod core;
pub mod crypto;
pub mod entitlements;
pub mod error;
pub mod events;
pub mod guilds;
pub mod ids;
mod keyring;
pub mod licenses;
pub mod limiter;
pub mod log_channel;
pub mod mappings;
pub mod outbox;
pub mod products;
pub mod tenants;
mod throttles;
pub mod tx;
pub mod users;
pub mod workers;

mod entity;

pub use crate::{
    bus::Bus,
    clock::Clock,
    core::Core,
    error::{Code, Error, Refusal, Result},
    ids::{Ids, Snowflake},
    limiter::Limiter,
    tenants::{Caller, Scope},
    tx::Db,
};
