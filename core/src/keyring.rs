//! The keyring: random data keys for each purpose, encrypted under one master key. A wrong master key is detected at
//! startup.
//!
//! A purpose has one key per generation. The newest one in effect seals, signs and derives; older ones still open and
//! verify. [`crate::key_rotation`] adds a generation a while before it takes effect, so that every instance has read it
//! ([`Keyring::reload`]) by then.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit, Mac};
use sea_orm::{ConnectionTrait, EntityTrait, IntoActiveModel, QueryOrder};
use sha2::Sha256;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::crypto::jws::Signer;
use crate::crypto::seal::{MasterKey, Purpose, decrypt, encrypt};
use crate::entity::key::{Column, Entity, Model};
use crate::entity::key_list;
use crate::{Clock, Db, Error, Ids, Result, db::insert_if_new};

/// The HMAC by which a key or fingerprint is found.
pub(crate) type Lookup = [u8; 32];

/// One generation of a purpose's key, decrypted.
pub(crate) struct DataKey {
    id: Uuid,
    secret: Zeroizing<[u8; 32]>,
    pub(crate) not_before: DateTime<Utc>,
    not_after: Option<DateTime<Utc>>,
    /// The key of a purpose that signs, computed from `secret` once.
    signer: OnceLock<Signer>,
    /// The state of an HMAC of the purpose, so that each value costs two rounds less.
    keyed: OnceLock<Hmac<Sha256>>,
}

impl DataKey {
    fn new(id: Uuid, secret: Zeroizing<[u8; 32]>, not_before: DateTime<Utc>, not_after: Option<DateTime<Utc>>) -> Self {
        Self { id, secret, not_before, not_after, signer: OnceLock::new(), keyed: OnceLock::new() }
    }

    fn is_known_at(&self, now: DateTime<Utc>) -> bool {
        self.not_after.is_none_or(|end| end > now)
    }

    /// HMAC-SHA-256 of `value`, which begins with the purpose.
    fn mac(&self, purpose: Purpose, value: &str) -> Lookup {
        let keyed = self.keyed.get_or_init(|| {
            let mut mac =
                <Hmac<Sha256> as KeyInit>::new_from_slice(&self.secret[..]).expect("HMAC takes any key length");
            mac.update(purpose.as_str().as_bytes());
            mac.update(&[0]);
            mac
        });
        let mut mac = keyed.clone();
        mac.update(value.as_bytes());
        mac.finalize().into_bytes().into()
    }

    /// The key of a purpose that signs.
    pub(crate) fn signer(&self) -> &Signer {
        self.signer.get_or_init(|| Signer::new(&self.secret))
    }
}

/// The generations of each purpose, newest first.
#[derive(Default)]
pub(crate) struct Generations(HashMap<Purpose, Vec<Arc<DataKey>>>);

impl Generations {
    /// All keys of a purpose that have not ended at `now`, newest first. The first of them may not be in effect yet.
    pub(crate) fn all(&self, purpose: Purpose, now: DateTime<Utc>) -> Vec<Arc<DataKey>> {
        let of_purpose = self.0.get(&purpose).into_iter().flatten();
        of_purpose.filter(|key| key.is_known_at(now)).cloned().collect()
    }
}

/// The decrypted data keys. Clones share them.
#[derive(Clone)]
pub struct Keyring {
    clock: Clock,
    master: Arc<RwLock<MasterKey>>,
    keys: Arc<RwLock<Generations>>,
}

impl Keyring {
    /// Opens the keyring of this database. Fails if the master key does not match the keyring.
    pub async fn open(db: &Db, clock: &Clock, master: &MasterKey) -> Result<Self> {
        let keyring =
            Self { clock: clock.clone(), master: Arc::new(RwLock::new(master.clone())), keys: Arc::default() };
        keyring.reload(db).await?;
        Ok(keyring)
    }

    /// Creates the first key of each purpose that has none.
    pub async fn create_missing(&self, db: &Db, ids: &Ids) -> Result<()> {
        // Once a list was signed, a missing root key was exported.
        let has_root = key_list::Entity::find().one(db.writer()).await?.is_some();
        let is_missing = |purpose| self.all(purpose).is_empty() && !(purpose == Purpose::RootSigning && has_root);
        for &purpose in Purpose::ALL.iter().filter(|purpose| is_missing(**purpose)) {
            // When two instances start at once, the second insert does nothing and both read the first key.
            let first = self.new_key(ids, purpose, 1, self.clock.now());
            insert_if_new(db.writer(), first.into_active_model()).await?;
        }
        self.reload(db).await
    }

    /// Whether this database already has a keyring.
    pub async fn is_sealed(db: &Db) -> Result<bool> {
        Ok(Entity::find().one(db.writer()).await?.is_some())
    }

    /// Reads the generations that were added since. Fails if they were encrypted under another master key.
    pub async fn reload(&self, db: &Db) -> Result<()> {
        let keys = self.read(db.read()).await?;
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
        Ok(())
    }

    /// Reads all generations, and decrypts those that are not known yet.
    pub(crate) async fn read(&self, db: &impl ConnectionTrait) -> Result<Generations> {
        let mut keys = Generations::default();
        for row in Entity::find().order_by_desc(Column::Generation).all(db).await? {
            let known = self.all(row.purpose).into_iter().find(|key| key.id == row.id);
            let secret = known.map_or_else(|| self.decrypt(&row), |known| Ok(known.secret.clone()))?;
            let Model { id, purpose, not_before, not_after, .. } = row;
            let key = DataKey::new(id, secret, not_before, not_after);
            keys.0.entry(purpose).or_default().push(Arc::new(key));
        }
        Ok(keys)
    }

    /// Uses another master key from now on.
    pub(crate) fn set_master(&self, master: MasterKey) {
        *self.master.write().unwrap_or_else(PoisonError::into_inner) = master;
    }

    fn master(&self) -> MasterKey {
        self.master.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A new random key, encrypted under the master key.
    pub(crate) fn new_key(&self, ids: &Ids, purpose: Purpose, generation: i32, not_before: DateTime<Utc>) -> Model {
        let id = ids.v7(self.clock.now());
        let sealed = encrypt(&*self.master().0, ids, purpose, id, &ids.bytes::<32>());
        Model { id, purpose, generation, sealed, not_before, not_after: None }
    }

    /// Decrypts a row of the keyring.
    pub(crate) fn decrypt(&self, row: &Model) -> Result<Zeroizing<[u8; 32]>> {
        let wrong = "the master key does not match this database; use the key it was created with";
        let key = decrypt(&*self.master().0, row.purpose, row.id, &row.sealed).map(Zeroizing::new);
        let key = key.and_then(|key| key.as_slice().try_into().ok());
        key.map(Zeroizing::new).ok_or_else(|| Error::Internal(wrong.to_owned()))
    }

    /// All keys of a purpose that have not ended, newest first. The first of them may not be in effect yet.
    pub(crate) fn all(&self, purpose: Purpose) -> Vec<Arc<DataKey>> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).all(purpose, self.clock.now())
    }

    /// The key of a purpose in effect at `time`; the oldest, if this instance's clock is behind.
    ///
    /// # Panics
    /// If [`create_missing`](Self::create_missing) was not called.
    pub(crate) fn in_effect_at(&self, purpose: Purpose, time: DateTime<Utc>) -> Arc<DataKey> {
        let (now, keys) = (self.clock.now(), self.keys.read().unwrap_or_else(PoisonError::into_inner));
        let mut known = keys.0.get(&purpose).into_iter().flatten().filter(|key| key.is_known_at(now)).peekable();
        let mut in_effect = None;
        while let Some(key) = known.next() {
            if key.not_before <= time || known.peek().is_none() {
                in_effect = Some(key.clone());
                break;
            }
        }
        in_effect.expect("a key of each purpose was created")
    }

    /// HMAC-SHA-256 of `value` under the purpose's key.
    pub fn mac(&self, purpose: Purpose, value: &str) -> Vec<u8> {
        self.mac_at(purpose, value, self.clock.now())
    }

    /// [`mac`](Self::mac) as a key of the cache.
    pub(crate) fn lookup(&self, purpose: Purpose, value: &str) -> Lookup {
        self.in_effect_at(purpose, self.clock.now()).mac(purpose, value)
    }

    /// [`mac`](Self::mac) as it was at `time`, to derive the same value again.
    pub(crate) fn mac_at(&self, purpose: Purpose, value: &str, time: DateTime<Utc>) -> Vec<u8> {
        self.in_effect_at(purpose, time).mac(purpose, value).to_vec()
    }

    /// [`mac`](Self::mac) under each generation, to find or verify a value that an older one produced.
    pub(crate) fn macs(&self, purpose: Purpose, value: &str) -> Vec<Vec<u8>> {
        self.all(purpose).iter().map(|key| key.mac(purpose, value).to_vec()).collect()
    }

    /// Encrypts `plain` for this row. Returns the nonce followed by the ciphertext.
    pub fn seal(&self, ids: &Ids, purpose: Purpose, row: Uuid, plain: &str) -> Vec<u8> {
        encrypt(&self.in_effect_at(purpose, self.clock.now()).secret[..], ids, purpose, row, plain.as_bytes())
    }

    /// Decrypts the result of [`seal`](Self::seal) of any generation. Fails if the bytes were changed or belong to
    /// another row or purpose.
    pub fn unseal(&self, purpose: Purpose, row: Uuid, sealed: &[u8]) -> Result<String> {
        let plain = self.all(purpose).iter().find_map(|key| decrypt(&key.secret[..], purpose, row, sealed));
        plain
            .and_then(|plain| String::from_utf8(plain).ok())
            .ok_or_else(|| Error::Internal(format!("the {purpose} ciphertext of {row} cannot be decrypted")))
    }
}

#[cfg(test)]
impl Keyring {
    /// A keyring with a random key of each purpose, without a database.
    pub(crate) fn of_test(ids: &Ids) -> Self {
        let clock = Clock::system();
        let not_before = clock.now();
        let key = |purpose: &Purpose| {
            let (id, secret) = (ids.v4(), Zeroizing::new(ids.bytes::<32>()));
            (*purpose, vec![Arc::new(DataKey::new(id, secret, not_before, None))])
        };
        let keys = Arc::new(RwLock::new(Generations(Purpose::ALL.iter().map(key).collect())));
        Self { clock, master: Arc::new(RwLock::new(MasterKey::new(ids.bytes()))), keys }
    }
}
