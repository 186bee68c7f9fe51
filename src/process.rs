//! Starts, watches and stops the parts of a process. `main` and the tests use the same code.
//!
//! ```text
//! start: HTTP | bot | workers, each a named task
//! run:   until a part ends by itself (an error) or the caller stops the process
//! stop:  unready -> gateway closed -> requests finished -> workers released -> buffer stored -> pools closed
//! ```

use std::{net::SocketAddr, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use anyhow::{Context, Result, anyhow, bail};
use dca_core::{Error, accounts::admin, key_rotation, licenses, log_limit::LogLimit, outbox::Transport};
use futures::FutureExt;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::app::{App, Part};
use crate::workers::{self, relay, scheduled};
use crate::{http, instance::Instance};

const REDIS_IS_OFF: &str = "redis: no DCA_REDIS_URL, rate limits are not shared between instances";

/// A started process.
pub struct Running {
    /// What the parts share.
    pub app: App,
    /// The address of the HTTP listener.
    pub addr: Option<SocketAddr>,
    stop: CancellationToken,
    /// The parts, each with its name and how it ended.
    parts: JoinSet<(String, Result<()>)>,
    _instance: Option<Instance>,
}

impl App {
    /// Starts the configured parts.
    pub async fn start(mut self) -> Result<Running> {
        let instance = self.claim_instance().await?;
        for worker in workers::SCHEDULED {
            dca_core::workers::register(&self.core, worker.name).await?;
        }
        let (stop, parts) = (CancellationToken::new(), JoinSet::new());
        let mut running = Running { app: self.clone(), addr: None, stop, parts, _instance: instance };
        if self.runs(Part::Api) {
            let server = http::serve(&self, running.stop.clone()).await?;
            running.addr = Some(server.addr);
            running.spawn("HTTP server", async { Ok(server.task.await??) });
        }
        running.spawn("cleanup of memory", free_memory(self.clone(), running.stop.clone()));
        running.spawn("write-behind", store_pending(self.clone(), running.stop.clone()));
        running.spawn("event log", follow_events(self.clone(), running.stop.clone()));
        running.spawn("keyring", reload_keys(self.clone(), running.stop.clone()));
        if let Some(bot) = self.bot.clone() {
            let (stop, instance_id) = (running.stop.clone(), self.instance);
            running
                .spawn("Discord gateway", async move { Ok(dca_commands::gateway::run(bot, instance_id, stop).await?) });
        }
        if self.runs(Part::Workers) {
            for &transport in Transport::ALL {
                let part = relay::run(self.clone(), transport, running.stop.clone());
                running.spawn(format!("relay {transport}"), part);
            }
            for worker in workers::SCHEDULED {
                let part = scheduled::run(self.clone(), worker, running.stop.clone());
                running.spawn(format!("worker {}", worker.name), part);
            }
        }
        running.announce().await?;
        Ok(running)
    }

    /// Takes over from an earlier process with the same data directory. With `SQLite`, only one process may run.
    async fn claim_instance(&mut self) -> Result<Option<Instance>> {
        let config = Arc::clone(&self.config);
        let data_dir = &config.storage.data_dir;
        let claimed = Instance::claim(data_dir).with_context(|| format!("cannot lock {}", data_dir.display()));
        match claimed {
            Ok(Some(instance)) => {
                self.set_instance(instance.id);
                if let Err(error) = dca_core::workers::revoke_leases_of(&self.core, instance.id).await {
                    warn!(%error, "could not take back the leases of the previous run; they expire on their own");
                }
                return Ok(Some(instance));
            }
            Ok(None) if self.core.db.is_shared() => {}
            Ok(None) => bail!(
                "dca-auth serve is already running in the data directory {}. Stop it first, or set DCA_DATA_DIR to \
                 another directory, for example DCA_DATA_DIR=data2. Several instances can share a PostgreSQL database \
                 (DCA_DATABASE_URL)",
                data_dir.display()
            ),
            Err(error) if self.core.db.is_shared() => {
                warn!(error = format!("{error:#}"), "without a lock, a restart waits for leases to expire");
            }
            Err(error) => return Err(error),
        }
        Ok(None)
    }
}

impl Running {
    /// Runs `part` as a part of the process: [`Running::failure`] reports its end.
    pub fn spawn(&mut self, name: impl Into<String>, part: impl Future<Output = Result<()>> + Send + 'static) {
        let name = name.into();
        self.parts.spawn(async move {
            let ended = AssertUnwindSafe(part).catch_unwind().await;
            (name, ended.unwrap_or_else(|_| Err(anyhow!("it panicked"))))
        });
    }

    /// Waits until a part ends by itself, and returns an error that names it. The other parts keep running until
    /// [`Running::stop`].
    pub async fn failure(&mut self) -> anyhow::Error {
        let Some(Ok((name, ended))) = self.parts.join_next().await else { return std::future::pending().await };
        let cause = ended.err().unwrap_or_else(|| anyhow!("it ended without an error"));
        cause.context(format!(
            "the {name} stopped, so the process stops. Restart it; if this happens again, report it with the log"
        ))
    }

    /// Shuts down in order: stops accepting requests, closes the gateway and releases the workers
    /// while requests finish, then closes the pools.
    pub async fn stop(mut self) -> Result<()> {
        self.app.set_unready();
        self.stop.cancel();
        let all_ended = async {
            while let Some(part) = self.parts.join_next().await {
                if let Ok((name, Err(error))) = part {
                    warn!(part = name, error = format!("{error:#}"), "a part did not stop cleanly");
                }
            }
        };
        let limit = self.app.config.http.drain_timeout + Duration::from_secs(10);
        if tokio::time::timeout(limit, all_ended).await.is_err() {
            warn!("some tasks did not finish in time; their leases will expire");
            self.parts.detach_all();
        }
        // What the last requests left.
        match tokio::time::timeout(Duration::from_secs(5), licenses::store_pending(&self.app.core)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => warn!(%error, "could not store when licenses were first validated or last used"),
            Err(_) => warn!("could not store in time when licenses were last used"),
        }
        Ok(self.app.core.db.clone().close().await?)
    }

    /// Logs one start line, and a warning if settings of earlier systems are unused.
    async fn announce(&self) -> Result<()> {
        let Self { app, addr, .. } = self;
        let (config, mail) = (&app.config, app.mailer.disabled_reason());
        let is_required = config.accounts.admins_need_second_factor;
        let unprotected = if is_required { 0 } else { admin::list_without_second_factor(&app.core).await?.len() };
        let second_factor = format!(
            "second factor: missing for {unprotected} of the accounts that administer others, see dca-auth doctor"
        );
        let parts = [
            (app.discord.is_none(), "bot: no DCA_DISCORD_TOKEN"),
            (config.storage.redis_url.is_none(), REDIS_IS_OFF),
            (config.http.tls.is_none(), "tls: no DCA_TLS_CERT_FILE"),
            (mail.is_some(), mail.as_deref().unwrap_or_default()),
            (unprotected > 0, &second_factor),
            (!app.runs(Part::Api), "api: --only"),
            (!app.runs(Part::Bot), "gateway: --only"),
            (!app.runs(Part::Workers), "workers: --only"),
        ];
        let off: Vec<&str> = parts.into_iter().filter(|(is_off, _)| *is_off).map(|(_, reason)| reason).collect();
        info!(
            version = crate::VERSION,
            mode = app.mode(),
            listening = %addr.map_or_else(|| "no".to_owned(), |addr| addr.to_string()),
            url = config.http.public_url,
            root_key = key_rotation::status(&app.core).await?.root.x,
            off = off.join("; "),
            "DCA-Auth is up"
        );
        if !config.unused_settings.is_empty() {
            warn!(
                names = config.unused_settings.join(" "),
                "these settings of earlier systems are not used; the end of .env.example says why"
            );
        }
        Ok(())
    }
}

/// Frees the memory of rate limits that are not in use and of samples that nobody has scraped, until `stop`.
async fn free_memory(app: App, stop: CancellationToken) -> Result<()> {
    while tokio::time::timeout(Duration::from_secs(5), stop.cancelled()).await.is_err() {
        app.core.limiter.drop_idle();
        app.metrics.run_upkeep();
    }
    Ok(())
}

/// Stores what waits behind answers, until `stop`. While the database cannot write, it waits on.
async fn store_pending(app: App, stop: CancellationToken) -> Result<()> {
    let warnings = LogLimit::default();
    while stop.run_until_cancelled(app.core.write_behind.filled()).await.is_some() {
        let mut pause = Duration::from_millis(50);
        if let Err(error) = licenses::store_pending(&app.core).await {
            pause = Duration::from_secs(1);
            if warnings.allows() {
                warn!(%error, "cannot store when licenses were last used; trying again");
            }
        }
        _ = tokio::time::timeout(pause, stop.cancelled()).await;
    }
    Ok(())
}

/// Follows the event log, so that answers do not wait for it, until `stop`.
async fn follow_events(app: App, stop: CancellationToken) -> Result<()> {
    stop.run_until_cancelled(app.core.cache.changes.follow()).await;
    Ok(())
}

/// Reads keys that the command line added, until `stop`. Much more often than [`ACTIVATION_DELAY`].
///
/// [`ACTIVATION_DELAY`]: dca_core::key_rotation::ACTIVATION_DELAY
async fn reload_keys(app: App, stop: CancellationToken) -> Result<()> {
    while tokio::time::timeout(Duration::from_secs(10), stop.cancelled()).await.is_err() {
        // The next attempt follows soon; other parts report that the database is unavailable.
        if let Err(error) = app.reload_keys().await
            && !matches!(error.downcast_ref(), Some(Error::Database(_)))
        {
            warn!(error = format!("{error:#}"), "cannot use the rotated keys; restart with the new master key");
        }
    }
    Ok(())
}
