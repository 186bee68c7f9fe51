//! "Log in with Discord": what humans say on the consent page, and the routes that follow from it.
//!
//! Discord's OpenAPI document has no token endpoints; these follow its documentation, and the words of
//! their refusals what people report.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};

use super::rest::{Answer, Answered, Call, ok, refuse};
use super::state::{State, merged, timestamp};
use super::{SimDiscord, SimMember};
use crate::oauth::{AccountPolicy, AuthServer, Refused};

const RULES: AccountPolicy = AccountPolicy {
    pages: &["/oauth2/authorize", "/api/oauth2/authorize", "/api/v10/oauth2/authorize"],
    scopes: &[
        "identify",
        "email",
        "connections",
        "guilds",
        "guilds.join",
        "guilds.members.read",
        "role_connections.write",
        "openid",
    ],
    identity: "identify",
    expires_in: 604_800,
    rotates: true,
};
const SECRET: &str = "SimDiscord-client-secret";
const DENIED: &str = "The resource owner or authorization server denied the request";
/// A snowflake counts milliseconds from this bit on.
const MILLIS: u32 = 22;

/// The authorization server of an application that is not named yet.
pub(super) fn server(address: SocketAddr) -> AuthServer {
    AuthServer::new(RULES, format!("http://{address}"), "", SECRET)
}

/// The application's OAuth settings, and humans in front of the consent page.
impl SimDiscord {
    /// The application's id, as OAuth calls it.
    pub fn client_id(&self) -> String {
        self.inner.lock().oauth.client_id.clone()
    }

    /// The secret that goes with it.
    pub fn client_secret(&self) -> String {
        self.inner.lock().oauth.client_secret.clone()
    }

    /// Adds an address to those the application may send people back to.
    pub fn register_redirect(&self, uri: &str) {
        self.inner.change(|state| state.oauth.register_redirect(uri));
    }

    /// A member opens the page at that address and agrees. Returns where their browser is sent.
    ///
    /// # Panics
    /// If Discord would show an error instead.
    pub fn consent(&self, member: &SimMember, authorize_url: &str) -> String {
        let callback = self.inner.change(|state| {
            state.note(format!("{} agrees to {authorize_url}", state.users[&member.user].name));
            state.oauth.consent(&member.user.to_string(), authorize_url, &[])
        });
        self.sent_back(authorize_url, callback)
    }

    /// Somebody opens the page at that address and declines. Returns where their browser is sent.
    ///
    /// # Panics
    /// If Discord would show an error instead.
    pub fn decline(&self, authorize_url: &str) -> String {
        let callback = self.inner.change(|state| {
            state.note(format!("somebody declines {authorize_url}"));
            state.oauth.decline(authorize_url, &[("error_description", DENIED)])
        });
        self.sent_back(authorize_url, callback)
    }

    /// Time passes for codes (ten minutes) and access tokens (a week).
    pub fn advance_oauth(&self, by: Duration) {
        self.inner.change(|state| state.oauth.advance(by));
    }

    fn sent_back(&self, url: &str, callback: Result<String, String>) -> String {
        callback.unwrap_or_else(|error| panic!("SimDiscord: {url} shows an error: {error}\n{}", self.history()))
    }
}

impl State {
    /// Answers what is open to applications and to the users they act for; none if it is the bot's.
    pub fn answer_oauth(&mut self, path: &[&str], call: &Call) -> Option<Answered> {
        let answered = match (call.method.as_str(), path) {
            ("GET", ["oauth2", "authorize"]) => match self.oauth.page_error(&call.url) {
                Some(error) => Err(refuse(400, 0, &error)),
                None => ok(json!({ "message": "a consent page: tests agree or decline with a verb" })),
            },
            ("POST", ["oauth2", "token"]) => self.exchange(call),
            ("POST", ["oauth2", "token", "revoke"]) => self.revoke_token(call),
            (_, path) if call.authorization.starts_with("Bearer ") => self.answer_bearer(path, call),
            _ => return None,
        };
        Some(answered)
    }

    fn exchange(&mut self, call: &Call) -> Answered {
        let form = call.form.as_ref().ok_or_else(not_a_form)?;
        self.oauth.token(form, &call.authorization).map_err(Answer::from).and_then(ok)
    }

    fn revoke_token(&mut self, call: &Call) -> Answered {
        let form = call.form.as_ref().ok_or_else(not_a_form)?;
        self.oauth.revoke(form, &call.authorization)?;
        ok(json!({}))
    }

    fn answer_bearer(&mut self, path: &[&str], call: &Call) -> Answered {
        let Some((grant, left)) = self.oauth.bearer(&call.authorization) else {
            return Err(refuse(401, 0, "401: Unauthorized"));
        };
        let user = grant.subject.parse().expect("the id of a user");
        let scopes = grant.scopes.clone();
        match (call.method.as_str(), path) {
            ("GET", ["users", "@me"]) => ok(self.person_json(user, &scopes)),
            ("GET", ["oauth2", "@me"]) => ok(json!({
                "application": self.shown_application(), "scopes": scopes, "user": self.user_json(user),
                "expires": timestamp(self.id() + (u64::try_from(left.as_millis()).unwrap_or(0) << MILLIS)),
            })),
            _ => Err(self.unknown_route(&call.method, &call.path)),
        }
    }

    /// The user as they see themselves, as far as the scopes go.
    fn person_json(&self, user: u64, scopes: &[String]) -> Value {
        let private = json!({ "mfa_enabled": false, "locale": "en-US", "premium_type": 0 });
        let person = merged(self.user_json(user), private);
        if !scopes.iter().any(|scope| scope == "email") {
            return person;
        }
        let email = self.users[&user].email.clone();
        let verified = email.as_ref().is_some_and(|(_, verified)| *verified);
        merged(person, json!({ "email": email.map(|(address, _)| address), "verified": verified }))
    }

    /// The application as anybody sees it.
    fn shown_application(&self) -> Value {
        let full = self.application_json();
        let public = ["id", "name", "icon", "description", "type", "flags", "flags_new", "verify_key", "bot_public"];
        public.into_iter().map(|key| (key, full[key].clone())).collect()
    }
}

impl From<Refused> for Answer {
    fn from(Refused { status, body }: Refused) -> Self {
        Self { status, body }
    }
}

fn not_a_form() -> Answer {
    let description = "The content type must be application/x-www-form-urlencoded.";
    Answer { status: 400, body: json!({ "error": "invalid_request", "error_description": description }) }
}
