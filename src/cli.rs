//! The command line. Exit codes: 0 done, 1 failed, 2 wrong usage, 78 wrong configuration.

use std::{collections::BTreeMap, process::ExitCode};

use anyhow::{Context, Result, bail};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64_URL};
use clap::{Args, Parser, Subcommand, ValueEnum};
use dca_core::{
    Caller, Clock, Ids, Snowflake, accounts::admin, api_keys, crypto::api_key::ApiKeyKind, entitlements, guilds,
    ids::TenantId, licenses, products, tenants,
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
    /// Bring the database schema up to date, look at it, or take it back
    Migrate {
        #[command(subcommand)]
        to: Migrate,
    },
    /// Fill an empty installation with something to try
    Seed {
        #[command(subcommand)]
        what: Seed,
    },
    /// Look at everything that must be right, and say how to mend what is not
    Doctor {
        /// One JSON array instead of lines
        #[arg(long)]
        json: bool,
    },
    /// License keys
    Key {
        #[command(subcommand)]
        what: Key,
        #[command(flatten)]
        tenant_arg: TenantArg,
    },
    /// API keys, with which apps validate
    Apikey {
        #[command(subcommand)]
        what: Apikey,
        #[command(flatten)]
        tenant_arg: TenantArg,
    },
    /// People who look after this installation
    Admin {
        #[command(subcommand)]
        what: AdminCommand,
    },
    /// Print the description of the HTTP API
    Openapi,
}

#[derive(Args, Debug, Default)]
struct Serve {
    /// Run only these parts; the others run elsewhere
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
}

#[derive(Debug, Subcommand)]
enum Migrate {
    /// Apply what is missing
    Up,
    /// Show what is applied
    Status,
    /// Take the last migration back, with all of its data
    Down {
        /// Yes, the data too; stop every running service first
        #[arg(long, required = true)]
        yes: bool,
    },
}

#[derive(Debug, Subcommand)]
enum Seed {
    /// A product, a license, and an API key to validate it with
    Demo,
}

#[derive(Args, Debug)]
struct TenantArg {
    /// The seller: a tenant's id or a Discord server's id; needed when there are several
    #[arg(long, global = true)]
    tenant: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Key {
    /// Make a license and print its key
    Issue {
        /// The product's name or id
        #[arg(long)]
        product: String,
        /// The Discord user it belongs to; without one it is nobody's yet
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..=i64::MAX.cast_unsigned()))]
        member: Option<u64>,
    },
    /// End a license now
    Revoke {
        /// Its id or its key
        license: String,
        /// Why, for the log
        #[arg(long, default_value = "operator_decision")]
        reason: String,
    },
    /// Show a license
    Inspect {
        /// Its id or its key
        license: String,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum KeyKind {
    /// Stays on servers
    Secret,
    /// Ships inside apps
    Publishable,
}

#[derive(Debug, Subcommand)]
enum Apikey {
    /// Make an API key and print it, this once
    Create {
        /// A product it may ask about, by name or id; repeatable
        #[arg(long, required = true)]
        product: Vec<String>,
        /// What it is for
        #[arg(long, default_value = "command line")]
        name: String,
        /// Where it will live
        #[arg(long, value_enum, default_value = "secret")]
        kind: KeyKind,
    },
    /// End an API key now
    Revoke {
        /// Its id
        id: Uuid,
    },
}

#[derive(Debug, Subcommand)]
enum AdminCommand {
    /// Make a SUPER_ADMIN account, or make one of the account with this address, and print a new password
    Create {
        /// Their e-mail address
        #[arg(long)]
        email: String,
        /// What to call them
        #[arg(long)]
        name: Option<String>,
        /// Read the password from standard input instead of making one
        #[arg(long)]
        password_stdin: bool,
    },
}

/// Wrong configuration (`EX_CONFIG` of sysexits).
const WRONG_CONFIG: u8 = 78;

/// Does what the command line says and answers with its exit code.
///
/// # Panics
/// When the operating system gives no threads.
#[must_use]
pub fn run(cli: Cli, env: BTreeMap<String, String>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("threads");
    match runtime.block_on(execute(cli.command.unwrap_or(Command::Serve(Serve::default())), env)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("dca-auth: {error:#}");
            ExitCode::from(if error.is::<Faults>() { WRONG_CONFIG } else { 1 })
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
        Command::Serve(serve_with) => serve(config, &serve_with.only).await?,
        Command::Migrate { to } => migrate(&config, &to).await?,
        Command::Seed { what: Seed::Demo } => seed_demo(&build(config).await?).await?,
        Command::Doctor { json } => return diagnose(config, json).await,
        Command::Key { what, tenant_arg } => key(&build(config).await?, what, &tenant_arg).await?,
        Command::Apikey { what, tenant_arg } => apikey(&build(config).await?, what, &tenant_arg).await?,
        Command::Admin { what } => admin(&build(config).await?, what).await?,
        Command::Openapi => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// The process without any running part: for commands that call core and end.
async fn build(config: Config) -> Result<App> {
    let metrics = telemetry::recorder()?.handle();
    App::build(config, &[], Inputs { clock: Clock::system(), ids: Ids::system(), metrics }).await
}

async fn serve(config: Config, only: &[Part]) -> Result<()> {
    telemetry::log(&config);
    let recorder = telemetry::recorder()?;
    let metrics = recorder.handle();
    metrics::set_global_recorder(recorder).context("metrics")?;
    let all = [Part::Api, Part::Bot, Part::Workers];
    let parts = if only.is_empty() { &all[..] } else { only };
    let inputs = Inputs { clock: Clock::system(), ids: Ids::system(), metrics };
    let app = App::build(config, parts, inputs).await?;
    // Before anything is served: from the first request on, a signal ends in order.
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let running = app.start().await?;
    tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
    tracing::info!("stopping; a second signal ends at once");
    tokio::select! {
        stopped = running.stop() => stopped,
        _ = terminate.recv() => bail!("ended by a second signal"),
        _ = interrupt.recv() => bail!("ended by a second signal"),
    }
}

async fn migrate(config: &Config, to: &Migrate) -> Result<()> {
    let db = app::open_database(config).await?;
    match to {
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

async fn diagnose(config: Config, as_json: bool) -> Result<ExitCode> {
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
            let mark = match finding.outcome {
                doctor::Outcome::Ok => "ok  ",
                doctor::Outcome::Off => "off ",
                doctor::Outcome::Fail => "FAIL",
            };
            let fix = finding.fix.as_ref().map_or_else(String::new, |fix| format!("\n       → {fix}"));
            println!("{mark} {}: {}{fix}", finding.check, finding.detail);
        }
    }
    let well = findings.iter().all(|finding| finding.outcome != doctor::Outcome::Fail);
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The operator, for the tenant that was named, or the only one there is.
async fn operator(app: &App, tenant_arg: &TenantArg) -> Result<Caller> {
    let all = tenants::list(&app.core).await?;
    let id = match &tenant_arg.tenant {
        Some(name) => named(app, name, &all).await?,
        None => match all.as_slice() {
            [(only, _)] => *only,
            [] => bail!("there is no tenant yet: invite the bot, or run dca-auth seed demo"),
            several => {
                let names: Vec<_> = several.iter().map(|(id, name)| format!("  {id}  {name}")).collect();
                bail!("there are several tenants; name one with --tenant:\n{}", names.join("\n"))
            }
        },
    };
    Ok(Caller::operator(id))
}

async fn named(app: &App, name: &str, all: &[(TenantId, String)]) -> Result<TenantId> {
    if let Some((id, _)) = all.iter().find(|(id, known)| id.to_string() == name || known == name) {
        return Ok(*id);
    }
    let guild = match name.parse::<u64>() {
        Ok(id) => guilds::find(&app.core, id.into()).await?,
        Err(_) => None,
    };
    guild.map(|guild| guild.tenant_id).with_context(|| format!("there is no tenant {name:?}"))
}

async fn key(app: &App, what: Key, tenant_arg: &TenantArg) -> Result<()> {
    let (core, caller) = (&app.core, operator(app, tenant_arg).await?);
    match what {
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
            let facts = json!({
                "id": license.id, "keyHint": license.key_hint, "state": state,
                "productId": license.product_id, "policyId": license.policy_id, "userId": license.user_id,
                "createdAt": license.created_at, "assignedAt": license.assigned_at, "activatedAt": license.activated_at,
                "expiresAt": license.expires_at, "revokedAt": license.revoked_at, "revokeReason": license.revoke_reason,
            });
            println!("{}", serde_json::to_string_pretty(&facts)?);
        }
    }
    Ok(())
}

async fn grant(app: &App, caller: &Caller, product: &products::Product, member: Snowflake) -> Result<String> {
    let id = entitlements::grant(&app.core, caller, product.id, member).await?;
    let held = licenses::list_usable(&app.core, &caller.scope, member).await?;
    held.into_iter().find(|held| held.id == id).map(|held| held.key).context("the license ended at once")
}

async fn admin(app: &App, what: AdminCommand) -> Result<()> {
    let AdminCommand::Create { email, name, password_stdin } = what;
    let made = BASE64_URL.encode(app.core.ids.bytes::<18>());
    let given = password_stdin.then(|| std::io::read_to_string(std::io::stdin())).transpose()?;
    let password = given.as_deref().map_or(made.as_str(), |text| text.trim_end_matches(['\n', '\r']));
    let (id, is_new) = admin::create_admin(&app.core, &email, name.as_deref(), password).await?;
    let how = if is_new { "made" } else { "was there; its password is new" };
    println!("{id}  {email}  SUPER_ADMIN, {how}");
    if given.is_none() {
        println!("password, shown this once: {made}");
    }
    Ok(())
}

async fn apikey(app: &App, what: Apikey, tenant_arg: &TenantArg) -> Result<()> {
    let (core, caller) = (&app.core, operator(app, tenant_arg).await?);
    match what {
        Apikey::Create { product, name, kind } => {
            let mut bound = Vec::new();
            for name in product {
                bound.push(products::get(core, &caller.scope, &name).await?.id);
            }
            let kind = match kind {
                KeyKind::Secret => ApiKeyKind::Secret,
                KeyKind::Publishable => ApiKeyKind::Publishable,
            };
            let (row, text) = api_keys::create(core, &caller, &name, kind, &bound).await?;
            eprintln!("id {}; the key is shown this once:", row.id);
            println!("{}", text.expose());
        }
        Apikey::Revoke { id } => println!("revoked {}", api_keys::revoke(core, &caller.scope, id).await?),
    }
    Ok(())
}

/// The Discord account of the demo's member; nobody's real one.
const DEMO_MEMBER: u64 = 1;

async fn seed_demo(app: &App) -> Result<()> {
    let core = &app.core;
    let known = tenants::list(core).await?.into_iter().find(|(_, name)| name == "Demo");
    let tenant = match known {
        Some((id, _)) => id,
        None => tenants::create(core, "Demo").await?,
    };
    let caller = Caller::operator(tenant);
    let product = products::define(core, &caller, "Demo Tools", Some("DEMO"), &products::Terms::default()).await?;
    let held = licenses::list_usable(core, &caller.scope, DEMO_MEMBER.into()).await?;
    let license = match held.into_iter().next() {
        Some(held) => held.key,
        None => grant(app, &caller, &product, DEMO_MEMBER.into()).await?,
    };
    let (_, api_key) = api_keys::create(core, &caller, "demo", ApiKeyKind::Secret, &[product.id]).await?;
    println!("license key: {license}\nAPI key:     {}\n\nWith `dca-auth serve` running:\n", api_key.expose());
    println!(
        "curl {}/licenses/validate -H 'X-API-Key: {}' -H 'Content-Type: application/json' -d '{{\"licenseKey\":\"{license}\"}}'",
        app.config.public_url,
        api_key.expose()
    );
    Ok(())
}
