//! Names: one line of visible text, without characters that make it look like another name, or like nothing.

use crate::{Reason, Result};

/// The first character that is not allowed in a name: a control character, one that changes the direction of text, or an
/// invisible one. Joiners are allowed, because emoji and some scripts need them.
pub(crate) fn forbidden(text: &str) -> Option<char> {
    text.chars().find(|&c| {
        let is_bidi =
            matches!(c, '\u{61C}' | '\u{200E}' | '\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}');
        let is_invisible = matches!(
            c,
            '\u{AD}' | '\u{34F}' | '\u{115F}' | '\u{1160}' | '\u{17B4}' | '\u{17B5}' | '\u{180E}' | '\u{200B}'
                | '\u{2028}' | '\u{2029}' | '\u{2060}'..='\u{2065}' | '\u{206A}'..='\u{206F}' | '\u{2800}'
                | '\u{3164}' | '\u{FEFF}' | '\u{FFA0}' | '\u{FFF9}'..='\u{FFFB}' | '\u{E0000}'..='\u{E007F}'
        );
        c.is_control() || is_bidi || is_invisible
    })
}

/// Whether nothing of a text is visible: it has only spaces, joiners and variation selectors.
pub(crate) fn is_blank(text: &str) -> bool {
    text.chars().all(|c| c.is_whitespace() || matches!(c, '\u{200C}' | '\u{200D}' | '\u{FE00}'..='\u{FE0F}'))
}

/// Validates a single line of user input, without the spaces around it.
pub(crate) fn line(field: &'static str, text: &str, max_length: usize) -> Result<String> {
    let text = text.trim();
    if let Some(character) = forbidden(text).filter(|c| !c.is_ascii()) {
        return Err(Reason::ForbiddenCharacter { field, character }.refusal());
    }
    if is_blank(text) || text.chars().count() > max_length || text.contains(char::is_control) {
        return Err(Reason::NotOneLine { field, max: max_length }.refusal());
    }
    Ok(text.to_owned())
}
