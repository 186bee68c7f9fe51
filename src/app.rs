//! [`App`]: everything that a process uses, built from its configuration. HTTP handlers, the bot and the workers all
//! call `App::core`.
//!
//! ```text
//! data directory -> database (migrated) -> master key -> Redis? -> Core -> bot? -> mail, OAuth
//! ```

use std::ops::Deref;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once};
use std::{fs, io, num::NonZeroU32, path::Path, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use chrono::{DateTime, Utc};
use dca_commands::{Bot, DiscordClient, GatewayState, GatewayStatus};
use dca_core::crypto::seal::MasterKey;
use dca_core::health::DatabaseHealth;
use dca_core::ids::InstanceId;
use dca_core::limiter::{Bucket, Rate};
use dca_core::{Bus, Clock, Core, Db, Error, Ids, Limiter, Settings, accounts::AccountPolicy};
use dca_core::{key_rotation, keyring::Keyring};
use dca_migration::{Migrator, MigratorTrait};
use metrics_exporter_prometheus::PrometheusHandle;
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use tokio::sync::Mutex;
use url::Url;

use crate::outbound::mail::Mailer;
use crate::{config::Config, master_key, outbound::dm_pause::DmPause, outbound::oauth::OAuthProviders};
use crate::{telemetry, tls_roots};

/// The parts of the service, which can run in separate processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Part {
    /// The HTTP API.
    Api,
    /// The Discord gateway.
    Bot,
    /// Deliveries and scheduled work.
    Workers,
}

/// The dependencies that tests replace; everything else is the real stack.
#[derive(Clone)]
pub struct Inputs {
    /// The source of the current time.
    pub clock: Clock,
    /// The source of ids and random bytes.
    pub ids: Ids,
    /// Renders the metrics collected by this process's recorder.
    pub metrics: PrometheusHandle,
}

impl Inputs {
    /// The system's clock and random numbers.
    pub fn system(metrics: PrometheusHandle) -> Self {
        Self { clock: Clock::system(), ids: Ids::system(), metrics }
    }
}

/// A probe of the database.
#[derive(Clone, Copy)]
pub(crate) struct Probe {
    pub(crate) at: DateTime<Utc>,
    pub(crate) database: DatabaseHealth,
}

/// Everything that a process uses. A clone costs one reference count: every request makes some.
#[derive(Clone)]
pub struct App(Arc<Shared>);

impl Deref for App {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

/// What the clones of an [`App`] share.
#[derive(Clone)]
pub struct Shared {
    /// The domain logic.
    pub core: Core,
    /// The configuration.
    pub config: Arc<Config>,
    /// The Discord client; `None` without a token.
    pub discord: Option<DiscordClient>,
    /// The configured OAuth sign-in providers.
    pub oauth_providers: OAuthProviders,
    /// The bot; `None` if this process must not connect to the gateway.
    pub bot: Option<Arc<Bot>>,
    /// Sends emails.
    pub mailer: Mailer,
    /// Renders the metrics.
    pub metrics: PrometheusHandle,
    pub(crate) dm_pause: DmPause,
    /// Logs once that a proxy is not trusted.
    pub(crate) proxy_warning: Arc<Once>,
    pub(crate) last_probe: Arc<Mutex<Option<Probe>>>,
    /// Holds the leases of this process.
    pub(crate) instance: InstanceId,
    parts: Arc<[Part]>,
    accepts_requests: Arc<AtomicBool>,
}

impl App {
    /// Opens everything that the configuration names, and creates what does not exist yet.
    pub async fn build(config: Config, parts: &[Part], inputs: Inputs) -> Result<Self> {
        _ = rustls::crypto::ring::default_provider().install_default();
        let core = create_core(&config, &inputs).await?;
        let discord = discord_client(&config, &core.clock)?;
        let connected = discord.clone().filter(|_| parts.contains(&Part::Bot));
        let bot = connected.map(|discord| Bot::new(core.clone(), discord, config.discord.gateway_lease));
        let mailer = Mailer::new(&config)?;
        Ok(Self(Arc::new(Shared {
            core,
            oauth_providers: OAuthProviders::new(&config)?,
            config: Arc::new(config),
            discord,
            bot,
            mailer,
            metrics: inputs.metrics,
            dm_pause: DmPause::default(),
            proxy_warning: Arc::new(Once::new()),
            last_probe: Arc::default(),
            instance: InstanceId(Ids::system().v4()),
            parts: parts.into(),
            accepts_requests: Arc::new(AtomicBool::new(true)),
        })))
    }

    /// Opens everything without running a part, for commands that only call core.
    pub(crate) async fn build_for_command(config: Config) -> Result<Self> {
        let metrics = telemetry::recorder()?.handle();
        Self::build(config, &[], Inputs::system(metrics)).await
    }

    /// Reads data keys that were added since, and the master key file, if it was replaced.
    pub async fn reload_keys(&self) -> Result<()> {
        let reloaded = self.core.reload_keys().await;
        if !matches!(reloaded, Err(Error::Internal(_))) {
            return Ok(reloaded?);
        }
        self.core.set_master_key(read_master_key(&self.config)?);
        Ok(self.core.reload_keys().await?)
    }

    /// Holds leases under this identity from now on. Clones made before keep the former one.
    pub(crate) fn set_instance(&mut self, instance: InstanceId) {
        Arc::make_mut(&mut self.0).instance = instance;
    }

    pub(crate) fn runs(&self, part: Part) -> bool {
        self.parts.contains(&part)
    }

    /// Whether this instance accepts requests.
    pub fn is_ready(&self) -> bool {
        self.accepts_requests.load(Ordering::Relaxed)
    }

    /// Tells the load balancer through `/ready` that this instance is about to stop.
    pub(crate) fn set_unready(&self) {
        self.accepts_requests.store(false, Ordering::Relaxed);
    }

    /// `embedded` (one process with a SQLite file) or `cluster`.
    pub(crate) fn mode(&self) -> &'static str {
        if self.core.db.is_shared() { "cluster" } else { "embedded" }
    }

    /// The status of the Discord connection, with a word and a description for people.
    pub(crate) fn discord_status(&self) -> DiscordStatus {
        let off = |detail: &str| DiscordStatus { name: "off", detail: detail.to_owned(), since: None, healthy: true };
        let Some(bot) = &self.bot else {
            let has_token = self.discord.is_some();
            return off(if has_token {
                "the gateway runs in another process (--only)"
            } else {
                "no DCA_DISCORD_TOKEN"
            });
        };
        let GatewayState { status, since } = bot.gateway.borrow().clone();
        let healthy = matches!(status, GatewayStatus::Connected | GatewayStatus::Standby);
        DiscordStatus { name: status.name(), detail: status.detail().to_owned(), since: Some(since), healthy }
    }
}

/// See [`App::discord_status`].
pub(crate) struct DiscordStatus {
    pub name: &'static str,
    pub detail: String,
    pub since: Option<DateTime<Utc>>,
    /// Whether events arrive, here or at another instance.
    pub healthy: bool,
}

const BURST: NonZeroU32 = NonZeroU32::new(10).expect("not zero");

/// Opens the core, and creates the data folder, the tables and the keys that do not exist yet.
async fn create_core(config: &Config, inputs: &Inputs) -> Result<Core> {
    create_files(config)?;
    let db = open_database(config).await?;
    migrate(&db).await?;
    if config.storage.master_key.is_none() && !Keyring::is_sealed(&db).await? {
        master_key::generate_if_missing(&config.storage.data_dir, &inputs.ids)?;
    }
    let core = open_core(config, inputs, db).await?;
    core.create_missing_keys().await?;
    key_rotation::sign_first_list(&core).await?;
    Ok(core)
}

/// Opens the core on a migrated database. Changes nothing.
pub(crate) async fn open_core(config: &Config, inputs: &Inputs, db: Db) -> Result<Core> {
    let master = read_master_key(config)?;
    let redis = open_redis(config)?;
    let rates = [
        (Bucket::Validate, Rate::per_minute(config.limits.validate_per_minute)),
        (Bucket::Activate, Rate::per_minute(config.limits.activate_per_minute)),
        (Bucket::Manage, Rate::per_minute(config.limits.manage_per_minute)),
        (Bucket::AuthFailure, Rate::per_minute(config.limits.auth_failures_per_minute)),
        (Bucket::Dm, Rate { burst: BURST, ..Rate::per_minute(config.limits.dm_per_minute) }),
        (Bucket::Auth, Rate::per_minute(config.limits.auth_per_minute)),
        (Bucket::Email, Rate { burst: BURST, ..Rate::per_minute(config.limits.emails_per_minute) }),
    ];
    let (bus, limiter) = match redis {
        None => (Bus::memory(), Limiter::new(&rates, None)),
        Some((client, connection)) => (
            Bus::redis(client, connection.clone(), &config.storage.redis_prefix),
            Limiter::new(&rates, Some((connection, &config.storage.redis_prefix))),
        ),
    };
    let settings = Settings { accounts: account_policy(config), public_url: config.http.public_url.clone() };
    Ok(Core::open(db, inputs.clock.clone(), inputs.ids.clone(), bus, limiter, settings, &master).await?)
}

fn read_master_key(config: &Config) -> Result<MasterKey> {
    match &config.storage.master_key {
        Some(key) => master_key::decode(key.expose()).context("DCA_MASTER_KEY is not 32 bytes of base64"),
        None => master_key::read(&config.storage.data_dir),
    }
}

fn account_policy(config: &Config) -> AccountPolicy {
    // Leave one CPU core for requests that do not hash passwords.
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    AccountPolicy {
        access_ttl: config.accounts.access_ttl,
        refresh_ttl: config.accounts.refresh_ttl,
        password_memory_kib: config.accounts.password_memory_kib,
        max_concurrent_hashes: cores.saturating_sub(1),
        failures_per_account: config.limits.failures_per_account.get(),
        failures_per_network: config.limits.failures_per_network.get(),
        sign_ins_per_account: config.limits.sign_ins_per_account.get(),
        max_sessions: config.accounts.max_sessions.get(),
        emails_per_network: config.limits.emails_per_network.get(),
        admins_need_second_factor: config.accounts.admins_need_second_factor,
        app_name: config.accounts.app_name.clone(),
    }
}

/// The Discord client; `None` without a token.
pub(crate) fn discord_client(config: &Config, clock: &Clock) -> Result<Option<DiscordClient>> {
    let settings = &config.discord;
    let client = settings.token.as_ref().map(|token| {
        let api_url = settings.api_url.as_deref();
        DiscordClient::new(token.expose(), api_url, settings.delivery_timeout, clock.clone())
    });
    Ok(client.transpose()?)
}

/// Creates the data folder and, for `SQLite`, the database file.
pub(crate) fn create_files(config: &Config) -> Result<()> {
    create_private_dir(&config.storage.data_dir).context("cannot use DCA_DATA_DIR")?;
    config.storage.sqlite_file().map_or(Ok(()), |path| create_private_file(&path).map(drop))
}

/// Creates a folder that only its owner can read, unless it exists.
pub(crate) fn create_private_dir(path: &Path) -> Result<()> {
    let created = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    created.with_context(|| format!("cannot create the folder {}", path.display()))
}

/// Creates a file that only its owner can read, unless it exists.
pub(crate) fn create_private_file(path: &Path) -> Result<fs::File> {
    let file = fs::OpenOptions::new().append(true).create(true).mode(0o600).open(path);
    file.with_context(|| format!("cannot write {}", path.display()))
}

const WRONG_FOLDER: &str = "Run the command in the folder where the service runs, or pass the service's data folder, \
                            for example --data-dir /var/lib/dca-auth. `dca-auth serve` creates a new database";

/// Fails if the `SQLite` file does not exist.
pub(crate) fn require_database(config: &Config) -> Result<()> {
    let missing = config.storage.sqlite_file().filter(|path| !path.exists());
    let Some(path) = missing else { return Ok(()) };
    bail!("there is no database at {}. {WRONG_FOLDER}", std::path::absolute(&path).unwrap_or(path).display());
}

/// Fails if no service has used this database yet, or if its master key is missing. Changes nothing. Returns the number
/// of pending migrations.
pub(crate) async fn require_data(config: &Config) -> Result<usize> {
    require_database(config)?;
    let db = open_database(config).await?;
    let pending = Migrator::get_pending_migrations_read_only(db.pool()).await.map_err(Error::from)?.len();
    let is_used = pending < Migrator::migrations().len() && Keyring::is_sealed(&db).await?;
    db.close().await?;
    ensure!(is_used, "the database is empty. {WRONG_FOLDER}");
    if config.storage.master_key.is_none() {
        master_key::read(&config.storage.data_dir)?;
    }
    Ok(pending)
}

/// Opens the database, whose `SQLite` file must exist. Errors do not contain the URL.
pub async fn open_database(config: &Config) -> Result<Db> {
    let url = config.storage.database_url.expose();
    let connected = Db::connect(&with_private_ca(url, config), config.storage.database_pool_size).await;
    connected.context("cannot open the database. Check DCA_DATABASE_URL")
}

/// Whether an error is that of a full disk.
pub(crate) fn is_disk_full(error: &anyhow::Error) -> bool {
    let is_file_error = |error: &io::Error| error.kind() == io::ErrorKind::StorageFull;
    error.downcast_ref::<Error>().is_some_and(Error::is_disk_full)
        || error.chain().any(|cause| cause.downcast_ref().is_some_and(is_file_error))
}

/// Adds the private certificate authorities to a Postgres URL that names none.
fn with_private_ca(url: &str, config: &Config) -> String {
    const PARAMETER: &str = "sslrootcert";
    let (Some(file), Ok(mut url)) = (&config.storage.ca_file, Url::parse(url)) else { return url.to_owned() };
    if url.scheme().starts_with("postgres") && url.query_pairs().all(|(name, _)| name != PARAMETER) {
        url.query_pairs_mut().append_pair(PARAMETER, &file.to_string_lossy());
    }
    url.into()
}

/// Applies pending migrations. Instances may call this at the same time.
pub async fn migrate(db: &Db) -> Result<()> {
    dca_migration::up(db.pool()).await.map_err(dca_core::Error::from).context("cannot migrate the database")
}

fn open_redis(config: &Config) -> Result<Option<(redis::Client, ConnectionManager)>> {
    let Some(url) = &config.storage.redis_url else { return Ok(None) };
    let client = match tls_roots::private(config)?.filter(|_| url.expose().starts_with("rediss:")) {
        None => redis::Client::open(url.expose()),
        Some(private) => {
            let root_cert = Some(tls_roots::with_public(private));
            redis::Client::build_with_tls(url.expose(), redis::TlsCertificates { client_tls: None, root_cert })
        }
    };
    let client = client.context("cannot use DCA_REDIS_URL or DCA_TLS_CA_FILE")?;
    let timeout = Duration::from_millis(500);
    let settings = ConnectionManagerConfig::new()
        .set_number_of_retries(1)
        .set_response_timeout(Some(timeout))
        .set_connection_timeout(Some(timeout));
    let connection = ConnectionManager::new_lazy_with_config(client.clone(), settings);
    Ok(Some((client, connection.context("cannot set up the Redis connection")?)))
}

/// Pings Redis; `None` if it is not configured.
pub async fn ping_redis(config: &Config) -> Option<Result<(), String>> {
    let opened = open_redis(config).map_err(|error| format!("{error:#}")).transpose()?;
    let ping = async {
        let (_, mut connection) = opened?;
        redis::cmd("PING").query_async::<()>(&mut connection).await.map_err(|error| error.to_string())
    };
    Some(ping.await)
}
