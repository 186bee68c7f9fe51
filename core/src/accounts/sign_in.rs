//! Sign-in with a password, and reauthentication before sensitive operations.

use serde_json::json;

use crate::{
    Code, Core, Result,
    accounts::{
        AccountStatus, ClientInfo, Email, FAILURE_WINDOW, Principal, REAUTH_WINDOW, SignedIn, acquire,
        credentials::{password_in, password_of, set_password},
        record, second_factor, sessions,
    },
    crypto::password::PasswordMatch,
    events::{Actor, EventKind, NewEvent},
    ids::{TenantId, UserId},
    throttles::{self, Limit},
    tx::Tx,
    users::{self, User},
};

/// A sign-in form.
pub struct SignIn {
    /// The email address.
    pub email: String,
    /// The password.
    pub password: String,
    /// A code of the second factor, or a recovery code.
    pub code: Option<String>,
}

/// Signs a user in with a password. The status of the account is disclosed only if the password is correct.
///
/// # Errors
/// `INVALID_CREDENTIALS`, `EMAIL_NOT_VERIFIED`, `ACCOUNT_SUSPENDED`, `ACCOUNT_BANNED`, `REQUIRES_2FA`,
/// `INVALID_2FA_CODE`, `RATE_LIMIT_EXCEEDED`.
pub async fn sign_in(core: &Core, client: &ClientInfo, form: SignIn) -> Result<SignedIn> {
    // An invalid address is handled like an unknown one, so that the response does not differ.
    let email = Email::parse(&form.email).ok();
    let account = email.as_ref().map_or_else(|| form.email.to_lowercase(), |email| email.folded.clone());
    let attempts = attempt_limits(core, client, &account);
    acquire(core, &attempts).await?;

    let matched = verify_password(core, email.as_ref(), &form.password).await;
    let (owner, matched) = throttles::refund_on_error(core, &attempts, matched).await?;
    let Some((user, stored_hash, outcome)) = matched else {
        return Err(record_refusal(core, client, owner, Code::InvalidCredentials).await?);
    };
    // If rehashing fails, the next sign-in tries again.
    let rehashed =
        if outcome == PasswordMatch::Outdated { core.passwords().hash(&form.password).await.ok() } else { None };

    let mut tx = Tx::begin(core).await?;
    throttles::refund(&tx, &attempts).await?;
    let user = users::lock(&tx, user.id).await?.ok_or_else(|| Code::InvalidCredentials.refusal())?;
    if password_in(&tx, user.id).await?.as_ref() != Some(&stored_hash) {
        return Err(Code::InvalidCredentials.refusal());
    }
    if let Err(refused) = ensure_active(&user) {
        let after = json!({ "why": refused.code(), "network": client.network });
        record(&mut tx, EventKind::SignInRefused, &Actor::System, user.id, after);
        tx.commit().await?;
        return Err(refused);
    }
    if let Some(hash) = rehashed {
        set_password(&tx, user.id, hash).await?;
    }
    match second_factor::check(&mut tx, client, &user, form.code.as_deref()).await? {
        Ok(mfa_verified) => {
            let signed_in = sessions::open(&mut tx, client, user, "password", mfa_verified).await?;
            tx.commit().await?;
            Ok(signed_in)
        }
        Err(refused) => {
            tx.commit().await?;
            Err(refused)
        }
    }
}

/// Finds the user with this address and password, and returns it with the matching hash. Tries the verified owner of
/// the address, then the latest unverified account. If neither matches, two hashes have always been compared, so
/// that the timing does not reveal whether the address is known. Also returns the id of the address's user, for the
/// event log.
async fn verify_password(
    core: &Core,
    email: Option<&Email>,
    password: &str,
) -> Result<(Option<UserId>, Option<(User, String, PasswordMatch)>)> {
    let [owner, unverified] = match email {
        Some(email) => users::find_by_email(core, email).await?,
        None => [None, None],
    };
    let id = owner.as_ref().or(unverified.as_ref()).map(|user| user.id);
    for user in [owner, unverified] {
        let stored_hash = match &user {
            Some(user) => password_of(core, user.id).await?,
            None => None,
        };
        let outcome = core.passwords().compare(password, stored_hash.clone()).await?;
        if let (Some(user), Some(stored_hash)) = (user, stored_hash)
            && outcome != PasswordMatch::No
        {
            return Ok((id, Some((user, stored_hash, outcome))));
        }
    }
    Ok((id, None))
}

/// Refuses accounts that are not active. Call it only after the user has authenticated, because the refusal
/// discloses the status.
pub(super) fn ensure_active(user: &User) -> Result<()> {
    match user.status()? {
        AccountStatus::Active => Ok(()),
        AccountStatus::Pending => Err(Code::EmailNotVerified.refusal()),
        AccountStatus::Suspended => Err(Code::AccountSuspended.refusal()),
        AccountStatus::Banned => Err(Code::AccountBanned.refusal()),
    }
}

/// Records a refused sign-in; `subject` is `None` if the account is unknown.
async fn record_refusal(core: &Core, client: &ClientInfo, subject: Option<UserId>, code: Code) -> Result<crate::Error> {
    let mut tx = Tx::begin(core).await?;
    let after = json!({ "why": code, "network": client.network });
    tx.record(NewEvent {
        tenant: TenantId::INSTALLATION,
        kind: EventKind::SignInRefused,
        actor: Actor::System,
        subject,
        license: None,
        before: None,
        after: Some(after),
    });
    tx.commit().await?;
    Ok(code.refusal())
}

/// Requires the password of a signed-in user again, before a sensitive operation. Users without a password must
/// have signed in through a provider within [`REAUTH_WINDOW`].
pub(crate) async fn reauthenticate(
    core: &Core,
    client: &ClientInfo,
    principal: &Principal,
    password: Option<&str>,
) -> Result<()> {
    let Some(stored_hash) = password_of(core, principal.user.id).await? else {
        let is_fresh = core.clock.now() - principal.session.created_at <= REAUTH_WINDOW;
        let refuse =
            || Code::InvalidCredentials.because("Your sign-in is too old. Sign in again and retry within 15 minutes.");
        return is_fresh.then_some(()).ok_or_else(refuse);
    };
    let account = principal.user.folded_email.clone().unwrap_or_else(|| principal.user.id.to_string());
    let attempts = attempt_limits(core, client, &account);
    acquire(core, &attempts).await?;
    let outcome = core.passwords().compare(password.unwrap_or_default(), Some(stored_hash)).await;
    if throttles::refund_on_error(core, &attempts, outcome).await? == PasswordMatch::No {
        return Err(record_refusal(core, client, Some(principal.user.id), Code::InvalidCredentials).await?);
    }
    let tx = Tx::begin(core).await?;
    throttles::refund(&tx, &attempts).await?;
    tx.commit().await
}

/// The limits on password attempts for an account. A browser that signed in before has its own limit, so that
/// attackers cannot lock the owner out.
fn attempt_limits(core: &Core, client: &ClientInfo, account: &str) -> [Limit; 2] {
    let max = core.rules.failures_per_account;
    let account = match sessions::known_device(core, client, account) {
        Some(device) => Limit::new(core, "device", &device, max, FAILURE_WINDOW),
        None => Limit::new(core, "account", account, max, FAILURE_WINDOW),
    };
    [account, Limit::new(core, "network", &client.network, core.rules.failures_per_network, FAILURE_WINDOW)]
}
