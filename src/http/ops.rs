//! What operators and platforms ask: is it alive, is it ready, how is it.

use std::time::Duration;

use axum::{
    Json,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use dca_core::{outbox, workers};
use serde_json::{Value, json};

use crate::App;

/// How long the database may take to answer a probe.
const TIMEOUT: Duration = Duration::from_secs(1);

async fn database_answers(app: &App) -> bool {
    // A table of ours: a database whose schema is gone does not answer.
    matches!(tokio::time::timeout(TIMEOUT, workers::list(&app.core)).await, Ok(Ok(_)))
}

/// How everything is: `ok`, or `degraded` when something is away that the API can live without.
#[utoipa::path(get, path = "/health", tag = "operations", responses((status = 200, body = Value), (status = 503, body = Value)))]
pub(super) async fn health(State(app): State<App>) -> Response {
    let database = database_answers(&app).await;
    let (discord, says) = app.discord_status();
    let fine = database && !matches!(discord, "refused" | "connecting");
    let status = if database { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let report = json!({
        "status": match (database, fine) { (false, _) => "down", (true, false) => "degraded", (true, true) => "ok" },
        "version": env!("CARGO_PKG_VERSION"),
        "mode": app.mode(),
        "checks": {
            "database": { "status": if database { "ok" } else { "down" } },
            "discord": { "status": discord, "detail": says },
        },
    });
    (status, Json(report)).into_response()
}

/// Whether the process runs; depends on nothing.
#[utoipa::path(get, path = "/live", tag = "operations", responses((status = 200, body = Value)))]
pub(super) async fn live() -> Json<Value> {
    Json(json!({ "status": "alive" }))
}

/// Whether requests should come here.
#[utoipa::path(get, path = "/ready", tag = "operations", responses((status = 200, body = Value), (status = 503, body = Value)))]
pub(super) async fn ready(State(app): State<App>) -> Response {
    let (stopping, database) = (!app.is_ready(), database_answers(&app).await);
    if database && !stopping {
        return Json(json!({ "status": "ready" })).into_response();
    }
    let checks = json!({ "database": database, "accepting": !stopping });
    (StatusCode::SERVICE_UNAVAILABLE, Json(json!({ "status": "not_ready", "checks": checks }))).into_response()
}

/// Metrics as Prometheus text.
#[utoipa::path(get, path = "/metrics", tag = "operations", responses((status = 200, body = String)))]
pub(super) async fn metrics(State(app): State<App>) -> Response {
    let (state, _) = app.discord_status();
    metrics::gauge!("discord_bot_connected").set(f64::from(u8::from(state == "ok")));
    if let Ok(depth) = outbox::depth(&app.core).await {
        #[expect(clippy::cast_precision_loss, reason = "a gauge is a float")]
        let float = |n: u64| n as f64;
        metrics::gauge!("job_queue_size").set(float(depth.pending));
        metrics::gauge!("dca_outbox_dead").set(float(depth.dead));
        metrics::gauge!("dca_outbox_oldest_ready_seconds").set(float(depth.oldest_due_s.max(0).unsigned_abs()));
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], app.metrics.render()).into_response()
}
