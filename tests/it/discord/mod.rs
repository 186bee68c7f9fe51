//! Slash commands, gateway events, and licenses that follow roles.

mod commands;
mod connection;
mod gateway;
mod known_roles;
mod license_lifecycle;
mod rate_limits;
