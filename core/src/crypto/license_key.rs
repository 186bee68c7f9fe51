//! License keys: `PREFIX-` and 28 symbols of Crockford's Base32.
//!
//! 25 symbols hold a 3-bit format version (`001`) and the 122 random bits of a `UUIDv4`; 3 are Reed–Solomon check
//! symbols over GF(32), x⁵+x²+1, roots α¹..α³. Three virtual leading symbols are the top 15 bits of SHA-256 over the
//! folded prefix, so that the code is RS(31,28), distance 4, and covers the prefix: any two wrong or swapped symbols
//! are detected without a database read. The check detects typing errors; it is no protection against forged keys.

use sha2::{Digest, Sha256};
use unicode_normalization::UnicodeNormalization;
use uuid::Uuid;

use super::base32;

/// Longer input, in bytes, is rejected without parsing.
pub const MAX_INPUT: usize = 128;

const BODY: usize = 28;
const DATA: usize = 25;
/// x³ + 14x² + 29x + 10: the generator with roots α¹, α², α³.
const GENERATOR: [u8; 3] = [14, 29, 10];

/// A key with valid check symbols. It may not have been issued.
#[derive(Clone, PartialEq, Eq)]
pub struct LicenseKey {
    prefix: String,
    body: [u8; BODY],
}

/// Shows only the hint, so that keys are not logged by accident.
impl std::fmt::Debug for LicenseKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LicenseKey({})", self.hint(&self.prefix))
    }
}

/// Why a text is not a license key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// Too long to be a key.
    TooLong {
        /// The longest accepted input.
        max_bytes: usize,
    },
    /// Too few symbols.
    Length {
        /// Letters and digits in the text.
        symbols: usize,
        /// Letters and digits of a key, without its prefix.
        expected: usize,
    },
    /// A character that is not allowed in keys.
    Symbol {
        /// 1-based, counted in the text as given.
        position: usize,
    },
    /// The check failed, and changing one symbol would correct it.
    Typo {
        /// 1-based, counted in the text as given.
        position: usize,
    },
    /// The check failed: a wrong prefix, or several wrong symbols.
    Check,
}

impl Malformed {
    /// The position of the wrong character, if known: 1-based, counted in the text as given.
    pub fn position(&self) -> Option<usize> {
        match *self {
            Self::Symbol { position } | Self::Typo { position } => Some(position),
            Self::TooLong { .. } | Self::Length { .. } | Self::Check => None,
        }
    }
}

impl LicenseKey {
    /// The key that carries the random bits of `secret`, a `UUIDv4`.
    pub fn new(prefix: &str, secret: Uuid) -> Self {
        let n = secret.as_u128();
        let version_nibble = 76;
        let variant = 62;
        let value = (1 << 122)
            | (n >> (version_nibble + 4)) << 74
            | ((n >> 64) & 0xFFF) << variant
            | (n & ((1 << variant) - 1));
        let mut body = [0; BODY];
        for (index, symbol) in body[..DATA].iter_mut().enumerate() {
            *symbol = (value >> (5 * (DATA - 1 - index)) & 31) as u8;
        }
        let prefix = fold_prefix(prefix);
        let check = remainder(virtual_symbols(&prefix).into_iter().chain(body[..DATA].iter().copied()));
        body[DATA..].copy_from_slice(&check);
        Self { prefix, body }
    }

    /// Parses user input. Case, look-alikes, dashes, spaces, quotes and Markdown are ignored. `implied` lists the
    /// prefixes to try if the text has none. The error has the position of the wrong character if known.
    pub fn parse(text: &str, implied: &[String]) -> Result<Self, Malformed> {
        if text.len() > MAX_INPUT {
            return Err(Malformed::TooLong { max_bytes: MAX_INPUT });
        }
        let symbols: Vec<(usize, char)> = text
            .chars()
            .enumerate()
            .flat_map(|(index, c)| std::iter::once(c).nfkc().map(move |c| (index + 1, c)))
            .filter(|&(_, c)| !is_decoration(c))
            .collect();
        let split =
            symbols.len().checked_sub(BODY).ok_or(Malformed::Length { symbols: symbols.len(), expected: BODY })?;
        let prefix: String = symbols[..split].iter().map(|&(_, c)| base32::fold(c)).collect();
        if let Some(&(position, _)) = symbols[..split].iter().find(|(_, c)| !c.is_ascii_alphanumeric()) {
            return Err(Malformed::Symbol { position });
        }
        let mut body = [0; BODY];
        for (symbol, &(position, c)) in body.iter_mut().zip(&symbols[split..]) {
            *symbol = base32::value(c).ok_or(Malformed::Symbol { position })?;
        }
        let prefixes = if prefix.is_empty() { implied.iter().map(|p| fold_prefix(p)).collect() } else { vec![prefix] };
        let candidates: Vec<Self> = prefixes.into_iter().map(|prefix| Self { prefix, body }).collect();
        if let Some(key) = candidates.iter().find(|key| key.syndromes() == [0; 3]) {
            return Ok(key.clone());
        }
        Err(match candidates.as_slice() {
            [only] => {
                only.typo().map_or(Malformed::Check, |index| Malformed::Typo { position: symbols[split + index].0 })
            }
            _ => Malformed::Check,
        })
    }

    /// The form used for lookups and encryption: folded prefix and body, without dashes.
    pub fn canonical(&self) -> String {
        format!("{}{}", self.prefix, base32::text(&self.body))
    }

    /// The form shown to users, with the product's own spelling of the prefix.
    pub fn display(&self, prefix: &str) -> String {
        let body = base32::text(&self.body);
        (0..BODY).step_by(4).fold(prefix.to_owned(), |text, start| format!("{text}-{}", &body[start..start + 4]))
    }

    /// An abbreviated form that is safe to show: the product's spelling of the prefix, and the last group.
    pub fn hint(&self, prefix: &str) -> String {
        format!("{prefix}-…-{}", base32::text(&self.body[BODY - 4..]))
    }

    fn code_word(&self) -> impl Iterator<Item = u8> {
        virtual_symbols(&self.prefix).into_iter().chain(self.body)
    }

    /// The values at α¹, α², α³: all zero if the check symbols are valid.
    fn syndromes(&self) -> [u8; 3] {
        [1, 2, 3].map(|power| self.code_word().fold(0, |sum, symbol| mul(sum, exp(power)) ^ symbol))
    }

    /// The index in the body of the single wrong symbol that would explain the failed check.
    fn typo(&self) -> Option<usize> {
        let [s1, s2, s3] = self.syndromes();
        if s1 == 0 || s2 == 0 || s3 == 0 {
            return None;
        }
        // A single error of value e, d symbols before the end, gives S1 = e·α^d, S2 = e·α^2d, S3 = e·α^3d.
        let distance = (log(s2) + 31 - log(s1)) % 31;
        let is_single = (log(s3) + 31 - log(s2)) % 31 == distance;
        is_single.then(|| BODY.checked_sub(1 + distance)).flatten()
    }
}

/// The form in which prefixes are compared; see [`base32::fold`].
pub fn fold_prefix(prefix: &str) -> String {
    prefix.chars().map(base32::fold).collect()
}

/// Whether a prefix is valid for a product: 2–8 characters of A–Z and 0–9.
pub fn is_prefix(prefix: &str) -> bool {
    (2..=8).contains(&prefix.len()) && prefix.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
}

/// Spaces, invisible characters, dashes of every script, quotes, and Markdown.
fn is_decoration(c: char) -> bool {
    c.is_whitespace()
        || c.is_control()
        || matches!(c, '\u{00AD}' | '\u{200B}'..='\u{200F}' | '\u{202A}'..='\u{202E}' | '\u{2060}'..='\u{206F}' | '\u{FEFF}')
        || matches!(c, '-' | '\u{058A}' | '\u{2010}'..='\u{2015}' | '\u{2212}' | '\u{FE58}' | '\u{FE63}' | '\u{FF0D}')
        || matches!(c, '"' | '\'' | '`' | '\u{2018}'..='\u{201F}' | '\u{00AB}' | '\u{00BB}')
        || matches!(c, '*' | '|' | '_' | '~' | '<' | '>')
}

/// The top 15 bits of SHA-256 over the folded prefix.
fn virtual_symbols(folded: &str) -> [u8; 3] {
    let digest = Sha256::digest(folded.as_bytes());
    let bits = u16::from_be_bytes([digest[0], digest[1]]) >> 1;
    [10, 5, 0].map(|shift| (bits >> shift & 31) as u8)
}

fn remainder(message: impl Iterator<Item = u8>) -> [u8; 3] {
    message.fold([0; 3], |[a, b, c], symbol| {
        let factor = symbol ^ a;
        [b ^ mul(GENERATOR[0], factor), c ^ mul(GENERATOR[1], factor), mul(GENERATOR[2], factor)]
    })
}

/// α^n in GF(32).
fn exp(n: usize) -> u8 {
    (0..n % 31).fold(1, |x, _| mul(x, 2))
}

/// The n of x = α^n, for x ≠ 0.
fn log(x: u8) -> usize {
    (0..31).find(|&n| exp(n) == x).unwrap_or_default()
}

/// The product in GF(32), reduced by x⁵+x²+1.
fn mul(a: u8, b: u8) -> u8 {
    (0..5).rev().fold(0, |sum, bit| {
        let doubled = if sum & 16 == 0 { sum << 1 } else { (sum << 1) ^ 0b10_0101 };
        if b >> bit & 1 == 1 { doubled ^ a } else { doubled }
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ACME: &str = "ACME-67H9-S2ZS-VN6F-YHCR-F3GP-KWKT-GCZJ";

    fn parse(text: &str) -> Result<LicenseKey, Malformed> {
        LicenseKey::parse(text, &[])
    }

    #[test]
    fn keys_match_the_published_vectors() {
        for (prefix, secret, expected) in [
            ("ACME", "8f14e45f-ceea-467f-a8b3-0f1c2d3e4f50", ACME),
            ("DCA", "00000000-0000-4000-8000-000000000000", "DCA-4000-0000-0000-0000-0000-0000-0XNF"),
            ("DCA", "ffffffff-ffff-4fff-bfff-ffffffffffff", "DCA-7ZZZ-ZZZZ-ZZZZ-ZZZZ-ZZZZ-ZZZZ-ZEJ5"),
        ] {
            let key = LicenseKey::new(prefix, secret.parse().unwrap());
            assert_eq!(key.display(prefix), expected);
            assert_eq!(parse(expected), Ok(key));
        }
    }

    /// The code is linear: an error pattern detected in one key is detected in every key.
    #[test]
    fn single_and_double_symbol_errors_are_detected() {
        let clean = parse(ACME).unwrap();
        // Syndromes are linear: those of two errors are the sum of their single syndromes.
        let mut single = Vec::new();
        for index in 0..BODY {
            for error in 1..32 {
                let mut key = clean.clone();
                key.body[index] ^= error;
                assert_eq!(key.typo(), Some(index), "a single error is located");
                single.push((index, key.syndromes()));
            }
        }
        assert_eq!(single.len(), 868);
        assert!(single.iter().all(|(_, syndromes)| *syndromes != [0; 3]));
        for (i, (index, one)) in single.iter().enumerate() {
            for (_, other) in single[i + 1..].iter().filter(|(other_index, _)| other_index != index) {
                assert_ne!(one, other, "two errors never cancel");
            }
        }
    }

    #[test]
    fn transposed_and_substituted_characters_are_detected() {
        let symbols: Vec<char> = ACME.chars().filter(|c| *c != '-').collect();
        let mut tried = 0;
        for a in 0..symbols.len() {
            for b in a + 1..symbols.len() {
                if symbols[a] != symbols[b] {
                    let mut swapped = symbols.clone();
                    swapped.swap(a, b);
                    assert!(parse(&swapped.iter().collect::<String>()).is_err());
                    tried += 1;
                }
            }
            for &other in base32::SYMBOLS {
                let mut replaced = symbols.clone();
                replaced[a] = other.into();
                assert_eq!(
                    parse(&replaced.iter().collect::<String>()).is_ok(),
                    base32::fold(symbols[a]) == char::from(other)
                );
                tried += 1;
            }
        }
        assert!(tried > 1_200);
    }

    #[test]
    fn formatting_and_look_alikes_are_ignored() {
        let clean = parse(ACME);
        for input in [
            "acme 67h9-s2zs-vn6f-yhcr-f3gp-kwkt-gczj",
            "`ACME-67H9-S2ZS-VN6F-YHCR-F3GP-KWKT-GCZJ`",
            "**ACME\u{2011}67H9\u{2014}S2ZS VN6F\u{200B}YHCR\u{00A0}F3GP_KWKT~GCZJ**\n",
            "\u{FF21}CME-67H9-S2ZS-VN6F-YHCR-F3GP-KWKT-GCZJ",
        ] {
            assert_eq!(parse(input), clean, "{input}");
        }
        assert_eq!(LicenseKey::parse(&ACME[5..], &["DCA".into(), "ACME".into()]), clean);
        assert_eq!(parse("GOLD-4000").unwrap_err(), Malformed::Length { symbols: 8, expected: BODY });
        let look_alikes = LicenseKey::new("GOLD", Uuid::nil());
        assert_eq!(parse(&look_alikes.display("G0LD")), Ok(look_alikes.clone()));
        assert_eq!(parse(&look_alikes.display("GOLD").replace('0', "o")), Ok(look_alikes));
    }

    #[test]
    fn errors_report_the_position() {
        for (text, expected) in [
            ("ACME-67H9-S2ZS-VN6F-YHCR-F3GP-KWKT-GCZU", Malformed::Symbol { position: 39 }),
            ("ACME-67H9-S2ZT-VN6F-YHCR-F3GP-KWKT-GCZJ", Malformed::Typo { position: 14 }),
            ("ACMÉ-67H9-S2ZS-VN6F-YHCR-F3GP-KWKT-GCZJ", Malformed::Symbol { position: 4 }),
            ("EMCA-67H9-S2ZS-VN6F-YHCR-F3GP-KWKT-GCZJ", Malformed::Check),
            ("67H9-S2ZS-VN6F-YHCR-F3GP-KWKT-GCZJ", Malformed::Check),
            ("", Malformed::Length { symbols: 0, expected: BODY }),
            (&"A".repeat(129), Malformed::TooLong { max_bytes: MAX_INPUT }),
        ] {
            assert_eq!(parse(text), Err(expected), "{text}");
        }
    }

    proptest! {
        #[test]
        fn displayed_keys_parse(secret: u128, prefix in "[A-Z0-9]{2,8}") {
            let key = LicenseKey::new(&prefix, uuid::Builder::from_random_bytes(secret.to_be_bytes()).into_uuid());
            prop_assert_eq!(LicenseKey::parse(&key.display(&prefix), &[]), Ok(key));
        }

        #[test]
        fn parsing_never_panics(text: String) {
            _ = LicenseKey::parse(&text, &["DCA".into()]);
        }
    }
}
