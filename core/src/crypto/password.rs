//! Passwords: argon2id for new ones, bcrypt understood and replaced at the next sign-in.
//!
//! Hashing is memory and time on purpose, so few run at once, off the threads that serve requests; who
//! waits too long is told to come back. Nobody learns whether there was a hash to compare with: a made-up
//! one is compared where there is none.

use std::{sync::Arc, time::Duration};

use argon2::{Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version, password_hash::phc::PasswordHash};
use tokio::sync::Semaphore;
use zeroize::Zeroizing;
use zxcvbn::zxcvbn;

use crate::{Code, Error, Ids, Result};

/// Shortest and longest password, in characters; ASVS 6.2.1 and 6.2.9.
pub const LENGTH: std::ops::RangeInclusive<usize> = 8..=128;

/// Longest wait for a permit.
const TIMEOUT: Duration = Duration::from_secs(2);

/// Passes over the memory.
const PASSES: u32 = 3;

/// A hash from elsewhere may not ask for more than this: 1 GiB, and cost 14.
const MAX_MEMORY_KIB: u32 = 1024 * 1024;
const MAX_PASSES: u32 = 10;
const MAX_BCRYPT_COST: u32 = 14;

/// What a comparison found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PasswordMatch {
    /// Another password, or nothing to compare with.
    No,
    /// The same.
    Yes,
    /// The same, but the hash is not what would be made today.
    Outdated,
}

/// Hashes and compares.
#[derive(Clone)]
pub struct Passwords(Arc<Inner>);

struct Inner {
    argon2: Argon2<'static>,
    permits: Arc<Semaphore>,
    dummy_hash: String,
    ids: Ids,
}

impl Passwords {
    /// argon2id with this much memory (KiB), three passes, one lane; at most `permits` at once.
    ///
    /// # Errors
    /// When the library takes no such parameters.
    pub fn new(memory_kib: u32, permits: usize, ids: Ids) -> Result<Self> {
        let broken = |error: String| Error::Broken(format!("argon2: {error}"));
        let params = Params::new(memory_kib, PASSES, 1, None).map_err(|error| broken(error.to_string()))?;
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let dummy_hash = hash(&argon2, &ids, "")?;
        Ok(Self(Arc::new(Inner { argon2, permits: Arc::new(Semaphore::new(permits.max(1))), dummy_hash, ids })))
    }

    /// The hash of a new password, in PHC string form, if it is one: long enough, and not among the first a
    /// guesser tries. `context` are words somebody who knows the account would try: its address, its name, the
    /// product's.
    ///
    /// # Errors
    /// `VALIDATION_ERROR` at `password`.
    pub(crate) async fn hash_new(&self, password: &str, context: &[&str]) -> Result<String> {
        let length = password.chars().count();
        if !LENGTH.contains(&length) {
            let says = format!("password must be {} to {} characters long", LENGTH.start(), LENGTH.end());
            return Err(Code::invalid_field("password", says));
        }
        let context: Vec<String> = context.iter().map(|word| (*word).to_owned()).collect();
        self.with_permit(password, move |inner, password| {
            if is_guessable(password, &context) {
                return Err(Code::invalid_field("password", "password is too easy to guess; choose another one"));
            }
            hash(&inner.argon2, &inner.ids, password)
        })
        .await?
    }

    /// The hash of a password that was chosen before.
    pub(crate) async fn hash(&self, password: &str) -> Result<String> {
        self.with_permit(password, |inner, password| hash(&inner.argon2, &inner.ids, password)).await?
    }

    /// Whether this is the password behind `known`; takes as long when there is none.
    pub(crate) async fn compare(&self, password: &str, known: Option<String>) -> Result<PasswordMatch> {
        self.with_permit(password, move |inner, password| {
            let found = compare(&inner.argon2, password, known.as_deref().unwrap_or(&inner.dummy_hash));
            if known.is_some() { found } else { PasswordMatch::No }
        })
        .await
    }

    async fn with_permit<T: Send + 'static>(
        &self,
        password: &str,
        work: impl FnOnce(&Inner, &str) -> T + Send + 'static,
    ) -> Result<T> {
        let permit = tokio::time::timeout(TIMEOUT, Arc::clone(&self.0.permits).acquire_owned()).await;
        let Ok(Ok(permit)) = permit else {
            return Err(Code::Unavailable.retry_after("Too many sign-ins at once; try again in a moment.", TIMEOUT));
        };
        let (inner, password) = (Arc::clone(&self.0), Zeroizing::new(password.to_owned()));
        // The permit goes with the work: who hangs up does not make room for another hash.
        let done = tokio::task::spawn_blocking(move || {
            let done = work(&inner, &password);
            drop(permit);
            done
        })
        .await;
        done.map_err(|error| Error::Broken(format!("hashing: {error}")))
    }
}

fn hash(argon2: &Argon2<'_>, ids: &Ids, password: &str) -> Result<String> {
    let made: PasswordHash = argon2
        .hash_password_with_salt(password.as_bytes(), &ids.bytes::<16>())
        .map_err(|error| Error::Broken(format!("argon2: {error}")))?;
    Ok(made.to_string())
}

fn compare(argon2: &Argon2<'_>, password: &str, known: &str) -> PasswordMatch {
    if known.starts_with("$2") {
        let cost = known.split('$').nth(2).and_then(|cost| cost.parse().ok());
        let affordable = cost.is_some_and(|cost: u32| cost <= MAX_BCRYPT_COST);
        // The systems that made these hashes looked at 72 bytes and no further.
        let same = affordable && bcrypt::verify(password, known).unwrap_or(false);
        return if same { PasswordMatch::Outdated } else { PasswordMatch::No };
    }
    let Ok(parsed) = PasswordHash::new(known) else { return PasswordMatch::No };
    let Ok(params) = Params::try_from(&parsed) else { return PasswordMatch::No };
    let affordable = params.m_cost() <= MAX_MEMORY_KIB && params.t_cost() <= MAX_PASSES;
    if !affordable || argon2.verify_password(password.as_bytes(), &parsed).is_err() {
        return PasswordMatch::No;
    }
    let today = argon2.params();
    let same = (params.m_cost(), params.t_cost(), params.p_cost()) == (today.m_cost(), today.t_cost(), today.p_cost());
    if same && parsed.algorithm.as_str() == "argon2id" { PasswordMatch::Yes } else { PasswordMatch::Outdated }
}

/// Whether a guesser who knows these words comes to it soon.
fn is_guessable(password: &str, context: &[String]) -> bool {
    /// Guesses that a patient stranger can afford online: beyond the 3,000 commonest (ASVS 6.2.4).
    const AFFORDABLE: u64 = 10_000;
    /// What is looked at: who gets this far by guessing has lost, and the estimate takes the longer the more it
    /// is given.
    const ENOUGH: usize = 32;
    // Whole first, then in parts: what remains of an address without the name of its host is still an address.
    let whole = context.iter().map(String::as_str);
    let parts = context.iter().flat_map(|text| text.split(|c: char| !c.is_alphanumeric()));
    let words = whole.chain(parts).filter(|word| word.chars().count() >= 4);
    let words: Vec<String> = words.map(str::to_lowercase).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    // What remains beside a word of the context must be a password of its own.
    let rest = words.iter().fold(password.to_lowercase(), |rest, word| rest.replace(word, ""));
    let head: String = password.chars().take(ENOUGH).collect();
    rest.chars().count() < 6 || zxcvbn(&head, &words).guesses() < AFFORDABLE
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cheap() -> Argon2<'static> {
        Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(64, 1, 1, None).unwrap())
    }

    #[test]
    fn a_hash_is_compared_whoever_made_it_and_within_bounds() {
        let ids = Ids::seeded(3);
        let ours = hash(&cheap(), &ids, "pass\0word").unwrap();
        assert_eq!(compare(&cheap(), "pass\0word", &ours), PasswordMatch::Yes);
        assert_eq!(compare(&cheap(), "pass", &ours), PasswordMatch::No);
        let dearer = Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::new(128, 1, 1, None).unwrap());
        assert_eq!(compare(&dearer, "pass\0word", &ours), PasswordMatch::Outdated);
        let bcrypt = bcrypt::hash("correct horse", 4).unwrap();
        assert_eq!(compare(&cheap(), "correct horse", &bcrypt), PasswordMatch::Outdated);
        assert_eq!(compare(&cheap(), "correct horsf", &bcrypt), PasswordMatch::No);
        for greedy in [
            "$2b$31$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW",
            "$argon2id$v=19$m=4194304,t=3,p=1$c29tZXNhbHRzb21lc2FsdA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
            "$argon2id$v=19$m=64,t=4000000,p=1$c29tZXNhbHRzb21lc2FsdA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
            "plain",
            "",
        ] {
            assert_eq!(compare(&cheap(), "x", greedy), PasswordMatch::No, "{greedy}");
        }
    }

    #[test]
    fn what_a_guesser_tries_first_is_no_password() {
        let context = ["ana.torres@workshop.example", "Ana Torres", "DCA-Auth"].map(str::to_owned);
        for (weak, why) in [
            ("password", "the commonest"),
            ("12345678", "a sequence"),
            ("qwertyuiop", "a row of keys"),
            ("Password1", "the commonest, dressed up"),
            ("iloveyou", "common"),
            ("aaaaaaaaaaaa", "one key"),
            ("workshop1", "the address"),
            ("ana.torres@workshop.example", "all of it"),
            ("1 ana torres 1", "the name, dressed up"),
            ("Torres2026", "the name"),
            ("dca-auth", "the product"),
        ] {
            assert!(is_guessable(weak, &context), "{weak}: {why}");
        }
        for fine in [
            "correct horse battery staple",
            "DemoPassword123!",
            "zażółć gęślą jaźń",
            "  two leading spaces",
            "plow-Ketchup-41",
        ] {
            assert!(!is_guessable(fine, &context), "{fine}");
        }
    }
}
