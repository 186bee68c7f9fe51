//! The table of all variables, which also generates `.env.example`.

use std::collections::BTreeSet;

use super::parse::{
    any_address, is_algorithm, is_environment, is_pepper, is_secret, on_localhost, per_minute, seconds_or_days,
    verbatim, without_slash,
};

/// A row of the table.
pub(super) struct Var {
    pub(super) name: &'static str,
    /// The default, as in `.env.example`; empty if unset.
    pub(super) default: &'static str,
    /// What the variable is for.
    pub(super) about: &'static str,
    /// The expected value, as in "Use an IP address and port". Faults quote it.
    pub(super) expected: &'static str,
    /// Whether the value is never quoted and can be read from the file that `NAME_FILE` names.
    pub(super) secret: bool,
    pub(super) fallbacks: &'static [Fallback],
}

/// A fallback of a variable: the names of earlier systems, separated by spaces, that give its value together (the
/// first must be set); the expected value in the documented unit; and the conversion of their values (empty if unset)
/// to the variable's own format.
type Fallback = (&'static str, &'static str, fn(&[&str]) -> Option<String>);

const fn var(name: &'static str, default: &'static str) -> Var {
    Var { name, default, about: "", expected: "", secret: false, fallbacks: &[] }
}

const fn secret(name: &'static str, default: &'static str) -> Var {
    let secret = true;
    Var { secret, ..var(name, default) }
}

impl Var {
    const fn doc(self, about: &'static str, expected: &'static str) -> Self {
        Self { about, expected, ..self }
    }
    const fn fallback(self, fallbacks: &'static [Fallback]) -> Self {
        Self { fallbacks, ..self }
    }
}

pub(super) static VARS: &[Var] = &[
    var("DCA_CONFIG_FILE", "").doc(
        "TOML file with settings. Keys are the names below in lower case without DCA_, for example log = \"debug\".",
        "the path of a readable TOML file, for example /etc/dca-auth.toml",
    ),
    var("DCA_DATA_DIR", "data").doc(
        "Directory for the SQLite file and generated secrets. Created if it does not exist.",
        "the path of a directory, for example /var/lib/dca-auth",
    ),
    var("DCA_HTTP_ADDR", "127.0.0.1:3000")
        .doc("Address that the HTTP server listens on.", "an IP address and port, for example 127.0.0.1:3000")
        .fallback(&[("PORT", PORT, any_address), ("APP_PORT", PORT, any_address)]),
    var("DCA_PUBLIC_URL", "http://127.0.0.1:3000")
        .doc("URL under which clients reach the service. If unset, it is derived from DCA_HTTP_ADDR.", BASE_URL),
    var("DCA_TLS_CERT_FILE", "").doc(
        "Certificate chain for HTTPS. If unset, the service uses plain HTTP.",
        "the path of a readable PEM file, for example /etc/dca-auth/cert.pem",
    ),
    var("DCA_TLS_KEY_FILE", "")
        .doc("Private key of the certificate.", "the path of a readable PEM file, for example /etc/dca-auth/key.pem"),
    var("DCA_TRUSTED_PROXIES", "").doc(
        "Proxies whose forwarded headers are trusted.",
        "IP addresses or networks separated by commas, for example 10.0.0.0/8,::1",
    ),
    secret("DCA_DATABASE_URL", "sqlite://data/dca.db?mode=rwc")
        .doc(
            "Database. If unset, the SQLite file dca.db in DCA_DATA_DIR is used.",
            "a sqlite:, postgres: or postgresql: URL, for example postgres://user:password@localhost/dca",
        )
        .fallback(&[
            ("DATABASE_URL", "a postgres: URL; parameters that only Prisma knows are removed", verbatim),
            (POSTGRES, "a database on localhost with a port from 1 to 65535", on_localhost),
        ]),
    var("DCA_DATABASE_POOL_SIZE", "20")
        .doc("Maximum number of database connections.", "a whole number from 1 to 1000, for example 20"),
    secret("DCA_REDIS_URL", "").doc(
        "Redis server that instances share. If unset, rate limits and notifications stay within each instance.",
        "a redis:, rediss:, unix: or redis+unix: URL, for example redis://localhost:6379",
    ),
    var("DCA_REDIS_PREFIX", "dca")
        .doc("Prefix of all Redis keys.", "letters, digits and the characters -_.: only, for example dca"),
    secret("DCA_MASTER_KEY", "").doc(
        "Key that encrypts the keyring. If unset, it is generated and stored in DCA_DATA_DIR.",
        "32 random bytes in base64 or base64url, for example the output of `openssl rand -base64 32`",
    ),
    secret("DCA_DISCORD_TOKEN", "").doc(
        "Bot token, from the Discord Developer Portal. If unset, the bot is off.",
        "a token without spaces and without the prefix Bot",
    ),
    var("DCA_DISCORD_API_URL", "")
        .doc("Discord simulator for tests.", "a loopback URL, for example http://127.0.0.1:8080"),
    var("DCA_DISCORD_CLIENT_ID", "")
        .doc("Application ID for sign-in with Discord.", "an ID without spaces, for example 123456789012345678")
        .fallback(&[("DISCORD_CLIENT_ID", "an ID without spaces", verbatim)]),
    secret("DCA_DISCORD_CLIENT_SECRET", "")
        .doc("OAuth2 client secret for sign-in with Discord.", "a secret without spaces")
        .fallback(&[("DISCORD_CLIENT_SECRET", "a secret without spaces", verbatim)]),
    var("DCA_DISCORD_REDIRECT_URI", "")
        .doc(
            "OAuth2 redirect URL for Discord. If unset, /auth/discord/callback of DCA_PUBLIC_URL is used.",
            REDIRECT_URL,
        )
        .fallback(&[("DISCORD_REDIRECT_URI", REDIRECT_URL, verbatim)]),
    var("DCA_GOOGLE_CLIENT_ID", "")
        .doc(
            "OAuth2 client ID for sign-in with Google.",
            "an ID without spaces, for example 1234.apps.googleusercontent.com",
        )
        .fallback(&[("GOOGLE_CLIENT_ID", "an ID without spaces", verbatim)]),
    secret("DCA_GOOGLE_CLIENT_SECRET", "")
        .doc("OAuth2 client secret for sign-in with Google.", "a secret without spaces")
        .fallback(&[("GOOGLE_CLIENT_SECRET", "a secret without spaces", verbatim)]),
    var("DCA_GOOGLE_REDIRECT_URI", "")
        .doc("OAuth2 redirect URL for Google. If unset, /auth/google/callback of DCA_PUBLIC_URL is used.", REDIRECT_URL)
        .fallback(&[("GOOGLE_CALLBACK_URL", REDIRECT_URL, verbatim)]),
    var("DCA_GOOGLE_API_URL", "")
        .doc("Google simulator for tests.", "a loopback URL, for example http://127.0.0.1:8081"),
    var("DCA_APP_NAME", "DCA-Auth")
        .doc("Product name in emails and authenticator apps.", APP_NAME)
        .fallback(&[("APP_NAME", APP_NAME, verbatim)]),
    var("DCA_FRONTEND_URL", "")
        .doc("Frontend that links in emails lead to. If unset, they lead to the built-in pages.", BASE_URL)
        .fallback(&[("APP_FRONTEND_URL", "an http or https URL, for example https://app.example.com", without_slash)]),
    var("DCA_CORS_ORIGINS", "").doc("Other origins whose pages may call the API.", ORIGINS).fallback(&[(
        "CORS_ORIGINS",
        ORIGINS,
        verbatim,
    )]),
    var("DCA_ACCESS_TOKEN_SECONDS", "900")
        .doc("Lifetime of an access token.", "a whole number of seconds from 60 to 3600, for example 900")
        .fallback(&[("ACCESS_TOKEN_TTL", "a whole number of seconds, for example 900", verbatim)]),
    var("DCA_REFRESH_TOKEN_SECONDS", "604800")
        .doc(
            "Lifetime of a session that is not refreshed.",
            "a whole number of seconds from 3600 to 7776000, for example 604800",
        )
        .fallback(&[(
            "REFRESH_TOKEN_TTL",
            "days from 1d to 90d or seconds from 3600 to 7776000, for example 7d or 604800",
            seconds_or_days,
        )]),
    var("DCA_COOKIE_NAME", "")
        .doc("Name of the refresh cookie. If unset, __Host-rt over HTTPS and rt over HTTP.", COOKIE_NAME)
        .fallback(&[("REFRESH_COOKIE_NAME", COOKIE_NAME, verbatim)]),
    var("DCA_COOKIE_SECURE", "")
        .doc(
            "Whether cookies are sent over HTTPS only. If unset, they are if DCA_PUBLIC_URL is an https URL.",
            "true or false",
        )
        .fallback(&[("COOKIE_SECURE", "true or false", verbatim)]),
    var("DCA_COOKIE_SAMESITE", "")
        .doc("SameSite attribute of cookies. If unset, lax.", "lax, strict or none")
        .fallback(&[("COOKIE_SAMESITE", "lax, strict or none", verbatim)]),
    var("DCA_COOKIE_DOMAIN", "")
        .doc("Domain attribute of cookies. If unset, only this host receives them.", DOMAIN)
        .fallback(&[("COOKIE_DOMAIN", DOMAIN, verbatim)]),
    var("DCA_PASSWORD_MEMORY_KIB", "65536").doc(
        "Memory for one password hash (Argon2id with three passes).",
        "a whole number of KiB from 12288 to 1048576, for example 65536",
    ),
    var("DCA_REQUIRE_SECOND_FACTOR", "none")
        .doc("Which accounts need a second factor to administer other accounts.", "none or admins"),
    var("DCA_FAILURES_PER_ACCOUNT", "10").doc(
        "Wrong passwords or codes allowed per account in 15 minutes.",
        "a whole number of at least 1, for example 10",
    ),
    var("DCA_FAILURES_PER_NETWORK", "100").doc(
        "Wrong passwords or codes allowed per client network in 15 minutes.",
        "a whole number of at least 1, for example 100",
    ),
    var("DCA_LETTERS_PER_NETWORK", "60")
        .doc("Emails that one client network may cause per hour.", "a whole number of at least 1, for example 60"),
    var("DCA_AUTH_PER_MINUTE", "600")
        .doc("Account requests allowed per client network and minute.", "a whole number of at least 1, for example 600")
        .fallback(&[(
            "THROTTLE_LIMIT THROTTLE_TTL",
            "requests per window of milliseconds, for example 20 and 60000",
            per_minute,
        )]),
    var("DCA_SMTP_HOST", "")
        .doc("Mail server. If unset, emails are written to DCA_DATA_DIR/mail.", HOST)
        .fallback(&[("MAIL_HOST", HOST, verbatim)]),
    var("DCA_SMTP_PORT", "587")
        .doc("Port of the mail server.", "a port from 1 to 65535, for example 587")
        .fallback(&[("MAIL_PORT", "a port from 1 to 65535, for example 587", verbatim)]),
    var("DCA_SMTP_USER", "")
        .doc("User name for the mail server. If unset, the service does not authenticate.", TEXT)
        .fallback(&[("MAIL_USER", TEXT, verbatim)]),
    secret("DCA_SMTP_PASSWORD", "").doc("Password for the mail server.", TEXT).fallback(&[(
        "MAIL_PASS",
        TEXT,
        verbatim,
    )]),
    var("DCA_SMTP_TLS", "auto").doc(
        "Encryption of the mail server connection. auto is tls on port 465, opportunistic on loopback, else starttls.",
        "auto, starttls, tls, opportunistic or none",
    ),
    var("DCA_MAIL_FROM", "DCA-Auth <no-reply@localhost>").doc("Sender of emails.", SENDER).fallback(&[(
        "MAIL_FROM",
        SENDER,
        verbatim,
    )]),
    var("DCA_MAILS_PER_MINUTE", "120").doc(
        "Emails sent to one recipient domain per minute, in bursts of up to 10.",
        "a whole number of at least 1, for example 120",
    ),
    var("DCA_VALIDATE_PER_MINUTE", "6000").doc(
        "Validations allowed per minute, per API key and client address.",
        "a whole number of at least 1, for example 6000",
    ),
    var("DCA_AUTH_FAILURES_PER_MINUTE", "60").doc(
        "Failed authentications allowed per client address and minute.",
        "a whole number of at least 1, for example 60",
    ),
    var("DCA_DM_PER_MINUTE", "60").doc(
        "Direct messages sent per minute in total, in bursts of up to 10.",
        "a whole number of at least 1, for example 60",
    ),
    var("DCA_DM_INTERVAL_SECONDS", "5").doc(
        "Interval between direct messages that are sent in bulk.",
        "a whole number of seconds from 0 to 3600, for example 5",
    ),
    var("DCA_DELIVERY_TIMEOUT_SECONDS", "10").doc(
        "Timeout of one attempt to deliver a message to Discord.",
        "a whole number of seconds from 1 to 300, for example 10",
    ),
    var("DCA_GATEWAY_LEASE_SECONDS", "9").doc(
        "Time after which another instance replaces an unresponsive one at the Discord gateway.",
        "a whole number of seconds from 2 to 14, for example 9",
    ),
    var("DCA_RECONCILE_INTERVAL_SECONDS", "300")
        .doc("Interval between two syncs of all roles.", "a whole number of seconds from 10 to 86400, for example 300"),
    var("DCA_DRAIN_TIMEOUT_SECONDS", "10").doc(
        "Time that requests in progress have to finish at shutdown.",
        "a whole number of seconds from 1 to 300, for example 10",
    ),
    var("DCA_LOG", "info")
        .doc("What is logged.", "a level, or target=level pairs, separated by commas, for example info,dca_auth=debug"),
    var("DCA_LOG_FORMAT", "auto")
        .doc("Format of log lines. auto is text on a terminal and JSON otherwise.", "auto, text or json"),
];

const POSTGRES: &str = "POSTGRES_USER POSTGRES_PASSWORD POSTGRES_DB DB_PORT";

// Expected values that several rows share.
const APP_NAME: &str = "one line of 1 to 60 characters, for example Example Studio";
const BASE_URL: &str = "an http or https URL without query and trailing slash, for example https://example.com";
const COOKIE_NAME: &str = "up to 64 letters, digits and the characters -_. only, for example session_id";
const DOMAIN: &str = "a domain name, for example example.com";
const HOST: &str = "a host name or IP address without port, for example smtp.example.com";
const ORIGINS: &str = "origins separated by commas, for example https://app.example.com,http://localhost:5173";
const PORT: &str = "a port from 1 to 65535, which listens on 0.0.0.0, for example 8080";
const REDIRECT_URL: &str = "an http or https URL, for example https://auth.example.com/auth/callback";
const SENDER: &str = "an address, with or without a name, for example Example <no-reply@example.com>";
const TEXT: &str = "text without control characters";

/// Documented names of earlier systems whose feature does not exist yet.
const UNUSED: &[(&str, &str)] = &[
    ("COOKIE_SECRET", "signs the cookie of the Patreon sign-in"),
    ("PATREON_CLIENT_ID", "OAuth2 client ID"),
    ("PATREON_CLIENT_SECRET", "OAuth2 client secret"),
    ("PATREON_REDIRECT_URI", "OAuth2 redirect URL"),
    ("PATREON_REQUIRED_TIER_IDS", "tier IDs separated by commas"),
    ("PATREON_CREATOR_ACCESS_TOKEN", "the creator's access token"),
    ("PATREON_CREATOR_REFRESH_TOKEN", "the creator's refresh token"),
    ("JWT_SECRET", "signs sign-in tokens"),
    ("JWT_WEBSOCKET_EXPIRATION_TIME", "lifetime of a WebSocket token in seconds"),
    ("CLIENT_ERROR_URL", "where a failed sign-in redirects to"),
    ("SESSION_JWT_SECRET", "signs play session tokens"),
    ("SESSION_JWT_TTL_SEC", "lifetime of a play session token in seconds"),
    ("HEARTBEAT_INTERVAL_SEC", "seconds between heartbeats"),
    ("ASSET_STORAGE_ROOT", "directory of game assets"),
    ("JWT_EXPIRES_IN", "lifetime of sign-in tokens, for example 7d"),
    ("ENCRYPTION_KEY", "encrypts panel sign-ins, 32 characters"),
];

/// A replaced setting: its name, what replaces it, the expected value, and the check of that value.
type Replaced = (&'static str, &'static str, &'static str, fn(&str) -> bool);

/// Documented names of earlier systems that something else replaces. Published example secrets are refused, because
/// they show that the configuration was not reviewed.
pub(super) const REPLACED: &[Replaced] = &[
    ("JWT_ACCESS_SECRET", "access tokens are signed with a key from the keyring", LONG_SECRET, is_secret),
    ("JWT_REFRESH_SECRET", "refresh tokens are derived from a key in the keyring", LONG_SECRET, is_secret),
    (
        "TOKEN_HASH_PEPPER",
        "stored tokens are hashed with keys from the keyring",
        "at least 16 characters that are not from a published example",
        is_pepper,
    ),
    (
        "PASSWORD_ALGO",
        "new hashes use Argon2id; bcrypt hashes are still verified",
        "bcrypt, argon2 or argon2id",
        is_algorithm,
    ),
    (
        "ENVIRONMENT",
        "the service behaves the same in every environment",
        "development, test, staging or production",
        is_environment,
    ),
];

const LONG_SECRET: &str = "at least 32 characters that are not from a published example";

/// Generates `.env.example`. Every assignment is commented out, so the file changes nothing.
#[must_use]
pub fn reference() -> String {
    let mut lines = vec![REFERENCE_HEAD.to_owned()];
    for var in VARS {
        lines.push(format!("\n# {}\n# Use {}.", var.about, var.expected));
        let fallback = |(names, expected, _): &Fallback| {
            let names = names.replace(' ', ", ");
            if *expected == var.expected {
                format!("# Fallback: {names}")
            } else {
                format!("# Fallback: {names} ({expected})")
            }
        };
        lines.extend(var.fallbacks.iter().map(fallback));
        lines.push(format!("# {}={}", var.name, var.default));
        lines.extend(var.secret.then(|| format!("# {}_FILE=", var.name)));
    }
    lines.push(
        "\n# Names of earlier systems that are recognized but not used yet. The log lists them at start:".to_owned(),
    );
    let unused = |(name, about): &(&str, &str)| format!("# {name}: {about}");
    lines.extend(UNUSED.iter().map(unused));
    lines.push("\n# Names of earlier systems that are replaced. If set, their values are checked:".to_owned());
    let replaced = |(name, about, expected, _): &Replaced| format!("# {name}: {about}. Use {expected}.");
    lines.extend(REPLACED.iter().map(replaced));
    lines.join("\n") + "\n"
}

const REFERENCE_HEAD: &str = "\
# All settings with their defaults, commented out. An empty value counts as unset.
# The first source that sets a value wins: the DCA_ name or its _FILE variant (a file that contains the secret),
# then the TOML file of DCA_CONFIG_FILE, then the fallbacks from top to bottom.";

/// All names in `VARS`, and the `_FILE` variants of its secrets.
pub(super) fn known() -> BTreeSet<String> {
    let names = |var: &Var| {
        let in_file = var.secret.then(|| format!("{}_FILE", var.name));
        [Some(var.name.to_owned()), in_file]
    };
    VARS.iter().flat_map(names).flatten().collect()
}

/// The names of earlier systems.
pub(super) fn earlier() -> impl Iterator<Item = &'static str> {
    let read = VARS.iter().flat_map(|var| var.fallbacks);
    let read = read.flat_map(|(names, ..)| names.split(' '));
    read.chain(UNUSED.iter().map(|(name, _)| *name)).chain(REPLACED.iter().map(|(name, ..)| *name))
}
