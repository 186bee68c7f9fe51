//! Sign-in with a password.

use crate::accounts::credentials::{password_of, set_password};
use crate::accounts::providers::{SignInOutcome, wait_for_second_factor};
use crate::accounts::{client::ClientInfo, limits, reauthentication, sessions, totp};
use crate::users::{self, Email, SignInMethod, User};
use crate::{Code, Core, Result, crypto::password::PasswordMatch, ids::UserId, throttles, tx::Tx};

/// A sign-in form.
pub struct SignIn {
    /// The email address, the ID of a linked Discord account, or a name that no other user has.
    pub identifier: String,
    /// The password.
    pub password: String,
    /// A code of the second factor, or a recovery code.
    pub code: Option<String>,
}

/// Signs a user in with a password. The status of the account is disclosed only if the password is correct. Refused
/// with `INVALID_CREDENTIALS`, `EMAIL_NOT_VERIFIED`, `ACCOUNT_SUSPENDED`, `ACCOUNT_BANNED`, `INVALID_2FA_CODE`,
/// `RATE_LIMIT_EXCEEDED`.
pub async fn sign_in(core: &Core, client: &ClientInfo, form: SignIn) -> Result<SignInOutcome> {
    let email = Email::parse(&form.identifier).ok();
    let account = email.as_ref().map_or_else(|| form.identifier.to_lowercase(), |email| email.folded.clone());
    let attempts = limits::password_attempts(core, client, &account);
    throttles::acquire_now(core, &attempts).await?;

    let matched = verify_password(core, email.as_ref(), &form).await;
    let (owner, matched) = throttles::refund_on_error(core, &attempts, matched).await?;
    let Some((user, stored_hash, outcome)) = matched else {
        return Err(reauthentication::refuse(core, client, owner).await?);
    };
    // If rehashing fails, the next sign-in tries again.
    let rehashed =
        if outcome == PasswordMatch::Outdated { core.accounts.passwords.hash(&form.password).await.ok() } else { None };

    let mut tx = Tx::begin(core).await?;
    throttles::refund(&tx, &attempts).await?;
    let user = users::lock(&tx, user.id).await?.ok_or_else(|| Code::InvalidCredentials.refusal())?;
    if password_of(&tx, user.id).await?.as_ref() != Some(&stored_hash) {
        return Err(Code::InvalidCredentials.refusal());
    }
    if let Err(refused) = user.ensure_active() {
        tx.record(reauthentication::refused_sign_in(client, Some(user.id), refused.code()));
        tx.commit().await?;
        return Err(refused);
    }
    if let Some(hash) = rehashed {
        set_password(&tx, user.id, hash).await?;
    }
    let code = form.code.as_deref().filter(|code| !code.trim().is_empty());
    if code.is_none() && totp::is_enabled(&tx, user.id).await? {
        return wait_for_second_factor(tx, user.id, SignInMethod::Password).await;
    }
    let (mut tx, second_factor) = totp::check(tx, client, &user, code).await?;
    let signed_in = sessions::open(&mut tx, client, user, SignInMethod::Password, second_factor).await?;
    tx.commit().await?;
    Ok(SignInOutcome::SignedIn(Box::new(signed_in)))
}

/// Finds the user with this identifier and password, and returns it with the matching hash. Tries the verified owner of
/// the address, then the latest unverified account. If neither matches, two hashes have always been compared, so
/// that the timing does not reveal whether the address is known. Also returns the id of the address's user, for the
/// event log.
async fn verify_password(
    core: &Core,
    email: Option<&Email>,
    form: &SignIn,
) -> Result<(Option<UserId>, Option<(User, String, PasswordMatch)>)> {
    let users = match email {
        Some(email) => users::find_by_email(core, email).await?,
        None => [users::find_by_handle(core, &form.identifier).await?, None],
    };
    let id = users.iter().flatten().next().map(|user| user.id);
    let mut stored_hashes = Vec::new();
    for user in &users {
        stored_hashes.push(match user {
            Some(user) => password_of(core, user.id).await?,
            None => None,
        });
    }
    let matched = core.accounts.passwords.find_match(&form.password, stored_hashes.clone()).await?;
    let matched = matched.and_then(|(index, outcome)| {
        Some((users.into_iter().nth(index)??, stored_hashes.swap_remove(index)?, outcome))
    });
    Ok((id, matched))
}
