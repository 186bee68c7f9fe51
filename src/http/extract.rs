//! Extractors: the caller of an API key, the user of an access token, client information, and typed query, path
//! and body. Every invalid field is reported.

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};

use axum::body::{Bytes, HttpBody, to_bytes};
use axum::extract::rejection::BytesRejection;
use axum::extract::{ConnectInfo, FromRequest, FromRequestParts, Path, Request};
use axum::http::{Extensions, HeaderMap, HeaderName, StatusCode, header, request::Parts};
use axum::response::IntoResponse;
use dca_core::accounts::{ClientInfo, Principal, guild_managers, sessions};
use dca_core::crypto::{api_key::ApiKeyKind, sha256};
use dca_core::field::FieldFault;
use dca_core::{AppCaller, Caller, Code, api_keys, limiter::Bucket, users::Locale};
use ipnet::IpNet;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use tracing::warn;
use url::form_urlencoded;

use super::cookies::{CookieKind, Cookies};
use super::problem::{FieldError, Problem};
use super::{compat::dialect::Dialect, quota, trace::RequestContext};
use crate::{App, wording};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// Returns the IP address of the client: in `X-Forwarded-For`, read from the right, the first address that is not
/// a trusted proxy. Entries added by other hosts are ignored.
pub fn client_ip(trusted: &[IpNet], peer: IpAddr, headers: &HeaderMap) -> IpAddr {
    let hops = headers.get_all(FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok());
    let hops: Vec<&str> = hops.flat_map(|value| value.split(',')).map(str::trim).collect();
    let mut client = peer.to_canonical();
    for hop in hops.iter().rev() {
        if !is_trusted(trusted, client) {
            break;
        }
        let Ok(ip) = hop.parse::<IpAddr>() else { break };
        client = ip.to_canonical();
    }
    client
}

/// The caller, authenticated by an API key in `X-API-Key` or `Authorization: Bearer`.
pub struct ApiKey(pub AppCaller);

impl FromRequestParts<App> for ApiKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let key = ApiKeyCredential::from_request_parts(parts, app).await?;
        let caller = api_keys::authenticate(&app.core, key.expose()).await;
        Ok(Self(key.checked(caller).await?))
    }
}

/// An API key that has not been authenticated: core does so with the statement that reads what the app asks for.
pub(crate) struct ApiKeyCredential {
    app: App,
    client: IpNet,
    text: String,
}

impl FromRequestParts<App> for ApiKeyCredential {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let text = credential(&parts.headers).ok_or_else(|| Problem::of(Code::NoApiKey))?.to_owned();
        Ok(Self { app: app.clone(), client: client_addresses(client_ip_of(parts, app)), text })
    }
}

impl ApiKeyCredential {
    /// The text of the key.
    pub(crate) fn expose(&self) -> &str {
        &self.text
    }

    /// The result of a call into core that authenticates the key. Counts a key that is not valid.
    pub(crate) async fn checked<T>(&self, result: dca_core::Result<T>) -> Result<T, Problem> {
        if result.as_ref().is_err_and(|error| error.code() == Code::InvalidApiKey) {
            quota::count(&self.app, Bucket::AuthFailure, &self.client).await?;
        }
        Ok(result?)
    }
}

/// The caller of the license service: an app with an API key, or a signed-in user.
pub(crate) struct Authenticated(pub(crate) Caller);

impl FromRequestParts<App> for Authenticated {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let is_api_key = |key: &str| ApiKeyKind::ALL.iter().any(|kind| key.starts_with(kind.prefix()));
        if parts.headers.contains_key("x-api-key") || bearer(&parts.headers).is_some_and(is_api_key) {
            return Ok(Self(Caller::App(ApiKey::from_request_parts(parts, app).await?.0)));
        }
        Ok(Self(SignedIn::from_request_parts(parts, app).await?.0))
    }
}

/// A signed-in user as the caller of the license service, where an API key is not enough.
pub(crate) struct SignedIn(pub(crate) Caller);

impl FromRequestParts<App> for SignedIn {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let user = CurrentUser::from_request_parts(parts, app).await?;
        Ok(Self(guild_managers::license_caller(&app.core, &user.principal).await?))
    }
}

fn credential(headers: &HeaderMap) -> Option<&str> {
    if let Some(key) = headers.get("x-api-key") {
        // A header that is not ASCII is an invalid key, not a missing one.
        return Some(key.to_str().unwrap_or_default());
    }
    bearer(headers)
}

/// The API key of a request, if it has no Bearer token that is something else.
pub(super) fn api_key(headers: &HeaderMap) -> Option<&str> {
    credential(headers).filter(|_| bearer(headers).is_none_or(|token| token.starts_with("dca_")))
}

pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// The IP address of the client.
pub(super) fn client_ip_of(parts: &Parts, app: &App) -> IpAddr {
    let known = parts.extensions.get().map(RequestContext::client);
    known.unwrap_or_else(|| find_client_ip(&parts.headers, &parts.extensions, app))
}

/// The IP address of the client of a new request. See [`client_ip`].
pub(super) fn find_client_ip(headers: &HeaderMap, extensions: &Extensions, app: &App) -> IpAddr {
    let peer = extensions.get::<ConnectInfo<SocketAddr>>().map_or(IpAddr::from([0; 4]), |peer| peer.0.ip());
    let trusted = &app.config.http.trusted_proxies;
    if !headers.contains_key(FORWARDED_FOR) {
        return peer.to_canonical();
    }
    if !is_trusted(trusted, peer.to_canonical()) {
        app.proxy_warning.call_once(|| {
            warn!(
                "{peer} sent X-Forwarded-For, but is not in DCA_TRUSTED_PROXIES, so the header is ignored. If it is your \
                 proxy, all its clients share one address and its rate limits: set DCA_TRUSTED_PROXIES={peer}"
            );
        });
    }
    client_ip(trusted, peer, headers)
}

fn is_trusted(trusted: &[IpNet], address: IpAddr) -> bool {
    trusted.iter().any(|network| network.contains(&address))
}

/// What is known about the client from its request, and what a handler needs to answer it.
pub(crate) struct Client {
    pub(crate) app: App,
    pub(crate) dialect: Dialect,
    pub(crate) info: ClientInfo,
}

impl FromRequestParts<App> for Client {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let text = |name| parts.headers.get(name).and_then(|value| value.to_str().ok());
        let cookies = Cookies::of(app, &parts.headers);
        let cookie = |kind| cookies.get(kind).map(|value| value.map(str::to_owned));
        let info = ClientInfo {
            network: network(client_ip_of(parts, app)).to_string(),
            agent: text(header::USER_AGENT).map(|agent| agent.chars().take(200).collect()),
            device: cookie(CookieKind::Device)?,
            sign_up: cookie(CookieKind::SignUp)?,
            locale: locale(&parts.headers),
        };
        Ok(Self { app: app.clone(), dialect: Dialect::of(parts), info })
    }
}

/// The language that the client prefers according to `Accept-Language` (RFC 9110, section 12.5.4), among those that
/// the service has; English if it names none of them.
pub(super) fn locale(headers: &HeaderMap) -> Locale {
    let header = headers.get(header::ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let accepted = header.split(',').filter_map(|range| {
        let (tag, weight) = range.split_once(';').unwrap_or((range, "q=1"));
        let language = tag.trim().split('-').next()?.to_ascii_lowercase();
        let weight: f32 = weight.trim().strip_prefix("q=")?.parse().ok().filter(|weight| *weight > 0.0)?;
        Some((language.parse::<Locale>().ok()?, weight))
    });
    accepted.reduce(|best, next| if next.1 > best.1 { next } else { best }).map_or(Locale::En, |(locale, _)| locale)
}

/// The network of an IP address, which is used instead of the address: /24 for IPv4, /64 for IPv6.
pub(super) fn network(client: IpAddr) -> IpNet {
    block(client, 24)
}

/// The addresses that count as one client: an IPv4 address, or a /64 of IPv6, all of which one machine can use.
pub(super) fn client_addresses(client: IpAddr) -> IpNet {
    block(client, 32)
}

fn block(client: IpAddr, ipv4_bits: u8) -> IpNet {
    let client = client.to_canonical();
    let bits = if client.is_ipv4() { ipv4_bits } else { 64 };
    IpNet::new(client, bits).map_or(client.into(), |network| network.trunc())
}

/// The signed-in user, authenticated by an access token in `Authorization: Bearer`, and what a handler needs to answer.
pub(crate) struct CurrentUser {
    pub(crate) app: App,
    pub(crate) dialect: Dialect,
    pub(crate) principal: Principal,
}

impl FromRequestParts<App> for CurrentUser {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let token = bearer(&parts.headers).ok_or_else(|| Problem::of(Code::NoToken))?;
        let principal = sessions::authenticate(&app.core, token).await?;
        Ok(Self { app: app.clone(), dialect: Dialect::of(parts), principal })
    }
}

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

/// A typed query string. A repeated parameter is an error.
pub struct Query<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<App> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &App) -> Result<Self, Problem> {
        Ok(Self(parse_form(parts.uri.query().unwrap_or_default().as_bytes())?))
    }
}

/// Typed path parameters. Invalid ones are reported as `NOT_FOUND`.
pub struct PathParams<T>(pub T);

impl<T: DeserializeOwned + Send> FromRequestParts<App> for PathParams<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let params = Path::<T>::from_request_parts(parts, app).await;
        Ok(Self(params.map_err(|_| Problem::of(Code::NotFound))?.0))
    }
}

/// A JSON body, or a form in dialects that accept forms. Unknown fields are ignored, so that newer clients work with
/// older servers.
pub struct JsonBody<T>(pub T);

impl<T: DeserializeOwned> FromRequest<App> for JsonBody<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        Ok(Self(SentJson::from_request(request, app).await?.value))
    }
}

/// Like [`JsonBody`], with the body as it was sent. Its size was limited when it was read.
pub(super) struct SentJson<T> {
    pub(super) value: T,
    pub(super) body: Bytes,
}

impl<T: DeserializeOwned> FromRequest<App> for SentJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &App) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let is_json = is_json(&parts.headers);
        if !(is_json || (Dialect::of(&parts).system.accepts_forms && is_form(&parts.headers))) {
            return Err(Problem::of(Code::UnsupportedMediaType));
        }
        let body = to_bytes(body, usize::MAX).await.map_err(|_| interrupted())?;
        let value = if is_json { parse_json(&body)? } else { parse_form(&body)? };
        Ok(Self { value, body })
    }
}

/// Like [`JsonBody`], with the SHA-256 of the body as it was sent.
pub(super) struct DigestedJson<T> {
    pub(super) value: T,
    pub(super) digest: [u8; 32],
}

impl<T: DeserializeOwned> FromRequest<App> for DigestedJson<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let SentJson { value, body } = SentJson::from_request(request, app).await?;
        Ok(Self { value, digest: sha256(&body) })
    }
}

/// The content type without its parameters.
fn essence(headers: &HeaderMap) -> &str {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    content_type.split(';').next().unwrap_or_default().trim()
}

fn is_json(headers: &HeaderMap) -> bool {
    let essence = essence(headers);
    let has_suffix = |essence: &str| essence.starts_with("application/") && essence.ends_with("+json");
    essence.eq_ignore_ascii_case("application/json") || has_suffix(&essence.to_ascii_lowercase())
}

pub(super) fn is_form(headers: &HeaderMap) -> bool {
    essence(headers).eq_ignore_ascii_case("application/x-www-form-urlencoded")
}

fn parse_form<T: DeserializeOwned>(text: &[u8]) -> Result<T, Problem> {
    let fields = serde_urlencoded::Deserializer::new(form_urlencoded::parse(text));
    serde_path_to_error::deserialize(fields).map_err(|error| match field_error(&error) {
        Some(error) => Problem::invalid(vec![error]),
        None => Problem::of(Code::ValidationError),
    })
}

fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    if bytes.trim_ascii_start().starts_with(b"[") {
        // serde would deserialize an array into a struct by position.
        return Err(not_an_object());
    }
    // Members that are ignored may be nested to any depth, and others as deep as the parser's limit.
    if opening_brackets(bytes) > MAX_DEPTH && depth(bytes) > MAX_DEPTH {
        let detail = format!("The body has more than {MAX_DEPTH} nested arrays and objects.");
        return Err(Problem::new(Code::BadRequest, detail));
    }
    // Only bodies that are refused are parsed again, for the path of what is wrong.
    serde_json::from_slice(bytes).or_else(|_| parse_json_with_paths(bytes))
}

fn parse_json_with_paths<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let inner = error.inner();
        if !inner.is_data() {
            let detail = format!("The body is not valid JSON at line {}, column {}.", inner.line(), inner.column());
            return Problem::new(Code::BadRequest, detail);
        }
        field_error(&error).map_or_else(not_an_object, |first| Problem::invalid(invalid_fields::<T>(bytes, first)))
    })?;
    json.end()
        .map_err(|_| Problem::new(Code::BadRequest, "The body must be a single JSON value, without text after it."))?;
    Ok(parsed)
}

fn not_an_object() -> Problem {
    Problem::new(Code::ValidationError, "The body must be a JSON object, for example {}.")
}

/// How deep the arrays and objects of a body may be nested.
const MAX_DEPTH: usize = 32;

/// At least as many as the text is deep, and much faster to find out.
fn opening_brackets(json: &[u8]) -> usize {
    json.iter().filter(|byte| matches!(byte, b'[' | b'{')).count()
}

/// How deep the arrays and objects of a JSON text are nested.
fn depth(json: &[u8]) -> usize {
    let (mut depth, mut deepest, mut is_string, mut bytes) = (0_usize, 0, false, json.iter());
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => is_string = !is_string,
            b'\\' if is_string => _ = bytes.next(),
            b'[' | b'{' if !is_string => depth += 1,
            b']' | b'}' if !is_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

/// All invalid fields of an object. The parser stops at the first, so each one is replaced by a string before the next
/// try.
fn invalid_fields<T: DeserializeOwned>(bytes: &[u8], first: FieldError) -> Vec<FieldError> {
    let mut errors = vec![first];
    let Ok(mut object) = serde_json::from_slice::<Map<String, Value>>(bytes) else { return errors };
    while let Some(last) = errors.last() {
        if last.message.ends_with(wording::UNKNOWN_FIELD) {
            object.remove(&last.field);
        } else {
            object.insert(last.field.clone(), "".into());
        }
        let Err(error) = serde_path_to_error::deserialize::<_, T>(Value::Object(object.clone())) else { break };
        match field_error(&error) {
            Some(next) if errors.iter().all(|known| known.field != next.field) => errors.push(next),
            _ => break,
        }
    }
    errors
}

/// The invalid field, and what is wrong with it.
fn field_error<E: Display>(error: &serde_path_to_error::Error<E>) -> Option<FieldError> {
    let (field, fault) = FieldFault::of(error)?;
    Some(FieldError { message: wording::field(&field, &fault), field })
}

pub(super) fn body_error(rejection: BytesRejection) -> Problem {
    match rejection.into_response().status() {
        StatusCode::PAYLOAD_TOO_LARGE => Problem::of(Code::PayloadTooLarge),
        _ => interrupted(),
    }
}

fn interrupted() -> Problem {
    Problem::new(Code::BadRequest, "The connection was closed before the whole body arrived. Try again.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_ip_ignores_addresses_forwarded_by_untrusted_hosts() {
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

    #[test]
    fn every_unknown_and_invalid_field_is_named() {
        #[derive(serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Settings {
            #[serde(rename = "name")]
            _name: String,
            #[serde(rename = "maxDevices")]
            _max_devices: Option<u32>,
        }
        let errors = |body: &str| match parse_json::<Settings>(body.as_bytes()) {
            Ok(_) => String::new(),
            Err(problem) => problem.errors.iter().map(|error| &*error.message).collect::<Vec<_>>().join("|"),
        };
        assert_eq!(errors(r#"{"name":"a","maxDevices":1}"#), "");
        let both = "maxdevices is not a known field|b is not a known field|name is required";
        assert_eq!(errors(r#"{"maxdevices":1,"b":{"c":[]}}"#), both);
        let (name, devices) = ("name must be a string", "maxDevices must be a whole number");
        assert_eq!(errors(r#"{"name":1,"c":2,"maxDevices":""}"#), format!("{name}|c is not a known field|{devices}"));
    }

    #[test]
    fn locale_is_the_supported_language_with_the_highest_weight() {
        for (header, expected) in [
            ("", Locale::En),
            ("es", Locale::Es),
            ("es-AR, en;q=0.8", Locale::Es),
            ("en;q=0.5, ES-mx ; q=0.9", Locale::Es),
            ("es;q=0.1, en", Locale::En),
            ("fr, es;q=0.5", Locale::Es),
            ("es;q=0, *", Locale::En),
            ("en, es", Locale::En),
            ("es;q=NaN, est, ;", Locale::En),
        ] {
            let headers = HeaderMap::from_iter([(header::ACCEPT_LANGUAGE, header.parse().unwrap())]);
            assert_eq!(locale(&headers), expected, "{header}");
        }
    }
}
