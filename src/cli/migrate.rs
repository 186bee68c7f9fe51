//! `dca-auth migrate`.

use anyhow::Result;
use clap::Subcommand;
use dca_migration::{Migrator, MigratorTrait};

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

pub(super) async fn run(config: &Config, command: &Migrate) -> Result<()> {
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
