//! The database and the unit of work.
//!
//! "Lock, recheck, write" is one algorithm on both databases: `SQLite` takes its one writer with
//! `BEGIN IMMEDIATE`, Postgres takes row locks. Lock order: fence → holder → licenses by id → event head.
//! Whatever takes `&mut Tx` neither opens nor commits, and reads nothing from the pool.

use std::{collections::HashSet, time::Duration};

use chrono::{DateTime, Utc};
use sea_orm::{
    ConnectOptions, Database, DatabaseConnection, DatabaseTransaction, DbBackend, SqliteTransactionMode,
    TransactionOptions, TransactionTrait,
    sqlx::sqlite::{SqliteJournalMode, SqliteSynchronous},
};

use crate::{Core, Result, bus::Topic, events};

/// The pools. On `SQLite` one writer connection (first come, first served) beside readers that
/// cannot write; on Postgres one pool serves both.
#[derive(Clone, Debug)]
pub struct Db {
    writer: DatabaseConnection,
    reader: DatabaseConnection,
}

/// How long a statement may wait or run, on either database.
const TIMEOUT: Duration = Duration::from_secs(10);

impl Db {
    /// Opens `sqlite://…` or `postgres://…` with at most `pool` connections.
    ///
    /// # Errors
    /// When the database cannot be reached or the file cannot be opened.
    pub async fn connect(url: &str, pool: u32) -> Result<Self> {
        if url.starts_with("sqlite:") {
            let writer = Database::connect(sqlite(url, 1, false)).await?;
            let reader = Database::connect(sqlite(url, pool.min(8), true)).await?;
            return Ok(Self { writer, reader });
        }
        let mut options = ConnectOptions::new(url);
        options
            .max_connections(pool)
            .acquire_timeout(TIMEOUT)
            .sqlx_logging(false)
            .map_sqlx_postgres_opts(|options| options.options([("statement_timeout", "10s"), ("TimeZone", "UTC")]));
        let pool = Database::connect(options).await?;
        Ok(Self { writer: pool.clone(), reader: pool })
    }

    /// For reads outside a unit of work.
    pub(crate) fn read(&self) -> &DatabaseConnection {
        &self.reader
    }

    /// For migrations, and for single statements that are their own unit of work.
    #[must_use]
    pub fn writer(&self) -> &DatabaseConnection {
        &self.writer
    }

    /// Whether many instances may share this database.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.writer.get_database_backend() == DbBackend::Postgres
    }

    /// One round trip.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn ping(&self) -> Result<()> {
        Ok(self.reader.ping().await?)
    }

    /// Closes both pools.
    ///
    /// # Errors
    /// When a connection does not close cleanly.
    pub async fn close(self) -> Result<()> {
        self.reader.close_by_ref().await?;
        Ok(self.writer.close_by_ref().await?)
    }
}

fn sqlite(url: &str, pool: u32, reads_only: bool) -> ConnectOptions {
    let mut options = ConnectOptions::new(url);
    options.max_connections(pool).min_connections(1).acquire_timeout(TIMEOUT).sqlx_logging(false).map_sqlx_sqlite_opts(
        move |options| {
            options
                .journal_mode(SqliteJournalMode::Wal)
                .synchronous(SqliteSynchronous::Full)
                .busy_timeout(TIMEOUT)
                .foreign_keys(true)
                .pragma("query_only", if reads_only { "on" } else { "off" })
        },
    );
    options
}

/// A unit of work: rows, the events that say what happened, and the notifications that follow.
pub struct Tx {
    db: DatabaseTransaction,
    core: Core,
    now: DateTime<Utc>,
    request_id: Option<String>,
    events: Vec<events::NewEvent>,
    notifications: HashSet<Topic>,
}

impl Tx {
    /// Opens a unit of work.
    pub(crate) async fn begin(core: &Core) -> Result<Self> {
        let options = TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        };
        let db = core.db.writer.begin_with_options(options).await?;
        Ok(Self {
            db,
            core: core.clone(),
            now: core.clock.now(),
            request_id: events::request_id(),
            events: Vec::new(),
            notifications: HashSet::new(),
        })
    }

    pub(crate) fn db(&self) -> &DatabaseTransaction {
        &self.db
    }

    pub(crate) fn core(&self) -> &Core {
        &self.core
    }

    /// The moment all of this happens at.
    pub(crate) fn now(&self) -> DateTime<Utc> {
        self.now
    }

    /// Adds to the one log; written as the last statements before the commit.
    pub(crate) fn record(&mut self, event: events::NewEvent) {
        self.events.push(event);
        self.notifications.insert(Topic::Workers);
    }

    /// Nudges after the commit.
    pub(crate) fn notify(&mut self, topic: Topic) {
        self.notifications.insert(topic);
    }

    /// Commits, then notifications: in a task of its own, so that a caller who goes away cannot split the
    /// two.
    pub(crate) async fn commit(self) -> Result<()> {
        let done = tokio::spawn(async move {
            events::append(&self.db, self.now, self.request_id, self.events).await?;
            self.db.commit().await?;
            self.notifications.into_iter().for_each(|topic| self.core.bus.notify(topic));
            Ok(())
        });
        done.await.map_err(|gone| crate::Error::Broken(format!("the commit did not finish: {gone}")))?
    }
}

#[cfg(test)]
mod tests {
    use sea_orm::ConnectionTrait;

    use super::*;

    #[tokio::test]
    async fn who_reads_cannot_write() {
        let db = Db::connect("sqlite::memory:", 2).await.unwrap();
        let refused = db.read().execute_unprepared("CREATE TABLE anything (id integer)").await.unwrap_err();
        assert!(refused.to_string().contains("readonly database"), "{refused}");
        db.writer().execute_unprepared("CREATE TABLE anything (id integer)").await.unwrap();
    }
}
