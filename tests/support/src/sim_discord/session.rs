//! What outlives a connection or a request: gateway sessions and interactions.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;

use super::values::Choice;

/// How soon the first response is due.
pub(super) const RESPONSE_LIMIT: Duration = Duration::from_secs(3);
/// How long an interaction token is valid.
const TOKEN_LIFETIME: Duration = Duration::from_mins(15);

/// An instruction to a connection.
#[derive(Clone)]
pub(super) enum Frame {
    Payload(Value),
    Close(Option<u16>),
    Cut,
}

/// How the gateway differs from one that works.
#[derive(Default)]
pub(super) struct GatewayFaults {
    /// New connections get status 503.
    pub refuse: bool,
    /// New connections are dropped after the upgrade.
    pub drop: bool,
    /// An IDENTIFY is answered with this close code.
    pub close_identify: Option<u16>,
    /// Heartbeats are not answered.
    pub silent: bool,
    /// Instead of Discord's usual one.
    pub heartbeat_interval: Option<Duration>,
    /// How many sessions may be started, and when the number is reset.
    pub session_limit: Option<(u64, Duration)>,
}

/// A gateway session and its dispatches.
pub(super) struct Session {
    pub intents: u64,
    pub dispatched: Vec<Value>,
    pub connection: Option<UnboundedSender<Frame>>,
    /// A forgotten session continues until its connection ends but cannot be resumed.
    pub forgotten: bool,
}

impl Session {
    pub fn is_live(&self) -> bool {
        self.connection.is_some()
    }

    pub fn send(&self, frame: Frame) {
        if let Some(connection) = &self.connection {
            // The connection may be closing; the dispatch is stored for a resume.
            let _ = connection.send(frame);
        }
    }

    pub fn dispatch(&mut self, name: &str, data: &Value) {
        let sequence = self.dispatched.len() + 1;
        let payload = json!({ "op": 0, "t": name, "s": sequence, "d": data });
        self.dispatched.push(payload.clone());
        self.send(Frame::Payload(payload));
    }

    pub fn wants(&self, needed: u64) -> bool {
        self.intents & needed == needed
    }
}

/// An interaction and the state of its response.
pub(super) struct Interaction {
    pub token: String,
    pub kind: u64,
    pub channel: u64,
    pub user: u64,
    /// The message of the component.
    pub source: Option<u64>,
    pub created_at: Instant,
    pub expired: bool,
    /// The type of the first response.
    pub first: Option<u64>,
    /// The message that `@original` refers to.
    pub original: Option<u64>,
    /// The message with the reply, once there is one.
    pub answer: Option<u64>,
    pub choices: Option<Vec<Choice>>,
    pub modal: Option<Value>,
}

impl Interaction {
    pub fn is_late(&self) -> bool {
        self.expired || (self.first.is_none() && self.created_at.elapsed() > RESPONSE_LIMIT)
    }

    pub fn is_token_expired(&self) -> bool {
        self.expired || self.created_at.elapsed() > TOKEN_LIFETIME
    }

    pub fn is_deferred(&self) -> bool {
        matches!(self.first, Some(5 | 6))
    }
}
