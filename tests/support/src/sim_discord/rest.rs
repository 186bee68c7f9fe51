//! The REST API: routing and responses.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::{ConnectInfo, Query, Request, State as SharedState};
use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use serde_json::{Value, json};

use super::connection::ConnectionCutter;
use super::json::{merged, without_nulls};
use super::openapi;
use super::response::{Call, RestResponse, RestResult, error, no_content, ok};
use super::state::{Channel, Guild, Inner, MANAGE_ROLES, State};
use super::values::{FaultKind, SeenRequest};

/// The prefixes of the API. The version is optional; OAuth is mostly called without it.
const API: [&str; 2] = ["/api/v10", "/api"];
const FORM: &str = "application/x-www-form-urlencoded";
const VIEW_CHANNEL: u64 = 1 << 10;
const SEND_MESSAGES: u64 = 1 << 11;
const BODY_LIMIT: usize = 25 << 20;
const CONTENT_LIMIT: usize = 2000;
const MEMBERS_PAGE: usize = 1000;
/// The longest time a response is held.
const HOLD_LIMIT: Duration = Duration::from_mins(1);

/// Handles every request except the gateway's.
pub(super) async fn serve(
    SharedState(sim): SharedState<Arc<Inner>>,
    ConnectInfo(cutter): ConnectInfo<ConnectionCutter>,
    request: Request,
) -> Response {
    let (parts, body) = request.into_parts();
    let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("");
    let bytes = to_bytes(body, BODY_LIMIT).await.unwrap_or_default();
    let path = parts.uri.path();
    let form = header(CONTENT_TYPE.as_str()).starts_with(FORM);
    let form = form.then(|| url::form_urlencoded::parse(&bytes).into_owned().collect());
    let json = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
    let call = Call {
        method: parts.method.to_string(),
        path: API.iter().find_map(|api| path.strip_prefix(api)).unwrap_or(path).to_owned(),
        url: format!("http://{}{}", sim.lock().address, parts.uri),
        query: Query::try_from_uri(&parts.uri).map(|Query(query)| query).unwrap_or_default(),
        body: form.as_ref().map_or(json, |form| json!(form)),
        form,
        authorization: header(AUTHORIZATION.as_str()).to_owned(),
    };
    let mut recorded = SeenRequest {
        method: call.method.clone(),
        path: parts.uri.query().map_or(call.path.clone(), |query| format!("{}?{query}", call.path)),
        body: call.body.clone(),
        status: 0,
        reason: parts.headers.get("x-audit-log-reason").map(|reason| percent_decoded(reason.as_bytes())),
    };
    let fault = sim.change(|state| state.take_fault(&recorded.method, &recorded.path));
    if let Some(FaultKind::Slow(delay)) = fault {
        tokio::time::sleep(delay).await;
    }
    if let Some(response) = fault.as_ref().and_then(fault_response) {
        recorded.status = response.status().as_u16();
        sim.change(|state| state.record(recorded));
        return response;
    }
    let multipart = header(CONTENT_TYPE.as_str()).starts_with("multipart/");
    let (answer, releases_before) = sim.change(|state| {
        if multipart {
            state.violation(format!("the Sim does not model attachments: {}", recorded.path));
        }
        let (Ok(answer) | Err(answer)) = state.answer(&call);
        let (checked, violations) = openapi::check(&call.method, &call.path, &call.body, &answer);
        state.answers_checked += usize::from(checked);
        for violation in violations {
            state.violation(violation);
        }
        recorded.status = answer.status;
        state.record(recorded);
        state.held += usize::from(matches!(fault, Some(FaultKind::Hold)));
        (answer, state.releases)
    });
    match fault {
        Some(FaultKind::Drop) => cutter.cut(),
        Some(FaultKind::Hold) => {
            let released = |state: &mut State| (state.releases > releases_before).then_some(());
            sim.wait("release of a held response", HOLD_LIMIT, released).await;
        }
        _ => {}
    }
    let mut headers = HeaderMap::new();
    if let Some(FaultKind::Exhausts(seconds)) = fault {
        headers.insert("x-ratelimit-remaining", "0".parse().expect("a number"));
        headers.insert("x-ratelimit-reset-after", seconds.to_string().parse().expect("a number"));
    }
    respond(&answer, &headers)
}

/// The response of a fault that prevents the request.
fn fault_response(fault: &FaultKind) -> Option<Response> {
    let mut headers = HeaderMap::new();
    match fault {
        FaultKind::Status(status, body) => {
            Some(respond(&RestResponse { status: *status, body: body.clone() }, &headers))
        }
        FaultKind::RateLimited { retry_after, global, scope } => {
            let message = "You are being rate limited.";
            let body = json!({ "message": message, "retry_after": retry_after, "global": global, "code": 0 });
            let seconds = format!("{}", retry_after.ceil());
            headers.insert(RETRY_AFTER, seconds.parse().expect("a number"));
            headers.insert("x-ratelimit-scope", scope.parse().expect("a word"));
            if *global {
                headers.insert("x-ratelimit-global", "true".parse().expect("a word"));
            }
            Some(respond(&RestResponse { status: 429, body }, &headers))
        }
        FaultKind::CloudflareHtml => {
            let page = "<!doctype html><title>Access denied</title>error code: 1015";
            let response = Response::builder().status(429).header(CONTENT_TYPE, "text/html");
            Some(response.body(Body::from(page)).expect("a page"))
        }
        FaultKind::Exhausts(_) | FaultKind::Slow(_) | FaultKind::Drop | FaultKind::Hold => None,
    }
}

fn respond(answer: &RestResponse, headers: &HeaderMap) -> Response {
    let body = if answer.body.is_null() { Body::empty() } else { Body::from(answer.body.to_string()) };
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(answer.status).expect("a status");
    response.headers_mut().extend(headers.clone());
    if !answer.body.is_null() {
        response.headers_mut().insert(CONTENT_TYPE, "application/json".parse().expect("a type"));
    }
    response
}

impl State {
    fn take_fault(&mut self, method: &str, path: &str) -> Option<FaultKind> {
        let fault = self.faults.iter_mut().find(|fault| fault.matches(method, path))?;
        fault.times -= 1;
        let kind = fault.kind.clone();
        self.faults.retain(|fault| fault.times > 0);
        self.note(format!("fault {kind:?} applies to {method} {path}"));
        Some(kind)
    }

    fn record(&mut self, request: SeenRequest) {
        self.note(format!("{} {} -> {}", request.method, request.path, request.status));
        self.requests.push(request);
    }

    fn answer(&mut self, call: &Call) -> RestResult {
        let path: Vec<&str> = call.path.trim_matches('/').split('/').collect();
        if let Some(answered) = self.answer_oauth(&path, call) {
            return answered;
        }
        // Interaction tokens authorize by themselves, and the gateway URL is public.
        let open = matches!(path.as_slice(), ["gateway"] | ["interactions" | "webhooks", ..]);
        let authorized = !self.reject_token && call.authorization == format!("Bot {}", self.token());
        if !open && !authorized {
            return Err(error(401, 0, "401: Unauthorized"));
        }
        let body = &call.body;
        match (call.method.as_str(), path.as_slice()) {
            ("GET", ["gateway"]) => ok(json!({ "url": self.gateway_url() })),
            ("GET", ["gateway", "bot"]) => ok(self.gateway_json()),
            ("GET", ["users", "@me"]) => ok(self.me_json()),
            ("GET", ["oauth2", "applications", "@me"] | ["applications", "@me"]) => ok(self.application_json()),
            ("GET", ["applications", _, "commands"]) => self.list_commands(None),
            ("POST", ["applications", _, "commands"]) => Ok(self.post_command(None, body)),
            ("PUT", ["applications", _, "commands"]) => self.put_commands(None, body),
            ("GET", ["applications", _, "guilds", guild, "commands"]) => {
                let guild = self.accessible_guild(guild)?;
                self.list_commands(Some(guild))
            }
            ("POST", ["applications", _, "guilds", guild, "commands"]) => {
                let guild = self.accessible_guild(guild)?;
                Ok(self.post_command(Some(guild), body))
            }
            ("PUT", ["applications", _, "guilds", guild, "commands"]) => {
                let guild = self.accessible_guild(guild)?;
                self.put_commands(Some(guild), body)
            }
            (method, ["guilds", guild, rest @ ..]) => {
                let guild = self.accessible_guild(guild)?;
                self.answer_guild(method, guild, rest, call)
            }
            ("POST", ["users", "@me", "channels"]) => self.open_dm(body),
            ("GET", ["channels", channel]) => {
                let channel = self.accessible_channel(channel)?;
                ok(self.channel_json(channel))
            }
            ("POST", ["channels", channel, "messages"]) => self.send_message(channel, body),
            ("POST", ["interactions", id, token, "callback"]) => self.callback(snowflake(id)?, token, body),
            ("POST", ["webhooks", _, token]) => self.follow_up(token, body),
            (method @ ("GET" | "PATCH" | "DELETE"), ["webhooks", _, token, "messages", message]) => {
                self.webhook_message(method, token, message, body)
            }
            _ => Err(self.unknown_route(&call.method, &call.path)),
        }
    }

    fn answer_guild(&mut self, method: &str, guild: u64, rest: &[&str], call: &Call) -> RestResult {
        match (method, rest) {
            ("GET", []) => {
                let members = self.guilds[&guild].members.len();
                let counts = json!({ "approximate_member_count": members, "approximate_presence_count": 0 });
                let counted = call.query.get("with_counts").is_some_and(|flag| flag == "true");
                let json = self.guild_json(guild);
                ok(if counted { merged(json, counts) } else { json })
            }
            ("GET", ["roles"]) => ok(self.roles_json(guild)),
            ("GET", ["roles", "member-counts"]) => self.count_members(guild),
            ("GET", ["channels"]) => ok(self.channels_json(guild)),
            ("GET", ["members"]) => self.list_members(guild, &call.query),
            ("GET", ["members", user]) => {
                let user = self.accessible_member(guild, user)?;
                ok(self.member_json(guild, user))
            }
            ("PATCH", ["members", user]) => {
                let user = self.accessible_member(guild, user)?;
                self.patch_member(guild, user, &call.body)
            }
            ("PUT" | "DELETE", ["members", user, "roles", role]) => {
                let user = self.accessible_member(guild, user)?;
                let role = self.accessible_role(guild, role)?;
                self.check_assignable(guild, role)?;
                let mut roles = self.guilds[&guild].members[&user].roles.clone();
                roles.retain(|other| *other != role);
                roles.extend((method == "PUT").then_some(role));
                self.assign(guild, user, roles);
                Ok(no_content())
            }
            _ => Err(self.unknown_route(method, &call.path)),
        }
    }

    fn gateway_json(&self) -> Value {
        let usual = (1000_u64.saturating_sub(self.identifies.len() as u64), Duration::from_hours(4));
        let (remaining, reset_after) = self.gateway.session_limit.unwrap_or(usual);
        let limit = json!({
            "total": 1000, "remaining": remaining, "reset_after": reset_after.as_millis(), "max_concurrency": 1,
        });
        json!({ "url": self.gateway_url(), "shards": 1, "session_start_limit": limit })
    }

    pub fn unknown_route(&mut self, method: &str, path: &str) -> RestResponse {
        self.violation(format!("a route the Sim does not model: {method} {path}"));
        error(404, 0, "404: Not Found")
    }

    pub fn application_json(&self) -> Value {
        let (id, flags) = (self.application.to_string(), self.application_flags());
        json!({
            "id": id, "name": "DCA", "icon": null, "description": "", "type": null, "flags": flags,
            "flags_new": flags.to_string(), "verify_key": "0".repeat(64), "bot_public": true,
            "bot_require_code_grant": false, "redirect_uris": [], "interactions_endpoint_url": null,
            "role_connections_verification_url": null, "owner": self.user_json(self.bot),
            "bot": self.user_json(self.bot), "approximate_guild_count": self.guilds.len(),
            "approximate_user_install_count": 0, "approximate_user_authorization_count": 0,
            "explicit_content_filter": 0, "team": null, "eligible_oauth2_scopes": [],
        })
    }

    // Commands.

    fn list_commands(&self, guild: Option<u64>) -> RestResult {
        ok(json!(self.commands.get(&guild).cloned().unwrap_or_default()))
    }

    /// Replaces all commands of a scope. Commands with the same name keep their id.
    fn put_commands(&mut self, guild: Option<u64>, body: &Value) -> RestResult {
        let earlier = self.commands.remove(&guild).unwrap_or_default();
        let wanted = body.as_array().cloned().unwrap_or_default();
        let commands: Vec<Value> = wanted.iter().map(|wanted| self.command_json(guild, wanted, &earlier)).collect();
        self.commands.insert(guild, commands.clone());
        ok(json!(commands))
    }

    /// Creates a command, or replaces the one with the same name.
    fn post_command(&mut self, guild: Option<u64>, wanted: &Value) -> RestResponse {
        let mut commands = self.commands.remove(&guild).unwrap_or_default();
        let command = self.command_json(guild, wanted, &commands);
        let before = commands.len();
        commands.retain(|known| known["name"] != wanted["name"]);
        let status = if commands.len() < before { 200 } else { 201 };
        commands.push(command.clone());
        self.commands.insert(guild, commands);
        RestResponse { status, body: command }
    }

    fn command_json(&mut self, guild: Option<u64>, wanted: &Value, earlier: &[Value]) -> Value {
        let same = earlier.iter().find(|known| known["name"] == wanted["name"]);
        let id = same.map_or_else(|| json!(self.id().to_string()), |known| known["id"].clone());
        let mut command = json!({
            "id": id, "application_id": self.application.to_string(), "type": 1, "description": "",
            "version": self.id().to_string(), "nsfw": false, "integration_types": [0],
            "contexts": null, "default_member_permissions": null,
        });
        if let Some(guild) = guild {
            command["guild_id"] = json!(guild.to_string());
        }
        merged(command, without_nulls(wanted))
    }

    // Guilds and members.

    /// The guild in a path, or the error that Discord returns if the bot cannot access it.
    fn accessible_guild(&self, guild: &str) -> Result<u64, RestResponse> {
        let id = snowflake(guild)?;
        match self.guilds.get(&id) {
            None => Err(error(404, 10004, "Unknown Guild")),
            Some(guild) if guild.unavailable => Err(error(503, 0, "Service Unavailable")),
            Some(guild) if !guild.has_bot => Err(error(403, 50001, "Missing Access")),
            Some(_) => Ok(id),
        }
    }

    fn accessible_member(&self, guild: u64, user: &str) -> Result<u64, RestResponse> {
        let id = snowflake(user)?;
        match self.guilds[&guild].members.contains_key(&id) {
            true => Ok(id),
            false if self.users.contains_key(&id) => Err(error(404, 10007, "Unknown Member")),
            false => Err(error(404, 10013, "Unknown User")),
        }
    }

    fn accessible_role(&self, guild: u64, role: &str) -> Result<u64, RestResponse> {
        let id = snowflake(role)?;
        let known = self.guilds[&guild].roles.contains_key(&id);
        if known { Ok(id) } else { Err(error(404, 10011, "Unknown Role")) }
    }

    /// A page of members, ordered by user id. The default page size is one, as in Discord's API.
    fn list_members(&self, guild: u64, query: &HashMap<String, String>) -> RestResult {
        let number = |key: &str| query.get(key).and_then(|text| text.parse::<u64>().ok());
        let limit = usize::try_from(number("limit").unwrap_or(1)).unwrap_or(usize::MAX);
        if !(1..=MEMBERS_PAGE).contains(&limit) {
            return Err(error(400, 50035, "Invalid Form Body"));
        }
        let after = number("after").unwrap_or(0);
        let users = self.guilds[&guild].members.range(after.saturating_add(1)..);
        ok(users.take(limit).map(|(user, _)| self.member_json(guild, *user)).collect())
    }

    /// The number of members per role, without `@everyone`.
    fn count_members(&self, guild: u64) -> RestResult {
        let guild_state = &self.guilds[&guild];
        let mut counts: HashMap<String, usize> =
            guild_state.roles.keys().filter(|role| **role != guild).map(|role| (role.to_string(), 0)).collect();
        for role in guild_state.members.values().flat_map(|member| &member.roles) {
            *counts.entry(role.to_string()).or_default() += 1;
        }
        ok(json!(counts))
    }

    fn patch_member(&mut self, guild: u64, user: u64, body: &Value) -> RestResult {
        if let Some(wanted) = body["roles"].as_array() {
            let ids: Result<Vec<u64>, RestResponse> =
                wanted.iter().map(|role| self.accessible_role(guild, role.as_str().unwrap_or(""))).collect();
            let (wanted, current) = (ids?, self.guilds[&guild].members[&user].roles.clone());
            let added = wanted.iter().filter(|role| !current.contains(role));
            let removed = current.iter().filter(|role| !wanted.contains(role));
            for role in added.chain(removed) {
                self.check_assignable(guild, *role)?;
            }
            self.assign(guild, user, wanted);
        }
        ok(self.member_json(guild, user))
    }

    /// Checks that the bot may assign a role: it must be below the bot's highest role and not managed.
    fn check_assignable(&self, guild: u64, role: u64) -> Result<(), RestResponse> {
        let guild_state = &self.guilds[&guild];
        let wanted = &guild_state.roles[&role];
        if wanted.managed || role == guild {
            return Err(error(400, 50028, "Invalid Role"));
        }
        let position = |id: &u64| guild_state.roles.get(id).map_or(0, |role| role.position);
        let highest = guild_state.members[&self.bot].roles.iter().map(position).max().unwrap_or(0);
        let permitted = self.permissions(guild, self.bot) & MANAGE_ROLES != 0;
        if permitted && wanted.position < highest { Ok(()) } else { Err(error(403, 50013, "Missing Permissions")) }
    }

    /// Sets the roles; the bot receives its own changes as events too.
    fn assign(&mut self, guild: u64, user: u64, roles: Vec<u64>) {
        let same = roles.len() == self.guilds[&guild].members[&user].roles.len()
            && roles.iter().all(|role| self.guilds[&guild].members[&user].roles.contains(role));
        if !same {
            self.set_roles(guild, user, roles);
        }
    }

    // Channels and messages.

    fn accessible_channel(&self, channel: &str) -> Result<u64, RestResponse> {
        let id = snowflake(channel)?;
        match self.channels.get(&id) {
            None => Err(error(404, 10003, "Unknown Channel")),
            Some(Channel::Guild { denied, .. }) if denied & VIEW_CHANNEL != 0 => {
                Err(error(403, 50001, "Missing Access"))
            }
            Some(Channel::Guild { guild, .. }) => self.accessible_guild(&guild.to_string()).map(|_| id),
            Some(Channel::Dm { .. }) => Ok(id),
        }
    }

    /// Opens a DM channel. This succeeds even if the user's DMs are closed; only sending fails.
    fn open_dm(&mut self, body: &Value) -> RestResult {
        let user = snowflake(body["recipient_id"].as_str().unwrap_or(""))?;
        if user == self.bot {
            return Err(error(400, 50007, "Cannot send messages to this user"));
        }
        if !self.users.contains_key(&user) {
            return Err(error(400, 50033, "Invalid Recipient(s)"));
        }
        let channel = self.dm_channel(user);
        ok(self.channel_json(channel))
    }

    fn send_message(&mut self, channel: &str, body: &Value) -> RestResult {
        let channel = self.accessible_channel(channel)?;
        if matches!(self.channels[&channel], Channel::Guild { denied, .. } if denied & SEND_MESSAGES != 0) {
            return Err(error(403, 50013, "Missing Permissions"));
        }
        if let Channel::Dm { user } = self.channels[&channel] {
            let shared = |guild: &Guild| guild.has_bot && guild.members.contains_key(&user);
            // The choice between the two codes follows user reports; it is not documented.
            if !self.guilds.values().any(shared) {
                return Err(error(403, 50278, "Cannot send messages to this user due to having no mutual guilds"));
            }
            if !self.users[&user].dms_open {
                return Err(error(403, 50007, "Cannot send messages to this user"));
            }
        }
        let content = body["content"].as_str().unwrap_or("");
        let filled = |key: &str| body[key].as_array().is_some_and(|list| !list.is_empty());
        if content.is_empty() && !filled("embeds") && !filled("components") {
            return Err(error(400, 50006, "Cannot send an empty message"));
        }
        if content.chars().count() > CONTENT_LIMIT {
            return Err(error(400, 50035, "Invalid Form Body"));
        }
        let id = self.post(channel, body, None);
        self.message_response(id)
    }
}

fn snowflake(text: &str) -> Result<u64, RestResponse> {
    text.parse().map_err(|_| error(400, 50035, "Invalid Form Body"))
}

/// Decodes the percent-encoding of audit log reasons.
fn percent_decoded(text: &[u8]) -> String {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        let hex = std::str::from_utf8(tail.get(..2).unwrap_or(b"")).ok();
        let byte = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(|_| *first == b'%');
        bytes.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
