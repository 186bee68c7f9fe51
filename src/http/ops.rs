//! Health, liveness and readiness probes, and metrics.

use std::time::Duration;

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, extract::State};
use dca_core::{outbox, workers};
use serde_json::{Value, json};

use crate::App;

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
    let (discord, detail) = app.discord_status();
    let healthy = database && !app.is_bot_disconnected();
    let status = if database { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let report = json!({
        "status": match (database, healthy) { (false, _) => "down", (true, false) => "degraded", (true, true) => "ok" },
        "version": env!("CARGO_PKG_VERSION"),
        "mode": app.mode(),
        "checks": {
            "database": { "status": if database { "ok" } else { "down" } },
            "discord": { "status": discord, "detail": detail },
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

/// Retrieve metrics in the Prometheus text format
#[utoipa::path(get, path = "/metrics", tag = "operations", responses((status = 200, body = String)))]
pub(super) async fn metrics(State(app): State<App>) -> Response {
    let (state, _) = app.discord_status();
    metrics::gauge!("discord_bot_connected").set(f64::from(u8::from(state == "ok")));
    if let Ok(depth) = outbox::queue_depth(&app.core).await {
        #[expect(clippy::cast_precision_loss, reason = "gauges are floats")]
        let to_f64 = |n: u64| n as f64;
        metrics::gauge!("job_queue_size").set(to_f64(depth.pending));
        metrics::gauge!("dca_outbox_dead").set(to_f64(depth.dead));
        metrics::gauge!("dca_outbox_oldest_ready_seconds").set(to_f64(depth.oldest_due_s.max(0).unsigned_abs()));
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], app.metrics.render()).into_response()
}
