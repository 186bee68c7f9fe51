//! Sign-in with OAuth 2.0 and PKCE (RFC 6749, RFC 7636, RFC 9700).
//!
//! The providers share one flow and differ in their URLs, scopes and profile format.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use dca_core::{accounts::providers::ProviderProfile, users::Provider};
use oauth2::{
    AuthUrl, AuthorizationCode, ClientId, ClientSecret, CsrfToken, EndpointNotSet, EndpointSet, HttpRequest,
    HttpResponse, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, Scope, TokenResponse, TokenUrl, basic::BasicClient,
};
use serde_json::{Value, json};

use crate::{Config, config::OAuthClientSettings};

/// The timeout of a request to a provider.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The largest response body that is read.
const MAX_RESPONSE_BYTES: usize = 64 * 1024;

/// The configured providers, and the HTTP client for them.
#[derive(Clone)]
pub struct OAuthProviders {
    http: reqwest::Client,
    discord: Option<OAuthProvider>,
    google: Option<OAuthProvider>,
}

type OAuthClient = BasicClient<EndpointSet, EndpointNotSet, EndpointNotSet, EndpointNotSet, EndpointSet>;

/// A configured provider.
#[derive(Clone)]
pub struct OAuthProvider {
    client: OAuthClient,
    scopes: &'static [&'static str],
    profile: String,
    read: fn(&Value) -> Option<Profile>,
}

/// The fields read from a provider's profile.
struct Profile {
    subject: String,
    name: Option<String>,
    verified_email: Option<String>,
}

impl OAuthProviders {
    /// Sets up the providers whose client id and secret are configured.
    ///
    /// # Errors
    /// If a URL is invalid.
    pub fn new(config: &Config) -> Result<Self> {
        let roots = webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter();
        let roots = roots.map(|der| reqwest::Certificate::from_der(der)).collect::<Result<Vec<_>, _>>()?;
        // A redirect could send the secret to another host.
        let http = reqwest::Client::builder()
            .tls_certs_only(roots)
            .redirect(reqwest::redirect::Policy::none())
            .timeout(TIMEOUT)
            .no_proxy()
            .build()?;
        Ok(Self { http, discord: discord(config)?, google: google(config)? })
    }

    /// Returns a provider; `None` if it is not configured.
    #[must_use]
    pub fn get(&self, provider: Provider) -> Option<&OAuthProvider> {
        match provider {
            Provider::Discord => self.discord.as_ref(),
            Provider::Google => self.google.as_ref(),
        }
    }

    /// Exchanges an authorization code for tokens and fetches the user's profile.
    ///
    /// # Errors
    /// What failed, without the text of the provider's response, which may contain the code.
    pub async fn fetch_profile(&self, provider: Provider, code: &str, verifier: &str) -> Result<ProviderProfile> {
        let provider = self.get(provider).context("this provider is not configured")?;
        let http = self.http.clone();
        let call = move |request| send(http.clone(), request);
        let token = provider
            .client
            .exchange_code(AuthorizationCode::new(code.to_owned()))
            .set_pkce_verifier(PkceCodeVerifier::new(verifier.to_owned()))
            .request_async(&call)
            .await
            .map_err(|error| anyhow!("the code exchange failed: {}", describe(&error)))?;
        let request = self.http.get(&provider.profile).bearer_auth(token.access_token().secret()).build()?;
        let response = read(self.http.execute(request).await.map_err(reqwest::Error::without_url)?).await?;
        anyhow::ensure!(response.status().is_success(), "the profile request failed with status {}", response.status());
        let profile = serde_json::from_slice(response.body()).ok().and_then(|profile| (provider.read)(&profile));
        let profile = profile.context("the profile has no user id")?;
        let tokens = json!({
            "accessToken": token.access_token().secret(),
            "refreshToken": token.refresh_token().map(oauth2::RefreshToken::secret),
            "expiresIn": token.expires_in().map(|lifetime| lifetime.as_secs()),
            "scopes": token.scopes(),
        });
        Ok(ProviderProfile {
            subject: profile.subject,
            name: profile.name,
            verified_email: profile.verified_email,
            tokens: tokens.to_string(),
        })
    }
}

impl OAuthProvider {
    /// The URL to redirect the user to.
    #[must_use]
    pub fn authorize_url(&self, state: &str, verifier: &str) -> String {
        let challenge = PkceCodeChallenge::from_code_verifier_sha256(&PkceCodeVerifier::new(verifier.to_owned()));
        let state = state.to_owned();
        let request = self
            .client
            .authorize_url(|| CsrfToken::new(state))
            .add_scopes(self.scopes.iter().map(|scope| Scope::new((*scope).to_owned())))
            .set_pkce_challenge(challenge);
        request.url().0.to_string()
    }
}

fn client(
    settings: &OAuthClientSettings,
    authorize: String,
    token: String,
    callback: String,
) -> Result<Option<OAuthClient>> {
    let (Some(id), Some(secret)) = (&settings.id, &settings.secret) else { return Ok(None) };
    let callback = settings.redirect.clone().unwrap_or(callback);
    Ok(Some(
        BasicClient::new(ClientId::new(id.clone()))
            .set_client_secret(ClientSecret::new(secret.expose().to_owned()))
            .set_auth_uri(AuthUrl::new(authorize)?)
            .set_token_uri(TokenUrl::new(token)?)
            .set_redirect_uri(RedirectUrl::new(callback)?),
    ))
}

/// Discord: <https://docs.discord.com/developers/topics/oauth2>.
fn discord(config: &Config) -> Result<Option<OAuthProvider>> {
    let base = config.discord.api_url.as_deref().unwrap_or("https://discord.com");
    let callback = format!("{}/auth/discord/callback", config.http.public_url);
    let (authorize, token) = (format!("{base}/oauth2/authorize"), format!("{base}/api/oauth2/token"));
    let client = client(&config.oauth.discord, authorize, token, callback)?;
    Ok(client.map(|client| OAuthProvider {
        client,
        scopes: &["identify", "email"],
        profile: format!("{base}/api/v10/users/@me"),
        read: |profile| {
            Some(Profile {
                subject: profile["id"].as_str()?.to_owned(),
                name: profile["global_name"].as_str().or(profile["username"].as_str()).map(str::to_owned),
                verified_email: profile["email"].as_str().filter(|_| profile["verified"] == true).map(str::to_owned),
            })
        },
    }))
}

/// Google: <https://developers.google.com/identity/openid-connect/openid-connect>.
fn google(config: &Config) -> Result<Option<OAuthProvider>> {
    let endpoint = |host: &str, path: &str| match &config.oauth.google_api_url {
        Some(base) => format!("{base}{path}"),
        None => format!("https://{host}{path}"),
    };
    let callback = format!("{}/auth/google/callback", config.http.public_url);
    let authorize = endpoint("accounts.google.com", "/o/oauth2/v2/auth");
    let client = client(&config.oauth.google, authorize, endpoint("oauth2.googleapis.com", "/token"), callback)?;
    Ok(client.map(|client| OAuthProvider {
        client,
        scopes: &["openid", "email", "profile"],
        profile: endpoint("openidconnect.googleapis.com", "/v1/userinfo"),
        read: |profile| {
            Some(Profile {
                subject: profile["sub"].as_str()?.to_owned(),
                name: profile["name"].as_str().map(str::to_owned),
                verified_email: profile["email"]
                    .as_str()
                    .filter(|_| profile["email_verified"] == true)
                    .map(str::to_owned),
            })
        },
    }))
}

/// Sends a request of the `oauth2` crate.
async fn send(http: reqwest::Client, request: HttpRequest) -> Result<HttpResponse, reqwest::Error> {
    let response = http.execute(request.try_into()?).await?;
    read(response).await
}

/// Reads a response, up to [`MAX_RESPONSE_BYTES`] of its body.
async fn read(mut response: reqwest::Response) -> Result<HttpResponse, reqwest::Error> {
    let mut body = Vec::new();
    let (status, headers) = (response.status(), response.headers().clone());
    while let Some(chunk) = response.chunk().await? {
        if body.len() + chunk.len() > MAX_RESPONSE_BYTES {
            break;
        }
        body.extend_from_slice(&chunk);
    }
    let mut complete = HttpResponse::new(body);
    *complete.status_mut() = status;
    *complete.headers_mut() = headers;
    Ok(complete)
}

fn describe<A: std::error::Error, B: oauth2::ErrorResponse>(error: &oauth2::RequestTokenError<A, B>) -> &'static str {
    match error {
        oauth2::RequestTokenError::ServerResponse(_) => "the provider rejected it",
        oauth2::RequestTokenError::Request(_) => "the provider did not respond",
        oauth2::RequestTokenError::Parse(..) | oauth2::RequestTokenError::Other(_) => "the response was invalid",
    }
}
