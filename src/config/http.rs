//! The HTTP server.

use std::net::{IpAddr, SocketAddr};
use std::{num::NonZeroU32, path::PathBuf, time::Duration};

use ipnet::IpNet;
use url::Url;

use super::parse::{Secret, number, public_url, readable_file, token};
use super::reader::{Reader, settings};
use super::setting::Setting;

settings! {
    /// The HTTP server.
    HttpConfig {
        /// Address that the HTTP server listens on.
        addr: SocketAddr = "DCA_HTTP_ADDR", or("127.0.0.1:3000", |text| text.parse().ok()),
            expects("an IP address and port, for example 127.0.0.1:3000"),
            converted("PORT", PORT, bind_all), converted("APP_PORT", PORT, bind_all),
            converted("SERVER_PORT SERVER_HOST", HOST_AND_PORT, bind_host);
        /// URL under which clients reach the service. Required if DCA_HTTP_ADDR is 0.0.0.0 or a public address; otherwise derived from it.
        public_url: String = "DCA_PUBLIC_URL", or_else(public_url, String::new), default("http://127.0.0.1:3000"),
            expects("an http or https URL that clients can reach, without query and trailing slash, for example https://example.com");
        /// Certificate and key of the listener; plain HTTP if `None`.
        tls: Option<TlsFiles> => TlsFiles::read_both;
        /// Proxies whose forwarded headers are trusted.
        trusted_proxies: Vec<IpNet> = "DCA_TRUSTED_PROXIES", or_else(networks, Vec::new),
            expects("IP addresses or networks separated by commas, for example 10.0.0.0/8,::1");
        /// Other origins whose pages may call the API.
        cors_origins: Vec<String> = "DCA_CORS_ORIGINS", or_else(origins, Vec::new), fallback("CORS_ORIGINS"),
            fallback("ALLOWED_ORIGINS"),
            expects("origins separated by commas, for example https://app.example.com,http://localhost:5173");
        /// Time that requests in progress have to finish at shutdown.
        drain_timeout: Duration = "DCA_DRAIN_TIMEOUT_SECONDS", seconds(1..=300, "10");
        /// Time that a connection is kept open between two requests. Longer than that of a proxy in front of the service.
        keep_alive: Duration = "DCA_KEEP_ALIVE_SECONDS", seconds(1..=3600, "75");
        /// Maximum number of open connections. The limit of open files may reduce it.
        max_connections: NonZeroU32 = "DCA_MAX_CONNECTIONS", positive("10000");
        /// Maximum number of open connections per IPv4 address or IPv6 /64 network, except trusted proxies.
        max_connections_per_client: NonZeroU32 = "DCA_MAX_CONNECTIONS_PER_CLIENT", positive("500");
        /// Token that /metrics requires as a Bearer token. If unset, everyone who can reach the service can read /metrics.
        metrics_token: Option<Secret> = "DCA_METRICS_TOKEN", optional(token), secret(),
            expects("a token without spaces, for example the output of `openssl rand -hex 32`");
    }
}

const PORT: &str = "a port from 1 to 65535, which listens on 0.0.0.0, for example 8080";

const HOST_AND_PORT: &str = "a port, and an IP address or localhost, for example 8080 and 127.0.0.1";

/// PEM files of the TLS listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificate chain.
    pub cert: PathBuf,
    /// Private key.
    pub key: PathBuf,
}

impl HttpConfig {
    /// Sets the public URL from the address if it is not configured. Links in emails would lead nowhere, and browsers
    /// would be refused, if other machines use another URL.
    pub(super) fn derive_public_url(&mut self, reader: &mut Reader) {
        if !self.public_url.is_empty() {
            return;
        }
        if is_unspecified_or_public(self.addr.ip()) {
            reader.fault(format!(
                "The service listens on {}, which other machines can reach. Set DCA_PUBLIC_URL to the URL that they \
                 use, for example DCA_PUBLIC_URL=https://auth.example.com.",
                self.addr
            ));
        }
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        self.public_url = format!("{scheme}://{}", self.addr);
    }
}

fn is_unspecified_or_public(address: IpAddr) -> bool {
    let is_local = match address.to_canonical() {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_private() || ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unicast_link_local(),
    };
    !is_local
}

impl TlsFiles {
    fn read_both(r: &mut Reader) -> Option<Self> {
        let cert =
            Setting::new("DCA_TLS_CERT_FILE", "Certificate chain for HTTPS. If unset, the service uses plain HTTP.")
                .expects("the path of a readable PEM file, for example /etc/dca-auth/cert.pem")
                .optional(r, readable_file);
        let key = Setting::new("DCA_TLS_KEY_FILE", "Private key of the certificate.")
            .expects("the path of a readable PEM file, for example /etc/dca-auth/key.pem")
            .optional(r, readable_file);
        if cert.is_some() != key.is_some() {
            r.fault("Set both DCA_TLS_CERT_FILE and DCA_TLS_KEY_FILE, or neither.");
        }
        cert.zip(key).map(|(cert, key)| Self { cert, key })
    }
}

fn bind_all(values: &[&str]) -> Option<String> {
    number(1..=u16::MAX)(values[0]).map(|port| format!("0.0.0.0:{port}"))
}

fn bind_host(values: &[&str]) -> Option<String> {
    let host = match values[1] {
        "" => "0.0.0.0",
        "localhost" => "127.0.0.1",
        host => host,
    };
    Some(SocketAddr::new(host.parse().ok()?, number(1..=u16::MAX)(values[0])?).to_string())
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
