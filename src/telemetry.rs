//! Logs and metrics. Logs are text on a terminal and JSON otherwise; metrics use the Prometheus text format.
//! Neither contains keys or tokens, only ids, key hints and routes.

use std::io::IsTerminal;

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusRecorder};
use tracing_subscriber::{EnvFilter, Registry, filter::LevelFilter, layer::SubscriberExt, util::SubscriberInitExt};

use crate::config::{Config, LogFormat};

/// Bucket bounds of latency histograms, in seconds.
const BUCKETS: [f64; 11] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0];

/// Creates a metrics recorder. The binary installs it globally, a test for its own threads.
pub fn recorder() -> Result<PrometheusRecorder, BuildError> {
    let seconds = Matcher::Suffix("_seconds".to_owned());
    Ok(PrometheusBuilder::new().set_buckets_for_metric(seconds, &BUCKETS)?.build_recorder())
}

/// Starts logging to standard error.
pub fn log(config: &Config) {
    let json = match config.log.format {
        LogFormat::Auto => !std::io::stderr().is_terminal(),
        LogFormat::Text => false,
        LogFormat::Json => true,
    };
    // More verbose levels of these libraries may log the content of requests.
    let library_levels = "serenity=warn,poise=warn,sqlx=warn,sea_orm=warn,apalis=error,hyper=warn,rustls=warn";
    let requested = EnvFilter::new(&config.log.filter);
    let filter = match requested.max_level_hint() {
        Some(LevelFilter::ERROR | LevelFilter::OFF) => requested,
        _ => EnvFilter::new(format!("{},{library_levels}", config.log.filter)),
    };
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(json);
    let registry = Registry::default().with(filter);
    if json {
        registry.with(lines.json().flatten_event(true).with_span_list(false)).init();
    } else {
        registry.with(lines).init();
    }
}
