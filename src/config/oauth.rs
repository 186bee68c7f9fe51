//! Sign-in with OAuth providers.

use url::Url;

use super::parse::{Secret, loopback_url, token};
use super::reader::settings;

settings! {
    /// Sign-in with OAuth providers. Each is enabled if its client id and secret are set.
    OAuthConfig {
        /// Application ID for sign-in with Discord.
        discord_id: Option<String> = "DCA_DISCORD_CLIENT_ID", optional(single_word), fallback("DISCORD_CLIENT_ID"),
            expects("an ID without spaces, for example 123456789012345678");
        /// OAuth2 client secret for sign-in with Discord.
        discord_secret: Option<Secret> = "DCA_DISCORD_CLIENT_SECRET", optional(token), secret(),
            fallback("DISCORD_CLIENT_SECRET"), expects("a secret without spaces, for example Xk3v-9sQ");
        /// OAuth2 redirect URL for Discord. If unset, /auth/discord/callback of DCA_PUBLIC_URL is used.
        discord_redirect: Option<String> = "DCA_DISCORD_REDIRECT_URI", optional(web_url),
            fallback("DISCORD_REDIRECT_URI"), expects(REDIRECT_URL);
        /// OAuth2 client ID for sign-in with Google.
        google_id: Option<String> = "DCA_GOOGLE_CLIENT_ID", optional(single_word), fallback("GOOGLE_CLIENT_ID"),
            expects("an ID without spaces, for example 1234.apps.googleusercontent.com");
        /// OAuth2 client secret for sign-in with Google.
        google_secret: Option<Secret> = "DCA_GOOGLE_CLIENT_SECRET", optional(token), secret(),
            fallback("GOOGLE_CLIENT_SECRET"), expects("a secret without spaces, for example GOCSPX-9sQ");
        /// OAuth2 redirect URL for Google. If unset, /auth/google/callback of DCA_PUBLIC_URL is used.
        google_redirect: Option<String> = "DCA_GOOGLE_REDIRECT_URI", optional(web_url),
            fallback("GOOGLE_CALLBACK_URL"), expects(REDIRECT_URL);
        /// Google simulator for tests.
        google_api_url: Option<String> = "DCA_GOOGLE_API_URL", optional(loopback_url),
            expects("a loopback URL, for example http://127.0.0.1:8081");
    }
}

const REDIRECT_URL: &str = "an http or https URL, for example https://auth.example.com/auth/callback";

fn single_word(value: &str) -> Option<String> {
    token(value).map(|word| word.0)
}

fn web_url(value: &str) -> Option<String> {
    let url = Url::parse(value).ok()?;
    let is_valid = ["http", "https"].contains(&url.scheme()) && url.has_host() && url.fragment().is_none();
    is_valid.then(|| value.to_owned())
}
