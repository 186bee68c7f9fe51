//! Slash commands, gateway events, and licenses that follow roles.

mod commands;
mod gateway;
mod license_lifecycle;
