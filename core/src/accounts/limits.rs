//! The limits on attempts and emails.

use std::time::Duration;

use crate::accounts::client::{self, ClientInfo};
use crate::{Core, ids::UserId, outbox::EmailTemplate, throttles::Limit, users::Email};

/// The window in which sign-ins and failed attempts are counted.
const FAILURE_WINDOW: Duration = Duration::from_mins(15);
/// Emails per template that unauthenticated requests may send to one address per hour.
const EMAILS_PER_ADDRESS: u32 = 5;

/// Limits the emails that requests from one network may cause.
pub(super) fn emails_from(core: &Core, client: &ClientInfo) -> [Limit; 1] {
    let max = core.accounts.policy.emails_per_network;
    [Limit::new(core, "emails", &client.network, max, Duration::from_hours(1))]
}

/// Limits the emails that unauthenticated requests may send to one address. Each template has its own limit.
pub(super) fn emails_to(core: &Core, template: EmailTemplate, email: &Email) -> Limit {
    Limit::new(core, template.as_str(), &email.folded, EMAILS_PER_ADDRESS, Duration::from_hours(1))
}

/// The limits on password attempts for an account. A browser that signed in before has its own limit, so that
/// attackers cannot lock the owner out.
pub(super) fn password_attempts(core: &Core, client: &ClientInfo, account: &str) -> [Limit; 2] {
    let max = core.accounts.policy.failures_per_account;
    let account = match client::known_device(core, client, account) {
        Some(device) => Limit::new(core, "device", &device, max, FAILURE_WINDOW),
        None => Limit::new(core, "account", account, max, FAILURE_WINDOW),
    };
    [account, Limit::new(core, "network", &client.network, core.accounts.policy.failures_per_network, FAILURE_WINDOW)]
}

/// The limit on sign-ins to an account.
pub(super) fn sign_ins(core: &Core, user: UserId) -> [Limit; 1] {
    [Limit::new(core, "sign-in", &user.to_string(), core.accounts.policy.sign_ins_per_account, FAILURE_WINDOW)]
}

/// The limits on attempts at codes of a second factor.
pub(super) fn code_attempts(core: &Core, client: &ClientInfo, user: UserId) -> [Limit; 2] {
    let policy = &core.accounts.policy;
    [
        Limit::new(core, "code", &user.to_string(), policy.failures_per_account, FAILURE_WINDOW),
        Limit::new(core, "code-network", &client.network, policy.failures_per_network, FAILURE_WINDOW),
    ]
}
