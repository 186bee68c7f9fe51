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

mod actions;
mod connection;
mod gateway;
mod guilds;
mod interactions;
mod json;
mod oauth;
#[cfg(test)]
mod oauth_tests;
mod openapi;
mod representation;
mod response;
mod rest;
mod session;
mod state;
#[cfg(test)]
mod test_clients;
#[cfg(test)]
mod tests;
mod values;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::any;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_util::sync::DropGuard;

use crate::shared::LIMIT;
use json::LOADING;
use session::Frame;
use state::{Inner, State};

pub use actions::InteractionHandle;
pub use guilds::{SimGuild, SimMember};
pub use values::{Choice, Dm, Fault, FaultKind, Opt, Reply, SeenRequest};

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
        let inner = Arc::new(Inner::new(State::new(address, oauth::server(address))));
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
            let loading = message.json["flags"].as_u64().unwrap_or(0) & LOADING != 0;
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

    /// How many connections were attempted.
    pub fn gateway_connections(&self) -> usize {
        self.inner.lock().gateway_connections
    }

    /// How many IDENTIFYs were received, including refused ones.
    pub fn identifies(&self) -> usize {
        self.inner.lock().identifies.len()
    }

    /// When the IDENTIFYs were received.
    pub fn identified_at(&self) -> Vec<Instant> {
        self.inner.lock().identifies.clone()
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
        self.inner.change(|state| state.gateway.refuse = refuse);
    }

    /// While set, new gateway connections are dropped right after the upgrade.
    pub fn drop_gateway(&self, drop: bool) {
        self.inner.change(|state| state.gateway.drop = drop);
    }

    /// While set, every IDENTIFY is answered with this close code.
    pub fn close_identify(&self, code: Option<u16>) {
        self.inner.change(|state| state.gateway.close_identify = code);
    }

    /// While set, heartbeats are not answered.
    pub fn silence(&self, silent: bool) {
        self.inner.change(|state| state.gateway.silent = silent);
    }

    /// Sets the heartbeat interval of new connections.
    pub fn heartbeat_interval(&self, interval: Duration) {
        self.inner.change(|state| state.gateway.heartbeat_interval = Some(interval));
    }

    /// Sets how many sessions may still be started, and when that number is reset.
    pub fn limit_sessions(&self, remaining: u64, reset_after: Duration) {
        self.inner.change(|state| state.gateway.session_limit = Some((remaining, reset_after)));
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

/// Guilds.
impl SimDiscord {
    /// Creates a guild with an owner, `@everyone`, the bot with its managed role, and `#general`.
    pub fn guild(&self, name: &str) -> SimGuild {
        SimGuild { inner: Arc::clone(&self.inner), id: self.inner.change(|state| state.guild(name)) }
    }
}
