//! Configuration. Each file contains a group of settings, a row of `settings!` each. The `_FILE` variants, the check for unknown names and `.env.example` are derived from that.
//!
//! `main` passes [`env_map`] to [`Config::load`], which reads only that map and the files it names, and returns either
//! the typed configuration or all faults at once.

use std::{collections::BTreeMap, fmt};

mod accounts;
mod compat;
mod cookies;
mod discord;
mod earlier;
mod http;
mod limits;
mod log;
mod mail;
mod oauth;
mod parse;
mod reader;
mod reference;
mod setting;
mod storage;
#[cfg(test)]
mod tests;

pub use self::http::{HttpConfig, TlsFiles};
pub use self::log::{LogConfig, LogFormat};
pub use self::mail::{MailConfig, SmtpTls};
use self::reader::Reader;
pub use self::{accounts::AccountsConfig, compat::CompatConfig, cookies::CookieConfig};
pub use self::{discord::DiscordConfig, limits::LimitsConfig};
pub use self::{oauth::OAuthConfig, parse::Secret, storage::StorageConfig};

/// The configuration of the process. Durations are whole seconds in the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Files, database and Redis.
    pub storage: StorageConfig,
    /// The HTTP server.
    pub http: HttpConfig,
    /// The bot.
    pub discord: DiscordConfig,
    /// Sign-in with OAuth providers.
    pub oauth: OAuthConfig,
    /// User accounts.
    pub accounts: AccountsConfig,
    /// Attributes of cookies.
    pub cookies: CookieConfig,
    /// Unsafe behavior of earlier systems.
    pub compat: CompatConfig,
    /// Emails.
    pub mail: MailConfig,
    /// Rate limits.
    pub limits: LimitsConfig,
    /// The log.
    pub log: LogConfig,
    /// Names of earlier systems that are set but not used; logged at start.
    pub unused_settings: Vec<&'static str>,
}

impl Config {
    /// Reads `env`, and the TOML file that it may name. An empty value counts as unset. The first source that sets a
    /// value wins: the `DCA_` name or its `_FILE` variant, the TOML file, then the names of earlier systems in the
    /// order of their setting. All invalid values, unreadable files and unknown names are reported at once.
    pub fn load(env: BTreeMap<String, String>) -> Result<Self, Faults> {
        let mut reader = Reader::new(env);
        let config = Self::read(&mut reader);
        if reader.faults.is_empty() { Ok(config) } else { Err(Faults(reader.faults)) }
    }

    fn read(reader: &mut Reader) -> Self {
        let storage = StorageConfig::read(reader);
        let mut http = HttpConfig::read(reader);
        http.derive_public_url(reader);
        Self {
            discord: DiscordConfig::read(reader),
            oauth: OAuthConfig::read(reader),
            accounts: AccountsConfig::read(reader),
            cookies: CookieConfig::read(reader).checked(reader, &http.public_url),
            compat: CompatConfig::read(reader),
            mail: MailConfig::read(reader),
            limits: LimitsConfig::read(reader),
            log: LogConfig::read(reader),
            unused_settings: reader.finish(),
            storage,
            http,
        }
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
pub fn env_map() -> BTreeMap<String, String> {
    let text = |os: std::ffi::OsString| os.to_string_lossy().into_owned();
    std::env::vars_os().map(|(name, value)| (text(name), text(value))).collect()
}

/// Generates `.env.example`.
pub fn reference() -> String {
    let mut reader = Reader::new(BTreeMap::new());
    Config::read(&mut reader);
    reference::render(&reader.settings)
}
