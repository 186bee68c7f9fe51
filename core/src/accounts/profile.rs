//! The user's own profile.

use crate::events::{Actor, EventData, NewEvent};
use crate::users::{self, Locale, User};
use crate::{Code, Core, Reason, Result, accounts::sessions::Principal, tx::Tx};

/// A change of a user's own profile; `None` leaves a field as it is.
#[derive(Default)]
pub struct Profile {
    /// The display name.
    pub name: Option<String>,
    /// The language of emails.
    pub locale: Option<Locale>,
}

/// Updates the user's own profile. Refused with `VALIDATION_ERROR`.
pub async fn change_profile(core: &Core, principal: &Principal, change: Profile) -> Result<User> {
    let new_name = change.name.as_deref().map(name).transpose()?;
    let mut tx = Tx::begin(core).await?;
    let user = users::lock(&tx, principal.user.id).await?.ok_or_else(|| Code::InvalidSession.refusal())?;
    let user = User { name: new_name.or(user.name.clone()), locale: change.locale.or(user.locale), ..user };
    users::update(&tx, &user).await?;
    tx.record(NewEvent::account(Actor::User(user.id), user.id, EventData::ProfileChanged {}));
    tx.commit().await?;
    Ok(user)
}

/// Validates a display name.
pub(super) fn name(text: &str) -> Result<String> {
    line("name", text, 100)
}

/// Whether a character is a control character. Those that change the direction of text could make a name look like
/// another one.
fn is_control(c: char) -> bool {
    let is_bidi = matches!(c, '\u{61C}' | '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}');
    c.is_control() || is_bidi
}

/// Validates a single line of user input.
pub(super) fn line(field: &'static str, text: &str, max_length: usize) -> Result<String> {
    let text = text.trim();
    if text.is_empty() || text.chars().count() > max_length || text.contains(is_control) {
        return Err(Reason::NotOneLine { field, max: max_length }.refusal());
    }
    Ok(text.to_owned())
}
