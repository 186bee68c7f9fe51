//! What the verbs take and give: options and replies, messages, seen requests and faults.

use std::time::Duration;

use serde_json::Value;

use super::state::{Message, is_ephemeral};

/// A value given to a command's option.
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

/// A suggestion of an autocomplete.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// What the human sees.
    pub name: String,
    /// What picking it sends.
    pub value: Value,
}

impl Choice {
    pub(super) fn from_json(json: &Value) -> Self {
        Self { name: json["name"].as_str().unwrap_or("").to_owned(), value: json["value"].clone() }
    }
}

/// An answer to an interaction as the human sees it.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The text.
    pub content: String,
    /// Whether only that human sees it.
    pub ephemeral: bool,
    /// The action rows.
    pub components: Vec<Value>,
    /// Whether "thinking…" came first.
    pub deferred: bool,
    /// The whole message (or modal) as Discord shows it.
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
        id.expect("SimDiscord: that reply is no message")
    }
}

/// A message the bot wrote, in a DM or a channel.
#[derive(Clone, Debug)]
pub struct Dm {
    /// The text.
    pub content: String,
    /// The message's id.
    pub id: u64,
    /// The nonce it was sent with.
    pub nonce: Option<String>,
    /// The whole message as Discord shows it.
    pub raw: Value,
}

impl Dm {
    pub(super) fn take(message: &mut Message) -> Self {
        message.taken = true;
        let json = &message.json;
        let nonce = json.get("nonce").map(|nonce| nonce.as_str().map_or(nonce.to_string(), str::to_owned));
        let content = json["content"].as_str().unwrap_or("").to_owned();
        Self { content, id: message.id, nonce, raw: json.clone() }
    }
}

/// A request the bot made.
#[derive(Clone, Debug)]
pub struct SeenRequest {
    /// The HTTP method.
    pub method: String,
    /// The path below `/api` or `/api/v10`, with its query. Interaction tokens are kept: they are test data.
    pub path: String,
    /// The JSON body, or a form as an object; null if there was none.
    pub body: Value,
    /// The status it was answered with.
    pub status: u16,
    /// The decoded `X-Audit-Log-Reason`.
    pub reason: Option<String>,
}

/// Something that goes wrong with requests.
#[derive(Clone, Debug)]
pub struct Fault {
    method: String,
    path: String,
    pub(super) times: usize,
    pub(super) kind: FaultKind,
}

impl Fault {
    /// A fault of the next request with this method whose path contains `path`.
    #[must_use]
    pub fn on(method: &str, path: &str, kind: FaultKind) -> Self {
        Self { method: method.to_owned(), path: path.to_owned(), times: 1, kind }
    }

    /// Happens that often instead of once.
    #[must_use]
    pub fn times(mut self, times: usize) -> Self {
        self.times = times;
        self
    }

    pub(super) fn matches(&self, method: &str, path: &str) -> bool {
        self.method == method && path.contains(&self.path)
    }
}

/// How a request goes wrong.
#[derive(Clone, Debug)]
pub enum FaultKind {
    /// Answered with a status and a body, without effect.
    Status(u16, Value),
    /// Answered 429, without effect.
    RateLimited {
        /// Seconds to wait.
        retry_after: f64,
        /// Whether it is the bot's global limit.
        global: bool,
        /// `user`, `global` or `shared`.
        scope: &'static str,
    },
    /// Cloudflare's own 429: a page of HTML, without effect.
    CloudflareHtml,
    /// Answered that much later.
    Slow(Duration),
    /// Performed, but the connection is cut before the answer leaves.
    Drop,
    /// Performed, but the answer is held until [`super::SimDiscord::release`].
    Hold,
}
