//! The server's half of OAuth 2.0, as Discord and Google play it: an application with its registered
//! redirects, a human's consent, and the tokens that come of it.
//!
//! `authorize` address → [`AuthServer::consent`] → code → [`AuthServer::token`] → bearer →
//! [`AuthServer::bearer`].

use std::collections::HashMap;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;
use url::Url;

/// RFC 6749 allows a code ten minutes at most.
const CODE_LIFE: Duration = Duration::from_mins(10);
/// The shortest and longest verifier of RFC 7636, and what it may be made of.
const VERIFIER_LENGTH: std::ops::RangeInclusive<usize> = 43..=128;

/// Where two servers differ.
pub(crate) struct AccountPolicy {
    /// The paths of the page a browser opens.
    pub pages: &'static [&'static str],
    /// The scopes the server knows.
    pub scopes: &'static [&'static str],
    /// The scope without which nobody can be told apart.
    pub identity: &'static str,
    /// Seconds an access token lives.
    pub expires_in: u64,
    /// Refresh tokens for everybody, a new one at each use; else only with `access_type=offline`, and
    /// that one for ever.
    pub rotates: bool,
}

/// One application at an authorization server, and everything granted to it.
pub(crate) struct AuthServer {
    rules: AccountPolicy,
    base: String,
    pub client_id: String,
    pub client_secret: String,
    redirects: Vec<String>,
    grants: Vec<Grant>,
    /// How far its clock was moved by [`AuthServer::advance`].
    ahead: Duration,
    issued: u64,
}

/// What one human allowed once.
pub(crate) struct Grant {
    pub subject: String,
    pub scopes: Vec<String>,
    redirect_uri: String,
    challenge: Option<String>,
    /// The code, until it is used.
    code: Option<String>,
    offline: bool,
    access: Option<String>,
    refresh: Option<String>,
    /// When the code, and later the access token, was made.
    born: Instant,
}

/// A request for consent that a human would be shown.
struct Asked {
    redirect: Url,
    redirect_uri: String,
    scopes: Vec<String>,
    state: Option<String>,
    challenge: Option<String>,
    offline: bool,
}

/// An error of the token endpoint.
pub(crate) struct Refused {
    pub status: u16,
    pub body: Value,
}

fn refused(error: &str, description: &str) -> Refused {
    let status = if error == "invalid_client" { 401 } else { 400 };
    Refused { status, body: json!({ "error": error, "error_description": description }) }
}

/// What the human is shown and says.
impl AuthServer {
    pub fn new(rules: AccountPolicy, base: String, client_id: &str, client_secret: &str) -> Self {
        Self {
            rules,
            base,
            client_id: client_id.to_owned(),
            client_secret: client_secret.to_owned(),
            redirects: Vec::new(),
            grants: Vec::new(),
            ahead: Duration::ZERO,
            issued: 0,
        }
    }

    pub fn register_redirect(&mut self, uri: &str) {
        self.redirects.push(uri.to_owned());
    }

    /// What the page says instead of asking for consent, if something is wrong with its address.
    pub fn page_error(&self, url: &str) -> Option<String> {
        self.asked(url).err()
    }

    /// A human agrees. Returns the callback their browser is sent to, with `more` appended.
    pub fn consent(&mut self, subject: &str, url: &str, more: &[(&str, &str)]) -> Result<String, String> {
        let asked = self.asked(url)?;
        let code = self.secret();
        let callback = callback(&asked, &[("code", &code)], more);
        self.grants.push(Grant {
            subject: subject.to_owned(),
            scopes: asked.scopes,
            redirect_uri: asked.redirect_uri,
            challenge: asked.challenge,
            code: Some(code),
            offline: asked.offline,
            access: None,
            refresh: None,
            born: self.now(),
        });
        Ok(callback)
    }

    /// A human declines. Returns the callback their browser is sent to, with `more` appended.
    pub fn decline(&self, url: &str, more: &[(&str, &str)]) -> Result<String, String> {
        Ok(callback(&self.asked(url)?, &[("error", "access_denied")], more))
    }

    fn asked(&self, url: &str) -> Result<Asked, String> {
        let url = Url::parse(url).map_err(|error| error.to_string())?;
        if url.origin().ascii_serialization() != self.base || !self.rules.pages.contains(&url.path()) {
            return Err(format!("{}{} is not the page to authorize", url.origin().ascii_serialization(), url.path()));
        }
        let query: HashMap<_, _> = url.query_pairs().into_owned().collect();
        let given = |name: &str| field(&query, name);
        let redirect_uri = given("redirect_uri");
        let scopes: Vec<String> = given("scope").split_whitespace().map(str::to_owned).collect();
        let challenge = query.get("code_challenge");
        let problem = if given("client_id") != self.client_id {
            "unknown client_id"
        } else if !self.redirects.iter().any(|known| known == redirect_uri) {
            "redirect_uri is not registered"
        } else if given("response_type") != "code" {
            "response_type is not code"
        } else if !scopes.iter().all(|scope| self.rules.scopes.contains(&scope.as_str())) {
            "unknown scope"
        } else if !scopes.iter().any(|scope| scope == self.rules.identity) {
            "the scope does not tell who it is"
        } else if challenge.is_some() && given("code_challenge_method") != "S256" {
            "code_challenge_method is not S256"
        } else if challenge.is_some_and(|challenge| !is_digest(challenge)) {
            "code_challenge is no SHA-256 digest"
        } else {
            return Ok(Asked {
                redirect: Url::parse(redirect_uri).map_err(|error| error.to_string())?,
                redirect_uri: redirect_uri.to_owned(),
                scopes,
                state: query.get("state").cloned(),
                challenge: challenge.cloned(),
                offline: given("access_type") == "offline",
            });
        };
        Err(problem.to_owned())
    }
}

/// What the application is told.
impl AuthServer {
    /// `grant_type=authorization_code` or `refresh_token`.
    pub fn token(&mut self, form: &HashMap<String, String>, authorization: &str) -> Result<Value, Refused> {
        self.authenticate(form, authorization)?;
        let index = match field(form, "grant_type") {
            "authorization_code" => self.by_code(form)?,
            "refresh_token" => self.by_refresh_token(form)?,
            _ => return Err(refused("unsupported_grant_type", "Unsupported grant type.")),
        };
        let (access, refresh, now) = (self.secret(), self.secret(), self.now());
        let (rotates, expires_in) = (self.rules.rotates, self.rules.expires_in);
        let grant = &mut self.grants[index];
        // A token that does not rotate is told once, with the code.
        let tells = rotates || (grant.offline && grant.refresh.is_none());
        if tells {
            grant.refresh = Some(refresh);
        }
        (grant.code, grant.access, grant.born) = (None, Some(access), now);
        let mut answer = json!({
            "access_token": grant.access, "token_type": "Bearer", "expires_in": expires_in,
            "scope": grant.scopes.join(" "),
        });
        if tells {
            answer["refresh_token"] = json!(grant.refresh);
        }
        Ok(answer)
    }

    /// Ends everything its human ever granted. A token nobody knows is no error.
    pub fn revoke(&mut self, form: &HashMap<String, String>, authorization: &str) -> Result<(), Refused> {
        self.authenticate(form, authorization)?;
        let token = form.get("token").ok_or_else(|| refused("invalid_request", "Missing \"token\" in request."))?;
        let held = |grant: &&Grant| [&grant.access, &grant.refresh].contains(&&Some(token.clone()));
        if let Some(subject) = self.grants.iter().find(held).map(|grant| grant.subject.clone()) {
            self.withdraw(&subject);
        }
        Ok(())
    }

    /// The grant a `Bearer` header proves, and how much longer it will.
    pub fn bearer(&self, authorization: &str) -> Option<(&Grant, Duration)> {
        let token = authorization.strip_prefix("Bearer ")?;
        let grant = self.grants.iter().find(|grant| grant.access.as_deref() == Some(token))?;
        let left = Duration::from_secs(self.rules.expires_in).checked_sub(self.now() - grant.born)?;
        (!left.is_zero()).then_some((grant, left))
    }

    /// A human takes back everything they granted.
    pub fn withdraw(&mut self, subject: &str) {
        self.grants.retain(|grant| grant.subject != subject);
    }

    /// Time passes for codes and access tokens.
    pub fn advance(&mut self, by: Duration) {
        self.ahead += by;
    }

    /// The application proves itself by HTTP Basic, or in the body.
    fn authenticate(&self, form: &HashMap<String, String>, authorization: &str) -> Result<(), Refused> {
        let basic = authorization.strip_prefix("Basic ").map(|text| {
            let bytes = BASE64_STANDARD.decode(text).unwrap_or_default();
            String::from_utf8(bytes).unwrap_or_default()
        });
        let given = match &basic {
            Some(pair) => pair.split_once(':').unwrap_or_default(),
            None => (field(form, "client_id"), field(form, "client_secret")),
        };
        let known = given == (self.client_id.as_str(), self.client_secret.as_str());
        if known { Ok(()) } else { Err(refused("invalid_client", "Invalid client credentials.")) }
    }

    fn by_code(&self, form: &HashMap<String, String>) -> Result<usize, Refused> {
        let invalid = |name: &str| refused("invalid_grant", &format!("Invalid \"{name}\" in request."));
        let code = form.get("code").ok_or_else(|| invalid("code"))?;
        let fresh = |grant: &Grant| grant.code.as_ref() == Some(code) && self.now() - grant.born <= CODE_LIFE;
        let index = self.grants.iter().position(fresh).ok_or_else(|| invalid("code"))?;
        let grant = &self.grants[index];
        if form.get("redirect_uri") != Some(&grant.redirect_uri) {
            return Err(invalid("redirect_uri"));
        }
        // A verifier nobody announced is refused too: else a stolen code could be sold as one without.
        let proven = match (&grant.challenge, form.get("code_verifier")) {
            (None, None) => true,
            (Some(challenge), Some(verifier)) => is_verifier(verifier) && digest(verifier) == *challenge,
            _ => false,
        };
        if proven { Ok(index) } else { Err(invalid("code_verifier")) }
    }

    fn by_refresh_token(&self, form: &HashMap<String, String>) -> Result<usize, Refused> {
        let token = form.get("refresh_token");
        let holds = |grant: &Grant| token.is_some() && grant.refresh.as_ref() == token;
        let index = self.grants.iter().position(holds);
        index.ok_or_else(|| refused("invalid_grant", "Invalid \"refresh_token\" in request."))
    }

    fn now(&self) -> Instant {
        Instant::now() + self.ahead
    }

    /// A code or token: it looks random, and is the same on each run.
    fn secret(&mut self) -> String {
        self.issued += 1;
        digest(&format!("{} {} {}", self.client_id, self.client_secret, self.issued))
    }
}

fn field<'a>(form: &'a HashMap<String, String>, name: &str) -> &'a str {
    form.get(name).map_or("", String::as_str)
}

fn callback(asked: &Asked, first: &[(&str, &str)], more: &[(&str, &str)]) -> String {
    let mut url = asked.redirect.clone();
    let state = asked.state.as_deref().map(|state| ("state", state));
    url.query_pairs_mut().extend_pairs(first.iter().copied().chain(more.iter().copied()).chain(state));
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
