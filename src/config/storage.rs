//! Files, database and Redis.

use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use url::Url;

use super::parse::{Secret, authorities, number};
use super::reader::settings;
use super::setting::verbatim;

settings! {
    /// Files, database and Redis.
    StorageConfig {
        /// Directory for the SQLite file and generated secrets. Created if it does not exist.
        data_dir: PathBuf = "DCA_DATA_DIR", or("data", directory),
            expects("the path of a directory, for example /var/lib/dca-auth");
        /// Database. If unset, the SQLite file dca.db in DCA_DATA_DIR is used.
        database_url: Secret = "DCA_DATABASE_URL", or_else(database_url, || sqlite_in(&data_dir)), secret(),
            expects("a sqlite:, postgres: or postgresql: URL, for example postgres://user:password@localhost/dca"),
            default("sqlite://data/dca.db?mode=rwc"), converted("DATABASE_URL", PRISMA_URL, verbatim),
            converted("POSTGRES_USER POSTGRES_PASSWORD POSTGRES_DB DB_PORT", ON_LOCALHOST, postgres_on_localhost);
        /// Maximum number of database connections. With PostgreSQL, half of them are for reads, and two more renew leases.
        database_pool_size: u32 = "DCA_DATABASE_POOL_SIZE", or("20", number(1..=1000)),
            expects("a whole number from 1 to 1000, for example 20");
        /// Redis server that instances share. If unset, rate limits and notifications stay within each instance.
        redis_url: Option<Secret> = "DCA_REDIS_URL", optional(redis_url), secret(),
            fallback("REDIS_URL"), converted("REDIS_HOST REDIS_PORT REDIS_PASSWORD REDIS_DB", REDIS_PARTS, redis_parts),
            expects("a redis:, rediss:, unix: or redis+unix: URL, for example redis://localhost:6379");
        /// Prefix of all Redis keys.
        redis_prefix: String = "DCA_REDIS_PREFIX", or("dca", prefix),
            expects("letters, digits and the characters -_.: only, for example dca");
        /// Certificates of private authorities that the mail server, PostgreSQL and Redis may use, in addition to the public ones. PostgreSQL checks certificates only with ?sslmode=verify-full in its URL.
        ca_file: Option<PathBuf> = "DCA_TLS_CA_FILE", optional(authorities),
            expects("the path of a PEM file with at least one certificate, for example /etc/dca-auth/ca.pem");
        /// Days for which events are kept. If unset, they are kept forever.
        event_retention: Option<Duration> = "DCA_EVENT_RETENTION_DAYS", optional(days),
            expects("a whole number of days from 30 to 3650, for example 365");
        /// Key that encrypts the keyring. If unset, it is generated and stored in DCA_DATA_DIR.
        master_key: Option<Secret> = "DCA_MASTER_KEY", optional(master_key), secret(),
            expects("32 random bytes in base64 or base64url, for example the output of `openssl rand -base64 32`");
    }
}

impl StorageConfig {
    /// The database file; `None` for PostgreSQL.
    pub fn sqlite_file(&self) -> Option<PathBuf> {
        let path = self.database_url.expose().strip_prefix("sqlite:")?;
        let path = path.trim_start_matches("//").split('?').next().unwrap_or_default();
        Some(percent_encoding::percent_decode_str(path).decode_utf8_lossy().into_owned().into())
    }

    /// The same settings for another folder with a database and a master key.
    #[must_use]
    pub fn in_folder(&self, dir: &Path) -> Self {
        Self { data_dir: dir.to_owned(), database_url: sqlite_in(dir), redis_url: None, ..self.clone() }
    }
}

const PRISMA_URL: &str = "a postgres: URL; parameters that only Prisma knows are removed";
const ON_LOCALHOST: &str = "a database on localhost with a port from 1 to 65535";

const REDIS_PARTS: &str = "a host, a port from 1 to 65535, a password and a database number";

fn days(value: &str) -> Option<Duration> {
    number(30..=3650)(value).map(|days: u64| Duration::from_hours(24 * days))
}

fn directory(value: &str) -> Option<PathBuf> {
    let path = PathBuf::from(value);
    (path.is_dir() || !path.exists()).then_some(path)
}

fn sqlite_in(data_dir: &Path) -> Secret {
    Secret(format!("sqlite://{}/dca.db?mode=rwc", percent_encoded(&data_dir.to_string_lossy(), "/")))
}

fn postgres_on_localhost(values: &[&str]) -> Option<String> {
    let port = Some(values[3]).filter(|port| !port.is_empty()).unwrap_or("5432");
    let port = number(1..=u16::MAX)(port)?;
    let [user, password, name] = [0, 1, 2].map(|index| percent_encoded(values[index], ""));
    Some(format!("postgres://{user}:{password}@localhost:{port}/{name}"))
}

fn redis_parts(values: &[&str]) -> Option<String> {
    let or = |value: &str, default: u16| if value.is_empty() { Some(default) } else { value.parse().ok() };
    let (port, database) = (or(values[1], 6379).filter(|port| *port > 0)?, or(values[3], 0)?);
    let [host, password] = [0, 2].map(|index| percent_encoded(values[index], ""));
    let credentials = if password.is_empty() { String::new() } else { format!(":{password}@") };
    Some(format!("redis://{credentials}{host}:{port}/{database}"))
}

fn percent_encoded(text: &str, keep: &str) -> String {
    let encode = |byte| match char::from(byte) {
        c if c.is_ascii_alphanumeric() || "-._~".contains(c) || keep.contains(c) => c.to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

fn database_url(value: &str) -> Option<Secret> {
    /// Parameters that the driver does not support and would log with their values.
    const PRISMA: &str = "schema pgbouncer connection_limit connect_timeout pool_timeout \
                          socket_timeout sslaccept sslidentity sslpassword";
    if let Some(file) = value.strip_prefix("sqlite:") {
        // Each connection would get an in-memory database of its own.
        let is_file = file.trim_start_matches('/').starts_with(|first| first != '?') && !file.contains(":memory:");
        return is_file.then(|| Secret(value.to_owned()));
    }
    let url = Url::parse(value).ok()?;
    let is_valid = ["postgres", "postgresql"].contains(&url.scheme()) && url.has_authority();
    let (base, query) = value.split_once('?').unwrap_or((value, ""));
    let key = |pair: &str| pair.split('=').next().unwrap_or_default().to_owned();
    let is_prisma = |pair: &&str| PRISMA.split(' ').any(|name| name == key(pair));
    let parameters: Vec<&str> = query.split('&').filter(|pair| !is_prisma(pair)).collect();
    let url = format!("{base}?{}", parameters.join("&"));
    is_valid.then(|| Secret(url.trim_end_matches('?').to_owned()))
}

fn redis_url(value: &str) -> Option<Secret> {
    let url = Url::parse(value).ok()?;
    let is_valid = match url.scheme() {
        "redis" | "rediss" => url.has_host(),
        "unix" | "redis+unix" => url.path().len() > 1,
        _ => false,
    };
    is_valid.then(|| Secret(value.to_owned()))
}

fn prefix(value: &str) -> Option<String> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    value.chars().all(is_allowed).then(|| value.to_owned())
}

fn master_key(value: &str) -> Option<Secret> {
    let standard = value.replace('-', "+").replace('_', "/");
    let key = STANDARD_NO_PAD.decode(standard.trim_end_matches('=')).ok()?;
    // A single repeated byte is a placeholder, not a random key.
    let is_valid = key.len() == 32 && key.iter().any(|byte| *byte != key[0]);
    is_valid.then(|| Secret(STANDARD.encode(key)))
}
