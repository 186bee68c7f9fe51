//! The limits on attempts and emails.

use std::time::Duration;

use crate::accounts::client::{self, ClientInfo};
use crate::users::{Email, User};
use crate::{Core, ids::UserId, outbox::EmailTemplate, throttles::Limit};

/// The window in which sign-ins and failed attempts are counted.
const FAILURE_WINDOW: Duration = Duration::from_mins(15);
const DAY: Duration = Duration::from_hours(24);
/// Emails per template that unauthenticated requests may send to one address per hour.
const EMAILS_PER_ADDRESS: u32 = 5;

/// Limits the emails that requests from one network, or from a browser known to this account, may cause.
pub(super) fn emails_from(core: &Core, client: &ClientInfo, account: &str) -> [Limit; 1] {
    let device = client::known_device(core, client, account);
    let max = core.accounts.policy.emails_per_network;
    [Limit::new(core, "emails", device.as_ref().unwrap_or(&client.network), max, Duration::from_hours(1))]
}

/// Limits the emails that unauthenticated requests may send to one address. Each template has its own limit.
pub(super) fn emails_to(core: &Core, template: EmailTemplate, email: &Email) -> Limit {
    Limit::new(core, template.as_str(), &email.folded, EMAILS_PER_ADDRESS, Duration::from_hours(1))
}

/// The limits on password attempts for an account: per account and per network. A browser that signed in before has
/// only a limit of its own, so that nobody else can lock the owner out.
pub(super) fn password_attempts(core: &Core, client: &ClientInfo, account: &str) -> Vec<Limit> {
    let policy = &core.accounts.policy;
    let limit = |action, subject: &str, max| Limit::new(core, action, subject, max, FAILURE_WINDOW);
    match client::known_device(core, client, account) {
        Some(device) => vec![limit("device", &device, policy.failures_per_account)],
        None => vec![
            limit("account", account, policy.failures_per_account),
            limit("network", &client.network, policy.failures_per_network),
        ],
    }
}

/// The limit on sign-ins to an account.
pub(super) fn sign_ins(core: &Core, user: UserId) -> [Limit; 1] {
    [Limit::new(core, "sign-in", &user.to_string(), core.accounts.policy.sign_ins_per_account, FAILURE_WINDOW)]
}

/// The limits on attempts at codes of a second factor, like those on passwords. A daily one stops an attacker who knows
/// the password and tries codes for weeks.
pub(super) fn code_attempts(core: &Core, client: &ClientInfo, user: &User) -> Vec<Limit> {
    let policy = &core.accounts.policy;
    let device = client::known_device(core, client, &client::account_of(user));
    let subject = device.clone().unwrap_or_else(|| user.id.to_string());
    let per_day = policy.failures_per_account.saturating_mul(5);
    let mut limits = vec![
        Limit::new(core, "code", &subject, policy.failures_per_account, FAILURE_WINDOW),
        Limit::new(core, "code-day", &subject, per_day, DAY),
    ];
    if device.is_none() {
        limits.push(Limit::new(core, "code-network", &client.network, policy.failures_per_network, FAILURE_WINDOW));
    }
    limits
}

/// The wrong codes per day of which the owner is not told, and the emails per day that tell them.
pub(super) fn untold_wrong_codes(core: &Core, user: UserId) -> [Limit; 2] {
    let user = user.to_string();
    [Limit::new(core, "wrong-codes", &user, 4, DAY), Limit::new(core, "wrong-codes-email", &user, 1, DAY)]
}
