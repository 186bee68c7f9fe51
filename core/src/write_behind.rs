//! What is stored after the answer that it is part of, so that a full disk or a stalled writer refuses no good key: the
//! first `VALID` of a license's life, and when a license, device or API key was last used. A part of the process stores
//! it at once and in batches ([`crate::licenses::store_pending`]), retries after a failure, and does so once more at
//! shutdown.
//!
//! The buffer is bounded, and nothing leaves it before it is stored. If it is full, a new entry is not accepted: the next
//! validation offers it again, because the row does not have it yet. A process that dies loses what it has not stored,
//! with the same effect. First `VALID`s have room of their own.

use std::collections::HashMap;

use chrono::{DateTime, Duration, Utc};
use tokio::sync::watch;

use crate::ids::{ApiKeyId, DeviceId, LicenseId};

/// The most first `VALID`s, and the most uses, that wait to be stored.
const CAPACITY: usize = 50_000;

/// How often the last use of a row is stored.
const INTERVAL: Duration = Duration::minutes(1);

/// What has a time of its last use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "variants are named after what they hold")]
pub enum Used {
    License(LicenseId),
    Device(DeviceId),
    ApiKey(ApiKeyId),
}

/// The first `VALID` of a license's life.
#[derive(Clone, Debug)]
pub(crate) struct FirstValid {
    pub at: DateTime<Utc>,
    /// The API key of the app that asked.
    pub by: ApiKeyId,
    pub request_id: Option<String>,
}

/// What waits to be stored.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pending {
    pub first_valid: HashMap<LicenseId, FirstValid>,
    pub last_used: HashMap<Used, DateTime<Utc>>,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.first_valid.is_empty() && self.last_used.is_empty()
    }
}

/// The buffer of a process. Clones share it.
#[derive(Clone)]
pub struct WriteBehind(watch::Sender<Pending>);

impl Default for WriteBehind {
    fn default() -> Self {
        Self(watch::Sender::new(Pending::default()))
    }
}

impl WriteBehind {
    /// Adds the first `VALID` of a license's life, which began at `begins_at`. Returns its time, which is earlier if it was
    /// added before, and whether it waits to be stored.
    pub(crate) fn mark_first_valid(
        &self,
        license: LicenseId,
        begins_at: Option<DateTime<Utc>>,
        first: FirstValid,
    ) -> (DateTime<Utc>, bool) {
        let (mut at, mut waits) = (first.at, true);
        self.0.send_if_modified(|pending| {
            let known = pending.first_valid.get(&license);
            if let Some(earlier) = known.filter(|known| Some(known.at) >= begins_at) {
                at = earlier.at;
                return false;
            }
            let has_room = known.is_some() || pending.first_valid.len() < CAPACITY;
            if has_room {
                pending.first_valid.insert(license, first);
            }
            waits = has_room;
            has_room
        });
        (at, waits)
    }

    /// Adds the use of a row, unless its `last` one is of the last minute. Returns whether it was added.
    pub(crate) fn mark_used(&self, what: Used, last: Option<DateTime<Utc>>, now: DateTime<Utc>) -> bool {
        if last.is_some_and(|last| now < last + INTERVAL) {
            return false;
        }
        self.0.send_if_modified(|pending| {
            let has_room = !pending.last_used.contains_key(&what) && pending.last_used.len() < CAPACITY;
            if has_room {
                // Whole seconds: those of one second are stored together.
                let second = now.timestamp();
                pending.last_used.insert(what, DateTime::from_timestamp(second, 0).unwrap_or(now));
            }
            has_room
        })
    }

    /// Everything that waits, which stays until [`remove`](Self::remove).
    pub(crate) fn pending(&self) -> Pending {
        self.0.borrow().clone()
    }

    /// Removes what was stored.
    pub(crate) fn remove(&self, used: &[Used]) {
        self.0.send_modify(|pending| {
            for what in used {
                pending.last_used.remove(what);
            }
        });
    }

    /// Removes the first `VALID` of a license that was stored; that of a later life stays.
    pub(crate) fn remove_first_valid(&self, license: LicenseId, at: DateTime<Utc>) {
        self.0.send_modify(|pending| {
            if pending.first_valid.get(&license).is_some_and(|first| first.at == at) {
                pending.first_valid.remove(&license);
            }
        });
    }

    /// Returns once something waits to be stored.
    pub async fn filled(&self) {
        _ = self.0.subscribe().wait_for(|pending| !pending.is_empty()).await;
    }

    /// Returns once everything is stored.
    pub async fn drained(&self) {
        _ = self.0.subscribe().wait_for(Pending::is_empty).await;
    }
}
