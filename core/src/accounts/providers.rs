//! Signing in with a provider: Discord, Google.
//!
//! ```text
//! begin -> state (mailed to nobody, in the browser's cookie and in the provider's URL) + PKCE challenge
//! callback -> take (state and cookie agree, once) -> the door asks the provider -> enter | link
//! ```
//! A person is known by (provider, subject) and by nothing else: an address that a provider vouches for
//! makes no link. Whoever is signed in may link a provider's account to theirs.

use chrono::TimeDelta;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{
    Code, Core, Error, Result,
    accounts::{
        ClientInfo, Email, Principal, SignedIn, ensure_active, name, one_time, password_in, record, second_factor,
        sessions,
    },
    crypto::{
        one_time::{self as codec, hex, is_equal},
        seal::Purpose,
    },
    events::{Actor, EventKind},
    ids::{SessionId, UserId},
    tx::Tx,
    users::{self, Provider, User},
};

/// How long a person may take at the provider, or to find their second factor.
const LIFETIME: TimeDelta = TimeDelta::minutes(10);

/// A sign-in that began.
pub struct AuthorizationRequest {
    /// Goes to the provider and into the browser's cookie.
    pub state: String,
    /// Proves to the provider that who redeems the code is who asked for it (RFC 7636).
    pub verifier: String,
}

/// What was agreed when it began.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct OAuthState {
    provider: Provider,
    /// Whose account it will be linked to, by which session; `None` signs in.
    link: Option<(UserId, SessionId)>,
}

/// A sign-in that comes back.
#[derive(Debug)]
pub struct OAuthCallback {
    /// The provider.
    pub provider: Provider,
    /// The PKCE verifier.
    pub verifier: String,
    link: Option<(UserId, SessionId)>,
}

/// What a provider says of a person.
pub struct ProviderProfile {
    /// Who they are there; never changes.
    pub subject: String,
    /// What they are called there.
    pub name: Option<String>,
    /// Their address, if the provider has proved it.
    pub proved_email: Option<String>,
    /// What the provider gave for later, as JSON.
    pub tokens: String,
}

/// How a sign-in with a provider ends.
pub enum SignInOutcome {
    /// Signed in.
    Open(Box<SignedIn>),
    /// A code is needed; the token waits for it.
    SecondFactor(String),
    /// Linked to the account that began it.
    Linked(Provider),
}

fn verifier(core: &Core, id: uuid::Uuid) -> String {
    hex(&core.keys().mac(Purpose::CodeVerifier, &id.to_string()))
}

/// Begins a sign-in, or a link to who is signed in.
///
/// # Errors
/// When the database does not answer.
pub async fn begin(core: &Core, provider: Provider, link: Option<&Principal>) -> Result<AuthorizationRequest> {
    let terms = OAuthState { provider, link: link.map(|principal| (principal.user.id, principal.session.id)) };
    let tx = Tx::begin(core).await?;
    let data = serde_json::to_value(terms).map_err(|error| Error::Broken(error.to_string()))?;
    let token = one_time::create(&tx, Purpose::SignIn, None, LIFETIME, Some(data)).await?;
    tx.commit().await?;
    let state = codec::encode(core.keys(), Purpose::SignIn, token.id);
    Ok(AuthorizationRequest { state, verifier: verifier(core, token.id) })
}

/// Takes a sign-in that comes back, once: the browser that began it carries the same state.
///
/// # Errors
/// `SIGN_IN_FAILED`.
pub async fn verify_callback(
    core: &Core,
    provider: Provider,
    cookie: Option<&str>,
    state: Option<&str>,
) -> Result<OAuthCallback> {
    let refuse = || Code::SignInFailed.because("The sign-in was begun elsewhere, or too long ago. Begin again.");
    let cookie = cookie.ok_or_else(refuse)?;
    // A client that posts the code alone proves itself by its cookie and by PKCE.
    if state.is_some_and(|state| !is_equal(state, cookie)) {
        return Err(refuse());
    }
    let tx = Tx::begin(core).await?;
    let consumed = one_time::consume(&tx, Purpose::SignIn, cookie).await.map_err(|error| match error {
        Error::Refused(_) => refuse(),
        other => other,
    })?;
    tx.commit().await?;
    let terms: Option<OAuthState> = consumed.data.and_then(|data| serde_json::from_value(data).ok());
    let terms = terms.filter(|terms| terms.provider == provider).ok_or_else(refuse)?;
    Ok(OAuthCallback { provider, verifier: verifier(core, consumed.id), link: terms.link })
}

/// Lets in whom the provider vouches for, or links them to who began it (`principal`: or the user who is signed in now).
///
/// # Errors
/// `ACCOUNT_SUSPENDED`, `ACCOUNT_BANNED`; `CONFLICT` when that account belongs to somebody else here.
pub async fn complete_sign_in(
    core: &Core,
    client: &ClientInfo,
    callback: &OAuthCallback,
    principal: Option<&Principal>,
    profile: ProviderProfile,
) -> Result<SignInOutcome> {
    let mut tx = Tx::begin(core).await?;
    if let Some((owner, session)) =
        principal.map(|principal| (principal.user.id, principal.session.id)).or(callback.link)
    {
        link(&mut tx, callback.provider, owner, session, &profile).await?;
        tx.commit().await?;
        return Ok(SignInOutcome::Linked(callback.provider));
    }
    let id = users::ensure(&tx, callback.provider, &profile.subject).await?;
    let mut user = users::lock(&tx, id).await?.ok_or_else(|| Code::SignInFailed.refusal())?;
    let is_new = user.registered_at.is_none();
    if is_new {
        register(&mut tx, callback.provider, &mut user, client, &profile).await?;
    }
    store_profile(&tx, callback.provider, &user, &profile).await?;
    ensure_active(&user)?;
    if second_factor::is_enabled_in(&tx, user.id).await? {
        let token =
            one_time::create(&tx, Purpose::SecondFactor, Some(user.id), LIFETIME, Some(json!(callback.provider)))
                .await?;
        tx.commit().await?;
        return Ok(SignInOutcome::SecondFactor(codec::encode(core.keys(), Purpose::SecondFactor, token.id)));
    }
    let signed_in = sessions::open(&mut tx, client, user, callback.provider.as_str(), false).await?;
    tx.commit().await?;
    Ok(SignInOutcome::Open(Box::new(SignedIn { is_new, ..signed_in })))
}

/// Completes a sign-in that waited for a code. A wrong code leaves the token as it is; the throttle of codes
/// counts it.
///
/// # Errors
/// `INVALID_ONE_TIME_TOKEN`, `INVALID_2FA_CODE`, `RATE_LIMIT_EXCEEDED`.
pub async fn complete_with_mfa(core: &Core, client: &ClientInfo, token: &str, code: &str) -> Result<SignedIn> {
    let refuse = || Code::InvalidOneTimeToken.refusal();
    let waiting = one_time::find_valid(core, Purpose::SecondFactor, token).await?;
    let mut tx = Tx::begin(core).await?;
    let user = users::lock(&tx, waiting.user_id.ok_or_else(refuse)?).await?.ok_or_else(refuse)?;
    ensure_active(&user)?;
    match second_factor::check(&mut tx, client, &user, Some(code)).await? {
        Ok(proved) => {
            let consumed = one_time::consume(&tx, Purpose::SecondFactor, token).await?;
            let provider: Option<Provider> = consumed.data.and_then(|data| serde_json::from_value(data).ok());
            let provider = provider.ok_or_else(refuse)?;
            let signed_in = sessions::open(&mut tx, client, user, provider.as_str(), proved).await?;
            tx.commit().await?;
            Ok(signed_in)
        }
        Err(refused) => {
            tx.commit().await?;
            Err(refused)
        }
    }
}

/// Makes an account of a person who was at most seen in Discord before. A proved address becomes theirs if
/// nobody here has proved it; claims that nobody proved end.
async fn register(
    tx: &mut Tx,
    provider: Provider,
    user: &mut User,
    client: &ClientInfo,
    profile: &ProviderProfile,
) -> Result<()> {
    // The status stays: who was banned as a face in Discord does not sign themselves free.
    user.registered_at = Some(tx.now());
    user.locale = Some(client.locale.to_string());
    user.name = profile.name.as_deref().and_then(|text| name(text).ok());
    if let Some(email) = profile.proved_email.as_deref().and_then(|text| Email::parse(text).ok()) {
        let claims = users::lock_unverified_and_owner(tx, &email.folded).await?;
        if claims.iter().all(|claim| claim.email_verified_at.is_none()) {
            for claim in claims {
                users::delete(tx, claim.id).await?;
            }
            user.email = Some(email.code);
            user.folded_email = Some(email.folded);
            user.email_verified_at = Some(tx.now());
        }
    }
    users::update(tx, user).await?;
    record(tx, EventKind::UserRegistered, &Actor::User(user.id), user.id, json!({ "method": provider }));
    Ok(())
}

async fn link(
    tx: &mut Tx,
    provider: Provider,
    owner: UserId,
    session: SessionId,
    profile: &ProviderProfile,
) -> Result<()> {
    let taken = || Code::Conflict.because("That account is linked to somebody else here.");
    let user = users::lock(tx, owner).await?.ok_or_else(|| Code::InvalidSession.refusal())?;
    ensure_active(&user)?;
    // Who was signed out meanwhile may be a thief: what they began ends with their session.
    if !sessions::is_live(tx, session).await? {
        return Err(Code::InvalidSession.refusal());
    }
    let known = users::identity(tx, provider, &profile.subject).await?;
    if known.as_ref().is_none_or(|known| known.user_id != owner) {
        if users::has_identity(tx, provider, owner).await? {
            return Err(
                Code::Conflict.because(format!("Another {} account is linked already.", provider.description()))
            );
        }
        match known {
            None => users::link(tx, provider, &profile.subject, owner).await?,
            Some(known) => {
                let seen = users::lock(tx, known.user_id).await?.ok_or_else(taken)?;
                if seen.registered_at.is_some() {
                    return Err(taken());
                }
                ensure_active(&seen)?;
                users::merge_users(tx, seen.id, owner).await?;
            }
        }
        record(tx, EventKind::IdentityLinked, &Actor::User(owner), owner, json!({ "provider": provider }));
    }
    store_profile(tx, provider, &user, profile).await
}

async fn store_profile(tx: &Tx, provider: Provider, user: &User, profile: &ProviderProfile) -> Result<()> {
    let identity = users::identity(tx, provider, &profile.subject).await?;
    let identity = identity.filter(|identity| identity.user_id == user.id);
    let identity = identity.ok_or_else(|| Code::Conflict.because("That account is linked to somebody else here."))?;
    let core = tx.core();
    let sealed = core.keys().seal(&core.ids, Purpose::ProviderTokens, user.id.0, &profile.tokens);
    let called = profile.name.as_deref().and_then(|text| name(text).ok());
    users::store_provider_tokens(tx, &identity, called, sealed).await
}

/// Takes a provider's account from who is signed in, as long as another way in remains.
///
/// # Errors
/// `CONFLICT` when it is the only way in; `NOT_FOUND`.
pub async fn unlink(core: &Core, principal: &Principal, provider: Provider) -> Result<()> {
    let id = principal.user.id;
    let mut tx = Tx::begin(core).await?;
    users::lock(&tx, id).await?;
    // Looked at under the lock: of two at once, each would see the other's way in remain.
    let others = users::identities_in(&tx, id).await?.into_iter().any(|known| known.provider != provider.as_str());
    if !others && password_in(&tx, id).await?.is_none() {
        return Err(Code::Conflict.because("This is the only way into your account; set a password first."));
    }
    if provider == Provider::Discord && users::is_holder(&tx, id).await? {
        return Err(Code::Conflict.because("You hold licenses by that account; they would be lost with it."));
    }
    if !users::unlink(&tx, provider, id).await? {
        return Err(Code::NotFound.because("That provider is not linked."));
    }
    record(&mut tx, EventKind::IdentityUnlinked, &Actor::User(id), id, json!({ "provider": provider }));
    tx.commit().await
}
