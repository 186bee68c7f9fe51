//! Interactions: commands, component clicks and autocomplete, and the rules for responses to them.

use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::json::{LOADING, merged};
use super::response::{RestResponse, RestResult, error, no_content, ok};
use super::session::Interaction;
use super::state::{ALL_PERMISSIONS, State};
use super::values::{Choice, Opt};

pub(super) const COMMAND: u64 = 2;
pub(super) const COMPONENT: u64 = 3;
pub(super) const AUTOCOMPLETE: u64 = 4;

const BUTTON: u64 = 2;
const STRING_SELECT: u64 = 3;
const ROLE_SELECT: u64 = 6;
const CHANNEL_SELECT: u64 = 8;

/// A user's action, before it has ids.
pub(super) struct UserAction {
    pub kind: u64,
    pub guild: u64,
    pub user: u64,
    pub data: Value,
    pub source: Option<u64>,
}

impl State {
    /// Sends `INTERACTION_CREATE` and returns the interaction's id.
    pub fn interact(&mut self, action: UserAction) -> u64 {
        let UserAction { kind, guild, user, data, source } = action;
        assert!(!self.sessions.is_empty(), "SimDiscord: the bot has never connected");
        let id = self.id();
        let token = format!("sim-interaction-token-{id}");
        let channel = source.and_then(|source| Some(self.message(source)?.channel));
        let channel = channel.unwrap_or(self.guilds[&guild].general);
        let permissions = json!({ "permissions": self.permissions(guild, user).to_string() });
        let mut payload = json!({
            "id": id.to_string(), "application_id": self.application.to_string(), "type": kind,
            "token": token, "version": 1, "data": data, "guild_id": guild.to_string(),
            "guild": { "id": guild.to_string(), "locale": "en-US", "features": [] },
            "channel_id": channel.to_string(),
            "channel": merged(self.channel_json(channel), permissions.clone()),
            "member": merged(self.member_json(guild, user), permissions),
            "app_permissions": self.permissions(guild, self.bot).to_string(),
            "locale": "en-US", "guild_locale": "en-US", "entitlements": [], "context": 0,
            "authorizing_integration_owners": { "0": guild.to_string() },
            "attachment_size_limit": 10_485_760,
        });
        if let Some(message) = source.and_then(|source| self.message(source)) {
            payload["message"] = message.json.clone();
        }
        let interaction = Interaction {
            token,
            kind,
            channel,
            user,
            source,
            created_at: Instant::now(),
            expired: false,
            first: None,
            original: None,
            answer: None,
            choices: None,
            modal: None,
        };
        self.interactions.insert(id, interaction);
        self.note(format!("{} sends interaction {id}: {}", self.users[&user].name, payload["data"]));
        self.dispatch(Some(guild), "INTERACTION_CREATE", &payload);
        id
    }

    /// The data of a command interaction, validated like in Discord's client. `focused` is the option being typed
    /// in an autocomplete.
    pub fn command_data(&self, guild: u64, path: &str, options: &[(&str, Opt)], focused: Option<&str>) -> Value {
        let mut words = path.trim_start_matches('/').split_whitespace();
        let name = words.next().unwrap_or_default();
        let registered = [Some(guild), None].into_iter().filter_map(|scope| self.commands.get(&scope));
        let command = registered.flatten().find(|command| command["name"] == name);
        let command = command.unwrap_or_else(|| panic!("SimDiscord: the bot has not registered /{name}"));
        let mut leaf = command;
        let mut nesting = Vec::new();
        for word in words {
            let inner = options_of(leaf).find(|o| o["name"] == word && matches!(o["type"].as_u64(), Some(1 | 2)));
            leaf = inner.unwrap_or_else(|| panic!("SimDiscord: {path}: no subcommand {word}"));
            nesting.push(leaf);
        }
        let mut resolved = Map::new();
        let mut filled = Vec::new();
        for (name, value) in options {
            let option = options_of(leaf).find(|option| option["name"] == *name);
            let option = option.unwrap_or_else(|| panic!("SimDiscord: {path} has no option {name}"));
            let is_focused = focused == Some(name);
            filled.push(Self::option_data(path, option, value, is_focused));
            self.resolve(guild, value, &mut resolved);
        }
        // Autocomplete has no required options.
        for option in options_of(leaf).filter(|option| option["required"] == true && focused.is_none()) {
            let given = options.iter().any(|(name, _)| option["name"] == *name);
            assert!(given, "SimDiscord: {path} needs the option {}", option["name"]);
        }
        if let Some(name) = focused {
            let option = options_of(leaf).find(|option| option["name"] == name);
            let completes = option.is_some_and(|option| option["autocomplete"] == true);
            assert!(completes, "SimDiscord: {path}: {name} does not autocomplete");
        }
        let filled = nesting.iter().rev().fold(
            json!(filled),
            |inner, level| json!([{ "name": level["name"], "type": level["type"], "options": inner }]),
        );
        let mut data = json!({
            "id": command["id"], "name": name, "type": 1, "options": filled, "resolved": resolved,
        });
        if let Some(guild) = command.get("guild_id") {
            data["guild_id"] = guild.clone();
        }
        data
    }

    fn option_data(path: &str, option: &Value, value: &Opt, focused: bool) -> Value {
        let (kind, json) = match value {
            Opt::Str(text) => (3, json!(text)),
            Opt::Int(number) => (4, json!(number)),
            Opt::Bool(flag) => (5, json!(flag)),
            Opt::User(id) => (6, json!(id.to_string())),
            Opt::Channel(id) => (7, json!(id.to_string())),
            Opt::Role(id) => (8, json!(id.to_string())),
        };
        let name = &option["name"];
        // Autocomplete sends even numbers as text.
        let matches = option["type"] == kind || (focused && kind == 3);
        assert!(matches, "SimDiscord: {path}: {name} has type {}, not {kind}", option["type"]);
        let choices = option["choices"].as_array().filter(|choices| !choices.is_empty() && !focused);
        let offered = choices.is_none_or(|choices| choices.iter().any(|choice| choice["value"] == json));
        assert!(offered, "SimDiscord: {path}: {name} does not offer {json}");
        let mut data = json!({ "name": name, "type": option["type"], "value": json });
        if focused {
            data["focused"] = json!(true);
        }
        data
    }

    /// Adds the object of an id to the resolved data.
    fn resolve(&self, guild: u64, value: &Opt, resolved: &mut Map<String, Value>) {
        let mut add = |kind: &str, id: u64, object: Value| {
            resolved.entry(kind).or_insert(json!({}))[id.to_string()] = object;
        };
        match *value {
            Opt::Role(id) => add("roles", id, self.role_json(guild, id)),
            Opt::Channel(id) => {
                let permissions = json!({ "permissions": ALL_PERMISSIONS.to_string() });
                add("channels", id, merged(self.channel_json(id), permissions));
            }
            Opt::User(id) => {
                add("users", id, self.user_json(id));
                if self.guilds[&guild].members.contains_key(&id) {
                    let mut member = self.member_json(guild, id);
                    member["permissions"] = json!(self.permissions(guild, id).to_string());
                    // Resolved members have no user and no voice state.
                    for key in ["user", "deaf", "mute"] {
                        member.as_object_mut().expect("a member").remove(key);
                    }
                    add("members", id, member);
                }
            }
            Opt::Str(_) | Opt::Int(_) | Opt::Bool(_) => {}
        }
    }

    /// The data of a component interaction: a click, or a selection of `values`.
    pub fn component_data(&mut self, guild: u64, user: u64, message: u64, prefix: &str, values: &[String]) -> Value {
        let Some(message) = self.message(message) else {
            panic!("SimDiscord: the message with {prefix:?} was deleted")
        };
        let visible = message.only_for.is_none_or(|only| only == user);
        assert!(visible, "SimDiscord: {user} cannot see that ephemeral message");
        let components = message.json["components"].clone();
        let rows = components.as_array().into_iter().flatten();
        let mut parts = rows.flat_map(|row| row["components"].as_array().into_iter().flatten());
        let component = parts.find(|part| part["custom_id"].as_str().is_some_and(|id| id.starts_with(prefix)));
        let component = component.unwrap_or_else(|| panic!("SimDiscord: no component {prefix:?} in {components}"));
        assert!(component["disabled"] != true, "SimDiscord: {prefix:?} is disabled");
        let kind = component["type"].as_u64().unwrap_or_default();
        assert_eq!(kind == BUTTON, values.is_empty(), "SimDiscord: press buttons, choose in selects");
        if kind != BUTTON {
            let bound = |key: &str| usize::try_from(component[key].as_u64().unwrap_or(1)).unwrap_or(1);
            let allowed = bound("min_values")..=bound("max_values");
            assert!(allowed.contains(&values.len()), "SimDiscord: {prefix:?} takes {allowed:?} values");
        }
        if kind == STRING_SELECT {
            let offers = |value: &String| options_of(component).any(|option| option["value"] == **value);
            assert!(values.iter().all(offers), "SimDiscord: {prefix:?} does not offer {values:?}");
        }
        let custom_id = component["custom_id"].as_str().unwrap_or_default();
        self.raw_component_data(guild, kind, custom_id, values)
    }

    /// The data of a component interaction that no message offered. The type follows from the values.
    pub fn forged_data(&self, guild: u64, custom_id: &str, values: &[String]) -> Value {
        let id = values.first().and_then(|value| value.parse::<u64>().ok());
        let kind = match id {
            _ if values.is_empty() => BUTTON,
            Some(id) if self.guilds[&guild].roles.contains_key(&id) => ROLE_SELECT,
            Some(id) if self.channels.contains_key(&id) => CHANNEL_SELECT,
            _ => STRING_SELECT,
        };
        self.raw_component_data(guild, kind, custom_id, values)
    }

    fn raw_component_data(&self, guild: u64, kind: u64, custom_id: &str, values: &[String]) -> Value {
        let mut resolved = Map::new();
        for id in values.iter().filter_map(|value| value.parse().ok()) {
            match kind {
                5 => self.resolve(guild, &Opt::User(id), &mut resolved),
                ROLE_SELECT => self.resolve(guild, &Opt::Role(id), &mut resolved),
                CHANNEL_SELECT => self.resolve(guild, &Opt::Channel(id), &mut resolved),
                _ => {}
            }
        }
        let mut data = json!({ "custom_id": custom_id, "component_type": kind, "id": 1 });
        if kind != BUTTON {
            data["values"] = json!(values);
            data["resolved"] = json!(resolved);
        }
        data
    }

    /// `POST /interactions/{id}/{token}/callback`
    pub fn callback(&mut self, id: u64, token: &str, body: &Value) -> RestResult {
        let interaction = self.interactions.get(&id).filter(|found| found.token == token && !found.is_late());
        let Some(interaction) = interaction else {
            return Err(error(404, 10062, "Unknown interaction"));
        };
        if interaction.first.is_some() {
            return Err(error(400, 40060, "Interaction has already been acknowledged."));
        }
        let (kind, channel) = (interaction.kind, interaction.channel);
        let (user, source) = (interaction.user, interaction.source);
        let response_type = body["type"].as_u64().unwrap_or_default();
        let allowed = match response_type {
            4 | 5 | 9 => kind != AUTOCOMPLETE,
            6 | 7 => kind == COMPONENT,
            8 => kind == AUTOCOMPLETE,
            _ => false,
        };
        if !allowed {
            return Err(error(400, 50035, "Invalid Form Body"));
        }
        let (mut original, mut answer) = (source, None);
        match response_type {
            4 => {
                original = Some(self.post(channel, &body["data"], Some(user)));
                answer = original;
            }
            5 => {
                let flags = body["data"]["flags"].as_u64().unwrap_or(0) | LOADING;
                original = Some(self.post(channel, &json!({ "flags": flags }), Some(user)));
            }
            7 => {
                if let Some(source) = source.filter(|id| self.message(*id).is_some()) {
                    self.edit(source, &body["data"]);
                }
                answer = source;
            }
            _ => {}
        }
        let interaction = self.interactions.get_mut(&id).expect("looked up above");
        interaction.first = Some(response_type);
        interaction.original = original;
        interaction.answer = answer;
        interaction.modal = (response_type == 9).then(|| body["data"].clone());
        let choices = body["data"]["choices"].as_array().filter(|_| response_type == 8);
        interaction.choices = choices.map(|choices| choices.iter().map(Choice::from_json).collect());
        Ok(no_content())
    }

    /// The interaction of a webhook token, after its first response.
    fn by_token(&mut self, token: &str) -> Result<&mut Interaction, RestResponse> {
        let found = self.interactions.values_mut().find(|found| found.token == token && found.first.is_some());
        let interaction = found.ok_or_else(|| error(404, 10015, "Unknown Webhook"))?;
        if interaction.is_token_expired() { Err(error(401, 50027, "Invalid Webhook Token")) } else { Ok(interaction) }
    }

    /// `POST /webhooks/{application}/{token}`: after a deferral (type 5), the first one edits the deferred message.
    pub fn follow_up(&mut self, token: &str, body: &Value) -> RestResult {
        let interaction = self.by_token(token)?;
        let (channel, user) = (interaction.channel, interaction.user);
        let deferred = interaction.original.filter(|_| interaction.first == Some(5) && interaction.answer.is_none());
        let message = match deferred {
            Some(original) => {
                self.edit(original, body);
                original
            }
            None => self.post(channel, body, Some(user)),
        };
        self.by_token(token)?.answer.get_or_insert(message);
        self.message_response(message)
    }

    /// `GET|PATCH|DELETE /webhooks/{application}/{token}/messages/{message}`
    pub fn webhook_message(&mut self, method: &str, token: &str, message: &str, body: &Value) -> RestResult {
        let interaction = self.by_token(token)?;
        let id = if message == "@original" { interaction.original } else { message.parse().ok() };
        let id = id.ok_or_else(|| error(404, 10008, "Unknown Message"))?;
        let found = self.message(id).ok_or_else(|| error(404, 10008, "Unknown Message"))?;
        if method == "GET" {
            return self.message_response(id);
        }
        found.deleted = method == "DELETE";
        self.by_token(token)?.answer.get_or_insert(id);
        if method == "DELETE" {
            self.note(format!("message {id} deleted"));
            return Ok(no_content());
        }
        self.edit(id, body);
        self.message_response(id)
    }

    /// The response with a message.
    pub fn message_response(&mut self, id: u64) -> RestResult {
        let message = self.message(id).ok_or_else(|| error(404, 10008, "Unknown Message"))?;
        ok(message.json.clone())
    }

    /// Expires the tokens of all interactions so far.
    pub fn expire_interactions(&mut self) {
        self.interactions.values_mut().for_each(|interaction| interaction.expired = true);
    }
}

fn options_of(part: &Value) -> impl Iterator<Item = &Value> {
    part["options"].as_array().into_iter().flatten()
}
