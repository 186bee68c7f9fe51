//! The database and its transactions.
//!
//! Both databases run the same algorithm: lock, recheck, write. `SQLite` takes its single writer with
//! `BEGIN IMMEDIATE`; Postgres takes row locks. Lock order: fence → holder → licenses by id → event head.
//! Functions that take `&Tx` or `&mut Tx` neither begin nor commit, and do not read from the pool.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use sea_orm::{ConnectionTrait, DatabaseTransaction, SqliteTransactionMode, TransactionOptions, TransactionTrait};

use crate::{Core, Error, Result, bus::Topic, db, events};

/// A transaction: its rows, the events that describe them, and the notifications to send after the commit.
pub struct Tx {
    db: DatabaseTransaction,
    core: Core,
    now: DateTime<Utc>,
    request_id: Option<String>,
    events: Vec<events::NewEvent>,
    notifications: HashSet<Topic>,
}

impl Tx {
    /// Begins a transaction.
    pub(crate) async fn begin(core: &Core) -> Result<Self> {
        let options = TransactionOptions {
            sqlite_transaction_mode: Some(SqliteTransactionMode::Immediate),
            ..TransactionOptions::default()
        };
        let db = core.db.writer().begin_with_options(options).await?;
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

    /// The time of this transaction; constant, so that all of its rows agree.
    pub(crate) fn now(&self) -> DateTime<Utc> {
        self.now
    }

    /// Adds an event to the event log. Events are written as the last statements before the commit.
    pub(crate) fn record(&mut self, event: events::NewEvent) {
        self.events.push(event);
        self.notifications.insert(Topic::Workers);
    }

    /// Sends a notification after the commit.
    pub(crate) fn notify(&mut self, topic: Topic) {
        self.notifications.insert(topic);
    }

    /// Commits, then sends the notifications. Both run in a spawned task, so that a cancelled caller cannot
    /// separate them.
    pub(crate) async fn commit(self) -> Result<()> {
        let task = tokio::spawn(async move {
            events::append(&self.db, self.now, self.request_id, self.events).await?;
            self.db.commit().await?;
            self.notifications.into_iter().for_each(|topic| self.core.bus.notify(topic));
            Ok(())
        });
        task.await.map_err(|error| Error::Internal(format!("the commit did not finish: {error}")))?
    }
}

impl db::Reader for Tx {
    fn connection(&self) -> &impl ConnectionTrait {
        &self.db
    }
}
