//! Sign-in with OAuth providers.

use url::Url;

use super::{
    parse::{loopback_url, token},
    reader::Reader,
    secret::Secret,
    setting::setting,
};

/// Sign-in with OAuth providers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OAuthConfig {
    /// Sign-in with Discord.
    pub discord: OAuthClientSettings,
    /// Sign-in with Google.
    pub google: OAuthClientSettings,
    /// Base URL of a Google simulator on a loopback address, without trailing slash.
    pub google_api_url: Option<String>,
}

/// OAuth client of a provider. Sign-in is enabled if id and secret are set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OAuthClientSettings {
    /// Client id.
    pub id: Option<String>,
    /// Client secret.
    pub secret: Option<Secret>,
    /// Redirect URL; the built-in callback if `None`.
    pub redirect: Option<String>,
}

const REDIRECT_URL: &str = "an http or https URL, for example https://auth.example.com/auth/callback";

impl OAuthConfig {
    pub(super) fn read(r: &mut Reader) -> Self {
        Self {
            discord: OAuthClientSettings::read_discord(r),
            google: OAuthClientSettings::read_google(r),
            google_api_url: setting("DCA_GOOGLE_API_URL")
                .about("Google simulator for tests.")
                .expects("a loopback URL, for example http://127.0.0.1:8081")
                .optional(r, loopback_url),
        }
    }
}

impl OAuthClientSettings {
    fn read_discord(r: &mut Reader) -> Self {
        Self {
            id: setting("DCA_DISCORD_CLIENT_ID")
                .about("Application ID for sign-in with Discord.")
                .expects("an ID without spaces, for example 123456789012345678")
                .fallback("DISCORD_CLIENT_ID")
                .optional(r, single_word),
            secret: setting("DCA_DISCORD_CLIENT_SECRET")
                .about("OAuth2 client secret for sign-in with Discord.")
                .expects("a secret without spaces")
                .secret()
                .fallback("DISCORD_CLIENT_SECRET")
                .optional(r, token),
            redirect: setting("DCA_DISCORD_REDIRECT_URI")
                .about("OAuth2 redirect URL for Discord. If unset, /auth/discord/callback of DCA_PUBLIC_URL is used.")
                .expects(REDIRECT_URL)
                .fallback("DISCORD_REDIRECT_URI")
                .optional(r, web_url),
        }
    }

    fn read_google(r: &mut Reader) -> Self {
        Self {
            id: setting("DCA_GOOGLE_CLIENT_ID")
                .about("OAuth2 client ID for sign-in with Google.")
                .expects("an ID without spaces, for example 1234.apps.googleusercontent.com")
                .fallback("GOOGLE_CLIENT_ID")
                .optional(r, single_word),
            secret: setting("DCA_GOOGLE_CLIENT_SECRET")
                .about("OAuth2 client secret for sign-in with Google.")
                .expects("a secret without spaces")
                .secret()
                .fallback("GOOGLE_CLIENT_SECRET")
                .optional(r, token),
            redirect: setting("DCA_GOOGLE_REDIRECT_URI")
                .about("OAuth2 redirect URL for Google. If unset, /auth/google/callback of DCA_PUBLIC_URL is used.")
                .expects(REDIRECT_URL)
                .fallback("GOOGLE_CALLBACK_URL")
                .optional(r, web_url),
        }
    }
}

fn single_word(value: &str) -> Option<String> {
    token(value).map(|word| word.0)
}

fn web_url(value: &str) -> Option<String> {
    let url = Url::parse(value).ok()?;
    let is_valid = ["http", "https"].contains(&url.scheme()) && url.has_host() && url.fragment().is_none();
    is_valid.then(|| value.to_owned())
}
