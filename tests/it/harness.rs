//! One test: its own runtime, log, metrics, database, Discord and process.
//!
//! [`it`] runs a test with a [`T`] and then proves silence: no message nobody read, no delivery that
//! is due, no unannounced error in the log, nothing in the log that looks like a key or a token.
//! Time stands still until [`TestApp::advance`]; scheduled workers run when a test says so.

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
    app::{Inputs, Part, Running},
    telemetry, workers,
};
use dca_core::{
    Caller, Clock, Core, Db, Ids, Snowflake, api_keys, crypto::api_key::ApiKeyKind, events, outbox, products,
};
use dca_test_support::{MailSink, Opt, Reply, SimDiscord, SimGuild, SimMember};
use sea_orm_migration::sea_orm::{ConnectionTrait, Database};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use tracing::Dispatch;
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

/// How long anything may be waited for.
pub const LIMIT: Duration = Duration::from_secs(10);

/// What the test's threads logged.
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

/// Everything a test works with.
pub struct TestApp {
    /// The outside.
    pub discord: SimDiscord,
    /// Domain time.
    pub clock: Clock,
    /// The log so far.
    pub log: Log,
    /// The process under test; `None` while it is stopped.
    running: Option<(Running, CancellationToken)>,
    env: BTreeMap<String, String>,
    inputs: Inputs,
    dir: tempfile::TempDir,
    database: Option<String>,
    expected_errors: Vec<String>,
    http: reqwest::Client,
}

/// The first moment of every test.
pub fn start_time() -> DateTime<Utc> {
    "2026-03-01T12:00:00Z".parse().unwrap()
}

/// Runs a test: builds, connects, plays it, and proves silence.
pub fn it<F: Future<Output = TestApp>>(test: impl FnOnce(TestApp) -> F + Send) {
    run(true, test);
}

/// Runs a test that starts its processes itself.
pub fn it_unstarted<F: Future<Output = TestApp>>(test: impl FnOnce(TestApp) -> F + Send) {
    run(false, test);
}

fn run<F: Future<Output = TestApp>>(started: bool, test: impl FnOnce(TestApp) -> F + Send) {
    let log = Log::default();
    let recorder = telemetry::recorder().unwrap();
    let metrics = recorder.handle();
    // The recorder lives as long as the threads that use it: the rest of the process.
    let recorder: &'static _ = Box::leak(Box::new(recorder));
    let filter =
        EnvFilter::new("info,serenity=debug,dca_auth=debug,dca_core=debug,dca_commands=debug,sqlx=warn,hyper=warn");
    let subscriber =
        tracing_subscriber::fmt().with_env_filter(filter).with_ansi(false).with_writer(log.clone()).finish();
    let dispatch = Dispatch::new(subscriber);
    let settle = move || {
        std::mem::forget(tracing::dispatcher::set_default(&dispatch));
        std::mem::forget(metrics::set_default_local_recorder(recorder));
    };
    let on_thread = settle.clone();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .on_thread_start(on_thread)
        .build()
        .unwrap();
    // The test itself runs on a thread of its own, so that its dispatch ends with it.
    std::thread::scope(|scope| {
        let played = scope.spawn(|| {
            settle();
            let inputs = Inputs { clock: Clock::manual(start_time()), ids: Ids::seeded(7), metrics };
            runtime.block_on(async {
                let mut t = TestApp::new(log.clone(), inputs).await;
                if started {
                    t.start().await;
                }
                let played = async { test(t).await.finish().await };
                tokio::time::timeout(LIMIT * 6, played).await.expect("the test hangs");
            });
        });
        if let Err(panic) = played.join() {
            eprintln!("---- log ----\n{}", log.text());
            std::panic::resume_unwind(panic);
        }
    });
}

/// A line that the test runner shows also when everything passes.
pub fn say(line: &str) {
    _ = writeln!(std::io::stderr(), "{line}");
}

/// The Postgres and Redis to run on; absent: `SQLite` and memory.
pub fn services() -> (Option<String>, Option<String>) {
    static SAID: OnceLock<()> = OnceLock::new();
    let get = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
    let (postgres, redis) = (get("TEST_DATABASE_URL"), get("TEST_REDIS_URL"));
    let required = get("TEST_REQUIRE").unwrap_or_default();
    assert!(!required.contains("postgres") || postgres.is_some(), "TEST_REQUIRE wants TEST_DATABASE_URL");
    assert!(!required.contains("redis") || redis.is_some(), "TEST_REQUIRE wants TEST_REDIS_URL");
    SAID.get_or_init(|| {
        let name = |given: &Option<String>, with: &'static str, without: &'static str| {
            given.as_ref().map_or(without, |_| with)
        };
        say(&format!("running on {} and {}", name(&postgres, "Postgres", "SQLite"), name(&redis, "Redis", "memory")));
    });
    (postgres, redis)
}

/// A migrated `SQLite` file, made once: a copy costs milliseconds, a migration a second.
fn template() -> &'static Path {
    static TEMPLATE: OnceLock<tempfile::TempDir> = OnceLock::new();
    let dir = TEMPLATE.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}?mode=rwc", dir.path().join("dca.db").display());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let db = Db::connect(&url, 1).await.unwrap();
                dca_auth::app::migrate(&db).await.unwrap();
                db.writer().execute_unprepared("PRAGMA wal_checkpoint(TRUNCATE)").await.unwrap();
                db.close().await.unwrap();
            });
        })
        .join()
        .unwrap();
        dir
    });
    dir.path()
}

/// A name nobody else uses, for databases and Redis prefixes.
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
            None => drop(std::fs::copy(template().join("dca.db"), dir.path().join("dca.db")).unwrap()),
            Some(server) => {
                let name = unique();
                let admin = Database::connect(&server).await.unwrap();
                admin.execute_unprepared(&format!("CREATE DATABASE {name}")).await.unwrap();
                let (base, _) = server.rsplit_once('/').unwrap();
                env.insert("DCA_DATABASE_URL".to_owned(), format!("{base}/{name}"));
                env.insert("DCA_DATABASE_POOL_SIZE".to_owned(), "8".to_owned());
                database = Some(name);
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

    /// Changes a setting of the process that is started next.
    pub fn set(&mut self, name: &str, value: &str) {
        self.env.insert(name.to_owned(), value.to_owned());
    }

    /// A mail server of its own for the process that is started next.
    pub async fn with_mail(&mut self) -> MailSink {
        let sink = MailSink::start().await;
        self.set("DCA_SMTP_HOST", &sink.host());
        self.set("DCA_SMTP_PORT", &sink.port().to_string());
        self.set("DCA_SMTP_TLS", "none");
        sink
    }

    /// The settings, for processes a test starts itself.
    pub fn env(&self) -> &BTreeMap<String, String> {
        &self.env
    }

    /// The data directory.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Builds the process without starting it.
    pub async fn build(&self) -> App {
        let config = Config::load(self.env.clone()).unwrap();
        App::build(config, &[Part::Api, Part::Bot], self.inputs.clone()).await.unwrap()
    }

    /// Starts the process; returns when it hears Discord and has looked at everything once.
    pub async fn start(&mut self) {
        self.start_without_waiting().await;
        self.settled().await;
    }

    /// Starts the process without waiting for Discord.
    pub async fn start_without_waiting(&mut self) {
        let app = self.build().await;
        let stop = CancellationToken::new();
        tokio::spawn(workers::relay(app.clone(), stop.clone()));
        self.running = Some((app.start().await.unwrap(), stop));
    }

    /// Returns when Discord is connected, what it told is stored, and the full pass has run.
    pub async fn settled(&self) {
        let bot = self.app().bot.clone().unwrap();
        self.discord.connected().await;
        let mut status = bot.status.subscribe();
        let connected = status.wait_for(|status| *status == dca_commands::GatewayStatus::Connected);
        tokio::time::timeout(LIMIT, connected).await.expect("the bot never connected").unwrap();
        tokio::time::timeout(LIMIT, bot.drained()).await.expect("what Discord told was never stored");
        self.app().run(workers::Worker::ReconcileRoles).await.unwrap();
    }

    /// Stops the process in order.
    pub async fn stop(&mut self) {
        if let Some((running, relay)) = self.running.take() {
            relay.cancel();
            running.stop().await.unwrap();
        }
    }

    /// The process.
    pub fn app(&self) -> &App {
        &self.running.as_ref().expect("the process is stopped").0.app
    }

    /// The product behind the doors: to set the stage and to look at the level reached.
    pub fn core(&self) -> &Core {
        &self.app().core
    }

    /// Where HTTP listens.
    pub fn addr(&self) -> SocketAddr {
        self.running.as_ref().unwrap().0.addr.unwrap()
    }

    /// `http://…/path`.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.addr())
    }

    /// A plain HTTP client.
    pub fn http(&self) -> &reqwest::Client {
        &self.http
    }

    /// Lets time pass, and the relay look.
    pub fn advance(&self, by: chrono::Duration) {
        self.clock.advance(by);
        self.core().bus.notify(dca_core::bus::Topic::Outbox);
    }

    /// Runs a scheduled worker, as the timer would.
    pub async fn run_worker(&self, worker: workers::Worker) {
        self.app().run(worker).await.unwrap();
    }

    /// Announces an error line that this test causes on purpose.
    pub fn expect_error(&mut self, part: &str) {
        self.expected_errors.push(part.to_owned());
    }

    /// The caller a guild's owner is.
    pub async fn caller(&self, guild: &SimGuild) -> Caller {
        Caller::in_guild(self.core(), guild.id().into(), guild.owner().user_id().into()).await.unwrap()
    }

    /// An API key for a product of a guild, by its name.
    pub async fn api_key(&self, guild: &SimGuild, product: &str) -> String {
        let caller = self.caller(guild).await;
        let product = products::get(self.core(), &caller.scope, product).await.unwrap();
        let (_, text) =
            api_keys::create(self.core(), &caller, "test", ApiKeyKind::Secret, &[product.id]).await.unwrap();
        text.expose().to_owned()
    }

    /// Sets a product up in Discord: `/setup`, then the role.
    pub async fn map_role(&self, guild: &SimGuild, product: &str, role: u64, grace_hours: i64) -> Reply {
        let owner = guild.owner();
        let options = [("product", Opt::Str(product.to_owned())), ("grace_hours", Opt::Int(grace_hours))];
        let panel = self.discord.run(&owner, "/setup", &options).await;
        let reply = self.discord.choose(&owner, &panel, "setup:role", &[role]).await;
        self.run_worker(workers::Worker::ReconcileRoles).await;
        reply
    }

    /// A guild that sells a product through its role Gold, and a member who does not have it yet.
    pub async fn guild_with_product(&self, product: &str, grace_hours: i64) -> (SimGuild, u64, SimMember) {
        let guild = self.discord.guild("Makers");
        let (gold, ana) = (guild.role("Gold"), guild.join("ana"));
        self.synced(&guild).await;
        self.map_role(&guild, product, gold, grace_hours).await;
        (guild, gold, ana)
    }

    /// Asks the verdict on a key: the JSON of a 200.
    pub async fn validate(&self, api_key: &str, key: &str) -> Value {
        let answer = self
            .http
            .post(self.url("/licenses/validate"))
            .header("X-API-Key", api_key)
            .json(&json!({ "licenseKey": key }))
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 200);
        answer.json().await.unwrap()
    }

    /// The log of a guild's tenant, oldest first: kinds alone.
    pub async fn kinds(&self, guild: &SimGuild) -> Vec<String> {
        let caller = self.caller(guild).await;
        let mut all = events::list(self.core(), &caller.scope, 10_000).await.unwrap();
        all.reverse();
        all.into_iter().map(|event| event.kind).collect()
    }

    /// Returns when the guild's log holds `count` events of this kind.
    pub async fn events(&self, guild: &SimGuild, kind: &str, count: usize) {
        let mut notifications = self.core().bus.subscribe();
        let reached = async {
            loop {
                let kinds = self.kinds(guild).await;
                if kinds.iter().filter(|known| *known == kind).count() >= count {
                    return;
                }
                _ = notifications.recv().await;
            }
        };
        assert!(
            tokio::time::timeout(LIMIT, reached).await.is_ok(),
            "no {count} × {kind} in {:?}\n{}",
            self.kinds(guild).await,
            self.discord.history()
        );
    }

    /// Returns when no delivery is due or being performed.
    pub async fn idle(&self) {
        let mut notifications = self.core().bus.subscribe();
        let reached = async {
            loop {
                let depth = outbox::depth(self.core()).await.unwrap();
                if depth.claimed == 0 && depth.due == 0 {
                    return;
                }
                _ = notifications.recv().await;
            }
        };
        tokio::time::timeout(LIMIT, reached).await.expect("a delivery never ended");
    }

    /// Returns when everything Discord sent before is stored: a command sent behind it was answered,
    /// and events are noted in order.
    pub async fn synced(&self, guild: &SimGuild) {
        let bot = self.app().bot.clone().unwrap();
        self.discord.run(&guild.owner(), "/key", &[]).await;
        tokio::time::timeout(LIMIT, bot.drained()).await.expect("what Discord told was never stored");
    }

    async fn finish(mut self) {
        if self.running.is_some() {
            self.idle().await;
            self.stop().await;
        }
        self.discord.finish();
        let log = self.log.text();
        let unexpected = |line: &&str| {
            let loud = line.contains(" ERROR ") || line.to_lowercase().contains("unknown event");
            loud && !self.expected_errors.iter().any(|part| line.contains(part.as_str()))
        };
        let loud: Vec<_> = log.lines().filter(unexpected).collect();
        assert!(loud.is_empty(), "unannounced errors in the log: {loud:#?}");
        assert_no_secret(&log, &self.discord.token());
        if let (Some(name), (Some(server), _)) = (&self.database, services()) {
            let admin = Database::connect(&server).await.unwrap();
            admin.execute_unprepared(&format!("DROP DATABASE {name} WITH (FORCE)")).await.unwrap();
        }
    }
}

/// Fails when a text holds something that looks like a license key, an API key or the bot's token.
pub fn assert_no_secret(text: &str, token: &str) {
    let key = regex::Regex::new(r"[A-Z0-9]{2,8}(-[0-9A-HJKMNP-TV-Z]{4}){7}|dca_[ps]k_[0-9A-Z]{36}").unwrap();
    let found: Vec<_> = text.lines().filter(|line| key.is_match(line) || line.contains(token)).collect();
    assert!(found.is_empty(), "a secret is in the log: {found:#?}");
}

fn rustls_provider() -> Result<(), Arc<rustls::crypto::CryptoProvider>> {
    rustls::crypto::ring::default_provider().install_default()
}

/// A client without a certificate store: everything here speaks plain HTTP, or brings its own. It goes where a
/// test sends it and nowhere else.
pub fn client() -> reqwest::Client {
    let redirect = reqwest::redirect::Policy::none();
    reqwest::Client::builder().tls_certs_only([]).redirect(redirect).build().unwrap()
}

/// The key in a message: the text between its fences.
pub fn key_in(message: &str) -> String {
    message.split("```").nth(1).expect("a key between fences").trim().to_owned()
}

/// A member's licenses, as the database has them.
pub async fn licenses_of(t: &TestApp, guild: &SimGuild, member: &SimMember) -> Vec<dca_core::licenses::License> {
    let caller = t.caller(guild).await;
    dca_core::licenses::list_of(t.core(), &caller.scope, Snowflake::from(member.user_id())).await.unwrap()
}
