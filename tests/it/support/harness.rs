//! The test harness. Each test has its own runtime, log, metrics, database, Discord Sim and app.
//!
//! [`it`] runs a test with a [`TestApp`] and then checks that nothing is left over: no unread message, no due
//! delivery, no unexpected error in the log, and no key or token in the log. Time stands still until
//! [`TestApp::advance`]; scheduled workers run only when a test runs them. At the end of a test the app is dropped;
//! tests about stopping call [`TestApp::stop`].

use std::{
    collections::BTreeMap,
    future::Future,
    io::Write,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use chrono::{DateTime, Utc};
use dca_auth::{
    App, Config,
    app::{Inputs, Part},
    process::Running,
    telemetry,
    workers::{self, relay, scheduled::ScheduledWorker},
};
use dca_core::{
    Caller, Clock, Core, Ids,
    api_keys::{self, NewApiKey},
    crypto::api_key::ApiKeyKind,
    events, guilds, outbox, products,
    users::{self, Provider},
};
use dca_test_support::{MailSink, Opt, Reply, SimDiscord, SimGuild, SimMember};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tracing::Dispatch;
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

use crate::support::databases::{self, PostgresDatabase};

/// The longest any wait may take.
pub const LIMIT: Duration = Duration::from_secs(10);

/// The log of the test's threads.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// All lines so far.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// The app under test and its surroundings.
pub struct TestApp {
    pub discord: SimDiscord,
    /// The time the app sees.
    pub clock: Clock,
    pub log: Log,
    /// The running app; `None` while it is stopped.
    running: Option<(Running, CancellationToken)>,
    env: BTreeMap<String, String>,
    inputs: Inputs,
    dir: tempfile::TempDir,
    /// `None` on SQLite.
    database: Option<PostgresDatabase>,
    expected_errors: Vec<String>,
    http: reqwest::Client,
}

/// The time at which every test starts.
pub fn start_time() -> DateTime<Utc> {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

/// Starts the app, runs the test, and checks that nothing is left over.
pub fn it<F: Future<Output = TestApp>>(test: impl FnOnce(TestApp) -> F + Send) {
    run(true, test);
}

/// Runs a test that starts the app itself.
pub fn it_unstarted<F: Future<Output = TestApp>>(test: impl FnOnce(TestApp) -> F + Send) {
    run(false, test);
}

fn run<F: Future<Output = TestApp>>(started: bool, test: impl FnOnce(TestApp) -> F + Send) {
    let log = Log::default();
    let recorder = telemetry::recorder().unwrap();
    let metrics = recorder.handle();
    // Leaked: the threads that use the recorder live until the process ends.
    let recorder: &'static _ = Box::leak(Box::new(recorder));
    let filter =
        EnvFilter::new("info,serenity=debug,dca_auth=debug,dca_core=debug,dca_commands=debug,sqlx=warn,hyper=warn");
    let subscriber =
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(log.clone()).finish();
    let dispatch = Dispatch::new(subscriber);
    let install = move || {
        std::mem::forget(tracing::dispatcher::set_default(&dispatch));
        std::mem::forget(metrics::set_default_local_recorder(recorder));
    };
    let on_thread = install.clone();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .on_thread_start(on_thread)
        .build()
        .unwrap();
    // The test runs on its own thread, so that its tracing dispatcher ends with it.
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            install();
            let inputs = Inputs { clock: Clock::manual(start_time()), ids: Ids::seeded(7), metrics };
            let database = runtime.block_on(async {
                let mut t = TestApp::new(log.clone(), inputs).await;
                if started {
                    t.start().await;
                }
                let outcome = async { test(t).await.finish().await };
                tokio::time::timeout(LIMIT * 6, outcome).await.expect("the test timed out")
            });
            // The database is dropped after the connections of the app.
            runtime.shutdown_timeout(LIMIT);
            drop(database);
        });
        if let Err(panic) = thread.join() {
            eprintln!("---- log ----\n{}", log.text());
            std::panic::resume_unwind(panic);
        }
    });
}

/// Prints a line that the test runner shows even if the test passes.
pub fn print_line(line: &str) {
    _ = writeln!(std::io::stderr(), "{line}");
}

/// The URLs of PostgreSQL and Redis; `None` stands for SQLite and for memory.
pub fn services() -> (Option<String>, Option<String>) {
    static REPORTED: OnceLock<()> = OnceLock::new();
    let get = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let (postgres, redis) = (get("TEST_DATABASE_URL"), get("TEST_REDIS_URL"));
    let required = get("TEST_REQUIRE").unwrap_or_default();
    assert!(!required.contains("postgres") || postgres.is_some(), "TEST_REQUIRE=postgres requires TEST_DATABASE_URL");
    assert!(!required.contains("redis") || redis.is_some(), "TEST_REQUIRE=redis requires TEST_REDIS_URL");
    REPORTED.get_or_init(|| {
        let name = |url: &Option<String>, present: &'static str, absent: &'static str| {
            url.as_ref().map_or(absent, |_| present)
        };
        print_line(&format!(
            "running on {} and {}",
            name(&postgres, "PostgreSQL", "SQLite"),
            name(&redis, "Redis", "memory")
        ));
    });
    (postgres, redis)
}

/// A unique name for a database or a Redis prefix.
pub fn unique() -> String {
    format!("dca_test_{}", Ids::system().v4().simple())
}

impl TestApp {
    async fn new(log: Log, inputs: Inputs) -> Self {
        _ = rustls_provider();
        let dir = tempfile::tempdir().unwrap();
        let discord = SimDiscord::start().await;
        let mut env = BTreeMap::from([
            ("DCA_DATA_DIR".to_owned(), dir.path().display().to_string()),
            ("DCA_HTTP_ADDR".to_owned(), "127.0.0.1:0".to_owned()),
            ("DCA_DISCORD_TOKEN".to_owned(), discord.token()),
            ("DCA_DISCORD_API_URL".to_owned(), discord.base_url()),
            ("DCA_DM_INTERVAL_SECONDS".to_owned(), "5".to_owned()),
            ("DCA_PASSWORD_MEMORY_KIB".to_owned(), "12288".to_owned()),
        ]);
        let (postgres, redis) = services();
        let mut database = None;
        match postgres {
            None => databases::copy_sqlite_template(dir.path()),
            Some(server) => {
                let own = PostgresDatabase::create(&server).await;
                env.insert("DCA_DATABASE_URL".to_owned(), own.url());
                env.insert("DCA_DATABASE_POOL_SIZE".to_owned(), "8".to_owned());
                database = Some(own);
            }
        }
        if let Some(redis) = redis {
            env.insert("DCA_REDIS_URL".to_owned(), redis);
            env.insert("DCA_REDIS_PREFIX".to_owned(), unique());
        }
        let http = client();
        let (clock, expected_errors) = (inputs.clock.clone(), Vec::new());
        Self { discord, clock, log, running: None, env, inputs, dir, database, expected_errors, http }
    }

    /// Sets an environment variable for the next start.
    pub fn set(&mut self, name: &str, value: &str) {
        self.env.insert(name.to_owned(), value.to_owned());
    }

    /// Starts a mail server and configures it for the next start.
    pub async fn start_mail_sink(&mut self) -> MailSink {
        let sink = MailSink::start().await;
        self.set("DCA_SMTP_HOST", &sink.host());
        self.set("DCA_SMTP_PORT", &sink.port().to_string());
        self.set("DCA_SMTP_TLS", "none");
        sink
    }

    /// The environment, for processes that a test starts itself.
    pub fn env(&self) -> &BTreeMap<String, String> {
        &self.env
    }

    /// The data directory (`DCA_DATA_DIR`).
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Builds the app without starting it.
    pub async fn build(&self) -> App {
        let config = Config::load(self.env.clone()).unwrap();
        App::build(config, &[Part::Api, Part::Bot], self.inputs.clone()).await.unwrap()
    }

    /// Starts the app; returns once the bot is connected and roles were reconciled.
    pub async fn start(&mut self) {
        self.start_without_waiting().await;
        self.wait_until_reconciled().await;
    }

    /// Starts the app without waiting for the bot to connect.
    pub async fn start_without_waiting(&mut self) {
        let app = self.build().await;
        let stop = CancellationToken::new();
        let mut running = app.clone().start().await.unwrap();
        for &transport in outbox::Transport::ALL {
            running.spawn(format!("relay {transport}"), relay::run(app.clone(), transport, stop.clone()));
        }
        self.running = Some((running, stop));
    }

    /// Returns once the bot is connected, its events are stored, and roles were reconciled.
    pub async fn wait_until_reconciled(&self) {
        let bot = self.app().bot.clone().unwrap();
        self.discord.connected().await;
        let mut gateway = bot.gateway.subscribe();
        let connected = gateway.wait_for(|state| state.status == dca_commands::GatewayStatus::Connected);
        tokio::time::timeout(LIMIT, connected).await.expect("the bot never connected").unwrap();
        tokio::time::timeout(LIMIT, bot.drained()).await.expect("the events of Discord were not stored in time");
        self.app().run_worker(workers::RECONCILE_ROLES).await.unwrap();
    }

    /// Stops the app gracefully.
    pub async fn stop(&mut self) {
        if let Some((running, relay)) = self.running.take() {
            relay.cancel();
            running.stop().await.unwrap();
        }
    }

    /// Leaves the app without stopping it, as if it were killed.
    pub fn abandon(&mut self) {
        self.running = None;
    }

    /// The running app.
    pub fn app(&self) -> &App {
        &self.running.as_ref().expect("the app is stopped").0.app
    }

    /// The domain core, to prepare and to inspect state directly.
    pub fn core(&self) -> &Core {
        &self.app().core
    }

    /// The address of the HTTP server.
    pub fn addr(&self) -> SocketAddr {
        self.running.as_ref().unwrap().0.addr.unwrap()
    }

    /// The URL of a path, `http://127.0.0.1:…/path`.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr())
    }

    /// A plain HTTP client.
    pub fn http(&self) -> &reqwest::Client {
        &self.http
    }

    /// Advances the clock and wakes the outbox.
    pub fn advance(&self, by: chrono::Duration) {
        self.clock.advance(by);
        self.core().bus.notify(dca_core::bus::Topic::Outbox);
    }

    /// Runs a scheduled worker now.
    pub async fn run_worker(&self, worker: ScheduledWorker) {
        self.app().run_worker(worker).await.unwrap();
    }

    /// Allows error lines that contain `part`.
    pub fn expect_error(&mut self, part: &str) {
        self.expected_errors.push(part.to_owned());
    }

    /// The owner of a guild as a caller.
    pub async fn caller(&self, guild: &SimGuild) -> Caller {
        guilds::admin(self.core(), guild.id().into(), guild.owner().user_id().into()).await.unwrap()
    }

    /// Creates a secret API key for a product of a guild.
    pub async fn api_key(&self, guild: &SimGuild, product: &str) -> String {
        let caller = self.caller(guild).await;
        let product = products::get(self.core(), &caller.scope(), product).await.unwrap();
        let new = NewApiKey::new(ApiKeyKind::Secret, "test", &[product.id]);
        let (_, text) = api_keys::create(self.core(), &caller, new).await.unwrap();
        text.expose().to_owned()
    }

    /// Sets up a product with `/setup` and chooses its role.
    pub async fn map_role(&self, guild: &SimGuild, product: &str, role: u64, grace_hours: i64) -> Reply {
        let owner = guild.owner();
        let options = [("product", Opt::Str(product.to_owned())), ("grace_hours", Opt::Int(grace_hours))];
        let panel = self.discord.run(&owner, "/setup", &options).await;
        let reply = self.discord.choose(&owner, &panel, "setup:role", &[role]).await;
        self.run_worker(workers::RECONCILE_ROLES).await;
        reply
    }

    /// Removes a mapping with `/mapping remove`, and confirms it.
    pub async fn remove_mapping(&self, guild: &SimGuild, role: (&str, Opt), product: &str) -> Reply {
        let options = [role, ("product", Opt::Str(product.to_owned()))];
        let question = self.discord.run(&guild.owner(), "/mapping remove", &options).await;
        self.discord.press(&guild.owner(), &question, "mapping:remove").await
    }

    /// A guild with a product mapped to its role Gold, and a member without that role.
    pub async fn guild_with_product(&self, product: &str, grace_hours: i64) -> (SimGuild, u64, SimMember) {
        let guild = self.discord.guild("Makers");
        let (gold, ana) = (guild.role("Gold"), guild.join("ana"));
        self.wait_for_events(&guild).await;
        self.map_role(&guild, product, gold, grace_hours).await;
        (guild, gold, ana)
    }

    /// Calls `POST /licenses/validate`, expects 200 and returns the JSON.
    pub async fn validate(&self, api_key: &str, key: &str) -> Value {
        let response = self
            .http
            .post(self.url("/licenses/validate"))
            .header("X-API-Key", api_key)
            .json(&json!({ "licenseKey": key }))
            .send()
            .await
            .unwrap();
        assert_eq!(response.status(), 200);
        self.wait_until_stored().await;
        response.json().await.unwrap()
    }

    /// Waits until what validations left behind their answers is stored.
    pub async fn wait_until_stored(&self) {
        let stored = tokio::time::timeout(LIMIT, self.core().write_behind.drained()).await;
        stored.expect("what waits behind answers was not stored in time");
    }

    /// The event kinds of the guild's tenant, oldest first.
    pub async fn event_kinds(&self, guild: &SimGuild) -> Vec<String> {
        let caller = self.caller(guild).await;
        let mut all = events::list(self.core(), &caller.scope(), 10_000).await.unwrap();
        all.reverse();
        all.into_iter().map(|event| event.kind.to_string()).collect()
    }

    /// Waits until the guild's tenant has `count` events of this kind.
    pub async fn wait_for_events_of_kind(&self, guild: &SimGuild, kind: &str, count: usize) {
        let mut notifications = self.core().bus.subscribe();
        let reached = async {
            loop {
                let kinds = self.event_kinds(guild).await;
                if kinds.iter().filter(|known| *known == kind).count() >= count {
                    return;
                }
                _ = notifications.recv().await;
            }
        };
        assert!(
            tokio::time::timeout(LIMIT, reached).await.is_ok(),
            "no {count} × {kind} in {:?}\n{}",
            self.event_kinds(guild).await,
            self.discord.history()
        );
    }

    /// Waits until no delivery is due or claimed.
    pub async fn wait_until_idle(&self) {
        let mut notifications = self.core().bus.subscribe();
        let reached = async {
            loop {
                let depth = outbox::queue_depth(self.core()).await.unwrap();
                if depth.claimed == 0 && depth.due == 0 {
                    return;
                }
                _ = notifications.recv().await;
            }
        };
        tokio::time::timeout(LIMIT, reached).await.expect("a delivery did not complete in time");
    }

    /// Waits until all earlier events are stored: events are handled in order, so the response to a command
    /// follows them.
    pub async fn wait_for_events(&self, guild: &SimGuild) {
        let bot = self.app().bot.clone().unwrap();
        self.discord.run(&guild.owner(), "/key", &[]).await;
        tokio::time::timeout(LIMIT, bot.drained()).await.expect("the events of Discord were not stored in time");
    }

    /// Checks that nothing is left over; returns the database, which the app still uses.
    async fn finish(mut self) -> Option<PostgresDatabase> {
        if self.running.is_some() {
            self.wait_until_idle().await;
        }
        self.discord.finish();
        let log = self.log.text();
        let unexpected = |line: &&str| {
            let is_error = line.contains(" ERROR ") || line.to_lowercase().contains("unknown event");
            is_error && !self.expected_errors.iter().any(|part| line.contains(part.as_str()))
        };
        let errors: Vec<_> = log.lines().filter(unexpected).collect();
        assert!(errors.is_empty(), "unexpected errors in the log: {errors:#?}");
        assert_no_secret(&log, &self.discord.token());
        self.database.take()
    }
}

/// Fails if the text contains the bot's token or something that looks like a license key or an API key.
pub fn assert_no_secret(text: &str, token: &str) {
    let key = regex::Regex::new(r"[A-Z0-9]{2,8}(-[0-9A-HJKMNP-TV-Z]{4}){7}|dca_[ps]k_(test_)?[0-9A-Z]{36}").unwrap();
    let found: Vec<_> = text.lines().filter(|line| key.is_match(line) || line.contains(token)).collect();
    assert!(found.is_empty(), "a secret is in the log: {found:#?}");
}

fn rustls_provider() -> Result<(), Arc<rustls::crypto::CryptoProvider>> {
    rustls::crypto::ring::default_provider().install_default()
}

/// An HTTP client that follows no redirects and trusts no certificates; the tests use plain HTTP.
pub fn client() -> reqwest::Client {
    let redirect = reqwest::redirect::Policy::none();
    reqwest::Client::builder().tls_certs_only([]).redirect(redirect).build().unwrap()
}

/// The license key in the code block of a message.
pub fn key_in(message: &str) -> String {
    message.split("```").nth(1).expect("a key in a code block").trim().to_owned()
}

/// The licenses of a member, from the database.
pub async fn licenses_of(t: &TestApp, guild: &SimGuild, member: &SimMember) -> Vec<dca_core::licenses::License> {
    let caller = t.caller(guild).await;
    let user = users::ensure(t.core(), Provider::Discord, &member.user_id().to_string()).await.unwrap();
    dca_core::licenses::list_of(t.core(), &caller.scope(), user).await.unwrap()
}
