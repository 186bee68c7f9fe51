//! The database and its transactions.
//!
//! Both databases run the same algorithm: lock, recheck, write. `SQLite` takes its single writer with
//! `BEGIN IMMEDIATE`; Postgres takes row locks. Lock order: fence → holder → licenses by id → event head.
//! The event head is locked within the last message to the database, together with the commit.
//! Functions that take `&Tx` or `&mut Tx` neither begin nor commit, and do not read from the pool.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, Utc};
use sea_orm::{ConnectionTrait, DatabaseTransaction};

use crate::ids::LicenseId;
use crate::{Caller, Core, Error, Result, bus::Topic, changes, connection::Connection, db, events, idempotency};

/// A transaction: its rows, the events that describe them, and the notifications to send after the commit.
pub struct Tx {
    db: Connection<DatabaseTransaction>,
    core: Core,
    now: DateTime<Utc>,
    request_id: Option<String>,
    execution: Option<idempotency::Execution>,
    events: Vec<events::NewEvent>,
    changed: Mutex<Vec<LicenseId>>,
    notifications: HashSet<Topic>,
}

impl Tx {
    /// Begins a transaction. The idempotent request that it is part of, if any, is not executed again once it commits.
    pub(crate) async fn begin(core: &Core) -> Result<Self> {
        Ok(Self { execution: idempotency::current(), ..Self::begin_repeatable(core).await? })
    }

    /// Begins a transaction that changes nothing if it is made again, so that the request may be executed again.
    pub(crate) async fn begin_repeatable(core: &Core) -> Result<Self> {
        Ok(Self {
            db: core.db.writer().begin().await?,
            core: core.clone(),
            now: core.clock.now(),
            request_id: events::request_id(),
            execution: None,
            events: Vec::new(),
            changed: Mutex::default(),
            notifications: HashSet::new(),
        })
    }

    pub(crate) fn db(&self) -> &Connection<DatabaseTransaction> {
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
        self.notifications.insert(Topic::Events);
    }

    /// A license has changed. An event of this transaction must name it: it tells every instance that what is kept in
    /// memory is out of date.
    pub(crate) fn mark_changed(&self, license: LicenseId) {
        self.changed.lock().unwrap_or_else(PoisonError::into_inner).push(license);
    }

    /// A changed license that no event names.
    pub(crate) fn unannounced(&self) -> Option<LicenseId> {
        let changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        changed.iter().copied().find(|id| {
            !self.events.iter().any(|event| changes::names(event.data.kind(), event.tenant, event.license, *id))
        })
    }

    /// Sends a notification after the commit.
    pub(crate) fn notify(&mut self, topic: Topic) {
        self.notifications.insert(topic);
    }

    /// Commits a change that ends what someone may use, and waits until no instance answers from before. Workers do not wait.
    pub(crate) async fn commit_and_propagate(self, caller: &Caller) -> Result<()> {
        let core = self.core.clone();
        self.commit().await?;
        if !matches!(caller, Caller::System(_)) {
            core.cache.changes.propagate().await;
        }
        Ok(())
    }

    /// Commits, then sends the notifications. The transaction of an idempotent request is refused with
    /// `IDEMPOTENCY_IN_PROGRESS` if another execution has taken over. Both run in a spawned task, so that a cancelled caller cannot
    /// separate them.
    pub(crate) async fn commit(self) -> Result<()> {
        debug_assert_eq!(self.unannounced(), None, "a license was changed without an event");
        let task = tokio::spawn(async move {
            if let Some(execution) = self.execution {
                idempotency::mark_committed(&self.db, execution, self.now).await?;
            }
            let has_events = !self.events.is_empty();
            events::append_and_commit(self.db, self.now, self.request_id, self.events).await?;
            if has_events {
                self.core.cache.changes.committed();
            }
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
