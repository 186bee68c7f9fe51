//! Email addresses.

use email_address::{EmailAddress, Options};
use idna::domain_to_ascii;

use crate::{Reason, Result};

/// A valid email address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Email {
    /// As the user typed it.
    pub(crate) address: String,
    /// The form used for comparison.
    pub(crate) folded: String,
}

impl Email {
    /// Parses an address. Addresses are compared without regard to case or to the Unicode form of the domain. Refused
    /// with `VALIDATION_ERROR` at `email`.
    pub fn parse(text: &str) -> Result<Self> {
        let invalid = || Reason::InvalidEmail.refusal();
        let text = text.trim();
        let options = Options::default().without_display_text().without_domain_literal().with_required_tld();
        let is_valid = text.len() <= 254
            && !text.contains(|c: char| c.is_control() || c.is_whitespace() || "\"%".contains(c))
            && EmailAddress::parse_with_options(text, options).is_ok();
        let (local, domain) = text.rsplit_once('@').filter(|_| is_valid).ok_or_else(invalid)?;
        // UTS 46 normalization. IP addresses are not accepted as domains.
        let domain = domain_to_ascii(domain).map_err(|_| invalid())?;
        if !domain.rsplit('.').next().is_some_and(|top| top.contains(char::is_alphabetic)) {
            return Err(invalid());
        }
        // Only ASCII is lowercased: other characters that look alike in lower case may be different mailboxes.
        let folded = format!("{}@{domain}", local.to_ascii_lowercase());
        Ok(Self { address: text.to_owned(), folded })
    }
}
