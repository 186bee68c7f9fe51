//! User accounts, from sign-up to sign-out.
//!
//! ```text
//! sign_up -> [PENDING] -> email -> verify_email -> [ACTIVE] -> sign_in -> session -> refresh ... -> sign_out
//! ```
//! A user has a **credential** (the password), **identities** (accounts at providers, see [`providers`]) and
//! optionally a **second factor** ([`second_factor`]). A **session** ([`sessions`]) is one sign-in with all tokens
//! refreshed from it. Several unverified accounts may share an email address; the first to verify it owns it, and
//! the others are deleted. Accounts are never linked by email address.
//!
//! To prevent account enumeration, responses and their timing do not depend on whether an address has an account.
//! Anything that does is sent by email ([`emails`]).

use std::time::Duration;

use chrono::TimeDelta;
use email_address::{EmailAddress, Options};
use idna::domain_to_ascii;
use serde_json::{Value, json};

use crate::{
    Code, Core, Result,
    crypto::seal::Purpose,
    error::string_enum,
    events::{Actor, EventKind, NewEvent},
    ids::{TenantId, UserId},
    throttles::{self, Limit},
    tx::Tx,
    users::{self, User},
};

pub mod admin;
mod credentials;
pub mod emails;
pub mod erasure;
mod one_time;
pub mod providers;
pub mod second_factor;
pub mod sessions;
mod sign_in;

pub use sessions::{Principal, SignedIn};
pub use sign_in::{SignIn, sign_in};

use credentials::{delete_password, password_in, set_password};
use emails::EmailTemplate;
use sign_in::{ensure_active, reauthenticate};

string_enum! {
    /// The status of an account.
    AccountStatus {
        Pending => ("PENDING", "Signed up; the email address is not verified yet."),
        Active => ("ACTIVE", "Can sign in."),
        Suspended => ("SUSPENDED", "Cannot sign in for now."),
        Banned => ("BANNED", "Cannot sign in."),
    }
}

string_enum! {
    /// The roles of users in this installation, from lowest to highest.
    Role {
        User => ("USER", "Manages their own account."),
        Premium => ("PREMIUM", "Same rights as USER; free for the operator to use."),
        Moderator => ("MODERATOR", "Sees users and their sessions."),
        Admin => ("ADMIN", "Suspends and bans users, ends sessions, replays deliveries."),
        SuperAdmin => ("SUPER_ADMIN", "Assigns and removes roles."),
    }
}

string_enum! {
    /// The languages of emails.
    Locale {
        En => ("en", "English"),
        Es => ("es", "Español"),
    }
}

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
    /// Emails that requests from one network may cause per hour.
    pub emails_per_network: u32,
    /// Whether `ADMIN` and higher roles require a second factor.
    pub admins_need_second_factor: bool,
    /// The name of this service. Shown in emails and rejected in passwords.
    pub app_name: String,
}

/// The window in which failed attempts are counted.
const FAILURE_WINDOW: Duration = Duration::from_mins(15);
/// Emails per kind that an unauthenticated request may send to one address per hour.
const EMAILS_PER_ADDRESS: u32 = 5;
/// How long a link that verifies an email address is valid.
const VERIFY_LIFETIME: TimeDelta = TimeDelta::hours(24);
/// How long a sign-in through a provider counts as reauthentication for users without a password.
const REAUTH_WINDOW: TimeDelta = TimeDelta::minutes(15);
/// How long a link that sets a new password is valid.
const RESET_LIFETIME: TimeDelta = TimeDelta::hours(1);

/// What is known about the client that sent a request.
#[derive(Clone, Debug)]
pub struct ClientInfo {
    /// The client's network: /24 for IPv4, /64 for IPv6. The full address is never stored.
    pub network: String,
    /// The `User-Agent`.
    pub agent: Option<String>,
    /// The device cookie of a browser that signed in before.
    pub device: Option<String>,
    /// The preferred language.
    pub locale: Locale,
}

/// A valid email address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Email {
    /// As the user typed it.
    address: String,
    /// The form used for comparison.
    pub(crate) folded: String,
}

impl Email {
    /// Parses an address. Addresses are compared without regard to case or to the Unicode form of the domain.
    ///
    /// # Errors
    /// `VALIDATION_ERROR` at `email`.
    pub fn parse(text: &str) -> Result<Self> {
        let invalid = || Code::invalid_field("email", "email must be an email");
        let text = text.trim();
        let options = Options::default().without_display_text().without_domain_literal().with_required_tld();
        let is_valid = text.len() <= 254
            && !text.contains(|c: char| c.is_control() || c.is_whitespace() || "\"%".contains(c))
            && EmailAddress::parse_with_options(text, options).is_ok();
        let (local, domain) = text.rsplit_once('@').filter(|_| is_valid).ok_or_else(invalid)?;
        // UTS 46 normalization. IP addresses are not accepted as domains.
        let domain = domain_to_ascii(domain).map_err(|_| invalid())?;
        if !domain.rsplit('.').next().is_some_and(|top| top.contains(char::is_alphabetic)) {
            return Err(invalid());
        }
        // Only ASCII is lowercased: other characters that look alike in lower case may be different mailboxes.
        let folded = format!("{}@{domain}", local.to_ascii_lowercase());
        Ok(Self { address: text.to_owned(), folded })
    }
}

/// Validates a display name.
fn name(text: &str) -> Result<String> {
    line("name", text, 100)
}

/// Validates a single line of user input.
fn line(field: &'static str, text: &str, max_length: usize) -> Result<String> {
    let text = text.trim();
    if text.is_empty() || text.chars().count() > max_length || text.contains(char::is_control) {
        return Err(Code::invalid_field(field, format!("{field} must be one line of 1 to {max_length} characters")));
    }
    Ok(text.to_owned())
}

/// A sign-up form.
pub struct SignUp {
    /// The email address.
    pub email: String,
    /// The password.
    pub password: String,
    /// The display name.
    pub name: String,
}

/// Creates an unverified account and sends the verification email. If the address already has a verified owner,
/// the response is the same, but the owner is notified instead and the new account can never be verified.
///
/// # Errors
/// `VALIDATION_ERROR`, `RATE_LIMIT_EXCEEDED`.
pub async fn sign_up(core: &Core, client: &ClientInfo, form: SignUp) -> Result<UserId> {
    let (email, name) = (Email::parse(&form.email)?, name(&form.name)?);
    let limits = emails_from(core, client);
    acquire(core, &limits).await?;
    let hash = core.passwords().hash_new(&form.password, &[&email.folded, &name, &core.rules.app_name]).await;
    let hash = throttles::refund_on_error(core, &limits, hash).await?;

    let mut tx = Tx::begin(core).await?;
    let id = UserId(core.ids.v7(tx.now()));
    // Over the limit, only the email is skipped.
    let may_send = throttles::try_acquire(&tx, &emails_to(core, EmailTemplate::AlreadyRegistered, &email)).await?;
    let accounts = users::lock_all_with_email(&tx, &email.folded).await?;
    let owner = accounts.into_iter().find(|user| user.email_verified_at.is_some());
    let user = User {
        email: Some(email.address),
        folded_email: Some(email.folded),
        name: Some(name),
        locale: Some(client.locale.to_string()),
        status: AccountStatus::Pending.to_string(),
        registered_at: Some(tx.now()),
        ..users::without_account(id, tx.now())
    };
    users::insert(&tx, user).await?;
    set_password(&tx, id, hash).await?;
    // A sign-up with an address that has an owner is recorded on the owner's account.
    let (kind, subject) = match &owner {
        Some(owner) => (EventKind::SignUpRepeated, owner.id),
        None => (EventKind::UserRegistered, id),
    };
    record(&mut tx, kind, &Actor::User(id), subject, json!({ "method": "password", "network": client.network }));
    match owner {
        _ if !may_send => {}
        Some(owner) => emails::send(&mut tx, EmailTemplate::AlreadyRegistered, owner.id, None).await?,
        None => send_link(&mut tx, EmailTemplate::VerifyEmail, id).await?,
    }
    tx.commit().await?;
    Ok(id)
}

/// Sends the verification link again; earlier links stay valid. The result does not depend on whether the address
/// has an account.
///
/// # Errors
/// `VALIDATION_ERROR`, `RATE_LIMIT_EXCEEDED`.
pub async fn resend_verification(core: &Core, client: &ClientInfo, email: &str) -> Result<()> {
    email_link(core, client, email, EmailTemplate::VerifyEmail, |user| user.status == AccountStatus::Pending.as_str())
        .await
}

/// Sends a link that sets a new password. The result does not depend on whether the address has an account.
///
/// # Errors
/// `VALIDATION_ERROR`, `RATE_LIMIT_EXCEEDED`.
pub async fn request_reset(core: &Core, client: &ClientInfo, email: &str) -> Result<()> {
    email_link(core, client, email, EmailTemplate::ResetPassword, |user| user.status != AccountStatus::Banned.as_str())
        .await
}

async fn email_link(
    core: &Core,
    client: &ClientInfo,
    email: &str,
    template: EmailTemplate,
    is_eligible: impl Fn(&User) -> bool,
) -> Result<()> {
    let email = Email::parse(email)?;
    acquire(core, &emails_from(core, client)).await?;
    let [owner, unverified] = users::find_by_email(core, &email).await?;
    let user = owner.or(unverified).filter(is_eligible);
    let mut tx = Tx::begin(core).await?;
    if throttles::try_acquire(&tx, &emails_to(core, template, &email)).await?
        && let Some(user) = user
    {
        send_link(&mut tx, template, user.id).await?;
    }
    tx.commit().await
}

async fn send_link(tx: &mut Tx, template: EmailTemplate, user: UserId) -> Result<()> {
    let (purpose, lifetime) = match template {
        EmailTemplate::ResetPassword => (Purpose::ResetPassword, RESET_LIFETIME),
        _ => (Purpose::VerifyEmail, VERIFY_LIFETIME),
    };
    let token = one_time::create(tx, purpose, Some(user), lifetime, None).await?;
    emails::send(tx, template, user, Some(&token)).await
}

/// What the user has to do after verifying an email address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmailVerification {
    /// Nothing; they can sign in.
    Ready,
    /// Choose a password with the link just sent: several accounts had signed up with the address, so the password
    /// on this one may not be the owner's.
    NeedsPassword,
}

/// Verifies an email address with the token that was sent to it.
///
/// # Errors
/// `INVALID_ONE_TIME_TOKEN`.
pub async fn verify_email(core: &Core, token: &str) -> Result<EmailVerification> {
    let row = one_time::find_valid(core, Purpose::VerifyEmail, token).await?;
    let id = row.user_id.ok_or_else(|| Code::InvalidOneTimeToken.refusal())?;
    let mut tx = Tx::begin(core).await?;
    let deleted = mark_email_verified(&mut tx, id).await?;
    one_time::consume(&tx, Purpose::VerifyEmail, token).await?;
    one_time::end_all(&tx, Purpose::VerifyEmail, id).await?;
    let outcome = match deleted {
        // The owner may have followed the link of someone else's sign-up, so that account's password must not stay.
        Some(1..) => {
            delete_password(&tx, id).await?;
            send_link(&mut tx, EmailTemplate::ResetPassword, id).await?;
            EmailVerification::NeedsPassword
        }
        Some(0) => {
            emails::send(&mut tx, EmailTemplate::WelcomeEmail, id, None).await?;
            EmailVerification::Ready
        }
        None => EmailVerification::Ready,
    };
    tx.commit().await?;
    Ok(outcome)
}

/// Marks this user's email as verified and deletes all other unverified accounts with the same address. Returns
/// how many were deleted; `None` if the email was verified already.
async fn mark_email_verified(tx: &mut Tx, id: UserId) -> Result<Option<usize>> {
    let refuse = || Code::InvalidOneTimeToken.refusal();
    let user = users::find_in(tx, id).await?.ok_or_else(refuse)?;
    let folded = user.folded_email.ok_or_else(refuse)?;
    let accounts = users::lock_all_with_email(tx, &folded).await?;
    let mut user = accounts.iter().find(|account| account.id == id).cloned().ok_or_else(refuse)?;
    if user.email_verified_at.is_some() {
        return Ok(None);
    }
    for other in accounts.iter().filter(|account| account.id != id) {
        if other.email_verified_at.is_some() {
            return Err(refuse());
        }
        users::delete(tx, other.id).await?;
    }
    user.email_verified_at = Some(tx.now());
    if user.status()? == AccountStatus::Pending {
        user.status = AccountStatus::Active.to_string();
    }
    users::update(tx, &user).await?;
    record(tx, EventKind::EmailVerified, &Actor::User(id), id, Value::Null);
    Ok(Some(accounts.len() - 1))
}

/// Sets a new password with the token that was sent by email, and ends every session. A second factor stays.
///
/// # Errors
/// `INVALID_ONE_TIME_TOKEN`, `VALIDATION_ERROR`.
pub async fn reset_password(core: &Core, token: &str, password: &str) -> Result<()> {
    let refuse = || Code::InvalidOneTimeToken.refusal();
    let row = one_time::find_valid(core, Purpose::ResetPassword, token).await?;
    let id = row.user_id.ok_or_else(refuse)?;
    let user = users::find(core, id).await?.ok_or_else(refuse)?;
    let hash = hash_new_password(core, &user, password).await?;

    let mut tx = Tx::begin(core).await?;
    mark_email_verified(&mut tx, id).await?;
    one_time::consume(&tx, Purpose::ResetPassword, token).await?;
    one_time::end_all(&tx, Purpose::VerifyEmail, id).await?;
    replace_password(&mut tx, id, hash, None, "password reset").await?;
    tx.commit().await
}

/// Changes the password after checking the current one, and ends every other session.
///
/// # Errors
/// `INVALID_CREDENTIALS`, `VALIDATION_ERROR`, `RATE_LIMIT_EXCEEDED`.
pub async fn change_password(
    core: &Core,
    client: &ClientInfo,
    principal: &Principal,
    current: &str,
    password: &str,
) -> Result<()> {
    reauthenticate(core, client, principal, Some(current)).await?;
    let hash = hash_new_password(core, &principal.user, password).await?;
    let mut tx = Tx::begin(core).await?;
    replace_password(&mut tx, principal.user.id, hash, Some(principal), "password change").await?;
    tx.commit().await
}

async fn hash_new_password(core: &Core, user: &User, password: &str) -> Result<String> {
    let [email, name] = [&user.folded_email, &user.name].map(|text| text.as_deref().unwrap_or_default());
    core.passwords().hash_new(password, &[email, name, &core.rules.app_name]).await
}

async fn replace_password(
    tx: &mut Tx,
    id: UserId,
    hash: String,
    except: Option<&Principal>,
    reason: &str,
) -> Result<()> {
    users::lock(tx, id).await?;
    set_password(tx, id, hash).await?;
    one_time::end_all(tx, Purpose::ResetPassword, id).await?;
    sessions::end_all(tx, id, except.map(|principal| principal.session.id), &Actor::User(id), reason).await?;
    record(tx, EventKind::PasswordChanged, &Actor::User(id), id, json!({ "by": reason }));
    emails::send(tx, EmailTemplate::PasswordChanged, id, None).await
}

async fn acquire(core: &Core, limits: &[Limit]) -> Result<()> {
    let tx = Tx::begin(core).await?;
    throttles::acquire(&tx, limits).await?;
    tx.commit().await
}

/// Limits the emails that requests from one network may cause.
fn emails_from(core: &Core, client: &ClientInfo) -> [Limit; 1] {
    let max = core.rules.emails_per_network;
    [Limit::new(core, "letters", &client.network, max, Duration::from_hours(1))]
}

/// Limits the emails that unauthenticated requests may send to one address. Each template has its own limit.
fn emails_to(core: &Core, template: EmailTemplate, email: &Email) -> Limit {
    Limit::new(core, template.as_str(), &email.folded, EMAILS_PER_ADDRESS, Duration::from_hours(1))
}

/// A change of a user's own profile; `None` leaves a field as it is.
#[derive(Default)]
pub struct Profile {
    /// The display name.
    pub name: Option<String>,
    /// The language of emails.
    pub locale: Option<Locale>,
}

/// Updates the user's own profile.
///
/// # Errors
/// `VALIDATION_ERROR`.
pub async fn change_profile(core: &Core, principal: &Principal, change: Profile) -> Result<User> {
    let new_name = change.name.as_deref().map(name).transpose()?;
    let mut tx = Tx::begin(core).await?;
    let user = users::lock(&tx, principal.user.id).await?.ok_or_else(|| Code::InvalidSession.refusal())?;
    let user = User {
        name: new_name.or(user.name.clone()),
        locale: change.locale.map(|locale| locale.to_string()).or(user.locale.clone()),
        ..user
    };
    users::update(&tx, &user).await?;
    record(&mut tx, EventKind::ProfileChanged, &Actor::User(user.id), user.id, Value::Null);
    tx.commit().await?;
    Ok(user)
}

/// Records an event about an account.
fn record(tx: &mut Tx, kind: EventKind, actor: &Actor, subject: UserId, after: Value) {
    let (tenant, actor) = (TenantId::INSTALLATION, actor.clone());
    let after = Some(after).filter(|after| !after.is_null());
    tx.record(NewEvent { tenant, kind, actor, subject: Some(subject), license: None, before: None, after });
}
