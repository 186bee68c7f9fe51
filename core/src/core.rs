//! The one value that doors and workers carry.

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

/// What every domain function works with; cheap to clone.
#[derive(Clone)]
pub struct Core {
    /// The database.
    pub db: Db,
    /// Domain time.
    pub clock: Clock,
    /// Randomness and ids.
    pub ids: Ids,
    /// Nudges.
    pub bus: Bus,
    /// Token buckets.
    pub limiter: Limiter,
    /// The order of observations.
    pub stamps: Stamps,
    /// What accounts are held to.
    pub rules: Arc<AccountPolicy>,
    passwords: Passwords,
    keys: Keyring,
}

impl Core {
    /// Puts the parts together and opens the keyring, so that a wrong master key fails here.
    ///
    /// # Errors
    /// When the database does not answer or the master key is wrong.
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

    /// Hashes and compares passwords.
    pub(crate) fn passwords(&self) -> &Passwords {
        &self.passwords
    }

    /// The data keys.
    pub(crate) fn keys(&self) -> &Keyring {
        &self.keys
    }
}
