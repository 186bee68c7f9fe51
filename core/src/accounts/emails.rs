//! The emails of accounts and the data each one needs. A delivery stores only the template, the user's id and
//! the id of a one-time token, if any; address, name and link are loaded when it is sent.

use chrono::Duration;
use uuid::Uuid;

use crate::crypto::{one_time as codec, seal::Purpose};
use crate::outbox::{self, Delivery, EmailTemplate};
use crate::users::{self, Locale, Provider};
use crate::{Core, Result, accounts::one_time, ids::UserId, tx::Tx};

/// The path of the link in an email, and the purpose its token is derived for.
const fn link_of(template: EmailTemplate) -> Option<(&'static str, Purpose)> {
    match template {
        EmailTemplate::VerifyEmail => Some(("/verify", Purpose::VerifyEmail)),
        EmailTemplate::ChangeEmail => Some(("/verify", Purpose::ChangeEmail)),
        EmailTemplate::ResetPassword => Some(("/reset-password", Purpose::ResetPassword)),
        _ => None,
    }
}

/// How long a link that verifies an email address is valid.
const VERIFY_LIFETIME: Duration = Duration::hours(24);
/// How long a link that sets a new password is valid.
const RESET_LIFETIME: Duration = Duration::hours(1);
/// How long an email without a token may wait to be sent.
const LIFETIME: Duration = Duration::hours(24);

/// The data of one email.
#[derive(Clone, Debug)]
pub struct EmailData {
    /// The recipient's address.
    pub to: String,
    /// The recipient's name, if it is safe to show.
    pub name: Option<String>,
    /// The language of the email.
    pub locale: Locale,
    /// The linked accounts at providers, and their names if those are safe to show.
    pub linked: Vec<(Provider, Option<String>)>,
    /// Path and token of the link.
    pub link: Option<(&'static str, String)>,
}

/// Puts an email in the outbox, to be sent before its token expires.
pub(crate) async fn send(
    tx: &mut Tx,
    template: EmailTemplate,
    user: UserId,
    token: Option<&one_time::Token>,
) -> Result<()> {
    let delivery = Delivery::Email { template, user, token: token.map(|token| token.id) };
    let unique = token.map_or_else(|| tx.core().ids.v7(tx.now()), |token| token.id);
    let link = token.filter(|_| link_of(template).is_some());
    let expires_at = link.map_or(tx.now() + LIFETIME, |token| token.expires_at);
    let now = tx.now();
    outbox::enqueue_at(tx, &delivery, format!("mail:{template}:{unique}"), now, Some(expires_at)).await
}

/// Sends an email with a link that verifies an address or sets a new password.
pub(crate) async fn send_link(tx: &mut Tx, template: EmailTemplate, user: UserId) -> Result<()> {
    let (purpose, lifetime) = match template {
        EmailTemplate::ResetPassword => (Purpose::ResetPassword, RESET_LIFETIME),
        _ => (Purpose::VerifyEmail, VERIFY_LIFETIME),
    };
    let token = one_time::create(tx, purpose, Some(user), lifetime, None).await?;
    send(tx, template, user, Some(&token)).await
}

/// Loads the data of an email; `None` if the account or the token no longer exists, so that there is nothing to send.
pub async fn load(
    core: &Core,
    template: EmailTemplate,
    user: UserId,
    token: Option<Uuid>,
) -> Result<Option<EmailData>> {
    let Some(user) = users::find(core, user).await? else { return Ok(None) };
    let data = one_time::data(core, token.unwrap_or_default()).await?;
    let to = match template {
        EmailTemplate::ChangeEmail => data["to"].as_str().map(str::to_owned),
        EmailTemplate::EmailChanged => data["from"].as_str().map(str::to_owned),
        _ => user.email,
    };
    let Some(to) = to else { return Ok(None) };
    // Unverified addresses receive only links, no notices.
    if user.email_verified_at.is_none() && link_of(template).is_none() {
        return Ok(None);
    }
    let link = match (link_of(template), token) {
        (None, _) => None,
        (Some((path, purpose)), Some(id)) if one_time::is_live(core, id).await? => {
            Some((path, codec::encode(core.keys(), purpose, id)))
        }
        (Some(_), _) => return Ok(None),
    };
    let linked = users::identities(core, user.id).await?.into_iter();
    let linked = linked.map(|identity| (identity.provider, identity.name.filter(|name| is_plain_name(name)))).collect();
    let locale = user.locale.unwrap_or(Locale::En);
    // The name of an account with another address may have been chosen by someone other than the recipient.
    let is_owner = user.email_verified_at.is_some() && template != EmailTemplate::ChangeEmail;
    let name = user.name.filter(|name| is_owner && is_plain_name(name));
    Ok(Some(EmailData { to, name, locale, linked, link }))
}

/// Whether a name contains nothing that email clients would turn into a link.
fn is_plain_name(name: &str) -> bool {
    !name.contains(['.', ':', '/', '@', '<', '>', '\\'])
}
