//! What holds for every account route: input, methods, content types, cookies, logs and rate limits.

use std::collections::BTreeSet;

use dca_core::users::Role;
use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    accounts::{auth_state, post, signed_in_as},
    browser::{Browser, PASSWORD},
    fixtures::{Answer, Request, log_head},
    harness::it_unstarted,
};

/// Every route that takes a body, with a valid one. [`spoiled`] makes its members invalid one by one.
fn bodies() -> Vec<(&'static str, &'static str, Value)> {
    let user = "01900000-0000-7000-8000-000000000000";
    let sign_up = json!({ "email": "new@x.example", "password": PASSWORD, "name": "New" });
    let login = json!({ "email": "who@x.example", "password": PASSWORD, "twoFactorCode": "000000" });
    let reset = json!({ "token": "x", "password": "another-Ketchup-42" });
    let callback = json!({ "code": "x", "state": "x", "error": "x" });
    let confirm = json!({ "password": "x", "twoFactorCode": "000000" });
    let role = json!({ "userId": user, "role": "PREMIUM", "guildId": "900" });
    vec![
        ("POST", "/auth/signup", sign_up.clone()),
        ("POST", "/auth/login", login.clone()),
        ("POST", "/auth/2fa/verify", json!({ "code": "000000", "twoFactorToken": "x" })),
        ("POST", "/auth/verify-email", json!({ "token": "x", "password": "x" })),
        ("POST", "/auth/resend-verification", json!({ "email": "who" })),
        ("POST", "/auth/refresh", json!({ "refreshToken": "x" })),
        ("POST", "/auth/logout", json!({ "refreshToken": "x" })),
        ("POST", "/auth/reset-password-request", json!({ "email": "who" })),
        ("POST", "/auth/reset-password", reset.clone()),
        ("POST", "/auth/change-password", json!({ "currentPassword": "x", "newPassword": "another-Ketchup-42" })),
        ("POST", "/auth/2fa/setup", confirm.clone()),
        ("POST", "/auth/2fa/enable", json!({ "code": "000000" })),
        ("POST", "/auth/2fa/disable", confirm.clone()),
        ("POST", "/auth/2fa/recovery-codes", json!({ "code": "000000" })),
        ("POST", "/auth/google/callback", callback),
        ("POST", "/auth/google/link", json!({ "code": "x", "state": "x", "error": "x", "password": "x" })),
        ("POST", "/auth/google/unlink", json!({ "password": "x" })),
        ("POST", "/admin/users/{id}/ban", json!({ "reason": "x" })),
        ("POST", "/admin/sessions/{id}/revoke", json!({ "reason": "x" })),
        ("POST", "/admin/roles/assign", role.clone()),
        ("POST", "/admin/roles/revoke", role),
        ("PATCH", "/me", json!({ "name": "Ana", "locale": "en" })),
        ("PATCH", "/admin/users/{id}", json!({ "status": "BANNED", "reason": "x" })),
        ("DELETE", "/me", confirm.clone()),
        ("POST", "/api/auth/register", sign_up),
        ("POST", "/api/auth/login", login),
        ("POST", "/api/auth/password/reset", reset),
        ("POST", "/api/auth/2fa/disable", confirm),
    ]
}

/// Invalid variants of a body: what is wrong, content type, bytes and expected status.
fn spoiled(valid: &Value) -> Vec<(String, &'static str, Vec<u8>, u16)> {
    const JSON: &str = "application/json";
    let text = valid.to_string();
    let mut all: Vec<(String, &str, Vec<u8>, u16)> = [
        ("half an object", text.as_bytes()[..text.len() - 1].to_vec()),
        ("an array", b"[\"s3cr3t\"]".into()),
        ("a string", b"\"s3cr3t\"".into()),
        ("null", b"null".into()),
        ("something behind it", [text.as_bytes(), b" {}"].concat()),
        ("nine thousand brackets", b"[".repeat(9_000)),
    ]
    .map(|(fault, body)| (fault.to_owned(), JSON, body, 400))
    .into();
    all.push(("a MiB".to_owned(), JSON, format!("{{\"pad\":\"{}\"}}", "x".repeat(1024 * 1024)).into(), 413));
    for other in ["text/plain", "multipart/form-data", ""] {
        all.push((format!("as {other:?}"), other, text.clone().into(), 415));
    }
    for (name, value) in valid.as_object().unwrap() {
        let member = format!("\"{name}\":{value}");
        let (begin, end) = text.split_once(&member).unwrap();
        let with = |bytes: &[u8]| [begin.as_bytes(), b"\"", name.as_bytes(), b"\":", bytes, end.as_bytes()].concat();
        let wrong: [&[u8]; 9] = [
            b"true",
            b"4242424242",
            b"-1e400",
            b"[]",
            b"{}",
            b"[\"s3cr3t\"]",
            b"\"\\ud800\"",
            b"\"\0\"",
            b"\"\xff\xfe\"",
        ];
        let wrong = wrong.map(|bytes| (format!("{name} is {:?}", String::from_utf8_lossy(bytes)), with(bytes)));
        let twice = (format!("{name} twice"), with(format!("{value},{member}").as_bytes()));
        all.extend(wrong.into_iter().chain([twice]).map(|(fault, body)| (fault, JSON, body, 400)));
    }
    all
}

#[test]
fn bad_input_is_refused_by_every_account_route() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[("DCA_FAILURES_PER_NETWORK", "60000"), ("DCA_LETTERS_PER_NETWORK", "60000")]).await;
        let (ana, id) = signed_in_as(&t, "ana@x.example", Role::SuperAdmin).await;
        // Every account route that takes a body is in the table.
        let api = Browser::new(&t).get("/openapi.json").await.body;
        let known: BTreeSet<(String, String)> = bodies()
            .iter()
            .map(|(method, path, _)| (method.to_lowercase(), path.replace("/google", "/{provider}")))
            .collect();
        for (path, operations) in api["paths"].as_object().unwrap() {
            for (method, operation) in operations.as_object().unwrap() {
                let is_account_route =
                    ["accounts", "administration"].iter().any(|tag| operation["tags"] == json!([tag]));
                let takes_body = is_account_route && !operation["requestBody"].is_null();
                assert!(!takes_body || known.contains(&(method.clone(), path.clone())), "{method} {path} has no row");
            }
        }
        let bearer = format!("Bearer {}", ana.access_token().unwrap());
        let (head, before) = (log_head(t.core()).await, auth_state(t.core()).await);
        let ask_all = async |method: &str, path: &str, valid: &Value| {
            let target_path = path.replace("{id}", &id.to_string());
            let request = Request::new(&format!("{method} {target_path}")).with("Authorization", &bearer);
            for (what, content_type, body, status) in spoiled(valid) {
                let what = format!("{method} {path}, {what}");
                let request = request.clone().with("Content-Type", content_type).body(body);
                let answer = request.ask(t.addr()).await.unwrap_or_else(|| panic!("{what}: no answer"));
                assert_refused(&what, &answer);
                assert_eq!(answer.status, status, "{what}: {answer:?}");
            }
        };
        // Logging out succeeds whatever the body is.
        let routes: Vec<_> = bodies().into_iter().filter(|(_, path, _)| *path != "/auth/logout").collect();
        join_all(routes.iter().map(|(method, path, valid)| ask_all(method, path, valid))).await;
        assert_eq!((log_head(t.core()).await, auth_state(t.core()).await), (head, before), "something was written");

        t
    });
}

#[test]
fn unusual_strings_in_sign_in_routes_are_refused_or_harmless() {
    assert_unusual_strings(|path| SIGN_IN_ROUTES.contains(&path));
}

#[test]
fn unusual_strings_in_other_routes_are_refused_or_harmless() {
    assert_unusual_strings(|path| !SIGN_IN_ROUTES.contains(&path));
}

/// Routes that hash a password.
const SIGN_IN_ROUTES: [&str; 5] =
    ["/auth/signup", "/auth/login", "/auth/2fa/setup", "/auth/2fa/disable", "/auth/change-password"];

fn assert_unusual_strings(is_included: fn(&str) -> bool) {
    it_unstarted(move |mut t| async move {
        t.start_with_limits(&[("DCA_FAILURES_PER_NETWORK", "60000"), ("DCA_LETTERS_PER_NETWORK", "60000")]).await;
        let (ana, id) = signed_in_as(&t, "ana@x.example", Role::SuperAdmin).await;
        for (method, path, valid) in bodies() {
            if !is_included(path)
                || path == "/me"
                || path.starts_with("/api/")
                || path.ends_with("/revoke")
                || path.ends_with("/ban")
            {
                continue;
            }
            for name in valid.as_object().unwrap().keys() {
                let long = "x".repeat(15_000);
                for unusual in ["", "\0", "\u{202e}\u{feff}", "' OR '1'='1", "x\r\nBcc: x", &long] {
                    let mut body = valid.clone();
                    body[name] = json!(unusual);
                    let target_path = path.replace("{id}", &id.to_string());
                    let method = Method::from_bytes(method.as_bytes()).unwrap();
                    let response = ana.ask(method.clone(), &target_path, body, &[]).await;
                    // Signing up, logging out and requesting a reset accept unusual strings.
                    let lenient =
                        ["/auth/signup", "/api/auth/register", "/auth/logout", "/auth/reset-password-request"];
                    let accepted = matches!(response.status, 200 | 201) && lenient.contains(&path);
                    let refused = matches!(response.status, 400..500) && !response.code().is_empty();
                    assert!(refused || accepted, "{method} {path}, {name} is {unusual:?}: {response:?}");
                    if path == "/auth/logout" || response.status == 401 && ana.get("/me").await.status == 401 {
                        ana.set_access_token(None);
                        ana.sign_in("ana@x.example").await;
                    }
                }
            }
        }
        t
    });
}

fn assert_refused(what: &str, answer: &Answer) {
    let problem = answer.json();
    assert!((400..500).contains(&answer.status), "{what}: {answer:?}");
    assert_eq!(answer.header("content-type"), "application/problem+json", "{what}");
    assert_eq!(problem["status"], answer.status, "{what}");
    let code = problem["code"].as_str().unwrap_or_default();
    assert!(problem["type"].as_str().unwrap().ends_with(&format!("/errors#{code}")), "{what}: {answer:?}");
    assert!(!answer.body.contains("s3cr3t") && !answer.body.contains("4242424242"), "{what} is echoed: {answer:?}");
}

#[test]
fn get_and_head_requests_change_nothing() {
    it_unstarted(|mut t| async {
        let google = t.with_google().await;
        t.start_with_limits(&[]).await;
        let (ana, id) = signed_in_as(&t, "ana@x.example", Role::SuperAdmin).await;
        let api = ana.get("/openapi.json").await.body;
        let (head, before) = (log_head(t.core()).await, auth_state(t.core()).await);
        let mut count = 0;
        for (path, operations) in api["paths"].as_object().unwrap() {
            // An export is recorded as an event, and starting a sign-in stores a state.
            if operations["get"].is_null() || path == "/me/export" || path == "/auth/{provider}" {
                continue;
            }
            let target_path = path.replace("{id}", &id.to_string()).replace("{provider}", "google");
            for method in [Method::GET, Method::HEAD] {
                let response = ana.ask(method.clone(), &target_path, Value::Null, &[]).await;
                assert!(response.status < 500, "{method} {path}: {response:?}");
                assert!(method == Method::GET || response.text.is_empty(), "{method} {path} has a body");
                count += 1;
            }
        }
        assert!(count > 20, "{count}");
        assert_eq!((log_head(t.core()).await, auth_state(t.core()).await), (head, before));
        google.finish();
        t
    });
}

#[test]
fn responses_have_the_right_content_type() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let (ana, _) = signed_in_as(&t, "ana@x.example", Role::User).await;
        for (path, content_type) in [
            ("/me", "application/json"),
            ("/auth/sessions", "application/json"),
            ("/verify?token=x", "text/html; charset=utf-8"),
            ("/pages.css", "text/css; charset=utf-8"),
            ("/auth/nothing", "application/problem+json"),
            ("/auth/login", "application/problem+json"),
        ] {
            let response = ana.get(path).await;
            assert_eq!(response.header("content-type").to_lowercase(), content_type, "{path}");
            let head = ana.ask(Method::HEAD, path, Value::Null, &[]).await;
            assert_eq!((head.status, head.text.as_str()), (response.status, ""), "HEAD {path}");
        }
        for method in ["TRACE", "FROB", "PUT"] {
            let answer = Request::new(&format!("{method} /auth/login")).ask(t.addr()).await.unwrap();
            assert_eq!((answer.status, &answer.json()["code"]), (405, &json!("METHOD_NOT_ALLOWED")), "{method}");
        }
        for path in ["/.env", "/debug", "/auth/../me", "/auth/login/", "//me", "/%2e%2e/me"] {
            let response = Browser::new(&t).get(path).await;
            assert!(matches!(response.status, 401 | 404 | 405), "{path}: {response:?}");
            assert!(!response.text.contains("panicked") && !response.text.contains(".rs"), "{path}: {response:?}");
        }
        t
    });
}

#[test]
fn cookies_are_small_expire_and_are_set_only_by_sign_in() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let (ana, _) = signed_in_as(&t, "ana@x.example", Role::User).await;
        let response = ana.sign_in("ana@x.example").await;
        let cookies = response.cookies();
        assert_eq!(cookies.len(), 3, "{cookies:?}");
        for cookie in &cookies {
            assert!(cookie.len() <= 4_096 && cookie.contains("SameSite=Lax"), "{cookie}");
            assert_eq!(cookie.contains("HttpOnly"), !cookie.starts_with("csrf_token="), "{cookie}");
            let max_age: i64 = cookie.split("Max-Age=").nth(1).unwrap().split(';').next().unwrap().parse().unwrap();
            assert!((1..=400 * 86_400).contains(&max_age), "{cookie}");
        }
        for path in ["/me", "/auth/me", "/auth/sessions", "/auth/check", "/me/export", "/.well-known/jwks.json"] {
            assert!(ana.get(path).await.cookies().is_empty(), "{path}");
        }
        let by_key =
            ana.ask(Method::POST, "/licenses/validate", json!({ "licenseKey": "x" }), &[("x-api-key", "x")]).await;
        assert!(by_key.cookies().is_empty());
        let refused = post(&t, "/auth/login", json!({ "email": "ana@x.example", "password": "not this one" })).await;
        assert!(refused.cookies().is_empty());
        let logged_out = ana.post("/auth/logout", Value::Null).await;
        assert_eq!(logged_out.header("clear-site-data"), "\"cache\"");
        t
    });
}

#[test]
fn requests_are_logged_once_and_cannot_forge_log_lines() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let (ana, _) = signed_in_as(&t, "ana@x.example", Role::User).await;
        let response = ana.get("/auth/sessions/x").await;
        let id = response.header("x-request-id").to_owned();
        let log = t.log.text();
        let lines: Vec<_> = log.lines().filter(|line| line.contains(&id)).collect();
        assert!(lines.len() == 1 && lines[0].contains("status=4"), "{lines:?}");
        let forged = "x\u{1b}[31m 2026-03-01T12:00:00Z  INFO forged";
        for name in ["Ana\nINFO forged", "Ana\r\nforged", "Ana\u{85}forged", "Ana\0forged"] {
            let response = ana.ask(Method::PATCH, "/me", json!({ "name": name }), &[]).await;
            assert_eq!((response.status, response.code()), (400, "VALIDATION_ERROR"), "{name:?}");
        }
        let request = Request::new("POST /auth/login").with("Content-Type", "application/json");
        let request = request.with("User-Agent", forged).with("X-Correlation-Id", forged).with("X-Request-Id", forged);
        let body = json!({ "email": format!("{forged}@x.example"), "password": forged, "code": forged }).to_string();
        let answer = request.body(body).ask(t.addr()).await.unwrap();
        assert!((400..500).contains(&answer.status), "{answer:?}");
        assert!(!t.log.text().contains("forged"), "request data was written to the log");
        t
    });
}

#[test]
fn display_names_cannot_hide_characters_or_change_the_direction_of_text() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let (ana, _) = signed_in_as(&t, "ana@x.example", Role::User).await;
        let controls = ['\u{61c}', '\u{200e}', '\u{200f}', '\u{202a}', '\u{202e}', '\u{2066}', '\u{2069}'];
        for control in controls {
            let name = format!("nim{control}da");
            let sign_up = json!({ "email": "new@x.example", "password": PASSWORD, "name": name });
            for response in [
                ana.ask(Method::PATCH, "/me", json!({ "name": name }), &[]).await,
                post(&t, "/auth/signup", sign_up).await,
            ] {
                assert_eq!((response.status, response.code()), (400, "VALIDATION_ERROR"), "{name:?}: {response:?}");
            }
        }
        let invisible = ["nim\u{200b}da", "a\u{2028}b", "a\u{e0041}", "\u{3164}", "\u{2060}", "a\u{feff}b"];
        for name in invisible {
            let response = ana.ask(Method::PATCH, "/me", json!({ "name": name }), &[]).await;
            let detail = response.body["detail"].as_str().unwrap();
            assert!(
                response.status == 400 && detail.contains("invisible") && detail.contains("(U+"),
                "{name:?}: {detail}"
            );
        }
        assert_eq!(ana.ask(Method::PATCH, "/me", json!({ "name": "\u{200d}" }), &[]).await.status, 400);
        for name in ["عمر", "דָּנָה", "Zoë 👩‍🚀"] {
            assert_eq!(ana.ask(Method::PATCH, "/me", json!({ "name": name }), &[]).await.status, 200, "{name}");
        }
        t
    });
}

#[test]
fn account_routes_are_rate_limited_per_network() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[("DCA_AUTH_PER_MINUTE", "5"), ("DCA_TRUSTED_PROXIES", "127.0.0.1")]).await;
        let ask = async |from: &str, path: &str| {
            Browser::new(&t).ask(Method::POST, path, json!({ "email": "a" }), &[("x-forwarded-for", from)]).await
        };
        for path in ["/auth/login", "/auth/refresh", "/api/auth/login", "/auth/verify-email", "/auth/logout"] {
            assert_ne!(ask("198.51.100.7", path).await.status, 429, "{path}");
        }
        for path in ["/auth/login", "/api/auth/login", "/auth/google", "/verify"] {
            let response = ask("198.51.100.7", path).await;
            assert_eq!((response.status, response.code()), (429, "RATE_LIMIT_EXCEEDED"), "{path}: {response:?}");
            assert!((1..=60).contains(&response.header("retry-after").parse::<u64>().unwrap()), "{path}: {response:?}");
        }
        assert_ne!(ask("198.51.101.7", "/auth/login").await.status, 429, "another network");
        t
    });
}
