//! Fixtures for tests without Discord: a tenant, and raw HTTP requests over TCP.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use dca_auth::{App, Config, app::Inputs, telemetry};
use dca_core::{
    Caller, Core, Ids,
    api_keys::{self, ApiKey, NewApiKey},
    crypto::api_key::ApiKeyKind,
    entitlements::{self, Announce, Change, Evidence, Level, Observation, ObservedSource, SourceKind},
    ids::UserId,
    licenses::{self, License, LicenseBatch, Run},
    policy::PolicyPatch,
    products::{self, Product},
    tenants,
    users::{self, Provider},
};
use sea_orm_migration::sea_orm::{ConnectionTrait, FromQueryResult, JsonValue, Statement};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::harness::{LIMIT, TestApp};

/// Found by a reconciliation, so that an announcement that is silent sends no message.
pub const RECONCILED: Evidence = Evidence::Reconciled { message_interval: Duration::ZERO };

impl TestApp {
    /// Starts the service without a bot.
    pub async fn start_without_bot(&mut self) {
        self.set("DCA_DISCORD_TOKEN", "");
        self.start_without_waiting().await;
    }

    /// Builds another instance on the same database, with its own connections.
    pub async fn instance(&self) -> Core {
        self.assemble(&[]).await.unwrap().core.clone()
    }

    /// Builds an app with these settings changed and without a bot, but does not start it.
    pub async fn assemble(&self, settings: &[(&str, &str)]) -> anyhow::Result<App> {
        let mut env = self.env().clone();
        env.insert("DCA_DISCORD_TOKEN".to_owned(), String::new());
        env.extend(settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let (ids, metrics) = (Ids::system(), telemetry::recorder()?.handle());
        App::build(Config::load(env)?, &[], Inputs { clock: self.clock.clone(), ids, metrics }).await
    }
}

/// A tenant with its operator as the caller.
pub struct TestTenant {
    pub core: Core,
    pub caller: Caller,
}

impl TestTenant {
    /// Creates a tenant.
    pub async fn new(core: &Core, name: &str) -> Self {
        let tenant = tenants::create(core, name).await.unwrap();
        Self { core: core.clone(), caller: Caller::operator(tenant) }
    }

    /// The same tenant through another instance.
    pub fn on_instance(&self, core: &Core) -> Self {
        Self { core: core.clone(), caller: self.caller.clone() }
    }

    /// Creates a product whose licenses do not expire.
    pub async fn product(&self, name: &str, prefix: &str) -> Product {
        self.terms(name, prefix, None).await
    }

    /// Creates a product or changes its terms; new licenses expire after `duration`.
    pub async fn terms(&self, name: &str, prefix: &str, duration: Option<Duration>) -> Product {
        let terms = PolicyPatch::default().with("sourceGraceSeconds", 0);
        self.product_with(name, prefix, terms.with("durationSeconds", duration.map(|duration| duration.as_secs())))
            .await
    }

    /// Creates a product or changes its policy.
    pub async fn product_with(&self, name: &str, prefix: &str, patch: PolicyPatch) -> Product {
        let changed = products::create_or_update(&self.core, &self.caller, name, Some(prefix), &patch).await;
        changed.unwrap().product
    }

    /// Replaces the terms of a product, also those of its licenses.
    pub async fn set_terms(&self, product: &Product, terms: Value) {
        let db = self.core.db.writer();
        let sql = "UPDATE policies SET terms = $1 WHERE product_id = $2";
        let values = [terms.into(), product.id.0.into()];
        db.execute_raw(Statement::from_sql_and_values(db.get_database_backend(), sql, values)).await.unwrap();
    }

    /// Creates an API key; returns its row and its text.
    pub async fn api_key(&self, kind: ApiKeyKind, covered: &[&Product]) -> (ApiKey, String) {
        let covered: Vec<_> = covered.iter().map(|product| product.id).collect();
        self.api_key_with(NewApiKey::new(kind, "test", &covered)).await
    }

    /// Creates an API key with these settings; returns its row and its text.
    pub async fn api_key_with(&self, new: NewApiKey) -> (ApiKey, String) {
        let (details, text) = api_keys::create(&self.core, &self.caller, new).await.unwrap();
        (details.key, text.expose().to_owned())
    }

    /// The user with this Discord account.
    pub async fn user(&self, member: u64) -> UserId {
        users::ensure(&self.core, Provider::Discord, &member.to_string()).await.unwrap()
    }

    /// Observes a source of a member that is announced silently.
    pub async fn observe(
        &self,
        product: &Product,
        member: u64,
        level: Level,
        evidence: Evidence,
    ) -> dca_core::Result<Vec<Change>> {
        let (core, product) = (&self.core, product.id);
        let (kind, initial_announce) = (SourceKind::Manual, Some(Announce::Silently));
        let source = ObservedSource { product, kind, reference: product.0, level, initial_announce, label: None };
        let observation = Observation {
            caller: self.caller.clone(),
            user: self.user(member).await,
            evidence,
            stamp: core.stamps.next(&core.clock),
            fence: None,
            sources: vec![source],
        };
        entitlements::observe(core, &observation).await
    }

    /// Grants a product to a member; returns the license and its key.
    pub async fn license(&self, product: &Product, member: u64) -> (License, String) {
        self.observe(product, member, Level::Present, RECONCILED).await.unwrap();
        let license = self.unrevoked_licenses(product, member).await.pop().expect("a license was issued");
        let key = licenses::reveal_key(&self.core, &license).unwrap();
        (license, key)
    }

    /// Generates a license that no one has; returns it and its key.
    pub async fn generated(&self, product: &Product) -> (License, String) {
        let one = LicenseBatch::one_of(product.id);
        let mut generated = licenses::generate_all(&self.core, &self.caller, one, Run::Real).await.unwrap();
        let license = Arc::unwrap_or_clone(generated.remove(0).license);
        let key = licenses::reveal_key(&self.core, &license).unwrap();
        (license, key)
    }

    /// A member's licenses for a product that are not revoked.
    pub async fn unrevoked_licenses(&self, product: &Product, member: u64) -> Vec<License> {
        self.core.write_behind.drained().await;
        let mut all = licenses::list_of(&self.core, &self.caller.scope(), self.user(member).await).await.unwrap();
        all.retain(|license| license.product_id == product.id && license.revoked_at.is_none());
        all
    }
}

/// The rows of a query, as JSON.
pub async fn rows(db: &impl ConnectionTrait, sql: &str) -> Vec<Value> {
    let statement = Statement::from_string(db.get_database_backend(), sql);
    JsonValue::find_by_statement(statement).all(db).await.unwrap()
}

/// The sequence number of the newest event. If it is unchanged, no event was recorded.
pub async fn log_head(core: &Core) -> i64 {
    rows(core.db.writer(), "SELECT seq FROM event_head").await[0]["seq"].as_i64().unwrap()
}

/// A response as read from the socket.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Answer {
    fn read(bytes: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(bytes);
        let (head, body) = text.split_once("\r\n\r\n")?;
        let mut lines = head.lines();
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let headers = lines.filter_map(|line| line.split_once(':'));
        let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned())).collect();
        Some(Self { status, headers, body: body.to_owned() })
    }

    /// The value of a header; empty if it is absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
    }

    /// The body as JSON; null if it is not JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }
}

/// A raw request, which can be malformed in ways that an HTTP client does not allow.
#[derive(Clone)]
pub struct Request {
    line: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Vec<u8>,
}

impl Request {
    /// Creates a request from a line such as `GET /path`, with a host and without keep-alive.
    pub fn new(line: &str) -> Self {
        Self { line: line.to_owned(), headers: Vec::new(), body: Vec::new() }
            .with("Host", "test")
            .with("Connection", "close")
    }

    /// Sets a header.
    pub fn with(self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let mut request = self.without(name);
        request.headers.push((name.to_owned(), value.as_ref().to_vec()));
        request
    }

    /// Appends to the request line.
    pub fn to(mut self, more: &str) -> Self {
        self.line += more;
        self
    }

    /// Removes a header.
    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(key, _)| key != name);
        self
    }

    /// Sets the body and its length.
    pub fn body(self, body: impl AsRef<[u8]>) -> Self {
        let mut request = self.with("Content-Length", body.as_ref().len().to_string());
        request.body = body.as_ref().to_vec();
        request
    }

    /// Sets a chunked body without `Content-Length`.
    pub fn chunked(self, body: &str) -> Self {
        let mut request = self.without("Content-Length").with("Transfer-Encoding", "chunked");
        request.body = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len()).into_bytes();
        request
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = format!("{} HTTP/1.1\r\n", self.line).into_bytes();
        for (name, value) in &self.headers {
            bytes.extend([name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
        bytes.extend(b"\r\n");
        bytes.extend(&self.body);
        bytes
    }

    /// Sends the request and reads the response; `None` if the connection was closed without one.
    pub async fn ask(&self, addr: SocketAddr) -> Option<Answer> {
        let mut socket = TcpStream::connect(addr).await.unwrap();
        let mut answer = Vec::new();
        let exchange = async {
            // The server may close the connection before it has read everything; only its response counts.
            _ = socket.write_all(&self.bytes()).await;
            _ = socket.read_to_end(&mut answer).await;
        };
        tokio::time::timeout(LIMIT, exchange).await.expect("the response did not end");
        Answer::read(&answer)
    }
}

/// Sends the head of a validation request and waits until its handler asks for the body.
pub async fn send_request_head(addr: SocketAddr, api_key: &str, body: &str) -> TcpStream {
    let mut socket = TcpStream::connect(addr).await.unwrap();
    let head = format!(
        "POST /licenses/validate HTTP/1.1\r\nHost: test\r\nX-API-Key: {api_key}\r\nContent-Type: application/json\r\n\
         Expect: 100-continue\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    let mut interim = [0; 25];
    tokio::time::timeout(LIMIT, socket.read_exact(&mut interim)).await.unwrap().unwrap();
    assert_eq!(&interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    socket
}
