//! The connection pools, and what can be read from.

use std::{path::Path, time::Duration};

use sea_orm::sea_query::{Expr, OnConflict};
use sea_orm::sqlx::postgres::PgConnectOptions;
use sea_orm::sqlx::sqlite::{SqliteJournalMode, SqliteSynchronous};
use sea_orm::sqlx::{self, ConnectOptions as _, Connection};
use sea_orm::{ActiveModelTrait, ColumnTrait, Condition, ConnectOptions, ConnectionTrait, Database};
use sea_orm::{
    DatabaseConnection, DbBackend, EntityTrait, QueryFilter, QuerySelect, QueryTrait, Statement, UpdateMany,
};

use crate::{Error, Result};

/// The connection pools. On `SQLite`, one writer connection and a pool of read-only connections; on
/// Postgres, one pool for both.
#[derive(Clone, Debug)]
pub struct Db {
    writer: DatabaseConnection,
    reader: DatabaseConnection,
}

/// The limit for acquiring a `SQLite` connection, for a `SQLite` lock and for a Postgres statement.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The limit for acquiring a Postgres connection. A request gets an answer soon, even if Postgres is away.
const POSTGRES_ACQUIRE_TIMEOUT: Duration = Duration::from_millis(1500);

/// How long Postgres may take to accept the first connection.
const FIRST_CONNECTION_TIMEOUT: Duration = Duration::from_secs(5);

impl Db {
    /// Opens `sqlite://…` or `postgres://…` with at most `pool` connections. Fails if the database cannot be reached or
    /// the file cannot be opened.
    pub async fn connect(url: &str, pool: u32) -> Result<Self> {
        if url.starts_with("sqlite:") {
            let writer = Database::connect(sqlite_options(url, 1, "off")).await?;
            let reader = Database::connect(sqlite_options(url, pool.min(8), "on")).await?;
            return Ok(Self { writer, reader });
        }
        check_postgres(url).await?;
        let mut options = ConnectOptions::new(url);
        options
            .max_connections(pool)
            .acquire_timeout(POSTGRES_ACQUIRE_TIMEOUT)
            .sqlx_logging(false)
            .map_sqlx_postgres_opts(|options| options.options([("statement_timeout", "10s"), ("TimeZone", "UTC")]));
        let pool = Database::connect(options).await?;
        Ok(Self { writer: pool.clone(), reader: pool })
    }

    /// The connection for reads outside a transaction.
    pub(crate) fn read(&self) -> &DatabaseConnection {
        &self.reader
    }

    /// The connection for migrations and for single statements that need no transaction.
    pub fn writer(&self) -> &DatabaseConnection {
        &self.writer
    }

    /// Whether several instances can share this database.
    pub fn is_shared(&self) -> bool {
        self.writer.get_database_backend() == DbBackend::Postgres
    }

    /// Writes a copy of a `SQLite` database to an empty file, while others may be using it.
    pub async fn copy_to(&self, file: &Path) -> Result<()> {
        let path = file.to_string_lossy().into_owned();
        let vacuum = Statement::from_sql_and_values(DbBackend::Sqlite, "VACUUM INTO ?", [path.into()]);
        self.writer.execute_raw(vacuum).await?;
        Ok(())
    }

    /// Checks the connection with one round trip.
    pub async fn ping(&self) -> Result<()> {
        Ok(self.reader.ping().await?)
    }

    /// Closes both pools. Fails if a connection does not close cleanly.
    pub async fn close(self) -> Result<()> {
        self.reader.close_by_ref().await?;
        Ok(self.writer.close_by_ref().await?)
    }
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
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no response within {} seconds", FIRST_CONNECTION_TIMEOUT.as_secs()),
    };
    let server = match options.get_socket() {
        Some(path) => path.display().to_string(),
        None => format!("{}:{}", options.get_host(), options.get_port()),
    };
    Err(Error::Internal(format!("PostgreSQL at {server}: {cause}")))
}

fn sqlite_options(url: &str, pool: u32, query_only: &'static str) -> ConnectOptions {
    let mut options = ConnectOptions::new(url);
    options.max_connections(pool).min_connections(1).acquire_timeout(TIMEOUT).sqlx_logging(false).map_sqlx_sqlite_opts(
        move |options| {
            options
                .journal_mode(SqliteJournalMode::Wal)
                .synchronous(SqliteSynchronous::Full)
                .busy_timeout(TIMEOUT)
                .foreign_keys(true)
                .pragma("query_only", query_only)
        },
    );
    options
}

/// Inserts a row unless one with the same key exists. Returns whether it was inserted. No key is named, because there
/// is no syntax that names a partial unique index on both databases.
pub(crate) async fn insert_if_new<A: ActiveModelTrait>(db: &impl ConnectionTrait, row: A) -> Result<bool> {
    let insert = A::Entity::insert(row).on_conflict(OnConflict::new().do_nothing().to_owned());
    Ok(insert.exec_without_returning(db).await? > 0)
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
