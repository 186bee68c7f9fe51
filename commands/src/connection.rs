//! One connection to the gateway: HELLO, then IDENTIFY or RESUME, then heartbeats and events, in order.
//!
//! serenity's own client is not used: it hides why Discord closed a connection, reconnects without a pause, and does
//! not report a connection that is silent.

use std::time::Duration;

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use serenity::all::{Event, GatewayEvent, GatewayIntents};
use tokio::time::{self, Instant, Interval, MissedTickBehavior};
use tokio::{net::TcpStream, select};
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::bot::{Bot, GatewayStatus};
use crate::rest::DiscordError;

/// The events that the bot receives.
pub(crate) const INTENTS: GatewayIntents = GatewayIntents::GUILDS.union(GatewayIntents::GUILD_MEMBERS);

/// How long connecting may take, until HELLO.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// How long closing may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a heartbeat may remain unanswered until the connection counts as silent.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// A session, which the next connection can resume.
pub(crate) struct Session {
    id: String,
    sequence: u64,
    /// Where to resume it; `None` for the general address.
    pub url: Option<String>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Disconnect {
    #[error("Discord closed the connection with code {0}")]
    Closed(u16),
    #[error("the connection to Discord was lost ({0})")]
    Lost(#[from] tungstenite::Error),
    #[error("Discord does not answer")]
    Silent,
    #[error("Discord asked for a new connection")]
    Requested,
    #[error("Discord asked to resume the session")]
    SessionResumable,
    #[error("Discord ended the session")]
    SessionEnded,
    #[error("could not ask Discord for the address of its gateway: {0}")]
    NoAddress(#[from] DiscordError),
    #[error("could not record the new session: {0}")]
    NotCounted(#[from] dca_core::Error),
    #[error("the bot's daily limit of new sessions is reached; the next one is possible in {} minutes", .0.as_secs().div_ceil(60))]
    Limited(Duration),
}

impl Disconnect {
    /// Whether the session cannot be resumed.
    pub const fn ends_session(&self) -> bool {
        // 4007 is an invalid sequence, 4009 a timed out session.
        matches!(self, Self::SessionEnded | Self::Closed(4007 | 4009))
    }

    /// What an operator must do, if reconnecting does not help.
    pub fn fix(&self) -> Option<&'static str> {
        match self {
            Self::Closed(4004) | Self::NoAddress(DiscordError::Unauthorized) => Some(
                "Discord rejected the bot token (4004). Get a new one in Developer Portal → Bot → Reset Token, set \
                 DCA_DISCORD_TOKEN, then restart.",
            ),
            Self::Closed(4010) => Some(
                "Discord rejected the shard number (4010). This is a fault of this version: update DCA-Auth, then \
                 restart.",
            ),
            Self::Closed(4011) => Some(
                "The bot is in too many servers for one connection (4011); Discord allows 2,500. Remove it from servers \
                 that do not use it, or create a second bot for a second installation, then restart.",
            ),
            Self::Closed(4012) => {
                Some("Discord no longer supports this version of its gateway (4012). Update DCA-Auth, then restart.")
            }
            Self::Closed(4013 | 4014) => Some(
                "Discord rejected the Server Members intent (4013/4014). Turn on Server Members Intent in Developer \
                 Portal → Bot → Privileged Gateway Intents, then restart.",
            ),
            _ => None,
        }
    }
}

/// An open connection.
pub(crate) struct Connection<'a> {
    bot: &'a Bot,
    url: String,
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    session: &'a mut Option<Session>,
    /// Whether the session was started or resumed.
    ready: bool,
    heartbeats: Interval,
    /// Until when the last heartbeat should be answered; `None` if it was.
    answer_due: Option<Instant>,
}

impl<'a> Connection<'a> {
    /// Connects, then resumes the session or starts a new one.
    pub async fn open(bot: &'a Bot, url: String, session: &'a mut Option<Session>) -> Result<Self, Disconnect> {
        let address = format!("{}/?v=10&encoding=json", url.trim_end_matches('/'));
        let connect = async {
            let (mut socket, _) = connect_async(address).await?;
            loop {
                if let Some(GatewayEvent::Hello(millis)) = parse(socket.next().await)? {
                    return Ok::<_, Disconnect>((socket, Duration::from_millis(millis.max(1_000))));
                }
            }
        };
        let (socket, period) =
            time::timeout(CONNECT_TIMEOUT, Box::pin(connect)).await.map_err(|_| Disconnect::Silent)??;
        // Spread over the first period, so that a restart of Discord does not make all bots send at once.
        let mut heartbeats = time::interval_at(Instant::now() + period.mul_f64(bot.random()), period);
        heartbeats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut connection = Self { bot, url, socket, session, ready: false, heartbeats, answer_due: None };
        let log_in = connection.log_in();
        connection.send(log_in).await?;
        Ok(connection)
    }

    /// RESUME, or IDENTIFY without a session.
    fn log_in(&self) -> Value {
        let token = self.bot.discord.token();
        if let Some(Session { id, sequence, .. }) = &self.session {
            return json!({ "op": 6, "d": { "token": token, "session_id": id, "seq": sequence } });
        }
        let properties = json!({ "os": std::env::consts::OS, "browser": "dca-auth", "device": "dca-auth" });
        let intents = INTENTS.bits();
        json!({ "op": 2, "d": { "token": token, "intents": intents, "shard": [0, 1], "properties": properties } })
    }

    /// Passes events to `handle` until the connection ends, or `stop`.
    pub async fn run(mut self, handle: impl Fn(Event), stop: &CancellationToken) -> Result<(), Disconnect> {
        loop {
            let is_awaiting_answer = self.ready && self.answer_due.is_some_and(|due| due > Instant::now());
            let event = select! {
                () = stop.cancelled() => return self.close().await,
                _ = self.heartbeats.tick() => {
                    self.check_answer_and_beat().await?;
                    continue;
                }
                () = time::sleep_until(self.answer_due.unwrap_or_else(Instant::now)), if is_awaiting_answer => {
                    self.bot.set_status(GatewayStatus::Silent);
                    continue;
                }
                message = self.socket.next() => parse(message)?,
            };
            match event {
                Some(GatewayEvent::Dispatch(sequence, event)) => self.dispatch(sequence, event, &handle),
                Some(GatewayEvent::Heartbeat(..)) => self.beat().await?,
                Some(GatewayEvent::HeartbeatAck) => {
                    let due = self.answer_due.take();
                    if self.ready && due.is_some_and(|due| due <= Instant::now()) {
                        self.bot.set_status(GatewayStatus::Connected);
                    }
                }
                Some(GatewayEvent::Reconnect) => return Err(Disconnect::Requested),
                Some(GatewayEvent::InvalidateSession(true)) => return Err(Disconnect::SessionResumable),
                Some(GatewayEvent::InvalidateSession(false)) => return Err(Disconnect::SessionEnded),
                _ => {}
            }
        }
    }

    fn dispatch(&mut self, sequence: u64, event: Event, handle: impl Fn(Event)) {
        let is_ready = match (&event, self.session.as_mut()) {
            (Event::Ready(event), _) => {
                let (id, url) = (event.ready.session_id.clone(), event.ready.resume_gateway_url.clone());
                *self.session = Some(Session { id, sequence, url: Some(url) });
                true
            }
            (Event::Resumed(_), Some(session)) => {
                (session.sequence, session.url) = (sequence, Some(self.url.clone()));
                true
            }
            (_, Some(session)) => {
                session.sequence = sequence;
                false
            }
            (_, None) => false,
        };
        handle(event);
        if is_ready {
            self.ready = true;
            self.bot.set_status(GatewayStatus::Connected);
        }
    }

    async fn check_answer_and_beat(&mut self) -> Result<(), Disconnect> {
        if self.answer_due.is_some() {
            return Err(Disconnect::Silent);
        }
        self.answer_due = Some(Instant::now() + ANSWER_TIMEOUT.min(self.heartbeats.period() / 2));
        self.beat().await
    }

    async fn beat(&mut self) -> Result<(), Disconnect> {
        let sequence = self.session.as_ref().map(|session| session.sequence);
        self.send(json!({ "op": 1, "d": sequence })).await
    }

    async fn send(&mut self, payload: Value) -> Result<(), Disconnect> {
        Ok(self.socket.send(Message::text(payload.to_string())).await?)
    }

    /// Ends the session, so that the bot is shown as offline at once.
    async fn close(mut self) -> Result<(), Disconnect> {
        let frame = CloseFrame { code: CloseCode::Normal, reason: "".into() };
        _ = time::timeout(CLOSE_TIMEOUT, self.socket.close(Some(frame))).await;
        Ok(())
    }
}

/// The event in a message, if it contains one; an error if the connection ended.
fn parse(message: Option<tungstenite::Result<Message>>) -> Result<Option<GatewayEvent>, Disconnect> {
    match message.unwrap_or(Err(tungstenite::Error::ConnectionClosed))? {
        Message::Text(text) => {
            let event = serde_json::from_str(&text);
            if event.is_err() {
                warn!("Discord sent a gateway message that is not understood; it is ignored");
            }
            Ok(event.ok())
        }
        Message::Close(frame) => Err(Disconnect::Closed(frame.map_or(1005, |frame| frame.code.into()))),
        _ => Ok(None),
    }
}
