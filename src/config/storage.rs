//! Files, database and Redis.

use std::path::{Path, PathBuf};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD},
};
use url::Url;

use super::{
    parse::number,
    reader::Reader,
    secret::Secret,
    setting::{setting, verbatim},
};

/// Files, database and Redis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StorageConfig {
    /// Directory of the SQLite file and of generated secrets.
    pub data_dir: PathBuf,
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
}

const PRISMA_URL: &str = "a postgres: URL; parameters that only Prisma knows are removed";
const ON_LOCALHOST: &str = "a database on localhost with a port from 1 to 65535";

impl StorageConfig {
    pub(super) fn read(r: &mut Reader) -> Self {
        let data_dir = setting("DCA_DATA_DIR")
            .about("Directory for the SQLite file and generated secrets. Created if it does not exist.")
            .expects("the path of a directory, for example /var/lib/dca-auth")
            .default("data")
            .read(r, directory);
        Self {
            database_url: setting("DCA_DATABASE_URL")
                .about("Database. If unset, the SQLite file dca.db in DCA_DATA_DIR is used.")
                .expects("a sqlite:, postgres: or postgresql: URL, for example postgres://user:password@localhost/dca")
                .default("sqlite://data/dca.db?mode=rwc")
                .secret()
                .converted("DATABASE_URL", PRISMA_URL, verbatim)
                .converted("POSTGRES_USER POSTGRES_PASSWORD POSTGRES_DB DB_PORT", ON_LOCALHOST, postgres_on_localhost)
                .optional(r, database_url)
                .unwrap_or_else(|| sqlite_in(&data_dir)),
            database_pool_size: setting("DCA_DATABASE_POOL_SIZE")
                .about("Maximum number of database connections.")
                .expects("a whole number from 1 to 1000, for example 20")
                .default("20")
                .read(r, number(1..=1000)),
            redis_url: setting("DCA_REDIS_URL")
                .about(
                    "Redis server that instances share. If unset, rate limits and notifications stay within each \
                     instance.",
                )
                .expects("a redis:, rediss:, unix: or redis+unix: URL, for example redis://localhost:6379")
                .secret()
                .optional(r, redis_url),
            redis_prefix: setting("DCA_REDIS_PREFIX")
                .about("Prefix of all Redis keys.")
                .expects("letters, digits and the characters -_.: only, for example dca")
                .default("dca")
                .read(r, prefix),
            master_key: setting("DCA_MASTER_KEY")
                .about("Key that encrypts the keyring. If unset, it is generated and stored in DCA_DATA_DIR.")
                .expects("32 random bytes in base64 or base64url, for example the output of `openssl rand -base64 32`")
                .secret()
                .optional(r, master_key),
            data_dir,
        }
    }
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
