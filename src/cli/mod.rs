//! The command line, one file per command. Each returns an `Output`, which is printed in one place. Exit codes: 0
//! success, 1 failure, 2 invalid usage, 78 invalid configuration.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, anyhow};
use clap::{Args, CommandFactory, Parser, Subcommand};
use dca_core::{Reason, error::Refusal};
use serde_json::json;

use self::output::Output;
use crate::app::{self, App};
use crate::config::{Config, Faults};
use crate::{http, wording};

mod admin;
mod apikey;
mod backup;
mod doctor;
mod generate;
mod key;
mod keys;
mod migrate;
mod output;
mod product;
mod seed;
mod serve;
mod tenant;

/// License keys for Discord communities: a bot and a license service in one process.
#[derive(Debug, Parser)]
#[command(name = "dca-auth", version = crate::VERSION, about, after_help = "\
Examples:
  dca-auth                                       Run the service
  dca-auth --env-file .env doctor                Check an installation
  dca-auth apikey create --product Studio        Create an API key for your app
  dca-auth apikey list --json | jq -r '.[].id'   Use the output in scripts")]
pub struct Cli {
    #[command(flatten)]
    options: Options,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Args, Debug)]
struct Options {
    /// Print JSON, for programs; `serve` logs JSON
    #[arg(long, global = true)]
    json: bool,
    /// The folder with the database and the master key; overrides `DCA_DATA_DIR`
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<String>,
    /// Also read settings from this file of `NAME=value` lines; the environment takes precedence
    #[arg(long, global = true, value_name = "FILE")]
    env_file: Option<PathBuf>,
}

impl Options {
    /// The settings in the environment, the file and the arguments.
    fn settings(&self, mut env: BTreeMap<String, String>) -> Result<BTreeMap<String, String>> {
        if let Some(path) = &self.env_file {
            let text = fs::read_to_string(path);
            let text = text.with_context(|| format!("cannot read the settings file {}", path.display()))?;
            for entry in dotenvy::from_read_iter(text.as_bytes()) {
                // The parser's message is not used: it quotes the line, which may contain a secret.
                let (name, value) = entry.map_err(|error| {
                    let start = match &error {
                        dotenvy::Error::LineParse(line, _) => text.find(line.as_str()).unwrap_or_default(),
                        _ => 0,
                    };
                    let line = 1 + text[..start].matches('\n').count();
                    anyhow!("line {line} of {} is not NAME=value, for example DCA_LOG=info", path.display())
                })?;
                if env.get(&name).is_none_or(String::is_empty) {
                    env.insert(name, value);
                }
            }
        }
        env.extend(self.data_dir.clone().map(|dir| ("DCA_DATA_DIR".to_owned(), dir)));
        env.extend(self.json.then(|| ("DCA_LOG_FORMAT".to_owned(), "json".to_owned())));
        Ok(env)
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the service (the default)
    Serve(serve::Serve),
    /// Check the settings, database, Redis, email and Discord, and suggest fixes; changes nothing
    Doctor,
    /// Issue, revoke and inspect license keys
    #[command(after_help = key::EXAMPLES)]
    Key {
        #[command(subcommand)]
        command: key::Key,
        #[command(flatten)]
        tenant_arg: tenant::TenantArg,
    },
    /// Manage the API keys that apps use to validate licenses
    #[command(after_help = apikey::EXAMPLES)]
    Apikey {
        #[command(subcommand)]
        command: apikey::Apikey,
        #[command(flatten)]
        tenant_arg: tenant::TenantArg,
    },
    /// Create, change and show products
    #[command(after_help = product::EXAMPLES)]
    Product {
        #[command(subcommand)]
        command: product::Product,
        #[command(flatten)]
        tenant_arg: tenant::TenantArg,
    },
    /// Show tenants: the owners of products, one for each Discord server
    #[command(subcommand)]
    Tenant(tenant::Tenant),
    /// Manage administrator accounts
    #[command(subcommand, after_help = admin::EXAMPLES)]
    Admin(admin::Admin),
    /// Rotate the keys that encrypt and sign, and the master key
    #[command(subcommand, after_help = keys::EXAMPLES)]
    Keys(keys::Keys),
    /// Copy the `SQLite` database and its master key to a new folder, also while the service runs
    Backup(backup::Backup),
    /// Restore a backup; stop the service first
    Restore(backup::Restore),
    /// Apply, show or revert database migrations
    #[command(subcommand)]
    Migrate(migrate::Migrate),
    /// Add example data to try the service with
    #[command(subcommand)]
    Seed(seed::Seed),
    /// Print the OpenAPI document of the HTTP API
    Openapi,
    /// Print a script that completes commands in your shell
    #[command(after_help = generate::COMPLETION_EXAMPLES)]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write a page for each command to a folder
    Man {
        /// An existing folder, for example /usr/local/share/man/man1
        dir: Option<PathBuf>,
    },
}

/// Exit code for an invalid configuration (`EX_CONFIG` in `sysexits.h`).
const INVALID_CONFIG: u8 = 78;

/// Runs the command and returns its exit code.
///
/// # Panics
/// If the operating system cannot create threads.
pub fn run(cli: Cli, env: BTreeMap<String, String>) -> ExitCode {
    let as_json = cli.options.json;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads");
    let ended = runtime.block_on(execute(cli, env));
    // Tasks that are cancelled now may still log; the reason for the exit is printed last.
    drop(runtime);
    ended.and_then(|output| output.print(as_json)).unwrap_or_else(|error| {
        let message = describe(&error);
        let message = if as_json { json!({ "error": message }).to_string() } else { format!("dca-auth: {message}") };
        _ = writeln!(io::stderr(), "{message}");
        ExitCode::from(if error.is::<Faults>() { INVALID_CONFIG } else { 1 })
    })
}

/// The message of an error; the sentence, if it is a refusal of core.
fn describe(error: &anyhow::Error) -> String {
    match error.downcast_ref::<dca_core::Error>() {
        // The sentence for HTTP is the one that clients of an earlier system expect.
        Some(dca_core::Error::Refused(Refusal { reason: Reason::InvalidEmail, .. })) => {
            "email must be an email address, for example ana@example.com".to_owned()
        }
        Some(dca_core::Error::Refused(refusal)) => wording::refusal(&refusal.reason).into_owned(),
        _ if app::is_disk_full(error) => format!(
            "the disk is full, so nothing can be written. Free some space or enlarge it, then try again ({})",
            error.root_cause()
        ),
        _ => format!("{error:#}"),
    }
}

async fn execute(cli: Cli, env: BTreeMap<String, String>) -> Result<Output> {
    let config = || -> Result<Config> { Ok(Config::load(cli.options.settings(env.clone())?)?) };
    let create = async || App::build_for_command(config()?).await;
    let existing = async || {
        app::require_data(&config()?).await?;
        create().await
    };
    match cli.command.unwrap_or(Command::Serve(serve::Serve::default())) {
        Command::Serve(args) => Box::pin(serve::run(config()?, &args)).await,
        Command::Doctor => doctor::run(config()?).await,
        Command::Key { command, tenant_arg } => key::run(&existing().await?, command, &tenant_arg).await,
        Command::Apikey { command, tenant_arg } => apikey::run(&existing().await?, command, &tenant_arg).await,
        Command::Product { command, tenant_arg } => product::run(&existing().await?, command, &tenant_arg).await,
        Command::Tenant(command) => tenant::run(&existing().await?, &command).await,
        Command::Admin(command) => admin::run(&create().await?, command).await,
        Command::Keys(command) => keys::run(&existing().await?, &command).await,
        Command::Backup(args) => backup::backup(&config()?, &args).await,
        Command::Restore(args) => backup::restore(&config()?, &args).await,
        Command::Migrate(command) => migrate::run(&config()?, &command).await,
        Command::Seed(command) => seed::run(&create().await?, &command).await,
        Command::Openapi => Ok(Output::text(http::openapi().to_pretty_json()?)),
        Command::Completions { shell } => generate::completions(shell, Cli::command()),
        Command::Man { dir } => generate::man(dir.as_deref(), Cli::command()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after_helps(command: &clap::Command) -> Vec<String> {
        let own = command.get_after_help().map(ToString::to_string);
        own.into_iter().chain(command.get_subcommands().flat_map(after_helps)).collect()
    }

    #[test]
    fn a_full_disk_is_named_whatever_was_tried() {
        let error = anyhow::Error::new(io::Error::from(io::ErrorKind::StorageFull));
        let message = describe(&error.context("cannot migrate the database"));
        assert!(message.starts_with("the disk is full, so nothing can be written. Free some space"), "{message}");
        assert!(!message.contains("migrate"), "{message}");
    }

    #[test]
    fn every_example_of_the_help_is_a_valid_command() {
        let helps = after_helps(&Cli::command()).join("\n").replace("$(date +%F)", "today");
        let examples: Vec<_> = helps.lines().filter_map(|line| Some(&line[line.find("dca-auth ")?..])).collect();
        assert!(examples.len() > 15, "{examples:?}");
        for example in examples {
            let command = example.split("   ").next().unwrap_or_default().split(['|', '<', '>']).next();
            let parsed = Cli::try_parse_from(command.unwrap_or_default().split_whitespace());
            assert!(parsed.is_ok(), "{example}: {parsed:?}");
        }
    }
}
