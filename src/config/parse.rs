//! Parsers of values. The rows that use a parser describe the expected value.

use std::{fs, net::IpAddr, ops::RangeInclusive, path::PathBuf, str::FromStr, time::Duration};

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, STANDARD_NO_PAD},
};
use ipnet::IpNet;
use tracing_subscriber::filter::{EnvFilter, LevelFilter};
use url::Url;

use super::{LogFormat, SameSite, Secret, SmtpTls};

pub(super) fn folder(value: &str) -> Option<PathBuf> {
    let path = PathBuf::from(value);
    (path.is_dir() || !path.exists()).then_some(path)
}

pub(super) fn readable_file(value: &str) -> Option<PathBuf> {
    fs::read(value).ok().map(|_| value.into())
}

pub(super) fn number<T: FromStr + PartialOrd>(range: RangeInclusive<T>) -> impl Fn(&str) -> Option<T> {
    move |value| value.parse().ok().filter(|number| range.contains(number))
}

pub(super) fn seconds(range: RangeInclusive<u64>) -> impl Fn(&str) -> Option<Duration> {
    let number = number(range);
    move |value| number(value).map(Duration::from_secs)
}

pub(super) fn any_address(values: &[&str]) -> Option<String> {
    number(1..=u16::MAX)(values[0]).map(|port| format!("0.0.0.0:{port}"))
}

pub(super) fn verbatim(values: &[&str]) -> Option<String> {
    values.first().copied().map(str::to_owned)
}

pub(super) fn without_slash(values: &[&str]) -> Option<String> {
    values.first().map(|url| url.trim_end_matches('/').to_owned())
}

/// Refuses small numbers without a unit, because they could be days or seconds.
pub(super) fn seconds_or_days(values: &[&str]) -> Option<String> {
    match values[0].strip_suffix('d') {
        Some(days) => number(1..=90)(days).map(|days: u64| (days * 86_400).to_string()),
        None => number(3_600..=7_776_000)(values[0]).map(|seconds: u64| seconds.to_string()),
    }
}

pub(super) fn per_minute(values: &[&str]) -> Option<String> {
    let window = if values[1].is_empty() { "60000" } else { values[1] };
    let (limit, window): (u64, u64) = (number(1..=1_000_000)(values[0])?, number(1..=86_400_000)(window)?);
    Some((limit * 60_000).div_ceil(window).to_string())
}

/// Parts of secrets that were published in documentation.
const EXAMPLES: &str = "default secret pepper change example your_ d54b82f4bf57bf88 e2c3f1a9b6d4e8f7";

fn is_example(value: &str) -> bool {
    let value = value.to_lowercase();
    EXAMPLES.split(' ').any(|example| value.contains(example)) || value.chars().all(|c| value.starts_with(c))
}

pub(super) fn is_secret(value: &str) -> bool {
    value.len() >= 32 && !is_example(value)
}

pub(super) fn is_pepper(value: &str) -> bool {
    value.len() >= 16 && !is_example(value)
}

pub(super) fn is_algorithm(value: &str) -> bool {
    ["bcrypt", "argon2", "argon2id"].contains(&value.to_lowercase().as_str())
}

pub(super) fn is_environment(value: &str) -> bool {
    ["development", "test", "staging", "production"].contains(&value.to_lowercase().as_str())
}

pub(super) fn word(value: &str) -> Option<String> {
    token(value).map(|word| word.0)
}

pub(super) fn text(value: &str) -> Option<String> {
    (!value.contains(char::is_control)).then(|| value.to_owned())
}

pub(super) fn title(value: &str) -> Option<String> {
    text(value).filter(|title| title.chars().count() <= 60)
}

pub(super) fn web_url(value: &str) -> Option<String> {
    let url = Url::parse(value).ok()?;
    let is_valid = ["http", "https"].contains(&url.scheme()) && url.has_host() && url.fragment().is_none();
    is_valid.then(|| value.to_owned())
}

/// Normalizes each origin to the text that browsers send in `Origin`.
pub(super) fn origins(value: &str) -> Option<Vec<String>> {
    let origin = |item: &str| {
        let url = Url::parse(item).ok()?;
        let is_valid = ["http", "https"].contains(&url.scheme()) && url.path() == "/" && url.query().is_none();
        Some(url.origin().ascii_serialization()).filter(|origin| is_valid && !item.contains('*') && origin.len() > 4)
    };
    value.split(',').map(|item| origin(item.trim())).collect()
}

pub(super) fn cookie_name(value: &str) -> Option<String> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    (value.len() <= 64 && value.chars().all(is_allowed)).then(|| value.to_owned())
}

pub(super) fn truth(value: &str) -> Option<bool> {
    value.to_lowercase().parse().ok()
}

pub(super) fn same_site(value: &str) -> Option<SameSite> {
    match value.to_lowercase().as_str() {
        "lax" => Some(SameSite::Lax),
        "strict" => Some(SameSite::Strict),
        "none" => Some(SameSite::None),
        _ => None,
    }
}

pub(super) fn domain(value: &str) -> Option<String> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-.".contains(c);
    (value.chars().all(is_allowed) && !value.ends_with('.')).then(|| value.to_owned())
}

pub(super) fn host(value: &str) -> Option<String> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    (value.chars().all(is_allowed) || value.parse::<IpAddr>().is_ok()).then(|| value.to_owned())
}

pub(super) fn smtp_tls(value: &str) -> Option<SmtpTls> {
    match value {
        "auto" => Some(SmtpTls::Auto),
        "starttls" => Some(SmtpTls::StartTls),
        "tls" => Some(SmtpTls::Tls),
        "opportunistic" => Some(SmtpTls::Opportunistic),
        "none" => Some(SmtpTls::None),
        _ => None,
    }
}

pub(super) fn mailbox(value: &str) -> Option<String> {
    value.parse::<lettre::message::Mailbox>().ok().map(|mailbox| mailbox.to_string())
}

pub(super) fn second_factor(value: &str) -> Option<bool> {
    match value {
        "none" => Some(false),
        "admins" => Some(true),
        _ => None,
    }
}

pub(super) fn on_localhost(values: &[&str]) -> Option<String> {
    let port = Some(values[3]).filter(|port| !port.is_empty()).unwrap_or("5432");
    let port = number(1..=u16::MAX)(port)?;
    let [user, password, name] = [0, 1, 2].map(|index| percent_encoded(values[index], ""));
    Some(format!("postgres://{user}:{password}@localhost:{port}/{name}"))
}

pub(super) fn percent_encoded(text: &str, keep: &str) -> String {
    let encode = |byte| match char::from(byte) {
        c if c.is_ascii_alphanumeric() || "-._~".contains(c) || keep.contains(c) => c.to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(encode).collect()
}

pub(super) fn database_url(value: &str) -> Option<Secret> {
    /// Parameters that the driver does not support and would log with their values.
    const PRISMA: &str = "schema pgbouncer connection_limit connect_timeout pool_timeout \
                          socket_timeout sslaccept sslidentity sslpassword";
    if let Some(file) = value.strip_prefix("sqlite:") {
        // Each connection would get an in-memory database of its own.
        let is_file = file.trim_start_matches('/').starts_with(|first| first != '?') && !file.contains(":memory:");
        return is_file.then(|| Secret(value.to_owned()));
    }
    let url = Url::parse(value).ok()?;
    let is_valid = ["postgres", "postgresql"].contains(&url.scheme()) && url.has_authority();
    let (base, query) = value.split_once('?').unwrap_or((value, ""));
    let key = |pair: &str| pair.split('=').next().unwrap_or_default().to_owned();
    let is_prisma = |pair: &&str| PRISMA.split(' ').any(|name| name == key(pair));
    let parameters: Vec<&str> = query.split('&').filter(|pair| !is_prisma(pair)).collect();
    let url = format!("{base}?{}", parameters.join("&"));
    is_valid.then(|| Secret(url.trim_end_matches('?').to_owned()))
}

pub(super) fn redis_url(value: &str) -> Option<Secret> {
    let url = Url::parse(value).ok()?;
    let is_valid = match url.scheme() {
        "redis" | "rediss" => url.has_host(),
        "unix" | "redis+unix" => url.path().len() > 1,
        _ => false,
    };
    is_valid.then(|| Secret(value.to_owned()))
}

pub(super) fn prefix(value: &str) -> Option<String> {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "-_.:".contains(c);
    value.chars().all(is_allowed).then(|| value.to_owned())
}

pub(super) fn master_key(value: &str) -> Option<Secret> {
    let standard = value.replace('-', "+").replace('_', "/");
    let key = STANDARD_NO_PAD.decode(standard.trim_end_matches('=')).ok()?;
    // A single repeated byte is a placeholder, not a random key.
    let is_valid = key.len() == 32 && key.iter().any(|byte| *byte != key[0]);
    is_valid.then(|| Secret(STANDARD.encode(key)))
}

pub(super) fn token(value: &str) -> Option<Secret> {
    let is_valid = !value.is_empty() && value.chars().all(|c| c.is_ascii_graphic());
    is_valid.then(|| Secret(value.to_owned()))
}

pub(super) fn bare_url(value: &str, schemes: &[&str]) -> Option<String> {
    let url = Url::parse(value).ok()?;
    let is_valid = schemes.contains(&value.split_once("://")?.0)
        && url.query().or(url.fragment()).or(url.password()).is_none()
        && url.username().is_empty()
        && !value.ends_with('/');
    is_valid.then(|| url.as_str().trim_end_matches('/').to_owned())
}

/// Allows only loopback addresses, because the simulator receives the bot token in plain text.
pub(super) fn loopback_url(value: &str) -> Option<String> {
    let url = Url::parse(value).ok()?;
    let host: IpAddr = url.host_str()?.trim_matches(['[', ']']).parse().ok()?;
    bare_url(value, &["http"]).filter(|_| host.is_loopback())
}

pub(super) fn networks(value: &str) -> Option<Vec<IpNet>> {
    let address = |item: &str| item.parse().map(IpAddr::into);
    let network = |item: &str| item.parse().or_else(|_| address(item)).ok();
    value.split(',').map(|item| network(item.trim())).collect()
}

pub(super) fn log_filter(value: &str) -> Option<String> {
    // `EnvFilter` would read a misspelled level as a target and disable all other logs.
    let is_level = |part: &str| part.trim().parse::<LevelFilter>().is_ok();
    let has_valid_levels = value.split(',').all(|part| part.contains(['=', '[']) || is_level(part));
    let is_valid = has_valid_levels && EnvFilter::builder().parse(value).is_ok();
    is_valid.then(|| value.to_owned())
}

pub(super) fn log_format(value: &str) -> Option<LogFormat> {
    match value {
        "auto" => Some(LogFormat::Auto),
        "text" => Some(LogFormat::Text),
        "json" => Some(LogFormat::Json),
        _ => None,
    }
}
