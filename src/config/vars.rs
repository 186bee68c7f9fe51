//! The table: every variable there is, and what `.env.example` says of it.

use std::collections::BTreeSet;

use super::parse::{
    any_address, is_algorithm, is_environment, is_pepper, is_secret, on_localhost, per_minute, seconds_or_days,
    verbatim, without_slash,
};

/// A variable: all that is said, read or checked about it comes from its row.
pub(super) struct Var {
    pub(super) name: &'static str,
    /// As `.env.example` shows it; empty: unset.
    pub(super) default: &'static str,
    /// What it is, a colon, and what is expected: a fault quotes the second part.
    pub(super) about: &'static str,
    /// Never quoted, and readable from the file that `NAME_FILE` names.
    pub(super) secret: bool,
    pub(super) fallbacks: &'static [Fallback],
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

pub(super) static VARS: &[Var] = &[
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
    var("DCA_DISCORD_CLIENT_ID", "").is("sign-in with Discord, the application's id: one word").or(&[(
        "DISCORD_CLIENT_ID",
        "one word",
        verbatim,
    )]),
    secret("DCA_DISCORD_CLIENT_SECRET", "")
        .is("sign-in with Discord, the application's OAuth2 secret: one word")
        .or(&[("DISCORD_CLIENT_SECRET", "one word", verbatim)]),
    var("DCA_DISCORD_REDIRECT_URI", "")
        .is("where Discord sends people back, unset = /auth/discord/callback of DCA_PUBLIC_URL: http(s) URL")
        .or(&[("DISCORD_REDIRECT_URI", "http(s) URL", verbatim)]),
    var("DCA_GOOGLE_CLIENT_ID", "").is("sign-in with Google, the OAuth client's id: one word").or(&[(
        "GOOGLE_CLIENT_ID",
        "one word",
        verbatim,
    )]),
    secret("DCA_GOOGLE_CLIENT_SECRET", "").is("sign-in with Google, the OAuth client's secret: one word").or(&[(
        "GOOGLE_CLIENT_SECRET",
        "one word",
        verbatim,
    )]),
    var("DCA_GOOGLE_REDIRECT_URI", "")
        .is("where Google sends people back, unset = /auth/google/callback of DCA_PUBLIC_URL: http(s) URL")
        .or(&[("GOOGLE_CALLBACK_URL", "http(s) URL", verbatim)]),
    var("DCA_GOOGLE_API_URL", "").is("stand-in for Google in tests: URL such as http://127.0.0.1:8081, loopback only"),
    var("DCA_APP_NAME", "DCA-Auth")
        .is("the product's name in letters and authenticator apps: one line, 1 to 60 characters")
        .or(&[("APP_NAME", "one line", verbatim)]),
    var("DCA_FRONTEND_URL", "")
        .is("where links in letters lead, unset = pages of our own: http(s) URL, no query, no trailing slash")
        .or(&[("APP_FRONTEND_URL", "http(s) URL", without_slash)]),
    var("DCA_CORS_ORIGINS", "")
        .is("other origins whose pages may call us: http(s)://host[:port], comma separated")
        .or(&[("CORS_ORIGINS", "http(s)://host[:port], comma separated", verbatim)]),
    var("DCA_ACCESS_TOKEN_SECONDS", "900").is("life of an access token: whole seconds, 60 to 3600").or(&[(
        "ACCESS_TOKEN_TTL",
        "seconds",
        verbatim,
    )]),
    var("DCA_REFRESH_TOKEN_SECONDS", "604800")
        .is("life of a session that is not refreshed: whole seconds, 3600 to 7776000")
        .or(&[("REFRESH_TOKEN_TTL", "seconds, or days such as 7d", seconds_or_days)]),
    var("DCA_COOKIE_NAME", "")
        .is("refresh cookie, unset = __Host-rt over https and rt over http: letters, digits, -_. only")
        .or(&[("REFRESH_COOKIE_NAME", "letters, digits, -_. only", verbatim)]),
    var("DCA_COOKIE_SECURE", "")
        .is("whether cookies are for https alone, unset = if DCA_PUBLIC_URL is https: true or false")
        .or(&[("COOKIE_SECURE", "true or false", verbatim)]),
    var("DCA_COOKIE_SAMESITE", "").is("which sites' requests carry cookies, unset = lax: lax, strict or none").or(&[(
        "COOKIE_SAMESITE",
        "lax, strict or none",
        verbatim,
    )]),
    var("DCA_COOKIE_DOMAIN", "").is("domain that shares the cookies, unset = this host alone: domain name").or(&[(
        "COOKIE_DOMAIN",
        "domain name",
        verbatim,
    )]),
    var("DCA_PASSWORD_MEMORY_KIB", "65536")
        .is("memory of a password hash (argon2id, three passes): whole number of KiB, 12288 to 1048576"),
    var("DCA_REQUIRE_SECOND_FACTOR", "none").is("who needs a second factor to act on others: none or admins"),
    var("DCA_FAILURES_PER_ACCOUNT", "10")
        .is("wrong passwords or codes per account and quarter of an hour: whole number, at least 1"),
    var("DCA_FAILURES_PER_NETWORK", "100")
        .is("wrong passwords or codes per network and quarter of an hour: whole number, at least 1"),
    var("DCA_LETTERS_PER_NETWORK", "60").is("letters a network may cause per hour: whole number, at least 1"),
    var("DCA_AUTH_PER_MINUTE", "600").is("account requests per network: whole number per minute, at least 1").or(&[(
        "THROTTLE_LIMIT THROTTLE_TTL",
        "requests, per so many milliseconds",
        per_minute,
    )]),
    var("DCA_SMTP_HOST", "")
        .is("mail server, unset = letters become files in DCA_DATA_DIR: host name or IP address")
        .or(&[("MAIL_HOST", "host name", verbatim)]),
    var("DCA_SMTP_PORT", "587").is("its port: 1 to 65535").or(&[("MAIL_PORT", "1 to 65535", verbatim)]),
    var("DCA_SMTP_USER", "").is("user there, unset = none: text").or(&[("MAIL_USER", "text", verbatim)]),
    secret("DCA_SMTP_PASSWORD", "").is("password there: text").or(&[("MAIL_PASS", "text", verbatim)]),
    var("DCA_SMTP_TLS", "auto").is(
        "auto is tls on port 465, opportunistic on loopback, else starttls: auto, starttls, tls, opportunistic or none",
    ),
    var("DCA_MAIL_FROM", "DCA-Auth <no-reply@localhost>").is("sender of letters: address, or Name <address>").or(&[(
        "MAIL_FROM",
        "address, or Name <address>",
        verbatim,
    )]),
    var("DCA_MAILS_PER_MINUTE", "120").is("letters to one domain, ten at once: whole number per minute, at least 1"),
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
];

/// Its name, what does its work and what is expected of it, and the check of that.
type Replaced = (&'static str, &'static str, fn(&str) -> bool);

/// Documented names of earlier systems whose work is done otherwise here, for good, and what is refused
/// under them: a secret that everybody knows would tell that nobody looked.
pub(super) const REPLACED: &[Replaced] = &[
    (
        "JWT_ACCESS_SECRET",
        "access tokens are signed by a key in the keyring: at least 32 characters, no example",
        is_secret,
    ),
    (
        "JWT_REFRESH_SECRET",
        "refresh tokens are derived from a key in the keyring: at least 32 characters, no example",
        is_secret,
    ),
    (
        "TOKEN_HASH_PEPPER",
        "stored tokens are kept by keys in the keyring: at least 16 characters, no example",
        is_pepper,
    ),
    ("PASSWORD_ALGO", "bcrypt is understood, new hashes are argon2id: bcrypt, argon2 or argon2id", is_algorithm),
    ("ENVIRONMENT", "one behavior everywhere: development, test, staging or production", is_environment),
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
    lines.push("\n# Names of earlier systems that are accepted, and replaced:".to_owned());
    lines.extend(REPLACED.iter().map(|(name, about, _)| format!("# {name}: {about}")));
    lines.join("\n") + "\n"
}

const REFERENCE_HEAD: &str = "\
# Every variable with its default, commented out. An empty value counts as unset.
# The first that is set wins: the DCA_ name, or its _FILE variant (a file that holds the secret);
# the TOML file of DCA_CONFIG_FILE; the \"also read\" names from top to bottom.";

/// The names of `VARS` and the `_FILE` variants of its secrets.
pub(super) fn known() -> BTreeSet<String> {
    let names = |var: &Var| {
        let in_file = var.secret.then(|| format!("{}_FILE", var.name));
        [Some(var.name.to_owned()), in_file]
    };
    VARS.iter().flat_map(names).flatten().collect()
}

/// The names of earlier systems, once each.
pub(super) fn earlier() -> impl Iterator<Item = &'static str> {
    let read = VARS.iter().flat_map(|var| var.fallbacks);
    let read = read.flat_map(|(names, ..)| names.split(' '));
    read.chain(LATER.iter().map(|(name, _)| *name)).chain(REPLACED.iter().map(|(name, ..)| *name))
}
