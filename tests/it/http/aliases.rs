//! The `/api` routes and the error format of the earlier DCA-Auth.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    accounts::{signed_in_admin, user_id},
    browser::{Browser, PASSWORD, Response},
    harness::it_unstarted,
};

/// The sender of a request.
#[derive(Clone, Copy, Debug)]
enum Sender {
    Anonymous,
    User,
    Root,
}
use Sender::{Anonymous, Root, User};

/// Sender, method and path, body, expected status, and the expected error code or response members.
type Row = (Sender, &'static str, Value, u16, &'static str);

/// Asserts the error envelope of DCA-Auth: everything in `error`, and `code` at the top level too.
fn assert_envelope(response: &Response, code: &str, row: &str) {
    let error = &response.body["error"];
    assert_eq!((error["code"].as_str(), response.code()), (Some(code), code), "{row}: {response:?}");
    assert_eq!(error["status"], json!(response.status), "{row}");
    assert!(error["message"].as_str().is_some_and(|text| !text.is_empty()), "{row}");
    assert!(response.body.get("details").is_some() && !response.body["message"].is_null(), "{row}");
    assert_eq!(response.header("content-type"), "application/problem+json", "{row}");
}

fn pointers(members: &str) -> impl Iterator<Item = String> + '_ {
    members.split_whitespace().map(|member| format!("/{}", member.replace('.', "/")))
}

/// The public account routes of the earlier contract, in an order in which each can be called.
fn public_routes() -> Vec<Row> {
    let tokens = "accessToken refreshToken tokenType expiresIn sessionId isNewUser user.id tokens.accessToken \
                  tokens.refreshToken";
    let registered =
        "message user_id userId id email username createdAt user.id user.username requiresEmailVerification";
    let token = json!({ "token": "0" });
    let reset = json!({ "token": "0", "newPassword": "brass-Lantern-92 orbit" });
    let sign_in = |name: &str| json!({ name: "root@x.example", "password": PASSWORD });
    let challenge = json!({ "userId": "{user}", "token": "000000" });
    let sign_up = json!({
        "email": "new@x.example", "password": PASSWORD, "username": "New", "discordId": "123456789012345678",
        "discriminator": "0001", "acceptedTerms": true, "marketingConsent": false,
    });
    vec![
        (Anonymous, "POST /api/auth/register", sign_up, 201, registered),
        (Anonymous, "POST /api/auth/register", json!({ "email": "x" }), 400, "VALIDATION_ERROR"),
        (Anonymous, "POST /api/auth/login", sign_in("identifier"), 200, tokens),
        (Anonymous, "POST /api/auth/login", sign_in("email"), 200, tokens),
        (Anonymous, "POST /api/auth/login", json!({ "identifier": "x", "password": "y" }), 401, "INVALID_CREDENTIALS"),
        (Anonymous, "GET /api/auth/discord", Value::Null, 200, "authUrl"),
        (Anonymous, "GET /api/auth/discord?state=mine", Value::Null, 200, "authUrl"),
        (Anonymous, "POST /api/auth/discord", Value::Null, 200, "authUrl"),
        (Anonymous, "POST /auth/discord", Value::Null, 200, "authUrl"),
        (Anonymous, "POST /api/auth/discord/callback", json!({ "code": "x" }), 400, "SIGN_IN_FAILED"),
        (Anonymous, "POST /api/auth/discord/link", Value::Null, 401, "NO_TOKEN"),
        (Anonymous, "GET /api/auth/google", Value::Null, 404, "NOT_FOUND"),
        (Anonymous, "POST /api/auth/refresh", Value::Null, 400, "NO_REFRESH_TOKEN"),
        (Anonymous, "POST /api/auth/refresh", json!({ "refreshToken": "x" }), 401, "INVALID_SESSION"),
        (Anonymous, "POST /api/auth/logout", Value::Null, 200, "message"),
        (Anonymous, "POST /api/auth/logout-all", Value::Null, 401, "NO_TOKEN"),
        (Anonymous, "GET /api/auth/me", Value::Null, 401, "NO_TOKEN"),
        (Anonymous, "POST /api/auth/password/reset-request", json!({ "email": "no@x.example" }), 200, "message"),
        (Anonymous, "POST /api/auth/password/reset", reset, 400, "INVALID_ONE_TIME_TOKEN"),
        (Anonymous, "POST /api/auth/verify-email", token, 400, "INVALID_ONE_TIME_TOKEN"),
        (Anonymous, "GET /api/auth/verify-email/0", Value::Null, 200, ""),
        (Anonymous, "POST /api/auth/2fa/verify", challenge, 400, "INVALID_ONE_TIME_TOKEN"),
        (Anonymous, "POST /api/auth/2fa/setup", Value::Null, 401, "NO_TOKEN"),
        (Anonymous, "GET /api/users/profile", Value::Null, 401, "NO_TOKEN"),
        (Anonymous, "GET /api/users", Value::Null, 401, "NO_TOKEN"),
        (Anonymous, "GET /api/admin/roles", Value::Null, 401, "NO_TOKEN"),
    ]
}

/// The routes of signed-in users and admins, in an order in which each can be called.
fn signed_in_routes() -> Vec<Row> {
    let user = "id username email discordId roles status createdAt";
    let change = |current: &str| json!({ "currentPassword": current, "newPassword": "brass-Lantern-92 orbit" });
    let role = json!({ "userId": "{user}", "role": "MODERATOR" });
    let assigned = "summary.4._count.id summary.0.roles.0 admins.0.username moderators roles.4.name";
    let wrong_code = json!({ "token": "000000" });
    vec![
        (User, "GET /api/auth/me", Value::Null, 200, "user.id user.email session.id session.createdAt"),
        (User, "GET /auth/me", Value::Null, 200, "user.id session.id id"),
        (User, "GET /api/users/profile", Value::Null, 200, user),
        (User, "PATCH /api/users/profile", json!({ "username": "Ben" }), 200, user),
        (User, "PATCH /api/users/profile", json!({ "username": "" }), 400, "VALIDATION_ERROR"),
        (
            User,
            "POST /api/auth/2fa/setup",
            json!({ "password": PASSWORD }),
            200,
            "secret otpauthUrl qrCode backupCodes.9",
        ),
        (User, "POST /api/auth/2fa/setup", json!({ "password": "x" }), 401, "INVALID_CREDENTIALS"),
        (User, "POST /api/auth/2fa/enable", wrong_code, 401, "INVALID_2FA_CODE"),
        (User, "POST /api/auth/2fa/disable", json!({ "password": PASSWORD, "code": "1" }), 409, "CONFLICT"),
        (User, "POST /api/auth/discord/link", Value::Null, 200, "authUrl"),
        (User, "POST /api/auth/discord/link", json!({ "code": "x" }), 400, "SIGN_IN_FAILED"),
        (User, "POST /api/auth/discord/unlink", Value::Null, 404, "NOT_FOUND"),
        (User, "GET /api/users", Value::Null, 403, "INSUFFICIENT_ROLE"),
        (User, "GET /api/users/{user}", Value::Null, 200, user),
        (User, "PATCH /api/users/{user}", json!({ "username": "Ben", "role": "ADMIN", "status": "BANNED" }), 200, user),
        (User, "GET /api/users/{root}", Value::Null, 403, "INSUFFICIENT_ROLE"),
        (User, "PATCH /api/users/{root}", json!({ "status": "BANNED" }), 403, "INSUFFICIENT_ROLE"),
        (User, "GET /api/users/{root}/sessions", Value::Null, 403, "INSUFFICIENT_ROLE"),
        (User, "DELETE /api/users/{user}", Value::Null, 403, "INSUFFICIENT_ROLE"),
        (User, "POST /api/users/{user}/ban", Value::Null, 403, "INSUFFICIENT_ROLE"),
        (User, "POST /api/users/{user}/unban", Value::Null, 403, "INSUFFICIENT_ROLE"),
        (User, "GET /api/users/{user}/sessions", Value::Null, 200, "0.id 0.createdAt"),
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
        (Root, "GET /api/users/{user}", Value::Null, 200, user),
        (Root, "GET /api/users/0", Value::Null, 404, "NOT_FOUND"),
        (Root, "GET /api/users/01900000-0000-7000-8000-000000000000", Value::Null, 404, "NOT_FOUND"),
        (Root, "GET /api/users/{user}/sessions", Value::Null, 200, "0.id 0.createdAt"),
        (
            Root,
            "GET /api/admin/sessions",
            Value::Null,
            200,
            "sessions.0.id sessions.1.userId pagination.total pagination.hasNext",
        ),
        (Root, "POST /api/admin/sessions/{session}/revoke", json!({ "reason": "old" }), 200, "message"),
        (Root, "POST /api/admin/sessions/{session}/revoke", json!({ "reason": "old" }), 404, "NOT_FOUND"),
        (Root, "DELETE /api/users/{user}/sessions", Value::Null, 200, "revoked"),
        (Root, "PATCH /api/users/{user}", json!({ "status": "SUSPENDED", "passwordHash": "x" }), 200, user),
        (Root, "POST /api/users/{user}/ban", json!({ "reason": "spam" }), 200, "message user.id user.username"),
        (Root, "POST /api/users/{user}/unban", Value::Null, 200, "message user.id"),
        (Root, "GET /api/admin/roles", Value::Null, 200, assigned),
        (Root, "POST /api/admin/roles/assign", role.clone(), 200, user),
        (Root, "POST /api/admin/roles/assign", json!({ "userId": "{user}", "role": "KING" }), 400, "VALIDATION_ERROR"),
        (Root, "POST /api/admin/roles/revoke", role, 200, user),
        (Root, "DELETE /api/users/{user}", Value::Null, 200, "deletionAt"),
        (Root, "POST /api/auth/logout-all", Value::Null, 200, "message"),
    ]
}

#[test]
fn earlier_account_routes_keep_their_responses() {
    it_unstarted(|mut t| async {
        let mail = t.start_mail_sink().await;
        t.set("DCA_DISCORD_CLIENT_ID", &t.discord.client_id());
        t.set("DCA_DISCORD_CLIENT_SECRET", "secret");
        t.start_without_bot().await;
        let root = signed_in_admin(&t).await;
        let ben = Browser::signed_in(&t, &mail, "ben@x.example").await;
        let (user, session) = (user_id(&ben).await, ben.get("/auth/me").await.body["session"]["id"].clone());
        let root_id = user_id(&root).await;
        let fill = |text: &str| {
            let text = text.replace("{user}", &user).replace("{root}", &root_id);
            text.replace("{session}", session.as_str().unwrap())
        };
        for (sender, line, body, status, expected) in public_routes().into_iter().chain(signed_in_routes()) {
            let anonymous = Browser::new(&t);
            let browser = match sender {
                Anonymous => &anonymous,
                User => &ben,
                Root => &root,
            };
            let (method, path) = line.split_once(' ').unwrap();
            let body: Value = serde_json::from_str(&fill(&body.to_string())).unwrap();
            let row = format!("{sender:?} {line} {body}");
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
                assert_envelope(&response, expected, &row);
                continue;
            }
            for member in pointers(expected) {
                assert!(response.body.pointer(&member).is_some(), "{row} has no {member}: {response:?}");
            }
        }
        for address in ["new@x.example", "ben@x.example"] {
            mail.next(address).await;
            t.wait_until_idle().await;
            mail.forget(address);
        }
        mail.finish();
        t
    });
}

#[test]
fn correlation_id_is_the_clients_if_valid_or_else_the_request_id() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let ana = Browser::new(&t);
        let (long, longer) = ("a".repeat(128), "a".repeat(129));
        for (sent, is_valid) in [
            ("7f3c-1", true),
            (long.as_str(), true),
            (&longer, false),
            ("<script>", false),
            ("a b", false),
            ("\"", false),
            ("", false),
        ] {
            let response = ana.ask(Method::GET, "/api/auth/me", Value::Null, &[("x-correlation-id", sent)]).await;
            let expected = if is_valid { sent } else { response.header("x-request-id") };
            assert_eq!((response.status, response.header("x-correlation-id")), (401, expected), "{sent}");
            assert_eq!(response.body["error"]["correlationId"], expected);
        }
        t
    });
}

#[test]
fn validation_error_names_the_field_in_both_error_formats() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let ana = Browser::new(&t);
        let form = json!({ "email": "ana@x.example", "password": "short", "name": "Ana" });
        let message = "password must be 8 to 128 characters long";
        let response = ana.post("/api/auth/register", form.clone()).await;
        assert_envelope(&response, "VALIDATION_ERROR", "register");
        let details = json!([{ "field": "password", "message": message }]);
        assert_eq!((&response.body["details"], &response.body["error"]["details"]), (&details, &details));
        assert_eq!((response.status, &response.body["status"]), (400, &json!(400)));
        let response = ana.post("/auth/signup", form).await;
        let nest = json!({ "message": [message], "error": "Bad Request", "statusCode": 400 });
        for (member, value) in nest.as_object().unwrap() {
            assert_eq!(&response.body[member], value);
        }
        assert_eq!(response.body["field"], "password");
        t
    });
}

#[test]
fn refresh_returns_the_token_in_the_body_only_if_it_was_sent_in_the_body() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let root = signed_in_admin(&t).await;
        let body_token = |response: &Response| {
            assert_eq!(response.status, 200, "{response:?}");
            assert_eq!(response.body["refreshToken"].is_string(), response.body["tokens"]["refreshToken"].is_string());
            response.body["refreshToken"].as_str().map(str::to_owned)
        };
        let same_origin = [("sec-fetch-site", "same-origin")];
        let by_cookie = root.ask(Method::POST, "/auth/refresh", Value::Null, &same_origin).await;
        assert_eq!(body_token(&by_cookie), None);
        let form = json!({ "identifier": "root@x.example", "password": PASSWORD });
        for path in ["/auth/refresh", "/api/auth/refresh"] {
            let app = Browser::new(&t);
            let signed_in = app.post("/api/auth/login", form.clone()).await;
            let token = body_token(&signed_in).expect("the token is in the body for apps");
            assert_eq!(app.cookie("refresh_token").as_ref(), Some(&token));
            let bare = Browser::new(&t);
            let next = body_token(&bare.post(path, json!({ "refreshToken": token })).await)
                .expect("a token sent in the body is answered in the body");
            assert_ne!(next, token);
            let by_cookie = Browser::new(&t);
            by_cookie.set_cookie("refresh_token", Some(&next));
            let response = by_cookie.ask(Method::POST, path, Value::Null, &same_origin).await;
            assert_eq!(body_token(&response), None, "{path}");
            assert!(by_cookie.cookie("refresh_token").is_some_and(|cookie| cookie != next));
            let cookie = response.cookies().into_iter().find(|line| line.starts_with("refresh_token=")).unwrap();
            assert!(cookie.ends_with("; HttpOnly; SameSite=Lax; Path=/; Max-Age=604800"), "{cookie}");
        }
        t
    });
}
