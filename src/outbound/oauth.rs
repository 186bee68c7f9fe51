//! Sign-in with OAuth 2.0 and PKCE (RFC 6749, RFC 7636, RFC 9700).
//!
//! The providers share one flow and differ in their URLs, scopes and profile format.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use dca_core::{accounts::providers::ProviderProfile, users::Provider};
use oauth2::basic::BasicClient;
use oauth2::{AuthUrl, AuthorizationCode, ClientId, ClientSecret, CsrfToken, EndpointNotSet, EndpointSet, HttpRequest};
use oauth2::{HttpResponse, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, Scope, TokenResponse, TokenUrl};
use serde_json::{Value, json};

use crate::{Config, config::Secret};

const TIMEOUT: Duration = Duration::from_secs(10);

const MAX_RESPONSE_BYTES: usize = 64 * 1024;

/// The configured providers, and the HTTP client for them.
#[derive(Clone)]
pub struct OAuthProviders {
    http: reqwest::Client,
    discord: Option<OAuthProvider>,
    google: Option<OAuthProvider>,
}

type OAuthClient = BasicClient<EndpointSet, EndpointNotSet, EndpointNotSet, EndpointNotSet, EndpointSet>;

#[derive(Clone)]
pub struct OAuthProvider {
    client: OAuthClient,
    scopes: &'static [&'static str],
    profile: String,
    /// Reads a profile, without the tokens.
    read: fn(&Value) -> Option<ProviderProfile>,
}

impl OAuthProviders {
    /// Sets up the providers whose client id and secret are configured.
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
    pub fn get(&self, provider: Provider) -> Option<&OAuthProvider> {
        match provider {
            Provider::Discord => self.discord.as_ref(),
            Provider::Google => self.google.as_ref(),
        }
    }

    /// Exchanges an authorization code for tokens and fetches the user's profile. Errors leave out the text of the
    /// provider's response, which may contain the code.
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
        let mut profile: ProviderProfile = profile.context("the profile has no user id")?;
        let tokens = json!({
            "accessToken": token.access_token().secret(),
            "refreshToken": token.refresh_token().map(oauth2::RefreshToken::secret),
            "expiresIn": token.expires_in().map(|lifetime| lifetime.as_secs()),
            "scopes": token.scopes(),
        });
        anyhow::ensure!(is_id(&profile.subject), "the profile has an invalid user id");
        profile.tokens = tokens.to_string();
        Ok(profile)
    }
}

impl OAuthProvider {
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

fn client((id, secret): (&String, &Secret), authorize: String, token: String, redirect: String) -> Result<OAuthClient> {
    Ok(BasicClient::new(ClientId::new(id.clone()))
        .set_client_secret(ClientSecret::new(secret.expose().to_owned()))
        .set_auth_uri(AuthUrl::new(authorize)?)
        .set_token_uri(TokenUrl::new(token)?)
        .set_redirect_uri(RedirectUrl::new(redirect)?))
}

/// Discord: <https://docs.discord.com/developers/topics/oauth2>.
fn discord(config: &Config) -> Result<Option<OAuthProvider>> {
    let settings = &config.oauth;
    let Some(credentials) = settings.discord_id.as_ref().zip(settings.discord_secret.as_ref()) else { return Ok(None) };
    let base = config.discord.api_url.as_deref().unwrap_or("https://discord.com");
    let callback = || format!("{}/auth/discord/callback", config.http.public_url);
    let redirect = settings.discord_redirect.clone().unwrap_or_else(callback);
    let (authorize, token) = (format!("{base}/oauth2/authorize"), format!("{base}/api/oauth2/token"));
    Ok(Some(OAuthProvider {
        client: client(credentials, authorize, token, redirect)?,
        scopes: &["identify", "email"],
        profile: format!("{base}/api/v10/users/@me"),
        read: |profile| {
            Some(ProviderProfile {
                subject: profile["id"].as_str()?.to_owned(),
                name: profile["global_name"].as_str().or(profile["username"].as_str()).map(str::to_owned),
                verified_email: profile["email"].as_str().filter(|_| profile["verified"] == true).map(str::to_owned),
                tokens: String::new(),
            })
        },
    }))
}

/// Google: <https://developers.google.com/identity/openid-connect/openid-connect>.
fn google(config: &Config) -> Result<Option<OAuthProvider>> {
    let settings = &config.oauth;
    let Some(credentials) = settings.google_id.as_ref().zip(settings.google_secret.as_ref()) else { return Ok(None) };
    let endpoint = |host: &str, path: &str| match &settings.google_api_url {
        Some(base) => format!("{base}{path}"),
        None => format!("https://{host}{path}"),
    };
    let callback = || format!("{}/auth/google/callback", config.http.public_url);
    let redirect = settings.google_redirect.clone().unwrap_or_else(callback);
    let authorize = endpoint("accounts.google.com", "/o/oauth2/v2/auth");
    Ok(Some(OAuthProvider {
        client: client(credentials, authorize, endpoint("oauth2.googleapis.com", "/token"), redirect)?,
        scopes: &["openid", "email", "profile"],
        profile: endpoint("openidconnect.googleapis.com", "/v1/userinfo"),
        read: |profile| {
            let email = profile["email"].as_str().filter(|_| profile["email_verified"] == true);
            Some(ProviderProfile {
                subject: profile["sub"].as_str()?.to_owned(),
                name: profile["name"].as_str().map(str::to_owned),
                verified_email: email.map(str::to_owned),
                tokens: String::new(),
            })
        },
    }))
}

/// Whether this can identify a user: two users must never share an empty ID.
fn is_id(subject: &str) -> bool {
    (1..=255).contains(&subject.len()) && subject.bytes().all(|byte| byte.is_ascii_graphic())
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
