//! Configuration. `VARS` is the cast: one row per variable, from which the reader, the `_FILE`
//! variants, the check for unknown names and `.env.example` are all derived.
//!
//! The flow: `main` takes [`env_map`], [`Config::load`] reads nothing but that map and the files it
//! names, and either every value has its type or every fault is told at once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use ipnet::IpNet;
use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use url::Url;

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
        Self {
            public_url: public_url.unwrap_or_else(|| format!("{scheme}://{http_addr}")),
            trusted_proxies: r.given("DCA_TRUSTED_PROXIES", networks).unwrap_or_default(),
            database_url: r.given("DCA_DATABASE_URL", database_url).unwrap_or(sqlite),
            database_pool_size: r.value("DCA_DATABASE_POOL_SIZE", number(1..=1000)),
            redis_url: r.given("DCA_REDIS_URL", redis_url),
            redis_prefix: r.value("DCA_REDIS_PREFIX", prefix),
            master_key: r.given("DCA_MASTER_KEY", master_key),
            discord_token: r.given("DCA_DISCORD_TOKEN", token),
            discord_api_url: r.given("DCA_DISCORD_API_URL", loopback_url),
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
            data_dir,
            http_addr,
            tls,
        }
    }
}

/// A variable: all that is said, read or checked about it comes from its row.
struct Var {
    name: &'static str,
    /// As `.env.example` shows it; empty: unset.
    default: &'static str,
    /// What it is, a colon, and what is expected: a fault quotes the second part.
    about: &'static str,
    /// Never quoted, and readable from the file that `NAME_FILE` names.
    secret: bool,
    fallbacks: &'static [Fallback],
}

/// Names of earlier systems, separated by spaces, which together give a variable its value (the
/// others count only if the first is set); what they hold, in the unit those systems documented;
/// and the way from their values (empty: unset) to the variable's own form.
type Fallback = (&'static str, &'static str, fn(&[&str]) -> Option<String>);

const fn var(name: &'static str, default: &'static str) -> Var {
    let (about, secret, fallbacks): (_, _, &[Fallback]) = ("", false, &[]);
    Var { name, default, about, secret, fallbacks }
}

const fn secret(name: &'static str, default: &'static str) -> Var {
    let secret = true;
    Var { secret, ..var(name, default) }
}

impl Var {
    const fn is(self, about: &'static str) -> Self {
        Self { about, ..self }
    }
    const fn or(self, fallbacks: &'static [Fallback]) -> Self {
        Self { fallbacks, ..self }
    }
}

static VARS: &[Var] = &[
    var("DCA_CONFIG_FILE", "").is("values under these names in lower case without dca_: path of a TOML file"),
    var("DCA_DATA_DIR", "data").is("holds the SQLite file and generated secrets: path of a folder, made if absent"),
    var("DCA_HTTP_ADDR", "127.0.0.1:3000")
        .is("where to listen: IP address and port")
        .or(&[("PORT", PORT, any_address), ("APP_PORT", PORT, any_address)]),
    var("DCA_PUBLIC_URL", "http://127.0.0.1:3000")
        .is("how others reach us, unset = DCA_HTTP_ADDR: http(s) URL, no query, no trailing slash"),
    var("DCA_TLS_CERT_FILE", "").is("certificate chain for HTTPS: path of a readable PEM file"),
    var("DCA_TLS_KEY_FILE", "").is("key of that certificate: path of a readable PEM file"),
    var("DCA_TRUSTED_PROXIES", "").is("whose forwarded headers count: IP addresses or networks, comma separated"),
    secret("DCA_DATABASE_URL", "sqlite://data/dca.db?mode=rwc")
        .is("the database, unset = dca.db in DCA_DATA_DIR: URL with sqlite:, postgres: or postgresql:")
        .or(&[
            ("DATABASE_URL", "without what only Prisma knows", verbatim),
            (POSTGRES, "on localhost, port 1 to 65535", on_localhost),
        ]),
    var("DCA_DATABASE_POOL_SIZE", "20").is("connections at most: whole number, 1 to 1000"),
    secret("DCA_REDIS_URL", "").is("shared state, unset = memory: URL with redis:, rediss:, unix: or redis+unix:"),
    var("DCA_REDIS_PREFIX", "dca").is("begins every Redis key: letters, digits, -_.: only"),
    secret("DCA_MASTER_KEY", "").is("seals the keyring, unset = generated: 32 random bytes in base64 or base64url"),
    secret("DCA_DISCORD_TOKEN", "").is("token of the bot, unset = off: one word, without \"Bot \""),
    var("DCA_DISCORD_API_URL", "")
        .is("stand-in for Discord in tests: URL such as http://127.0.0.1:8080, loopback only"),
    var("DCA_VALIDATE_PER_MINUTE", "6000")
        .is("validations per API key and address: whole number per minute, at least 1"),
    var("DCA_AUTH_FAILURES_PER_MINUTE", "60")
        .is("failed authentications per address: whole number per minute, at least 1"),
    var("DCA_DM_PER_MINUTE", "60").is("direct messages in all, ten at once: whole number per minute, at least 1"),
    var("DCA_DM_INTERVAL_SECONDS", "5").is("pause between bulk direct messages: whole seconds, 0 to 3600"),
    var("DCA_DELIVERY_TIMEOUT_SECONDS", "10").is("longest attempt of a delivery: whole seconds, 1 to 300"),
    var("DCA_GATEWAY_LEASE_SECONDS", "9")
        .is("silence after which another instance takes the gateway: whole seconds, 2 to 14"),
    var("DCA_RECONCILE_INTERVAL_SECONDS", "300")
        .is("from one full pass over the roles to the next: whole seconds, 10 to 86400"),
    var("DCA_DRAIN_TIMEOUT_SECONDS", "10").is("for requests in flight at shutdown: whole seconds, 1 to 300"),
    var("DCA_LOG", "info").is("what is logged: a level, or target=level, comma separated"),
    var("DCA_LOG_FORMAT", "auto").is("auto is text on a terminal and JSON otherwise: auto, text or json"),
];

const PORT: &str = "port 1 to 65535, on 0.0.0.0";
const POSTGRES: &str = "POSTGRES_USER POSTGRES_PASSWORD POSTGRES_DB DB_PORT";

/// Documented names of earlier systems whose feature is still to come, in their own units.
const LATER: &[(&str, &str)] = &[
    ("COOKIE_SECRET", "signs the Patreon login's cookie"),
    ("PATREON_CLIENT_ID", "OAuth client"),
    ("PATREON_CLIENT_SECRET", "OAuth client's secret"),
    ("PATREON_REDIRECT_URI", "OAuth callback URL"),
    ("PATREON_REQUIRED_TIER_IDS", "tier ids, comma separated"),
    ("PATREON_CREATOR_ACCESS_TOKEN", "creator's access token"),
    ("PATREON_CREATOR_REFRESH_TOKEN", "creator's refresh token"),
    ("JWT_SECRET", "signs login tokens"),
    ("JWT_WEBSOCKET_EXPIRATION_TIME", "seconds of a socket token"),
    ("CLIENT_ERROR_URL", "where a failed login is sent"),
    ("SESSION_JWT_SECRET", "signs play session tokens"),
    ("SESSION_JWT_TTL_SEC", "seconds of a play session token"),
    ("HEARTBEAT_INTERVAL_SEC", "seconds between heartbeats"),
    ("ASSET_STORAGE_ROOT", "folder of game assets"),
    ("JWT_EXPIRES_IN", "life of login tokens, such as 7d"),
    ("ENCRYPTION_KEY", "seals panel logins, 32 characters"),
    ("JWT_ACCESS_SECRET", "signs access tokens"),
    ("JWT_REFRESH_SECRET", "signs refresh tokens"),
    ("ACCESS_TOKEN_TTL", "seconds of an access token"),
    ("REFRESH_TOKEN_TTL", "seconds of a refresh token"),
    ("REFRESH_COOKIE_NAME", "refresh token's cookie"),
    ("COOKIE_SECURE", "cookies over HTTPS, true or false"),
    ("COOKIE_SAMESITE", "of cookies: lax, strict or none"),
    ("COOKIE_DOMAIN", "domain of cookies"),
    ("PASSWORD_ALGO", "hash of new passwords"),
    ("TOKEN_HASH_PEPPER", "hashes stored tokens"),
    ("APP_FRONTEND_URL", "base of links in mails"),
    ("APP_NAME", "name in mails"),
    ("ENVIRONMENT", "development or production"),
    ("MAIL_HOST", "SMTP server"),
    ("MAIL_PORT", "SMTP port"),
    ("MAIL_USER", "SMTP user"),
    ("MAIL_PASS", "SMTP password"),
    ("MAIL_FROM", "sender of mails"),
    ("THROTTLE_TTL", "milliseconds requests are counted"),
    ("THROTTLE_LIMIT", "requests per THROTTLE_TTL"),
];

/// `.env.example`, every assignment commented out: as it is, the file changes nothing.
#[must_use]
pub fn reference() -> String {
    let mut lines = vec![REFERENCE_HEAD.to_owned()];
    for var in VARS {
        lines.push(format!("\n# {}", var.about));
        let also = |(names, about, _): &Fallback| format!("# also read: {names} ({about})");
        lines.extend(var.fallbacks.iter().map(also));
        lines.push(format!("# {}={}", var.name, var.default));
        lines.extend(var.secret.then(|| format!("# {}_FILE=", var.name)));
    }
    lines.push("\n# Names of earlier systems that are accepted and have no effect yet:".to_owned());
    let later = |(name, about): &(&str, &str)| format!("# {name}: {about}");
    lines.extend(LATER.iter().map(later));
    lines.join("\n") + "\n"
}

const REFERENCE_HEAD: &str = "\
# Every variable with its default, commented out. An empty value counts as unset.
# The first that is set wins: the DCA_ name, or its _FILE variant (a file that holds the secret);
# the TOML file of DCA_CONFIG_FILE; the \"also read\" names from top to bottom.";

/// The names of `VARS` and the `_FILE` variants of its secrets.
fn known() -> BTreeSet<String> {
    let names = |var: &Var| {
        let in_file = var.secret.then(|| format!("{}_FILE", var.name));
        [Some(var.name.to_owned()), in_file]
    };
    VARS.iter().flat_map(names).flatten().collect()
}

/// The names of earlier systems, once each.
fn earlier() -> impl Iterator<Item = &'static str> {
    let read = VARS.iter().flat_map(|var| var.fallbacks);
    let read = read.flat_map(|(names, ..)| names.split(' '));
    read.chain(LATER.iter().map(|(name, _)| *name))
}

/// Finds the value of each variable, collects the faults.
#[derive(Default)]
struct Reader {
    env: BTreeMap<String, String>,
    /// Of each variable that is set: the name it came by, and the value.
    found: BTreeMap<&'static str, (String, String)>,
    /// Names that had their say.
    seen: BTreeSet<&'static str>,
    faults: Vec<String>,
}

impl Reader {
    fn new(env: BTreeMap<String, String>) -> Self {
        let mut reader = Self::default();
        reader.env = reader.ours(env);
        reader.take(&reader.env.clone(), "");
        if let Some(text) = reader.given("DCA_CONFIG_FILE", |path| fs::read_to_string(path).ok()) {
            let values = reader.parse_toml(&text);
            reader.take(&values, " (from DCA_CONFIG_FILE)");
        }
        reader.take_earlier();
        reader
    }

    /// What is set under names of ours.
    fn ours(&mut self, env: BTreeMap<String, String>) -> BTreeMap<String, String> {
        let known = known();
        let mut ours = BTreeMap::new();
        for (name, value) in env {
            if known.contains(&name) || earlier().any(|earlier| earlier == name) {
                if value.contains(char::REPLACEMENT_CHARACTER) {
                    self.fault(format!("{name}: not UTF-8; expected text"));
                } else if !value.trim().is_empty() {
                    ours.insert(name, value.trim().to_owned());
                }
            } else if name.to_uppercase().starts_with("DCA_") {
                self.fault(unknown(&name, &known));
            }
        }
        ours
    }

    /// Fills what is still unset from `layer`, following `_FILE` variants.
    fn take(&mut self, layer: &BTreeMap<String, String>, origin: &str) {
        for var in VARS {
            let in_file = format!("{}_FILE", var.name);
            let path = layer.get(&in_file).filter(|_| var.secret);
            match (layer.get(var.name), path) {
                _ if self.found.contains_key(var.name) => {}
                (None, None) => {}
                (Some(value), None) => self.find(var, var.name.to_owned() + origin, value),
                (None, Some(path)) => match fs::read_to_string(path) {
                    Ok(text) => self.find(var, in_file + origin, text.trim()),
                    // The path stays unnamed: it may be the secret, put under the wrong name.
                    Err(error) => self.fault(format!("{in_file}: {error}; expected a file")),
                },
                _ => self.fault(format!("{}, {in_file}: expected one of them", var.name)),
            }
        }
    }

    fn parse_toml(&mut self, text: &str) -> BTreeMap<String, String> {
        let table = text.parse::<toml::Table>().unwrap_or_else(|error| {
            // The parser's own words quote the line, which may hold a secret.
            let before = error.span().map_or(0, |span| span.start);
            let line = 1 + text.bytes().take(before).filter(|byte| *byte == b'\n').count();
            self.fault(format!("DCA_CONFIG_FILE: line {line} does not fit; expected TOML"));
            toml::Table::new()
        });
        let lower = |name: &String| name.trim_start_matches("DCA_").to_lowercase();
        let mut keys: BTreeSet<String> = known().iter().map(lower).collect();
        keys.remove("config_file");
        let mut values = BTreeMap::new();
        for (key, value) in table {
            let name = format!("DCA_{}", key.to_uppercase());
            match plain(&value) {
                _ if !keys.contains(&key) => {
                    self.fault(format!("DCA_CONFIG_FILE: {}", unknown(&key, &keys)));
                }
                Some(value) if value.trim().is_empty() => {}
                Some(value) => _ = values.insert(name, value.trim().to_owned()),
                None => self.fault(format!("DCA_CONFIG_FILE: {key}: expected a string or number")),
            }
        }
        values
    }

    fn take_earlier(&mut self) {
        for var in VARS {
            for (names, about, convert) in var.fallbacks {
                let value = |name| self.env.get(name).map_or("", String::as_str);
                let values: Vec<&str> = names.split(' ').map(value).collect();
                if self.found.contains_key(var.name) || values[0].is_empty() {
                    continue;
                }
                match convert(&values) {
                    Some(value) => self.find(var, (*names).to_owned(), &value),
                    None => self.fault(misfit(var, names, values[0], about)),
                }
                self.seen.extend(names.split(' '));
            }
        }
    }

    fn find(&mut self, var: &'static Var, label: String, value: &str) {
        self.found.insert(var.name, (label, value.to_owned()));
    }

    fn fault(&mut self, fault: String) {
        self.faults.push(fault);
    }

    /// The value of a row if it is set and fits.
    fn given<T>(&mut self, name: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        let var = row(name);
        self.seen.insert(var.name);
        let (label, value) = self.found.get(name)?;
        let parsed = parse(value);
        if parsed.is_none() {
            let (_, expected) = var.about.split_once(": ").expect("about says what is expected");
            self.fault(misfit(var, label, value, expected));
        }
        parsed
    }

    /// The same, else its default.
    fn value<T>(&mut self, name: &str, parse: impl Fn(&str) -> Option<T>) -> T {
        let given = self.given(name, &parse);
        given.unwrap_or_else(|| parse(row(name).default).expect("every default fits"))
    }

    fn ignored(&self) -> Vec<&'static str> {
        let idle = |name: &&str| self.env.contains_key(*name) && !self.seen.contains(name);
        earlier().filter(idle).collect()
    }
}

fn row(name: &str) -> &'static Var {
    let mut rows = VARS.iter();
    rows.find(|var| var.name == name).expect("only rows of VARS are read")
}

fn misfit(var: &Var, label: &str, value: &str, expected: &str) -> String {
    // What contains an @ may be a URL with a password, put under the wrong name.
    let hidden = (var.secret || value.contains('@')).then(|| "the value".to_owned());
    let what = hidden.unwrap_or_else(|| format!("{value:?}"));
    format!("{label}: {what} does not fit; expected {expected}")
}

fn unknown(name: &str, known: &BTreeSet<String>) -> String {
    // Jaro-Winkler favors a common beginning, which the prefix would give to every name.
    let bare = |name: &str| name.to_uppercase().trim_start_matches("DCA_").to_owned();
    let alike = |other: &String| strsim::jaro_winkler(&bare(name), &bare(other));
    let best = known.iter().max_by(|a, b| alike(a).total_cmp(&alike(b)));
    match best.filter(|best| alike(best) > 0.85) {
        Some(best) => format!("{name}: unknown; did you mean {best}?"),
        None => format!("{name}: unknown; expected a name of .env.example"),
    }
}

fn plain(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Array(items) => {
            let items: Option<Vec<&str>> = items.iter().map(toml::Value::as_str).collect();
            Some(items?.join(","))
        }
        _ => None,
    }
}

// From here: one parser per kind of value. What it expects stands in the rows that use it.

fn folder(value: &str) -> Option<PathBuf> {
    let path = PathBuf::from(value);
    (path.is_dir() || !path.exists()).then_some(path)
}

fn readable_file(value: &str) -> Option<PathBuf> {
    fs::read(value).ok().map(|_| value.into())
}

fn number<T: FromStr + PartialOrd>(range: RangeInclusive<T>) -> impl Fn(&str) -> Option<T> {
    move |value| value.parse().ok().filter(|number| range.contains(number))
}

fn seconds(range: RangeInclusive<u64>) -> impl Fn(&str) -> Option<Duration> {
    let number = number(range);
    move |value| number(value).map(Duration::from_secs)
}

fn any_address(values: &[&str]) -> Option<String> {
    number(1..=u16::MAX)(values[0]).map(|port| format!("0.0.0.0:{port}"))
}

fn verbatim(values: &[&str]) -> Option<String> {
    values.first().copied().map(str::to_owned)
}

fn on_localhost(values: &[&str]) -> Option<String> {
    let port = Some(values[3]).filter(|port| !port.is_empty()).unwrap_or("5432");
    let port = number(1..=u16::MAX)(port)?;
    let [user, password, name] = [0, 1, 2].map(|at| percent_encoded(values[at], ""));
    Some(format!("postgres://{user}:{password}@localhost:{port}/{name}"))
}

fn percent_encoded(text: &str, keep: &str) -> String {
    let symbol = |byte| match char::from(byte) {
        c if c.is_ascii_alphanumeric() || "-._~".contains(c) || keep.contains(c) => c.to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(symbol).collect()
}

fn database_url(value: &str) -> Option<Secret> {
    /// Without meaning to the driver, which would log them with their values.
    const PRISMA: &str = "schema pgbouncer connection_limit connect_timeout pool_timeout \
                          socket_timeout sslaccept sslidentity sslpassword";
    if let Some(file) = value.strip_prefix("sqlite:") {
        let named = file.trim_start_matches('/').starts_with(|first| first != '?');
        return named.then(|| Secret(value.to_owned()));
    }
    let url = Url::parse(value).ok()?;
    let ours = ["postgres", "postgresql"].contains(&url.scheme()) && url.has_authority();
    let (base, query) = value.split_once('?').unwrap_or((value, ""));
    let key = |pair: &str| pair.split('=').next().unwrap_or_default().to_owned();
    let foreign = |pair: &&str| PRISMA.split(' ').any(|foreign| foreign == key(pair));
    let kept: Vec<&str> = query.split('&').filter(|pair| !foreign(pair)).collect();
    let url = format!("{base}?{}", kept.join("&"));
    ours.then(|| Secret(url.trim_end_matches('?').to_owned()))
}

fn redis_url(value: &str) -> Option<Secret> {
    let url = Url::parse(value).ok()?;
    let fits = match url.scheme() {
        "redis" | "rediss" => url.has_host(),
        "unix" | "redis+unix" => url.path().len() > 1,
        _ => false,
    };
    fits.then(|| Secret(value.to_owned()))
}

fn prefix(value: &str) -> Option<String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    value.chars().all(fits).then(|| value.to_owned())
}

fn master_key(value: &str) -> Option<Secret> {
    let standard = value.replace('-', "+").replace('_', "/");
    let key = STANDARD_NO_PAD.decode(standard.trim_end_matches('=')).ok()?;
    // One byte repeated is a placeholder somebody forgot, never a random key.
    let fits = key.len() == 32 && key.iter().any(|byte| *byte != key[0]);
    fits.then(|| Secret(STANDARD.encode(key)))
}

fn token(value: &str) -> Option<Secret> {
    let fits = !value.is_empty() && value.chars().all(|c| c.is_ascii_graphic());
    fits.then(|| Secret(value.to_owned()))
}

fn bare_url(value: &str, schemes: &[&str]) -> Option<String> {
    let url = Url::parse(value).ok()?;
    let fits = schemes.contains(&value.split_once("://")?.0)
        && url.query().or(url.fragment()).or(url.password()).is_none()
        && url.username().is_empty()
        && !value.ends_with('/');
    fits.then(|| url.as_str().trim_end_matches('/').to_owned())
}

/// Only loopback: whoever answers there is handed the bot's token in clear.
fn loopback_url(value: &str) -> Option<String> {
    let url = Url::parse(value).ok()?;
    let host: IpAddr = url.host_str()?.trim_matches(['[', ']']).parse().ok()?;
    bare_url(value, &["http"]).filter(|_| host.is_loopback())
}

fn networks(value: &str) -> Option<Vec<IpNet>> {
    let address = |item: &str| item.parse().map(IpAddr::into);
    let network = |item: &str| item.parse().or_else(|_| address(item)).ok();
    value.split(',').map(|item| network(item.trim())).collect()
}

fn log_filter(value: &str) -> Option<String> {
    // A mistyped level would pass as a target and silence everything else.
    let level = |part: &str| part.trim().parse::<LevelFilter>().is_ok();
    let clear = value.split(',').all(|part| part.contains(['=', '[']) || level(part));
    let fits = clear && EnvFilter::builder().parse(value).is_ok();
    fits.then(|| value.to_owned())
}

fn log_format(value: &str) -> Option<LogFormat> {
    match value {
        "auto" => Some(LogFormat::Auto),
        "text" => Some(LogFormat::Text),
        "json" => Some(LogFormat::Json),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Name, a value that fits, and values that do not.
    const CASES: &str = "
DCA_CONFIG_FILE | /dev/null | /nowhere.toml | /
DCA_DATA_DIR | else where | /dev/null
DCA_HTTP_ADDR | [::]:80 | localhost | 1.2.3.4 | 1.2.3.4:65536
DCA_PUBLIC_URL | https://dca.example/base | dca.example | ftp://x | https://x/ | https://x?a | https://u:p@x | https://u@x
DCA_TLS_CERT_FILE | /dev/null | /nowhere.pem | /
DCA_TLS_KEY_FILE | /dev/null | /nowhere.pem
DCA_TRUSTED_PROXIES | 10.0.0.0/8, ::1 | 10.0.0.0/33 | proxy | 10.0.0.1,,10.0.0.2
DCA_DATABASE_URL | postgres://u:hush@h/d | hush | mysql://hush@h/d | postgres:hush | sqlite:// | sqlite:?hush
DCA_DATABASE_POOL_SIZE | 1000 | 0 | 1001 | -1 | ten
DCA_REDIS_URL | rediss://u:hush@h:6380/1 | hush | http://hush | redis:hush | unix:
DCA_REDIS_PREFIX | dca:a-1 | a b | é
DCA_MASTER_KEY | _-7ermv3L9o-QW8Zt1uYp5cJd0xKsRgHbVnMqIaEfTw | hush | AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA= | AAECAwQF
DCA_DISCORD_TOKEN | MTIz.abc.hush-_ | Bot hush | hush\u{7f}
DCA_DISCORD_API_URL | http://[::1]:8080/api | https://127.0.0.1 | http://discord.com | http://10.0.0.1:80 | http://127.0.0.1/
DCA_VALIDATE_PER_MINUTE | 1 | 0 | 4294967296 | many
DCA_AUTH_FAILURES_PER_MINUTE | 1 | 0 | 1.5
DCA_DM_INTERVAL_SECONDS | 0 | 3601 | 5s
DCA_DELIVERY_TIMEOUT_SECONDS | 300 | 0 | 301
DCA_GATEWAY_LEASE_SECONDS | 14 | 1 | 15
DCA_RECONCILE_INTERVAL_SECONDS | 86400 | 9 | 86401
DCA_DRAIN_TIMEOUT_SECONDS | 300 | 0 | 301
DCA_LOG | warn,dca_auth=debug | loud | info,dca_auth=loud
DCA_LOG_FORMAT | json | xml | JSON";

    fn cases() -> impl Iterator<Item = (&'static str, &'static str, Vec<&'static str>)> {
        CASES.trim().lines().map(|line| {
            let mut cells = line.split(" | ");
            (cells.next().unwrap(), cells.next().unwrap(), cells.collect())
        })
    }

    fn map<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> BTreeMap<String, String> {
        pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    fn load(pairs: &[(&str, &str)]) -> Config {
        Config::load(map(pairs.iter().copied())).unwrap()
    }

    fn faults(pairs: &[(&str, &str)]) -> String {
        Config::load(map(pairs.iter().copied())).unwrap_err().to_string()
    }

    /// A file of its own per test, gone with the value.
    struct File(PathBuf);

    impl File {
        fn new(name: &str, text: &str) -> Self {
            let name = format!("dca-config-{}-{name}", std::process::id());
            let path = std::env::temp_dir().join(name);
            fs::write(&path, text).unwrap();
            Self(path)
        }
        fn path(&self) -> &str {
            self.0.to_str().unwrap()
        }
    }

    impl Drop for File {
        fn drop(&mut self) {
            let _ = fs::remove_file(&self.0);
        }
    }

    #[test]
    fn env_example_is_the_reference() {
        assert_eq!(include_str!("../.env.example"), reference());
    }

    #[test]
    fn the_defaults_shown_are_those_of_an_empty_environment() {
        let shown = map(VARS.iter().map(|var| (var.name, var.default)));
        let config = load(&[]);
        assert_eq!(Config::load(shown).unwrap(), config);
        assert_eq!(config.database_url.expose(), "sqlite://data/dca.db?mode=rwc");
        assert_eq!(config.public_url, "http://127.0.0.1:3000");
        assert_eq!(config.dm_interval, Duration::from_secs(5));
        let elsewhere = load(&[("DCA_DATA_DIR", "/a b?c"), ("DCA_HTTP_ADDR", "[::1]:80")]);
        assert_eq!(elsewhere.database_url.expose(), "sqlite:///a%20b%3Fc/dca.db?mode=rwc");
        assert_eq!(elsewhere.public_url, "http://[::1]:80");
    }

    #[test]
    fn every_row_is_read_and_reaches_the_config() {
        let mut reader = Reader::new(map(cases().map(|(name, good, _)| (name, good))));
        let config = Config::read(&mut reader);
        assert_eq!(reader.faults, Vec::<String>::new());
        assert_eq!(reader.seen, VARS.iter().map(|var| var.name).collect());
        assert!(config.tls.is_some());
        assert_eq!(config.trusted_proxies.len(), 2);
        for (name, good, _) in cases().filter(|(name, ..)| !name.ends_with("_FILE")) {
            assert_ne!(load(&[(name, good)]), load(&[]), "{name} changes nothing");
        }
    }

    #[test]
    fn garbage_is_refused_by_name_and_all_at_once() {
        assert!(cases().map(|case| case.0).eq(VARS.iter().map(|var| var.name)));
        for (name, _, bad) in cases() {
            for bad in bad {
                let fault = faults(&[(name, bad)]);
                assert!(fault.starts_with(&format!("{name}: ")), "{bad}: {fault}");
                assert!(fault.contains("expected"), "{fault}");
                let hidden = row(name).secret || bad.contains('@');
                assert!(hidden != fault.contains(&format!("{bad:?}")), "{fault}");
            }
        }
        let worst = map(cases().map(|(name, _, bad)| (name, bad[0])));
        let all = Config::load(worst).unwrap_err();
        for var in VARS {
            assert!(all.0.iter().any(|fault| fault.starts_with(var.name)), "{}", var.name);
        }
        assert!(!all.to_string().contains("hush"), "{all}");
        let half = faults(&[("DCA_TLS_KEY_FILE", "/dev/null")]);
        assert_eq!(half, "DCA_TLS_CERT_FILE, DCA_TLS_KEY_FILE: expected both or neither");
        let mark = faults(&[("DCA_LOG", "in\u{fffd}fo")]);
        assert_eq!(mark, "DCA_LOG: not UTF-8; expected text");
    }

    #[test]
    fn secrets_stay_out_of_debug_and_come_from_files() {
        let secrets = || cases().filter(|(name, ..)| row(name).secret);
        let direct = map(secrets().map(|(name, good, _)| (name, good)));
        let direct = Config::load(direct).unwrap();
        let shown = format!("{direct:?}");
        assert!(!shown.contains("hush") && !shown.contains("7ermv3"), "{shown}");
        let key = direct.master_key.as_ref().unwrap().expose();
        assert_eq!(key, "/+7ermv3L9o+QW8Zt1uYp5cJd0xKsRgHbVnMqIaEfTw=");
        let mut env = BTreeMap::new();
        let mut files = Vec::new();
        for (name, good, _) in secrets() {
            let file = File::new(name, &format!("{good}\n"));
            env.insert(format!("{name}_FILE"), file.path().to_owned());
            files.push(file);
        }
        assert_eq!(Config::load(env).unwrap(), direct);
        let path = files[0].path();
        let both = [("DCA_DATABASE_URL_FILE", path), ("DCA_DATABASE_URL", "sqlite:hush")];
        assert_eq!(faults(&both), "DCA_DATABASE_URL, DCA_DATABASE_URL_FILE: expected one of them");
        let absent = faults(&[("DCA_MASTER_KEY_FILE", "/hush")]);
        assert!(absent.starts_with("DCA_MASTER_KEY_FILE: ") && !absent.contains("hush"));
        let empty = faults(&[("DCA_MASTER_KEY_FILE", "/dev/null")]);
        assert!(empty.starts_with("DCA_MASTER_KEY_FILE: the value does not fit"), "{empty}");
    }

    #[test]
    fn unknown_names_are_refused_with_the_nearest() {
        for (wrong, right) in [
            ("DCA_HTTP_ADR", "DCA_HTTP_ADDR"),
            ("DCA_MASTERKEY", "DCA_MASTER_KEY"),
            ("dca_redis", "DCA_REDIS_URL"),
            ("DCA_DISCORD_TOKEN_FIL", "DCA_DISCORD_TOKEN_FILE"),
        ] {
            let fault = faults(&[(wrong, "")]);
            assert_eq!(fault, format!("{wrong}: unknown; did you mean {right}?"));
        }
        let fault = faults(&[("DCA_ZZZ", "1")]);
        assert_eq!(fault, "DCA_ZZZ: unknown; expected a name of .env.example");
    }

    #[test]
    fn the_toml_file_stands_below_the_environment() {
        let file = File::new("good", "log = 'debug'\ndm_interval_seconds = 7\nredis_prefix = ''\n");
        let config = load(&[("DCA_CONFIG_FILE", file.path()), ("DCA_LOG", "warn")]);
        assert_eq!((&*config.log_filter, config.dm_interval.as_secs()), ("warn", 7));
        assert_eq!(config.redis_prefix, "dca");
        let list = "trusted_proxies = ['10.0.0.0/8', '::1']\nhttp_addr = '[::1]:1'";
        let list = File::new("list", list);
        let config = load(&[("DCA_CONFIG_FILE", list.path()), ("PORT", "8080")]);
        assert_eq!((config.trusted_proxies.len(), config.http_addr.port()), (2, 1));
        assert_eq!(config.ignored, ["PORT"]);
        let bad = "http_adr = 1\nlog = true\nconfig_file = 'x'\ndiscord_token = 'a hush'";
        let fault = faults(&[("DCA_CONFIG_FILE", File::new("bad", bad).path())]);
        for part in [
            "DCA_CONFIG_FILE: http_adr: unknown; did you mean http_addr?",
            "DCA_CONFIG_FILE: log: expected a string or number",
            "DCA_CONFIG_FILE: config_file: unknown",
            "DCA_DISCORD_TOKEN (from DCA_CONFIG_FILE): the value does not fit",
        ] {
            assert!(fault.contains(part), "{part} in:\n{fault}");
        }
        let broken = File::new("broken", "log = 'info'\nmaster_key = hush\n");
        let fault = fault + &faults(&[("DCA_CONFIG_FILE", broken.path())]);
        assert!(fault.ends_with("DCA_CONFIG_FILE: line 2 does not fit; expected TOML"), "{fault}");
        assert!(!fault.contains("hush"), "{fault}");
    }

    #[test]
    fn names_of_earlier_systems_are_read_in_their_own_form() {
        let config = load(&[("APP_PORT", "4000"), ("PORT", "8080"), ("MAIL_HOST", "h")]);
        assert_eq!(config.http_addr.to_string(), "0.0.0.0:8080");
        assert_eq!(config.ignored, ["APP_PORT", "MAIL_HOST"]);
        assert_eq!(load(&[("APP_PORT", "4000")]).http_addr.port(), 4000);
        for (given, read) in [
            ("postgresql://u:p@h:5432/d?schema=public", "postgresql://u:p@h:5432/d"),
            ("postgres://h/d?pgbouncer=true&sslmode=require", "postgres://h/d?sslmode=require"),
        ] {
            assert_eq!(load(&[("DATABASE_URL", given)]).database_url.expose(), read);
        }
        let parts = [
            ("POSTGRES_USER", "user"),
            ("POSTGRES_PASSWORD", "p@s/s:%?"),
            ("POSTGRES_DB", "authdb"),
            ("DB_PORT", "5433"),
        ];
        let composed = "postgres://user:p%40s%2Fs%3A%25%3F@localhost:5433/authdb";
        assert_eq!(load(&parts).database_url.expose(), composed);
        let config = load(&[parts[0], parts[3], ("DATABASE_URL", "postgres://h/d")]);
        assert_eq!(config.ignored, ["POSTGRES_USER", "DB_PORT"]);
        let config = load(&[("DCA_DATABASE_URL", "sqlite:x.db"), ("DATABASE_URL", "garbage")]);
        assert_eq!(config.ignored, ["DATABASE_URL"]);
        assert!(faults(&[("PORT", "http")]).starts_with("PORT: \"http\" does not fit"));
        let fault = faults(&[parts[0], parts[1], ("DB_PORT", "0")]);
        assert!(fault.contains("DB_PORT: the value does not fit; expected on localhost, port 1"));
    }
}
