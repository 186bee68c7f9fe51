//! The HTTP API, the command line, outbound connections and background workers, and the code that connects them.
//!
//! `main` reads the environment, [`config`] parses it, [`app`] builds what a process uses, and [`process`] runs its parts.
//! Tests do the same with their own settings and clock.

pub mod app;
pub mod cli;
pub mod config;
mod doctor;
pub mod http;
mod instance;
mod master_key;
mod outbound;
pub mod process;
pub mod telemetry;
mod tls_roots;
mod wording;
pub mod workers;

pub use app::App;
pub use config::Config;

/// The version with the commit, if it is known.
pub const VERSION: &str = env!("BUILD_VERSION");
