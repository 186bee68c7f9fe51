//! Documented names of earlier systems that are not the fallback of a setting.

/// Settings that are not used: their names and what they are for, or what the service does instead.
pub(super) const UNUSED: [(&str, &str); 29] = [
    ("COOKIE_SECRET", "signs the cookie of the Patreon sign-in"),
    ("PATREON_CLIENT_ID", "OAuth2 client ID"),
    ("PATREON_CLIENT_SECRET", "OAuth2 client secret"),
    ("PATREON_REDIRECT_URI", "OAuth2 redirect URL"),
    ("PATREON_REQUIRED_TIER_IDS", "tier IDs separated by commas"),
    ("PATREON_ALLOWED_TIER_IDS", "tier IDs separated by commas"),
    ("PATREON_CREATOR_ACCESS_TOKEN", "the creator's access token"),
    ("PATREON_CREATOR_REFRESH_TOKEN", "the creator's refresh token"),
    ("JWT_SECRET", "signs sign-in tokens"),
    ("JWT_WEBSOCKET_EXPIRATION_TIME", "lifetime of a WebSocket token in seconds"),
    ("CLIENT_ERROR_URL", "where a failed sign-in redirects to"),
    ("CLIENT_SUCCESS_URL", "where a sign-in redirects to; DCA_FRONTEND_URL/auth/cb is used"),
    ("CLIENT_SUCCESS_URL_MOBILE", "where a sign-in on a phone redirects to"),
    ("CLIENT_SUCCESS_URL_DESKTOP", "where a sign-in on a computer redirects to"),
    ("SESSION_JWT_SECRET", "signs play session tokens"),
    ("SESSION_JWT_TTL_SEC", "lifetime of a play session token in seconds"),
    ("HEARTBEAT_INTERVAL_SEC", "seconds between heartbeats"),
    ("ASSET_STORAGE_ROOT", "directory of game assets"),
    ("JWT_EXPIRES_IN", "lifetime of sign-in tokens, for example 7d"),
    ("ENCRYPTION_KEY", "encrypts panel sign-ins, 32 characters"),
    ("MONGODB_URI", "database; DCA_DATABASE_URL is used"),
    ("DISCORD_GUILD_ID", "the bot works in every server that it is invited to"),
    ("DISCORD_SCOPES", "scopes of the sign-in with Discord; they are fixed"),
    ("JWT_ISSUER", "iss claim of access tokens; it is dca-auth"),
    ("JWT_AUDIENCE", "aud claim of access tokens; it is dca-auth-users"),
    ("SESSION_SECRET", "signs cookies; keys from the keyring are used"),
    ("LOCKOUT_DURATION", "milliseconds in which failures are counted; always 15 minutes"),
    ("API_PREFIX", "path of the API; /api and the native routes are served at the same time"),
    ("LIMIT_LICENSES_PER_USER", "a user has one license per product"),
];

/// A setting that something else replaces: its name, what replaces it, the expected value, and the check of its value.
pub(super) type Replaced = (&'static str, &'static str, &'static str, fn(&str) -> bool);

/// Replaced settings. Published example secrets are refused, because they show that the configuration was not reviewed.
pub(super) const REPLACED: [Replaced; 7] = [
    ("JWT_ACCESS_SECRET", "access tokens are signed with a key from the keyring", LONG_SECRET, is_secret),
    ("JWT_REFRESH_SECRET", "refresh tokens are derived from a key in the keyring", LONG_SECRET, is_secret),
    ("TOKEN_HASH_PEPPER", "stored tokens are hashed with keys from the keyring", PEPPER, is_pepper),
    (
        "PASSWORD_ALGO",
        "new hashes use Argon2id; bcrypt hashes are still verified",
        "bcrypt, argon2 or argon2id",
        |value| ["bcrypt", "argon2", "argon2id"].contains(&value.to_lowercase().as_str()),
    ),
    ("NODE_ENV", "the service behaves the same in every environment", "any value", |_| true),
    ("DEPLOY_COMMANDS", "the bot registers its commands whenever they change", "any value", |_| true),
    ("ENVIRONMENT", "the service behaves the same in every environment", ENVIRONMENTS, |value| {
        ["development", "test", "staging", "production"].contains(&value.to_lowercase().as_str())
    }),
];

const PEPPER: &str = "at least 16 characters that are not from a published example";
const ENVIRONMENTS: &str = "development, test, staging or production";
const LONG_SECRET: &str = "at least 32 characters that are not from a published example";

fn is_secret(value: &str) -> bool {
    value.len() >= 32 && !is_example(value)
}

fn is_pepper(value: &str) -> bool {
    value.len() >= 16 && !is_example(value)
}

/// Parts of secrets that were published in documentation.
const EXAMPLES: &str = "default secret pepper change example your_ d54b82f4bf57bf88 e2c3f1a9b6d4e8f7";

fn is_example(value: &str) -> bool {
    let value = value.to_lowercase();
    EXAMPLES.split(' ').any(|example| value.contains(example)) || value.chars().all(|c| value.starts_with(c))
}

/// All of these names.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    UNUSED.iter().map(|(name, _)| *name).chain(REPLACED.iter().map(|(name, ..)| *name))
}
