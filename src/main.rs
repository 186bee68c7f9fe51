//! The `dca-auth` binary: passes the arguments and the environment to the library.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    dca_auth::cli::run(dca_auth::cli::Cli::parse(), dca_auth::config::env_map())
}
