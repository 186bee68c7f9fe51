//! Whether the database can be used, for probes.

use std::time::Duration;

use chrono::DateTime;
use sea_orm::{ConnectionTrait, DbBackend, EntityTrait, IntoActiveModel, Statement};
use tokio::time::timeout;

use crate::entity::worker::{Entity, Model as WorkerRow};
use crate::{Db, Error, Result, string_enum::string_enum};

string_enum! {
    /// Whether the database can be used.
    DatabaseHealth {
        Ok => "ok",
        /// It can be read, but not written.
        DiskFull => "disk_full",
        Down => "down",
    }
}

/// How long the database may take to answer.
const TIMEOUT: Duration = Duration::from_secs(1);

/// A disk with less free space counts as full. `SQLite` can reuse space in its files, but not for long.
const MIN_FREE_BYTES: u64 = 1 << 20;

/// Reads a row, and then writes one, because a database on a full disk can still be read.
pub async fn check(db: &Db) -> DatabaseHealth {
    // Reads a table, so that a database without its schema counts as down.
    if !matches!(timeout(TIMEOUT, Entity::find().one(db.read())).await, Ok(Ok(_))) {
        return DatabaseHealth::Down;
    }
    if free_bytes(db).await.is_some_and(|free| free < MIN_FREE_BYTES) {
        return DatabaseHealth::DiskFull;
    }
    // In a task, so that the timeout does not interrupt the transaction.
    let write = tokio::spawn(write_and_roll_back(db.clone()));
    match timeout(TIMEOUT, write).await {
        Ok(Ok(Err(error))) if error.is_disk_full() => DatabaseHealth::DiskFull,
        Ok(Ok(Err(_))) => DatabaseHealth::Down,
        // A write that waits for others is slow, not impossible.
        _ => DatabaseHealth::Ok,
    }
}

/// The free space on the disk of a `SQLite` file.
async fn free_bytes(db: &Db) -> Option<u64> {
    const FILE: &str = "SELECT file FROM pragma_database_list WHERE name = 'main'";
    if db.is_shared() {
        return None;
    }
    let row = db.read().query_one_raw(Statement::from_string(DbBackend::Sqlite, FILE)).await.ok()??;
    let disk = rustix::fs::statvfs(row.try_get_by_index::<String>(0).ok()?).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Writes a row that needs several pages, and rolls back, so that nothing changes.
async fn write_and_roll_back(db: Db) -> Result<()> {
    let row = WorkerRow {
        name: "health check".to_owned(),
        due_at: DateTime::UNIX_EPOCH,
        lease_until: None,
        token: 0,
        holder: None,
        last_run: None,
        last_result: Some("x".repeat(16 * 1024)),
    };
    let tx = db.writer().begin().await?;
    Entity::insert(row.into_active_model()).exec_without_returning(&tx).await?;
    tx.rollback().await.map_err(Error::from)
}
