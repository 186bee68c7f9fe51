//! `dca-auth migrate`.

use anyhow::Result;
use clap::Subcommand;
use dca_migration::{Migrator, MigratorTrait};
use serde_json::json;

use super::output::Output;
use crate::{app, config::Config};

#[derive(Debug, Subcommand)]
pub(super) enum Migrate {
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

pub(super) async fn run(config: &Config, command: &Migrate) -> Result<Output> {
    match command {
        Migrate::Up => app::create_files(config)?,
        Migrate::Down { .. } | Migrate::Status => app::require_database(config)?,
    }
    let db = app::open_database(config).await?;
    match command {
        Migrate::Up => app::migrate(&db).await?,
        Migrate::Down { .. } => Migrator::down(db.pool(), Some(1)).await?,
        Migrate::Status => {}
    }
    let pending = Migrator::get_pending_migrations_read_only(db.pool()).await?;
    let rows: Vec<_> = Migrator::get_migration_files()
        .iter()
        .map(|migration| {
            let is_applied = pending.iter().all(|other| other.name() != migration.name());
            json!({ "name": migration.name(), "isApplied": is_applied })
        })
        .collect();
    let line = |row: &serde_json::Value| {
        let state = if row["isApplied"] == true { "applied" } else { "pending" };
        format!("{state} {}", row["name"].as_str().unwrap_or_default())
    };
    let text: Vec<String> = rows.iter().map(line).collect();
    Ok(Output::new(rows.into(), text.join("\n")))
}
