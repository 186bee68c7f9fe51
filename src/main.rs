//! The process. Everything it can do is in the library; this reads the environment and nothing else.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    dca_auth::cli::run(dca_auth::cli::Cli::parse(), dca_auth::config::env_map())
}
