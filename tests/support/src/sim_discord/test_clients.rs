//! The REST and gateway clients of the tests of SimDiscord.

use futures::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::SimDiscord;

/// GUILDS and `GUILD_MEMBERS`.
pub(super) const INTENTS: u64 = 3;

/// A REST client with the bot's token.
pub(super) struct RestClient {
    http: reqwest::Client,
    base: String,
    token: String,
}

impl RestClient {
    pub fn of(discord: &SimDiscord) -> Self {
        // reqwest requires a crypto provider even without TLS; another test may have installed it.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().tls_certs_only([]).build().expect("a client");
        let base = format!("{}/api/v10", discord.base_url());
        Self { http, base, token: discord.token() }
    }

    pub async fn try_call(&self, call: &str, body: Value) -> Result<(u16, Value), reqwest::Error> {
        let (method, path) = call.split_once(' ').expect("METHOD path");
        let method = method.parse().expect("a method");
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        request = request.header("authorization", format!("Bot {}", self.token));
        request = request.header("x-audit-log-reason", "r%C3%B4le");
        if !body.is_null() {
            request = request.json(&body);
        }
        let response = request.send().await?;
        let status = response.status().as_u16();
        let text = response.text().await?;
        Ok((status, serde_json::from_str(&text).unwrap_or(Value::Null)))
    }

    pub async fn send(&self, call: &str, body: Value) -> (u16, Value) {
        self.try_call(call, body).await.expect("an answer")
    }

    pub async fn get(&self, path: &str) -> Value {
        let (status, body) = self.send(&format!("GET {path}"), Value::Null).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    /// The status and the error code, or 0 without one.
    pub async fn code(&self, call: &str, body: Value) -> (u16, u64) {
        let (status, body) = self.send(call, body).await;
        (status, body["code"].as_u64().unwrap_or(0))
    }
}

/// A gateway client.
pub(super) struct Bot(pub WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Bot {
    pub async fn connect(discord: &SimDiscord) -> Self {
        let url = format!("{}/gw?v=10&encoding=json", discord.base_url().replace("http", "ws"));
        let mut bot = Self(connect_async(url).await.expect("a gateway").0);
        assert_eq!(bot.receive().await["op"], 10);
        bot
    }

    pub async fn identify(discord: &SimDiscord) -> Self {
        let mut bot = Self::connect(discord).await;
        bot.send(2, json!({ "token": discord.token(), "intents": INTENTS, "shard": [0, 1] })).await;
        bot
    }

    pub async fn resume(discord: &SimDiscord, session: &str, seq: u64) -> Self {
        let mut bot = Self::connect(discord).await;
        bot.send(6, json!({ "token": discord.token(), "session_id": session, "seq": seq })).await;
        bot
    }

    pub async fn send(&mut self, op: u8, data: Value) {
        let payload = json!({ "op": op, "d": data });
        self.0.send(Message::text(payload.to_string())).await.expect("sent");
    }

    pub async fn receive(&mut self) -> Value {
        match self.0.next().await {
            Some(Ok(Message::Text(text))) => serde_json::from_str(&text).expect("json"),
            other => panic!("not a payload: {other:?}"),
        }
    }

    pub async fn expect(&mut self, name: &str) -> Value {
        let payload = self.receive().await;
        assert_eq!(payload["t"], name, "{payload}");
        payload
    }

    pub async fn close_code(&mut self) -> u16 {
        match self.0.next().await {
            Some(Ok(Message::Close(Some(frame)))) => frame.code.into(),
            other => panic!("not a close frame: {other:?}"),
        }
    }
}
