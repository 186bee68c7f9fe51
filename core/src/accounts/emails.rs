//! The emails of accounts and the data each one needs. A delivery stores only the template, the user's id and
//! the id of a one-time token, if any; address, name and link are loaded when it is sent.

use chrono::Duration;
use sea_orm::EntityTrait;
use uuid::Uuid;

use crate::{
    Core, Result,
    accounts::{Locale, one_time},
    crypto::{one_time as codec, seal::Purpose},
    entity::user,
    error::string_enum,
    ids::UserId,
    outbox::{self, Delivery},
    tx::Tx,
};

string_enum! {
    /// The emails, named after their templates.
    EmailTemplate {
        VerifyEmail => ("verify-email", "Verify your email address."),
        WelcomeEmail => ("welcome-email", "Your email address is verified."),
        ResetPassword => ("reset-password", "Choose a new password."),
        AlreadyRegistered => ("already-registered", "Someone signed up with your address, which already has an account."),
        PasswordChanged => ("password-changed", "Your password was changed."),
        SessionsEnded => ("sessions-ended", "A refresh token was reused; you were signed out everywhere."),
        SecondFactorChanged => ("second-factor-changed", "Your second factor was changed."),
        DeletionPlanned => ("deletion-planned", "Your account will be deleted. Sign in to keep it."),
    }
}

impl EmailTemplate {
    /// The path of the link in the email, and the purpose its token is derived for.
    const fn link(self) -> Option<(&'static str, Purpose)> {
        match self {
            Self::VerifyEmail => Some(("/verify", Purpose::VerifyEmail)),
            Self::ResetPassword => Some(("/reset-password", Purpose::ResetPassword)),
            _ => None,
        }
    }
}

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
    let expires_at = token.map_or(tx.now() + LIFETIME, |token| token.expires_at);
    outbox::enqueue_until(tx, &delivery, format!("mail:{template}:{unique}"), expires_at).await
}

/// Loads the data of an email; `None` if the account or the token no longer exists, so that there is nothing to
/// send.
pub async fn load(
    core: &Core,
    template: EmailTemplate,
    user: UserId,
    token: Option<Uuid>,
) -> Result<Option<EmailData>> {
    let user = user::Entity::find_by_id(user).one(core.db.read()).await?;
    let Some(user) = user else { return Ok(None) };
    let Some(to) = user.email else { return Ok(None) };
    // Unverified addresses receive only links, no notices.
    if user.email_verified_at.is_none() && template.link().is_none() {
        return Ok(None);
    }
    let link = match (template.link(), token) {
        (None, _) => None,
        (Some((path, purpose)), Some(id)) if one_time::is_live(core, id).await? => {
            Some((path, codec::encode(core.keys(), purpose, id)))
        }
        (Some(_), _) => return Ok(None),
    };
    let locale = user.locale.and_then(|locale| locale.parse().ok()).unwrap_or(Locale::En);
    // The name of an unverified account may have been chosen by someone other than the recipient.
    let name = user.name.filter(|name| user.email_verified_at.is_some() && is_plain_name(name));
    Ok(Some(EmailData { to, name, locale, link }))
}

/// Whether a name contains nothing that email clients would turn into a link.
fn is_plain_name(name: &str) -> bool {
    !name.contains(['.', ':', '/', '@', '<', '>', '\\'])
}
