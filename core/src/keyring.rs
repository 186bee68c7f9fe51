//! The keyring: random data keys, one per purpose, encrypted under one master key. A wrong master key is detected
//! at startup.

use std::{collections::HashMap, sync::Arc};

use chrono::{DateTime, Utc};
use hmac::{Hmac, KeyInit, Mac};
use sea_orm::{ColumnTrait, EntityTrait, IntoActiveModel, QueryFilter, QueryOrder};
use sha2::Sha256;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::crypto::seal::{MasterKey, Purpose, decrypt, encrypt};
use crate::entity::key::{Column, Entity, Model};
use crate::{Clock, Db, Error, Ids, Result, db::insert_if_new};

/// The decrypted data keys.
#[derive(Clone)]
pub struct Keyring(Arc<HashMap<Purpose, Zeroizing<Vec<u8>>>>);

impl Keyring {
    /// Opens the keyring of this database and creates missing keys. Fails if the master key does not match the keyring.
    pub async fn open(db: &Db, clock: &Clock, ids: &Ids, master: &MasterKey) -> Result<Self> {
        let mut keys = HashMap::new();
        for &purpose in Purpose::ALL {
            let new_id = ids.v7(clock.now());
            let sealed = encrypt(&*master.0, ids, purpose, new_id, &ids.bytes::<32>());
            let row = find_or_create(db, purpose, new_id, sealed, clock.now()).await?;
            let key = decrypt(&*master.0, purpose, row.id, &row.sealed);
            let wrong = "the master key does not match this database; use the key it was created with";
            keys.insert(purpose, Zeroizing::new(key.ok_or_else(|| Error::Internal(wrong.to_owned()))?));
        }
        Ok(Self(Arc::new(keys)))
    }

    /// Whether this database already has a keyring.
    pub async fn is_sealed(db: &Db) -> Result<bool> {
        Ok(Entity::find().one(db.writer()).await?.is_some())
    }

    pub(crate) fn key(&self, purpose: Purpose) -> &[u8] {
        self.0.get(&purpose).map_or(&[], |key| key.as_slice())
    }

    /// HMAC-SHA-256 of `value` under the purpose's key.
    ///
    /// # Panics
    /// Never: HMAC takes keys of any length.
    pub fn mac(&self, purpose: Purpose, value: &str) -> Vec<u8> {
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(self.key(purpose)).expect("HMAC takes any key length");
        mac.update(purpose.as_str().as_bytes());
        mac.update(&[0]);
        mac.update(value.as_bytes());
        mac.finalize().into_bytes().to_vec()
    }

    /// Encrypts `plain` for this row. Returns the nonce followed by the ciphertext.
    pub fn seal(&self, ids: &Ids, purpose: Purpose, row: Uuid, plain: &str) -> Vec<u8> {
        encrypt(self.key(purpose), ids, purpose, row, plain.as_bytes())
    }

    /// Decrypts the result of [`seal`](Self::seal). Fails if the bytes were changed or belong to another row or
    /// purpose.
    pub fn unseal(&self, purpose: Purpose, row: Uuid, sealed: &[u8]) -> Result<String> {
        decrypt(self.key(purpose), purpose, row, sealed)
            .and_then(|plain| String::from_utf8(plain).ok())
            .ok_or_else(|| Error::Internal(format!("the {purpose} ciphertext of {row} cannot be decrypted")))
    }
}

/// Returns the newest key of a purpose, or creates the first one from `id` and `sealed`. When two instances
/// start at once, the second insert does nothing and both read the first key.
async fn find_or_create(db: &Db, purpose: Purpose, id: Uuid, sealed: Vec<u8>, now: DateTime<Utc>) -> Result<Model> {
    let newest = Entity::find().filter(Column::Purpose.eq(purpose)).order_by_desc(Column::Generation);
    if let Some(row) = newest.clone().one(db.writer()).await? {
        return Ok(row);
    }
    let first = Model { id, purpose, generation: 1, sealed, not_before: now, not_after: None };
    insert_if_new(db.writer(), first.into_active_model()).await?;
    let row = newest.one(db.writer()).await?;
    row.ok_or_else(|| Error::Internal(format!("the {purpose} key is missing from the keyring table")))
}
