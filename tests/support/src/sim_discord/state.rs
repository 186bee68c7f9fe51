//! The state of the Sim, from which REST responses and gateway dispatches are made.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::json::{LOADING, is_ephemeral, timestamp, write_content};
use super::session::{GatewayFaults, Interaction, Session};
use super::values::{Dm, Fault, SeenRequest};
use crate::oauth::AuthServer;
use crate::shared::{History, Shared};

/// The first id. Ids are as long as real snowflakes and the same on each run.
const FIRST_ID: u64 = 1_100_000_000_000_000_000;
/// All permission bits.
pub(super) const ALL_PERMISSIONS: u64 = (1 << 50) - 1;
const ADMINISTRATOR: u64 = 1 << 3;
/// The permissions of `@everyone` in a new guild: view channels, send messages, use application commands.
const EVERYONE: u64 = 1 << 10 | 1 << 11 | 1 << 31;
pub(super) const MANAGE_ROLES: u64 = 1 << 28;
/// The position of the bot's role; `role()` creates roles below it, `role_above_bot()` above it.
const BOT_POSITION: u64 = 500;
/// How long a nonce is remembered; Discord documents "the past few minutes".
const NONCE_WINDOW: Duration = Duration::from_mins(3);

/// A member of a guild.
pub(super) struct Member {
    pub roles: Vec<u64>,
    pub joined: u64,
    pub administrator: bool,
}

pub(super) struct Role {
    pub name: String,
    pub position: u64,
    pub permissions: u64,
    pub managed: bool,
    pub tags: Value,
}

pub(super) struct Guild {
    pub name: String,
    pub owner: u64,
    pub general: u64,
    pub roles: BTreeMap<u64, Role>,
    pub members: BTreeMap<u64, Member>,
    /// False after the bot was kicked.
    pub has_bot: bool,
    /// True during an outage of the guild.
    pub unavailable: bool,
}

pub(super) struct User {
    pub name: String,
    /// The email, and whether it is verified.
    pub email: Option<(String, bool)>,
    pub dms_open: bool,
}

/// A channel for messages.
pub(super) enum Channel {
    /// In a guild; `denied` are the permissions that its settings deny everyone.
    Guild {
        guild: u64,
        name: String,
        denied: u64,
    },
    Dm {
        user: u64,
    },
}

pub(super) struct Message {
    pub id: u64,
    pub channel: u64,
    pub json: Value,
    pub sent: Instant,
    /// The only user who sees an ephemeral message.
    pub only_for: Option<u64>,
    pub deleted: bool,
    /// Whether a test has read it.
    pub read: bool,
}

impl Message {
    /// The message as a test sees it; marks it as read.
    pub fn take(&mut self) -> Dm {
        self.read = true;
        let json = &self.json;
        let nonce = json.get("nonce").map(|nonce| nonce.as_str().map_or(nonce.to_string(), str::to_owned));
        let content = json["content"].as_str().unwrap_or("").to_owned();
        Dm { content, id: self.id, nonce, raw: json.clone() }
    }
}

/// The state that the server and the handles share.
pub(super) type Inner = Shared<State>;

/// The state of the Sim.
pub(super) struct State {
    next_id: u64,
    pub address: SocketAddr,
    pub application: u64,
    pub bot: u64,
    pub users: BTreeMap<u64, User>,
    pub guilds: BTreeMap<u64, Guild>,
    pub channels: BTreeMap<u64, Channel>,
    pub messages: Vec<Message>,
    pub interactions: BTreeMap<u64, Interaction>,
    /// The registered commands by guild; `None` is the key of the global ones.
    pub commands: BTreeMap<Option<u64>, Vec<Value>>,
    pub oauth: AuthServer,
    pub sessions: BTreeMap<String, Session>,
    pub gateway_connections: usize,
    pub identifies: Vec<Instant>,
    pub sessions_begun: usize,
    pub resumes: usize,
    pub gateway: GatewayFaults,
    pub disallow_intents: bool,
    pub reject_token: bool,
    pub faults: Vec<Fault>,
    /// How many responses are held, and how often `release()` was called.
    pub held: usize,
    pub releases: usize,
    pub requests: Vec<SeenRequest>,
    pub violations: Vec<String>,
    pub answers_checked: usize,
    pub history: Vec<String>,
}

impl History for State {
    const SIM: &'static str = "SimDiscord";

    fn history_lines(&self) -> &[String] {
        &self.history
    }
}

impl State {
    pub fn new(address: SocketAddr, oauth: AuthServer) -> Self {
        let mut state = Self {
            next_id: FIRST_ID,
            address,
            application: 0,
            bot: 0,
            users: BTreeMap::new(),
            guilds: BTreeMap::new(),
            channels: BTreeMap::new(),
            messages: Vec::new(),
            interactions: BTreeMap::new(),
            commands: BTreeMap::new(),
            oauth,
            sessions: BTreeMap::new(),
            gateway_connections: 0,
            identifies: Vec::new(),
            sessions_begun: 0,
            resumes: 0,
            gateway: GatewayFaults::default(),
            disallow_intents: false,
            reject_token: false,
            faults: Vec::new(),
            held: 0,
            releases: 0,
            requests: Vec::new(),
            violations: Vec::new(),
            answers_checked: 0,
            history: Vec::new(),
        };
        // As for all applications created since 2016, the bot's user id equals the application id.
        state.bot = state.user("dca-bot");
        state.application = state.bot;
        state.oauth.client_id = state.application.to_string();
        state
    }

    /// The next unused snowflake.
    pub fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    pub fn note(&mut self, line: impl Into<String>) {
        self.history.push(line.into());
    }

    /// Records a violation; `finish()` fails on it.
    pub fn violation(&mut self, line: String) {
        self.note(format!("VIOLATION {line}"));
        self.violations.push(line);
    }

    pub fn user(&mut self, name: &str) -> u64 {
        let id = self.id();
        let user = User { name: name.to_owned(), email: None, dms_open: true };
        self.users.insert(id, user);
        id
    }

    pub fn guild(&mut self, name: &str) -> u64 {
        let owner = self.user(&format!("owner of {name}"));
        let (id, bot_role) = (self.id(), self.id());
        let general = self.id();
        let channel = Channel::Guild { guild: id, name: "general".to_owned(), denied: 0 };
        self.channels.insert(general, channel);
        let everyone = Role {
            name: "@everyone".to_owned(),
            position: 0,
            permissions: EVERYONE,
            managed: false,
            tags: Value::Null,
        };
        let bot_managed_role = Role {
            name: self.users[&self.bot].name.clone(),
            position: BOT_POSITION,
            permissions: EVERYONE | MANAGE_ROLES,
            managed: true,
            tags: json!({ "bot_id": self.bot.to_string() }),
        };
        let guild = Guild {
            name: name.to_owned(),
            owner,
            general,
            roles: BTreeMap::from([(id, everyone), (bot_role, bot_managed_role)]),
            members: BTreeMap::new(),
            has_bot: true,
            unavailable: false,
        };
        self.guilds.insert(id, guild);
        self.add_member(id, owner, Vec::new());
        self.add_member(id, self.bot, vec![bot_role]);
        self.dispatch(Some(id), "GUILD_CREATE", &self.guild_create_json(id));
        id
    }

    pub fn add_member(&mut self, guild: u64, user: u64, roles: Vec<u64>) {
        let member = Member { roles, joined: self.id(), administrator: false };
        self.guild_mut(guild).members.insert(user, member);
    }

    pub fn add_role(&mut self, guild: u64, name: &str, above_bot: bool, tags: Value) -> u64 {
        let id = self.id();
        let roles = &mut self.guild_mut(guild).roles;
        let above = |role: &&Role| (role.position > BOT_POSITION) == above_bot;
        let count = roles.values().filter(above).count() as u64;
        let role = Role {
            name: name.to_owned(),
            position: if above_bot { BOT_POSITION + 1 + count } else { count },
            permissions: EVERYONE,
            managed: !tags.is_null(),
            tags,
        };
        roles.insert(id, role);
        let json = json!({ "guild_id": guild.to_string(), "role": self.role_json(guild, id) });
        self.dispatch(Some(guild), "GUILD_ROLE_CREATE", &json);
        id
    }

    /// Replaces a member's roles and, if they changed, dispatches the update.
    pub fn set_roles(&mut self, guild: u64, user: u64, roles: Vec<u64>) {
        for role in &roles {
            let known = self.guilds[&guild].roles.contains_key(role);
            assert!(known, "SimDiscord: guild {guild} has no role {role}");
        }
        let member = self.member_mut(guild, user);
        if member.roles != roles {
            member.roles = roles;
            let json = self.member_event_json(guild, user);
            self.dispatch(Some(guild), "GUILD_MEMBER_UPDATE", &json);
        }
    }

    pub fn user_mut(&mut self, user: u64) -> &mut User {
        self.users.get_mut(&user).expect("SimDiscord: a known user")
    }

    pub fn guild_mut(&mut self, guild: u64) -> &mut Guild {
        self.guilds.get_mut(&guild).expect("SimDiscord: a known guild")
    }

    pub fn member_mut(&mut self, guild: u64, user: u64) -> &mut Member {
        let member = self.guild_mut(guild).members.get_mut(&user);
        member.unwrap_or_else(|| panic!("SimDiscord: {user} is not a member of {guild}"))
    }

    pub fn permissions(&self, guild: u64, user: u64) -> u64 {
        let guild_state = &self.guilds[&guild];
        let Some(member) = guild_state.members.get(&user) else {
            return 0;
        };
        let everyone = guild_state.roles[&guild].permissions;
        let permissions = |role| guild_state.roles.get(role).map_or(0, |role| role.permissions);
        let granted = member.roles.iter().map(permissions).fold(everyone, |all, role| all | role);
        let unlimited = guild_state.owner == user || member.administrator;
        if unlimited || granted & ADMINISTRATOR != 0 { ALL_PERMISSIONS } else { granted }
    }

    /// The DM channel with a user, created at first use.
    pub fn dm_channel(&mut self, user: u64) -> u64 {
        let is_with_user = |channel: &Channel| matches!(channel, Channel::Dm { user: u } if *u == user);
        let known = self.channels.iter().find(|(_, channel)| is_with_user(channel)).map(|(id, _)| *id);
        known.unwrap_or_else(|| {
            let id = self.id();
            self.channels.insert(id, Channel::Dm { user });
            id
        })
    }

    /// Stores a message of the bot and returns its id. `interaction` is the user of the interaction it replies to.
    pub fn post(&mut self, channel: u64, request: &Value, interaction: Option<u64>) -> u64 {
        if let Some(earlier) = self.same_nonce(channel, request) {
            return earlier;
        }
        let id = self.id();
        let mut json = json!({
            "id": id.to_string(), "channel_id": channel.to_string(), "type": 0, "content": "",
            "author": self.user_json(self.bot), "mentions": [], "mention_roles": [],
            "attachments": [], "embeds": [], "components": [], "timestamp": timestamp(id),
            "edited_timestamp": null, "flags": request["flags"].as_u64().unwrap_or(0),
            "pinned": false, "mention_everyone": false, "tts": false,
        });
        if !request["nonce"].is_null() {
            json["nonce"] = request["nonce"].clone();
        }
        let only_for = interaction.filter(|_| is_ephemeral(&json));
        if interaction.is_some() {
            json["application_id"] = json!(self.application.to_string());
            json["webhook_id"] = json!(self.application.to_string());
        }
        write_content(&mut json, request);
        self.note(format!("message {id} in {channel}: {}", json["content"]));
        let sent = Instant::now();
        self.messages.push(Message { id, channel, json, sent, only_for, deleted: false, read: false });
        id
    }

    /// With `enforce_nonce`, the earlier message with the same nonce.
    fn same_nonce(&self, channel: u64, request: &Value) -> Option<u64> {
        if request["enforce_nonce"] != true {
            return None;
        }
        let nonce = request.get("nonce").filter(|nonce| !nonce.is_null())?;
        let same = |message: &&Message| {
            message.channel == channel
                && message.json.get("nonce") == Some(nonce)
                && message.sent.elapsed() < NONCE_WINDOW
        };
        self.messages.iter().find(same).map(|message| message.id)
    }

    pub fn message(&mut self, id: u64) -> Option<&mut Message> {
        self.messages.iter_mut().find(|message| message.id == id && !message.deleted)
    }

    /// Edits a message; a deferred one ("thinking…") now has content.
    pub fn edit(&mut self, id: u64, request: &Value) {
        let edited = timestamp(self.id());
        self.note(format!("message {id} edited: {}", request["content"]));
        let message = self.message(id).expect("the caller looked it up");
        let flags = message.json["flags"].as_u64().unwrap_or(0) & !LOADING;
        message.json["flags"] = json!(flags);
        message.json["edited_timestamp"] = json!(edited);
        write_content(&mut message.json, request);
    }
}
