//! Secret values, and the parsers that several groups of settings share. The settings describe the expected value.

use std::{fmt, fs, net::IpAddr, ops::RangeInclusive, path::PathBuf, str::FromStr};

use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, pem::PemObject};
use url::Url;

/// A secret value. `Debug` redacts it, and there is no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub(super) String);

impl Secret {
    /// Returns the value.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

pub(super) fn number<T: FromStr + PartialOrd>(range: RangeInclusive<T>) -> impl Fn(&str) -> Option<T> {
    move |value| value.parse().ok().filter(|number| range.contains(number))
}

/// One of these words.
pub(super) fn one_of<T: Copy>(words: &[(&str, T)]) -> impl Fn(&str) -> Option<T> {
    move |value| words.iter().find(|(word, _)| *word == value).map(|(_, meaning)| *meaning)
}

pub(super) fn text(value: &str) -> Option<String> {
    (!value.contains(char::is_control)).then(|| value.to_owned())
}

pub(super) fn readable_file(value: &str) -> Option<PathBuf> {
    fs::read(value).ok().map(|_| value.into())
}

/// A PEM file with at least one certificate of an authority.
pub(super) fn authorities(value: &str) -> Option<PathBuf> {
    let certificates: Vec<_> = CertificateDer::pem_file_iter(value).ok()?.collect::<Result<_, _>>().ok()?;
    let (valid, _) = RootCertStore::empty().add_parsable_certificates(certificates);
    (valid > 0).then(|| value.into())
}

pub(super) fn token(value: &str) -> Option<Secret> {
    let is_valid = !value.is_empty() && value.chars().all(|c| c.is_ascii_graphic());
    is_valid.then(|| Secret(value.to_owned()))
}

/// A URL to which paths are appended.
pub(super) fn base_url(value: &str) -> Option<String> {
    let url = Url::parse(value).ok()?;
    let is_valid = ["http", "https"].contains(&value.split_once("://")?.0)
        && url.query().or(url.fragment()).or(url.password()).is_none()
        && url.username().is_empty()
        && !value.ends_with('/');
    is_valid.then(|| url.as_str().trim_end_matches('/').to_owned())
}

/// Refuses an unspecified address, which names no machine.
pub(super) fn public_url(value: &str) -> Option<String> {
    let url = base_url(value)?;
    let host = Url::parse(&url).ok()?.host_str()?.trim_matches(['[', ']']).parse::<IpAddr>();
    (!host.is_ok_and(|host| host.to_canonical().is_unspecified())).then_some(url)
}

/// Allows only loopback addresses, because the simulator receives the bot token in plain text.
pub(super) fn loopback_url(value: &str) -> Option<String> {
    let url = Url::parse(value).ok()?;
    let host: IpAddr = url.host_str()?.trim_matches(['[', ']']).parse().ok()?;
    base_url(value.trim_end_matches('/')).filter(|_| url.scheme() == "http" && host.is_loopback())
}
