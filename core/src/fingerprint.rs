//! Fingerprints of devices. Only keyed hashes of them are stored, under keys of this installation, so that a ban of a
//! device holds for every license.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::crypto::{jws::base64url, seal::Purpose, sha256};
use crate::{
    Reason, Result,
    keyring::{Keyring, Lookup},
};

/// How long the name of a component may be, in characters.
const NAME: usize = 32;

/// How long the value of a component may be, in characters.
const VALUE: usize = 128;

/// What an app knows a device by: a text, and the parts of the hardware or system that it was made of. Neither is
/// stored, and neither is shown in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Fingerprint {
    text: String,
    components: BTreeMap<String, String>,
}

impl Fingerprint {
    /// The number of characters that a fingerprint may have.
    pub const LENGTH: std::ops::RangeInclusive<usize> = 16..=128;

    /// The largest number of components.
    pub const MAX_COMPONENTS: usize = 16;

    /// Parses a fingerprint. Refused with `VALIDATION_ERROR` if the text is not 16–128 of `A-Z a-z 0-9 _ . : -`, or if
    /// there are more than 16 components, or one has an empty or too long name or value.
    pub fn parse(text: &str, components: BTreeMap<String, String>) -> Result<Self> {
        let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"_.:-".contains(&byte);
        if !Self::LENGTH.contains(&text.len()) || !text.bytes().all(is_allowed) {
            return Err(Reason::InvalidFingerprint.refusal());
        }
        let fits = |text: &str, max| (1..=max).contains(&text.chars().count()) && !text.contains('\0');
        let valid = components.iter().all(|(name, value)| fits(name, NAME) && fits(value, VALUE));
        if components.len() > Self::MAX_COMPONENTS || !valid {
            return Err(Reason::InvalidComponents.refusal());
        }
        Ok(Self { text: text.to_owned(), components })
    }

    /// The SHA-256 of the text, by which a proof names the device to its own app.
    pub fn digest(&self) -> [u8; 32] {
        sha256(self.text.as_bytes())
    }

    /// The hashes of the text under every generation of the key, newest first, to find what has one of them.
    pub(crate) fn lookups(&self, keys: &Keyring) -> Vec<Vec<u8>> {
        keys.macs(Purpose::Fingerprint, &self.text)
    }

    /// The hash of the text and all components, as a key of the cache.
    pub(crate) fn lookup(&self, keys: &Keyring) -> Lookup {
        let mut text = self.text.clone();
        for (name, value) in &self.components {
            text = text + "\0" + &labeled(name, value);
        }
        keys.lookup(Purpose::Fingerprint, &text)
    }

    /// The hash of the text to store.
    pub(crate) fn hash(&self, keys: &Keyring) -> Vec<u8> {
        keys.mac(Purpose::Fingerprint, &self.text)
    }

    /// The hashes of the components to store, by name.
    pub(crate) fn component_hashes(&self, keys: &Keyring) -> BTreeMap<String, String> {
        let hash = |(name, value): (&String, &String)| {
            let mac = keys.mac(Purpose::Fingerprint, &labeled(name, value));
            (name.clone(), base64url(mac))
        };
        self.components.iter().map(hash).collect()
    }

    /// The SHA-256 of each component that a device has too, by name. `stored` are the device's
    /// [`component_hashes`](Self::component_hashes).
    pub(crate) fn confirmed_components(&self, keys: &Keyring, stored: &Value) -> BTreeMap<String, String> {
        let lookups = self.component_lookups(keys);
        let is_stored = |name: &String| {
            let stored = stored.get(name).and_then(Value::as_str);
            stored.is_some_and(|stored| lookups.get(name).into_iter().flatten().any(|hash| hash == stored))
        };
        let confirmed = self.components.iter().filter(|(name, _)| is_stored(name));
        confirmed.map(|(name, value)| (name.clone(), base64url(sha256(value.as_bytes())))).collect()
    }

    /// The hashes of the components under every generation of the key, by name.
    pub(crate) fn component_lookups(&self, keys: &Keyring) -> BTreeMap<String, Vec<String>> {
        let hashes = |(name, value): (&String, &String)| {
            let macs = keys.macs(Purpose::Fingerprint, &labeled(name, value));
            (name.clone(), macs.iter().map(base64url).collect())
        };
        self.components.iter().map(hashes).collect()
    }
}

/// A component as it is hashed: the zero byte occurs in no fingerprint, name or value.
fn labeled(name: &str, value: &str) -> String {
    format!("{name}\0{value}")
}

impl std::fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Fingerprint(… and {} components)", self.components.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Code;

    fn parse(text: &str, components: &[(&str, &str)]) -> Result<Fingerprint> {
        let owned = components.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Fingerprint::parse(text, owned.collect())
    }

    #[test]
    fn a_fingerprint_has_16_to_128_plain_characters() {
        let text = |length: usize| "aB3_.:-x".repeat(17)[..length].to_owned();
        for (text, valid) in [
            (text(0), false),
            (text(15), false),
            (text(16), true),
            (text(128), true),
            (text(129), false),
            (format!("{}é", text(20)), false),
            (format!("{} ", text(20)), false),
            (format!("{}\0", text(20)), false),
            (format!("{}/", text(20)), false),
            ("１２３４５６７８９０１２３４５６".to_owned(), false),
        ] {
            let parsed = parse(&text, &[]).map_err(|error| error.code());
            assert_eq!(parsed.is_ok(), valid, "{text:?}");
            assert_eq!(parsed.err(), (!valid).then_some(Code::ValidationError));
        }
    }

    #[test]
    fn components_are_limited_in_number_and_length() {
        let text = "0123456789abcdef";
        let names: Vec<String> = (0..17).map(|n| format!("part{n}")).collect();
        let many: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "x")).collect();
        assert!(parse(text, &many[..16]).is_ok() && parse(text, &many).is_err());
        let (name, value) = ("é".repeat(32), "é".repeat(128));
        assert!(parse(text, &[(&name, &value)]).is_ok());
        for (name, value) in
            [("", "x"), ("x", ""), (&format!("{name}x"), "x"), ("x", &format!("{value}x")), ("x\0", "x"), ("x", "\0")]
        {
            assert!(parse(text, &[(name, value)]).is_err(), "{name:?} {value:?}");
        }
    }

    #[test]
    fn a_fingerprint_is_not_in_its_debug_text() {
        let parsed = parse("0123456789abcdef", &[("disk", "S3R1AL")]).unwrap();
        assert_eq!(format!("{parsed:?}"), "Fingerprint(… and 1 components)");
    }
}
