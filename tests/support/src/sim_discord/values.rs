//! Parameters and results of the Sim's methods: options, replies, messages, requests and faults.

use std::time::Duration;

use serde_json::Value;

use super::json::is_ephemeral;

/// The value of a command option.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the names are Discord's own")]
pub enum Opt {
    Str(String),
    Int(i64),
    Bool(bool),
    User(u64),
    Role(u64),
    Channel(u64),
}

/// An autocomplete choice.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The displayed name.
    pub name: String,
    /// The value that is sent when it is chosen.
    pub value: Value,
}

impl Choice {
    pub(super) fn from_json(json: &Value) -> Self {
        Self { name: json["name"].as_str().unwrap_or("").to_owned(), value: json["value"].clone() }
    }
}

/// The reply to an interaction, as the user sees it.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The text.
    pub content: String,
    /// Whether only that user sees it.
    pub ephemeral: bool,
    /// The action rows.
    pub components: Vec<Value>,
    /// Whether it was deferred ("thinking…") first.
    pub deferred: bool,
    /// The complete message or modal.
    pub raw: Value,
}

impl Reply {
    pub(super) fn new(raw: Value, deferred: bool) -> Self {
        Self {
            content: raw["content"].as_str().unwrap_or("").to_owned(),
            ephemeral: is_ephemeral(&raw),
            components: raw["components"].as_array().cloned().unwrap_or_default(),
            deferred,
            raw,
        }
    }

    pub(super) fn message(&self) -> u64 {
        let id = self.raw["id"].as_str().and_then(|id| id.parse().ok());
        id.expect("SimDiscord: the reply is not a message")
    }
}

/// A message from the bot, in a DM or a channel.
#[derive(Clone, Debug)]
pub struct Dm {
    /// The text.
    pub content: String,
    /// The message's id.
    pub id: u64,
    /// The nonce of the request.
    pub nonce: Option<String>,
    /// The complete message.
    pub raw: Value,
}

/// A recorded request of the bot.
#[derive(Clone, Debug)]
pub struct SeenRequest {
    /// The HTTP method.
    pub method: String,
    /// The path below `/api` or `/api/v10`, with its query.
    pub path: String,
    /// The JSON body, or a form as an object; null without a body.
    pub body: Value,
    /// The status of the response.
    pub status: u16,
    /// The decoded `X-Audit-Log-Reason`.
    pub reason: Option<String>,
}

/// An injected fault.
#[derive(Clone, Debug)]
pub struct Fault {
    method: String,
    path: String,
    pub(super) times: usize,
    pub(super) kind: FaultKind,
}

impl Fault {
    /// A fault for the next request with this method whose path contains `path`.
    #[must_use]
    pub fn on(method: &str, path: &str, kind: FaultKind) -> Self {
        Self { method: method.to_owned(), path: path.to_owned(), times: 1, kind }
    }

    /// Applies that many times instead of once.
    #[must_use]
    pub fn times(mut self, times: usize) -> Self {
        self.times = times;
        self
    }

    pub(super) fn matches(&self, method: &str, path: &str) -> bool {
        self.method == method && path.contains(&self.path)
    }
}

/// How a request fails.
#[derive(Clone, Debug)]
pub enum FaultKind {
    /// A response with this status and body; the request is not performed.
    Status(u16, Value),
    /// A 429 of Discord's API; the request is not performed.
    RateLimited {
        /// The seconds to wait.
        retry_after: f64,
        /// Whether it is the global rate limit.
        global: bool,
        /// `user`, `global` or `shared`.
        scope: &'static str,
    },
    /// A 429 of Cloudflare, as an HTML page; the request is not performed.
    CloudflareHtml,
    /// The request is performed, and was the last one that its bucket allows for these seconds.
    Exhausts(f64),
    /// The response is delayed.
    Slow(Duration),
    /// The request is performed, but the connection is cut before the response.
    Drop,
    /// The request is performed, but the response is held until `SimDiscord::release`.
    Hold,
}
