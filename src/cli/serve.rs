//! `dca-auth serve`.

use anyhow::{Context, Result, bail};
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use crate::app::{App, Inputs, Part};
use crate::{config::Config, telemetry};

#[derive(Args, Debug, Default)]
pub(super) struct Serve {
    /// Run only these parts, for example `--only api,workers`
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
}

/// Runs the service until a signal, or until one of its parts ends by itself.
pub(super) async fn run(config: Config, args: &Serve) -> Result<()> {
    telemetry::log(&config);
    let recorder = telemetry::recorder()?;
    let metrics = recorder.handle();
    metrics::set_global_recorder(recorder).context("metrics")?;
    let all = [Part::Api, Part::Bot, Part::Workers];
    let parts = if args.only.is_empty() { &all[..] } else { &args.only };
    let app = App::build(config, parts, Inputs::system(metrics)).await?;
    // Before the first request, so that a signal always shuts down in order.
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut running = app.start().await?;
    let ended = tokio::select! {
        failure = running.failure() => Err(failure),
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    tracing::info!("shutting down; send a second signal to stop immediately");
    tokio::select! {
        stopped = running.stop() => ended.and(stopped),
        _ = terminate.recv() => bail!("stopped by a second signal"),
        _ = interrupt.recv() => bail!("stopped by a second signal"),
    }
}
