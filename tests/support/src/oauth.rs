//! An OAuth 2.0 authorization server, as the Sims of Discord and Google share it.
//!
//! `authorize` URL → [`AuthServer::consent`] → code → [`AuthServer::token`] → access token →
//! [`AuthServer::bearer`].

use std::collections::HashMap;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;
use url::Url;

/// The longest lifetime of a code that RFC 6749 recommends.
const CODE_LIFETIME: Duration = Duration::from_mins(10);
/// The length of a code verifier (RFC 7636).
const VERIFIER_LENGTH: std::ops::RangeInclusive<usize> = 43..=128;

/// The differences between Discord and Google.
pub(crate) struct ServerConfig {
    /// The paths of the authorize page.
    pub pages: &'static [&'static str],
    /// The supported scopes.
    pub scopes: &'static [&'static str],
    /// The scope that every request must contain, because it identifies the user.
    pub identity_scope: &'static str,
    /// The lifetime of an access token in seconds.
    pub expires_in: u64,
    /// If true, every grant has a refresh token, replaced at each use. If false, only grants with
    /// `access_type=offline` have one, and it never changes.
    pub rotates_refresh_tokens: bool,
}

/// An authorization server with one application and its grants.
pub(crate) struct AuthServer {
    config: ServerConfig,
    base: String,
    pub client_id: String,
    pub client_secret: String,
    redirects: Vec<String>,
    grants: Vec<Grant>,
    /// The sum of all [`AuthServer::advance`] calls.
    clock_offset: Duration,
    issued: u64,
}

/// The consent of one user, with its tokens.
pub(crate) struct Grant {
    pub subject: String,
    pub scopes: Vec<String>,
    redirect_uri: String,
    challenge: Option<String>,
    /// The authorization code, until it is redeemed.
    code: Option<String>,
    offline: bool,
    access: Option<String>,
    refresh: Option<String>,
    /// When the code or, later, the access token was issued.
    issued_at: Instant,
}

/// A valid authorization request.
struct AuthorizationRequest {
    redirect: Url,
    redirect_uri: String,
    scopes: Vec<String>,
    state: Option<String>,
    challenge: Option<String>,
    offline: bool,
}

/// An error of the token endpoint.
pub(crate) struct TokenError {
    pub status: u16,
    pub body: Value,
}

fn token_error(error: &str, description: &str) -> TokenError {
    let status = if error == "invalid_client" { 401 } else { 400 };
    TokenError { status, body: json!({ "error": error, "error_description": description }) }
}

/// The authorize page.
impl AuthServer {
    pub fn new(config: ServerConfig, base: String, client_id: &str, client_secret: &str) -> Self {
        Self {
            config,
            base,
            client_id: client_id.to_owned(),
            client_secret: client_secret.to_owned(),
            redirects: Vec::new(),
            grants: Vec::new(),
            clock_offset: Duration::ZERO,
            issued: 0,
        }
    }

    pub fn register_redirect(&mut self, uri: &str) {
        self.redirects.push(uri.to_owned());
    }

    /// The error that the page shows if the authorize URL is invalid.
    pub fn page_error(&self, url: &str) -> Option<String> {
        self.authorization_request(url).err()
    }

    /// A user consents. Returns the callback URL, with the `extra` parameters.
    pub fn consent(&mut self, subject: &str, url: &str, extra: &[(&str, &str)]) -> Result<String, String> {
        let request = self.authorization_request(url)?;
        let code = self.next_token();
        let callback = callback(&request, &[("code", &code)], extra);
        self.grants.push(Grant {
            subject: subject.to_owned(),
            scopes: request.scopes,
            redirect_uri: request.redirect_uri,
            challenge: request.challenge,
            code: Some(code),
            offline: request.offline,
            access: None,
            refresh: None,
            issued_at: self.now(),
        });
        Ok(callback)
    }

    /// A user declines. Returns the callback URL, with the `extra` parameters.
    pub fn decline(&self, url: &str, extra: &[(&str, &str)]) -> Result<String, String> {
        Ok(callback(&self.authorization_request(url)?, &[("error", "access_denied")], extra))
    }

    fn authorization_request(&self, url: &str) -> Result<AuthorizationRequest, String> {
        let url = Url::parse(url).map_err(|error| error.to_string())?;
        if url.origin().ascii_serialization() != self.base || !self.config.pages.contains(&url.path()) {
            return Err(format!("{}{} is not the authorize page", url.origin().ascii_serialization(), url.path()));
        }
        let query: HashMap<_, _> = url.query_pairs().into_owned().collect();
        let param = |name: &str| field(&query, name);
        let redirect_uri = param("redirect_uri");
        let scopes: Vec<String> = param("scope").split_whitespace().map(str::to_owned).collect();
        let challenge = query.get("code_challenge");
        let problem = if param("client_id") != self.client_id {
            "unknown client_id"
        } else if !self.redirects.iter().any(|registered| registered == redirect_uri) {
            "redirect_uri is not registered"
        } else if param("response_type") != "code" {
            "response_type is not code"
        } else if !scopes.iter().all(|scope| self.config.scopes.contains(&scope.as_str())) {
            "unknown scope"
        } else if !scopes.iter().any(|scope| scope == self.config.identity_scope) {
            "the scope does not identify the user"
        } else if challenge.is_some() && param("code_challenge_method") != "S256" {
            "code_challenge_method is not S256"
        } else if challenge.is_some_and(|challenge| !is_digest(challenge)) {
            "code_challenge is not a SHA-256 digest"
        } else {
            return Ok(AuthorizationRequest {
                redirect: Url::parse(redirect_uri).map_err(|error| error.to_string())?,
                redirect_uri: redirect_uri.to_owned(),
                scopes,
                state: query.get("state").cloned(),
                challenge: challenge.cloned(),
                offline: param("access_type") == "offline",
            });
        };
        Err(problem.to_owned())
    }
}

/// The token endpoint and bearer tokens.
impl AuthServer {
    /// `grant_type=authorization_code` or `refresh_token`.
    pub fn token(&mut self, form: &HashMap<String, String>, authorization: &str) -> Result<Value, TokenError> {
        self.authenticate(form, authorization)?;
        let index = match field(form, "grant_type") {
            "authorization_code" => self.grant_by_code(form)?,
            "refresh_token" => self.grant_by_refresh_token(form)?,
            _ => return Err(token_error("unsupported_grant_type", "Unsupported grant type.")),
        };
        let (access, refresh, now) = (self.next_token(), self.next_token(), self.now());
        let (rotates, expires_in) = (self.config.rotates_refresh_tokens, self.config.expires_in);
        let grant = &mut self.grants[index];
        // A refresh token that does not rotate is returned only with the first access token.
        let with_refresh = rotates || (grant.offline && grant.refresh.is_none());
        if with_refresh {
            grant.refresh = Some(refresh);
        }
        (grant.code, grant.access, grant.issued_at) = (None, Some(access), now);
        let mut answer = json!({
            "access_token": grant.access, "token_type": "Bearer", "expires_in": expires_in,
            "scope": grant.scopes.join(" "),
        });
        if with_refresh {
            answer["refresh_token"] = json!(grant.refresh);
        }
        Ok(answer)
    }

    /// Revokes all grants of the token's user. An unknown token is not an error (RFC 7009).
    pub fn revoke(&mut self, form: &HashMap<String, String>, authorization: &str) -> Result<(), TokenError> {
        self.authenticate(form, authorization)?;
        let token = form.get("token").ok_or_else(|| token_error("invalid_request", "Missing \"token\" in request."))?;
        let matches = |grant: &&Grant| [&grant.access, &grant.refresh].contains(&&Some(token.clone()));
        if let Some(subject) = self.grants.iter().find(matches).map(|grant| grant.subject.clone()) {
            self.revoke_all(&subject);
        }
        Ok(())
    }

    /// The grant of a `Bearer` header, and the remaining lifetime of the access token.
    pub fn bearer(&self, authorization: &str) -> Option<(&Grant, Duration)> {
        let token = authorization.strip_prefix("Bearer ")?;
        let grant = self.grants.iter().find(|grant| grant.access.as_deref() == Some(token))?;
        let remaining = Duration::from_secs(self.config.expires_in).checked_sub(self.now() - grant.issued_at)?;
        (!remaining.is_zero()).then_some((grant, remaining))
    }

    /// Revokes all grants of a user.
    pub fn revoke_all(&mut self, subject: &str) {
        self.grants.retain(|grant| grant.subject != subject);
    }

    /// Advances the clock of codes and access tokens.
    pub fn advance(&mut self, by: Duration) {
        self.clock_offset += by;
    }

    /// Checks the client credentials, sent as HTTP Basic or in the body.
    fn authenticate(&self, form: &HashMap<String, String>, authorization: &str) -> Result<(), TokenError> {
        let basic = authorization.strip_prefix("Basic ").map(|text| {
            let bytes = BASE64_STANDARD.decode(text).unwrap_or_default();
            String::from_utf8(bytes).unwrap_or_default()
        });
        let credentials = match &basic {
            Some(pair) => pair.split_once(':').unwrap_or_default(),
            None => (field(form, "client_id"), field(form, "client_secret")),
        };
        let valid = credentials == (self.client_id.as_str(), self.client_secret.as_str());
        if valid { Ok(()) } else { Err(token_error("invalid_client", "Invalid client credentials.")) }
    }

    fn grant_by_code(&self, form: &HashMap<String, String>) -> Result<usize, TokenError> {
        let invalid = |name: &str| token_error("invalid_grant", &format!("Invalid \"{name}\" in request."));
        let code = form.get("code").ok_or_else(|| invalid("code"))?;
        let matches =
            |grant: &Grant| grant.code.as_ref() == Some(code) && self.now() - grant.issued_at <= CODE_LIFETIME;
        let index = self.grants.iter().position(matches).ok_or_else(|| invalid("code"))?;
        let grant = &self.grants[index];
        if form.get("redirect_uri") != Some(&grant.redirect_uri) {
            return Err(invalid("redirect_uri"));
        }
        // A verifier without a challenge is refused too, to prevent a PKCE downgrade.
        let verified = match (&grant.challenge, form.get("code_verifier")) {
            (None, None) => true,
            (Some(challenge), Some(verifier)) => is_verifier(verifier) && digest(verifier) == *challenge,
            _ => false,
        };
        if verified { Ok(index) } else { Err(invalid("code_verifier")) }
    }

    fn grant_by_refresh_token(&self, form: &HashMap<String, String>) -> Result<usize, TokenError> {
        let token = form.get("refresh_token");
        let matches = |grant: &Grant| token.is_some() && grant.refresh.as_ref() == token;
        let index = self.grants.iter().position(matches);
        index.ok_or_else(|| token_error("invalid_grant", "Invalid \"refresh_token\" in request."))
    }

    fn now(&self) -> Instant {
        Instant::now() + self.clock_offset
    }

    /// A new code or token: it looks random and is the same on each run.
    fn next_token(&mut self) -> String {
        self.issued += 1;
        digest(&format!("{} {} {}", self.client_id, self.client_secret, self.issued))
    }
}

fn field<'a>(form: &'a HashMap<String, String>, name: &str) -> &'a str {
    form.get(name).map_or("", String::as_str)
}

fn callback(request: &AuthorizationRequest, first: &[(&str, &str)], extra: &[(&str, &str)]) -> String {
    let mut url = request.redirect.clone();
    let state = request.state.as_deref().map(|state| ("state", state));
    url.query_pairs_mut().extend_pairs(first.iter().copied().chain(extra.iter().copied()).chain(state));
    url.into()
}

pub(crate) fn digest(text: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(text))
}

fn is_digest(text: &str) -> bool {
    BASE64_URL_SAFE_NO_PAD.decode(text).is_ok_and(|bytes| bytes.len() == 32)
}

fn is_verifier(text: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-._~".contains(c);
    VERIFIER_LENGTH.contains(&text.len()) && text.chars().all(allowed)
}
