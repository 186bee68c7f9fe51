//! Sign-in with an OAuth provider: Discord or Google.
//!
//! ```text
//! start_sign_in -> state (in a cookie and in the authorization URL) + PKCE challenge
//! callback -> verify_callback (state equals cookie, once) -> code exchange (HTTP) -> complete_sign_in: sign in | link
//! ```
//! A user is identified only by (provider, subject): a verified email from a provider never links accounts. A
//! signed-in user can link a provider's account to their own.

use chrono::{DateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::accounts::reauthentication::reauthenticate_unless_recent;
use crate::accounts::sessions::{self, Principal, SecondFactor, SignedIn};
use crate::accounts::{client::ClientInfo, credentials::password_of, emails, one_time, profile::name, totp};
use crate::caller::{Caller, UserCaller};
use crate::crypto::one_time::{self as codec, hex, is_equal};
use crate::crypto::seal::Purpose;
use crate::events::{Actor, EventData, NewEvent, SignUpData};
use crate::ids::{SessionId, UserId};
use crate::users::{self, Email, Provider, SignInMethod, User};
use crate::{Code, Core, Error, Reason, Result, entitlements, outbox::EmailTemplate, tx::Tx};

/// How long the user has to authorize at the provider, or to enter their second factor.
const LIFETIME: TimeDelta = TimeDelta::minutes(10);

/// A sign-in that was started.
pub struct AuthorizationRequest {
    /// Sent to the provider and stored in the browser's cookie.
    pub state: String,
    /// The PKCE code verifier (RFC 7636).
    pub verifier: String,
}

/// Stored when a sign-in starts.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct OAuthState {
    provider: Provider,
    /// The user to link to and the session that requested it; `None` to sign in.
    link: Option<(UserId, SessionId)>,
}

/// A callback whose state is verified.
#[derive(Debug)]
pub struct OAuthCallback {
    /// The provider.
    pub provider: Provider,
    /// The PKCE code verifier.
    pub verifier: String,
    link: Option<(UserId, SessionId)>,
}

/// A user's profile at a provider.
pub struct ProviderProfile {
    /// The user's id at the provider; never changes.
    pub subject: String,
    /// The display name.
    pub name: Option<String>,
    /// The email address, if the provider has verified it.
    pub verified_email: Option<String>,
    /// The provider's token response, as JSON.
    pub tokens: String,
}

/// The result of a sign-in.
pub enum SignInOutcome {
    /// Signed in.
    SignedIn(Box<SignedIn>),
    /// A code is required. The token continues the sign-in with [`complete_with_second_factor`].
    SecondFactorRequired(String),
    /// Linked to the account that started it.
    Linked(Provider),
}

fn verifier(core: &Core, id: uuid::Uuid, created_at: DateTime<Utc>) -> String {
    hex(&core.keys().mac_at(Purpose::CodeVerifier, &id.to_string(), created_at))
}

/// Starts a sign-in.
pub async fn start_sign_in(core: &Core, provider: Provider) -> Result<AuthorizationRequest> {
    start(Tx::begin(core).await?, OAuthState { provider, link: None }).await
}

/// Starts to link a provider's account to the signed-in user. Requires the password, or a sign-in of the last 15
/// minutes. Refused with `INVALID_CREDENTIALS`, `INVALID_SESSION`, `RATE_LIMIT_EXCEEDED`.
pub async fn start_link(
    core: &Core,
    client: &ClientInfo,
    principal: &Principal,
    provider: Provider,
    password: Option<&str>,
) -> Result<AuthorizationRequest> {
    let (tx, user) = reauthenticate_unless_recent(core, client, principal, password).await?.begin().await?;
    start(tx, OAuthState { provider, link: Some((user.id, principal.session.id)) }).await
}

async fn start(tx: Tx, state: OAuthState) -> Result<AuthorizationRequest> {
    let core = tx.core().clone();
    let data = serde_json::to_value(state).map_err(|error| Error::Internal(error.to_string()))?;
    let token = one_time::create(&tx, Purpose::SignIn, None, LIFETIME, Some(data)).await?;
    tx.commit().await?;
    let state = codec::encode(core.keys(), Purpose::SignIn, token.id);
    Ok(AuthorizationRequest { state, verifier: verifier(&core, token.id, token.created_at) })
}

/// Verifies the `state` of a callback against the browser's cookie and consumes it. Refused with `SIGN_IN_FAILED`.
pub async fn verify_callback(
    core: &Core,
    provider: Provider,
    cookie: Option<&str>,
    state: Option<&str>,
) -> Result<OAuthCallback> {
    let refuse = || Reason::StateMismatch.refusal();
    let cookie = cookie.ok_or_else(refuse)?;
    // A client that sends only the code is verified by its cookie and by PKCE.
    if state.is_some_and(|state| !is_equal(state, cookie)) {
        return Err(refuse());
    }
    let tx = Tx::begin(core).await?;
    let consumed = one_time::consume(&tx, Purpose::SignIn, cookie).await.map_err(|error| match error {
        Error::Refused(_) => refuse(),
        other => other,
    })?;
    tx.commit().await?;
    let stored: Option<OAuthState> = consumed.data.and_then(|data| serde_json::from_value(data).ok());
    let stored = stored.filter(|stored| stored.provider == provider).ok_or_else(refuse)?;
    Ok(OAuthCallback { provider, verifier: verifier(core, consumed.id, consumed.created_at), link: stored.link })
}

impl OAuthCallback {
    /// Links to the signed-in user, even if the callback belongs to a sign-in. [`start_link`] has not reauthenticated the
    /// user then, so this does. Refused in the same way.
    pub async fn link_to(
        self,
        core: &Core,
        client: &ClientInfo,
        principal: &Principal,
        password: Option<&str>,
    ) -> Result<Self> {
        let link = Some((principal.user.id, principal.session.id));
        if self.link != link {
            // The session is checked again when the account is linked.
            _ = reauthenticate_unless_recent(core, client, principal, password).await?;
        }
        Ok(Self { link, ..self })
    }
}

/// Signs in the user of this profile, or links the profile to the user who started the link. Refused with
/// `ACCOUNT_SUSPENDED`, `ACCOUNT_BANNED`; `CONFLICT` if the provider's account is linked to another user.
pub async fn complete_sign_in(
    core: &Core,
    client: &ClientInfo,
    callback: &OAuthCallback,
    profile: ProviderProfile,
) -> Result<SignInOutcome> {
    let mut tx = Tx::begin(core).await?;
    if let Some((owner, session)) = callback.link {
        link(&mut tx, callback.provider, owner, session, &profile).await?;
        tx.commit().await?;
        return Ok(SignInOutcome::Linked(callback.provider));
    }
    let id = users::ensure_in(&tx, callback.provider, &profile.subject).await?;
    let mut user = users::lock(&tx, id).await?.ok_or_else(|| Code::SignInFailed.refusal())?;
    let is_new = user.registered_at.is_none();
    let is_email_in_use = is_new && register(&mut tx, callback.provider, &mut user, client, &profile).await?;
    store_profile(&tx, callback.provider, &user, &profile).await?;
    user.ensure_active()?;
    if totp::is_enabled(&tx, user.id).await? {
        return wait_for_second_factor(tx, user.id, callback.provider.into()).await;
    }
    let signed_in = sessions::open(&mut tx, client, user, callback.provider.into(), SecondFactor::NotEnabled).await?;
    tx.commit().await?;
    Ok(SignInOutcome::SignedIn(Box::new(SignedIn { is_new, is_email_in_use, ..signed_in })))
}

/// Lets a sign-in wait for the second factor.
pub(super) async fn wait_for_second_factor(tx: Tx, user: UserId, method: SignInMethod) -> Result<SignInOutcome> {
    let data = json!(method);
    let token = one_time::create(&tx, Purpose::SecondFactor, Some(user), LIFETIME, Some(data)).await?;
    let token = codec::encode(tx.core().keys(), Purpose::SecondFactor, token.id);
    tx.commit().await?;
    Ok(SignInOutcome::SecondFactorRequired(token))
}

/// Completes a sign-in that requires a second factor. A wrong code counts against the throttle and leaves the token
/// valid. Refused with `INVALID_ONE_TIME_TOKEN`, `INVALID_2FA_CODE`, `RATE_LIMIT_EXCEEDED`.
pub async fn complete_with_second_factor(
    core: &Core,
    client: &ClientInfo,
    token: &str,
    code: &str,
) -> Result<SignedIn> {
    let refuse = || Code::InvalidOneTimeToken.refusal();
    let pending = one_time::find_valid(core, Purpose::SecondFactor, token).await?;
    let tx = Tx::begin(core).await?;
    let user = users::lock(&tx, pending.user_id.ok_or_else(refuse)?).await?.ok_or_else(refuse)?;
    user.ensure_active()?;
    let (mut tx, second_factor) = totp::check(tx, client, &user, Some(code)).await?;
    let consumed = one_time::consume(&tx, Purpose::SecondFactor, token).await?;
    let method: Option<SignInMethod> = consumed.data.and_then(|data| serde_json::from_value(data).ok());
    let signed_in = sessions::open(&mut tx, client, user, method.ok_or_else(refuse)?, second_factor).await?;
    tx.commit().await?;
    Ok(signed_in)
}

/// Turns a user who is at most known as a Discord member into a registered account. The account gets the
/// provider's verified email; unverified accounts with it are deleted. If it has a verified owner here, the account
/// gets no email, and the result is `true`.
async fn register(
    tx: &mut Tx,
    provider: Provider,
    user: &mut User,
    client: &ClientInfo,
    profile: &ProviderProfile,
) -> Result<bool> {
    // The status stays, so that registering does not lift a ban.
    user.registered_at = Some(tx.now());
    user.locale = Some(client.locale);
    user.name = profile.name.as_deref().and_then(|text| name(text).ok());
    let mut is_email_in_use = false;
    if let Some(email) = profile.verified_email.as_deref().and_then(|text| Email::parse(text).ok()) {
        let accounts = users::lock_all_with_email(tx, &email.folded, None).await?;
        is_email_in_use = accounts.iter().any(|account| account.email_verified_at.is_some());
        if !is_email_in_use {
            for account in accounts {
                users::delete(tx, account.id).await?;
            }
            user.email = Some(email.address);
            user.folded_email = Some(email.folded);
            user.email_verified_at = Some(tx.now());
        }
    }
    users::update(tx, user).await?;
    let data = EventData::UserRegistered { sign_up: SignUpData { method: provider.as_str(), network: None } };
    tx.record(NewEvent::account(Actor::User(user.id), user.id, data));
    Ok(is_email_in_use)
}

async fn link(
    tx: &mut Tx,
    provider: Provider,
    owner: UserId,
    session: SessionId,
    profile: &ProviderProfile,
) -> Result<()> {
    let conflict = || Reason::LinkedElsewhere { provider }.refusal();
    // If the session was revoked since, its owner may not have started this link.
    let user = sessions::lock_user(tx, owner, session).await?;
    let identity = users::identity(tx, provider, &profile.subject).await?;
    if identity.as_ref().is_none_or(|identity| identity.user_id != owner) {
        if users::identities(tx, owner).await?.iter().any(|linked| linked.provider == provider) {
            return Err(Reason::AnotherAccountLinked { provider }.refusal());
        }
        match identity {
            None => users::link(tx, provider, &profile.subject, owner).await?,
            Some(identity) => {
                let other = users::lock(tx, identity.user_id).await?.ok_or_else(conflict)?;
                if other.registered_at.is_some() {
                    return Err(conflict());
                }
                other.ensure_active()?;
                let caller = Caller::User(UserCaller::new(owner, session, user.role));
                entitlements::merge_users(tx, &caller, other.id, owner).await?;
                users::move_identities(tx, other.id, owner).await?;
                users::delete(tx, other.id).await?;
            }
        }
        tx.record(NewEvent::account(Actor::User(owner), owner, EventData::IdentityLinked { provider }));
        emails::send(tx, EmailTemplate::SignInMethodsChanged, owner, None).await?;
    }
    store_profile(tx, provider, &user, profile).await
}

async fn store_profile(tx: &Tx, provider: Provider, user: &User, profile: &ProviderProfile) -> Result<()> {
    let identity = users::identity(tx, provider, &profile.subject).await?;
    let identity = identity.filter(|identity| identity.user_id == user.id);
    let identity = identity.ok_or_else(|| Reason::LinkedElsewhere { provider }.refusal())?;
    let core = tx.core();
    let sealed = core.keys().seal(&core.ids, Purpose::ProviderTokens, user.id.0, &profile.tokens);
    let display_name = profile.name.as_deref().and_then(|text| name(text).ok());
    users::store_provider_tokens(tx, &identity, display_name, sealed).await
}

/// Unlinks a provider's account from the signed-in user. Requires the password, or a sign-in of the last 15 minutes.
/// Refused as [`start_link`]; with `CONFLICT` if it is the only way to sign in or holds licenses; `NOT_FOUND` if it is
/// not linked.
pub async fn unlink(
    core: &Core,
    client: &ClientInfo,
    principal: &Principal,
    provider: Provider,
    password: Option<&str>,
) -> Result<()> {
    let (mut tx, user) = reauthenticate_unless_recent(core, client, principal, password).await?.begin().await?;
    let id = user.id;
    // Checked under the lock: two concurrent requests could otherwise remove both ways to sign in.
    let others = users::identities(&tx, id).await?.into_iter().any(|other| other.provider != provider);
    if !others && password_of(&tx, id).await?.is_none() {
        return Err(Reason::OnlySignInMethod.refusal());
    }
    if provider == Provider::Discord && users::is_holder(&tx, id).await? {
        return Err(Reason::HoldsLicenses.refusal());
    }
    if !users::unlink(&tx, provider, id).await? {
        return Err(Reason::ProviderNotLinked.refusal());
    }
    tx.record(NewEvent::account(Actor::User(id), id, EventData::IdentityUnlinked { provider }));
    emails::send(&mut tx, EmailTemplate::SignInMethodsChanged, id, None).await?;
    tx.commit().await
}
