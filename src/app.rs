//! The composition root: `main` and the tests build and run the same thing.
//!
//! ```text
//! build: data directory -> database (migrated) -> Redis? -> Core -> bot?
//! run:   HTTP | bot | workers, until told to stop
//! stop:  unready -> gateway closed -> requests finished -> workers released -> pools closed
//! ```

use std::{
    fs,
    io::Write,
    net::SocketAddr,
    num::NonZeroU32,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail};
use base64::{Engine, engine::general_purpose::STANDARD};
use dca_commands::{Bot, DiscordClient, GatewayStatus};
use dca_core::{
    Bus, Clock, Core, Db, Ids, Limiter,
    accounts::AccountPolicy,
    crypto::seal::{Keyring, MasterKey},
    limiter::{Bucket, Rate},
};
use metrics_exporter_prometheus::PrometheusHandle;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    Config, http,
    outbound::{Mailer, oauth::OAuthProviders},
    workers,
};

/// The parts a process may be split into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// The HTTP API.
    Api,
    /// The Discord gateway.
    Bot,
    /// Deliveries and scheduled work.
    Workers,
}

/// What a test replaces; everything else is the real stack.
#[derive(Clone)]
pub struct Inputs {
    /// Domain time.
    pub clock: Clock,
    /// Randomness.
    pub ids: Ids,
    /// Reads the metrics that this process's recorder gathers.
    pub metrics: PrometheusHandle,
}

/// A built process: doors call [`App::core`], workers too.
#[derive(Clone)]
pub struct App {
    /// The product.
    pub core: Core,
    /// The settings.
    pub config: Arc<Config>,
    /// Calls to Discord; `None` without a token.
    pub discord: Option<DiscordClient>,
    /// The providers people may sign in with.
    pub oauth_providers: OAuthProviders,
    /// The bot, where this process may hold the gateway.
    pub bot: Option<Arc<Bot>>,
    /// Sends letters.
    pub mailer: Mailer,
    /// Reads the metrics.
    pub metrics: PrometheusHandle,
    /// Until when direct messages rest because Discord asked for it.
    pub(crate) dm_pause: workers::relay::DmPause,
    parts: Arc<[Part]>,
    ready: Arc<AtomicBool>,
}

impl App {
    /// Opens everything the settings name.
    ///
    /// # Errors
    /// What cannot be opened, and what to do about it.
    pub async fn build(config: Config, parts: &[Part], inputs: Inputs) -> Result<Self> {
        _ = rustls::crypto::ring::default_provider().install_default();
        let core = open(&config, &inputs).await?;
        let discord = config.discord_token.as_ref().map(|token| {
            DiscordClient::new(token.expose(), config.discord_api_url.as_deref(), config.delivery_timeout)
        });
        let may_listen = parts.contains(&Part::Bot);
        let bot =
            discord.clone().filter(|_| may_listen).map(|discord| Bot::new(core.clone(), discord, config.gateway_lease));
        let mailer = Mailer::new(&config, core.db.is_shared())?;
        for worker in workers::Worker::ALL {
            dca_core::workers::register(&core, worker.name()).await?;
        }
        Ok(Self {
            core,
            oauth_providers: OAuthProviders::new(&config)?,
            config: Arc::new(config),
            discord,
            bot,
            mailer,
            metrics: inputs.metrics,
            dm_pause: workers::relay::DmPause::default(),
            parts: parts.into(),
            ready: Arc::new(AtomicBool::new(true)),
        })
    }

    /// Whether requests should come here.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    /// `embedded` (one process, one file) or `cluster`.
    #[must_use]
    pub fn mode(&self) -> &'static str {
        if self.core.db.is_shared() { "cluster" } else { "embedded" }
    }

    /// What Discord is to this process, in a word and a sentence.
    #[must_use]
    pub fn discord_status(&self) -> (&'static str, String) {
        match (&self.bot, &self.discord) {
            (None, None) => ("off", "no DCA_DISCORD_TOKEN".to_owned()),
            (None, Some(_)) => ("off", "another process holds the gateway (--only)".to_owned()),
            (Some(bot), _) => match bot.status.borrow().clone() {
                GatewayStatus::Standby => ("standby", "another instance listens, or this one is about to".to_owned()),
                GatewayStatus::Connecting => ("connecting", "waiting for Discord".to_owned()),
                GatewayStatus::Connected => ("ok", "events arrive".to_owned()),
                GatewayStatus::Refused(why) => ("refused", why),
            },
        }
    }

    /// Starts the parts.
    ///
    /// # Errors
    /// When the address cannot be bound or the certificate cannot be read.
    pub async fn start(self) -> Result<Running> {
        let (stop, drained) = (CancellationToken::new(), CancellationToken::new());
        let mut tasks = Vec::new();
        let mut addr = None;
        if self.parts.contains(&Part::Api) {
            let server = http::serve(&self, drained.clone()).await?;
            addr = Some(server.addr);
            tasks.push(server.task);
        }
        let (limiter, stopped) = (self.core.limiter.clone(), stop.clone());
        tasks.push(tokio::spawn(async move {
            while tokio::time::timeout(Duration::from_mins(1), stopped.cancelled()).await.is_err() {
                limiter.drop_idle();
            }
        }));
        if let Some(bot) = self.bot.clone() {
            tasks.push(tokio::spawn(dca_commands::gateway::run(bot, stop.clone())));
        }
        if self.parts.contains(&Part::Workers) {
            tasks.push(tokio::spawn(workers::run(self.clone(), stop.clone())));
        }
        self.announce(addr);
        Ok(Running { app: self, addr, stop, drained, tasks })
    }

    /// The one start line, and one line for settings of earlier systems that do nothing yet.
    fn announce(&self, addr: Option<SocketAddr>) {
        let mail = self.mailer.disabled_reason();
        let off: Vec<&str> = [
            (self.discord.is_none(), "bot: no DCA_DISCORD_TOKEN"),
            (
                self.config.redis_url.is_none(),
                "redis: no DCA_REDIS_URL, limits and notifications are this process's own",
            ),
            (self.config.tls.is_none(), "tls: no DCA_TLS_CERT_FILE"),
            (mail.is_some(), mail.as_deref().unwrap_or_default()),
            (!self.parts.contains(&Part::Api), "api: --only"),
            (!self.parts.contains(&Part::Bot), "gateway: --only"),
            (!self.parts.contains(&Part::Workers), "workers: --only"),
        ]
        .into_iter()
        .filter(|(off, _)| *off)
        .map(|(_, why)| why)
        .collect();
        info!(
            version = env!("CARGO_PKG_VERSION"),
            mode = self.mode(),
            listening = %addr.map_or_else(|| "no".to_owned(), |addr| addr.to_string()),
            url = self.config.public_url,
            off = off.join("; "),
            "DCA-Auth is up"
        );
        if !self.config.ignored.is_empty() {
            warn!(names = self.config.ignored.join(" "), "these settings are understood but have no effect yet");
        }
    }
}

/// A started process.
pub struct Running {
    /// What was started.
    pub app: App,
    /// Where HTTP listens.
    pub addr: Option<SocketAddr>,
    stop: CancellationToken,
    drained: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
}

impl Running {
    /// Ends in order: unready, gateway closed and workers released while requests finish, pools
    /// closed.
    ///
    /// # Errors
    /// When a pool does not close cleanly.
    pub async fn stop(self) -> Result<()> {
        self.app.ready.store(false, Ordering::Relaxed);
        self.stop.cancel();
        self.drained.cancel();
        let all = futures::future::join_all(self.tasks);
        if tokio::time::timeout(self.app.config.drain_timeout + Duration::from_secs(10), all).await.is_err() {
            warn!("some work did not finish in time; its leases end by themselves");
        }
        Ok(self.app.core.db.close().await?)
    }
}

/// Messages that may go out at once.
const BURST: NonZeroU32 = NonZeroU32::new(10).expect("not zero");

async fn open(config: &Config, inputs: &Inputs) -> Result<Core> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&config.data_dir)
        .with_context(|| format!("the data directory {} cannot be made", config.data_dir.display()))?;
    let db = open_database(config).await?;
    migrate(&db).await?;
    let master = master_key(config, &inputs.ids, Keyring::is_sealed(&db).await?)?;
    let shared = open_redis(config)?;
    let rates = [
        (Bucket::Validate, Rate::per_minute(config.validate_per_minute)),
        (Bucket::AuthFailure, Rate::per_minute(config.auth_failures_per_minute)),
        (Bucket::Dm, Rate { burst: BURST, ..Rate::per_minute(config.dm_per_minute) }),
        (Bucket::Auth, Rate::per_minute(config.auth_per_minute)),
        (Bucket::Mail, Rate { burst: BURST, ..Rate::per_minute(config.emails_per_minute) }),
    ];
    let (bus, limiter) = match shared {
        None => (Bus::memory(), Limiter::new(&rates, None)),
        Some((client, connection)) => (
            Bus::redis(client, connection.clone(), &config.redis_prefix),
            Limiter::new(&rates, Some((connection, &config.redis_prefix))),
        ),
    };
    Ok(Core::open(db, inputs.clock.clone(), inputs.ids.clone(), bus, limiter, rules(config), &master).await?)
}

fn rules(config: &Config) -> AccountPolicy {
    // One core stays with the requests that are not sign-ins.
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    AccountPolicy {
        access_ttl: config.access_ttl,
        refresh_ttl: config.refresh_ttl,
        password_memory_kib: config.password_memory_kib,
        max_concurrent_hashes: cores.saturating_sub(1),
        failures_per_account: config.failures_per_account.get(),
        failures_per_network: config.failures_per_network.get(),
        emails_per_network: config.emails_per_network.get(),
        admins_need_second_factor: config.admins_need_second_factor,
        app_name: config.app_name.clone(),
    }
}

/// Opens the database; an `SQLite` file is made with rights for its owner alone.
///
/// # Errors
/// When it cannot be reached; the address is not part of the message.
pub async fn open_database(config: &Config) -> Result<Db> {
    let url = config.database_url.expose();
    if let Some(path) = url.strip_prefix("sqlite:").and_then(|rest| rest.trim_start_matches("//").split('?').next()) {
        let path = percent_encoding::percent_decode_str(path).decode_utf8_lossy();
        let file = fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path.as_ref());
        file.with_context(|| format!("the database file {path} cannot be written"))?;
    }
    Db::connect(url, config.database_pool_size).await.context("the database cannot be opened (DCA_DATABASE_URL)")
}

/// Brings the schema up to date. Instances that start at once agree.
///
/// # Errors
/// When a migration fails.
pub async fn migrate(db: &Db) -> Result<()> {
    dca_migration::up(db.writer()).await.context("the schema cannot be brought up to date")
}

fn open_redis(config: &Config) -> Result<Option<(redis::Client, ConnectionManager)>> {
    let Some(url) = &config.redis_url else { return Ok(None) };
    let client = redis::Client::open(url.expose()).context("DCA_REDIS_URL cannot be used")?;
    let timeout = Duration::from_millis(500);
    let settings = ConnectionManagerConfig::new()
        .set_number_of_retries(1)
        .set_response_timeout(Some(timeout))
        .set_connection_timeout(Some(timeout));
    let connection =
        ConnectionManager::new_lazy_with_config(client.clone(), settings).context("Redis cannot be used")?;
    Ok(Some((client, connection)))
}

/// Whether Redis answers; `None` without one.
pub async fn ping_redis(config: &Config) -> Option<Result<(), String>> {
    let opened = open_redis(config).map_err(|error| format!("{error:#}")).transpose()?;
    let ping = async {
        let (_, mut connection) = opened?;
        redis::cmd("PING").query_async::<()>(&mut connection).await.map_err(|error| error.to_string())
    };
    Some(ping.await)
}

/// The configured master key, or the one in the data directory, made on first start.
fn master_key(config: &Config, ids: &Ids, is_sealed: bool) -> Result<MasterKey> {
    if let Some(given) = &config.master_key {
        return decode(given.expose()).context("DCA_MASTER_KEY is not 32 bytes of base64");
    }
    let path = config.data_dir.join("master.key");
    match fs::read_to_string(&path) {
        Ok(text) => decode(text.trim()).with_context(|| format!("{} is not 32 bytes of base64", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && is_sealed => bail!(
            "{} is missing, but this database was sealed under a master key: restore it from your backup, or set DCA_MASTER_KEY",
            path.display()
        ),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let key = ids.bytes::<32>();
            write_secret(&path, &STANDARD.encode(key))?;
            info!(path = %path.display(), "made a master key; back it up with the database, one is worthless without the other");
            Ok(MasterKey::new(key))
        }
        Err(error) => bail!("{} cannot be read: {error}", path.display()),
    }
}

fn decode(text: &str) -> Result<MasterKey> {
    let bytes = STANDARD.decode(text)?;
    Ok(MasterKey::new(bytes.try_into().map_err(|_| anyhow::anyhow!("wrong length"))?))
}

/// Writes a new file that only its owner can read; never overwrites one.
fn write_secret(path: &Path, text: &str) -> Result<()> {
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("{} cannot be written", path.display()))?;
    let written = writeln!(file, "{text}").and_then(|()| file.sync_all());
    written.with_context(|| {
        // Half a secret would be taken for a whole one at the next start.
        _ = fs::remove_file(path);
        format!("{} cannot be written", path.display())
    })
}
