//! Encryption at rest.
//!
//! AES-256-GCM with a random 96-bit nonce. The associated data is the length-prefixed purpose and the row's id, so a
//! ciphertext copied to another row or column does not decrypt. A wrong master key is detected at startup.

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Key};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::{Ids, string_enum::string_enum};

string_enum! {
    /// The purpose of a data key. The strings must never change, because they are part of the associated data.
    ///
    /// `…Lookup`, `ThrottleName`, `RecoveryCode`, `KnownDevice` and `Fingerprint` are keys of HMACs that identify a row,
    /// browser or device; `Cursor` authenticates; `…Seal`, `ProviderTokens` and `IdempotentResponse` encrypt; `AccessToken`
    /// and `…Signing` sign. From the others, tokens are derived.
    Purpose {
        LicenseLookup => "license-lookup",
        LicenseSeal => "license-seal",
        ApiKeyLookup => "api-key-lookup",
        AccessToken => "access-token",
        RefreshToken => "refresh-token",
        VerifyEmail => "verify-email",
        ResetPassword => "reset-password",
        ChangeEmail => "change-email",
        SignIn => "sign-in",
        SecondFactor => "second-factor",
        KnownDevice => "known-device",
        CodeVerifier => "code-verifier",
        ThrottleName => "throttle-name",
        RecoveryCode => "recovery-code",
        TotpSeal => "totp-seal",
        ProviderTokens => "provider-tokens",
        Cursor => "cursor",
        Fingerprint => "fingerprint",
        VerdictSigning => "verdict-signing",
        RootSigning => "root-signing",
        IdempotentResponse => "idempotent-answer",
    }
}

/// The 32-byte key that encrypts the data keys.
#[derive(Clone)]
pub struct MasterKey(pub(crate) Zeroizing<[u8; 32]>);

impl MasterKey {
    /// Creates a master key from 32 random bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
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

pub(crate) fn encrypt(key: &[u8], ids: &Ids, purpose: Purpose, row: Uuid, plain: &[u8]) -> Vec<u8> {
    let nonce = ids.bytes::<NONCE>();
    let payload = Payload { msg: plain, aad: &aad(purpose, row) };
    let sealed = cipher(key).encrypt(&nonce.into(), payload).expect("the plaintext is short");
    [nonce.as_slice(), &sealed].concat()
}

pub(crate) fn decrypt(key: &[u8], purpose: Purpose, row: Uuid, sealed: &[u8]) -> Option<Vec<u8>> {
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
