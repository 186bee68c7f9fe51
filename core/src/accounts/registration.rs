//! Sign-up.

use crate::accounts::{Accounts, client::ClientInfo, credentials::set_password, emails, limits, profile};
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

/// Creates an unverified account and sends the verification email. If the address already has a verified owner, the
/// response is the same, but the owner is notified instead and the new account can never be verified. Refused with
/// `VALIDATION_ERROR`, `RATE_LIMIT_EXCEEDED`.
pub async fn sign_up(core: &Core, client: &ClientInfo, form: SignUp) -> Result<UserId> {
    let (email, name) = (Email::parse(&form.email)?, profile::name(&form.name)?);
    let limits = limits::emails_from(core, client);
    throttles::acquire_now(core, &limits).await?;
    let Accounts { passwords, policy } = &core.accounts;
    let hash = passwords.hash_new(&form.password, &[&email.folded, &name, &policy.app_name]).await;
    let hash = throttles::refund_on_error(core, &limits, hash).await?;

    let mut tx = Tx::begin(core).await?;
    let id = UserId(core.ids.v7(tx.now()));
    // Over the limit, only the email is skipped.
    let emails_to = limits::emails_to(core, EmailTemplate::AlreadyRegistered, &email);
    let may_send = throttles::try_acquire(&tx, &emails_to).await?;
    let accounts = users::lock_all_with_email(&tx, &email.folded).await?;
    let owner = accounts.into_iter().find(|user| user.email_verified_at.is_some());
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
    // A sign-up with an address that has an owner is recorded on the owner's account.
    let sign_up = SignUpData { method: "password", network: Some(client.network.clone()) };
    tx.record(match &owner {
        Some(owner) => NewEvent::account(Actor::User(id), owner.id, EventData::SignUpRepeated { sign_up }),
        None => NewEvent::account(Actor::User(id), id, EventData::UserRegistered { sign_up }),
    });
    match owner {
        _ if !may_send => {}
        Some(owner) => emails::send(&mut tx, EmailTemplate::AlreadyRegistered, owner.id, None).await?,
        None => emails::send_link(&mut tx, EmailTemplate::VerifyEmail, id).await?,
    }
    tx.commit().await?;
    Ok(id)
}
