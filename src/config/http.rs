//! The HTTP server.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use ipnet::IpNet;
use url::Url;

use super::{
    parse::{base_url, number},
    reader::Reader,
    setting::setting,
};

/// The HTTP server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpConfig {
    /// Address of the listener.
    pub addr: SocketAddr,
    /// URL under which clients reach the service: absolute `http(s)` URL without trailing slash or query.
    pub public_url: String,
    /// Certificate and key of the listener; plain HTTP if `None`.
    pub tls: Option<TlsFiles>,
    /// Proxies whose forwarded headers are trusted.
    pub trusted_proxies: Vec<IpNet>,
    /// Other origins whose pages may call the API, as browsers serialize them.
    pub cors_origins: Vec<String>,
    /// Time that requests in progress have to finish at shutdown, 1 to 300 s.
    pub drain_timeout: Duration,
}

/// PEM files of the TLS listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificate chain.
    pub cert: PathBuf,
    /// Private key.
    pub key: PathBuf,
}

impl HttpConfig {
    pub(super) fn read(r: &mut Reader) -> Self {
        const PORT: &str = "a port from 1 to 65535, which listens on 0.0.0.0, for example 8080";
        let addr: SocketAddr = setting("DCA_HTTP_ADDR")
            .about("Address that the HTTP server listens on.")
            .expects("an IP address and port, for example 127.0.0.1:3000")
            .default("127.0.0.1:3000")
            .converted("PORT", PORT, bind_all)
            .converted("APP_PORT", PORT, bind_all)
            .read(r, |text| text.parse().ok());
        let public_url = setting("DCA_PUBLIC_URL")
            .about("URL under which clients reach the service. If unset, it is derived from DCA_HTTP_ADDR.")
            .expects("an http or https URL without query and trailing slash, for example https://example.com")
            .default("http://127.0.0.1:3000")
            .optional(r, base_url);
        let tls = TlsFiles::read(r);
        let scheme = if tls.is_some() { "https" } else { "http" };
        Self {
            public_url: public_url.unwrap_or_else(|| format!("{scheme}://{addr}")),
            trusted_proxies: setting("DCA_TRUSTED_PROXIES")
                .about("Proxies whose forwarded headers are trusted.")
                .expects("IP addresses or networks separated by commas, for example 10.0.0.0/8,::1")
                .optional(r, networks)
                .unwrap_or_default(),
            cors_origins: setting("DCA_CORS_ORIGINS")
                .about("Other origins whose pages may call the API.")
                .expects("origins separated by commas, for example https://app.example.com,http://localhost:5173")
                .fallback("CORS_ORIGINS")
                .optional(r, origins)
                .unwrap_or_default(),
            drain_timeout: setting("DCA_DRAIN_TIMEOUT_SECONDS")
                .about("Time that requests in progress have to finish at shutdown.")
                .seconds(r, 1..=300, "10"),
            addr,
            tls,
        }
    }
}

impl TlsFiles {
    fn read(r: &mut Reader) -> Option<Self> {
        let cert = setting("DCA_TLS_CERT_FILE")
            .about("Certificate chain for HTTPS. If unset, the service uses plain HTTP.")
            .expects("the path of a readable PEM file, for example /etc/dca-auth/cert.pem")
            .optional(r, readable_file);
        let key = setting("DCA_TLS_KEY_FILE")
            .about("Private key of the certificate.")
            .expects("the path of a readable PEM file, for example /etc/dca-auth/key.pem")
            .optional(r, readable_file);
        if cert.is_some() != key.is_some() {
            r.fault("Set both DCA_TLS_CERT_FILE and DCA_TLS_KEY_FILE, or neither.");
        }
        cert.zip(key).map(|(cert, key)| Self { cert, key })
    }
}

fn readable_file(value: &str) -> Option<PathBuf> {
    fs::read(value).ok().map(|_| value.into())
}

fn bind_all(values: &[&str]) -> Option<String> {
    number(1..=u16::MAX)(values[0]).map(|port| format!("0.0.0.0:{port}"))
}

fn networks(value: &str) -> Option<Vec<IpNet>> {
    let address = |item: &str| item.parse().map(IpAddr::into);
    let network = |item: &str| item.parse().or_else(|_| address(item)).ok();
    value.split(',').map(|item| network(item.trim())).collect()
}

/// Normalizes each origin to the text that browsers send in `Origin`.
fn origins(value: &str) -> Option<Vec<String>> {
    let origin = |item: &str| {
        let url = Url::parse(item).ok()?;
        let is_valid = ["http", "https"].contains(&url.scheme()) && url.path() == "/" && url.query().is_none();
        Some(url.origin().ascii_serialization()).filter(|origin| is_valid && !item.contains('*') && origin.len() > 4)
    };
    value.split(',').map(|item| origin(item.trim())).collect()
}
