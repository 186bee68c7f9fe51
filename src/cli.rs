//! The command line. Exit codes: 0 success, 1 failure, 2 invalid usage, 78 invalid configuration.

use std::{collections::BTreeMap, process::ExitCode};

use anyhow::{Context, Result, bail};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64_URL};
use clap::{Args, Parser, Subcommand, ValueEnum};
use dca_core::{
    Caller, Snowflake, accounts::admin, api_keys, crypto::api_key::ApiKeyKind, entitlements, guilds, ids::TenantId,
    licenses, products, tenants,
};
use dca_migration::{Migrator, MigratorTrait};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use uuid::Uuid;

use crate::{
    App, Config,
    app::{self, Inputs, Part},
    config::Faults,
    doctor, http, telemetry,
};

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
    Serve(Serve),
    /// Apply, show or revert database migrations
    Migrate {
        #[command(subcommand)]
        command: Migrate,
    },
    /// Add example data to try the service with
    Seed {
        #[command(subcommand)]
        command: Seed,
    },
    /// Check the configuration, database, Redis, email and Discord, and suggest fixes
    Doctor {
        /// Print a JSON array instead of text
        #[arg(long)]
        json: bool,
    },
    /// Issue, revoke and inspect license keys
    Key {
        #[command(subcommand)]
        command: Key,
        #[command(flatten)]
        tenant_arg: TenantArg,
    },
    /// Create and revoke the API keys that apps use to validate licenses
    Apikey {
        #[command(subcommand)]
        command: Apikey,
        #[command(flatten)]
        tenant_arg: TenantArg,
    },
    /// Manage administrator accounts
    Admin {
        #[command(subcommand)]
        command: AdminCommand,
    },
    /// Print the OpenAPI document of the HTTP API
    Openapi,
}

#[derive(Args, Debug, Default)]
struct Serve {
    /// Run only these parts, for example `--only api,workers`
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
}

#[derive(Debug, Subcommand)]
enum Migrate {
    /// Apply pending migrations
    Up,
    /// Show which migrations are applied
    Status,
    /// Revert the last migration and delete its data
    Down {
        /// Confirm the deletion; stop every running instance first
        #[arg(long, required = true)]
        yes: bool,
    },
}

#[derive(Debug, Subcommand)]
enum Seed {
    /// Create a product, a license, and an API key to validate it with
    Demo,
}

#[derive(Args, Debug)]
struct TenantArg {
    /// The tenant's name or ID, or a Discord server ID; required if there is more than one tenant
    #[arg(long, global = true)]
    tenant: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Key {
    /// Create a license and print its key
    Issue {
        /// The product's name or ID
        #[arg(long)]
        product: String,
        /// The ID of the Discord user to assign it to; without it, the key is not assigned
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..=i64::MAX.cast_unsigned()))]
        member: Option<u64>,
    },
    /// Revoke a license immediately
    Revoke {
        /// The license ID or key
        license: String,
        /// The reason, for the audit log
        #[arg(long, default_value = "operator_decision")]
        reason: String,
    },
    /// Show a license as JSON
    Inspect {
        /// The license ID or key
        license: String,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum KeyKind {
    /// For servers; must be kept secret
    Secret,
    /// May be shipped inside apps
    Publishable,
}

#[derive(Debug, Subcommand)]
enum Apikey {
    /// Create an API key and print it; it is not shown again
    Create {
        /// The name or ID of a product whose licenses it can validate; may be repeated
        #[arg(long, required = true)]
        product: Vec<String>,
        /// A label for the key
        #[arg(long, default_value = "command line")]
        name: String,
        /// Where the key is used
        #[arg(long, value_enum, default_value = "secret")]
        kind: KeyKind,
    },
    /// Revoke an API key immediately
    Revoke {
        /// The API key's ID
        id: Uuid,
    },
}

#[derive(Debug, Subcommand)]
enum AdminCommand {
    /// Create a SUPER_ADMIN account, or promote the account with this email, and set a new password
    Create {
        /// The email address
        #[arg(long)]
        email: String,
        /// The display name
        #[arg(long)]
        name: Option<String>,
        /// Read the password from standard input instead of generating one
        #[arg(long)]
        password_stdin: bool,
    },
}

/// Exit code for an invalid configuration (`EX_CONFIG` in `sysexits.h`).
const INVALID_CONFIG: u8 = 78;

/// Runs the command and returns its exit code.
///
/// # Panics
/// If the operating system cannot create threads.
#[must_use]
pub fn run(cli: Cli, env: BTreeMap<String, String>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads");
    match runtime.block_on(execute(cli.command.unwrap_or(Command::Serve(Serve::default())), env)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("dca-auth: {error:#}");
            ExitCode::from(if error.is::<Faults>() { INVALID_CONFIG } else { 1 })
        }
    }
}

async fn execute(command: Command, env: BTreeMap<String, String>) -> Result<ExitCode> {
    if let Command::Openapi = command {
        println!("{}", http::openapi().to_pretty_json()?);
        return Ok(ExitCode::SUCCESS);
    }
    let config = Config::load(env)?;
    match command {
        Command::Serve(args) => serve(config, &args.only).await?,
        Command::Migrate { command } => migrate(&config, &command).await?,
        Command::Seed { command: Seed::Demo } => seed_demo(&build(config).await?).await?,
        Command::Doctor { json } => return run_doctor(config, json).await,
        Command::Key { command, tenant_arg } => key(&build(config).await?, command, &tenant_arg).await?,
        Command::Apikey { command, tenant_arg } => apikey(&build(config).await?, command, &tenant_arg).await?,
        Command::Admin { command } => admin(&build(config).await?, command).await?,
        Command::Openapi => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// Builds the process without starting any part, for commands that only call core.
async fn build(config: Config) -> Result<App> {
    let metrics = telemetry::recorder()?.handle();
    App::build(config, &[], Inputs::system(metrics)).await
}

async fn serve(config: Config, only: &[Part]) -> Result<()> {
    telemetry::log(&config);
    let recorder = telemetry::recorder()?;
    let metrics = recorder.handle();
    metrics::set_global_recorder(recorder).context("metrics")?;
    let all = [Part::Api, Part::Bot, Part::Workers];
    let parts = if only.is_empty() { &all[..] } else { only };
    let app = App::build(config, parts, Inputs::system(metrics)).await?;
    // Before the first request, so that a signal always shuts down in order.
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut running = app.start().await?;
    let ended = tokio::select! {
        failure = running.failure() => Err(failure),
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    tracing::info!("shutting down; send a second signal to stop immediately");
    tokio::select! {
        stopped = running.stop() => ended.and(stopped),
        _ = terminate.recv() => bail!("stopped by a second signal"),
        _ = interrupt.recv() => bail!("stopped by a second signal"),
    }
}

async fn migrate(config: &Config, command: &Migrate) -> Result<()> {
    let db = app::open_database(config).await?;
    match command {
        Migrate::Up => app::migrate(&db).await?,
        Migrate::Down { .. } => Migrator::down(db.writer(), Some(1)).await?,
        Migrate::Status => {}
    }
    let pending = Migrator::get_pending_migrations(db.writer()).await?;
    for migration in Migrator::get_migration_files() {
        let applied = pending.iter().all(|other| other.name() != migration.name());
        println!("{} {}", if applied { "applied" } else { "pending" }, migration.name());
    }
    Ok(())
}

async fn run_doctor(config: Config, as_json: bool) -> Result<ExitCode> {
    let mut findings = doctor::check_database(&config).await;
    if findings.iter().all(|finding| finding.outcome != doctor::Outcome::Fail) {
        match build(config).await {
            Ok(app) => findings.extend(doctor::check_app(&app).await),
            Err(error) => findings.push(doctor::startup_failure(&error)),
        }
    }
    if as_json {
        println!("{}", serde_json::to_string_pretty(&findings)?);
    } else {
        for finding in &findings {
            let label = match finding.outcome {
                doctor::Outcome::Ok => "ok  ",
                doctor::Outcome::Off => "off ",
                doctor::Outcome::Fail => "FAIL",
            };
            let fix = finding.fix.as_ref().map_or_else(String::new, |fix| format!("\n       → {fix}"));
            println!("{label} {}: {}{fix}", finding.check, finding.detail);
        }
    }
    let is_healthy = findings.iter().all(|finding| finding.outcome != doctor::Outcome::Fail);
    Ok(if is_healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Returns the operator as a caller for the given tenant, or for the only one.
async fn operator(app: &App, tenant_arg: &TenantArg) -> Result<Caller> {
    let all = tenants::list(&app.core).await?;
    let id = match &tenant_arg.tenant {
        Some(name) => find_tenant(app, name, &all).await?,
        None => match all.as_slice() {
            [(only, _)] => *only,
            [] => bail!("No tenant yet. Invite the bot to a server, or run `dca-auth seed demo`."),
            several => {
                let names: Vec<_> = several.iter().map(|(id, name)| format!("  {id}  {name}")).collect();
                bail!("There are several tenants. Choose one with --tenant:\n{}", names.join("\n"))
            }
        },
    };
    Ok(Caller::operator(id))
}

async fn find_tenant(app: &App, name: &str, all: &[(TenantId, String)]) -> Result<TenantId> {
    if let Some((id, _)) = all.iter().find(|(id, known)| id.to_string() == name || known == name) {
        return Ok(*id);
    }
    let guild = match name.parse::<u64>() {
        Ok(id) => guilds::find(&app.core, id.into()).await?,
        Err(_) => None,
    };
    guild
        .map(|guild| guild.tenant_id)
        .with_context(|| format!("No tenant {name:?}. Use its name or ID, or a Discord server ID."))
}

async fn key(app: &App, command: Key, tenant_arg: &TenantArg) -> Result<()> {
    let (core, caller) = (&app.core, operator(app, tenant_arg).await?);
    match command {
        Key::Issue { product, member } => {
            let product = products::get(core, &caller.scope, &product).await?;
            let key = match member {
                Some(member) => grant(app, &caller, &product, member.into()).await?,
                None => licenses::generate(core, &caller, product.id).await?.1,
            };
            println!("{key}");
        }
        Key::Revoke { license, reason } => {
            let (license, _) = licenses::inspect(core, &caller.scope, &license).await?;
            let license = licenses::revoke(core, &caller, license.id, &reason).await?;
            println!("revoked {} ({})", license.key_hint, license.id);
        }
        Key::Inspect { license } => {
            let (license, state) = licenses::inspect(core, &caller.scope, &license).await?;
            let details = json!({
                "id": license.id, "keyHint": license.key_hint, "state": state,
                "productId": license.product_id, "policyId": license.policy_id, "userId": license.user_id,
                "createdAt": license.created_at, "assignedAt": license.assigned_at, "activatedAt": license.activated_at,
                "expiresAt": license.expires_at, "revokedAt": license.revoked_at, "revokeReason": license.revoke_reason,
            });
            println!("{}", serde_json::to_string_pretty(&details)?);
        }
    }
    Ok(())
}

async fn grant(app: &App, caller: &Caller, product: &products::Product, member: Snowflake) -> Result<String> {
    let id = entitlements::grant(&app.core, caller, product.id, member).await?;
    let licenses = licenses::list_usable(&app.core, &caller.scope, member).await?;
    let license = licenses.into_iter().find(|license| license.id == id);
    license.map(|license| license.key).context("the license was revoked before its key could be read")
}

async fn admin(app: &App, command: AdminCommand) -> Result<()> {
    let AdminCommand::Create { email, name, password_stdin } = command;
    let generated = BASE64_URL.encode(app.core.ids.bytes::<18>());
    let input = password_stdin.then(|| std::io::read_to_string(std::io::stdin())).transpose()?;
    let password = input.as_deref().map_or(generated.as_str(), |text| text.trim_end_matches(['\n', '\r']));
    let (id, is_new) = admin::create_admin(&app.core, &email, name.as_deref(), password).await?;
    let action = if is_new { "created" } else { "already existed; its password was changed" };
    println!("{id}  {email}  SUPER_ADMIN, {action}");
    if input.is_none() {
        println!("password, not shown again: {generated}");
    }
    Ok(())
}

async fn apikey(app: &App, command: Apikey, tenant_arg: &TenantArg) -> Result<()> {
    let (core, caller) = (&app.core, operator(app, tenant_arg).await?);
    match command {
        Apikey::Create { product, name, kind } => {
            let mut product_ids = Vec::new();
            for name in product {
                product_ids.push(products::get(core, &caller.scope, &name).await?.id);
            }
            let kind = match kind {
                KeyKind::Secret => ApiKeyKind::Secret,
                KeyKind::Publishable => ApiKeyKind::Publishable,
            };
            let (row, text) = api_keys::create(core, &caller, &name, kind, &product_ids).await?;
            eprintln!("id {}; save the key now, it is not shown again:", row.id);
            println!("{}", text.expose());
        }
        Apikey::Revoke { id } => println!("revoked {}", api_keys::revoke(core, &caller.scope, id).await?),
    }
    Ok(())
}

/// The Discord user id of the demo member; no real account has it.
const DEMO_MEMBER: u64 = 1;

async fn seed_demo(app: &App) -> Result<()> {
    let core = &app.core;
    let existing = tenants::list(core).await?.into_iter().find(|(_, name)| name == "Demo");
    let tenant = match existing {
        Some((id, _)) => id,
        None => tenants::create(core, "Demo").await?,
    };
    let caller = Caller::operator(tenant);
    let product =
        products::create_or_update(core, &caller, "Demo Tools", Some("DEMO"), &products::PolicyChanges::default())
            .await?;
    let licenses = licenses::list_usable(core, &caller.scope, DEMO_MEMBER.into()).await?;
    let license = match licenses.into_iter().next() {
        Some(license) => license.key,
        None => grant(app, &caller, &product, DEMO_MEMBER.into()).await?,
    };
    let (_, api_key) = api_keys::create(core, &caller, "demo", ApiKeyKind::Secret, &[product.id]).await?;
    println!(
        "license key: {license}\nAPI key:     {}\n\nWhile `dca-auth serve` is running, validate the license:\n",
        api_key.expose()
    );
    println!(
        "curl {}/licenses/validate -H 'X-API-Key: {}' -H 'Content-Type: application/json' -d '{{\"licenseKey\":\"{license}\"}}'",
        app.config.public_url,
        api_key.expose()
    );
    Ok(())
}
