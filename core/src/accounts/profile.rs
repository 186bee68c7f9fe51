//! The user's own profile.

use crate::accounts::verification::request_email_change;
use crate::accounts::{client::ClientInfo, sessions::Principal};
use crate::events::{Actor, EventData, NewEvent};
use crate::users::{self, Email, Locale, User};
use crate::{Code, Core, Result, plain_text, tx::Tx};

/// A change of a user's own profile; `None` leaves a field as it is.
#[derive(Default)]
pub struct Profile {
    /// The display name.
    pub name: Option<String>,
    /// The language of emails.
    pub locale: Option<Locale>,
    /// The email address. It changes once a link sent to it is confirmed.
    pub email: Option<String>,
    /// The password, which a new email address requires unless the sign-in is recent.
    pub password: Option<String>,
}

/// Updates the user's own profile. Refused with `VALIDATION_ERROR`; with a new email address also with
/// `INVALID_CREDENTIALS`, `INVALID_SESSION`, `RATE_LIMIT_EXCEEDED`.
pub async fn change_profile(core: &Core, client: &ClientInfo, principal: &Principal, change: Profile) -> Result<User> {
    let new_name = change.name.as_deref().map(name).transpose()?;
    let (mut tx, user) = match change.email.as_deref().map(Email::parse).transpose()? {
        Some(email) if !principal.user.owns(&email) => {
            request_email_change(core, client, principal, change.password.as_deref(), email).await?
        }
        _ => {
            let tx = Tx::begin(core).await?;
            let user = users::lock(&tx, principal.user.id).await?.ok_or_else(|| Code::InvalidSession.refusal())?;
            (tx, user)
        }
    };
    let user = User { name: new_name.or(user.name.clone()), locale: change.locale.or(user.locale), ..user };
    users::update(&tx, &user).await?;
    tx.record(NewEvent::account(Actor::User(user.id), user.id, EventData::ProfileChanged {}));
    tx.commit().await?;
    Ok(user)
}

/// Validates a display name.
pub(super) fn name(text: &str) -> Result<String> {
    plain_text::line("name", text, 100)
}
