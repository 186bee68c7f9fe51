//! A Sim of Discord: REST, gateway and OAuth served from one state, and a method for each thing that users do
//! there.
//!
//! ```no_run
//! # use dca_test_support::{Opt, SimDiscord};
//! # async fn example() {
//! let discord = SimDiscord::start().await;
//! // … start the bot against discord.base_url() and discord.token() …
//! discord.connected().await;
//! let guild = discord.guild("Makers");
//! let (gold, ana) = (guild.role("Gold"), guild.join("ana"));
//! discord.run(&guild.owner(), "/mapping add", &[("role", Opt::Role(gold))]).await;
//! ana.grant(gold);
//! assert!(discord.next_dm(&ana).await.content.contains("license"));
//! discord.finish();
//! # }
//! ```
//!
//! Methods that change the state return at once. Methods that wait have a limit and panic with the Sim's history
//! when it is exceeded; they do not poll.

mod connection;
mod gateway;
mod guilds;
mod interactions;
mod oauth;
#[cfg(test)]
mod oauth_tests;
mod openapi;
mod rest;
mod state;
#[cfg(test)]
mod tests;
mod values;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::any;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::DropGuard;

use crate::shared::{LIMIT, Shared};
use gateway::Frame;
use interactions::{AUTOCOMPLETE, COMMAND, COMPONENT, RESPONSE_LIMIT, UserAction};
use state::State;

pub use guilds::{SimGuild, SimMember};
pub use values::{Choice, Dm, Fault, FaultKind, Opt, Reply, SeenRequest};

/// The state that the server and the handles share.
type Inner = Shared<State>;

/// A simulated Discord on a local port. Clones share the same server.
#[derive(Clone)]
pub struct SimDiscord {
    inner: Arc<Inner>,
    /// Stops the server when the last handle is dropped.
    _server: Arc<DropGuard>,
}

/// Server and configuration.
impl SimDiscord {
    /// Starts on a free port.
    pub async fn start() -> Self {
        Self::start_on(0).await
    }

    /// Starts on a given port, for a demo with a fixed configuration.
    ///
    /// # Panics
    /// If the port is taken.
    pub async fn start_on(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.expect("a free local port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let inner = Arc::new(Inner::new(State::new(address)));
        let shutdown = inner.shutdown.clone();
        let router = Router::new()
            .route("/gw", any(gateway::connect))
            .route("/gw/", any(gateway::connect))
            .fallback(rest::serve)
            .with_state(Arc::clone(&inner))
            .into_make_service_with_connect_info::<connection::ConnectionCutter>();
        let server = axum::serve(connection::CuttableListener(listener), router)
            .with_graceful_shutdown(shutdown.clone().cancelled_owned());
        tokio::spawn(server.into_future());
        Self { inner, _server: Arc::new(shutdown.drop_guard()) }
    }

    /// The base URL, to be set as serenity's proxy; REST is served under `/api/v10`.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.inner.lock().address)
    }

    /// The bot's token.
    pub fn token(&self) -> String {
        self.inner.lock().token()
    }

    /// The application's id.
    pub fn application_id(&self) -> u64 {
        self.inner.lock().application
    }

    /// The bot user's id.
    pub fn bot_id(&self) -> u64 {
        self.inner.lock().bot
    }

    /// The history, one line per event, as panics print it.
    pub fn history(&self) -> String {
        self.inner.history()
    }

    /// All requests so far, in the order of their responses.
    pub fn requests(&self) -> Vec<SeenRequest> {
        self.inner.lock().requests.clone()
    }

    /// All violations so far: unknown routes, and exchanges that Discord's OpenAPI document does not allow.
    pub fn violations(&self) -> Vec<String> {
        self.inner.lock().violations.clone()
    }

    /// How many responses were validated against Discord's OpenAPI document; 0 if `DISCORD_OPENAPI` is not set.
    pub fn answers_checked(&self) -> usize {
        self.inner.lock().answers_checked
    }

    /// Ends a test and checks the Sim.
    ///
    /// # Panics
    /// If there was a violation, or a message that no test read.
    pub fn finish(&self) {
        let state = self.inner.lock();
        let is_unread = |message: &&state::Message| {
            let loading = message.json["flags"].as_u64().unwrap_or(0) & state::LOADING != 0;
            !message.read && !message.deleted && !loading
        };
        let unread: Vec<_> = state.messages.iter().filter(is_unread).map(|message| &message.json["content"]).collect();
        let violations = &state.violations;
        let clean = violations.is_empty() && unread.is_empty();
        let report = format!("violations: {violations:#?}\nunread messages: {unread:#?}");
        drop(state);
        assert!(clean, "SimDiscord:\n{report}\n{}", self.history());
    }

    /// Waits until `condition` is true; it is checked again after each change.
    ///
    /// # Panics
    /// After ten seconds.
    pub async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let mut changed = self.inner.changed.subscribe();
        let reached = async {
            while !condition(self) {
                changed.changed().await.expect("the sender is owned by self");
            }
        };
        let result = tokio::time::timeout(LIMIT, reached).await;
        assert!(result.is_ok(), "SimDiscord: not within {LIMIT:?}: {what}\n{}", self.history());
    }
}

/// The gateway: connections and sessions.
impl SimDiscord {
    /// Waits until the bot has a live session.
    pub async fn connected(&self) {
        self.inner.wait("gateway session", LIMIT, |state| state.is_connected().then_some(())).await;
    }

    /// Whether the bot has a live session now.
    pub fn is_connected(&self) -> bool {
        self.inner.lock().is_connected()
    }

    /// How many IDENTIFYs were accepted.
    pub fn sessions(&self) -> usize {
        self.inner.lock().sessions_begun
    }

    /// How many IDENTIFYs were received, including refused ones.
    pub fn identifies(&self) -> usize {
        self.inner.lock().identifies
    }

    /// How many sessions were resumed.
    pub fn resumes(&self) -> usize {
        self.inner.lock().resumes
    }

    /// How many sessions are live now, one per running bot.
    pub fn live_sessions(&self) -> usize {
        self.inner.lock().sessions.values().filter(|session| session.is_live()).count()
    }

    /// Closes all connections with a code, or with a close frame without one.
    pub fn disconnect(&self, code: Option<u16>) {
        self.inner.change(|state| state.end_connections(&Frame::Close(code)));
    }

    /// Drops all connections without a close frame.
    pub fn cut(&self) {
        self.inner.change(|state| state.end_connections(&Frame::Cut));
    }

    /// Asks all connections to reconnect (op 7).
    pub fn reconnect_op7(&self) {
        let reconnect = Frame::Payload(json!({ "op": 7, "d": null }));
        self.inner.change(|state| state.end_connections(&reconnect));
    }

    /// Makes all sessions so far non-resumable: RESUME returns op 9 with `false`.
    pub fn forget_sessions(&self) {
        self.inner.change(|state| {
            state.sessions.values_mut().for_each(|session| session.forgotten = true);
        });
    }

    /// While set, new gateway connections are refused (503).
    pub fn refuse_gateway(&self, refuse: bool) {
        self.inner.change(|state| state.refuse_gateway = refuse);
    }

    /// While set, the Server Members Intent is switched off in the developer portal: the application's flags lack
    /// it, and an IDENTIFY with it is closed with 4014.
    pub fn disallow_intents(&self, disallow: bool) {
        self.inner.change(|state| state.disallow_intents = disallow);
    }

    /// While set, the token is invalid: 4004 on the gateway, 401 over REST.
    pub fn reject_token(&self, reject: bool) {
        self.inner.change(|state| state.reject_token = reject);
    }

    /// Sends any event to all sessions whose intents include it.
    pub fn dispatch_raw(&self, name: &str, data: &Value) {
        self.inner.change(|state| state.dispatch_anyway(name, data));
    }
}

/// Faults.
impl SimDiscord {
    /// Injects a fault into the next matching requests.
    pub fn fault(&self, fault: Fault) {
        self.inner.change(|state| state.faults.push(fault));
    }

    /// Fails the next matching request with this status and a generic error.
    pub fn fail_next(&self, method: &str, path: &str, status: u16) {
        let body = json!({ "message": format!("{status}: injected"), "code": 0 });
        self.fault(Fault::on(method, path, FaultKind::Status(status, body)));
    }

    /// Waits until a response is held by [`FaultKind::Hold`].
    pub async fn held(&self) {
        self.inner.wait("held response", LIMIT, |state| (state.held > 0).then_some(())).await;
    }

    /// Sends all held responses.
    pub fn release(&self) {
        self.inner.change(|state| {
            state.held = 0;
            state.releases += 1;
        });
    }

    /// Expires the tokens of all interactions so far.
    pub fn expire_interactions(&self) {
        self.inner.change(State::expire_interactions);
    }
}

/// Interactions of users with the bot.
impl SimDiscord {
    /// Runs a slash command as a member and waits for the reply.
    ///
    /// # Panics
    /// If the bot has not registered the command, the options do not fit it, or no reply arrives.
    pub async fn run(&self, member: &SimMember, command: &str, options: &[(&str, Opt)]) -> Reply {
        self.run_unanswered(member, command, options).reply().await
    }

    /// Runs a slash command as a member without waiting.
    ///
    /// # Panics
    /// If the bot has not registered the command or the options do not fit it.
    pub fn run_unanswered(&self, member: &SimMember, command: &str, options: &[(&str, Opt)]) -> InteractionHandle {
        let data = self.inner.lock().command_data(member.guild, command, options, None);
        self.interact(member, COMMAND, data, None)
    }

    /// The autocomplete choices for a partly typed option.
    ///
    /// # Panics
    /// If the option does not autocomplete, or no choices arrive within three seconds.
    pub async fn autocomplete(&self, member: &SimMember, command: &str, option: &str, partial: &str) -> Vec<Choice> {
        let typed = [(option, Opt::Str(partial.to_owned()))];
        let data = self.inner.lock().command_data(member.guild, command, &typed, Some(option));
        let id = self.interact(member, AUTOCOMPLETE, data, None).id;
        let choices = |state: &mut State| state.interactions[&id].choices.clone();
        self.inner.wait("autocomplete choices", RESPONSE_LIMIT, choices).await
    }

    /// Chooses values in a select menu of an earlier reply.
    ///
    /// # Panics
    /// If the reply has no such menu, it does not offer the values, or no reply arrives.
    pub async fn choose(&self, member: &SimMember, reply: &Reply, prefix: &str, values: &[impl ToString]) -> Reply {
        let values: Vec<_> = values.iter().map(ToString::to_string).collect();
        self.use_component(member, reply, prefix, &values).reply().await
    }

    /// Presses a button of an earlier reply.
    ///
    /// # Panics
    /// If the reply has no such button or no reply arrives.
    pub async fn press(&self, member: &SimMember, reply: &Reply, prefix: &str) -> Reply {
        self.press_unanswered(member, reply, prefix).reply().await
    }

    /// Presses a button without waiting.
    ///
    /// # Panics
    /// If the reply has no such button.
    pub fn press_unanswered(&self, member: &SimMember, reply: &Reply, prefix: &str) -> InteractionHandle {
        self.use_component(member, reply, prefix, &[])
    }

    /// Sends a component interaction that no message offered: a button click without values, or a select of the
    /// type that the values suggest (roles, channels or text).
    ///
    /// # Panics
    /// If no reply arrives.
    pub async fn forge_component(&self, member: &SimMember, custom_id: &str, values: &[impl ToString]) -> Reply {
        let values: Vec<_> = values.iter().map(ToString::to_string).collect();
        let (data, message) = self.inner.change(|state| {
            let general = state.guilds[&member.guild].general;
            let message = state.post(general, &json!({ "content": "forged" }), None);
            state.message(message).expect("just posted").read = true;
            (state.forged_data(member.guild, custom_id, &values), message)
        });
        self.interact(member, COMPONENT, data, Some(message)).reply().await
    }

    /// The present state of an earlier reply's message.
    ///
    /// # Panics
    /// If it was deleted.
    pub fn current(&self, reply: &Reply) -> Reply {
        let json = self.inner.lock().message(reply.message()).expect("the message still exists").json.clone();
        Reply::new(json, reply.deferred)
    }

    fn use_component(&self, member: &SimMember, reply: &Reply, prefix: &str, values: &[String]) -> InteractionHandle {
        let message = reply.message();
        let data = self.inner.lock().component_data(member.guild, member.user, message, prefix, values);
        self.interact(member, COMPONENT, data, Some(message))
    }

    fn interact(&self, member: &SimMember, kind: u64, data: Value, source: Option<u64>) -> InteractionHandle {
        let action = UserAction { kind, guild: member.guild, user: member.user, data, source };
        InteractionHandle { sim: self.clone(), id: self.inner.change(|state| state.interact(action)) }
    }
}

/// Reading the bot's messages.
impl SimDiscord {
    /// Waits for the next unread DM to a user.
    ///
    /// # Panics
    /// If none arrives within ten seconds.
    pub async fn next_dm(&self, member: &SimMember) -> Dm {
        self.next_dm_within(member, LIMIT).await
    }

    /// [`Self::next_dm`] with another limit.
    ///
    /// # Panics
    /// If none arrives within the limit.
    pub async fn next_dm_within(&self, member: &SimMember, limit: Duration) -> Dm {
        let channel = self.inner.lock().dm_channel(member.user);
        self.next(&format!("DM to {}", member.name()), channel, limit).await
    }

    /// All DMs to a user so far; marks them as read.
    pub fn dms(&self, member: &SimMember) -> Vec<Dm> {
        let channel = self.inner.lock().dm_channel(member.user);
        self.messages(channel)
    }

    /// Asserts that there is no unread DM to a user.
    ///
    /// # Panics
    /// If there is one.
    pub fn no_dm(&self, member: &SimMember) {
        let mut state = self.inner.lock();
        let channel = state.dm_channel(member.user);
        let dm = state.messages.iter().find(|message| message.channel == channel && !message.read);
        let dm = dm.map(|message| message.json["content"].clone());
        drop(state);
        assert!(dm.is_none(), "SimDiscord: {} received the DM {dm:?}\n{}", member.name(), self.history());
    }

    /// Waits for the next unread message in a channel.
    ///
    /// # Panics
    /// If none arrives within ten seconds.
    pub async fn next_message(&self, channel: u64) -> Dm {
        self.next(&format!("message in {channel}"), channel, LIMIT).await
    }

    /// All messages in a channel; marks them as read.
    pub fn messages(&self, channel: u64) -> Vec<Dm> {
        let mut state = self.inner.lock();
        let messages = state.messages.iter_mut().filter(|message| message.channel == channel && !message.deleted);
        messages.map(Dm::take).collect()
    }

    async fn next(&self, what: &str, channel: u64, limit: Duration) -> Dm {
        let find = |state: &mut State| {
            let is_unread = |m: &&mut state::Message| m.channel == channel && !m.read && !m.deleted;
            state.messages.iter_mut().find(is_unread).map(Dm::take)
        };
        self.inner.wait(what, limit, find).await
    }
}

/// Guilds.
impl SimDiscord {
    /// Creates a guild with an owner, `@everyone`, the bot with its managed role, and `#general`.
    pub fn guild(&self, name: &str) -> SimGuild {
        SimGuild { sim: self.clone(), id: self.inner.change(|state| state.guild(name)) }
    }
}

/// An interaction that was sent to the bot.
#[derive(Clone)]
pub struct InteractionHandle {
    sim: SimDiscord,
    id: u64,
}

impl InteractionHandle {
    /// Waits for the reply that the user sees: a first response within three seconds and, if it is deferred, its
    /// completion.
    ///
    /// # Panics
    /// If it does not arrive.
    pub async fn reply(&self) -> Reply {
        let (inner, id) = (&self.sim.inner, self.id);
        let first = |state: &mut State| state.interactions[&id].first;
        inner.wait("first response to an interaction", RESPONSE_LIMIT, first).await;
        let answered = |state: &mut State| {
            let interaction = &state.interactions[&id];
            let deferred = interaction.is_deferred();
            if let Some(modal) = &interaction.modal {
                return Some(Reply::new(modal.clone(), deferred));
            }
            let answer = interaction.answer?;
            let message = state.messages.iter_mut().find(|message| message.id == answer)?;
            message.read = true;
            Some(Reply::new(message.json.clone(), deferred))
        };
        inner.wait("reply to an interaction", LIMIT, answered).await
    }

    /// Whether the bot has responded, possibly with a deferral.
    pub fn is_acknowledged(&self) -> bool {
        self.sim.inner.lock().interactions[&self.id].first.is_some()
    }
}
