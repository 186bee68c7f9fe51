//! The settings of accounts.

use std::{sync::Arc, time::Duration};

use crate::{Ids, Result, crypto::password::Passwords};

/// The configurable rules for accounts.
#[derive(Clone, Debug)]
pub struct AccountPolicy {
    /// Lifetime of an access token.
    pub access_ttl: Duration,
    /// Lifetime of a refresh token: a session ends when it is not refreshed for this long.
    pub refresh_ttl: Duration,
    /// Memory used by a password hash, in KiB.
    pub password_memory_kib: u32,
    /// Maximum number of password hashes computed at once.
    pub max_concurrent_hashes: usize,
    /// Failed passwords or codes allowed per account in 15 minutes.
    pub failures_per_account: u32,
    /// Failed passwords or codes allowed per network in 15 minutes.
    pub failures_per_network: u32,
    /// Sign-ins allowed per account in 15 minutes.
    pub sign_ins_per_account: u32,
    /// Sessions that a user may have at a time. A further sign-in ends the oldest.
    pub max_sessions: u32,
    /// Emails that requests from one network may cause per hour.
    pub emails_per_network: u32,
    /// Whether `ADMIN` and higher roles require a second factor.
    pub admins_need_second_factor: bool,
    /// The name of this service. Shown in emails and rejected in passwords.
    pub app_name: String,
}

/// What account functions share.
#[derive(Clone)]
pub struct Accounts {
    /// The settings.
    pub policy: Arc<AccountPolicy>,
    /// Hashes and verifies passwords.
    pub(crate) passwords: Passwords,
}

impl Accounts {
    /// Fails if passwords cannot be hashed with these settings.
    pub(crate) fn new(policy: AccountPolicy, ids: Ids) -> Result<Self> {
        let passwords = Passwords::new(policy.password_memory_kib, policy.max_concurrent_hashes, ids)?;
        Ok(Self { policy: Arc::new(policy), passwords })
    }
}
