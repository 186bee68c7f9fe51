//! "Log in with Discord": consent and the OAuth routes.
//!
//! Discord's OpenAPI document has no token endpoints; these follow its documentation, and their error texts follow
//! user reports.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::json::{merged, timestamp};
use super::response::{Call, RestResponse, RestResult, error, ok};
use super::state::State;
use crate::oauth::{AuthServer, ServerConfig, TokenError};

const CONFIG: ServerConfig = ServerConfig {
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
    identity_scope: "identify",
    expires_in: 604_800,
    rotates_refresh_tokens: true,
};
const SECRET: &str = "SimDiscord-client-secret";
/// The lowest bit of the milliseconds in a snowflake.
const TIMESTAMP_SHIFT: u32 = 22;

/// The authorization server; the application's id is set later.
pub(super) fn server(address: SocketAddr) -> AuthServer {
    AuthServer::new(CONFIG, format!("http://{address}"), "", SECRET)
}

impl State {
    /// Handles the OAuth routes and requests with a bearer token; `None` for all other requests.
    pub fn answer_oauth(&mut self, path: &[&str], call: &Call) -> Option<RestResult> {
        let answered = match (call.method.as_str(), path) {
            ("GET", ["oauth2", "authorize"]) => match self.oauth.page_error(&call.url) {
                Some(reason) => Err(error(400, 0, &reason)),
                None => ok(json!({ "message": "the consent page: tests call `consent` or `decline`" })),
            },
            ("POST", ["oauth2", "token"]) => self.exchange(call),
            ("POST", ["oauth2", "token", "revoke"]) => self.revoke_token(call),
            (_, path) if call.authorization.starts_with("Bearer ") => self.answer_bearer(path, call),
            _ => return None,
        };
        Some(answered)
    }

    fn exchange(&mut self, call: &Call) -> RestResult {
        let form = call.form.as_ref().ok_or_else(not_a_form)?;
        self.oauth.token(form, &call.authorization).map_err(RestResponse::from).and_then(ok)
    }

    fn revoke_token(&mut self, call: &Call) -> RestResult {
        let form = call.form.as_ref().ok_or_else(not_a_form)?;
        self.oauth.revoke(form, &call.authorization)?;
        ok(json!({}))
    }

    fn answer_bearer(&mut self, path: &[&str], call: &Call) -> RestResult {
        let Some((grant, remaining)) = self.oauth.bearer(&call.authorization) else {
            return Err(error(401, 0, "401: Unauthorized"));
        };
        let user = grant.subject.parse().expect("the id of a user");
        let scopes = grant.scopes.clone();
        match (call.method.as_str(), path) {
            ("GET", ["users", "@me"]) => ok(self.own_user_json(user, &scopes)),
            ("GET", ["oauth2", "@me"]) => ok(json!({
                "application": self.public_application(), "scopes": scopes, "user": self.user_json(user),
                "expires": timestamp(self.id() + (u64::try_from(remaining.as_millis()).unwrap_or(0) << TIMESTAMP_SHIFT)),
            })),
            _ => Err(self.unknown_route(&call.method, &call.path)),
        }
    }

    /// The user's own account, limited to the scopes.
    fn own_user_json(&self, user: u64, scopes: &[String]) -> Value {
        let private = json!({ "mfa_enabled": false, "locale": "en-US", "premium_type": 0 });
        let own_user = merged(self.user_json(user), private);
        if !scopes.iter().any(|scope| scope == "email") {
            return own_user;
        }
        let email = self.users[&user].email.clone();
        let verified = email.as_ref().is_some_and(|(_, verified)| *verified);
        merged(own_user, json!({ "email": email.map(|(address, _)| address), "verified": verified }))
    }

    /// The public part of the application.
    fn public_application(&self) -> Value {
        let full = self.application_json();
        let public = ["id", "name", "icon", "description", "type", "flags", "flags_new", "verify_key", "bot_public"];
        public.into_iter().map(|key| (key, full[key].clone())).collect()
    }
}

impl From<TokenError> for RestResponse {
    fn from(TokenError { status, body }: TokenError) -> Self {
        Self { status, body }
    }
}

fn not_a_form() -> RestResponse {
    let description = "The content type must be application/x-www-form-urlencoded.";
    RestResponse { status: 400, body: json!({ "error": "invalid_request", "error_description": description }) }
}
