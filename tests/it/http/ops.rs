//! Operations: probes, metrics, the OpenAPI document, TLS and graceful shutdown.

use std::{net::SocketAddr, path::Path, sync::Arc, time::Duration};

use base64::{Engine, engine::general_purpose::STANDARD};
use dca_core::crypto::api_key::ApiKeyKind;
use regex::Regex;
use rustls::{
    ClientConfig, ClientConnection, ProtocolVersion, RootCertStore, SupportedProtocolVersion,
    pki_types::{CertificateDer, ServerName},
    version::{TLS12, TLS13},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use crate::support::{
    fixtures::{Answer, Request, TestTenant, send_request_head},
    harness::{LIMIT, TestApp, it, it_unstarted, key_in},
};

async fn get(t: &TestApp, path: &str) -> Answer {
    Request::new(&format!("GET {path}")).ask(t.addr()).await.expect(path)
}

#[test]
fn probes_report_an_unavailable_database_and_other_routes_keep_responding() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let health = get(&t, "/health").await;
        let mode = if t.core().db.is_shared() { "cluster" } else { "embedded" };
        let report = json!({
            "status": "ok", "version": dca_auth::VERSION, "mode": mode,
            "checks": {
                "database": { "status": "ok" },
                "discord": { "status": "off", "detail": "no DCA_DISCORD_TOKEN", "since": null },
            },
        });
        assert_eq!((health.status, health.json()), (200, report));
        assert_eq!(get(&t, "/live").await.json(), json!({ "status": "alive" }));
        assert_eq!(get(&t, "/ready").await.json(), json!({ "status": "ready" }));
        let tenant = TestTenant::new(t.core(), "Makers").await;
        let api_key = tenant.api_key(ApiKeyKind::Secret, &[&tenant.product("Gold", "GOLD").await]).await.1;

        t.core().db.clone().close().await.unwrap();
        t.expect_error("database error");
        assert_eq!(get(&t, "/ready").await.status, 200, "all probes of a second share one query");
        t.advance(chrono::TimeDelta::seconds(1));
        let ready = get(&t, "/ready").await;
        let checks = json!({ "status": "not_ready", "checks": { "database": false, "accepting": true } });
        assert_eq!((ready.status, ready.json()), (503, checks));
        let health = get(&t, "/health").await;
        assert_eq!((health.status, &health.json()["status"]), (503, &"down".into()));
        assert_eq!(get(&t, "/live").await.status, 200, "a restart would not bring the database back");
        assert_eq!(get(&t, "/metrics").await.status, 200);
        let request = Request::new("POST /licenses/validate").with("X-API-Key", api_key);
        let request = request.with("Content-Type", "application/json").body(r#"{"licenseKey":"x"}"#);
        let answer = request.ask(t.addr()).await.unwrap();
        assert_eq!((answer.status, &answer.json()["code"]), (503, &"UNAVAILABLE".into()));
        assert_eq!((answer.header("retry-after"), answer.header("content-type")), ("2", "application/problem+json"));
        t.stop().await;
        t
    });
}

#[test]
fn a_proxy_that_is_not_trusted_is_logged_once() {
    it_unstarted(|mut t| async {
        for (trusted, expected) in [("", 1), ("127.0.0.1", 0)] {
            t.set("DCA_TRUSTED_PROXIES", trusted);
            t.start_without_bot().await;
            let before = t.log.text().len();
            for _ in 0..3 {
                let request = Request::new("GET /live").with("X-Forwarded-For", "203.0.113.9");
                assert_eq!(request.ask(t.addr()).await.unwrap().status, 200);
            }
            let log = t.log.text().split_off(before);
            assert_eq!(log.matches("set DCA_TRUSTED_PROXIES=127.0.0.1").count(), expected, "{log}");
            t.stop().await;
        }
        t
    });
}

#[test]
fn deployment_files_demand_a_public_url_and_pass_on_proxies_and_the_mail_server() {
    let mail = ["DCA_SMTP_HOST", "DCA_SMTP_USER", "DCA_SMTP_PASSWORD", "DCA_MAIL_FROM"];
    for (name, settings) in [("Dockerfile", &[][..]), ("compose.yaml", &mail), ("fly.toml", &mail)] {
        let file = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).unwrap();
        for setting in ["DCA_PUBLIC_URL", "DCA_TRUSTED_PROXIES"].iter().chain(settings) {
            assert!(file.contains(setting), "{setting} in {name}");
        }
    }
}

/// The value of the first series whose line starts with `series`.
fn metric(metrics: &str, series: &str) -> f64 {
    let line = metrics.lines().find(|line| line.starts_with(series));
    let value = line.and_then(|line| line.rsplit(' ').next()).and_then(|value| value.parse().ok());
    value.unwrap_or_else(|| panic!("no {series} in\n{metrics}"))
}

#[test]
fn metrics_count_events_without_identifying_users() {
    it(|t| async {
        let guild = t.discord.guild("Makers");
        let (gold, ana) = (guild.role("Gold"), guild.join("ana"));
        t.wait_for_events(&guild).await;
        t.map_role(&guild, "Gold Tools", gold, 24).await;
        ana.grant(gold);
        let key = key_in(&t.discord.next_dm(&ana).await.content);
        let api_key = t.api_key(&guild, "Gold Tools").await;
        t.wait_until_idle().await;
        t.validate(&api_key, &key).await;
        t.validate(&api_key, "nonsense").await;
        t.validate(&api_key, "nonsense").await;
        get(&t, &format!("/unknown/{key}?api_key={api_key}")).await;
        Request::new("FROB /live").ask(t.addr()).await.unwrap();

        let answer = get(&t, "/metrics").await;
        assert_eq!(answer.header("content-type"), "text/plain; version=0.0.4");
        let metrics = &answer.body;
        let requests = |labels: &str| metric(metrics, &format!("http_requests_total{{{labels}}}"));
        assert!(requests(r#"method="POST",route="/licenses/validate",status="200""#) >= 3.0);
        assert!(requests(r#"method="GET",route="unmatched",status="404""#) >= 1.0);
        assert!(requests(r#"method="other",route="/live",status="405""#) >= 1.0);
        assert!(metric(metrics, "license_verifications_total{result=\"VALID\"}") >= 1.0);
        assert!(metric(metrics, "license_verifications_total{result=\"MALFORMED_KEY\"}") >= 2.0);
        assert!(metric(metrics, "dca_deliveries_total{outcome=\"sent\"}") >= 1.0);
        assert!(
            metrics.contains("http_request_duration_seconds_bucket{method=\"POST\",route=\"/licenses/validate\",le=\"")
        );
        for (gauge, value) in [("discord_bot_connected", 1.0), ("job_queue_size", 0.0), ("dca_outbox_dead", 0.0)] {
            assert!((metric(metrics, &format!("{gauge} ")) - value).abs() < f64::EPSILON, "{gauge}\n{metrics}");
        }
        let identifier = Regex::new(r"[0-9a-f]{8}-[0-9a-f]{4}-|dca_[ps]k_|[0-9]{17}").unwrap();
        for line in metrics.lines() {
            let label = line.rsplit_once(' ').map_or(line, |(labels, _)| labels);
            assert!(!identifier.is_match(label) && !label.contains(&key), "{line}");
        }
        t
    });
}

#[test]
fn metrics_require_their_token_if_one_is_set() {
    it_unstarted(|mut t| async {
        t.set("DCA_METRICS_TOKEN", "scrape-1");
        t.start_without_bot().await;
        for (sent, status, code) in [
            ("", 401, "NO_TOKEN"),
            ("Basic scrape-1", 401, "NO_TOKEN"),
            ("Bearer scrape-2", 401, "INVALID_TOKEN"),
            ("Bearer scrape-1x", 401, "INVALID_TOKEN"),
        ] {
            let answer = Request::new("GET /metrics").with("Authorization", sent).ask(t.addr()).await.unwrap();
            assert_eq!((answer.status, &answer.json()["code"]), (status, &code.into()), "{sent}");
        }
        let scraped =
            Request::new("GET /metrics").with("Authorization", "bearer scrape-1").ask(t.addr()).await.unwrap();
        assert_eq!(scraped.status, 200);
        assert_eq!(get(&t, "/health").await.status, 200, "probes need no token");
        assert!(!t.log.text().contains("scrape-1"));
        t
    });
}

/// A connection from this local address; whether the server keeps it open is known once it has answered a request.
async fn connect_from(t: &TestApp, local: &str) -> Option<TcpStream> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::new(local.parse().unwrap(), 0)).unwrap();
    let mut stream = socket.connect(t.addr()).await.unwrap();
    _ = stream.write_all(b"GET /live HTTP/1.1\r\nHost: test\r\n\r\n").await;
    let mut status = [0; 15];
    let read = tokio::time::timeout(LIMIT, stream.read_exact(&mut status)).await.expect("neither answered nor closed");
    read.ok().map(|_| stream)
}

#[test]
fn connections_are_limited_per_client_and_in_total() {
    it_unstarted(|mut t| async {
        t.set("DCA_MAX_CONNECTIONS", "5");
        t.set("DCA_MAX_CONNECTIONS_PER_CLIENT", "3");
        t.start_without_bot().await;
        let mut open = Vec::new();
        for (local, expected) in [("127.0.0.2", 3), ("127.0.0.3", 2), ("127.0.0.4", 0)] {
            let before = open.len();
            for _ in 0..4 {
                open.extend(connect_from(&t, local).await);
            }
            assert_eq!(open.len() - before, expected, "{local}");
        }
        let log = t.log.text();
        let lines: Vec<_> = log.lines().filter(|line| line.contains("the limit of connections is reached")).collect();
        assert!(lines.len() == 1 && lines[0].contains("127.0.0.2/32"), "one line a minute: {lines:?}");
        t
    });
}

#[test]
fn an_idle_connection_is_closed_after_the_configured_time() {
    it_unstarted(|mut t| async {
        t.set("DCA_KEEP_ALIVE_SECONDS", "1");
        t.start_without_bot().await;
        let mut connection = connect_from(&t, "127.0.0.1").await.unwrap();
        let started = tokio::time::Instant::now();
        _ = tokio::time::timeout(LIMIT, connection.read_to_end(&mut Vec::new())).await.expect("kept open");
        let elapsed = started.elapsed();
        assert!(elapsed > Duration::from_millis(800) && elapsed < Duration::from_secs(8), "{elapsed:?}");
        t
    });
}

#[test]
fn the_openapi_document_matches_the_code_and_every_route_responds() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let served = get(&t, "/openapi.json").await;
        let document: Value = serde_json::from_str(&dca_auth::http::openapi().to_json().unwrap()).unwrap();
        assert_eq!((served.status, served.json()), (200, document.clone()));
        assert_eq!(served.header("content-type"), "application/json");
        let validate = &document["paths"]["/licenses/validate"]["post"];
        let statuses: Vec<_> = validate["responses"].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(statuses, ["200", "400", "401", "403", "413", "415", "422", "429", "503"]);
        assert_eq!(validate["security"], json!([{ "api_key": [] }, { "bearer": [] }]));
        let mut routes = 0;
        for (path, operations) in document["paths"].as_object().unwrap() {
            for (method, operation) in operations.as_object().unwrap() {
                let request = Request::new(&format!("{} {path}", method.to_uppercase()));
                let status = request.ask(t.addr()).await.expect(path).status;
                let documented = operation["responses"].as_object().unwrap();
                assert!(
                    documented.contains_key(&status.to_string()),
                    "{method} {path} returned {status}, which is not documented"
                );
                routes += 1;
            }
        }
        assert!(routes >= 5, "{routes} routes");
        t
    });
}

const CSP: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
                   connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

#[test]
fn the_documentation_loads_nothing_from_other_hosts() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let redirect = get(&t, "/docs").await;
        assert_eq!((redirect.status, redirect.header("location")), (303, "/docs/"));
        let page = get(&t, "/docs/").await;
        assert_eq!(page.status, 200);
        assert!(page.header("content-type").starts_with("text/html"), "{page:?}");
        let parts = Regex::new(r#"(?:src|href)="([^"]*)""#).unwrap();
        let parts: Vec<_> = parts.captures_iter(&page.body).map(|captures| captures[1].to_owned()).collect();
        assert!(parts.len() > 4, "{parts:?}");
        for part in &parts {
            let answer = get(&t, &format!("/docs/{}", part.trim_start_matches("./"))).await;
            assert_eq!((answer.status, answer.header("content-security-policy")), (200, CSP), "{part}");
        }
        let script = get(&t, "/docs/swagger-initializer.js").await.body;
        assert!(
            script.contains(r#""url": "/openapi.json""#) && script.contains(r#""validatorUrl": "none""#),
            "{script}"
        );
        let external = Regex::new(r"(?:https?:)?//[a-z]").unwrap();
        for text in [&page.body, &script] {
            let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
            let found: Vec<_> = lines.filter(|line| external.is_match(line)).collect();
            assert!(found.is_empty(), "{found:?}");
        }
        t
    });
}

#[test]
fn every_response_has_the_security_headers() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        for path in ["/live", "/health", "/metrics", "/openapi.json", "/docs/", "/nothing", "/licenses/validate"] {
            let answer = get(&t, path).await;
            for (name, value) in [
                ("x-content-type-options", "nosniff"),
                ("x-frame-options", "DENY"),
                ("referrer-policy", "no-referrer"),
                ("cache-control", "no-store"),
                ("content-security-policy", CSP),
                ("server", ""),
            ] {
                assert_eq!(answer.header(name), value, "{name} of {path}");
            }
            assert_eq!(answer.header("x-request-id").len(), 36, "{path}");
        }
        t
    });
}

/// Writes a self-signed certificate for `localhost` and its key as PEM files; returns the certificate.
fn certificate(folder: &Path) -> CertificateDer<'static> {
    let generated = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let pem =
        |label: &str, der: &[u8]| format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der));
    std::fs::write(folder.join("cert.pem"), pem("CERTIFICATE", generated.cert.der())).unwrap();
    std::fs::write(folder.join("key.pem"), pem("PRIVATE KEY", generated.signing_key.serialized_der())).unwrap();
    generated.cert.der().clone()
}

/// Sends one request over TLS; returns the negotiated version and the status line.
fn over_tls(
    addr: SocketAddr,
    root: CertificateDer<'static>,
    versions: &[&'static SupportedProtocolVersion],
) -> std::io::Result<(Option<ProtocolVersion>, String)> {
    let mut roots = RootCertStore::empty();
    roots.add(root).unwrap();
    let config =
        ClientConfig::builder_with_protocol_versions(versions).with_root_certificates(roots).with_no_client_auth();
    let mut tls = ClientConnection::new(Arc::new(config), ServerName::try_from("localhost").unwrap()).unwrap();
    let mut socket = std::net::TcpStream::connect(addr)?;
    socket.set_read_timeout(Some(LIMIT))?;
    let mut stream = rustls::Stream::new(&mut tls, &mut socket);
    std::io::Write::write_all(&mut stream, b"GET /live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    _ = std::io::Read::read_to_end(&mut stream, &mut answer);
    let status_line = String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned();
    Ok((tls.protocol_version(), status_line))
}

#[test]
fn https_accepts_tls_1_3_and_1_2_only() {
    it_unstarted(|mut t| async {
        let root = certificate(t.dir());
        for (name, file) in [("DCA_TLS_CERT_FILE", "cert.pem"), ("DCA_TLS_KEY_FILE", "key.pem")] {
            let path = t.dir().join(file).display().to_string();
            t.set(name, &path);
        }
        t.start_without_bot().await;
        for (versions, expected) in [
            (&[&TLS13, &TLS12][..], ProtocolVersion::TLSv1_3),
            (&[&TLS13][..], ProtocolVersion::TLSv1_3),
            (&[&TLS12][..], ProtocolVersion::TLSv1_2),
        ] {
            let answer = over_tls(t.addr(), root.clone(), versions).unwrap();
            assert_eq!(answer, (Some(expected), "HTTP/1.1 200 OK".to_owned()));
        }
        // A TLS 1.1 ClientHello: version, random, no session, two cipher suites, no compression.
        let suites = [0x00, 0x04, 0xc0, 0x13, 0x00, 0x2f];
        let hello = [&[0x03, 0x02][..], &[7; 32], &[0], &suites, &[1, 0]].concat();
        let message = [&[0x01, 0x00, 0x00, u8::try_from(hello.len()).unwrap()][..], &hello].concat();
        let record = [&[0x16, 0x03, 0x01, 0x00, u8::try_from(message.len()).unwrap()][..], &message].concat();
        let mut socket = TcpStream::connect(t.addr()).await.unwrap();
        socket.write_all(&record).await.unwrap();
        let mut answer = Vec::new();
        tokio::time::timeout(LIMIT, socket.read_to_end(&mut answer)).await.unwrap().unwrap();
        assert!(answer.starts_with(&[0x15]), "an alert, not a ServerHello: {answer:?}");
        let plain = Request::new("GET /live").ask(t.addr()).await;
        assert!(plain.is_none_or(|answer| answer.status == 400), "no plain HTTP on the same port");
        t
    });
}

#[test]
fn a_request_in_flight_is_completed_during_shutdown() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let tenant = TestTenant::new(t.core(), "Makers").await;
        let gold = tenant.product("Gold", "GOLD").await;
        let (key, api_key) = (tenant.license(&gold, 1).await.1, tenant.api_key(ApiKeyKind::Secret, &[&gold]).await.1);
        let body = json!({ "licenseKey": key }).to_string();
        let mut socket = send_request_head(t.addr(), &api_key, &body).await;
        let (addr, app) = (t.addr(), t.app().clone());
        let finish = async {
            assert!(!app.is_ready(), "shutdown has begun");
            socket.write_all(body.as_bytes()).await.unwrap();
            let mut answer = String::new();
            tokio::time::timeout(LIMIT, socket.read_to_string(&mut answer)).await.unwrap().unwrap();
            answer
        };
        // `join!` polls in order: the shutdown begins before the body is sent.
        let ((), answer) = futures::join!(t.stop(), finish);
        assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains(r#""code":"VALID""#), "{answer}");
        assert!(TcpStream::connect(addr).await.is_err(), "the port is closed");
        t
    });
}

#[test]
fn an_unfinished_request_does_not_block_shutdown() {
    it_unstarted(|mut t| async {
        t.set("DCA_DRAIN_TIMEOUT_SECONDS", "1");
        t.start_without_bot().await;
        let tenant = TestTenant::new(t.core(), "Makers").await;
        let api_key = tenant.api_key(ApiKeyKind::Secret, &[&tenant.product("Gold", "GOLD").await]).await.1;
        let mut socket = send_request_head(t.addr(), &api_key, "{\"licenseKey\":\"x\"}").await;
        let started = tokio::time::Instant::now();
        t.stop().await;
        assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
        let mut answer = String::new();
        _ = tokio::time::timeout(LIMIT, socket.read_to_string(&mut answer)).await.unwrap();
        assert_eq!(answer, "", "the connection was closed");
        t
    });
}
