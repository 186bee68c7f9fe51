//! Letters: the e-mails there are, and what each needs when it is sent. A delivery names a template, a user
//! and perhaps a one-time token by id; address, name and link are read at the last moment.

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
    /// The emails, by the name of their templates.
    EmailTemplate {
        VerifyEmail => ("verify-email", "Prove this address."),
        WelcomeEmail => ("welcome-email", "The address is proved."),
        ResetPassword => ("reset-password", "Choose a new password."),
        AlreadyRegistered => ("already-registered", "Somebody signed up with your address; you have an account."),
        PasswordChanged => ("password-changed", "Your password was changed."),
        SessionsEnded => ("sessions-ended", "An old token came back; you were signed out everywhere."),
        SecondFactorChanged => ("second-factor-changed", "Your second factor was set up or taken away."),
        DeletionPlanned => ("deletion-planned", "Your account will be deleted; sign in to keep it."),
    }
}

impl EmailTemplate {
    /// Where the link in it leads, and under which purpose its token is derived.
    const fn link(self) -> Option<(&'static str, Purpose)> {
        match self {
            Self::VerifyEmail => Some(("/verify", Purpose::VerifyEmail)),
            Self::ResetPassword => Some(("/reset-password", Purpose::ResetPassword)),
            _ => None,
        }
    }
}

/// How long a template is worth sending when it carries no token.
const LIFETIME: Duration = Duration::hours(24);

/// Everything a template needs.
#[derive(Clone, Debug)]
pub struct EmailData {
    /// The address.
    pub to: String,
    /// The recipient's name, if it can be said in a template.
    pub name: Option<String>,
    /// The language.
    pub locale: Locale,
    /// Path and token of its link.
    pub link: Option<(&'static str, String)>,
}

/// Writes a template into the outbox, to be sent before its token ends.
pub(crate) async fn send(
    tx: &mut Tx,
    template: EmailTemplate,
    user: UserId,
    token: Option<&one_time::Token>,
) -> Result<()> {
    let delivery = Delivery::Email { template, user, token: token.map(|token| token.id) };
    let unique = token.map_or_else(|| tx.core().ids.v7(tx.now()), |token| token.id);
    let expires_at = token.map_or(tx.now() + LIFETIME, |token| token.expires_at);
    outbox::send_until(tx, &delivery, format!("mail:{template}:{unique}"), expires_at).await
}

/// What is needed to send it now; `None`: the account or its token is gone, and nobody wants it.
///
/// # Errors
/// When the database does not answer.
pub async fn load(
    core: &Core,
    template: EmailTemplate,
    user: UserId,
    token: Option<Uuid>,
) -> Result<Option<EmailData>> {
    let user = user::Entity::find_by_id(user).one(core.db.read()).await?;
    let Some(user) = user else { return Ok(None) };
    let Some(to) = user.email else { return Ok(None) };
    // Notices go to proved addresses alone.
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
    // To an address nobody has proved, a name is what a stranger typed.
    let name = user.name.filter(|name| user.email_verified_at.is_some() && is_plain_name(name));
    Ok(Some(EmailData { to, name, locale, link }))
}

/// Whether a name is just that: what looks like an address would be made a link by mail programs.
fn is_plain_name(name: &str) -> bool {
    !name.contains(['.', ':', '/', '@', '<', '>', '\\'])
}
