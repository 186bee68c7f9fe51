//! Encryption at rest: a keyring of random data keys, one per purpose, encrypted under one master key.
//!
//! AES-256-GCM with a random 96-bit nonce. The associated data is the length-prefixed purpose and the row's id, so a
//! ciphertext copied to another row or column does not decrypt. A wrong master key is detected at startup.

use std::{collections::HashMap, sync::Arc};

use aes_gcm::{
    Aes256Gcm, Key,
    aead::{Aead, KeyInit, Payload},
};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::{Clock, Db, Error, Ids, Result, error::string_enum, keyring};

string_enum! {
    /// The purpose of a data key. The strings must never change, because they are part of the associated data.
    Purpose {
        LicenseLookup => ("license-lookup", "Looks up a license by its key."),
        LicenseSeal => ("license-seal", "Encrypts license keys, so that they can be shown again."),
        ApiKeyLookup => ("api-key-lookup", "Looks up an API key."),
        AccessToken => ("access-token", "Signs access tokens."),
        RefreshToken => ("refresh-token", "Derives refresh tokens."),
        VerifyEmail => ("verify-email", "Derives the tokens that verify an email address."),
        ResetPassword => ("reset-password", "Derives the tokens that set a new password."),
        SignIn => ("sign-in", "Derives the state of a sign-in with a provider."),
        SecondFactor => ("second-factor", "Derives the tokens of sign-ins that require a second factor."),
        KnownDevice => ("known-device", "Recognizes a browser that signed in before."),
        CodeVerifier => ("code-verifier", "Derives the PKCE verifier of a sign-in."),
        ThrottleName => ("throttle-name", "Hashes the names of throttles."),
        RecoveryCode => ("recovery-code", "Looks up a recovery code."),
        TotpSeal => ("totp-seal", "Encrypts TOTP secrets."),
        ProviderTokens => ("provider-tokens", "Encrypts the tokens of a provider."),
    }
}

/// The 32-byte key that encrypts the data keys.
#[derive(Clone)]
pub struct MasterKey(Zeroizing<[u8; 32]>);

impl MasterKey {
    /// Creates a master key from 32 random bytes.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

/// The decrypted data keys.
#[derive(Clone)]
pub struct Keyring(Arc<HashMap<Purpose, Zeroizing<Vec<u8>>>>);

impl Keyring {
    /// Opens the keyring of this database and creates missing keys.
    ///
    /// # Errors
    /// If the master key does not match the keyring.
    pub async fn open(db: &Db, clock: &Clock, ids: &Ids, master: &MasterKey) -> Result<Self> {
        let mut keys = HashMap::new();
        for &purpose in Purpose::ALL {
            let new_id = ids.v7(clock.now());
            let sealed = encrypt(&*master.0, ids, purpose, new_id, &ids.bytes::<32>());
            let row = keyring::find_or_create(db, purpose, new_id, sealed, clock.now()).await?;
            let key = decrypt(&*master.0, purpose, row.id, &row.sealed).ok_or_else(|| {
                Error::Internal(
                    "the master key does not match this database; use the key it was created with".to_owned(),
                )
            })?;
            keys.insert(purpose, Zeroizing::new(key));
        }
        Ok(Self(Arc::new(keys)))
    }

    /// Whether this database already has a keyring.
    pub async fn is_sealed(db: &Db) -> Result<bool> {
        keyring::exists(db).await
    }

    pub(crate) fn key(&self, purpose: Purpose) -> &[u8] {
        self.0.get(&purpose).map_or(&[], |key| key.as_slice())
    }

    /// HMAC-SHA-256 of `value` under the purpose's key.
    ///
    /// # Panics
    /// Never: HMAC takes keys of any length.
    #[must_use]
    pub fn mac(&self, purpose: Purpose, value: &str) -> Vec<u8> {
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(self.key(purpose)).expect("HMAC takes any key length");
        mac.update(purpose.as_str().as_bytes());
        mac.update(&[0]);
        mac.update(value.as_bytes());
        mac.finalize().into_bytes().to_vec()
    }

    /// Encrypts `plain` for this row. Returns the nonce followed by the ciphertext.
    #[must_use]
    pub fn seal(&self, ids: &Ids, purpose: Purpose, row: Uuid, plain: &str) -> Vec<u8> {
        encrypt(self.key(purpose), ids, purpose, row, plain.as_bytes())
    }

    /// Decrypts the result of [`seal`](Self::seal).
    ///
    /// # Errors
    /// If the bytes were changed or belong to another row or purpose.
    pub fn unseal(&self, purpose: Purpose, row: Uuid, sealed: &[u8]) -> Result<String> {
        decrypt(self.key(purpose), purpose, row, sealed)
            .and_then(|plain| String::from_utf8(plain).ok())
            .ok_or_else(|| Error::Internal(format!("the {purpose} ciphertext of {row} cannot be decrypted")))
    }
}

const NONCE: usize = 12;

fn aad(purpose: Purpose, row: Uuid) -> Vec<u8> {
    let label = purpose.as_str().as_bytes();
    let length = u32::try_from(label.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes(), label, row.as_bytes()].concat()
}

fn cipher(key: &[u8]) -> Aes256Gcm {
    Aes256Gcm::new(&Key::<Aes256Gcm>::try_from(key).expect("data keys have 32 bytes"))
}

fn encrypt(key: &[u8], ids: &Ids, purpose: Purpose, row: Uuid, plain: &[u8]) -> Vec<u8> {
    let nonce = ids.bytes::<NONCE>();
    let payload = Payload { msg: plain, aad: &aad(purpose, row) };
    let sealed = cipher(key).encrypt(&nonce.into(), payload).expect("the plaintext is short");
    [nonce.as_slice(), &sealed].concat()
}

fn decrypt(key: &[u8], purpose: Purpose, row: Uuid, sealed: &[u8]) -> Option<Vec<u8>> {
    let (nonce, sealed) = sealed.split_first_chunk::<NONCE>()?;
    let payload = Payload { msg: sealed, aad: &aad(purpose, row) };
    cipher(key).decrypt(&(*nonce).into(), payload).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ciphertexts_decrypt_only_in_their_row_and_purpose() {
        let (ids, key) = (Ids::seeded(2), [7; 32]);
        let row = ids.v4();
        let sealed = encrypt(&key, &ids, Purpose::LicenseSeal, row, b"plain");
        assert_eq!(decrypt(&key, Purpose::LicenseSeal, row, &sealed).as_deref(), Some(&b"plain"[..]));
        assert_eq!(decrypt(&key, Purpose::LicenseSeal, ids.v4(), &sealed), None);
        assert_eq!(decrypt(&key, Purpose::LicenseLookup, row, &sealed), None);
        assert_eq!(decrypt(&[8; 32], Purpose::LicenseSeal, row, &sealed), None);
        assert_eq!(decrypt(&key, Purpose::LicenseSeal, row, &sealed[..NONCE]), None);
        for index in 0..sealed.len() {
            let mut flipped = sealed.clone();
            flipped[index] ^= 1;
            assert_eq!(decrypt(&key, Purpose::LicenseSeal, row, &flipped), None);
        }
    }
}
