//! The gateway and its sessions.
//!
//! A session outlives its connection: dispatches without a connection are stored and replayed when the session is
//! resumed. Every live session receives all dispatches.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State as SharedState;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::{
    sync::mpsc::{UnboundedSender, unbounded_channel},
    time::Instant,
};

use super::session::{Frame, Session};
use super::state::{Inner, State};

const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(41_250);
/// Members per chunk.
const CHUNK: usize = 1000;
const GUILDS: u64 = 1 << 0;
const GUILD_MEMBERS: u64 = 1 << 1;
const UNKNOWN_OPCODE: u16 = 4001;
const UNDECODABLE: u16 = 4002;
const INVALID_TOKEN: u16 = 4004;
const ALREADY_IDENTIFIED: u16 = 4005;
const INVALID_INTENTS: u16 = 4013;
/// All intents that Discord documents.
const INTENTS: u64 = 0x1_FFFF | 1 << 20 | 1 << 21 | 1 << 24 | 1 << 25;
const DISALLOWED_INTENTS: u16 = 4014;
/// The close codes that end the session.
const ENDS_SESSION: [u16; 8] = [4004, 4007, 4009, 4010, 4011, 4012, 4013, 4014];
/// How long a closed connection is still read, so that a reset does not discard the close frame.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

impl State {
    /// Sends an event to every session whose intents include it. Events of a guild are lost while the bot is not a
    /// member or the guild is unavailable.
    pub fn dispatch(&mut self, guild: Option<u64>, name: &str, data: &Value) {
        let is_reachable = |guild| self.guilds.get(&guild).is_none_or(|guild| guild.has_bot && !guild.unavailable);
        if guild.is_some_and(|guild| !is_reachable(guild)) {
            return;
        }
        self.dispatch_anyway(name, data);
    }

    pub fn dispatch_anyway(&mut self, name: &str, data: &Value) {
        self.note(format!("dispatch {name}"));
        let about_bot = data["user"]["id"] == json!(self.bot.to_string());
        let needed = match name {
            "GUILD_MEMBER_UPDATE" if about_bot => 0,
            _ if name.starts_with("GUILD_MEMBER") => GUILD_MEMBERS,
            _ if name.starts_with("GUILD_") || name.starts_with("CHANNEL_") => GUILDS,
            _ => 0,
        };
        for session in self.sessions.values_mut().filter(|session| session.wants(needed)) {
            session.dispatch(name, data);
        }
    }

    pub fn is_connected(&self) -> bool {
        self.sessions.values().any(Session::is_live)
    }

    /// Sends a frame to every live connection and detaches it; later dispatches wait for a resume.
    pub fn end_connections(&mut self, frame: &Frame) {
        for session in self.sessions.values_mut() {
            session.send(frame.clone());
            session.connection = None;
        }
        if matches!(frame, Frame::Close(Some(code)) if ENDS_SESSION.contains(code)) {
            self.sessions.clear();
        }
    }

    fn identify(&mut self, connection: UnboundedSender<Frame>, data: &Value) -> Result<String, u16> {
        self.identifies.push(Instant::now());
        self.note(format!("gateway IDENTIFY intents {}", data["intents"]));
        let token = data["token"].as_str().unwrap_or("").trim_start_matches("Bot ");
        if self.reject_token || token != self.token() {
            return Err(INVALID_TOKEN);
        }
        if let Some(code) = self.gateway.close_identify {
            return Err(code);
        }
        let intents = data["intents"].as_u64().filter(|intents| intents & !INTENTS == 0).ok_or(INVALID_INTENTS)?;
        if self.disallow_intents && intents & GUILD_MEMBERS != 0 {
            return Err(DISALLOWED_INTENTS);
        }
        self.sessions_begun += 1;
        let id = format!("session-{}", self.sessions_begun);
        let mut session = Session { intents, dispatched: Vec::new(), connection: Some(connection), forgotten: false };
        let guilds: Vec<u64> = self.guilds.iter().filter(|(_, guild)| guild.has_bot).map(|(id, _)| *id).collect();
        let unavailable = |id: &u64| json!({ "id": id.to_string(), "unavailable": true });
        let ready = json!({
            "v": 10, "user": self.me_json(), "session_id": id, "session_type": "normal",
            "guilds": guilds.iter().map(unavailable).collect::<Vec<_>>(), "private_channels": [],
            "resume_gateway_url": self.gateway_url(),
            "shard": data.get("shard").cloned().unwrap_or(json!([0, 1])),
            "application": { "id": self.application.to_string(), "flags": self.application_flags() },
        });
        session.dispatch("READY", &ready);
        for guild in guilds.into_iter().filter(|guild| intents & GUILDS != 0 && !self.guilds[guild].unavailable) {
            session.dispatch("GUILD_CREATE", &self.guild_create_json(guild));
        }
        self.sessions.insert(id.clone(), session);
        Ok(id)
    }

    /// Resumes a known session and replays the missed dispatches.
    fn resume(&mut self, connection: UnboundedSender<Frame>, data: &Value) -> Option<String> {
        self.note(format!("gateway RESUME {data}"));
        let id = data["session_id"].as_str()?;
        let sequence = usize::try_from(data["seq"].as_u64()?).ok()?;
        let session = self.sessions.get_mut(id).filter(|session| !session.forgotten)?;
        let missed = session.dispatched.get(sequence..)?.to_vec();
        session.connection = Some(connection);
        for payload in missed {
            session.send(Frame::Payload(payload));
        }
        session.dispatch("RESUMED", &json!({}));
        self.resumes += 1;
        Some(id.to_owned())
    }

    /// Answers a request for the members of a guild: all, the given ones, or those whose name starts with the query.
    fn send_members(&mut self, connection: &UnboundedSender<Frame>, request: &Value) {
        // Discord accepts ids as numbers too.
        let id = |value: &Value| value.as_u64().or_else(|| value.as_str()?.parse().ok());
        let Some(guild) = id(&request["guild_id"]).filter(|guild| self.guilds.contains_key(guild)) else { return };
        let (query, limit) = (request["query"].as_str().unwrap_or(""), request["limit"].as_u64().unwrap_or(0));
        let wanted: Option<Vec<u64>> = match &request["user_ids"] {
            Value::Array(users) => Some(users.iter().filter_map(id).collect()),
            user => id(user).map(|user| vec![user]),
        };
        let is_wanted = |user: &u64| match &wanted {
            Some(users) => users.contains(user),
            None => self.users[user].name.starts_with(query),
        };
        let limit = if limit == 0 { usize::MAX } else { usize::try_from(limit).unwrap_or(usize::MAX) };
        let members: Vec<u64> = self.guilds[&guild].members.keys().copied().filter(is_wanted).take(limit).collect();
        let is_unknown = |user: &u64| !members.contains(user);
        let unknown = wanted.iter().flatten().copied().filter(is_unknown).map(|user| user.to_string());
        let unknown: Vec<String> = unknown.collect();
        // An empty result is one empty chunk.
        let chunks: Vec<&[u64]> = if members.is_empty() { vec![&[]] } else { members.chunks(CHUNK).collect() };
        let count = chunks.len();
        let chunks = chunks.into_iter().enumerate().map(|(index, users)| {
            let mut chunk = json!({
                "guild_id": guild.to_string(), "chunk_index": index, "chunk_count": count, "not_found": unknown,
                "members": users.iter().map(|user| self.member_json(guild, *user)).collect::<Vec<_>>(),
            });
            if !request["nonce"].is_null() {
                chunk["nonce"] = request["nonce"].clone();
            }
            chunk
        });
        let chunks: Vec<Value> = chunks.collect();
        let is_asking = |session: &&mut Session| {
            session.connection.as_ref().is_some_and(|current| current.same_channel(connection))
        };
        if let Some(session) = self.sessions.values_mut().find(is_asking) {
            for chunk in &chunks {
                session.dispatch("GUILD_MEMBERS_CHUNK", chunk);
            }
        }
    }

    /// Handles the end of a connection. Close codes 1000 and 1001 of the client end its session.
    fn disconnected(&mut self, session: &str, connection: &UnboundedSender<Frame>, ends_session: bool) {
        self.note(format!("gateway: {session} disconnected"));
        let Some(known) = self.sessions.get_mut(session) else {
            return;
        };
        // The session may have been resumed on a newer connection.
        if known.connection.as_ref().is_some_and(|current| !current.same_channel(connection)) {
            return;
        }
        known.connection = None;
        if ends_session {
            self.sessions.remove(session);
        }
    }
}

/// Handles the WebSocket upgrade on `/gw`.
pub(super) async fn connect(SharedState(sim): SharedState<Arc<Inner>>, upgrade: WebSocketUpgrade) -> Response {
    sim.change(|state| state.gateway_connections += 1);
    if sim.lock().gateway.refuse {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    upgrade.on_upgrade(|socket| run_connection(socket, sim))
}

async fn run_connection(mut socket: WebSocket, sim: Arc<Inner>) {
    if sim.lock().gateway.drop {
        return;
    }
    let (connection, mut frames) = unbounded_channel();
    let interval = sim.lock().gateway.heartbeat_interval.unwrap_or(HEARTBEAT_INTERVAL).as_millis();
    let hello = json!({ "op": 10, "d": { "heartbeat_interval": interval } });
    let _ = connection.send(Frame::Payload(hello));
    let mut session = None;
    let mut ends_session = false;
    loop {
        tokio::select! {
            frame = frames.recv() => match frame {
                Some(Frame::Payload(payload)) => {
                    if socket.send(Message::text(payload.to_string())).await.is_err() {
                        break;
                    }
                }
                Some(Frame::Close(code)) => {
                    close(&mut socket, code).await;
                    break;
                }
                Some(Frame::Cut) | None => break,
            },
            message = socket.recv() => match message {
                Some(Ok(Message::Text(text))) => {
                    let payload = serde_json::from_str(&text).unwrap_or(Value::Null);
                    sim.change(|state| handle_payload(state, &payload, &connection, &mut session));
                }
                Some(Ok(Message::Close(frame))) => {
                    ends_session = frame.is_some_and(|frame| matches!(frame.code, 1000 | 1001));
                    // Reading on sends the close reply, for which a client may wait.
                    let _ = tokio::time::timeout(CLOSE_LIMIT, socket.recv()).await;
                    break;
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => break,
            },
            () = sim.shutdown.cancelled() => break,
        }
    }
    if let Some(session) = session {
        sim.change(|state| state.disconnected(&session, &connection, ends_session));
    }
}

/// Handles a payload of the client.
fn handle_payload(
    state: &mut State,
    payload: &Value,
    connection: &UnboundedSender<Frame>,
    session: &mut Option<String>,
) {
    let reply = match payload["op"].as_u64() {
        Some(1) if state.gateway.silent => return,
        Some(1) => Frame::Payload(json!({ "op": 11 })),
        Some(2) if session.is_some() => Frame::Close(Some(ALREADY_IDENTIFIED)),
        Some(2) => match state.identify(connection.clone(), &payload["d"]) {
            Ok(id) => return *session = Some(id),
            Err(code) => Frame::Close(Some(code)),
        },
        Some(6) if state.reject_token => Frame::Close(Some(INVALID_TOKEN)),
        Some(6) => match state.resume(connection.clone(), &payload["d"]) {
            Some(id) => return *session = Some(id),
            None => Frame::Payload(json!({ "op": 9, "d": false })),
        },
        Some(8) => return state.send_members(connection, &payload["d"]),
        // Presence and voice updates have no reply.
        Some(3 | 4) => return,
        op => {
            state.violation(format!("gateway payload the Sim does not model: {payload}"));
            Frame::Close(Some(if op.is_some() { UNKNOWN_OPCODE } else { UNDECODABLE }))
        }
    };
    let _ = connection.send(reply);
}

async fn close(socket: &mut WebSocket, code: Option<u16>) {
    let frame = code.map(|code| CloseFrame { code, reason: "".into() });
    let handshake = async {
        socket.send(Message::Close(frame)).await.ok();
        while let Some(Ok(_)) = socket.recv().await {}
    };
    let _ = tokio::time::timeout(CLOSE_LIMIT, handshake).await;
}
