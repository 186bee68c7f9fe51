//! Password hashing: argon2id for new hashes. Existing bcrypt hashes are accepted and replaced at the next sign-in.
//!
//! Hashing is expensive by design, so only a few hashes run at once, each on a thread of its own with a low priority, so
//! that other requests do not wait for it; requests that wait too long for a permit are refused. Accounts without a
//! password are compared with a dummy hash, so that the timing does not reveal them.

use std::{sync::Arc, thread, time::Duration};

use argon2::{Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version, password_hash::phc::PasswordHash};
use tokio::sync::{Semaphore, oneshot};
use zeroize::Zeroizing;
use zxcvbn::zxcvbn;

use crate::{Error, Ids, Reason, Result};

/// Minimum and maximum length of a password, in characters (ASVS 6.2.1 and 6.2.9).
pub const LENGTH: std::ops::RangeInclusive<usize> = 8..=128;

/// Maximum wait for a permit.
const TIMEOUT: Duration = Duration::from_secs(2);

/// argon2 passes over the memory.
const PASSES: u32 = 3;

/// The priority of hashing threads, as in nice(1). A hash still gets a tenth of a core that is busy otherwise.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 10;

/// Limits for stored hashes, so that an imported one cannot exhaust the server: 1 GiB, 10 passes, bcrypt cost 14.
const MAX_MEMORY_KIB: u32 = 1024 * 1024;
const MAX_PASSES: u32 = 10;
const MAX_BCRYPT_COST: u32 = 14;

/// The result of comparing a password with a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PasswordMatch {
    /// The password is wrong, or there is no hash.
    No,
    /// The password is correct.
    Yes,
    /// The password is correct, but its hash uses old parameters.
    Outdated,
}

/// Hashes and compares passwords.
#[derive(Clone)]
pub struct Passwords(Arc<Inner>);

struct Inner {
    argon2: Argon2<'static>,
    permits: Arc<Semaphore>,
    dummy_hash: String,
    ids: Ids,
}

impl Passwords {
    /// Uses argon2id with `memory_kib` KiB, three passes and one lane; at most `permits` hashes run at once. Fails if
    /// argon2 rejects the parameters.
    pub fn new(memory_kib: u32, permits: usize, ids: Ids) -> Result<Self> {
        let broken = |error: String| Error::Internal(format!("argon2: {error}"));
        let params = Params::new(memory_kib, PASSES, 1, None).map_err(|error| broken(error.to_string()))?;
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let dummy_hash = dummy_hash(memory_kib);
        Ok(Self(Arc::new(Inner { argon2, permits: Arc::new(Semaphore::new(permits.max(1))), dummy_hash, ids })))
    }

    /// Hashes a new password, in PHC string format, after checking its length and strength. `context` lists words an
    /// attacker would try for this account, such as its email, its name and the name of the service. Refused with
    /// `VALIDATION_ERROR` at `password`.
    pub(crate) async fn hash_new(&self, password: &str, context: &[&str]) -> Result<String> {
        let length = password.chars().count();
        if !LENGTH.contains(&length) {
            return Err(Reason::PasswordLength { min: *LENGTH.start(), max: *LENGTH.end() }.refusal());
        }
        let context: Vec<String> = context.iter().map(|word| (*word).to_owned()).collect();
        self.with_permit(password, move |inner, password| {
            if is_guessable(password, &context) {
                return Err(Reason::GuessablePassword.refusal());
            }
            hash(&inner.argon2, &inner.ids, password)
        })
        .await
    }

    /// Hashes an existing password, without checking it.
    pub(crate) async fn hash(&self, password: &str) -> Result<String> {
        self.with_permit(password, |inner, password| hash(&inner.argon2, &inner.ids, password)).await
    }

    /// Compares a password with a stored hash. Takes as long if there is none.
    pub(crate) async fn compare(&self, password: &str, stored_hash: Option<String>) -> Result<PasswordMatch> {
        let found = self.find_match(password, vec![stored_hash]).await?;
        Ok(found.map_or(PasswordMatch::No, |(_, outcome)| outcome))
    }

    /// Compares a password with these hashes until one matches, and returns its index. All comparisons share one
    /// permit, so that a refusal for lack of permits means that nothing was compared.
    pub(crate) async fn find_match(
        &self,
        password: &str,
        stored_hashes: Vec<Option<String>>,
    ) -> Result<Option<(usize, PasswordMatch)>> {
        self.with_permit(password, move |inner, password| {
            let outcome = |stored_hash: &Option<String>| {
                let outcome = compare(&inner.argon2, password, stored_hash.as_deref().unwrap_or(&inner.dummy_hash));
                if stored_hash.is_some() { outcome } else { PasswordMatch::No }
            };
            Ok(stored_hashes.iter().map(outcome).enumerate().find(|(_, outcome)| *outcome != PasswordMatch::No))
        })
        .await
    }

    async fn with_permit<T: Send + 'static>(
        &self,
        password: &str,
        work: impl FnOnce(&Inner, &str) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let permit = tokio::time::timeout(TIMEOUT, Arc::clone(&self.0.permits).acquire_owned()).await;
        let Ok(Ok(permit)) = permit else {
            return Err(Reason::TooManySignIns.retry_after(TIMEOUT));
        };
        let (inner, password) = (Arc::clone(&self.0), Zeroizing::new(password.to_owned()));
        let (sender, result) = oneshot::channel();
        // The permit moves into the thread: a dropped request must not free it while the hash is still running. To start
        // a thread costs little next to a hash.
        let hashing = move || {
            lower_priority();
            let result = work(&inner, &password);
            drop(permit);
            _ = sender.send(result);
        };
        let started = thread::Builder::new().name("password".to_owned()).spawn(hashing);
        started.map_err(|error| Error::Internal(format!("cannot start a thread to hash on: {error}")))?;
        result.await.map_err(|_| Error::Internal("hashing panicked".to_owned()))?
    }
}

/// Lets the other threads of this process run first. A sandbox that forbids it costs latency only.
#[cfg(target_os = "linux")]
fn lower_priority() {
    _ = rustix::process::setpriority_process(None, NICENESS);
}

/// Other systems have no priority of a single thread, only that of the process.
#[cfg(not(target_os = "linux"))]
fn lower_priority() {}

/// A hash with the current parameters that no known password matches. It is not computed, so that a start is fast, but
/// comparing with it takes as long as with any other.
fn dummy_hash(memory_kib: u32) -> String {
    const SALT_AND_HASH: &str = "Zx2vT0q8mC1sJ7yKfLw4Rg$u5QmXc0Wb8Zr1TtJv6yKq3sHn9LdE2fPo7AgUiBxY4M";
    format!("$argon2id$v=19$m={memory_kib},t={PASSES},p=1${SALT_AND_HASH}")
}

fn hash(argon2: &Argon2<'_>, ids: &Ids, password: &str) -> Result<String> {
    let hash: PasswordHash = argon2
        .hash_password_with_salt(password.as_bytes(), &ids.bytes::<16>())
        .map_err(|error| Error::Internal(format!("argon2: {error}")))?;
    Ok(hash.to_string())
}

fn compare(argon2: &Argon2<'_>, password: &str, stored_hash: &str) -> PasswordMatch {
    if stored_hash.starts_with("$2") {
        let cost = stored_hash.split('$').nth(2).and_then(|cost| cost.parse().ok());
        let is_within_limits = cost.is_some_and(|cost: u32| cost <= MAX_BCRYPT_COST);
        // Like the systems that created these hashes, bcrypt uses only the first 72 bytes.
        let is_match = is_within_limits && bcrypt::verify(password, stored_hash).unwrap_or(false);
        return if is_match { PasswordMatch::Outdated } else { PasswordMatch::No };
    }
    let Ok(parsed) = PasswordHash::new(stored_hash) else { return PasswordMatch::No };
    let Ok(params) = Params::try_from(&parsed) else { return PasswordMatch::No };
    let is_within_limits = params.m_cost() <= MAX_MEMORY_KIB && params.t_cost() <= MAX_PASSES;
    if !is_within_limits || argon2.verify_password(password.as_bytes(), &parsed).is_err() {
        return PasswordMatch::No;
    }
    let current = argon2.params();
    let is_current =
        (params.m_cost(), params.t_cost(), params.p_cost()) == (current.m_cost(), current.t_cost(), current.p_cost());
    if is_current && parsed.algorithm.as_str() == "argon2id" { PasswordMatch::Yes } else { PasswordMatch::Outdated }
}

/// Whether an attacker who knows these words would guess the password soon.
fn is_guessable(password: &str, context: &[String]) -> bool {
    /// More than the 3,000 most common passwords that ASVS 6.2.4 requires to reject.
    const MIN_GUESSES: u64 = 10_000;
    /// Only the first characters are estimated, because the estimate takes longer with each one and a password
    /// that is strong up to here is strong enough.
    const MAX_ESTIMATED_CHARS: usize = 32;
    // Whole entries before their parts: removing a part first would keep the whole entry from matching.
    let whole = context.iter().map(String::as_str);
    let parts = context.iter().flat_map(|text| text.split(|c: char| !c.is_alphanumeric()));
    let words = whole.chain(parts).filter(|word| word.chars().count() >= 4);
    let words: Vec<String> = words.map(str::to_lowercase).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    // Without the context words, enough of the password must remain.
    let rest = words.iter().fold(password.to_lowercase(), |rest, word| rest.replace(word, ""));
    let head: String = password.chars().take(MAX_ESTIMATED_CHARS).collect();
    rest.chars().count() < 6 || zxcvbn(&head, &words).guesses() < MIN_GUESSES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cheap() -> Argon2<'static> {
        Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(64, 1, 1, None).unwrap())
    }

    #[test]
    fn argon2_and_bcrypt_hashes_are_compared_within_cost_limits() {
        let ids = Ids::seeded(3);
        let argon2id = hash(&cheap(), &ids, "pass\0word").unwrap();
        assert_eq!(compare(&cheap(), "pass\0word", &argon2id), PasswordMatch::Yes);
        assert_eq!(compare(&cheap(), "pass", &argon2id), PasswordMatch::No);
        let stronger = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(128, 1, 1, None).unwrap());
        assert_eq!(compare(&stronger, "pass\0word", &argon2id), PasswordMatch::Outdated);
        let bcrypt = bcrypt::hash("correct horse", 4).unwrap();
        assert_eq!(compare(&cheap(), "correct horse", &bcrypt), PasswordMatch::Outdated);
        assert_eq!(compare(&cheap(), "correct horsf", &bcrypt), PasswordMatch::No);
        for stored in [
            "$2b$31$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
            "$argon2id$v=19$m=4194304,t=3,p=1$c29tZXNhbHRzb21lc2FsdA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
            "$argon2id$v=19$m=64,t=4000000,p=1$c29tZXNhbHRzb21lc2FsdA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
            "plain",
            "",
        ] {
            assert_eq!(compare(&cheap(), "x", stored), PasswordMatch::No, "{stored}");
        }
    }

    #[test]
    fn the_dummy_hash_is_a_valid_one_with_the_current_parameters() {
        let dummy = dummy_hash(64);
        let parsed = PasswordHash::new(&dummy).unwrap();
        let params = Params::try_from(&parsed).unwrap();
        let passwords = Passwords::new(64, 1, Ids::seeded(3)).unwrap();
        let current = passwords.0.argon2.params();
        assert_eq!(
            (params.m_cost(), params.t_cost(), params.p_cost()),
            (current.m_cost(), current.t_cost(), current.p_cost())
        );
        let real = hash(&passwords.0.argon2, &Ids::seeded(3), "right").unwrap();
        assert_eq!(dummy.len(), real.len());
        assert_eq!(parsed.to_string(), dummy);
        assert_eq!(compare(&passwords.0.argon2, "", &dummy), PasswordMatch::No);
    }

    #[tokio::test]
    async fn all_hashes_of_a_guess_are_compared_with_one_permit() {
        let passwords = Passwords::new(64, 1, Ids::seeded(3)).unwrap();
        let stored = hash(&cheap(), &Ids::seeded(3), "right").unwrap();
        let busy = passwords.0.permits.clone().acquire_owned().await.unwrap();
        let guess = passwords.find_match("right", vec![None, Some(stored)]);
        // Queued behind the guess, and kept once acquired: no second permit is to be had.
        let next = passwords.0.permits.clone().acquire_owned();
        let (found, _next, ()) = futures::join!(guess, next, async { drop(busy) });
        assert_eq!(found.unwrap(), Some((1, PasswordMatch::Outdated)));
    }

    #[test]
    fn guessable_passwords_are_detected() {
        let context = ["ana.torres@workshop.example", "Ana Torres", "DCA-Auth"].map(str::to_owned);
        for (weak, reason) in [
            ("password", "most common"),
            ("12345678", "a sequence"),
            ("qwertyuiop", "a keyboard row"),
            ("Password1", "most common, varied"),
            ("iloveyou", "common"),
            ("aaaaaaaaaaaa", "one repeated character"),
            ("workshop1", "part of the email"),
            ("ana.torres@workshop.example", "the email"),
            ("1 ana torres 1", "the name, varied"),
            ("Torres2026", "the name"),
            ("dca-auth", "the service"),
        ] {
            assert!(is_guessable(weak, &context), "{weak}: {reason}");
        }
        for strong in [
            "correct horse battery staple",
            "DemoPassword123!",
            "zażółć gęślą jaźń",
            "  two leading spaces",
            "plow-Ketchup-41",
        ] {
            assert!(!is_guessable(strong, &context), "{strong}");
        }
    }
}
