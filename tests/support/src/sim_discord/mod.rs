//! A stand-in for Discord: REST and gateway answered from one state, and a verb for each thing a
//! human does there.
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
//! Verbs that change the state return at once; verbs that wait have a limit and, past it, panic with
//! the Sim's history. Nothing polls and nothing sleeps.

mod gateway;
mod interactions;
mod oauth;
#[cfg(test)]
mod oauth_tests;
mod openapi;
mod people;
mod rest;
mod state;
#[cfg(test)]
mod tests;
mod values;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::any;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::DropGuard;

use crate::shared::{LIMIT, Shared};
use gateway::Frame;
use interactions::{AUTOCOMPLETE, Act, COMMAND, COMPONENT, FIRST_ANSWER};
use state::State;

pub use people::{SimGuild, SimMember};
pub use values::{Choice, Dm, Fault, FaultKind, Opt, Reply, SeenRequest};

/// The state, its lock and its bell: what the server and the handles share.
type Inner = Shared<State>;

/// A Discord of one's own on a local port. Clones are handles to the same one.
#[derive(Clone)]
pub struct SimDiscord {
    inner: Arc<Inner>,
    /// The server ends with the last handle.
    _server: Arc<DropGuard>,
}

/// Running it, and what the bot is configured with.
impl SimDiscord {
    /// Starts on a free port.
    pub async fn start() -> Self {
        Self::start_on(0).await
    }

    /// Starts on a given port, for a demo whose configuration is written down.
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
            .into_make_service_with_connect_info::<wire::Scissors>();
        let server =
            axum::serve(wire::Wires(listener), router).with_graceful_shutdown(shutdown.clone().cancelled_owned());
        tokio::spawn(server.into_future());
        Self { inner, _server: Arc::new(shutdown.drop_guard()) }
    }

    /// The address to give serenity as its proxy; REST answers under `/api/v10`.
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

    /// Everything that happened, one line each, as panics print it.
    pub fn history(&self) -> String {
        self.inner.history()
    }

    /// Every request so far, in the order they were answered.
    pub fn requests(&self) -> Vec<SeenRequest> {
        self.inner.lock().requests.clone()
    }

    /// What broke Discord's rules so far: unknown routes, and exchanges its document forbids.
    pub fn violations(&self) -> Vec<String> {
        self.inner.lock().violations.clone()
    }

    /// How many answers were held against Discord's document; 0 when `DISCORD_OPENAPI` is unset.
    pub fn answers_checked(&self) -> usize {
        self.inner.lock().answers_checked
    }

    /// Ends a test.
    ///
    /// # Panics
    /// If a rule was broken, or a message was produced that no test looked at.
    pub fn finish(&self) {
        let state = self.inner.lock();
        let unseen = |message: &&state::Message| {
            let loading = message.json["flags"].as_u64().unwrap_or(0) & state::LOADING != 0;
            !message.taken && !message.deleted && !loading
        };
        let unseen: Vec<_> = state.messages.iter().filter(unseen).map(|message| &message.json["content"]).collect();
        let violations = &state.violations;
        let clean = violations.is_empty() && unseen.is_empty();
        let report = format!("violations: {violations:#?}\nmessages nobody looked at: {unseen:#?}");
        drop(state);
        assert!(clean, "SimDiscord:\n{report}\n{}", self.history());
    }

    /// Waits until `holds` is true of this Sim; it is asked again after each change.
    ///
    /// # Panics
    /// After five seconds.
    pub async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let mut changed = self.inner.changed.subscribe();
        let held = async {
            while !holds(self) {
                changed.changed().await.expect("the sender lives in self");
            }
        };
        let held = tokio::time::timeout(LIMIT, held).await;
        assert!(held.is_ok(), "SimDiscord: not within {LIMIT:?}: {what}\n{}", self.history());
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

    /// How many sessions have begun: every accepted IDENTIFY.
    pub fn sessions(&self) -> usize {
        self.inner.lock().sessions_begun
    }

    /// How many IDENTIFYs were tried, refused ones included.
    pub fn identifies(&self) -> usize {
        self.inner.lock().identifies
    }

    /// How many sessions were resumed.
    pub fn resumes(&self) -> usize {
        self.inner.lock().resumes
    }

    /// How many sessions are live now: two for two processes.
    pub fn live_sessions(&self) -> usize {
        self.inner.lock().sessions.values().filter(|session| session.is_live()).count()
    }

    /// Closes every connection with a code, or with a frame that carries none.
    pub fn disconnect(&self, code: Option<u16>) {
        self.inner.change(|state| state.end_connections(&Frame::Close(code)));
    }

    /// Drops every connection without a word.
    pub fn cut(&self) {
        self.inner.change(|state| state.end_connections(&Frame::Cut));
    }

    /// Asks every connection to reconnect (op 7).
    pub fn reconnect_op7(&self) {
        let reconnect = Frame::Payload(json!({ "op": 7, "d": null }));
        self.inner.change(|state| state.end_connections(&reconnect));
    }

    /// No session begun so far can be resumed: RESUME answers op 9 false.
    pub fn forget_sessions(&self) {
        self.inner.change(|state| {
            state.sessions.values_mut().for_each(|session| session.forgotten = true);
        });
    }

    /// While set, new gateway connections are refused (503).
    pub fn refuse_gateway(&self, refuse: bool) {
        self.inner.change(|state| state.refuse_gateway = refuse);
    }

    /// While set, the portal's switch is off: the application's flags lack the Server Members intent, and
    /// an IDENTIFY with it is closed with 4014.
    pub fn disallow_intents(&self, disallow: bool) {
        self.inner.change(|state| state.disallow_intents = disallow);
    }

    /// While set, the token is worthless: 4004 on the gateway, 401 over REST.
    pub fn reject_token(&self, reject: bool) {
        self.inner.change(|state| state.reject_token = reject);
    }

    /// Sends an event of any name and content to all sessions whose intents cover it.
    pub fn dispatch_raw(&self, name: &str, data: &Value) {
        self.inner.change(|state| state.dispatch_anyway(name, data));
    }
}

/// Faults.
impl SimDiscord {
    /// Lets a fault happen to the next requests it fits.
    pub fn fault(&self, fault: Fault) {
        self.inner.change(|state| state.faults.push(fault));
    }

    /// The next such request fails with a status and an empty error.
    pub fn fail_next(&self, method: &str, path: &str, status: u16) {
        let body = json!({ "message": format!("{status}: injected"), "code": 0 });
        self.fault(Fault::on(method, path, FaultKind::Status(status, body)));
    }

    /// Waits until an answer is being held back by [`FaultKind::Hold`].
    pub async fn held(&self) {
        self.inner.wait("held answer", LIMIT, |state| (state.held > 0).then_some(())).await;
    }

    /// Lets all held answers go.
    pub fn release(&self) {
        self.inner.change(|state| {
            state.held = 0;
            state.releases += 1;
        });
    }

    /// Fifteen minutes pass for every interaction so far: its token no longer works.
    pub fn expire_interactions(&self) {
        self.inner.change(State::expire_interactions);
    }
}

/// Humans using the bot.
impl SimDiscord {
    /// A member runs a slash command and waits for the answer.
    ///
    /// # Panics
    /// If the bot has not registered the command, the options do not fit it, or no answer comes.
    pub async fn run(&self, member: &SimMember, command: &str, options: &[(&str, Opt)]) -> Reply {
        self.run_unanswered(member, command, options).reply().await
    }

    /// A member runs a slash command and does not wait.
    ///
    /// # Panics
    /// If the bot has not registered the command or the options do not fit it.
    pub fn run_unanswered(&self, member: &SimMember, command: &str, options: &[(&str, Opt)]) -> InteractionHandle {
        let data = self.inner.lock().command_data(member.guild, command, options, None);
        self.interact(member, COMMAND, data, None)
    }

    /// What the bot offers for an option a member has typed in part.
    ///
    /// # Panics
    /// If the option does not autocomplete, or no choices come within three seconds.
    pub async fn autocomplete(&self, member: &SimMember, command: &str, option: &str, partial: &str) -> Vec<Choice> {
        let typed = [(option, Opt::Str(partial.to_owned()))];
        let data = self.inner.lock().command_data(member.guild, command, &typed, Some(option));
        let id = self.interact(member, AUTOCOMPLETE, data, None).id;
        let choices = |state: &mut State| state.interactions[&id].choices.clone();
        self.inner.wait("autocomplete choices", FIRST_ANSWER, choices).await
    }

    /// A member picks values in a select menu of an earlier reply.
    ///
    /// # Panics
    /// If the reply has no such menu, it does not offer the values, or no answer comes.
    pub async fn choose(&self, member: &SimMember, reply: &Reply, prefix: &str, values: &[impl ToString]) -> Reply {
        let values: Vec<_> = values.iter().map(ToString::to_string).collect();
        self.use_component(member, reply, prefix, &values).reply().await
    }

    /// A member presses a button of an earlier reply.
    ///
    /// # Panics
    /// If the reply has no such button or no answer comes.
    pub async fn press(&self, member: &SimMember, reply: &Reply, prefix: &str) -> Reply {
        self.press_unanswered(member, reply, prefix).reply().await
    }

    /// A member presses a button and does not wait.
    ///
    /// # Panics
    /// If the reply has no such button.
    pub fn press_unanswered(&self, member: &SimMember, reply: &Reply, prefix: &str) -> InteractionHandle {
        self.use_component(member, reply, prefix, &[])
    }

    /// A member sends a component interaction no message ever offered: a click without values, else
    /// a select of the kind the values suggest (roles, channels, text).
    ///
    /// # Panics
    /// If no answer comes.
    pub async fn forge_component(&self, member: &SimMember, custom_id: &str, values: &[impl ToString]) -> Reply {
        let values: Vec<_> = values.iter().map(ToString::to_string).collect();
        let (data, message) = self.inner.change(|state| {
            let general = state.guilds[&member.guild].general;
            let message = state.post(general, &json!({ "content": "forged" }), None);
            state.message(message).expect("just posted").taken = true;
            (state.forged_data(member.guild, custom_id, &values), message)
        });
        self.interact(member, COMPONENT, data, Some(message)).reply().await
    }

    /// What an earlier reply's message looks like now.
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
        let act = Act { kind, guild: member.guild, user: member.user, data, source };
        InteractionHandle { sim: self.clone(), id: self.inner.change(|state| state.interact(act)) }
    }
}

/// Reading what the bot wrote.
impl SimDiscord {
    /// The next DM to a user that no test has taken yet.
    ///
    /// # Panics
    /// If none comes within five seconds.
    pub async fn next_dm(&self, member: &SimMember) -> Dm {
        self.next_dm_within(member, LIMIT).await
    }

    /// [`Self::next_dm`] with another limit.
    ///
    /// # Panics
    /// If none comes within the limit.
    pub async fn next_dm_within(&self, member: &SimMember, limit: Duration) -> Dm {
        let channel = self.inner.lock().dm_channel(member.user);
        self.next(&format!("DM to {}", member.name()), channel, limit).await
    }

    /// All DMs a user ever got; they count as looked at.
    pub fn dms(&self, member: &SimMember) -> Vec<Dm> {
        let channel = self.inner.lock().dm_channel(member.user);
        self.messages(channel)
    }

    /// Asserts that no DM to a user is waiting to be taken.
    ///
    /// # Panics
    /// If there is one.
    pub fn no_dm(&self, member: &SimMember) {
        let mut state = self.inner.lock();
        let channel = state.dm_channel(member.user);
        let dm = state.messages.iter().find(|message| message.channel == channel && !message.taken);
        let dm = dm.map(|message| message.json["content"].clone());
        drop(state);
        assert!(dm.is_none(), "SimDiscord: {} got the DM {dm:?}\n{}", member.name(), self.history());
    }

    /// The next message in a channel that no test has taken yet.
    ///
    /// # Panics
    /// If none comes within five seconds.
    pub async fn next_message(&self, channel: u64) -> Dm {
        self.next(&format!("message in {channel}"), channel, LIMIT).await
    }

    /// All messages in a channel; they count as looked at.
    pub fn messages(&self, channel: u64) -> Vec<Dm> {
        let mut state = self.inner.lock();
        let here = state.messages.iter_mut().filter(|message| message.channel == channel && !message.deleted);
        here.map(Dm::take).collect()
    }

    async fn next(&self, what: &str, channel: u64, limit: Duration) -> Dm {
        let look = |state: &mut State| {
            let waiting = |m: &&mut state::Message| m.channel == channel && !m.taken && !m.deleted;
            state.messages.iter_mut().find(waiting).map(Dm::take)
        };
        self.inner.wait(what, limit, look).await
    }
}

/// Guilds.
impl SimDiscord {
    /// Makes a guild with an owner, `@everyone`, the bot with its own role, and `#general`.
    pub fn guild(&self, name: &str) -> SimGuild {
        SimGuild { sim: self.clone(), id: self.inner.change(|state| state.guild(name)) }
    }
}

/// An interaction on its way.
#[derive(Clone)]
pub struct InteractionHandle {
    sim: SimDiscord,
    id: u64,
}

impl InteractionHandle {
    /// Waits for the answer a human reads: a first response within three seconds and, if that only
    /// defers, its completion.
    ///
    /// # Panics
    /// If it does not come.
    pub async fn reply(&self) -> Reply {
        let (inner, id) = (&self.sim.inner, self.id);
        let first = |state: &mut State| state.interactions[&id].first;
        inner.wait("first response to an interaction", FIRST_ANSWER, first).await;
        let answered = |state: &mut State| {
            let interaction = &state.interactions[&id];
            let deferred = interaction.is_deferred();
            if let Some(modal) = &interaction.modal {
                return Some(Reply::new(modal.clone(), deferred));
            }
            let answer = interaction.answer?;
            let message = state.messages.iter_mut().find(|message| message.id == answer)?;
            message.taken = true;
            Some(Reply::new(message.json.clone(), deferred))
        };
        inner.wait("answer to an interaction", LIMIT, answered).await
    }

    /// Whether the bot has responded in any way, deferring included.
    pub fn is_acknowledged(&self) -> bool {
        self.sim.inner.lock().interactions[&self.id].first.is_some()
    }
}
