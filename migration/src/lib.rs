//! The schema, for `SQLite` and Postgres from one source.
//!
//! AccountPolicy: additive once released; no column defaults and no SQL clock (the application binds every
//! value, so that tests own time); a uniqueness the product relies on is an index here, not a hope.

use sea_orm_migration::sea_orm::{
    DatabaseConnection, DbBackend, SqliteTransactionMode, TransactionOptions, TransactionTrait,
};

mod m0001_spine;
mod m0002_accounts;

pub use sea_orm_migration::prelude::*;

/// Names our advisory lock among a Postgres server's.
const LOCK: i64 = 0x6463_615f_6175_7468;

/// Brings the schema up to date, all or nothing. Instances that start at once wait for each other: the
/// first does it, the others find it done.
///
/// # Errors
/// When a migration fails or the database does not answer.
pub async fn up(db: &DatabaseConnection) -> Result<(), DbErr> {
    let alone = Some(SqliteTransactionMode::Immediate);
    let options = TransactionOptions { sqlite_transaction_mode: alone, ..TransactionOptions::default() };
    let tx = db.begin_with_options(options).await?;
    if tx.get_database_backend() == DbBackend::Postgres {
        tx.execute_unprepared(&format!("SELECT pg_advisory_xact_lock({LOCK})")).await?;
    }
    Migrator::up(&tx, None).await?;
    tx.commit().await
}

/// Runs the migrations, in order.
#[derive(Debug)]
pub struct Migrator;

impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![Box::new(m0001_spine::Migration), Box::new(m0002_accounts::Migration)]
    }
}
