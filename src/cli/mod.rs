//! The command line, one file per command. Exit codes: 0 success, 1 failure, 2 invalid usage, 78 invalid configuration.

use std::{collections::BTreeMap, process::ExitCode};

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::config::{Config, Faults};
use crate::{app::App, http, wording};

mod admin;
mod apikey;
mod doctor;
mod key;
mod migrate;
mod seed;
mod serve;
mod tenant;

/// License keys for Discord communities: a bot and a license service in one process.
#[derive(Debug, Parser)]
#[command(version, about)]
pub struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the service (the default)
    Serve(serve::Serve),
    /// Apply, show or revert database migrations
    #[command(subcommand)]
    Migrate(migrate::Migrate),
    /// Add example data to try the service with
    #[command(subcommand)]
    Seed(seed::Seed),
    /// Check the configuration, database, Redis, email and Discord, and suggest fixes
    Doctor(doctor::Doctor),
    /// Issue, revoke and inspect license keys
    Key {
        #[command(subcommand)]
        command: key::Key,
        #[command(flatten)]
        tenant_arg: tenant::TenantArg,
    },
    /// Create and revoke the API keys that apps use to validate licenses
    Apikey {
        #[command(subcommand)]
        command: apikey::Apikey,
        #[command(flatten)]
        tenant_arg: tenant::TenantArg,
    },
    /// Manage administrator accounts
    #[command(subcommand)]
    Admin(admin::Admin),
    /// Print the OpenAPI document of the HTTP API
    Openapi,
}

/// Exit code for an invalid configuration (`EX_CONFIG` in `sysexits.h`).
const INVALID_CONFIG: u8 = 78;

/// Runs the command and returns its exit code.
///
/// # Panics
/// If the operating system cannot create threads.
pub fn run(cli: Cli, env: BTreeMap<String, String>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads");
    let ended = runtime.block_on(execute(cli.command.unwrap_or(Command::Serve(serve::Serve::default())), env));
    // Tasks that are cancelled now may still log; the reason for the exit is printed last.
    drop(runtime);
    match ended {
        Ok(code) => code,
        Err(error) => {
            eprintln!("dca-auth: {}", describe(&error));
            ExitCode::from(if error.is::<Faults>() { INVALID_CONFIG } else { 1 })
        }
    }
}

/// The message of an error; the sentence, if it is a refusal of core.
fn describe(error: &anyhow::Error) -> String {
    match error.downcast_ref::<dca_core::Error>() {
        Some(dca_core::Error::Refused(refusal)) => wording::refusal(&refusal.reason).into_owned(),
        _ => format!("{error:#}"),
    }
}

async fn execute(command: Command, env: BTreeMap<String, String>) -> Result<ExitCode> {
    if let Command::Openapi = command {
        println!("{}", http::openapi().to_pretty_json()?);
        return Ok(ExitCode::SUCCESS);
    }
    let config = Config::load(env)?;
    match command {
        Command::Serve(args) => serve::run(config, &args).await?,
        Command::Migrate(command) => migrate::run(&config, &command).await?,
        Command::Doctor(args) => return doctor::run(config, &args).await,
        Command::Seed(command) => seed::run(&App::build_for_command(config).await?, &command).await?,
        Command::Key { command, tenant_arg } => {
            key::run(&App::build_for_command(config).await?, command, &tenant_arg).await?;
        }
        Command::Apikey { command, tenant_arg } => {
            apikey::run(&App::build_for_command(config).await?, command, &tenant_arg).await?;
        }
        Command::Admin(command) => admin::run(&App::build_for_command(config).await?, command).await?,
        Command::Openapi => {}
    }
    Ok(ExitCode::SUCCESS)
}
