//! Signing in with a password, and proving it again before what cannot be undone.

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

/// What somebody signs in with.
pub struct SignIn {
    /// Where they read mail.
    pub email: String,
    /// Their password.
    pub password: String,
    /// A code of their second factor, or a recovery code.
    pub code: Option<String>,
}

/// Signs somebody in. How their account stands is told only to who knows the password.
///
/// # Errors
/// `INVALID_CREDENTIALS`, `EMAIL_NOT_VERIFIED`, `ACCOUNT_SUSPENDED`, `ACCOUNT_BANNED`, `REQUIRES_2FA`,
/// `INVALID_2FA_CODE`, `RATE_LIMIT_EXCEEDED`.
pub async fn sign_in(core: &Core, client: &ClientInfo, form: SignIn) -> Result<SignedIn> {
    // What is no address is one nobody has.
    let email = Email::parse(&form.email).ok();
    let account = email.as_ref().map_or_else(|| form.email.to_lowercase(), |email| email.folded.clone());
    let attempts = attempt_limits(core, client, &account);
    acquire(core, &attempts).await?;

    let matched = verify_password(core, email.as_ref(), &form.password).await;
    let (owner, matched) = throttles::refund_on_error(core, &attempts, matched).await?;
    let Some((user, known, found)) = matched else {
        return Err(refuse(core, client, owner, Code::InvalidCredentials).await?);
    };
    // One that cannot be made now is made the next time.
    let rehashed =
        if found == PasswordMatch::Outdated { core.passwords().hash(&form.password).await.ok() } else { None };

    let mut tx = Tx::begin(core).await?;
    throttles::refund(&tx, &attempts).await?;
    let user = users::lock(&tx, user.id).await?.ok_or_else(|| Code::InvalidCredentials.refusal())?;
    if password_in(&tx, user.id).await?.as_ref() != Some(&known) {
        return Err(Code::InvalidCredentials.refusal());
    }
    if let Err(refused) = ensure_active(&user) {
        let why = json!({ "why": refused.code(), "network": client.network });
        record(&mut tx, EventKind::SignInRefused, &Actor::System, user.id, why);
        tx.commit().await?;
        return Err(refused);
    }
    if let Some(hash) = rehashed {
        set_password(&tx, user.id, hash).await?;
    }
    let factor = second_factor::check(&mut tx, client, &user, form.code.as_deref()).await?;
    match factor {
        Ok(factor) => {
            let signed_in = sessions::open(&mut tx, client, user, "password", factor).await?;
            tx.commit().await?;
            Ok(signed_in)
        }
        Err(refused) => {
            tx.commit().await?;
            Err(refused)
        }
    }
}

/// Whose password this is, with the hash it was found by: the owner's of an address, or else the last claimant's.
/// Two are compared wherever none fits, so that a claim on somebody's address takes as long as one on nobody's.
/// Answers the address's user too, for the log.
async fn verify_password(
    core: &Core,
    email: Option<&Email>,
    password: &str,
) -> Result<(Option<UserId>, Option<(User, String, PasswordMatch)>)> {
    let [owner, claimant] = match email {
        Some(email) => users::find_by_email(core, email).await?,
        None => [None, None],
    };
    let id = owner.as_ref().or(claimant.as_ref()).map(|user| user.id);
    for user in [owner, claimant] {
        let known = match &user {
            Some(user) => password_of(core, user.id).await?,
            None => None,
        };
        let found = core.passwords().compare(password, known.clone()).await?;
        if let (Some(user), Some(known)) = (user, known)
            && found != PasswordMatch::No
        {
            return Ok((id, Some((user, known, found))));
        }
    }
    Ok((id, None))
}

/// Whether an account may be entered, told to who proved that it is theirs.
pub(super) fn ensure_active(user: &User) -> Result<()> {
    match user.status()? {
        AccountStatus::Active => Ok(()),
        AccountStatus::Pending => Err(Code::EmailNotVerified.refusal()),
        AccountStatus::Suspended => Err(Code::AccountSuspended.refusal()),
        AccountStatus::Banned => Err(Code::AccountBanned.refusal()),
    }
}

/// Notes a refused sign-in, of a known account or not.
async fn refuse(core: &Core, client: &ClientInfo, subject: Option<UserId>, why: Code) -> Result<crate::Error> {
    let mut tx = Tx::begin(core).await?;
    let after = json!({ "why": why, "network": client.network });
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
    Ok(why.refusal())
}

/// Asks a person who is signed in for their password again, before what cannot be undone. Who has none came
/// through a provider, and must have done so just now.
pub(crate) async fn reauthenticate(
    core: &Core,
    client: &ClientInfo,
    principal: &Principal,
    password: Option<&str>,
) -> Result<()> {
    let Some(known) = password_of(core, principal.user.id).await? else {
        let is_fresh = core.clock.now() - principal.session.created_at <= REAUTH_WINDOW;
        let stale = || Code::InvalidCredentials.because("Sign in again, and then do this within 15 minutes.");
        return is_fresh.then_some(()).ok_or_else(stale);
    };
    let account = principal.user.folded_email.clone().unwrap_or_else(|| principal.user.id.to_string());
    let attempts = attempt_limits(core, client, &account);
    acquire(core, &attempts).await?;
    let found = core.passwords().compare(password.unwrap_or_default(), Some(known)).await;
    if throttles::refund_on_error(core, &attempts, found).await? == PasswordMatch::No {
        return Err(refuse(core, client, Some(principal.user.id), Code::InvalidCredentials).await?);
    }
    let tx = Tx::begin(core).await?;
    throttles::refund(&tx, &attempts).await?;
    tx.commit().await
}

/// The throttles of guesses at an account. A browser that was signed in before has one of its own, so that
/// strangers cannot lock an owner out.
fn attempt_limits(core: &Core, client: &ClientInfo, account: &str) -> [Limit; 2] {
    let most = core.rules.failures_per_account;
    let account = match sessions::known_device(core, client, account) {
        Some(device) => Limit::new(core, "device", &device, most, FAILURE_WINDOW),
        None => Limit::new(core, "account", account, most, FAILURE_WINDOW),
    };
    [account, Limit::new(core, "network", &client.network, core.rules.failures_per_network, FAILURE_WINDOW)]
}
