//! A connection whose statements have a time limit. The server's own limits do not help if the network fails: a server
//! that is no longer there answers nothing, and the client would wait forever.

use std::time::Duration;

use async_trait::async_trait;
use sea_orm::{ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, ExecResult, QueryResult};
use sea_orm::{RuntimeErr, SqliteTransactionMode, Statement, TransactionOptions, TransactionTrait};

/// A pool or a transaction. A statement that takes longer than the limit fails as if the connection had been lost.
#[derive(Clone, Debug)]
pub struct Connection<C> {
    inner: C,
    limit: Duration,
}

impl<C> Connection<C> {
    pub(crate) fn new(inner: C, limit: Duration) -> Self {
        Self { inner, limit }
    }

    pub(crate) fn inner(&self) -> &C {
        &self.inner
    }

    async fn limited<T>(&self, work: impl Future<Output = Result<T, DbErr>>) -> Result<T, DbErr> {
        limited(self.limit, work).await
    }
}

async fn limited<T>(limit: Duration, work: impl Future<Output = Result<T, DbErr>>) -> Result<T, DbErr> {
    let too_late = || DbErr::Conn(RuntimeErr::Internal(format!("no answer within {} s", limit.as_secs())));
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(too_late()))
}

impl Connection<DatabaseConnection> {
    /// Begins a transaction; on `SQLite`, it takes the single writer.
    pub(crate) async fn begin(&self) -> Result<Connection<DatabaseTransaction>, DbErr> {
        let sqlite_transaction_mode = Some(SqliteTransactionMode::Immediate);
        let options = TransactionOptions { sqlite_transaction_mode, ..TransactionOptions::default() };
        let inner = self.limited(self.inner.begin_with_options(options)).await?;
        Ok(Connection { inner, limit: self.limit })
    }
}

impl Connection<DatabaseTransaction> {
    pub(crate) async fn commit(self) -> Result<(), DbErr> {
        limited(self.limit, self.inner.commit()).await
    }

    pub(crate) async fn rollback(self) -> Result<(), DbErr> {
        limited(self.limit, self.inner.rollback()).await
    }
}

#[async_trait]
impl<C: ConnectionTrait> ConnectionTrait for Connection<C> {
    fn get_database_backend(&self) -> DbBackend {
        self.inner.get_database_backend()
    }

    async fn execute_raw(&self, statement: Statement) -> Result<ExecResult, DbErr> {
        self.limited(self.inner.execute_raw(statement)).await
    }

    async fn execute_unprepared(&self, sql: &str) -> Result<ExecResult, DbErr> {
        self.limited(self.inner.execute_unprepared(sql)).await
    }

    async fn query_one_raw(&self, statement: Statement) -> Result<Option<QueryResult>, DbErr> {
        self.limited(self.inner.query_one_raw(statement)).await
    }

    async fn query_all_raw(&self, statement: Statement) -> Result<Vec<QueryResult>, DbErr> {
        self.limited(self.inner.query_all_raw(statement)).await
    }
}
