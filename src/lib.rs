//! The other doors (HTTP, CLI), outbound deliveries, workers, and the wiring of everything.
//!
//! `main` reads the environment, [`config`] types it, [`app::App`] builds and runs the process from
//! it; a test does the same with a map and its own clock.

pub mod app;
pub mod cli;
pub mod config;
pub mod doctor;
pub mod http;
pub mod outbound;
pub mod telemetry;
pub mod workers;

pub use app::App;
pub use config::Config;
