//! The database schema, for both `SQLite` and Postgres.
//!
//! Rules: released migrations are only added to. Columns have no defaults and do not use the SQL clock: the
//! application binds every value, so that tests control time. Uniqueness is enforced by an index.

use sea_orm_migration::sea_orm::TransactionTrait;
use sea_orm_migration::sea_orm::{DatabaseConnection, DbBackend, SqliteTransactionMode, TransactionOptions};

mod m0001_licensing;
mod m0002_accounts;
mod m0003_key_lists;
mod m0004_idempotency;

pub use sea_orm_migration::prelude::*;

/// The key of the Postgres advisory lock for migrations.
const LOCK: i64 = 0x6463_615f_6175_7468;

/// Applies all pending migrations in one transaction. Instances that start at the same time wait for each
/// other; the first one migrates.
///
/// # Errors
/// If a migration fails.
pub async fn up(db: &DatabaseConnection) -> Result<(), DbErr> {
    let mode = Some(SqliteTransactionMode::Immediate);
    let options = TransactionOptions { sqlite_transaction_mode: mode, ..TransactionOptions::default() };
    let tx = db.begin_with_options(options).await?;
    if tx.get_database_backend() == DbBackend::Postgres {
        // A migration may take longer than the limits of ordinary sessions, and so may waiting for another instance's.
        let no_limits = ["statement_timeout", "lock_timeout"].map(|name| format!("SET LOCAL {name} = 0;")).concat();
        tx.execute_unprepared(&format!("{no_limits} SELECT pg_advisory_xact_lock({LOCK})")).await?;
    }
    Migrator::up(&tx, None).await?;
    tx.commit().await
}

/// The list of migrations, in order.
#[derive(Debug)]
pub struct Migrator;

impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m0001_licensing::Migration),
            Box::new(m0002_accounts::Migration),
            Box::new(m0003_key_lists::Migration),
            Box::new(m0004_idempotency::Migration),
        ]
    }
}
