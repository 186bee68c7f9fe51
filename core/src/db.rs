//! The connection pools, and what can be read from.

use std::{path::Path, sync::Arc, time::Duration};

use sea_orm::sea_query::{Expr, LikeExpr, OnConflict, SelectStatement};
use sea_orm::sqlx::postgres::PgConnectOptions;
use sea_orm::sqlx::sqlite::{SqliteJournalMode, SqliteSynchronous};
use sea_orm::sqlx::{self, ConnectOptions as _, Connection as _, PgConnection, Row};
use sea_orm::{ActiveModelTrait, ColumnTrait, Condition, ConnectOptions, ConnectionTrait, Database};
use sea_orm::{
    DatabaseConnection, DbBackend, EntityTrait, IdenStatic, Iterable, QueryFilter, QuerySelect, QueryTrait, Statement,
    UpdateMany,
};

use crate::connection::{Connection, Server};
use crate::{Error, Result};

/// The connection pools: one for transactions and writes (on `SQLite`, a single connection), one of read-only connections,
/// so that reads do not wait for writes, and on Postgres a small one for leases.
#[derive(Clone, Debug)]
pub struct Db {
    writer: Connection<DatabaseConnection>,
    reader: Connection<DatabaseConnection>,
    leases: Connection<DatabaseConnection>,
    changes: Connection<DatabaseConnection>,
}

/// The limit for acquiring a `SQLite` connection and for a lock of the file.
const SQLITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Limits of every Postgres session. A process that freezes or vanishes in a transaction must not keep its locks: the
/// server ends the transaction when it waits for the client, and notices a client that is gone.
const SESSION: [(&str, &str); 8] = [
    ("TimeZone", "UTC"),
    ("statement_timeout", "5s"),
    ("lock_timeout", "3s"),
    ("idle_in_transaction_session_timeout", "2s"),
    ("tcp_keepalives_idle", "5"),
    ("tcp_keepalives_interval", "2"),
    ("tcp_keepalives_count", "3"),
    ("tcp_user_timeout", "10s"),
];

/// How long Postgres connections are checked when they are returned to their pool, after a statement was abandoned. Longer
/// than the server keeps an idle transaction: one that is returned later is no longer connected.
const CHECKED_FOR: Duration = Duration::from_secs(10);

/// How long a Postgres connection may take to answer when it is returned to the pool.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a connection is known to work after it was last used.
const TRUSTED_FOR: Duration = Duration::from_secs(1);

/// The limit for a Postgres statement, and for acquiring a connection. Longer than the server's limit, so that the server
/// reports it if it can.
const POSTGRES_LIMIT: Duration = Duration::from_secs(6);

/// How long a statement waits while Postgres answers nothing, so that a request gets an answer soon.
const POSTGRES_PATIENCE: Duration = Duration::from_millis(1500);

/// How long Postgres may take to accept the first connection.
const FIRST_CONNECTION_TIMEOUT: Duration = Duration::from_secs(5);

impl Db {
    /// Opens `sqlite://…` or `postgres://…` with at most `pool` connections, on Postgres half of them for reads, and at
    /// least one for reads and one for writes. Fails if the database cannot be reached or the file cannot be opened.
    pub async fn connect(url: &str, pool: u32) -> Result<Self> {
        let server = Server::new();
        if url.starts_with("sqlite:") {
            let limited = |pool| Connection::new(pool, SQLITE_TIMEOUT * 2, SQLITE_TIMEOUT * 2, server.clone());
            let writer = limited(open(sqlite_options(url, 1, "off")).await?);
            let reader = limited(open(sqlite_options(url, pool.min(8), "on")).await?);
            let changes = limited(reader.inner().clone());
            return Ok(Self { leases: writer.clone(), writer, reader, changes });
        }
        check_postgres(url).await?;
        let limited = |pool| Connection::new(pool, POSTGRES_LIMIT, POSTGRES_PATIENCE, server.clone());
        let options = |size: u32, read_only| postgres_options(url, size, read_only, &server);
        let writer = limited(open(options(pool.div_ceil(2), "off")).await?);
        let reader = limited(open(options((pool / 2).max(1), "on")).await?);
        let leases = limited(open(options(2, "off").connect_lazy(true).to_owned()).await?);
        let changes = limited(leases.inner().clone());
        Ok(Self { writer, reader, leases, changes })
    }

    /// The connection for reads outside a transaction.
    pub(crate) fn read(&self) -> &Connection<DatabaseConnection> {
        &self.reader
    }

    /// The connection for transactions and for single statements that need none.
    pub fn writer(&self) -> &Connection<DatabaseConnection> {
        &self.writer
    }

    /// The connection for renewing leases. On Postgres, a renewal waits for no other work of this process.
    pub(crate) fn leases(&self) -> &Connection<DatabaseConnection> {
        &self.leases
    }

    /// The connection for following the event log, which waits for no other work of this process on Postgres either.
    pub(crate) fn changes(&self) -> &Connection<DatabaseConnection> {
        &self.changes
    }

    /// The pool itself, for migrations.
    pub fn pool(&self) -> &DatabaseConnection {
        self.writer.inner()
    }

    /// Whether several instances can share this database.
    pub fn is_shared(&self) -> bool {
        self.writer.get_database_backend() == DbBackend::Postgres
    }

    /// Writes a copy of a `SQLite` database to an empty file, while others may be using it.
    pub async fn copy_to(&self, file: &Path) -> Result<()> {
        let path = file.to_string_lossy().into_owned();
        let vacuum = Statement::from_sql_and_values(DbBackend::Sqlite, "VACUUM INTO ?", [path.into()]);
        self.pool().execute_raw(vacuum).await?;
        Ok(())
    }

    /// How many statements this process has executed, without renewals of leases and without following the event log.
    pub fn statements(&self) -> u64 {
        self.reader.statements() + self.writer.statements()
    }

    /// Checks the connection with one round trip.
    pub async fn ping(&self) -> Result<()> {
        Ok(self.reader.inner().ping().await?)
    }

    /// Closes the pools. Fails if a connection does not close cleanly.
    pub async fn close(self) -> Result<()> {
        for pool in [self.reader, self.leases, self.writer] {
            pool.inner().close_by_ref().await?;
        }
        Ok(())
    }
}

async fn open(options: ConnectOptions) -> Result<DatabaseConnection> {
    // It is large, and a part of every future that opens a database.
    Ok(Box::pin(Database::connect(options)).await?)
}

/// Connects once, because the pool retries a refused connection in silence and then reports only a timeout.
async fn check_postgres(url: &str) -> Result<()> {
    let options: PgConnectOptions = url.parse().map_err(|error: sqlx::Error| Error::Internal(error.to_string()))?;
    let cause = match tokio::time::timeout(FIRST_CONNECTION_TIMEOUT, options.connect()).await {
        Ok(Ok(connection)) => {
            _ = connection.close().await;
            return Ok(());
        }
        Ok(Err(sqlx::Error::Io(error))) => error.to_string(),
        // Without the line of the server's own source.
        Ok(Err(sqlx::Error::Database(error))) => error.message().to_owned(),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no response within {} seconds", FIRST_CONNECTION_TIMEOUT.as_secs()),
    };
    let server = match options.get_socket() {
        Some(path) => path.display().to_string(),
        None => format!("{}:{}", options.get_host(), options.get_port()),
    };
    Err(Error::Internal(format!("PostgreSQL at {server}: {cause}")))
}

fn postgres_options(url: &str, pool: u32, read_only: &'static str, server: &Arc<Server>) -> ConnectOptions {
    let (mut options, server) = (ConnectOptions::new(url), server.clone());
    options
        .max_connections(pool)
        .acquire_timeout(POSTGRES_LIMIT)
        .test_before_acquire_if_idle_for(TRUSTED_FOR)
        .sqlx_logging(false)
        .map_sqlx_postgres_opts(move |options| {
            options.options(SESSION).options([("default_transaction_read_only", read_only)])
        })
        .map_sqlx_postgres_pool_opts(move |pool| {
            let server = server.clone();
            pool.after_release(move |connection, _| {
                let is_suspect = server.abandoned_within(CHECKED_FOR);
                Box::pin(async move { if is_suspect { is_reusable(connection).await } else { Ok(true) } })
            })
        });
    options
}

/// Whether a connection may return to the pool. One that does not answer would occupy its place forever. One whose
/// BEGIN was cancelled is in a transaction that the driver does not know of, and would never commit; only there, the
/// transaction is older than the statement.
async fn is_reusable(connection: &mut PgConnection) -> sqlx::Result<bool> {
    // Not prepared: the messages of a prepared statement have different times.
    let is_outside = sqlx::raw_sql("SELECT now() = statement_timestamp()").fetch_one(connection);
    tokio::time::timeout(RELEASE_TIMEOUT, is_outside).await.map_err(|_| sqlx::Error::PoolTimedOut)??.try_get(0)
}

fn sqlite_options(url: &str, pool: u32, query_only: &'static str) -> ConnectOptions {
    let mut options = ConnectOptions::new(url);
    options
        .max_connections(pool)
        .min_connections(1)
        .acquire_timeout(SQLITE_TIMEOUT)
        // A connection to a file is not lost.
        .test_before_acquire(false)
        .sqlx_logging(false)
        .map_sqlx_sqlite_opts(move |options| {
            options
                .journal_mode(SqliteJournalMode::Wal)
                .synchronous(SqliteSynchronous::Full)
                .busy_timeout(SQLITE_TIMEOUT)
                .foreign_keys(true)
                .pragma("query_only", query_only)
        });
    options
}

/// Inserts a row unless one with the same key exists. Returns whether it was inserted. No key is named, because there
/// is no syntax that names a partial unique index on both databases.
pub(crate) async fn insert_if_new<A: ActiveModelTrait>(db: &impl ConnectionTrait, row: A) -> Result<bool> {
    let insert = A::Entity::insert(row).on_conflict(OnConflict::new().do_nothing().to_owned());
    Ok(insert.exec_without_returning(db).await? > 0)
}

/// The pattern of values that contain a text, in lower case. The text is no pattern itself.
pub(crate) fn containing(text: &str) -> LikeExpr {
    let escaped = text.to_lowercase().replace('\\', r"\\").replace('%', r"\%").replace('_', r"\_");
    LikeExpr::new(format!("%{escaped}%")).escape('\\')
}

/// An update of the rows that match every filter.
pub(crate) fn update<C: ColumnTrait>(
    changes: impl IntoIterator<Item = (C, Expr)>,
    filters: impl IntoIterator<Item = Expr>,
) -> UpdateMany<C::EntityName>
where
    C::EntityName: EntityTrait<Column = C>,
{
    let all = C::EntityName::update_many();
    let update = changes.into_iter().fold(all, |update, (column, value)| update.col_expr(column, value));
    filters.into_iter().fold(update, UpdateMany::filter)
}

/// The number of rows that one statement of a cleanup deletes, so that it does not block other writers for long.
const BATCH: u64 = 500;

/// Deletes the rows that match the filter, in batches; `key` is the primary key. Returns how many.
pub(crate) async fn delete_in_batches<C: ColumnTrait>(
    db: &impl ConnectionTrait,
    key: C,
    filter: impl Into<Condition>,
) -> Result<u64>
where
    C::EntityName: EntityTrait<Column = C>,
{
    let filter = filter.into();
    let batch = C::EntityName::find().select_only().column(key).filter(filter.clone()).limit(BATCH).into_query();
    // The filter is repeated, because a row may have changed since the subquery read it.
    let delete = C::EntityName::delete_many().filter(key.in_subquery(batch)).filter(filter);
    let mut total = 0;
    loop {
        let deleted = delete.clone().exec(db).await?.rows_affected;
        total += deleted;
        if deleted < BATCH {
            return Ok(total);
        }
    }
}

/// Adds all columns of a table to a query, named with the prefix, from which `from_query_result` reads its rows.
pub(crate) fn columns<E: EntityTrait>(query: &mut SelectStatement, prefix: &str) {
    for column in E::Column::iter() {
        let name = format!("{prefix}{}", column.as_str());
        query.expr_as(column.select_as(Expr::col((E::default(), column))), name);
    }
}

/// Where a query reads from: the pool, or a transaction.
pub trait Reader {
    /// The connection.
    #[doc(hidden)]
    fn connection(&self) -> &impl ConnectionTrait;
}

#[cfg(test)]
mod tests {
    use sea_orm::ConnectionTrait;

    use super::*;

    #[tokio::test]
    async fn reader_connections_are_read_only() {
        let db = Db::connect("sqlite::memory:", 2).await.unwrap();
        let error = db.read().execute_unprepared("CREATE TABLE anything (id integer)").await.unwrap_err();
        assert!(error.to_string().contains("readonly database"), "{error}");
        db.writer().execute_unprepared("CREATE TABLE anything (id integer)").await.unwrap();
    }
}
