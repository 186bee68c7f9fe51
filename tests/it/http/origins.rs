//! What applies to every account route in a browser: CSRF checks, CORS and response headers.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    accounts::signed_in_admin,
    browser::{Browser, PASSWORD},
    harness::{TestApp, it_unstarted},
};

/// A browser with the session cookies of this login route, and no access token.
async fn with_cookies(t: &TestApp, login: &str) -> Browser {
    let browser = Browser::new(t);
    let form = json!({ "email": "root@x.example", "password": PASSWORD });
    assert_eq!(browser.post(login, form).await.status, 200);
    browser.set_access_token(None);
    browser
}

#[test]
fn cookies_are_accepted_only_from_allowed_origins() {
    it_unstarted(|mut t| async {
        for (name, value) in [
            ("DCA_PUBLIC_URL", "http://dca.example"),
            ("APP_FRONTEND_URL", "https://app.example/base"),
            ("CORS_ORIGINS", "https://one.example,http://localhost:5173"),
        ] {
            t.set(name, value);
        }
        t.start_without_bot().await;
        signed_in_admin(&t).await;
        for (site, origin, csrf, native, earlier) in [
            ("", "", "", 200, 403),
            ("", "", "right", 200, 200),
            ("", "", "wrong", 403, 403),
            ("same-origin", "", "", 200, 200),
            ("same-origin", "", "wrong", 403, 403),
            ("none", "", "", 200, 200),
            ("same-site", "", "", 403, 403),
            ("cross-site", "", "", 403, 403),
            ("cross-site", "", "right", 403, 403),
            ("cross-site", "https://evil.example", "", 403, 403),
            ("cross-site", "https://app.example", "", 200, 200),
            ("same-site", "https://one.example", "", 200, 200),
            ("same-origin", "http://dca.example", "right", 200, 200),
            ("", "http://dca.example", "", 200, 200),
            ("", "https://app.example", "", 200, 200),
            ("", "http://localhost:5173", "", 200, 200),
            ("", "http://localhost:5174", "", 403, 403),
            ("", "https://app.example.evil.example", "", 403, 403),
            ("", "https://app.example:8443", "", 403, 403),
            ("", "http://app.example", "", 403, 403),
            ("", "null", "", 403, 403),
            ("", "null", "right", 403, 403),
        ] {
            for (login, path, expected) in
                [("/auth/login", "/auth/refresh", native), ("/api/auth/login", "/api/auth/refresh", earlier)]
            {
                let browser = with_cookies(&t, login).await;
                let token = browser.cookie("csrf_token").unwrap();
                let csrf = if csrf == "right" { token.as_str() } else { csrf };
                let headers = [("sec-fetch-site", site), ("origin", origin), ("x-csrf-token", csrf)];
                let headers: Vec<_> = headers.into_iter().filter(|(_, value)| !value.is_empty()).collect();
                let response = browser.ask(Method::POST, path, Value::Null, &headers).await;
                assert_eq!(response.status, expected, "{path} {headers:?}: {response:?}");
                if expected == 403 {
                    assert_eq!(response.code(), "ACCESS_DENIED");
                }
            }
        }
        // Reads, and requests with an access token, are not bound to an origin.
        let browser = with_cookies(&t, "/auth/login").await;
        let cross_site = [("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")];
        assert_eq!(browser.ask(Method::GET, "/auth/check", Value::Null, &cross_site).await.code(), "NO_TOKEN");
        assert_eq!(browser.ask(Method::POST, "/auth/logout", Value::Null, &cross_site).await.status, 403);
        assert_eq!(
            browser.ask(Method::POST, "/verify", Value::Null, &cross_site).await.status,
            403,
            "a form from another site"
        );
        let app = Browser::new(&t);
        app.sign_in("root@x.example").await;
        assert_eq!(app.ask(Method::POST, "/auth/logout-all", Value::Null, &cross_site).await.status, 200);
        t
    });
}

#[test]
fn a_session_cookie_without_origin_needs_the_csrf_token() {
    it_unstarted(|mut t| async {
        for (switch, plain) in [("true", 200), ("false", 403)] {
            t.set("DCA_ALLOW_COOKIES_WITHOUT_ORIGIN", switch);
            t.start_without_bot().await;
            signed_in_admin(&t).await;
            for (login, path, expected) in [
                ("/auth/login", "/auth/refresh", plain),
                ("/auth/login", "/auth/logout", plain),
                ("/api/auth/login", "/api/auth/refresh", 403),
                ("/api/auth/login", "/api/auth/logout", 403),
                // The cookie of one system is not accepted on the terms of another.
                ("/api/auth/login", "/auth/refresh", 403),
                ("/api/auth/login", "/auth/logout", 403),
                ("/auth/login", "/api/auth/refresh", 403),
                ("/auth/login", "/api/auth/logout", 403),
            ] {
                let browser = with_cookies(&t, login).await;
                let csrf = browser.cookie("csrf_token").unwrap();
                let response = browser.post(path, Value::Null).await;
                assert_eq!(response.status, expected, "{switch}: {login}, {path}: {response:?}");
                if expected == 403 {
                    assert_eq!(response.code(), "ACCESS_DENIED");
                    let proved = browser.ask(Method::POST, path, Value::Null, &[("x-csrf-token", &csrf)]).await;
                    assert_eq!(proved.status, 200, "{switch}: {login}, {path}: {proved:?}");
                }
            }
            // The body authenticates these, and the cookies of the session follow.
            let app = with_cookies(&t, "/api/auth/login").await;
            let before = app.cookie("refresh_token").unwrap();
            for path in ["/api/auth/refresh", "/api/auth/logout"] {
                let token = app.cookie("refresh_token");
                let response = app.post(path, json!({ "refreshToken": token })).await;
                assert_eq!(response.status, 200, "{path}: {response:?}");
                assert_ne!(app.cookie("refresh_token").as_ref(), Some(&before), "{path}");
            }
            t.stop().await;
        }
        t
    });
}

#[test]
fn cors_allows_only_the_configured_origins() {
    it_unstarted(|mut t| async {
        t.set("DCA_PUBLIC_URL", "http://dca.example");
        t.set("APP_FRONTEND_URL", "https://app.example/base");
        t.set("CORS_ORIGINS", "https://one.example,http://localhost:5173");
        t.start_without_bot().await;
        let browser = Browser::new(&t);
        for (origin, is_allowed) in [
            ("http://dca.example", true),
            ("https://app.example", true),
            ("https://one.example", true),
            ("http://localhost:5173", true),
            ("https://evil.example", false),
            ("https://one.example.evil.example", false),
            ("https://sub.one.example", false),
            ("http://one.example", false),
            ("http://localhost", false),
            ("null", false),
            ("*", false),
        ] {
            let allowed = if is_allowed { origin } else { "" };
            for path in ["/auth/check", "/api/auth/me", "/me"] {
                let response = browser.ask(Method::GET, path, Value::Null, &[("origin", origin)]).await;
                assert_eq!(response.header("access-control-allow-origin"), allowed, "{path} {origin}");
            }
            let preflight = [
                ("origin", origin),
                ("access-control-request-method", "PATCH"),
                ("access-control-request-headers", "authorization,content-type,x-csrf-token,x-api-key"),
            ];
            let response = browser.ask(Method::OPTIONS, "/me", Value::Null, &preflight).await;
            assert_eq!(response.header("access-control-allow-origin"), allowed, "{origin}");
            assert!(response.header("access-control-allow-methods").contains("PATCH"));
            assert!(response.header("vary").to_lowercase().contains("origin"), "{response:?}");
            if is_allowed {
                assert_eq!(response.header("access-control-allow-credentials"), "true");
                let headers = response.header("access-control-allow-headers");
                for name in [
                    "authorization",
                    "content-type",
                    "x-csrf-token",
                    "x-api-key",
                    "x-sdk-version",
                    "x-sdk-platform",
                    "x-correlation-id",
                    "idempotency-key",
                ] {
                    assert!(headers.split(',').any(|allowed| allowed == name), "{name} in {headers}");
                }
            }
        }
        t
    });
}

#[test]
fn hsts_is_sent_only_if_the_public_url_is_https() {
    it_unstarted(|mut t| async {
        for (public_url, expected) in
            [("http://dca.example", ""), ("https://dca.example", "max-age=31536000; includeSubDomains")]
        {
            t.set("DCA_PUBLIC_URL", public_url);
            t.start_without_bot().await;
            let browser = Browser::new(&t);
            for (path, status) in [
                ("/live", 200),
                ("/docs/", 200),
                ("/verify?token=x", 200),
                ("/pages.css", 200),
                ("/me", 401),
                ("/api/auth/me", 401),
                ("/auth/discord", 404),
                ("/nothing", 404),
                ("/auth/login", 405),
            ] {
                let response = browser.get(path).await;
                assert_eq!(
                    (response.status, response.header("strict-transport-security")),
                    (status, expected),
                    "{path}"
                );
                let csp = response.header("content-security-policy");
                assert!(csp.starts_with("default-src 'none'; ") && !csp.contains("unsafe"), "{path}: {csp}");
                assert!(csp.contains("frame-ancestors 'none'") && csp.contains("base-uri 'none'"), "{path}: {csp}");
                let referrer = if path.starts_with("/verify") { "same-origin" } else { "no-referrer" };
                for (name, value) in [
                    ("x-content-type-options", "nosniff"),
                    ("x-frame-options", "DENY"),
                    ("cache-control", "no-store"),
                    ("referrer-policy", referrer),
                ] {
                    assert_eq!(response.header(name), value, "{name} of {path}");
                }
            }
            t.stop().await;
        }
        t
    });
}
