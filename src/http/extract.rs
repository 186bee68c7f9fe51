//! What handlers take: the caller behind an API key, the person behind an access token, the client, and a
//! body that fits its type.

use std::net::{IpAddr, SocketAddr};

use axum::{
    body::{Bytes, HttpBody},
    extract::{
        ConnectInfo, FromRequest, FromRequestParts, Path, Query as AxumQuery, Request, rejection::BytesRejection,
    },
    http::{HeaderMap, StatusCode, header, request::Parts},
    response::IntoResponse,
};
use dca_core::{
    Caller, Code, Error,
    accounts::{ClientInfo, Locale, Principal, sessions},
    api_keys,
    limiter::Bucket,
};
use ipnet::IpNet;
use serde::de::DeserializeOwned;

use super::{
    cookies::{CookieKind, Cookies},
    problem::Problem,
};
use crate::App;

/// The address a request came from. Forwarded headers count only as far as trusted proxies wrote
/// them: read from the right, the first address that is not one of theirs.
#[must_use]
pub fn client_ip(trusted: &[IpNet], peer: IpAddr, headers: &HeaderMap) -> IpAddr {
    let is_trusted = |ip: &IpAddr| trusted.iter().any(|net| net.contains(ip));
    let hops = headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok());
    let hops: Vec<&str> = hops.flat_map(|value| value.split(',')).map(str::trim).collect();
    let mut client = peer.to_canonical();
    for hop in hops.iter().rev() {
        if !is_trusted(&client) {
            break;
        }
        let Ok(ip) = hop.parse::<IpAddr>() else { break };
        client = ip.to_canonical();
    }
    client
}

/// The app that calls, proved by `X-API-Key` or `Authorization: Bearer`.
pub struct ApiKey {
    /// Who calls.
    pub caller: Caller,
    /// From where.
    pub client: IpAddr,
}

impl FromRequestParts<App> for ApiKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let client = client_of(parts, app);
        let text = credential(&parts.headers).ok_or_else(|| Problem::of(Code::NoApiKey))?;
        match api_keys::authenticate(&app.core, text).await {
            Ok(caller) => Ok(Self { caller, client }),
            Err(refused @ Error::Refused(_)) => {
                let passed = app.core.limiter.check(Bucket::AuthFailure, &client.to_string()).await;
                Err(passed.map_or_else(Problem::slow_down, |()| refused.into()))
            }
            Err(other) => Err(other.into()),
        }
    }
}

fn credential(headers: &HeaderMap) -> Option<&str> {
    if let Some(key) = headers.get("x-api-key") {
        // A key that is no text is a wrong key, not a missing one.
        return Some(key.to_str().unwrap_or_default());
    }
    bearer(headers)
}

pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Where a request came from.
pub(super) fn client_of(parts: &Parts, app: &App) -> IpAddr {
    let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>().map_or(IpAddr::from([0; 4]), |peer| peer.0.ip());
    client_ip(&app.config.trusted_proxies, peer, &parts.headers)
}

/// The client, as far as they can be seen.
pub struct Client(pub ClientInfo);

impl FromRequestParts<App> for Client {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let text = |name| parts.headers.get(name).and_then(|value| value.to_str().ok());
        let speaks = text(header::ACCEPT_LANGUAGE).unwrap_or_default().trim_start().to_ascii_lowercase();
        let device = Cookies::of(&parts.headers).one(&CookieKind::Device.name(&app.config))?.map(str::to_owned);
        Ok(Self(ClientInfo {
            network: network(client_of(parts, app)),
            agent: text(header::USER_AGENT).map(|agent| agent.chars().take(200).collect()),
            device,
            locale: if speaks.starts_with("es") { Locale::Es } else { Locale::En },
        }))
    }
}

/// The part of an address that a provider gives to one customer.
pub(super) fn network(client: IpAddr) -> String {
    let bits = if client.is_ipv4() { 24 } else { 64 };
    IpNet::new(client, bits).map_or_else(|_| client.to_string(), |network| network.trunc().to_string())
}

/// A person who is signed in, proved by `Authorization: Bearer` with an access token.
pub struct CurrentUser(pub Principal);

impl FromRequestParts<App> for CurrentUser {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let token = bearer(&parts.headers).ok_or_else(|| Problem::of(Code::NoToken))?;
        Ok(Self(sessions::authenticate(&app.core, token).await?))
    }
}

/// A JSON body, or none.
pub struct OptionalJson<T>(pub T);

impl<T: DeserializeOwned + Default> FromRequest<App> for OptionalJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let is_empty = request.body().is_end_stream() || request.body().size_hint().exact() == Some(0);
        if is_empty {
            return Ok(Self(T::default()));
        }
        Ok(Self(JsonBody::from_request(request, app).await?.0))
    }
}

/// A query string that fits its type. Each name counts once.
pub struct Query<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<App> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let read = AxumQuery::<T>::from_request_parts(parts, app).await;
        Ok(Self(read.map_err(|_| Problem::new(Code::BadRequest, "The query string does not fit."))?.0))
    }
}

/// A path whose parts fit their types; what does not fit is not there.
pub struct PathParams<T>(pub T);

impl<T: DeserializeOwned + Send> FromRequestParts<App> for PathParams<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let read = Path::<T>::from_request_parts(parts, app).await;
        Ok(Self(read.map_err(|_| Problem::new(Code::NotFound, "There is no such thing."))?.0))
    }
}

/// A JSON body. Unknown fields are ignored: old servers must understand newer apps.
pub struct JsonBody<T>(pub T);

impl<T: DeserializeOwned> FromRequest<App> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            return Err(Problem::of(Code::UnsupportedMediaType));
        }
        let bytes = Bytes::from_request(request, app).await.map_err(unread)?;
        if bytes.trim_ascii_start().starts_with(b"[") {
            // serde fills a struct from an array by position, which nobody was promised.
            return Err(Problem::new(Code::ValidationError, "Send one JSON object."));
        }
        let mut json = serde_json::Deserializer::from_slice(&bytes);
        let parsed = serde_path_to_error::deserialize(&mut json).map_err(|error| misfit(&error))?;
        json.end().map_err(|_| Problem::new(Code::BadRequest, "Something follows the JSON value."))?;
        Ok(Self(parsed))
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let given = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = given.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}

/// What does not fit, without the parser's words: those may quote the value.
fn misfit(error: &serde_path_to_error::Error<serde_json::Error>) -> Problem {
    let inner = error.inner();
    if !inner.is_data() {
        let detail = format!("Not JSON from line {}, column {}.", inner.line(), inner.column());
        return Problem::new(Code::BadRequest, detail);
    }
    // A field that is missing or came twice is not on the path: only the parser's words name it.
    let words = inner.to_string();
    let named = ["missing field `", "duplicate field `"].iter().find_map(|begin| words.strip_prefix(begin));
    let named = named.and_then(|rest| rest.split('`').next()).map(str::to_owned);
    let path = error.path().to_string();
    let problem = Problem::of(Code::ValidationError);
    match named.or_else(|| (path != ".").then_some(path)) {
        Some(field) => problem.at(field),
        None => problem,
    }
}

fn unread(rejection: BytesRejection) -> Problem {
    match rejection.into_response().status() {
        StatusCode::PAYLOAD_TOO_LARGE => Problem::of(Code::PayloadTooLarge),
        _ => Problem::new(Code::BadRequest, "The body did not arrive."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_trusted_proxies_are_believed() {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap(), "192.0.2.1/32".parse().unwrap()];
        for (peer, forwarded, expected) in [
            ("203.0.113.9", "1.2.3.4", "203.0.113.9"),
            ("10.0.0.1", "1.2.3.4", "1.2.3.4"),
            ("10.0.0.1", "6.6.6.6, 1.2.3.4", "1.2.3.4"),
            ("10.0.0.1", "6.6.6.6, 1.2.3.4, 192.0.2.1", "1.2.3.4"),
            ("10.0.0.1", "6.6.6.6, nonsense", "10.0.0.1"),
            ("10.0.0.1", "", "10.0.0.1"),
            ("::ffff:10.0.0.1", "2001:db8::1", "2001:db8::1"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("x-forwarded-for", forwarded.parse().unwrap());
            assert_eq!(
                client_ip(&trusted, peer.parse().unwrap(), &headers).to_string(),
                expected,
                "{peer} {forwarded}"
            );
        }
    }
}
