//! The routes under `/api` that DCA-Auth documented before, its errors, and what stands in front of every
//! account route: who may send a cookie along, whose pages may read answers, and what headers go out.

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    accounts::{id_of, root},
    browser::{Browser, PASSWORD, Response},
    harness::{TestApp, it_unstarted},
};

/// Who asks.
#[derive(Clone, Copy, Debug)]
enum Who {
    Nobody,
    User,
    Root,
}
use Who::{Nobody, Root, User};

/// A row: who, method and path, body, status, and the code of a refusal or the members of an answer.
type Row = (Who, &'static str, Value, u16, &'static str);

/// Error envelope of DCA-Auth: everything in `error`, and the code at the top as well.
fn assert_envelope(response: &Response, code: &str, row: &str) {
    let error = &response.body["error"];
    assert_eq!((error["code"].as_str(), response.code()), (Some(code), code), "{row}: {response:?}");
    assert_eq!(error["status"], json!(response.status), "{row}");
    assert!(error["message"].as_str().is_some_and(|text| !text.is_empty()), "{row}");
    assert!(response.body.get("details").is_some() && !response.body["message"].is_null(), "{row}");
    assert_eq!(response.header("content-type"), "application/problem+json", "{row}");
}

fn names(members: &str) -> impl Iterator<Item = String> + '_ {
    members.split_whitespace().map(|member| format!("/{}", member.replace('.', "/")))
}

/// Every account row of the earlier contract, in an order in which each can be asked.
fn contract() -> Vec<Row> {
    let tokens = "accessToken refreshToken tokenType expiresIn sessionId isNewUser user.id tokens.accessToken \
                  tokens.refreshToken";
    let browser = "id username email discordId roles status createdAt";
    let token = json!({ "token": "0" });
    let reset = json!({ "token": "0", "newPassword": "brass-Lantern-92 orbit" });
    let sign_in = |name: &str| json!({ name: "root@x.example", "password": PASSWORD });
    let change = |current: &str| json!({ "currentPassword": current, "newPassword": "brass-Lantern-92 orbit" });
    let role = json!({ "userId": "{user}", "role": "MODERATOR" });
    let code = json!({ "token": "000000" });
    let waiting = json!({ "twoFactorToken": "0", "code": "000000" });
    let sign_up = json!({
        "email": "new@x.example", "password": PASSWORD, "username": "New", "discordId": "123456789012345678",
        "discriminator": "0001", "acceptedTerms": true, "marketingConsent": false,
    });
    vec![
        (Nobody, "POST /api/auth/register", sign_up, 201, "user_id userId message"),
        (Nobody, "POST /api/auth/register", json!({ "email": "x" }), 400, "VALIDATION_ERROR"),
        (Nobody, "POST /api/auth/login", sign_in("identifier"), 200, tokens),
        (Nobody, "POST /api/auth/login", sign_in("email"), 200, tokens),
        (Nobody, "POST /api/auth/login", json!({ "identifier": "x", "password": "y" }), 401, "INVALID_CREDENTIALS"),
        (Nobody, "GET /api/auth/discord", Value::Null, 200, "authUrl"),
        (Nobody, "GET /api/auth/discord?state=mine", Value::Null, 200, "authUrl"),
        (Nobody, "POST /api/auth/discord", Value::Null, 200, "authUrl"),
        (Nobody, "POST /auth/discord", Value::Null, 200, "authUrl"),
        (Nobody, "POST /api/auth/discord/callback", json!({ "code": "x" }), 400, "SIGN_IN_FAILED"),
        (Nobody, "POST /api/auth/discord/link", Value::Null, 401, "NO_TOKEN"),
        (Nobody, "GET /api/auth/google", Value::Null, 404, "NOT_FOUND"),
        (Nobody, "POST /api/auth/refresh", Value::Null, 400, "NO_REFRESH_TOKEN"),
        (Nobody, "POST /api/auth/refresh", json!({ "refreshToken": "x" }), 401, "INVALID_SESSION"),
        (Nobody, "POST /api/auth/logout", Value::Null, 200, "message"),
        (Nobody, "POST /api/auth/logout-all", Value::Null, 401, "NO_TOKEN"),
        (Nobody, "GET /api/auth/me", Value::Null, 401, "NO_TOKEN"),
        (Nobody, "POST /api/auth/password/reset-request", json!({ "email": "no@x.example" }), 201, "message"),
        (Nobody, "POST /api/auth/password/reset", reset, 400, "INVALID_ONE_TIME_TOKEN"),
        (Nobody, "POST /api/auth/verify-email", token, 400, "INVALID_ONE_TIME_TOKEN"),
        (Nobody, "GET /api/auth/verify-email/0", Value::Null, 200, ""),
        (Nobody, "POST /api/auth/2fa/verify", waiting, 400, "INVALID_ONE_TIME_TOKEN"),
        (Nobody, "POST /api/auth/2fa/setup", Value::Null, 401, "NO_TOKEN"),
        (Nobody, "GET /api/users/profile", Value::Null, 401, "NO_TOKEN"),
        (Nobody, "GET /api/users", Value::Null, 401, "NO_TOKEN"),
        (Nobody, "GET /api/admin/roles", Value::Null, 401, "NO_TOKEN"),
        (User, "GET /api/auth/me", Value::Null, 200, "user.id user.email session.id session.createdAt"),
        (User, "GET /auth/me", Value::Null, 200, "user.id session.id id"),
        (User, "GET /api/users/profile", Value::Null, 200, browser),
        (User, "PATCH /api/users/profile", json!({ "username": "Ben" }), 200, browser),
        (User, "PATCH /api/users/profile", json!({ "username": "" }), 400, "VALIDATION_ERROR"),
        (User, "POST /api/auth/2fa/setup", json!({ "password": PASSWORD }), 200, "secret otpauthUrl"),
        (User, "POST /api/auth/2fa/setup", json!({ "password": "x" }), 401, "INVALID_CREDENTIALS"),
        (User, "POST /api/auth/2fa/enable", code, 401, "INVALID_2FA_CODE"),
        (User, "POST /api/auth/2fa/disable", json!({ "password": PASSWORD, "code": "1" }), 409, "CONFLICT"),
        (User, "POST /api/auth/discord/link", Value::Null, 200, "authUrl"),
        (User, "POST /api/auth/discord/link", json!({ "code": "x" }), 400, "SIGN_IN_FAILED"),
        (User, "POST /api/auth/discord/unlink", Value::Null, 404, "NOT_FOUND"),
        (User, "GET /api/users", Value::Null, 403, "INSUFFICIENT_ROLE"),
        (User, "GET /api/users/{user}", Value::Null, 403, "INSUFFICIENT_ROLE"),
        (User, "PATCH /api/users/{user}", json!({ "status": "ACTIVE" }), 403, "INSUFFICIENT_ROLE"),
        (User, "DELETE /api/users/{user}", Value::Null, 403, "INSUFFICIENT_ROLE"),
        (User, "POST /api/users/{user}/ban", Value::Null, 403, "INSUFFICIENT_ROLE"),
        (User, "POST /api/users/{user}/unban", Value::Null, 403, "INSUFFICIENT_ROLE"),
        (User, "GET /api/users/{user}/sessions", Value::Null, 403, "INSUFFICIENT_ROLE"),
        (User, "DELETE /api/users/{user}/sessions", Value::Null, 403, "INSUFFICIENT_ROLE"),
        (User, "GET /api/admin/sessions", Value::Null, 403, "INSUFFICIENT_ROLE"),
        (User, "POST /api/admin/sessions/{session}/revoke", Value::Null, 403, "INSUFFICIENT_ROLE"),
        (User, "GET /api/admin/roles", Value::Null, 403, "INSUFFICIENT_ROLE"),
        (User, "POST /api/admin/roles/assign", role.clone(), 403, "INSUFFICIENT_ROLE"),
        (User, "POST /api/admin/roles/revoke", role.clone(), 403, "INSUFFICIENT_ROLE"),
        (User, "POST /api/users/change-password", change("not this one"), 401, "INVALID_CREDENTIALS"),
        (User, "POST /api/users/change-password", change(PASSWORD), 200, "message"),
        (
            Root,
            "GET /api/users?page=1&limit=1",
            Value::Null,
            200,
            "users.0.id pagination.total pagination.page pagination.pages pagination.limit pagination.hasNext \
             pagination.hasPrev",
        ),
        (Root, "GET /admin/users?search=BEN&status=ACTIVE&role=USER", Value::Null, 200, "users.0.id pagination.total"),
        (Root, "GET /api/users?limit=101", Value::Null, 400, "VALIDATION_ERROR"),
        (Root, "GET /api/users/{user}", Value::Null, 200, browser),
        (Root, "GET /api/users/0", Value::Null, 404, "NOT_FOUND"),
        (Root, "GET /api/users/01900000-0000-7000-8000-000000000000", Value::Null, 404, "NOT_FOUND"),
        (Root, "GET /api/users/{user}/sessions", Value::Null, 200, "0.id 0.createdAt"),
        (Root, "GET /api/admin/sessions", Value::Null, 200, "0.id 0.userId 1.id"),
        (Root, "POST /api/admin/sessions/{session}/revoke", json!({ "reason": "old" }), 200, "message"),
        (Root, "POST /api/admin/sessions/{session}/revoke", json!({ "reason": "old" }), 404, "NOT_FOUND"),
        (Root, "DELETE /api/users/{user}/sessions", Value::Null, 200, "revoked"),
        (Root, "PATCH /api/users/{user}", json!({ "status": "SUSPENDED", "passwordHash": "x" }), 200, browser),
        (Root, "POST /api/users/{user}/ban", json!({ "reason": "spam" }), 200, browser),
        (Root, "POST /api/users/{user}/unban", Value::Null, 200, browser),
        (Root, "GET /api/admin/roles", Value::Null, 200, "roles.0.name roles.4.name"),
        (Root, "POST /api/admin/roles/assign", role.clone(), 200, browser),
        (Root, "POST /api/admin/roles/assign", json!({ "userId": "{user}", "role": "KING" }), 400, "VALIDATION_ERROR"),
        (Root, "POST /api/admin/roles/revoke", role, 200, browser),
        (Root, "DELETE /api/users/{user}", Value::Null, 202, "deletionAt"),
        (Root, "POST /api/auth/logout-all", Value::Null, 200, "message"),
    ]
}

#[test]
fn every_account_route_of_dca_auth_answers_as_it_did() {
    it_unstarted(|mut t| async {
        let mail = t.with_mail().await;
        t.set("DCA_DISCORD_CLIENT_ID", &t.discord.client_id());
        t.set("DCA_DISCORD_CLIENT_SECRET", "secret");
        t.start_without_bot().await;
        let root = root(&t).await;
        let ben = Browser::signed_in(&t, &mail, "ben@x.example").await;
        let (user, session) = (id_of(&ben).await, ben.get("/auth/me").await.body["session"]["id"].clone());
        let fill = |text: &str| text.replace("{user}", &user).replace("{session}", session.as_str().unwrap());
        for (who, line, body, status, says) in contract() {
            let nobody = Browser::new(&t);
            let browser = match who {
                Nobody => &nobody,
                User => &ben,
                Root => &root,
            };
            let (method, path) = line.split_once(' ').unwrap();
            let body: Value = serde_json::from_str(&fill(&body.to_string())).unwrap();
            let row = format!("{who:?} {line} {body}");
            let headers = [("x-correlation-id", "row-17:a.b"), ("sec-fetch-site", "same-origin")];
            let response = browser.ask(method.parse().unwrap(), &fill(path), body, &headers).await;
            assert_eq!(response.status, status, "{row}: {response:?}");
            assert!(
                !response.text.contains("passwordHash") && !response.text.contains("$argon2"),
                "{row}: {response:?}"
            );
            if path.starts_with("/api") {
                assert_eq!(response.header("x-correlation-id"), "row-17:a.b", "{row}");
            }
            if status >= 400 {
                assert_envelope(&response, says, &row);
                continue;
            }
            for member in names(says) {
                assert!(response.body.pointer(&member).is_some(), "{row} has no {member}: {response:?}");
            }
        }
        for address in ["new@x.example", "ben@x.example"] {
            mail.next(address).await;
            t.idle().await;
            mail.forget(address);
        }
        mail.finish();
        t
    });
}

#[test]
fn a_request_has_the_id_its_client_gave_it_or_else_ours() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let ana = Browser::new(&t);
        let (long, longer) = ("a".repeat(128), "a".repeat(129));
        for (given, is_kept) in [
            ("7f3c-1", true),
            (long.as_str(), true),
            (&longer, false),
            ("<script>", false),
            ("a b", false),
            ("\"", false),
            ("", false),
        ] {
            let response = ana.ask(Method::GET, "/api/auth/me", Value::Null, &[("x-correlation-id", given)]).await;
            let expected = if is_kept { given } else { response.header("x-request-id") };
            assert_eq!((response.status, response.header("x-correlation-id")), (401, expected), "{given}");
            assert_eq!(response.body["error"]["correlationId"], expected);
        }
        t
    });
}

#[test]
fn a_field_that_does_not_fit_is_named_in_both_dialects() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let ana = Browser::new(&t);
        let form = json!({ "email": "ana@x.example", "password": "short", "name": "Ana" });
        let says = "password must be 8 to 128 characters long";
        let response = ana.post("/api/auth/register", form.clone()).await;
        assert_envelope(&response, "VALIDATION_ERROR", "register");
        let details = json!([{ "field": "password", "message": says }]);
        assert_eq!((&response.body["details"], &response.body["error"]["details"]), (&details, &details));
        assert_eq!((response.status, &response.body["status"]), (400, &json!(400)));
        let response = ana.post("/auth/signup", form).await;
        let nest = json!({ "message": [says], "error": "Bad Request", "statusCode": 400 });
        for (member, value) in nest.as_object().unwrap() {
            assert_eq!(&response.body[member], value);
        }
        assert_eq!(response.body["field"], "password");
        t
    });
}

#[test]
fn a_refresh_token_is_in_the_body_only_where_it_came_in_the_body() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let root = root(&t).await;
        let has = |response: &Response| {
            assert_eq!(response.status, 200, "{response:?}");
            assert_eq!(response.body["refreshToken"].is_string(), response.body["tokens"]["refreshToken"].is_string());
            response.body["refreshToken"].as_str().map(str::to_owned)
        };
        let own = [("sec-fetch-site", "same-origin")];
        let by_cookie = root.ask(Method::POST, "/auth/refresh", Value::Null, &own).await;
        assert_eq!(has(&by_cookie), None);
        let form = json!({ "identifier": "root@x.example", "password": PASSWORD });
        for path in ["/auth/refresh", "/api/auth/refresh"] {
            let app = Browser::new(&t);
            let signed_in = app.post("/api/auth/login", form.clone()).await;
            let token = has(&signed_in).expect("an app keeps it itself");
            assert_eq!(app.cookie("refresh_token").as_ref(), Some(&token));
            let bare = Browser::new(&t);
            let next = has(&bare.post(path, json!({ "refreshToken": token })).await).expect("it came in the body");
            assert_ne!(next, token);
            let by_cookie = Browser::new(&t);
            by_cookie.set_cookie("refresh_token", Some(&next));
            let response = by_cookie.ask(Method::POST, path, Value::Null, &own).await;
            assert_eq!(has(&response), None, "{path}");
            assert!(by_cookie.cookie("refresh_token").is_some_and(|cookie| cookie != next));
            let cookie = response.cookies().into_iter().find(|line| line.starts_with("refresh_token=")).unwrap();
            assert!(cookie.ends_with("; HttpOnly; SameSite=Lax; Path=/; Max-Age=604800"), "{cookie}");
        }
        t
    });
}

/// A browser with the cookies of a session by this dialect's login, and no access token.
async fn with_cookies(t: &TestApp, login: &str) -> Browser {
    let browser = Browser::new(t);
    let form = json!({ "email": "root@x.example", "password": PASSWORD });
    assert_eq!(browser.post(login, form).await.status, 200);
    browser.set_access(None);
    browser
}

#[test]
fn a_cookie_counts_only_with_a_page_that_may_send_it() {
    it_unstarted(|mut t| async {
        for (name, value) in [
            ("DCA_PUBLIC_URL", "http://dca.example"),
            ("APP_FRONTEND_URL", "https://app.example/base"),
            ("CORS_ORIGINS", "https://one.example,http://localhost:5173"),
        ] {
            t.set(name, value);
        }
        t.start_without_bot().await;
        root(&t).await;
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
        // Reading, and proving oneself otherwise, needs no page.
        let browser = with_cookies(&t, "/auth/login").await;
        let foreign = [("sec-fetch-site", "cross-site"), ("origin", "https://evil.example")];
        assert_eq!(browser.ask(Method::GET, "/auth/check", Value::Null, &foreign).await.code(), "NO_TOKEN");
        assert_eq!(browser.ask(Method::POST, "/auth/logout", Value::Null, &foreign).await.status, 403);
        assert_eq!(
            browser.ask(Method::POST, "/verify", Value::Null, &foreign).await.status,
            403,
            "a form from elsewhere"
        );
        let app = Browser::new(&t);
        app.sign_in("root@x.example").await;
        assert_eq!(app.ask(Method::POST, "/auth/logout-all", Value::Null, &foreign).await.status, 200);
        t
    });
}

#[test]
fn pages_of_the_listed_origins_may_read_answers_and_no_others() {
    it_unstarted(|mut t| async {
        t.set("DCA_PUBLIC_URL", "http://dca.example");
        t.set("APP_FRONTEND_URL", "https://app.example/base");
        t.set("CORS_ORIGINS", "https://one.example,http://localhost:5173");
        t.start_without_bot().await;
        let browser = Browser::new(&t);
        for (origin, may) in [
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
            let allowed = if may { origin } else { "" };
            for path in ["/auth/check", "/api/auth/me", "/me"] {
                let response = browser.ask(Method::GET, path, Value::Null, &[("origin", origin)]).await;
                assert_eq!(response.header("access-control-allow-origin"), allowed, "{path} {origin}");
            }
            let asks = [
                ("origin", origin),
                ("access-control-request-method", "PATCH"),
                ("access-control-request-headers", "authorization,content-type,x-csrf-token"),
            ];
            let response = browser.ask(Method::OPTIONS, "/me", Value::Null, &asks).await;
            assert_eq!(response.header("access-control-allow-origin"), allowed, "{origin}");
            assert!(response.header("access-control-allow-methods").contains("PATCH"));
            assert!(response.header("vary").to_lowercase().contains("origin"), "{response:?}");
            if may {
                assert_eq!(response.header("access-control-allow-credentials"), "true");
                assert!(response.header("access-control-allow-headers").contains("x-csrf-token"));
            }
        }
        t
    });
}

#[test]
fn every_answer_says_https_only_where_that_is_how_we_are_reached() {
    it_unstarted(|mut t| async {
        for (home, expected) in
            [("http://dca.example", ""), ("https://dca.example", "max-age=31536000; includeSubDomains")]
        {
            t.set("DCA_PUBLIC_URL", home);
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
