//! Configuration. `VARS` has one row per variable. The reader, the `_FILE` variants, the check for unknown names
//! and `.env.example` are derived from it.
//!
//! `main` passes [`env_map`] to [`Config::load`], which reads only that map and the files it names, and returns either
//! the typed configuration or all faults at once.

use std::{collections::BTreeMap, fmt, net::SocketAddr, num::NonZeroU32, path::PathBuf, time::Duration};

use ipnet::IpNet;

mod parse;
mod reader;
#[cfg(test)]
mod tests;
mod vars;

pub use self::vars::reference;
use self::{
    parse::{
        bare_url, cookie_name, database_url, domain, folder, host, log_filter, log_format, loopback_url, mailbox,
        master_key, networks, number, origins, percent_encoded, prefix, readable_file, redis_url, same_site,
        second_factor, seconds, smtp_tls, text, title, token, truth, web_url, word,
    },
    reader::Reader,
};

/// The configuration of the process. Durations are whole seconds in the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Directory of the SQLite file and of generated secrets.
    pub data_dir: PathBuf,
    /// Address of the HTTP listener.
    pub http_addr: SocketAddr,
    /// URL under which clients reach the service: absolute `http(s)` URL without trailing slash or query.
    pub public_url: String,
    /// Certificate and key of the listener; plain HTTP if `None`.
    pub tls: Option<TlsFiles>,
    /// Proxies whose forwarded headers are trusted.
    pub trusted_proxies: Vec<IpNet>,
    /// `sqlite:`, `postgres:` or `postgresql:` URL.
    pub database_url: Secret,
    /// Maximum number of database connections, 1 to 1000.
    pub database_pool_size: u32,
    /// `redis:`, `rediss:`, `unix:` or `redis+unix:` URL; if `None`, state is kept in memory.
    pub redis_url: Option<Secret>,
    /// Prefix of all Redis keys.
    pub redis_prefix: String,
    /// 32 bytes, normalized to padded standard base64; generated if `None`.
    pub master_key: Option<Secret>,
    /// Bot token, without the prefix `Bot `; the bot is off if `None`.
    pub discord_token: Option<Secret>,
    /// Base URL of a Discord simulator on a loopback address, without trailing slash.
    pub discord_api_url: Option<String>,
    /// Sign-in with Discord.
    pub discord_sign_in: SignInClient,
    /// Sign-in with Google.
    pub google_sign_in: SignInClient,
    /// Base URL of a Google simulator on a loopback address, without trailing slash.
    pub google_api_url: Option<String>,
    /// Product name in emails and authenticator apps.
    pub app_name: String,
    /// Base URL of links in emails, without trailing slash; the built-in pages if `None`.
    pub frontend_url: Option<String>,
    /// Other origins whose pages may call the API, as browsers serialize them.
    pub cors_origins: Vec<String>,
    /// Lifetime of an access token, 60 to 3600 s.
    pub access_ttl: Duration,
    /// Lifetime of a session that is not refreshed, 1 hour to 90 days.
    pub refresh_ttl: Duration,
    /// Configured cookie attributes.
    pub cookies: CookieSettings,
    /// Memory for one password hash.
    pub password_memory_kib: u32,
    /// Whether admins need a second factor to administer other accounts.
    pub admins_need_second_factor: bool,
    /// Wrong passwords or codes allowed per account in 15 minutes.
    pub failures_per_account: NonZeroU32,
    /// Wrong passwords or codes allowed per client network in 15 minutes.
    pub failures_per_network: NonZeroU32,
    /// Emails that one client network may cause per hour.
    pub emails_per_network: NonZeroU32,
    /// Account requests allowed per client network and minute.
    pub auth_per_minute: NonZeroU32,
    /// Mail server and sender.
    pub mail: MailSettings,
    /// Emails sent to one recipient domain per minute.
    pub emails_per_minute: NonZeroU32,
    /// Validations allowed per minute, per API key and client address.
    pub validate_per_minute: NonZeroU32,
    /// Failed authentications allowed per client address and minute.
    pub auth_failures_per_minute: NonZeroU32,
    /// Direct messages sent per minute in total.
    pub dm_per_minute: NonZeroU32,
    /// Interval between direct messages that are sent in bulk, 0 to 3600 s.
    pub dm_interval: Duration,
    /// Timeout of one attempt to deliver a message to Discord, 1 to 300 s.
    pub delivery_timeout: Duration,
    /// Time after which another instance replaces an unresponsive one at the gateway, 2 to 14 s.
    pub gateway_lease: Duration,
    /// Interval between two reconciliations of all roles, 10 to 86400 s.
    pub reconcile_interval: Duration,
    /// Time that requests in progress have to finish at shutdown, 1 to 300 s.
    pub drain_timeout: Duration,
    /// Directives of a `tracing` `EnvFilter`.
    pub log_filter: String,
    /// Format of log lines.
    pub log_format: LogFormat,
    /// Names of earlier systems that are set but not used; logged at start.
    pub ignored: Vec<&'static str>,
}

/// OAuth client of a provider. Sign-in is enabled if id and secret are set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignInClient {
    /// Client id.
    pub id: Option<String>,
    /// Client secret.
    pub secret: Option<Secret>,
    /// Redirect URL; the built-in callback if `None`.
    pub redirect: Option<String>,
}

/// Attributes of the refresh cookie. Those that are `None` depend on the scheme of the public URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CookieSettings {
    /// Cookie name.
    pub name: Option<String>,
    /// `Secure`: whether it is sent over HTTPS only.
    pub secure: Option<bool>,
    /// `SameSite`: whether cross-site requests send it.
    pub same_site: Option<SameSite>,
    /// `Domain`: the domain that receives it, with its subdomains.
    pub domain: Option<String>,
}

/// The `SameSite` attribute of a cookie (RFC 6265bis, section 5.5.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SameSite {
    /// Same-site requests, and top-level navigation from other sites.
    Lax,
    /// Same-site requests only.
    Strict,
    /// All requests; requires HTTPS.
    None,
}

/// Mail server and sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailSettings {
    /// Host name or IP address; if `None`, emails are written to files.
    pub host: Option<String>,
    /// Port.
    pub port: u16,
    /// User name.
    pub user: Option<String>,
    /// Password.
    pub password: Option<Secret>,
    /// Encryption of the connection.
    pub tls: SmtpTls,
    /// Sender: an address, or `Name <address>`.
    pub from: String,
}

/// Encryption of the connection to the mail server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SmtpTls {
    /// `Tls` on port 465, `Opportunistic` on loopback, otherwise `StartTls`.
    Auto,
    /// STARTTLS; fails if the server does not offer it.
    StartTls,
    /// Implicit TLS.
    Tls,
    /// STARTTLS if the server offers it, without verifying the certificate.
    Opportunistic,
    /// No encryption.
    None,
}

/// PEM files of the TLS listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificate chain.
    pub cert: PathBuf,
    /// Private key.
    pub key: PathBuf,
}

/// Format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    Auto,
    /// Human-readable text.
    Text,
    /// One JSON object per line.
    Json,
}

/// A secret value. `Debug` redacts it, and there is no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Returns the value.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

/// All faults of a configuration, one per line. Secrets are never quoted.
#[derive(Debug)]
pub struct Faults(pub Vec<String>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for Faults {}

/// The process environment, for [`Config::load`]. Invalid UTF-8 is replaced by U+FFFD.
#[must_use]
pub fn env_map() -> BTreeMap<String, String> {
    let text = |os: std::ffi::OsString| os.to_string_lossy().into_owned();
    std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect()
}

/// Names of the service's other cookies.
const RESERVED_COOKIE_NAMES: [&str; 5] =
    ["refresh_token", "csrf_token", "dca_device", "dca_sign_in", "dca_second_factor"];

impl Config {
    /// Reads `env`, and the TOML file that it may name. An empty value counts as unset. The first source that sets a
    /// value wins: the `DCA_` name or its `_FILE` variant, the TOML file, then the names of earlier systems in the
    /// order of their row.
    ///
    /// # Errors
    /// All faults at once: invalid values, unreadable files and unknown names.
    pub fn load(env: BTreeMap<String, String>) -> Result<Self, Faults> {
        let mut reader = Reader::new(env);
        let config = Self::read(&mut reader);
        if reader.faults.is_empty() {
            return Ok(config);
        }
        Err(Faults(reader.faults))
    }

    fn read(r: &mut Reader) -> Self {
        let data_dir = r.value("DCA_DATA_DIR", folder);
        let http_addr: SocketAddr = r.value("DCA_HTTP_ADDR", |text| text.parse().ok());
        let cert = r.given("DCA_TLS_CERT_FILE", readable_file);
        let key = r.given("DCA_TLS_KEY_FILE", readable_file);
        if cert.is_some() != key.is_some() {
            r.fault("Set both DCA_TLS_CERT_FILE and DCA_TLS_KEY_FILE, or neither.".to_owned());
        }
        let tls = cert.zip(key).map(|(cert, key)| TlsFiles { cert, key });
        let scheme = if tls.is_some() { "https" } else { "http" };
        let folder = percent_encoded(&data_dir.to_string_lossy(), "/");
        let sqlite = Secret(format!("sqlite://{folder}/dca.db?mode=rwc"));
        let public_url = r.given("DCA_PUBLIC_URL", |url| bare_url(url, &["http", "https"]));
        let public_url = public_url.unwrap_or_else(|| format!("{scheme}://{http_addr}"));
        r.refuse_examples();
        Self {
            trusted_proxies: r.given("DCA_TRUSTED_PROXIES", networks).unwrap_or_default(),
            database_url: r.given("DCA_DATABASE_URL", database_url).unwrap_or(sqlite),
            database_pool_size: r.value("DCA_DATABASE_POOL_SIZE", number(1..=1000)),
            redis_url: r.given("DCA_REDIS_URL", redis_url),
            redis_prefix: r.value("DCA_REDIS_PREFIX", prefix),
            master_key: r.given("DCA_MASTER_KEY", master_key),
            discord_token: r.given("DCA_DISCORD_TOKEN", token),
            discord_api_url: r.given("DCA_DISCORD_API_URL", loopback_url),
            discord_sign_in: SignInClient {
                id: r.given("DCA_DISCORD_CLIENT_ID", word),
                secret: r.given("DCA_DISCORD_CLIENT_SECRET", token),
                redirect: r.given("DCA_DISCORD_REDIRECT_URI", web_url),
            },
            google_sign_in: SignInClient {
                id: r.given("DCA_GOOGLE_CLIENT_ID", word),
                secret: r.given("DCA_GOOGLE_CLIENT_SECRET", token),
                redirect: r.given("DCA_GOOGLE_REDIRECT_URI", web_url),
            },
            google_api_url: r.given("DCA_GOOGLE_API_URL", loopback_url),
            app_name: r.value("DCA_APP_NAME", title),
            frontend_url: r.given("DCA_FRONTEND_URL", |url| bare_url(url, &["http", "https"])),
            cors_origins: r.given("DCA_CORS_ORIGINS", origins).unwrap_or_default(),
            access_ttl: r.value("DCA_ACCESS_TOKEN_SECONDS", seconds(60..=3600)),
            refresh_ttl: r.value("DCA_REFRESH_TOKEN_SECONDS", seconds(3600..=7_776_000)),
            cookies: Self::read_cookies(r, &public_url),
            password_memory_kib: r.value("DCA_PASSWORD_MEMORY_KIB", number(12_288..=1_048_576)),
            admins_need_second_factor: r.value("DCA_REQUIRE_SECOND_FACTOR", second_factor),
            failures_per_account: r.value("DCA_FAILURES_PER_ACCOUNT", |n| n.parse().ok()),
            failures_per_network: r.value("DCA_FAILURES_PER_NETWORK", |n| n.parse().ok()),
            emails_per_network: r.value("DCA_LETTERS_PER_NETWORK", |n| n.parse().ok()),
            auth_per_minute: r.value("DCA_AUTH_PER_MINUTE", |n| n.parse().ok()),
            mail: MailSettings {
                host: r.given("DCA_SMTP_HOST", host),
                port: r.value("DCA_SMTP_PORT", number(1..=u16::MAX)),
                user: r.given("DCA_SMTP_USER", text),
                password: r.given("DCA_SMTP_PASSWORD", |value| text(value).map(Secret)),
                tls: r.value("DCA_SMTP_TLS", smtp_tls),
                from: r.value("DCA_MAIL_FROM", mailbox),
            },
            emails_per_minute: r.value("DCA_MAILS_PER_MINUTE", |n| n.parse().ok()),
            validate_per_minute: r.value("DCA_VALIDATE_PER_MINUTE", |n| n.parse().ok()),
            auth_failures_per_minute: r.value("DCA_AUTH_FAILURES_PER_MINUTE", |n| n.parse().ok()),
            dm_per_minute: r.value("DCA_DM_PER_MINUTE", |n| n.parse().ok()),
            dm_interval: r.value("DCA_DM_INTERVAL_SECONDS", seconds(0..=3600)),
            delivery_timeout: r.value("DCA_DELIVERY_TIMEOUT_SECONDS", seconds(1..=300)),
            gateway_lease: r.value("DCA_GATEWAY_LEASE_SECONDS", seconds(2..=14)),
            reconcile_interval: r.value("DCA_RECONCILE_INTERVAL_SECONDS", seconds(10..=86400)),
            drain_timeout: r.value("DCA_DRAIN_TIMEOUT_SECONDS", seconds(1..=300)),
            log_filter: r.value("DCA_LOG", log_filter),
            log_format: r.value("DCA_LOG_FORMAT", log_format),
            ignored: r.ignored(),
            public_url,
            data_dir,
            http_addr,
            tls,
        }
    }

    /// Reads the cookie attributes and refuses combinations that browsers reject.
    fn read_cookies(r: &mut Reader, public_url: &str) -> CookieSettings {
        let cookies = CookieSettings {
            name: r.given("DCA_COOKIE_NAME", cookie_name),
            secure: r.given("DCA_COOKIE_SECURE", truth),
            same_site: r.given("DCA_COOKIE_SAMESITE", same_site),
            domain: r.given("DCA_COOKIE_DOMAIN", domain),
        };
        let is_secure = cookies.secure.unwrap_or(public_url.starts_with("https:"));
        if cookies.same_site == Some(SameSite::None) && !is_secure {
            r.fault(
                "Invalid value \"none\" for DCA_COOKIE_SAMESITE: browsers accept it only on secure cookies. Set \
                 DCA_COOKIE_SECURE=true, or use lax."
                    .to_owned(),
            );
        }
        if cookies.name.as_deref().is_some_and(|name| RESERVED_COOKIE_NAMES.contains(&name)) {
            r.fault(
                "Invalid value for DCA_COOKIE_NAME: the service already has a cookie with that name. Use another \
                 name, for example session_id."
                    .to_owned(),
            );
        }
        if cookies.name.as_deref().is_some_and(|name| name.starts_with("__")) {
            r.fault(
                "Invalid value for DCA_COOKIE_NAME: names that start with __ are reserved. Use another name, for example \
                 session_id, or leave it unset to use __Host-rt over HTTPS."
                    .to_owned(),
            );
        }
        cookies
    }
}
