//! Sign-in with a password.

use crate::accounts::client::{ClientInfo, account_of};
use crate::accounts::credentials::{password_of, set_password};
use crate::accounts::providers::{SignInOutcome, wait_for_second_factor};
use crate::accounts::{limits, reauthentication, sessions, totp};
use crate::users::{self, Email, SignInMethod, User};
use crate::{Code, Core, Result, crypto::password::PasswordMatch, throttles, tx::Tx};

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
    let (users, account) = resolve(core, &form.identifier).await?;
    let attempts = limits::password_attempts(core, client, &account);
    throttles::acquire_now(core, &attempts).await?;

    let owner = users.iter().flatten().next().map(|user| user.id);
    let matched = verify_password(core, users, &form.password).await;
    let Some((user, stored_hash, outcome)) = throttles::refund_on_error(core, &attempts, matched).await? else {
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

/// The users with this identifier, and the name under which attempts are counted: the same for every identifier of an
/// account, so that none adds guesses. It shows which name has which address to those who exhaust the limit, which is
/// the lesser harm.
async fn resolve(core: &Core, identifier: &str) -> Result<([Option<User>; 2], String)> {
    let identifier = identifier.trim();
    if let Ok(email) = Email::parse(identifier) {
        return Ok((users::find_by_email(core, &email).await?, email.folded));
    }
    let user = users::find_by_identifier(core, identifier).await?;
    let account = user.as_ref().map_or_else(|| identifier.to_lowercase(), account_of);
    Ok(([user, None], account))
}

/// Returns the user with this password, and the matching hash. Tries the verified owner of the address, then the latest
/// unverified account. If neither matches, two hashes have always been compared, so that the timing does not reveal
/// whether the address is known.
async fn verify_password(
    core: &Core,
    users: [Option<User>; 2],
    password: &str,
) -> Result<Option<(User, String, PasswordMatch)>> {
    let mut stored_hashes = Vec::new();
    for user in &users {
        stored_hashes.push(match user {
            Some(user) => password_of(core, user.id).await?,
            None => None,
        });
    }
    let matched = core.accounts.passwords.find_match(password, stored_hashes.clone()).await?;
    Ok(matched.and_then(|(index, outcome)| {
        Some((users.into_iter().nth(index)??, stored_hashes.swap_remove(index)?, outcome))
    }))
}
