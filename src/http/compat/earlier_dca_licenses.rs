//! The license routes of the earlier DCA-Auth under `/api`. Each is another name of a native route, which does the work:
//! authentication, limits and proofs are the same. A row of [`ALIASES`] says what differs: the path, the names in the
//! body, and the names that clients read in the response. Verdicts have the codes of [`CODES`]. The list and the update of
//! licenses have no native counterpart: `earlier_dca_management`.

use std::collections::HashMap;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, Uri, header};
use axum::response::Response;
use axum::routing::{MethodFilter, on};
use chrono::{DateTime, Utc};
use dca_core::{Code, licenses::LicenseState};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tower_service::Service;
use uuid::Uuid;

use crate::App;
use crate::http::compat::dialect::Dialect;
use crate::http::{extract::bearer, problem::Problem, trace::RequestContext};

type Params = HashMap<String, String>;
type Members = Map<String, Value>;

/// Another name of a native route.
struct Alias {
    method: Method,
    path: &'static str,
    native: (Method, &'static str),
    /// The native body; `None` if it is sent on as it is.
    body: Option<fn(&Params, Members) -> Members>,
    /// The native response with the names that clients read.
    view: fn(Value) -> Value,
}

const fn alias(method: Method, path: &'static str, native: (Method, &'static str), view: fn(Value) -> Value) -> Alias {
    Alias { method, path, native, body: None, view }
}

impl Alias {
    const fn with_body(mut self, body: fn(&Params, Members) -> Members) -> Self {
        self.body = Some(body);
        self
    }
}

const VALIDATE: &str = "/licenses/validate";
const GENERATE: &str = "/admin/licenses/generate";

static ALIASES: &[Alias] = &[
    alias(Method::POST, "/api/licenses/validate", (Method::POST, VALIDATE), verdict),
    alias(Method::POST, "/api/licenses/verify", (Method::POST, VALIDATE), verdict),
    alias(Method::GET, "/api/licenses/key/{key}", (Method::POST, VALIDATE), verdict)
        .with_body(|params, _| members(json!({ "licenseKey": params["key"] }))),
    alias(Method::GET, "/api/users/{id}/licenses", (Method::GET, "/licenses?userId={id}"), licenses),
    alias(Method::POST, "/api/licenses", (Method::POST, GENERATE), created).with_body(|_, body| generation(body)),
    alias(Method::POST, "/api/licenses/batch", (Method::POST, GENERATE), generated)
        .with_body(|_, body| generation(body)),
    alias(Method::POST, "/api/licenses/generate-bulk", (Method::POST, GENERATE), generated)
        .with_body(|_, body| generation(body)),
    alias(Method::GET, "/api/licenses/{id}", (Method::GET, "/licenses/{id}"), license),
    alias(Method::DELETE, "/api/licenses/{id}", (Method::POST, "/licenses/{id}/revoke"), license)
        .with_body(|_, _| members(json!({ "reason": "deleted" }))),
    alias(Method::POST, "/api/licenses/{id}/transfer", (Method::POST, "/licenses/{id}/transfer"), license)
        .with_body(|_, body| renamed(body, &[("toUserId", "userId"), ("newUserId", "userId")])),
    alias(Method::POST, "/api/licenses/{id}/suspend", (Method::POST, "/licenses/{id}/suspend"), license)
        .with_body(|_, body| with(members(json!({ "reason": "suspended" })), body.into())),
    alias(Method::POST, "/api/licenses/{id}/unsuspend", (Method::POST, "/licenses/{id}/resume"), license),
    alias(Method::POST, "/api/licenses/{id}/reactivate", (Method::POST, "/licenses/{id}/resume"), license),
    alias(Method::POST, "/api/licenses/{id}/revoke", (Method::POST, "/licenses/{id}/revoke"), license)
        .with_body(|_, body| with(members(json!({ "reason": "revoked" })), body.into())),
    alias(Method::POST, "/api/licenses/{id}/extend", (Method::POST, "/licenses/{id}/renew"), license)
        .with_body(|_, body| extension(body)),
    alias(Method::POST, "/api/licenses/activate", (Method::POST, "/licenses/activate"), activated),
    alias(Method::POST, "/api/licenses/deactivate", (Method::POST, "/licenses/deactivate"), deactivated),
    alias(Method::POST, "/api/licenses/{id}/deactivate", (Method::POST, "/licenses/deactivate"), deactivated)
        .with_body(|params, body| with(body, json!({ "licenseId": params["id"] }))),
    alias(Method::GET, "/api/licenses/{id}/activations", (Method::GET, "/licenses/{id}/devices"), activations),
    alias(
        Method::DELETE,
        "/api/licenses/{id}/activations/{activationId}",
        (Method::DELETE, "/licenses/{id}/deactivate?deviceId={activationId}"),
        deactivated,
    ),
];

/// The codes of verdicts, and what clients of the earlier system call them.
pub(super) const CODES: &[(&str, &str)] = &[
    ("MALFORMED_KEY", "INVALID_KEY"),
    ("NOT_FOUND", "INVALID_KEY"),
    ("PRODUCT_MISMATCH", "INVALID_KEY"),
    ("BANNED", "KEY_SUSPENDED"),
    ("REVOKED", "KEY_REVOKED"),
    ("SUSPENDED", "KEY_SUSPENDED"),
    ("EXPIRED", "KEY_EXPIRED"),
    ("NOT_ASSIGNED", "KEY_INACTIVE"),
    ("DEVICE_REQUIRED", "HARDWARE_ID_REQUIRED"),
    ("DEVICE_BLOCKED", "ACTIVATION_BLOCKED"),
    ("NOT_ACTIVATED", "ACTIVATION_DEACTIVATED"),
    ("DEVICE_NOT_ACTIVATED", "ACTIVATION_DEACTIVATED"),
    ("DEVICE_MISMATCH", "ACTIVATION_DEACTIVATED"),
    ("DEVICE_LIMIT_EXCEEDED", "MAX_ACTIVATIONS_REACHED"),
    ("LEASE_REQUIRED", "ACTIVATION_EXPIRED"),
    ("LEASE_EXPIRED", "ACTIVATION_EXPIRED"),
    ("LEASE_SUPERSEDED", "ACTIVATION_EXPIRED"),
    ("LEASE_LIMIT_EXCEEDED", "KEY_EXHAUSTED"),
    ("CHECK_IN_OVERDUE", "ACTIVATION_EXPIRED"),
    ("FEATURE_MISSING", "INVALID_STATUS"),
    ("VERSION_NOT_ALLOWED", "INVALID_STATUS"),
    ("QUOTA_EXCEEDED", "KEY_EXHAUSTED"),
];

/// The routes; `native` are those that they are names of.
pub(super) fn routes(native: &Router) -> Router<App> {
    ALIASES.iter().fold(Router::new(), |routes, alias| {
        let native = native.clone();
        let handler = move |State(app): State<App>, Path(params): Path<Params>, request: Request| {
            forward(app, native.clone(), alias, params, request)
        };
        // Every method of the table is a filter.
        let method = MethodFilter::try_from(alias.method.clone()).unwrap_or(MethodFilter::GET);
        routes.route(alias.path, on(method, handler))
    })
}

/// Sends the request to the native route, and renames what it returns.
async fn forward(
    app: App,
    mut native: Router,
    alias: &Alias,
    params: Params,
    request: Request,
) -> Result<Response, Problem> {
    if params.contains_key("key") && !app.config.compat.keys_in_urls {
        let detail = "License keys do not belong into URLs, which proxies and browsers store. Send the key to POST \
                      /api/licenses/validate instead.";
        return Err(Problem::new(Code::NotFound, detail));
    }
    let request = translate(&app, alias, &params, request).await?;
    let Ok(response) = native.call(request).await;
    if !response.status().is_success() {
        return Ok(response);
    }
    let (mut parts, body) = response.into_parts();
    let bytes = to_bytes(body, usize::MAX).await.map_err(|_| Problem::of(Code::Internal))?;
    let answer = serde_json::from_slice(&bytes).map_err(|_| Problem::of(Code::Internal))?;
    parts.headers.remove(header::CONTENT_LENGTH);
    Ok(Response::from_parts(parts, Body::from((alias.view)(answer).to_string())))
}

/// The request to the native route. It has none of the path parameters of this one.
async fn translate(app: &App, alias: &Alias, params: &Params, request: Request) -> Result<Request, Problem> {
    let (parts, body) = request.into_parts();
    let mut path = alias.native.1.to_owned();
    for (name, value) in params.iter().filter(|(name, _)| *name != "key") {
        let id: Uuid = value.parse().map_err(|_| Problem::of(Code::NotFound))?;
        path = path.replace(&format!("{{{name}}}"), &id.to_string());
    }
    if let Some(query) = parts.uri.query().filter(|_| !path.contains('?')) {
        path = format!("{path}?{query}");
    }
    let mut bytes = to_bytes(body, usize::MAX).await.map_err(|_| Problem::of(Code::PayloadTooLarge))?;
    let mut headers = parts.headers;
    if let Some(convert) = alias.body {
        if bytes.trim_ascii().is_empty() {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
            bytes = "{}".into();
        }
        // What is no object is refused by the native route.
        if let Ok(sent) = serde_json::from_slice(&bytes) {
            bytes = Value::from(convert(params, sent)).to_string().into();
        }
        headers.remove(header::CONTENT_LENGTH);
    }
    let lacks_key = !headers.contains_key("x-api-key") && bearer(&headers).is_none();
    if let Some(key) = app.config.compat.validation_api_key.as_ref().filter(|_| lacks_key && alias.is_validation()) {
        headers.extend(HeaderValue::from_str(key.expose()).ok().map(|key| (HeaderName::from_static("x-api-key"), key)));
    }
    let mut native = Request::new(Body::from(bytes));
    *native.method_mut() = alias.native.0.clone();
    *native.uri_mut() = path.parse::<Uri>().map_err(|_| Problem::of(Code::NotFound))?;
    *native.headers_mut() = headers;
    let (from, to) = (parts.extensions, native.extensions_mut());
    from.get::<Dialect>().copied().map(|dialect| to.insert(dialect));
    from.get::<RequestContext>().cloned().map(|context| to.insert(context));
    Ok(native)
}

impl Alias {
    /// Whether clients of the earlier system call this without an API key.
    fn is_validation(&self) -> bool {
        self.native.1 == VALIDATE && self.body.is_none()
    }
}

fn members(value: Value) -> Members {
    match value {
        Value::Object(members) => members,
        _ => Members::new(),
    }
}

fn with(mut body: Members, more: Value) -> Members {
    body.extend(members(more));
    body
}

fn renamed(mut body: Members, names: &[(&str, &str)]) -> Members {
    for (from, to) in names {
        if let Some(value) = body.remove(*from) {
            body.insert((*to).to_owned(), value);
        }
    }
    body
}

/// The members of a new license as native ones. What this system does not have is refused by the native route.
fn generation(body: Members) -> Members {
    let mut body = renamed(body, &[("ownerId", "userId")]);
    let mut policy = Members::new();
    for (from, to) in [("maxActivations", "maxDevices"), ("features", "features")] {
        policy.extend(body.remove(from).map(|value| (to.to_owned(), value)));
    }
    if !policy.is_empty() {
        body.insert("policy".to_owned(), policy.into());
    }
    body.entry("count").or_insert(1.into());
    body
}

/// `days` and `expiresAt` as native members.
fn extension(body: Members) -> Members {
    let mut body = renamed(body, &[("days", "seconds"), ("expiresAt", "until")]);
    if let Some(days) = body.get("seconds").and_then(Value::as_i64) {
        body.insert("seconds".to_owned(), days.saturating_mul(86_400).into());
    }
    body
}

/// What the earlier system calls the state of a license.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum Status {
    Inactive,
    Active,
    Suspended,
    Expired,
    Revoked,
    /// No license has it: there is no limit of validations.
    Exhausted,
}

impl Status {
    pub(super) const ALL: [Self; 6] =
        [Self::Inactive, Self::Active, Self::Suspended, Self::Expired, Self::Revoked, Self::Exhausted];

    /// The states that it stands for.
    pub(super) const fn states(self) -> &'static [LicenseState] {
        use LicenseState::{Activated, Active, Assigned, Expired, Generated, Renewed, Revoked, Suspended};
        match self {
            Self::Inactive => &[Generated],
            Self::Active => &[Assigned, Activated, Active, Renewed],
            Self::Suspended => &[Suspended],
            Self::Expired => &[Expired],
            Self::Revoked => &[Revoked],
            Self::Exhausted => &[],
        }
    }
}

/// A license. Its key is shown only when it is created.
pub(super) fn license(license: Value) -> Value {
    let Value::Object(members) = &license else { return license };
    let devices = &license["limits"]["devices"];
    let state = license["state"].as_str().and_then(|state| state.parse().ok());
    let status = Status::ALL.iter().find(|status| state.is_some_and(|state| status.states().contains(&state)));
    let names = json!({
        "shortKey": license["keyHint"],
        "status": status,
        "ownerId": license["userId"],
        "maxActivations": devices["max"],
        "currentActivations": devices["used"],
    });
    with(members.clone(), names).into()
}

fn licenses(page: Value) -> Value {
    let all: Vec<Value> = page["data"].as_array().into_iter().flatten().cloned().map(license).collect();
    with(members(page), json!({ "licenses": all, "data": all })).into()
}

fn generated(answer: Value) -> Value {
    let all: Vec<Value> = answer["licenses"].as_array().into_iter().flatten().cloned().map(license).collect();
    with(members(answer), json!({ "licenseKeys": all, "licenses": all })).into()
}

fn created(mut answer: Value) -> Value {
    license(answer["licenses"][0].take())
}

/// A device as an activation.
fn activation(device: &Value) -> Value {
    let Value::Object(members) = device else { return Value::Null };
    with(members.clone(), json!({ "deviceName": device["name"], "status": "ACTIVE" })).into()
}

fn verdict(answer: Value) -> Value {
    let license = license(answer["license"].clone());
    let devices = &license["limits"]["devices"];
    let remaining = devices["max"].as_u64().map(|max| max.saturating_sub(devices["used"].as_u64().unwrap_or_default()));
    let time = |value: &Value| value.as_str()?.parse::<DateTime<Utc>>().ok();
    let expires_in =
        time(&license["expiresAt"]).zip(time(&answer["checkedAt"])).map(|(end, now)| (end - now).num_seconds());
    let names = if answer["valid"] == true {
        json!({
            "licenseKey": license["keyHint"],
            "activation": activation(&answer["device"]),
            "remainingActivations": remaining,
            "expiresIn": expires_in,
            "features": license["features"],
            "metadata": license["metadata"],
        })
    } else {
        let known = CODES.iter().find(|(native, _)| answer["code"] == *native);
        json!({ "reason": answer["detail"], "code": known.map_or("INVALID_STATUS", |(_, earlier)| earlier) })
    };
    with(with(members(answer), names), json!({ "license": license })).into()
}

fn activated(answer: Value) -> Value {
    let license = license(answer["license"].clone());
    let names = ["id", "type", "status", "expiresAt", "shortKey"];
    let short: Members = names.into_iter().map(|name| (name.to_owned(), license[name].clone())).collect();
    let names = json!({ "activation": activation(&answer["device"]), "licenseKey": short, "license": license });
    with(members(answer), names).into()
}

fn deactivated(answer: Value) -> Value {
    with(members(answer), json!({ "success": true, "message": "License deactivated successfully" })).into()
}

fn activations(page: Value) -> Value {
    let all: Vec<Value> = page["data"].as_array().into_iter().flatten().map(activation).collect();
    with(members(page), json!({ "activations": all, "data": all })).into()
}

/// The name of a problem's code, and what its clients read about it, from the license that the problem shows.
pub(super) fn problem(code: Code, names: &Members) -> Option<(&'static str, Value)> {
    let license = names.get("license")?;
    let devices = &license["limits"]["devices"];
    match code.as_str() {
        "DEVICE_LIMIT_EXCEEDED" => {
            let details = json!({ "maxActivations": devices["max"], "currentActivations": devices["used"] });
            Some(("MAX_ACTIVATIONS_REACHED", details))
        }
        "EXPIRED" => {
            Some(("LICENSE_EXPIRED", json!({ "licenseKey": license["keyHint"], "expiredAt": license["expiresAt"] })))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use dca_core::licenses::VerdictCode;

    use super::*;

    #[test]
    fn every_verdict_has_an_earlier_code() {
        for code in VerdictCode::ALL.iter().filter(|code| **code != VerdictCode::Valid) {
            assert!(CODES.iter().any(|(native, _)| *native == code.as_str()), "{code}");
        }
        assert_eq!(CODES.len(), VerdictCode::ALL.len() - 1);
    }
}
