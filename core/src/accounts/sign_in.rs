//! Signing in with a password, and proving it again before what cannot be undone.

use serde_json::json;

use crate::{
    Code, Core, Result,
    accounts::{
        Email, FRESH, Principal, QUARTER, SignedIn, Status, Visitor,
        credentials::{password_in, password_of, set_password},
        record, second_factor, sessions, take,
    },
    crypto::password::Match,
    events::{Actor, Draft, Kind},
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
pub async fn sign_in(core: &Core, visitor: &Visitor, form: SignIn) -> Result<SignedIn> {
    // What is no address is one nobody has.
    let email = Email::parse(&form.email).ok();
    let account = email.as_ref().map_or_else(|| form.email.to_lowercase(), |email| email.folded.clone());
    let tries = tries_at(core, visitor, &account);
    take(core, &tries).await?;

    let matched = who_knows(core, email.as_ref(), &form.password).await;
    let (owner, matched) = throttles::unless_tried(core, &tries, matched).await?;
    let Some((user, known, found)) = matched else {
        return Err(refuse(core, visitor, owner, Code::InvalidCredentials).await?);
    };
    // One that cannot be made now is made the next time.
    let rehashed = if found == Match::Outdated { core.passwords().hash(&form.password).await.ok() } else { None };

    let mut tx = Tx::begin(core).await?;
    throttles::give_back(&tx, &tries).await?;
    let user = users::lock(&tx, user.id).await?.ok_or_else(|| Code::InvalidCredentials.refusal())?;
    if password_in(&tx, user.id).await?.as_ref() != Some(&known) {
        return Err(Code::InvalidCredentials.refusal());
    }
    if let Err(refused) = admit(&user) {
        let why = json!({ "why": refused.code(), "network": visitor.network });
        record(&mut tx, Kind::SignInRefused, &Actor::System, user.id, why);
        tx.commit().await?;
        return Err(refused);
    }
    if let Some(hash) = rehashed {
        set_password(&tx, user.id, hash).await?;
    }
    let factor = second_factor::check(&mut tx, visitor, &user, form.code.as_deref()).await?;
    match factor {
        Ok(factor) => {
            let signed_in = sessions::open(&mut tx, visitor, user, "password", factor).await?;
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
async fn who_knows(
    core: &Core,
    email: Option<&Email>,
    password: &str,
) -> Result<(Option<UserId>, Option<(User, String, Match)>)> {
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
            && found != Match::No
        {
            return Ok((id, Some((user, known, found))));
        }
    }
    Ok((id, None))
}

/// Whether an account may be entered, told to who proved that it is theirs.
pub(super) fn admit(user: &User) -> Result<()> {
    match user.status()? {
        Status::Active => Ok(()),
        Status::Pending => Err(Code::EmailNotVerified.refusal()),
        Status::Suspended => Err(Code::AccountSuspended.refusal()),
        Status::Banned => Err(Code::AccountBanned.refusal()),
    }
}

/// Notes a refused sign-in, of a known account or not.
async fn refuse(core: &Core, visitor: &Visitor, subject: Option<UserId>, why: Code) -> Result<crate::Error> {
    let mut tx = Tx::begin(core).await?;
    let after = json!({ "why": why, "network": visitor.network });
    tx.record(Draft {
        tenant: TenantId::INSTALLATION,
        kind: Kind::SignInRefused,
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
pub(crate) async fn confirm(core: &Core, visitor: &Visitor, who: &Principal, password: Option<&str>) -> Result<()> {
    let Some(known) = password_of(core, who.user.id).await? else {
        let is_fresh = core.clock.now() - who.session.created_at <= FRESH;
        let stale = || Code::InvalidCredentials.because("Sign in again, and then do this within 15 minutes.");
        return is_fresh.then_some(()).ok_or_else(stale);
    };
    let account = who.user.folded_email.clone().unwrap_or_else(|| who.user.id.to_string());
    let tries = tries_at(core, visitor, &account);
    take(core, &tries).await?;
    let found = core.passwords().compare(password.unwrap_or_default(), Some(known)).await;
    if throttles::unless_tried(core, &tries, found).await? == Match::No {
        return Err(refuse(core, visitor, Some(who.user.id), Code::InvalidCredentials).await?);
    }
    let tx = Tx::begin(core).await?;
    throttles::give_back(&tx, &tries).await?;
    tx.commit().await
}

/// The throttles of guesses at an account. A browser that was signed in before has one of its own, so that
/// strangers cannot lock an owner out.
fn tries_at(core: &Core, visitor: &Visitor, account: &str) -> [Limit; 2] {
    let most = core.rules.failures_per_account;
    let account = match sessions::known_device(core, visitor, account) {
        Some(device) => Limit::new(core, "device", &device, most, QUARTER),
        None => Limit::new(core, "account", account, most, QUARTER),
    };
    [account, Limit::new(core, "network", &visitor.network, core.rules.failures_per_network, QUARTER)]
}
