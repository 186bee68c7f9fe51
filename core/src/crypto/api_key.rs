//! API keys: `dca_pk_…` (publishable, ships in apps) and `dca_sk_…` (secret, stays on servers), each with 32
//! random symbols and 4 check symbols. The check symbols reject mistyped keys without a database read.

use sha2::{Digest, Sha256};

use super::base32;
use crate::{Ids, string_enum::string_enum};

string_enum! {
    /// Where an API key may be used.
    ApiKeyKind {
        /// Ships inside apps: questions only.
        Publishable => "publishable",
        /// Stays on the tenant's servers.
        Secret => "secret",
    }
}

impl ApiKeyKind {
    /// How its keys begin.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Publishable => "dca_pk_",
            Self::Secret => "dca_sk_",
        }
    }
}

const RANDOM: usize = 32;
const CHECK: usize = 4;

/// A well-formed API key in plain text. It has no `Debug` or `Display`, so that it is not logged by accident.
pub struct ApiKeyText {
    /// The kind of key.
    pub kind: ApiKeyKind,
    text: String,
}

impl ApiKeyText {
    /// Generates a random key.
    pub fn generate(kind: ApiKeyKind, ids: &Ids) -> Self {
        let body = base32::text(&ids.bytes::<RANDOM>());
        let text = format!("{}{body}", kind.prefix());
        Self { kind, text: format!("{text}{}", check(&text)) }
    }

    /// Parses a key; `None` if it is malformed.
    pub fn parse(text: &str) -> Option<Self> {
        let kind = ApiKeyKind::ALL.iter().copied().find(|kind| text.starts_with(kind.prefix()))?;
        let has_valid_length = text.len() == kind.prefix().len() + RANDOM + CHECK && text.is_ascii();
        let (body, given) = has_valid_length.then(|| text.split_at(text.len() - CHECK))?;
        (check(body) == given).then(|| Self { kind, text: text.to_owned() })
    }

    /// The full key.
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// An abbreviated form that is safe to show.
    pub fn hint(&self) -> String {
        format!("{}…{}", self.kind.prefix(), &self.text[self.text.len() - CHECK..])
    }
}

fn check(body: &str) -> String {
    let digest = Sha256::digest(body.as_bytes());
    base32::text(&digest[..CHECK])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_keys_parse_and_mistyped_keys_do_not() {
        let key = ApiKeyText::generate(ApiKeyKind::Secret, &Ids::seeded(1));
        assert_eq!(key.text.len(), 43);
        assert_eq!(ApiKeyText::parse(&key.text).map(|k| k.kind), Some(ApiKeyKind::Secret));
        let typo = key.text.replacen(&key.text[20..21], "?", 1);
        for wrong in [typo.as_str(), "", "dca_sk_", "dca_xx_00000000000000000000000000000000AAAA", &"é".repeat(22)] {
            assert!(ApiKeyText::parse(wrong).is_none(), "{wrong}");
        }
    }
}
