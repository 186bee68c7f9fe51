//! Problems: the invalid fields in words, rate limits, and request heads.

use dca_core::{crypto::api_key::ApiKeyKind, users::Role};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    accounts::signed_in_as,
    browser::Browser,
    fixtures::{Request, TestTenant},
    harness::{LIMIT, it_unstarted},
};

#[test]
fn every_invalid_field_is_named_in_words() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let (root, _) = signed_in_as(&t, "root@x.example", Role::SuperAdmin).await;
        for (line, body, expected) in [
            ("POST /auth/signup", json!({}), "email is required|password is required|name is required"),
            (
                "POST /api/auth/register",
                json!({ "username": "Ana", "roles": ["ADMIN"] }),
                "email is required|password is required",
            ),
            (
                "POST /auth/signup",
                json!({ "email": 1, "password": true }),
                "email must be a string|password must be a string|name is required",
            ),
            (
                "POST /auth/signup",
                json!({ "email": "x", "password": "plow-Ketchup-41", "name": "A" }),
                "email must be an email",
            ),
            ("PATCH /me", json!({ "locale": "fr" }), "locale must be `en` or `es`"),
            (
                "POST /admin/roles/assign",
                json!({ "userId": "1", "role": 1 }),
                "role must be a string|userId is not valid",
            ),
            ("GET /admin/users?limit=many", Value::Null, "limit is not valid"),
            ("GET /admin/users?limit=101", Value::Null, "limit must be 1 to 100"),
            ("GET /admin/users?page=1&page=2", Value::Null, "page is given more than once"),
            (
                "GET /api/users?status=KING",
                Value::Null,
                "status must be one of `PENDING`, `ACTIVE`, `SUSPENDED`, `BANNED`",
            ),
        ] {
            let (method, path) = line.split_once(' ').unwrap();
            let response = root.ask(method.parse::<Method>().unwrap(), path, body.clone(), &[]).await;
            assert_eq!((response.status, response.code()), (400, "VALIDATION_ERROR"), "{line} {body}: {response:?}");
            let errors = response.body["errors"].as_array().unwrap();
            let messages: Vec<_> = errors.iter().map(|error| error["message"].as_str().unwrap()).collect();
            assert_eq!(messages.join("|"), expected, "{line} {body}");
            for error in errors {
                assert!(error["message"].as_str().unwrap().starts_with(error["field"].as_str().unwrap()), "{error}");
            }
            assert_eq!(
                (&response.body["field"], &response.body["detail"]),
                (&errors[0]["field"], &errors[0]["message"])
            );
        }
        t
    });
}

#[test]
fn limited_routes_show_what_is_left() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[("DCA_AUTH_PER_MINUTE", "3"), ("DCA_VALIDATE_PER_MINUTE", "2")]).await;
        let tenant = TestTenant::new(t.core(), "Makers").await;
        let api_key = tenant.api_key(ApiKeyKind::Secret, &[&tenant.product("Gold", "GOLD").await]).await.1;
        let headers = [("x-api-key", api_key.as_str())];
        let browser = Browser::new(&t);
        for (path, bucket, limit) in [("/auth/logout", "auth", 3), ("/licenses/validate", "validate", 2)] {
            for left in (0..limit).rev() {
                let response = browser.ask(Method::POST, path, json!({ "licenseKey": "x" }), &headers).await;
                let policy = format!("\"{bucket}\";q={limit};w=60");
                assert_eq!(
                    (response.status, response.header("ratelimit-policy")),
                    (200, policy.as_str()),
                    "{response:?}"
                );
                assert!(response.header("ratelimit").starts_with(&format!("\"{bucket}\";r={left};t=")), "{response:?}");
            }
            let refused = browser.ask(Method::POST, path, json!({ "licenseKey": "x" }), &headers).await;
            assert_eq!((refused.status, refused.code()), (429, "RATE_LIMIT_EXCEEDED"));
            let wait = refused.header("retry-after");
            assert_eq!(refused.header("ratelimit"), format!("\"{bucket}\";r=0;t={wait}"));
            assert!(!refused.header("ratelimit-policy").is_empty());
        }
        t
    });
}

#[test]
fn a_request_refused_before_its_body_arrives_leaves_the_connection_usable() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let mut socket = TcpStream::connect(t.addr()).await.unwrap();
        let head = "POST /licenses/validate HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\n";
        socket.write_all(head.as_bytes()).await.unwrap();
        // The service has read the head before it answers another connection.
        assert_eq!(Request::new("GET /health").ask(t.addr()).await.unwrap().status, 200);
        let rest = "{}GET /live HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n";
        socket.write_all(rest.as_bytes()).await.unwrap();
        let mut answers = String::new();
        tokio::time::timeout(LIMIT, socket.read_to_string(&mut answers)).await.unwrap().unwrap();
        let status = |text| answers.contains(&format!("HTTP/1.1 {text}"));
        assert!(status("401 Unauthorized") && status("200 OK"), "{answers}");
        t
    });
}

#[test]
fn unclear_and_oversized_request_heads_are_refused_with_a_problem() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let good = || Request::new("GET /live");
        let many = (0..64).fold(good(), |request, n| request.with(&format!("X-Header-{n}"), "x"));
        let both = Request::new("POST /auth/logout").with("Content-Type", "application/json").chunked("{}");
        for (what, request, status, code) in [
            ("a host", good(), 200, ""),
            ("no host", good().without("Host"), 400, "BAD_REQUEST"),
            ("two hosts", good().with("host", "other"), 400, "BAD_REQUEST"),
            ("an invalid host", good().with("Host", "a b"), 400, "BAD_REQUEST"),
            ("too many headers", many, 431, "HEADERS_TOO_LARGE"),
            ("a long URL", Request::new(&format!("GET /live?{}", "q".repeat(33 * 1024))), 431, "HEADERS_TOO_LARGE"),
            ("a large header", good().with("X-Large", "x".repeat(33 * 1024)), 431, "HEADERS_TOO_LARGE"),
            // The length is ignored (RFC 9112, section 6.3), so nobody can disagree about where the body ends.
            ("two lengths", both.with("Content-Length", "1"), 200, ""),
        ] {
            let answer = request.ask(t.addr()).await.expect(what);
            assert_eq!(answer.status, status, "{what}: {answer:?}");
            assert_eq!(answer.json()["code"].as_str().unwrap_or_default(), code, "{what}");
        }
        let metrics = Request::new("GET /metrics").ask(t.addr()).await.unwrap().body;
        assert!(metrics.contains(r#"{method="GET",route="/live",status="431"} 3"#), "they are counted: {metrics}");
        t
    });
}
