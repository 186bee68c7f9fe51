//! Configuration. `VARS` is the cast: one row per variable, from which the reader, the `_FILE`
//! variants, the check for unknown names and `.env.example` are all derived.
//!
//! The flow: `main` takes [`env_map`], [`Config::load`] reads nothing but that map and the files it
//! names, and either every value has its type or every fault is told at once.

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

/// What the process runs with. Durations are whole seconds in the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Folder of the SQLite file and of generated secrets.
    pub data_dir: PathBuf,
    /// Where the HTTP listener binds.
    pub http_addr: SocketAddr,
    /// How the outside reaches us: absolute `http(s)` URL without trailing slash or query.
    pub public_url: String,
    /// Certificate and key of the listener; `None`: plain HTTP.
    pub tls: Option<TlsFiles>,
    /// Peers whose forwarded headers are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// `sqlite:`, `postgres:` or `postgresql:` URL.
    pub database_url: Secret,
    /// Open database connections at most, 1 to 1000.
    pub database_pool_size: u32,
    /// `redis:`, `rediss:`, `unix:` or `redis+unix:` URL; `None`: one process, in memory.
    pub redis_url: Option<Secret>,
    /// What every Redis key begins with.
    pub redis_prefix: String,
    /// 32 bytes, always in padded standard base64 however they were given; `None`: generated.
    pub master_key: Option<Secret>,
    /// Token of the bot, without `Bot `; `None`: the bot is off.
    pub discord_token: Option<Secret>,
    /// Base URL, without trailing slash, of a stand-in for Discord on a loopback address.
    pub discord_api_url: Option<String>,
    /// Sign-in with Discord.
    pub discord_sign_in: SignInClient,
    /// Sign-in with Google.
    pub google_sign_in: SignInClient,
    /// Base URL, without trailing slash, of a stand-in for Google on a loopback address.
    pub google_api_url: Option<String>,
    /// The product's name in letters and authenticator apps.
    pub app_name: String,
    /// Where links in letters lead, without trailing slash; `None`: pages of our own.
    pub frontend_url: Option<String>,
    /// Other origins whose pages may call us, as browsers write them.
    pub cors_origins: Vec<String>,
    /// Life of an access token, 60 to 3600 s.
    pub access_ttl: Duration,
    /// Life of a session that is not refreshed, an hour to 90 days.
    pub refresh_ttl: Duration,
    /// The cookies' attributes, where they are named.
    pub cookies: CookieSettings,
    /// Memory of a password hash.
    pub password_memory_kib: u32,
    /// Whether admins need a second factor.
    pub admins_need_second_factor: bool,
    /// Wrong passwords or codes per account and quarter of an hour.
    pub failures_per_account: NonZeroU32,
    /// Wrong passwords or codes per network and quarter of an hour.
    pub failures_per_network: NonZeroU32,
    /// Letters that a network may cause per hour.
    pub emails_per_network: NonZeroU32,
    /// Account requests per minute and network.
    pub auth_per_minute: NonZeroU32,
    /// The mail server and the sender.
    pub mail: MailSettings,
    /// Letters per minute and domain.
    pub emails_per_minute: NonZeroU32,
    /// Validations per minute, per API key and client address.
    pub validate_per_minute: NonZeroU32,
    /// Failed authentications per minute, per client address.
    pub auth_failures_per_minute: NonZeroU32,
    /// Direct messages per minute, all together.
    pub dm_per_minute: NonZeroU32,
    /// Pause between two direct messages of a bulk, 0 to 3600 s.
    pub dm_interval: Duration,
    /// Longest single attempt of a delivery, 1 to 300 s.
    pub delivery_timeout: Duration,
    /// How long the gateway stays with an instance that fell silent, 2 to 14 s.
    pub gateway_lease: Duration,
    /// From one full pass over the roles to the next, 10 to 86400 s.
    pub reconcile_interval: Duration,
    /// How long requests in flight may take at shutdown, 1 to 300 s.
    pub drain_timeout: Duration,
    /// Directives of a tracing `EnvFilter`.
    pub log_filter: String,
    /// Form of the log lines.
    pub log_format: LogFormat,
    /// Names of earlier systems that are set without effect, to be named once at start.
    pub ignored: Vec<&'static str>,
}

/// What a provider knows us by; sign-in is on when id and secret are set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignInClient {
    /// OAuth client id.
    pub id: Option<String>,
    /// OAuth client secret.
    pub secret: Option<Secret>,
    /// Where people are sent back, if not to our own callback.
    pub redirect: Option<String>,
}

/// Attributes of the refresh cookie; what is `None` follows the scheme of the public URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CookieSettings {
    /// Its name.
    pub name: Option<String>,
    /// Whether it is for https alone.
    pub secure: Option<bool>,
    /// Which sites' requests carry it.
    pub same_site: Option<SameSite>,
    /// The domain that shares it.
    pub domain: Option<String>,
}

/// RFC 6265bis, section 5.5.7.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SameSite {
    /// Links from elsewhere, and this site.
    Lax,
    /// This site.
    Strict,
    /// Every site; over https alone.
    None,
}

/// The mail server and the sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailSettings {
    /// Host name or address; `None`: letters become files.
    pub host: Option<String>,
    /// Port.
    pub port: u16,
    /// User there.
    pub user: Option<String>,
    /// Password there.
    pub password: Option<Secret>,
    /// How it is spoken to.
    pub tls: SmtpTls,
    /// Sender: an address, or `Name <address>`.
    pub from: String,
}

/// How a mail server is spoken to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SmtpTls {
    /// TLS on port 465, opportunistic on loopback, else STARTTLS.
    Auto,
    /// STARTTLS, or no letter.
    StartTls,
    /// TLS from the first byte.
    Tls,
    /// STARTTLS where it is offered.
    Opportunistic,
    /// In clear.
    None,
}

/// PEM files of the TLS listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The certificate chain.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// Form of the log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    Auto,
    /// For eyes.
    Text,
    /// One object per line.
    Json,
}

/// A value that is never printed: `Debug` hides it and `Display` is absent.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The value, for the one call that needs it.
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

/// Everything wrong with a configuration, one sentence per fault; no secret is quoted.
#[derive(Debug)]
pub struct Faults(pub Vec<String>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for Faults {}

/// The process environment, for [`Config::load`]. What is not UTF-8 keeps U+FFFD as its mark.
#[must_use]
pub fn env_map() -> BTreeMap<String, String> {
    let text = |os: std::ffi::OsString| os.to_string_lossy().into_owned();
    std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect()
}

/// Names of other cookies of ours.
const TAKEN: [&str; 5] = ["refresh_token", "csrf_token", "dca_device", "dca_sign_in", "dca_second_factor"];

impl Config {
    /// Reads `env`, and the TOML file it may name. An empty value counts as unset. The first that
    /// is set wins: the `DCA_` name or its `_FILE` variant, the TOML file, the names of earlier
    /// systems in the order of their row.
    ///
    /// # Errors
    /// All faults at once: a value that does not fit, a file that cannot be read, an unknown name.
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
            let pair = "DCA_TLS_CERT_FILE, DCA_TLS_KEY_FILE: expected both or neither";
            r.fault(pair.to_owned());
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
    /// What browsers would not keep, or would mix up, is a fault here, not a puzzle there.
    fn read_cookies(r: &mut Reader, public_url: &str) -> CookieSettings {
        let cookies = CookieSettings {
            name: r.given("DCA_COOKIE_NAME", cookie_name),
            secure: r.given("DCA_COOKIE_SECURE", truth),
            same_site: r.given("DCA_COOKIE_SAMESITE", same_site),
            domain: r.given("DCA_COOKIE_DOMAIN", domain),
        };
        let is_secure = cookies.secure.unwrap_or(public_url.starts_with("https:"));
        if cookies.same_site == Some(SameSite::None) && !is_secure {
            r.fault("DCA_COOKIE_SAMESITE: none is kept over https alone; expected DCA_COOKIE_SECURE=true".to_owned());
        }
        if cookies.name.as_deref().is_some_and(|name| TAKEN.contains(&name)) {
            r.fault("DCA_COOKIE_NAME: another cookie of ours is called that; expected another name".to_owned());
        }
        if cookies.name.as_deref().is_some_and(|name| name.starts_with("__")) {
            r.fault(
                "DCA_COOKIE_NAME: a prefix promises attributes; expected it unset, which sets __Host- over https"
                    .to_owned(),
            );
        }
        cookies
    }
}
