//! API keys: `dca_pk_…` (publishable, ships in apps) and `dca_sk_…` (secret, stays on servers), each with 32
//! random symbols and 4 check symbols. Those for testing begin with `dca_pk_test_…` and `dca_sk_test_…`. The check
//! symbols cover the whole key, and reject mistyped keys without a database read.

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

    /// Whether an API key works with real licenses.
    ApiKeyMode {
        /// With the licenses of its products.
        Live => "live",
        /// With the test keys of its products only.
        Test => "test",
    }
}

impl ApiKeyKind {
    /// How its keys begin, in both modes.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Publishable => "dca_pk_",
            Self::Secret => "dca_sk_",
        }
    }
}

/// Follows the prefix of keys for testing. Random symbols are in upper case.
const TEST: &str = "test_";
const RANDOM: usize = 32;
const CHECK: usize = 4;

/// A well-formed API key in plain text. It has no `Debug` or `Display`, so that it is not logged by accident.
pub struct ApiKeyText {
    /// The kind of key.
    pub kind: ApiKeyKind,
    /// Whether it works with real licenses.
    pub mode: ApiKeyMode,
    text: String,
}

impl ApiKeyText {
    /// Generates a random key.
    pub fn generate(kind: ApiKeyKind, mode: ApiKeyMode, ids: &Ids) -> Self {
        let body = base32::text(&ids.bytes::<RANDOM>());
        let text = format!("{}{body}", prefix(kind, mode));
        Self { kind, mode, text: format!("{text}{}", check(&text)) }
    }

    /// Parses a key; `None` if it is malformed.
    pub fn parse(text: &str) -> Option<Self> {
        let kind = ApiKeyKind::ALL.iter().copied().find(|kind| text.starts_with(kind.prefix()))?;
        let is_test = text[kind.prefix().len()..].starts_with(TEST);
        let mode = if is_test { ApiKeyMode::Test } else { ApiKeyMode::Live };
        let has_valid_length = text.len() == prefix(kind, mode).len() + RANDOM + CHECK && text.is_ascii();
        let (body, given) = has_valid_length.then(|| text.split_at(text.len() - CHECK))?;
        (check(body) == given).then(|| Self { kind, mode, text: text.to_owned() })
    }

    /// The full key.
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// An abbreviated form that is safe to show.
    pub fn hint(&self) -> String {
        format!("{}…{}", prefix(self.kind, self.mode), &self.text[self.text.len() - CHECK..])
    }
}

fn prefix(kind: ApiKeyKind, mode: ApiKeyMode) -> String {
    match mode {
        ApiKeyMode::Live => kind.prefix().to_owned(),
        ApiKeyMode::Test => format!("{}{TEST}", kind.prefix()),
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
        for &kind in ApiKeyKind::ALL {
            for (mode, length) in [(ApiKeyMode::Live, 43), (ApiKeyMode::Test, 48)] {
                let key = ApiKeyText::generate(kind, mode, &Ids::seeded(1));
                assert_eq!(key.text.len(), length);
                assert_eq!(ApiKeyText::parse(&key.text).map(|key| (key.kind, key.mode)), Some((kind, mode)));
                assert!(key.hint().starts_with(&prefix(kind, mode)), "{}", key.hint());
                assert!(ApiKeyText::parse(&key.text.replacen(&key.text[20..21], "?", 1)).is_none(), "a typing error");
            }
        }
        let test = ApiKeyText::generate(ApiKeyKind::Secret, ApiKeyMode::Test, &Ids::seeded(1)).text;
        let as_live = test.replacen(TEST, "", 1);
        for wrong in
            [&as_live, "", "dca_sk_", "dca_sk_test_", &format!("dca_xx_{}AAAA", "0".repeat(32)), &"é".repeat(22)]
        {
            assert!(ApiKeyText::parse(wrong).is_none(), "{wrong}");
        }
    }
}
