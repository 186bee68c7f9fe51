//! Health, liveness and readiness probes, and metrics.

use std::collections::BTreeMap;

use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Json, extract::State};
use chrono::TimeDelta;
use dca_commands::GatewayStatus;
use dca_core::health::{self, DatabaseHealth};
use dca_core::{Code, crypto::is_equal, outbox};
use serde_json::json;
use utoipa::IntoResponses;
use utoipa::openapi::{self, RefOr};

use super::extract::bearer;
use super::problem::{self, Problem};
use crate::App;
use crate::app::{DiscordStatus, Probe};

const DISK_FULL: &str = "The disk of the database is full, so nothing can be written. Free some space or enlarge it.";

/// How long a check of the database serves all probes.
const CACHED: TimeDelta = TimeDelta::seconds(1);

async fn database_health(app: &App) -> DatabaseHealth {
    let mut last_probe = app.last_probe.lock().await;
    if let Some(probe) = last_probe.filter(|probe| (app.core.clock.now() - probe.at).abs() < CACHED) {
        return probe.database;
    }
    let database = health::check(&app.core.db).await;
    *last_probe = Some(Probe { at: app.core.clock.now(), database });
    database
}

/// Retrieve health status
///
/// `status` is `ok`, `degraded` if the bot is not connected to Discord or the database's disk is full while the API can
/// still validate licenses, or `down` (with status 503) if the database is unavailable.
#[utoipa::path(get, path = "/health", tag = "operations", responses((status = 200, body = Value), (status = 503, body = Value)))]
pub(super) async fn health(State(app): State<App>) -> Response {
    let database = database_health(&app).await;
    let discord = app.discord_status();
    let (status, word) = match database {
        DatabaseHealth::Down => (StatusCode::SERVICE_UNAVAILABLE, "down"),
        DatabaseHealth::Ok if discord.healthy => (StatusCode::OK, "ok"),
        DatabaseHealth::Ok | DatabaseHealth::DiskFull => (StatusCode::OK, "degraded"),
    };
    let mut report = json!({
        "status": word,
        "version": crate::VERSION,
        "mode": app.mode(),
        "checks": {
            "database": { "status": database.as_str() },
            "discord": { "status": discord.name, "detail": discord.detail, "since": discord.since },
        },
    });
    if database == DatabaseHealth::DiskFull {
        report["checks"]["database"]["detail"] = DISK_FULL.into();
    }
    (status, Json(report)).into_response()
}

/// Check liveness
///
/// Succeeds while the process runs. Does not check the database or Discord.
#[utoipa::path(get, path = "/live", tag = "operations", responses((status = 200, body = Value)))]
pub(super) async fn live() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], r#"{"status":"alive"}"#).into_response()
}

/// Check readiness
///
/// Returns 503 while the database is unavailable or its disk is full, or the instance is shutting down.
#[utoipa::path(get, path = "/ready", tag = "operations", responses((status = 200, body = Value), (status = 503, body = Value)))]
pub(super) async fn ready(State(app): State<App>) -> Response {
    let (stopping, database) = (!app.is_ready(), database_health(&app).await);
    if database == DatabaseHealth::Ok && !stopping {
        return Json(json!({ "status": "ready" })).into_response();
    }
    let checks = json!({ "database": database == DatabaseHealth::Ok, "accepting": !stopping });
    let mut report = json!({ "status": "not_ready", "checks": checks });
    if database == DatabaseHealth::DiskFull {
        report["detail"] = DISK_FULL.into();
    }
    (StatusCode::SERVICE_UNAVAILABLE, Json(report)).into_response()
}

/// Sets one gauge per status: since when it is the current one, or 0.
fn record_discord_status(discord: &DiscordStatus) {
    metrics::gauge!("discord_bot_connected").set(f64::from(u8::from(discord.name == "ok")));
    for &name in GatewayStatus::NAMES {
        let since = discord.since.filter(|_| name == discord.name).map_or(0, |since| since.timestamp());
        #[expect(clippy::cast_precision_loss, reason = "gauges are floats")]
        metrics::gauge!("dca_gateway_status_since_timestamp_seconds", "status" => name).set(since as f64);
    }
}

struct MetricsProblems;

impl IntoResponses for MetricsProblems {
    fn responses() -> BTreeMap<String, RefOr<openapi::Response>> {
        problem::responses(&[401])
    }
}

/// Retrieve metrics in the Prometheus text format
///
/// Requires `DCA_METRICS_TOKEN` as a Bearer token if it is set.
#[utoipa::path(get, path = "/metrics", tag = "operations", security((), ("bearer" = [])),
    responses((status = 200, body = String), MetricsProblems))]
pub(super) async fn metrics(State(app): State<App>, headers: HeaderMap) -> Result<Response, Problem> {
    if let Some(token) = &app.config.http.metrics_token {
        let detail = "Send the value of DCA_METRICS_TOKEN as a Bearer token.";
        let sent = bearer(&headers).ok_or_else(|| Problem::new(Code::NoToken, detail))?;
        if !is_equal(sent, token.expose()) {
            return Err(Problem::new(Code::InvalidToken, detail));
        }
    }
    record_discord_status(&app.discord_status());
    if let Ok(depth) = outbox::queue_depth(&app.core).await {
        #[expect(clippy::cast_precision_loss, reason = "gauges are floats")]
        let to_f64 = |n: u64| n as f64;
        metrics::gauge!("job_queue_size").set(to_f64(depth.pending));
        metrics::gauge!("dca_outbox_dead").set(to_f64(depth.dead));
        metrics::gauge!("dca_outbox_oldest_ready_seconds").set(to_f64(depth.oldest_due_s.max(0).unsigned_abs()));
    }
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], app.metrics.render()).into_response())
}
