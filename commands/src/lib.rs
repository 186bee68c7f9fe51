//! Everything that talks to Discord: the gateway, REST calls, one file per slash command, and the bot's
//! texts. This crate contains no HTTP server and no SQL.
//!
//! ```text
//! gateway: events, in order -> UpdateBuffer -> dca_core::entitlements::observe
//! command: defer -> check permissions -> one call into core -> a text from `reply`
//! rest:    every outbound call to Discord
//! ```

pub mod gateway;
pub mod reply;
pub mod rest;

mod bot;
mod component;
mod connection;
mod context;
mod framework;
mod guild_pass;
mod known_roles;
mod rate_limits;
mod updates;

mod key;
mod license;
mod mapping;
mod setup;
mod sync;

pub use bot::{Bot, GatewayState, GatewayStatus};
pub use rest::DiscordClient;
pub use rest::PERMISSIONS;
