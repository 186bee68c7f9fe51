//! The shared context of request handlers, commands and workers.

use std::sync::Arc;

use sea_orm::ConnectionTrait;

use crate::accounts::{AccountPolicy, Accounts};
use crate::cache::Cache;
use crate::db::{self, Db};
use crate::write_behind::WriteBehind;
use crate::{Bus, Clock, Ids, Limiter, Result, crypto::seal::MasterKey, entitlements::Stamps, keyring::Keyring};

/// The settings of the domain.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The settings of accounts.
    pub accounts: AccountPolicy,
    /// The URL of this service: the issuer of what it signs for apps.
    pub public_url: String,
}

/// The dependencies of every domain function. Cheap to clone.
#[derive(Clone)]
pub struct Core {
    /// The database.
    pub db: Db,
    /// The source of domain time.
    pub clock: Clock,
    /// The source of randomness and ids.
    pub ids: Ids,
    /// Notifications about new work.
    pub bus: Bus,
    /// Rate limits.
    pub limiter: Limiter,
    /// Orders observations.
    pub stamps: Stamps,
    /// Settings and passwords of accounts.
    pub accounts: Accounts,
    /// The `iss` of what this service signs for apps: its public URL.
    pub(crate) issuer: Arc<str>,
    /// What is stored after the answer that it is part of.
    pub write_behind: WriteBehind,
    /// What validations read again and again.
    pub cache: Arc<Cache>,
    keys: Keyring,
}

impl Core {
    /// Builds the context and opens the keyring. Fails if the master key is wrong. Changes nothing.
    pub async fn open(
        db: Db,
        clock: Clock,
        ids: Ids,
        bus: Bus,
        limiter: Limiter,
        settings: Settings,
        master: &MasterKey,
    ) -> Result<Self> {
        let keys = Keyring::open(&db, &clock, master).await?;
        let accounts = Accounts::new(settings.accounts, ids.clone())?;
        let (issuer, write_behind, cache) =
            (settings.public_url.into(), WriteBehind::default(), Arc::new(Cache::new(&db)));
        let stamps = Stamps::default();
        Ok(Self { db, clock, ids, bus, limiter, stamps, accounts, issuer, write_behind, cache, keys })
    }

    /// Creates the data keys that do not exist yet.
    pub async fn create_missing_keys(&self) -> Result<()> {
        self.keys.create_missing(&self.db, &self.ids).await
    }

    /// Reads data keys that were added since. Every process calls it regularly. Fails with `Error::Internal` if they
    /// were encrypted under another master key than the one in use.
    pub async fn reload_keys(&self) -> Result<()> {
        self.keys.reload(&self.db).await
    }

    /// Uses another master key from now on, under which [`rewrap`](crate::key_rotation::rewrap) has encrypted the keys.
    pub fn set_master_key(&self, master: MasterKey) {
        self.keys.set_master(master);
    }

    /// The data encryption keys.
    pub(crate) fn keys(&self) -> &Keyring {
        &self.keys
    }
}

impl db::Reader for Core {
    fn connection(&self) -> &impl ConnectionTrait {
        self.db.read()
    }
}
