//! API keys: `dca_pk_…` (ships inside apps) and `dca_sk_…` (stays on servers), 32 random symbols and
//! 4 check symbols, so that a typing error or a scanner's false positive costs no database read.

use sha2::{Digest, Sha256};

use super::base32;
use crate::Ids;

/// What a key may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApiKeyKind {
    /// Known to every user of the app: questions only.
    Publishable,
    /// Known to the seller's servers.
    Secret,
}

impl ApiKeyKind {
    /// How its keys begin.
    #[must_use]
    pub const fn head(self) -> &'static str {
        match self {
            Self::Publishable => "dca_pk_",
            Self::Secret => "dca_sk_",
        }
    }
}

const RANDOM: usize = 32;
const CHECK: usize = 4;

/// A well-formed API key: the secret itself, so it has no `Debug` and no `Display`.
pub struct ApiKeyText {
    /// What it may be used for.
    pub kind: ApiKeyKind,
    text: String,
}

impl ApiKeyText {
    /// A new key.
    #[must_use]
    pub fn generate(kind: ApiKeyKind, ids: &Ids) -> Self {
        let body = base32::text(&ids.bytes::<RANDOM>());
        let text = format!("{}{body}", kind.head());
        Self { kind, text: format!("{text}{}", check(&text)) }
    }

    /// Reads a header's value; `None` for anything that was never a key.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let kind =
            [ApiKeyKind::Publishable, ApiKeyKind::Secret].into_iter().find(|kind| text.starts_with(kind.head()))?;
        let right_length = text.len() == kind.head().len() + RANDOM + CHECK && text.is_ascii();
        let (body, given) = right_length.then(|| text.split_at(text.len() - CHECK))?;
        (check(body) == given).then(|| Self { kind, text: text.to_owned() })
    }

    /// The secret.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// What may be shown anywhere.
    #[must_use]
    pub fn hint(&self) -> String {
        format!("{}…{}", self.kind.head(), &self.text[self.text.len() - CHECK..])
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
    fn a_key_reads_back_and_a_typing_error_does_not() {
        let key = ApiKeyText::generate(ApiKeyKind::Secret, &Ids::seeded(1));
        assert_eq!(key.text.len(), 43);
        assert_eq!(ApiKeyText::parse(&key.text).map(|k| k.kind), Some(ApiKeyKind::Secret));
        let typo = key.text.replacen(&key.text[20..21], "?", 1);
        for wrong in [typo.as_str(), "", "dca_sk_", "dca_xx_00000000000000000000000000000000AAAA", &"é".repeat(22)] {
            assert!(ApiKeyText::parse(wrong).is_none(), "{wrong}");
        }
    }
}
