//! What validations read again and again, in memory: API keys, and the facts of licenses. [`Changes`] tells whether it is
//! still true; a verdict is computed from it for each request. What many ask for at once is loaded once.

use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use moka::future::Cache as Entries;

use crate::caller::AppCaller;
use crate::changes::{Basis, Changes};
use crate::db::Db;
use crate::entity::api_key::Model as ApiKey;
use crate::error::{Error, Result};
use crate::keyring::Lookup;
use crate::licenses::facts::Facts;

/// How many API keys and how many licenses, each with a device, are kept.
const CAPACITY: u64 = 200_000;

/// How many keys that do not exist are remembered, and how long. They have room of their own, so that guesses displace
/// nothing.
const UNKNOWN_CAPACITY: u64 = 50_000;
const UNKNOWN_FOR: Duration = Duration::from_secs(5);

/// How long an entry that nobody asks for is kept.
const IDLE: Duration = Duration::from_hours(1);

/// By which key and device the facts of a license are known.
pub(crate) type FactsKey = (Lookup, Option<Lookup>);

/// The cache of a process.
pub struct Cache {
    /// What changed lately.
    pub changes: Changes,
    api_keys: Entries<Lookup, Arc<Known<KnownApiKey>>>,
    facts: Entries<FactsKey, Arc<Known<Facts>>>,
    unknown: Entries<Lookup, i64>,
}

/// What was read, and the newest event that is known not to concern it.
struct Known<T> {
    value: T,
    seq: AtomicI64,
}

impl<T> Known<T> {
    fn new(value: T, seq: i64) -> Arc<Self> {
        Arc::new(Self { value, seq: AtomicI64::new(seq) })
    }
}

/// An API key as it was read, with the app that it authenticates.
#[derive(Clone)]
pub(crate) struct KnownApiKey {
    pub key: Arc<ApiKey>,
    pub app: AppCaller,
}

/// What the cache keeps.
trait Entry: Clone + Send + Sync + 'static {
    /// What it depends on.
    fn basis(&self) -> Basis;

    /// Whether all that changes it has an event, so that it can be used again.
    fn is_reusable(&self) -> bool;
}

impl Entry for KnownApiKey {
    fn basis(&self) -> Basis {
        Basis::ApiKey(self.key.tenant_id)
    }

    fn is_reusable(&self) -> bool {
        true
    }
}

impl Entry for Facts {
    fn basis(&self) -> Basis {
        Basis::License(self.license.license.id, self.license.license.tenant_id)
    }

    fn is_reusable(&self) -> bool {
        self.is_reusable()
    }
}

/// What was found, and whether it was read for this request.
pub(crate) struct Found<T> {
    pub value: T,
    pub origin: Origin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Database,
    Memory,
}

/// Why a load added no entry.
enum NoEntry<T> {
    Unknown,
    NotReusable(T),
    Failed(Error),
}

fn entries<K: Eq + Hash + Send + Sync + 'static, V: Clone + Send + Sync + 'static>() -> Entries<K, V> {
    Entries::builder().max_capacity(CAPACITY).time_to_idle(IDLE).build()
}

impl Cache {
    /// An empty cache of what is in this database.
    pub(crate) fn new(db: &Db) -> Self {
        Self {
            changes: Changes::new(db),
            api_keys: entries(),
            facts: entries(),
            unknown: Entries::builder().max_capacity(UNKNOWN_CAPACITY).time_to_live(UNKNOWN_FOR).build(),
        }
    }

    /// The API key with this lookup.
    pub(crate) async fn api_key(
        &self,
        lookup: Lookup,
        load: impl Future<Output = Result<Option<KnownApiKey>>>,
    ) -> Result<Option<Found<KnownApiKey>>> {
        self.find(&self.api_keys, lookup, lookup, load).await
    }

    /// The facts of the license with this key, for a device.
    pub(crate) async fn facts(
        &self,
        key: FactsKey,
        load: impl Future<Output = Result<Option<Facts>>>,
    ) -> Result<Option<Found<Facts>>> {
        self.find(&self.facts, key, key.0, load).await
    }

    /// Replaces an API key that was found as of `seq`, after it was used.
    pub(crate) async fn replace_api_key(&self, lookup: Lookup, value: KnownApiKey, seq: i64) {
        self.api_keys.insert(lookup, Known::new(value, seq)).await;
    }

    /// Replaces facts that were found as of `seq`, after the license was used.
    pub(crate) async fn replace_facts(&self, key: FactsKey, value: Facts, seq: i64) {
        if value.is_reusable() {
            self.facts.insert(key, Known::new(value, seq)).await;
        }
    }

    /// Forgets facts, so that they are read again.
    pub(crate) async fn forget_facts(&self, key: FactsKey) {
        self.facts.invalidate(&key).await;
    }

    async fn find<K, T>(
        &self,
        entries: &Entries<K, Arc<Known<T>>>,
        key: K,
        lookup: Lookup,
        load: impl Future<Output = Result<Option<T>>>,
    ) -> Result<Option<Found<T>>>
    where
        K: Copy + Eq + Hash + Send + Sync + 'static,
        T: Entry,
    {
        let seq = self.changes.current().await?;
        if let Some(known) = entries.get(&key).await {
            if self.changes.unchanged_since(known.seq.load(Ordering::Relaxed), known.value.basis()) {
                known.seq.fetch_max(seq, Ordering::Relaxed);
                return Ok(Some(Found { value: known.value.clone(), origin: Origin::Memory }));
            }
            entries.invalidate(&key).await;
        } else if let Some(unknown) = self.unknown.get(&lookup).await
            && self.changes.unchanged_since(unknown, Basis::UnknownKey)
        {
            return Ok(None);
        }
        let loaded = entries.try_get_with(key, async {
            match load.await {
                Ok(Some(value)) if value.is_reusable() => Ok(Known::new(value, seq)),
                Ok(Some(value)) => Err(NoEntry::NotReusable(value)),
                Ok(None) => Err(NoEntry::Unknown),
                Err(error) => Err(NoEntry::Failed(error)),
            }
        });
        let value = match loaded.await {
            Ok(known) => known.value.clone(),
            Err(none) => match &*none {
                NoEntry::NotReusable(value) => value.clone(),
                NoEntry::Failed(error) => return Err(error.clone()),
                NoEntry::Unknown => {
                    self.unknown.insert(lookup, seq).await;
                    return Ok(None);
                }
            },
        };
        Ok(Some(Found { value, origin: Origin::Database }))
    }
}
