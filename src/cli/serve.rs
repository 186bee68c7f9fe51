//! `dca-auth serve`.

use anyhow::{Context, Result, bail};
use clap::Args;
use dca_commands::rest;
use dca_core::{api_keys, products};
use tokio::signal::unix::{SignalKind, signal};
use tracing::info;

use super::output::Output;
use crate::app::{App, Inputs, Part};
use crate::{config::Config, telemetry};

#[derive(Args, Debug, Default)]
pub(super) struct Serve {
    /// Run only these parts, for example `--only api,workers`
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
}

/// Runs the service until a signal, or until one of its parts ends by itself.
pub(super) async fn run(config: Config, args: &Serve) -> Result<Output> {
    let _log = telemetry::log(&config);
    let recorder = telemetry::recorder()?;
    let metrics = recorder.handle();
    metrics::set_global_recorder(recorder).context("metrics")?;
    let all = [Part::Api, Part::Bot, Part::Workers];
    let parts = if args.only.is_empty() { &all[..] } else { &args.only };
    let app = App::build(config, parts, Inputs::system(metrics)).await?;
    // Before the first request, so that a signal always shuts down in order.
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut running = app.start().await?;
    tokio::spawn(log_next_step(running.app.clone()));
    let ended = tokio::select! {
        failure = running.failure() => Err(failure),
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    tracing::info!("shutting down; send a second signal to stop immediately");
    tokio::select! {
        stopped = running.stop() => ended.and(stopped)?,
        _ = terminate.recv() => bail!("stopped by a second signal"),
        _ = interrupt.recv() => bail!("stopped by a second signal"),
    }
    Ok(Output::text(""))
}

/// Logs what to do next in a new installation.
async fn log_next_step(app: App) {
    let (Ok(product), Ok(has_api_key)) = (products::first(&app.core).await, api_keys::exist(&app.core).await) else {
        return;
    };
    let step = match (&app.discord, product) {
        (_, Some(_)) if has_api_key => return,
        (_, Some(product)) => format!(
            "create an API key for your app: dca-auth apikey create --product '{}' --kind publishable",
            product.name
        ),
        (None, None) => {
            "set DCA_DISCORD_TOKEN to connect the bot, or run `dca-auth seed demo` to try the API".to_owned()
        }
        (Some(discord), None) => match discord.application().await {
            Ok((info, _)) => {
                let link = rest::invite_link(info.id.get());
                format!("invite the bot, if it is not in your server yet: {link} Then run /setup in the server")
            }
            // The connection reports it.
            Err(_) => return,
        },
    };
    info!(step, "next step");
}
