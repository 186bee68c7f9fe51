//! A connection whose statements have a time limit. The server's own limits do not help if the network fails: a server
//! that is no longer there answers nothing, and the client would wait forever.

use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use sea_orm::{ConnectionTrait, DatabaseConnection, DatabaseTransaction, DbBackend, DbErr, ExecResult, QueryResult};
use sea_orm::{RuntimeErr, SqliteTransactionMode, Statement, TransactionOptions, TransactionTrait};
use tokio::time::Instant;

/// A pool or a transaction. A statement that takes longer than the limit fails as if the connection had been lost.
#[derive(Clone, Debug)]
pub struct Connection<C> {
    inner: C,
    limit: Duration,
    /// How long a statement waits if no other one of the server is answered either: the server is unreachable then. If
    /// others are answered, the pool is only busy.
    patience: Duration,
    server: Arc<Server>,
    /// How many statements it has executed, those of its transactions included.
    statements: Arc<AtomicU64>,
}

/// What is known of a database server from the statements of all pools.
#[derive(Debug)]
pub(crate) struct Server {
    last_answer: Mutex<Instant>,
    last_abandoned: Mutex<Option<Instant>>,
}

impl Server {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { last_answer: Mutex::new(Instant::now()), last_abandoned: Mutex::default() })
    }

    /// Whether a statement was abandoned before its answer, during the last `period`.
    pub(crate) fn abandoned_within(&self, period: Duration) -> bool {
        let abandoned = *self.last_abandoned.lock().unwrap_or_else(PoisonError::into_inner);
        abandoned.is_some_and(|at| at.elapsed() < period)
    }

    /// Runs a statement, and remembers if it is dropped before it has ended.
    async fn watch<T>(&self, work: impl Future<Output = T>) -> T {
        let work = pin!(work);
        // Dropped before the work, which then returns its connection to the pool.
        let unless_ended = Abandoned(self);
        let ended = work.await;
        std::mem::forget(unless_ended);
        ended
    }
}

struct Abandoned<'a>(&'a Server);

impl Drop for Abandoned<'_> {
    fn drop(&mut self) {
        *self.0.last_abandoned.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }
}

impl<C> Connection<C> {
    pub(crate) fn new(inner: C, limit: Duration, patience: Duration, server: Arc<Server>) -> Self {
        Self { inner, limit, patience, server, statements: Arc::default() }
    }

    pub(crate) fn inner(&self) -> &C {
        &self.inner
    }

    pub(crate) fn statements(&self) -> u64 {
        self.statements.load(Ordering::Relaxed)
    }

    async fn limited<T>(&self, work: impl Future<Output = Result<T, DbErr>>) -> Result<T, DbErr> {
        self.statements.fetch_add(1, Ordering::Relaxed);
        let result = tokio::select! {
            result = limited(self.limit, self.server.watch(work)) => result,
            () = self.unreachable() => Err(too_late(self.patience)),
        };
        if result.is_ok() {
            *self.server.last_answer.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        }
        result
    }

    /// Waits until nothing has been answered for as long as the patience lasts.
    async fn unreachable(&self) {
        let mut since = Instant::now();
        while since.elapsed() < self.patience {
            tokio::time::sleep_until(since + self.patience).await;
            since = since.max(*self.server.last_answer.lock().unwrap_or_else(PoisonError::into_inner));
        }
    }
}

async fn limited<T>(limit: Duration, work: impl Future<Output = Result<T, DbErr>>) -> Result<T, DbErr> {
    tokio::time::timeout(limit, work).await.unwrap_or_else(|_| Err(too_late(limit)))
}

fn too_late(limit: Duration) -> DbErr {
    DbErr::Conn(RuntimeErr::Internal(format!("no answer within {limit:?}")))
}

impl Connection<DatabaseConnection> {
    /// Begins a transaction; on `SQLite`, it takes the single writer.
    pub(crate) async fn begin(&self) -> Result<Connection<DatabaseTransaction>, DbErr> {
        let sqlite_transaction_mode = Some(SqliteTransactionMode::Immediate);
        let options = TransactionOptions { sqlite_transaction_mode, ..TransactionOptions::default() };
        let inner = self.limited(self.inner.begin_with_options(options)).await?;
        // A statement of a transaction may wait for a lock, up to the server's limit.
        Ok(Connection {
            inner,
            limit: self.limit,
            patience: self.limit,
            server: self.server.clone(),
            statements: self.statements.clone(),
        })
    }
}

impl Connection<DatabaseTransaction> {
    pub(crate) async fn commit(self) -> Result<(), DbErr> {
        limited(self.limit, self.server.watch(self.inner.commit())).await
    }

    pub(crate) async fn rollback(self) -> Result<(), DbErr> {
        limited(self.limit, self.server.watch(self.inner.rollback())).await
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
