//! In-memory cache of API keys and license facts. [`Changes`] says whether an entry is current; the verdict is computed for
//! each request. Concurrent loads of one entry share one statement.

use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use moka::future::Cache as MokaCache;

use crate::caller::AppCaller;
use crate::changes::{Basis, Changes};
use crate::db::Db;
use crate::entity::api_key::Model as ApiKey;
use crate::error::{Error, Result};
use crate::keyring::Lookup;
use crate::licenses::facts::Facts;

/// How many API keys are kept.
const API_KEYS: u64 = 20_000;

/// How many bytes of license facts are kept, about. A license without metadata takes 2 KiB, with each of its devices.
const FACTS_BYTES: u64 = 256 * 1024 * 1024;

/// How many keys that do not exist are remembered, and how long. They have room of their own, so that guesses displace
/// nothing.
const UNKNOWN_CAPACITY: u64 = 50_000;
const UNKNOWN_TTL: Duration = Duration::from_secs(5);

/// How long an entry that nobody asks for is kept.
const IDLE_TTL: Duration = Duration::from_hours(1);

/// By which key and device the facts of a license are known.
pub(crate) type FactsKey = (Lookup, Option<Lookup>);

/// The cache of a process.
pub struct Cache {
    /// What changed lately.
    pub changes: Changes,
    api_keys: MokaCache<Lookup, Arc<CacheEntry<CachedApiKey>>>,
    facts: MokaCache<FactsKey, Arc<CacheEntry<Facts>>>,
    unknown: MokaCache<Lookup, i64>,
}

/// What was read, and the newest event that is known not to concern it.
struct CacheEntry<T> {
    value: T,
    seq: AtomicI64,
}

impl<T> CacheEntry<T> {
    fn new(value: T, seq: i64) -> Arc<Self> {
        Arc::new(Self { value, seq: AtomicI64::new(seq) })
    }
}

/// An API key as it was read, with the app that it authenticates.
#[derive(Clone)]
pub(crate) struct CachedApiKey {
    pub key: Arc<ApiKey>,
    pub app: AppCaller,
}

/// What the cache keeps.
trait Cacheable: Clone + Send + Sync + 'static {
    /// What it depends on.
    fn basis(&self) -> Basis;

    /// Whether all that changes it has an event, so that it can be used again.
    fn is_reusable(&self) -> bool;
}

impl Cacheable for CachedApiKey {
    fn basis(&self) -> Basis {
        Basis::ApiKey(self.key.tenant_id)
    }

    fn is_reusable(&self) -> bool {
        true
    }
}

impl Cacheable for Facts {
    fn basis(&self) -> Basis {
        Basis::License(self.license.license.id, self.license.license.tenant_id)
    }

    fn is_reusable(&self) -> bool {
        self.is_reusable()
    }
}

/// What was found, and the event as of which it was.
pub(crate) struct Cached<T> {
    pub value: T,
    pub seq: i64,
    pub status: CacheStatus,
}

/// Whether something was in memory, or was read for this request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CacheStatus {
    Hit,
    Miss,
}

/// Why a load added no entry.
enum NotCached<T> {
    Unknown(i64),
    Once(T, i64),
    Failed(Error),
}

impl Cache {
    /// An empty cache of what is in this database.
    pub(crate) fn new(db: &Db) -> Self {
        Self {
            changes: Changes::new(db),
            api_keys: MokaCache::builder().max_capacity(API_KEYS).time_to_idle(IDLE_TTL).build(),
            facts: MokaCache::builder()
                .weigher(|_, entry: &Arc<CacheEntry<Facts>>| entry.value.size())
                .max_capacity(FACTS_BYTES)
                .time_to_idle(IDLE_TTL)
                .build(),
            unknown: MokaCache::builder().max_capacity(UNKNOWN_CAPACITY).time_to_live(UNKNOWN_TTL).build(),
        }
    }

    /// The API key with this lookup.
    pub(crate) async fn api_key<F: Future<Output = Result<Option<CachedApiKey>>>>(
        &self,
        lookup: Lookup,
        load: impl Fn() -> F,
    ) -> Result<Option<Cached<CachedApiKey>>> {
        self.get_or_load(&self.api_keys, lookup, lookup, load).await
    }

    /// The facts of the license with this key, for a device.
    pub(crate) async fn facts<F: Future<Output = Result<Option<Facts>>>>(
        &self,
        key: FactsKey,
        load: impl Fn() -> F,
    ) -> Result<Option<Cached<Facts>>> {
        self.get_or_load(&self.facts, key, key.0, load).await
    }

    /// Replaces an API key that was found as of `seq`, after it was used.
    pub(crate) async fn replace_api_key(&self, lookup: Lookup, value: CachedApiKey, seq: i64) {
        self.api_keys.insert(lookup, CacheEntry::new(value, seq)).await;
    }

    /// Replaces facts that were found as of `seq`, after the license was used.
    pub(crate) async fn replace_facts(&self, key: FactsKey, value: Facts, seq: i64) {
        if value.is_reusable() {
            self.facts.insert(key, CacheEntry::new(value, seq)).await;
        }
    }

    /// Removes facts, so that they are read again.
    pub(crate) async fn invalidate_facts(&self, key: FactsKey) {
        self.facts.invalidate(&key).await;
    }

    /// The entry, loaded unless a current one is known. Someone else's load may have begun before an event that this caller
    /// knows of, so what comes from a load is compared with the log too.
    async fn get_or_load<K, T, F>(
        &self,
        entries: &MokaCache<K, Arc<CacheEntry<T>>>,
        key: K,
        lookup: Lookup,
        load: impl Fn() -> F,
    ) -> Result<Option<Cached<T>>>
    where
        K: Copy + Eq + Hash + Send + Sync + 'static,
        T: Cacheable,
        F: Future<Output = Result<Option<T>>>,
    {
        loop {
            let seq = self.changes.fresh_seq().await?;
            if let Some(entry) = entries.get(&key).await {
                let known = entry.seq.load(Ordering::Relaxed);
                if self.changes.unchanged_since(known, entry.value.basis()) {
                    entry.seq.fetch_max(seq, Ordering::Relaxed);
                    return Ok(Some(Cached { value: entry.value.clone(), seq, status: CacheStatus::Hit }));
                }
                entries.invalidate(&key).await;
            } else if let Some(known) = self.unknown.get(&lookup).await
                && self.changes.unchanged_since(known, Basis::UnknownKey)
            {
                return Ok(None);
            }
            let loaded = entries.try_get_with(key, async {
                match load().await {
                    Ok(Some(value)) if value.is_reusable() => Ok(CacheEntry::new(value, seq)),
                    Ok(Some(value)) => Err(NotCached::Once(value, seq)),
                    Ok(None) => Err(NotCached::Unknown(seq)),
                    Err(error) => Err(NotCached::Failed(error)),
                }
            });
            let (value, seq) = match loaded.await {
                Ok(entry) => (entry.value.clone(), entry.seq.load(Ordering::Relaxed)),
                Err(none) => match &*none {
                    NotCached::Once(value, seq) => (value.clone(), *seq),
                    NotCached::Failed(error) => return Err(error.clone()),
                    NotCached::Unknown(seq) if self.changes.unchanged_since(*seq, Basis::UnknownKey) => {
                        self.unknown.insert(lookup, *seq).await;
                        return Ok(None);
                    }
                    NotCached::Unknown(_) => continue,
                },
            };
            if self.changes.unchanged_since(seq, value.basis()) {
                return Ok(Some(Cached { value, seq, status: CacheStatus::Miss }));
            }
        }
    }
}
