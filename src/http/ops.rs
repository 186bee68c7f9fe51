//! Health, liveness and readiness probes, and metrics.

use std::time::Duration;

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, extract::State};
use dca_commands::GatewayStatus;
use dca_core::{outbox, workers};
use serde_json::{Value, json};

use crate::{App, app::DiscordStatus};

/// How long the database may take to answer a probe.
const TIMEOUT: Duration = Duration::from_secs(1);

async fn database_answers(app: &App) -> bool {
    // Reads a table, so that a database without its schema counts as down.
    matches!(tokio::time::timeout(TIMEOUT, workers::list(&app.core)).await, Ok(Ok(_)))
}

/// Retrieve health status
///
/// `status` is `ok`, `degraded` if the bot is not connected to Discord while the API works, or `down` (with status
/// 503) if the database is unavailable.
#[utoipa::path(get, path = "/health", tag = "operations", responses((status = 200, body = Value), (status = 503, body = Value)))]
pub(super) async fn health(State(app): State<App>) -> Response {
    let database = database_answers(&app).await;
    let discord = app.discord_status();
    let healthy = database && discord.healthy;
    let status = if database { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let report = json!({
        "status": match (database, healthy) { (false, _) => "down", (true, false) => "degraded", (true, true) => "ok" },
        "version": env!("CARGO_PKG_VERSION"),
        "mode": app.mode(),
        "checks": {
            "database": { "status": if database { "ok" } else { "down" } },
            "discord": { "status": discord.name, "detail": discord.detail, "since": discord.since },
        },
    });
    (status, Json(report)).into_response()
}

/// Check liveness
///
/// Succeeds while the process runs. Does not check the database or Discord.
#[utoipa::path(get, path = "/live", tag = "operations", responses((status = 200, body = Value)))]
pub(super) async fn live() -> Json<Value> {
    Json(json!({ "status": "alive" }))
}

/// Check readiness
///
/// Returns 503 while the database is unavailable or the instance is shutting down.
#[utoipa::path(get, path = "/ready", tag = "operations", responses((status = 200, body = Value), (status = 503, body = Value)))]
pub(super) async fn ready(State(app): State<App>) -> Response {
    let (stopping, database) = (!app.is_ready(), database_answers(&app).await);
    if database && !stopping {
        return Json(json!({ "status": "ready" })).into_response();
    }
    let checks = json!({ "database": database, "accepting": !stopping });
    (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "status": "not_ready", "checks": checks }))).into_response()
}

/// Sets one gauge per status: since when it is the current one, or 0.
fn record_discord_status(discord: &DiscordStatus) {
    metrics::gauge!("discord_bot_connected").set(f64::from(u8::from(discord.name == "ok")));
    for name in GatewayStatus::NAMES {
        let since = discord.since.filter(|_| name == discord.name).map_or(0, |since| since.timestamp());
        #[expect(clippy::cast_precision_loss, reason = "gauges are floats")]
        metrics::gauge!("dca_gateway_status_since_timestamp_seconds", "status" => name).set(since as f64);
    }
}

/// Retrieve metrics in the Prometheus text format
#[utoipa::path(get, path = "/metrics", tag = "operations", responses((status = 200, body = String)))]
pub(super) async fn metrics(State(app): State<App>) -> Response {
    record_discord_status(&app.discord_status());
    if let Ok(depth) = outbox::queue_depth(&app.core).await {
        #[expect(clippy::cast_precision_loss, reason = "gauges are floats")]
        let to_f64 = |n: u64| n as f64;
        metrics::gauge!("job_queue_size").set(to_f64(depth.pending));
        metrics::gauge!("dca_outbox_dead").set(to_f64(depth.dead));
        metrics::gauge!("dca_outbox_oldest_ready_seconds").set(to_f64(depth.oldest_due_s.max(0).unsigned_abs()));
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], app.metrics.render()).into_response()
}
