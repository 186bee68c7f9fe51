//! Accounts: from sign-up to logout-all.
//!
//! ```text
//! sign_up -> [PENDING] -> letter -> verify_email -> [ACTIVE] -> sign_in -> session -> refresh ... -> sign_out
//! ```
//! A **user** is a person; a **credential** is their password, an **identity** their account at a provider
//! ([`providers`]), a **second factor** ([`second_factor`]) what they have beside it. A **session**
//! ([`sessions`]) is one sign-in, with everything that was refreshed from it. Many may claim an e-mail
//! address, each as a user of their own; the first to prove it owns it, and the other claims are gone with
//! whatever was set up under them. Nothing is ever linked by e-mail.
//!
//! Whoever asks learns the same about an address that has an account as about one that has none, in the
//! same time: the rest is told by letter ([`letters`]), to who reads the mail there.

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
    /// How an account stands.
    AccountStatus {
        Pending => ("PENDING", "Signed up; the address is not proved yet."),
        Active => ("ACTIVE", "May sign in."),
        Suspended => ("SUSPENDED", "May not sign in for now."),
        Banned => ("BANNED", "May not sign in."),
    }
}

string_enum! {
    /// What a person may do in this installation, from least to most.
    Role {
        User => ("USER", "Their own account."),
        Premium => ("PREMIUM", "Their own account; a rank for the operator's own use."),
        Moderator => ("MODERATOR", "Sees people and their sessions."),
        Admin => ("ADMIN", "Bans people, ends sessions, replays deliveries."),
        SuperAdmin => ("SUPER_ADMIN", "Gives and takes roles."),
    }
}

string_enum! {
    /// The languages letters are written in.
    Locale {
        En => ("en", "English"),
        Es => ("es", "Español"),
    }
}

/// What accounts are held to; from the configuration.
#[derive(Clone, Debug)]
pub struct AccountPolicy {
    /// Life of an access token.
    pub access_ttl: Duration,
    /// How long a session lives without being refreshed.
    pub refresh_ttl: Duration,
    /// Memory of a password hash.
    pub password_memory_kib: u32,
    /// Hashes computed at once.
    pub max_concurrent_hashes: usize,
    /// Wrong passwords or codes per account and quarter of an hour.
    pub failures_per_account: u32,
    /// Wrong passwords or codes per network and quarter of an hour.
    pub failures_per_network: u32,
    /// Letters that a network may cause per hour.
    pub emails_per_network: u32,
    /// Whether who is ADMIN or more needs a second factor.
    pub admins_need_second_factor: bool,
    /// The product's name: in emails, and in no password.
    pub app_name: String,
}

/// The window of failed attempts.
const FAILURE_WINDOW: Duration = Duration::from_mins(15);
/// Letters an address receives per hour because somebody typed it in.
const EMAILS_PER_ADDRESS: u32 = 5;
/// How long a link that proves an address works.
const VERIFY_LIFETIME: TimeDelta = TimeDelta::hours(24);
/// How long a sign-in through a provider stands for a password.
const REAUTH_WINDOW: TimeDelta = TimeDelta::minutes(15);
/// How long a link that sets a password works.
const RESET_LIFETIME: TimeDelta = TimeDelta::hours(1);

/// Who is at the door, as far as it can be seen.
#[derive(Clone, Debug)]
pub struct ClientInfo {
    /// The network they come from: /24 of IPv4, /64 of IPv6. The address itself is kept nowhere.
    pub network: String,
    /// What their program calls itself.
    pub agent: Option<String>,
    /// What a browser that signed in before shows.
    pub device: Option<String>,
    /// The language they read.
    pub locale: Locale,
}

/// An e-mail address that can be written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Email {
    code: String,
    pub(crate) folded: String,
}

impl Email {
    /// Reads what a person typed; case and the spelling of the domain do not distinguish two addresses.
    ///
    /// # Errors
    /// `VALIDATION_ERROR` at `email`.
    pub fn parse(text: &str) -> Result<Self> {
        let wrong = || Code::invalid_field("email", "email must be an email");
        let text = text.trim();
        let options = Options::default().without_display_text().without_domain_literal().with_required_tld();
        let fits = text.len() <= 254
            && !text.contains(|c: char| c.is_control() || c.is_whitespace() || "\"%".contains(c))
            && EmailAddress::parse_with_options(text, options).is_ok();
        let (local, domain) = text.rsplit_once('@').filter(|_| fits).ok_or_else(wrong)?;
        // One spelling of a domain (UTS 46), and not an address of a machine.
        let domain = domain_to_ascii(domain).map_err(|_| wrong())?;
        if !domain.rsplit('.').next().is_some_and(|top| top.contains(char::is_alphabetic)) {
            return Err(wrong());
        }
        // ASCII alone is folded: beyond it, letters that look alike in lower case are other mailboxes.
        let folded = format!("{}@{domain}", local.to_ascii_lowercase());
        Ok(Self { code: text.to_owned(), folded })
    }
}

/// A person's name for themselves.
fn name(text: &str) -> Result<String> {
    line("name", text, 100)
}

/// One line of a person's words.
fn line(field: &'static str, text: &str, longest: usize) -> Result<String> {
    let text = text.trim();
    if text.is_empty() || text.chars().count() > longest || text.contains(char::is_control) {
        return Err(Code::invalid_field(field, format!("{field} must be one line of 1 to {longest} characters")));
    }
    Ok(text.to_owned())
}

/// What somebody signs up with.
pub struct SignUp {
    /// Where they read mail.
    pub email: String,
    /// The password they chose.
    pub password: String,
    /// What to call them.
    pub name: String,
}

/// Signs somebody up, and mails them. An address that has an account is claimed in vain: the answer is the same,
/// also to a sign-in, and its owner is told by letter.
///
/// # Errors
/// `VALIDATION_ERROR`, `RATE_LIMIT_EXCEEDED`.
pub async fn sign_up(core: &Core, client: &ClientInfo, form: SignUp) -> Result<UserId> {
    let (email, name) = (Email::parse(&form.email)?, name(&form.name)?);
    let taken = emails_from(core, client);
    acquire(core, &taken).await?;
    let hash = core.passwords().hash_new(&form.password, &[&email.folded, &name, &core.rules.app_name]).await;
    let hash = throttles::refund_on_error(core, &taken, hash).await?;

    let mut tx = Tx::begin(core).await?;
    let id = UserId(core.ids.v7(tx.now()));
    // Too many letters to one address are left away, and nothing else.
    let may_write = throttles::try_acquire(&tx, &emails_to(core, EmailTemplate::AlreadyRegistered, &email)).await?;
    let claims = users::lock_unverified_and_owner(&tx, &email.folded).await?;
    let owner = claims.into_iter().find(|user| user.email_verified_at.is_some());
    let user = User {
        email: Some(email.code),
        folded_email: Some(email.folded),
        name: Some(name),
        locale: Some(client.locale.to_string()),
        status: AccountStatus::Pending.to_string(),
        registered_at: Some(tx.now()),
        ..users::seen(id, tx.now())
    };
    users::insert(&tx, user).await?;
    set_password(&tx, id, hash).await?;
    // A claim on an address that has an owner comes to nothing, but looks the same to who made it.
    let (kind, subject) = match &owner {
        Some(owner) => (EventKind::SignUpRepeated, owner.id),
        None => (EventKind::UserRegistered, id),
    };
    record(&mut tx, kind, &Actor::User(id), subject, json!({ "method": "password", "network": client.network }));
    match owner {
        _ if !may_write => {}
        Some(owner) => emails::send(&mut tx, EmailTemplate::AlreadyRegistered, owner.id, None).await?,
        None => send_link(&mut tx, EmailTemplate::VerifyEmail, id).await?,
    }
    tx.commit().await?;
    Ok(id)
}

/// Mails the link that proves an address again; the earlier one works too. Answers nothing, whoever the
/// address belongs to.
///
/// # Errors
/// `VALIDATION_ERROR`, `RATE_LIMIT_EXCEEDED`.
pub async fn resend_verification(core: &Core, client: &ClientInfo, email: &str) -> Result<()> {
    email_link(core, client, email, EmailTemplate::VerifyEmail, |user| user.status == AccountStatus::Pending.as_str())
        .await
}

/// Mails a link that sets a new password. Answers nothing, whoever the address belongs to.
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
    letter: EmailTemplate,
    is_for: impl Fn(&User) -> bool,
) -> Result<()> {
    let email = Email::parse(email)?;
    acquire(core, &emails_from(core, client)).await?;
    let [owner, claimant] = users::find_by_email(core, &email).await?;
    let user = owner.or(claimant).filter(is_for);
    let mut tx = Tx::begin(core).await?;
    if throttles::try_acquire(&tx, &emails_to(core, letter, &email)).await?
        && let Some(user) = user
    {
        send_link(&mut tx, letter, user.id).await?;
    }
    tx.commit().await
}

async fn send_link(tx: &mut Tx, letter: EmailTemplate, user: UserId) -> Result<()> {
    let (purpose, life) = match letter {
        EmailTemplate::ResetPassword => (Purpose::ResetPassword, RESET_LIFETIME),
        _ => (Purpose::VerifyEmail, VERIFY_LIFETIME),
    };
    let token = one_time::create(tx, purpose, Some(user), life, None).await?;
    emails::send(tx, letter, user, Some(&token)).await
}

/// What remains to do after an address was proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EmailVerification {
    /// Nothing: sign in.
    Ready,
    /// Several had signed up with the address, so nobody knows whose password is whose: a letter with a link
    /// that sets one is on its way.
    NeedsPassword,
}

/// Proves an address with the token that was mailed to it.
///
/// # Errors
/// `INVALID_ONE_TIME_TOKEN`.
pub async fn verify_email(core: &Core, token: &str) -> Result<EmailVerification> {
    let seen = one_time::find_valid(core, Purpose::VerifyEmail, token).await?;
    let id = seen.user_id.ok_or_else(|| Code::InvalidOneTimeToken.refusal())?;
    let mut tx = Tx::begin(core).await?;
    let others = verify_email_of(&mut tx, id).await?;
    one_time::consume(&tx, Purpose::VerifyEmail, token).await?;
    one_time::end_all(&tx, Purpose::VerifyEmail, id).await?;
    let proved = match others {
        // Whoever reads the mail pressed a link, perhaps not their own: a stranger's password must not stay.
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
    Ok(proved)
}

/// Notes that this user reads the mail at their address. The first proof takes it from everybody else who
/// claimed it, with whatever they had set up. Answers how many those were, if it was the first.
async fn verify_email_of(tx: &mut Tx, id: UserId) -> Result<Option<usize>> {
    let refuse = || Code::InvalidOneTimeToken.refusal();
    let user = users::find_in(tx, id).await?.ok_or_else(refuse)?;
    let folded = user.folded_email.ok_or_else(refuse)?;
    let claims = users::lock_unverified_and_owner(tx, &folded).await?;
    let mut user = claims.iter().find(|claim| claim.id == id).cloned().ok_or_else(refuse)?;
    if user.email_verified_at.is_some() {
        return Ok(None);
    }
    for other in claims.iter().filter(|claim| claim.id != id) {
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
    Ok(Some(claims.len() - 1))
}

/// Sets a new password with the token that was mailed, and ends every session. A second factor stays.
///
/// # Errors
/// `INVALID_ONE_TIME_TOKEN`, `VALIDATION_ERROR`.
pub async fn reset_password(core: &Core, token: &str, password: &str) -> Result<()> {
    let refuse = || Code::InvalidOneTimeToken.refusal();
    let seen = one_time::find_valid(core, Purpose::ResetPassword, token).await?;
    let id = seen.user_id.ok_or_else(refuse)?;
    let user = users::find(core, id).await?.ok_or_else(refuse)?;
    let hash = hash_new_password(core, &user, password).await?;

    let mut tx = Tx::begin(core).await?;
    verify_email_of(&mut tx, id).await?;
    one_time::consume(&tx, Purpose::ResetPassword, token).await?;
    one_time::end_all(&tx, Purpose::VerifyEmail, id).await?;
    replace_password(&mut tx, id, hash, None, "password reset").await?;
    tx.commit().await
}

/// Changes a password by who knows it, and ends every other session.
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

async fn replace_password(tx: &mut Tx, id: UserId, hash: String, but: Option<&Principal>, why: &str) -> Result<()> {
    users::lock(tx, id).await?;
    set_password(tx, id, hash).await?;
    one_time::end_all(tx, Purpose::ResetPassword, id).await?;
    sessions::end_all(tx, id, but.map(|principal| principal.session.id), &Actor::User(id), why).await?;
    record(tx, EventKind::PasswordChanged, &Actor::User(id), id, json!({ "by": why }));
    emails::send(tx, EmailTemplate::PasswordChanged, id, None).await
}

async fn acquire(core: &Core, limits: &[Limit]) -> Result<()> {
    let tx = Tx::begin(core).await?;
    throttles::acquire(&tx, limits).await?;
    tx.commit().await
}

/// The letters a network may cause.
fn emails_from(core: &Core, client: &ClientInfo) -> [Limit; 1] {
    let most = core.rules.emails_per_network;
    [Limit::new(core, "letters", &client.network, most, Duration::from_hours(1))]
}

/// The letters of a kind that an address gets because somebody typed it in: those of one kind do not use up
/// those of another.
fn emails_to(core: &Core, letter: EmailTemplate, email: &Email) -> Limit {
    Limit::new(core, letter.as_str(), &email.folded, EMAILS_PER_ADDRESS, Duration::from_hours(1))
}

/// What a person may change about themselves.
#[derive(Default)]
pub struct Profile {
    /// What to call them.
    pub name: Option<String>,
    /// The language of their letters.
    pub locale: Option<Locale>,
}

/// Changes what a person says of themselves.
///
/// # Errors
/// `VALIDATION_ERROR`.
pub async fn change_profile(core: &Core, principal: &Principal, change: Profile) -> Result<User> {
    let called = change.name.as_deref().map(name).transpose()?;
    let mut tx = Tx::begin(core).await?;
    let user = users::lock(&tx, principal.user.id).await?.ok_or_else(|| Code::InvalidSession.refusal())?;
    let user = User {
        name: called.or(user.name.clone()),
        locale: change.locale.map(|locale| locale.to_string()).or(user.locale.clone()),
        ..user
    };
    users::update(&tx, &user).await?;
    record(&mut tx, EventKind::ProfileChanged, &Actor::User(user.id), user.id, Value::Null);
    tx.commit().await?;
    Ok(user)
}

/// Notes something about an account in the one log.
fn record(tx: &mut Tx, kind: EventKind, actor: &Actor, subject: UserId, after: Value) {
    let (tenant, actor) = (TenantId::INSTALLATION, actor.clone());
    let after = Some(after).filter(|after| !after.is_null());
    tx.record(NewEvent { tenant, kind, actor, subject: Some(subject), license: None, before: None, after });
}
