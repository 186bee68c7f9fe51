//! The shared context of request handlers, commands and workers.

use std::sync::Arc;

use crate::{
    Bus, Clock, Ids, Limiter, Result,
    accounts::AccountPolicy,
    crypto::{
        password::Passwords,
        seal::{Keyring, MasterKey},
    },
    entitlements::Stamps,
    tx::Db,
};

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
    /// Account settings, such as token lifetimes and attempt limits.
    pub rules: Arc<AccountPolicy>,
    passwords: Passwords,
    keys: Keyring,
}

impl Core {
    /// Builds the context and opens the keyring.
    ///
    /// # Errors
    /// If the master key is wrong.
    pub async fn open(
        db: Db,
        clock: Clock,
        ids: Ids,
        bus: Bus,
        limiter: Limiter,
        rules: AccountPolicy,
        master: &MasterKey,
    ) -> Result<Self> {
        let keys = Keyring::open(&db, &clock, &ids, master).await?;
        let passwords = Passwords::new(rules.password_memory_kib, rules.max_concurrent_hashes, ids.clone())?;
        Ok(Self { db, clock, ids, bus, limiter, stamps: Stamps::default(), rules: Arc::new(rules), passwords, keys })
    }

    /// Hashes and verifies passwords.
    pub(crate) fn passwords(&self) -> &Passwords {
        &self.passwords
    }

    /// The data encryption keys.
    pub(crate) fn keys(&self) -> &Keyring {
        &self.keys
    }
}
