//! Asking a provider who somebody is: OAuth 2.0 with PKCE (RFC 6749, RFC 7636, RFC 9700).
//!
//! Two providers, one flow: they differ in three addresses, the scopes, and the rendered of their profile.

use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use dca_core::{accounts::providers::ProviderProfile, users::Provider};
use oauth2::{
    AuthUrl, AuthorizationCode, ClientId, ClientSecret, CsrfToken, EndpointNotSet, EndpointSet, HttpRequest,
    HttpResponse, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, Scope, TokenResponse, TokenUrl, basic::BasicClient,
};
use serde_json::{Value, json};

use crate::{Config, config::SignInClient};

/// How long a provider may take for each answer.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The largest answer that is read.
const MAX_RESPONSE_BYTES: usize = 64 * 1024;

/// The providers that are set up, and the client to ask them with.
#[derive(Clone)]
pub struct OAuthProviders {
    http: reqwest::Client,
    discord: Option<OAuthProvider>,
    google: Option<OAuthProvider>,
}

type ClientOf = BasicClient<EndpointSet, EndpointNotSet, EndpointNotSet, EndpointNotSet, EndpointSet>;

/// A provider as this installation speaks to it.
#[derive(Clone)]
pub struct OAuthProvider {
    client: ClientOf,
    scopes: &'static [&'static str],
    profile: String,
    read: fn(&Value) -> Option<Profile>,
}

/// What the product wants to know of a provider's profile.
struct Profile {
    subject: String,
    name: Option<String>,
    proved_email: Option<String>,
}

impl OAuthProviders {
    /// Those whose id and secret are configured.
    ///
    /// # Errors
    /// When an address cannot be used.
    pub fn new(config: &Config) -> Result<Self> {
        let roots = webpki_root_certs::TLS_SERVER_ROOT_CERTS.iter();
        let roots = roots.map(|der| reqwest::Certificate::from_der(der)).collect::<Result<Vec<_>, _>>()?;
        // A redirect could carry the secret to another host.
        let http = reqwest::Client::builder()
            .tls_certs_only(roots)
            .redirect(reqwest::redirect::Policy::none())
            .timeout(TIMEOUT)
            .no_proxy()
            .build()?;
        Ok(Self { http, discord: discord(config)?, google: google(config)? })
    }

    /// A provider; `None` when it is not set up.
    #[must_use]
    pub fn get(&self, provider: Provider) -> Option<&OAuthProvider> {
        match provider {
            Provider::Discord => self.discord.as_ref(),
            Provider::Google => self.google.as_ref(),
        }
    }

    /// Whom a code stands for.
    ///
    /// # Errors
    /// What the provider refused, without its rendered: they may quote the code.
    pub async fn fetch_profile(&self, provider: Provider, code: &str, verifier: &str) -> Result<ProviderProfile> {
        let provider_client = self.get(provider).context("this provider is not set up")?;
        let http = self.http.clone();
        let call = move |request| send(http.clone(), request);
        let given = provider_client
            .client
            .exchange_code(AuthorizationCode::new(code.to_owned()))
            .set_pkce_verifier(PkceCodeVerifier::new(verifier.to_owned()))
            .request_async(&call)
            .await
            .map_err(|error| anyhow!("the code was not exchanged: {}", class(&error)))?;
        let request = self.http.get(&provider_client.profile).bearer_auth(given.access_token().secret()).build()?;
        let answer = read(self.http.execute(request).await.map_err(reqwest::Error::without_url)?).await?;
        anyhow::ensure!(answer.status().is_success(), "the profile was answered with {}", answer.status());
        let profile = serde_json::from_slice(answer.body()).ok().and_then(|profile| (provider_client.read)(&profile));
        let profile = profile.context("the profile names nobody")?;
        let tokens = json!({
            "accessToken": given.access_token().secret(),
            "refreshToken": given.refresh_token().map(oauth2::RefreshToken::secret),
            "expiresIn": given.expires_in().map(|life| life.as_secs()),
            "scopes": given.scopes(),
        });
        Ok(ProviderProfile {
            subject: profile.subject,
            name: profile.name,
            proved_email: profile.proved_email,
            tokens: tokens.to_string(),
        })
    }
}

impl OAuthProvider {
    /// Where a person goes to be profile for.
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

fn client(given: &SignInClient, authorize: String, token: String, callback: String) -> Result<Option<ClientOf>> {
    let (Some(id), Some(secret)) = (&given.id, &given.secret) else { return Ok(None) };
    let callback = given.redirect.clone().unwrap_or(callback);
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
    let base = config.discord_api_url.as_deref().unwrap_or("https://discord.com");
    let callback = format!("{}/auth/discord/callback", config.public_url);
    let (authorize, token) = (format!("{base}/oauth2/authorize"), format!("{base}/api/oauth2/token"));
    let client = client(&config.discord_sign_in, authorize, token, callback)?;
    Ok(client.map(|client| OAuthProvider {
        client,
        scopes: &["identify", "email"],
        profile: format!("{base}/api/v10/users/@me"),
        read: |profile| {
            Some(Profile {
                subject: profile["id"].as_str()?.to_owned(),
                name: profile["global_name"].as_str().or(profile["username"].as_str()).map(str::to_owned),
                proved_email: profile["email"].as_str().filter(|_| profile["verified"] == true).map(str::to_owned),
            })
        },
    }))
}

/// Google: <https://developers.google.com/identity/openid-connect/openid-connect>.
fn google(config: &Config) -> Result<Option<OAuthProvider>> {
    let at = |real: &str, path: &str| match &config.google_api_url {
        Some(base) => format!("{base}{path}"),
        None => format!("https://{real}{path}"),
    };
    let callback = format!("{}/auth/google/callback", config.public_url);
    let authorize = at("accounts.google.com", "/o/oauth2/v2/auth");
    let client = client(&config.google_sign_in, authorize, at("oauth2.googleapis.com", "/token"), callback)?;
    Ok(client.map(|client| OAuthProvider {
        client,
        scopes: &["openid", "email", "profile"],
        profile: at("openidconnect.googleapis.com", "/v1/userinfo"),
        read: |profile| {
            Some(Profile {
                subject: profile["sub"].as_str()?.to_owned(),
                name: profile["name"].as_str().map(str::to_owned),
                proved_email: profile["email"]
                    .as_str()
                    .filter(|_| profile["email_verified"] == true)
                    .map(str::to_owned),
            })
        },
    }))
}

/// Sends what the library asks for.
async fn send(http: reqwest::Client, request: HttpRequest) -> Result<HttpResponse, reqwest::Error> {
    let answer = http.execute(request.try_into()?).await?;
    read(answer).await
}

/// Reads an answer as far as it is of a sensible size.
async fn read(mut answer: reqwest::Response) -> Result<HttpResponse, reqwest::Error> {
    let mut body = Vec::new();
    let (status, headers) = (answer.status(), answer.headers().clone());
    while let Some(chunk) = answer.chunk().await? {
        if body.len() + chunk.len() > MAX_RESPONSE_BYTES {
            break;
        }
        body.extend_from_slice(&chunk);
    }
    let mut response = HttpResponse::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    Ok(response)
}

fn class<A: std::error::Error, B: oauth2::ErrorResponse>(error: &oauth2::RequestTokenError<A, B>) -> &'static str {
    match error {
        oauth2::RequestTokenError::ServerResponse(_) => "it was refused",
        oauth2::RequestTokenError::Request(_) => "the provider does not answer",
        oauth2::RequestTokenError::Parse(..) | oauth2::RequestTokenError::Other(_) => "the answer makes no sense",
    }
}
