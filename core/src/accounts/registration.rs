//! Sign-up.

use crate::accounts::client::{ClientInfo, sign_up_proof};
use crate::accounts::credentials::{password_of, set_password};
use crate::accounts::{Accounts, emails, limits, profile};
use crate::crypto::password::PasswordMatch;
use crate::events::{Actor, EventData, NewEvent, SignUpData};
use crate::users::{self, AccountStatus, Email, User};
use crate::{Core, Result, ids::UserId, outbox::EmailTemplate, throttles, tx::Tx};

/// A sign-up form.
pub struct SignUp {
    /// The email address.
    pub email: String,
    /// The password.
    pub password: String,
    /// The display name.
    pub name: String,
}

/// An account that was signed up for.
pub struct SignedUp {
    /// The account.
    pub user: UserId,
    /// The sign-up cookie, with which this browser can verify the email without the password.
    pub proof: String,
}

/// Creates an unverified account and sends the verification email. If the address already has a verified owner, the
/// response is the same, but the owner is notified instead and the new account can never be verified. If the same form
/// was submitted before, only the email is sent again. Refused with `VALIDATION_ERROR`, `RATE_LIMIT_EXCEEDED`.
pub async fn sign_up(core: &Core, client: &ClientInfo, form: SignUp) -> Result<SignedUp> {
    let (email, name) = (Email::parse(&form.email)?, profile::name(&form.name)?);
    let limits = limits::emails_from(core, client, &email.folded);
    throttles::acquire_now(core, &limits).await?;
    let hashed = hash_and_compare(core, &email, &name, &form.password).await;
    let (hash, repeated) = throttles::refund_on_error(core, &limits, hashed).await?;

    let mut tx = Tx::begin(core).await?;
    // Over the limit, only the email is skipped.
    let emails_to = limits::emails_to(core, EmailTemplate::AlreadyRegistered, &email);
    let may_send = throttles::try_acquire(&tx, &emails_to).await?;
    let accounts = users::lock_all_with_email(&tx, &email.folded, None).await?;
    let owner = accounts.iter().find(|user| user.email_verified_at.is_some());
    let repeated = repeated.filter(|id| owner.is_none() && accounts.iter().any(|user| user.id == *id));
    let id = repeated.unwrap_or_else(|| UserId(core.ids.v7(tx.now())));
    if repeated.is_none() {
        let user = User {
            email: Some(email.address),
            folded_email: Some(email.folded),
            name: Some(name),
            locale: Some(client.locale),
            status: AccountStatus::Pending,
            registered_at: Some(tx.now()),
            ..users::without_account(id, tx.now())
        };
        users::insert(&tx, user).await?;
        set_password(&tx, id, hash).await?;
    }
    // A sign-up with an address that has an owner is recorded on the owner's account.
    let sign_up = SignUpData { method: "password", network: Some(client.network.clone()) };
    tx.record(match owner.map(|owner| owner.id).or(repeated) {
        Some(known) => NewEvent::account(Actor::User(id), known, EventData::SignUpRepeated { sign_up }),
        None => NewEvent::account(Actor::User(id), id, EventData::UserRegistered { sign_up }),
    });
    match owner {
        _ if !may_send => {}
        Some(owner) => emails::send(&mut tx, EmailTemplate::AlreadyRegistered, owner.id, None).await?,
        None => emails::send_link(&mut tx, EmailTemplate::VerifyEmail, id).await?,
    }
    tx.commit().await?;
    Ok(SignedUp { user: id, proof: sign_up_proof(core, id) })
}

/// Hashes the new password, and finds the newest unverified account with this address if it has the same password. Does
/// the same work whether or not the address is known.
async fn hash_and_compare(core: &Core, email: &Email, name: &str, password: &str) -> Result<(String, Option<UserId>)> {
    let Accounts { passwords, policy } = &core.accounts;
    let hash = passwords.hash_new(password, &[&email.folded, name, &policy.app_name]).await?;
    let [_, unverified] = users::find_by_email(core, email).await?;
    let stored_hash = match &unverified {
        Some(user) => password_of(core, user.id).await?,
        None => None,
    };
    let is_same = passwords.compare(password, stored_hash).await? != PasswordMatch::No;
    Ok((hash, unverified.filter(|_| is_same).map(|user| user.id)))
}
