//! Account routes (`/auth`, `/me`, the `rt` cookie) as documented by the earlier multi-user service, and defects that
//! its own tests missed.

use chrono::TimeDelta;
use dca_core::accounts::admin;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{
    accounts::{signed_in_admin, user_id},
    browser::{Browser, PASSWORD, Response},
    fixtures::rows,
    harness::it_unstarted,
};

/// A sign-up form with [`PASSWORD`].
pub(super) fn form(email: &str) -> Value {
    json!({ "email": email, "password": PASSWORD, "name": "Somebody" })
}

/// A response without the headers that differ between requests.
pub(super) fn shape(response: &Response) -> (u16, Vec<(String, String)>, String) {
    let skipped = ["date", "ratelimit", "x-request-id"];
    let headers = response.headers.iter().filter(|(name, _)| !skipped.contains(&name.as_str()));
    let headers =
        headers.map(|(name, value)| (name.to_string(), without_value(name.as_str(), value.to_str().unwrap())));
    (response.status, headers.collect(), response.text.clone())
}

/// A header, without the value of a cookie.
pub(super) fn without_value(name: &str, header: &str) -> String {
    match header.split_once(['=', ';']) {
        Some((cookie, rest)) if name == "set-cookie" => {
            format!("{cookie};{}", rest.split_once(';').map_or("", |(_, attributes)| attributes))
        }
        _ => header.to_owned(),
    }
}

/// The value and the attributes of the only `Set-Cookie` with this name.
pub(super) fn cookie(response: &Response, name: &str) -> (String, String) {
    let all = response.cookies().into_iter().filter_map(|line| Some((line.split_once('=')?.0.to_owned(), line)));
    let found: Vec<String> = all.filter(|(key, _)| key == name).map(|(_, line)| line).collect();
    assert_eq!(found.len(), 1, "{name} in {:?}", response.cookies());
    let (value, attributes) = found[0].split_once("; ").unwrap();
    (value.split_once('=').unwrap().1.to_owned(), attributes.to_owned())
}

#[test]
fn account_works_from_sign_up_to_logout_all() {
    it_unstarted(|mut t| async {
        let mail = t.start_mail_sink().await;
        t.set("DCA_PUBLIC_URL", "http://dca.example");
        t.start_without_bot().await;
        let ana = Browser::new(&t);
        let created = ana.post("/auth/signup", form("Ana@x.example")).await;
        assert_eq!(created.status, 201, "{created:?}");
        assert_eq!(created.body["message"], "User created. Please verify your email.");
        assert_eq!(created.body["user_id"].as_str().unwrap().len(), 36);
        let unverified = ana.sign_in("ana@x.example").await;
        assert_eq!((unverified.status, &unverified.body["message"]), (403, &json!("Email not verified")));

        let email = mail.next("Ana@x.example").await;
        assert!(email.link().starts_with("http://dca.example/verify?token="), "{}", email.link());
        assert_eq!(email.token().len(), 64);
        let token = json!({ "token": email.token() });
        let verified = ana.post("/auth/verify-email", token.clone()).await;
        assert_eq!(
            (verified.status, verified.body),
            (201, json!({ "message": "Email verified successfully", "passwordRequired": false }))
        );
        let again = ana.post("/auth/verify-email", token).await;
        assert_eq!((again.status, &again.body["message"]), (400, &json!("Invalid or expired token")));
        mail.next("Ana@x.example").await;

        let signed_in = ana.sign_in(" ANA@X.example ").await;
        assert_eq!(signed_in.status, 200, "{signed_in:?}");
        let user = &signed_in.body["user"];
        assert_eq!((&user["id_user"], &user["email"]), (&created.body["user_id"], &json!("Ana@x.example")));
        assert_eq!((&user["name"], &user["role"]), (&json!("Somebody"), &json!("USER")));
        assert_eq!(signed_in.body["access_token"].as_str(), ana.access_token().as_deref());
        assert_eq!(signed_in.body["refreshToken"], Value::Null, "the refresh token is in the cookie only");
        let me = ana.get("/me").await;
        assert_eq!((me.status, &me.body["email_verified"], &me.body["status"]), (200, &json!(true), &json!("ACTIVE")));
        for member in ["id_user", "email", "name", "surname", "display_name", "photo_url", "phone_number"] {
            assert!(me.body.get(member).is_some(), "{member}");
        }
        assert_eq!(ana.get("/auth/check").await.body, json!({ "ok": true }));
        let refreshed = ana.post("/auth/refresh", Value::Null).await;
        assert_eq!((refreshed.status, &refreshed.body["refreshToken"]), (200, &Value::Null));
        assert!(refreshed.body["access_token"].is_string());
        assert_eq!(ana.get("/auth/sessions").await.body.as_array().unwrap().len(), 1);
        let logged_out = ana.post("/auth/logout-all", Value::Null).await;
        assert_eq!((logged_out.status, logged_out.body), (200, json!({ "message": "All sessions revoked" })));
        let me = ana.get("/me").await;
        assert_eq!(
            (me.status, me.code()),
            (401, "INVALID_SESSION"),
            "an access token is invalid once its session ended"
        );
        mail.finish();
        t
    });
}

#[test]
fn responses_have_the_documented_status_and_message() {
    it_unstarted(|mut t| async {
        let mail = t.start_mail_sink().await;
        t.start_without_bot().await;
        let root = signed_in_admin(&t).await;
        Browser::new(&t).post("/auth/signup", form("new@n.example")).await;
        let ben = Browser::signed_in(&t, &mail, "ben@x.example").await;
        let suspend = json!({ "status": "SUSPENDED" });
        let path = format!("/admin/users/{}", user_id(&ben).await);
        assert_eq!(root.ask(Method::PATCH, &path, suspend, &[]).await.status, 200);

        let sign_in = |email: &str, password: &str| json!({ "email": email, "password": password });
        let email = |email: &str| json!({ "email": email });
        let sign_up =
            |email: &str, password: &str, name: &str| json!({ "email": email, "password": password, "name": name });
        let created = json!("User created. Please verify your email.");
        let sent = json!("If that email is registered, a reset link has been sent.");
        let resent = json!("If that email needs it, a verification link has been sent.");
        let refused = json!("Invalid credentials");
        let expired = json!("Invalid or expired token");
        let missing_name = json!(["name is required"]);
        for (line, body, status, message) in [
            ("POST /auth/signup", form("ana@a.example"), 201, created.clone()),
            ("POST /auth/signup", form("ROOT@x.example"), 201, created),
            ("POST /auth/signup", sign_up("no address", PASSWORD, "A"), 400, json!(["email must be an email"])),
            (
                "POST /auth/signup",
                sign_up("a@x.example", "7 chars", "A"),
                400,
                json!(["password must be 8 to 128 characters long"]),
            ),
            (
                "POST /auth/signup",
                sign_up("a@x.example", PASSWORD, " "),
                400,
                json!(["name must be one line of 1 to 100 characters"]),
            ),
            ("POST /auth/signup", sign_in("a@x.example", PASSWORD), 400, missing_name),
            ("POST /auth/login", sign_in("root@x.example", PASSWORD), 200, Value::Null),
            ("POST /auth/login", sign_in("root@x.example", "not this one"), 401, refused.clone()),
            ("POST /auth/login", sign_in("nobody@x.example", PASSWORD), 401, refused.clone()),
            ("POST /auth/login", sign_in("no address", PASSWORD), 401, refused.clone()),
            ("POST /auth/login", sign_in("root\0@x.example", PASSWORD), 401, refused.clone()),
            ("POST /auth/login", sign_in("root@x.example", "\0"), 401, refused.clone()),
            ("POST /auth/login", sign_in("new@n.example", PASSWORD), 403, json!("Email not verified")),
            ("POST /auth/login", sign_in("new@n.example", "not this one"), 401, refused.clone()),
            ("POST /auth/login", sign_in("ben@x.example", PASSWORD), 403, json!("Account suspended")),
            ("POST /auth/login", sign_in("ben@x.example", "not this one"), 401, refused),
            ("POST /auth/verify-email", json!({ "token": "nonsense" }), 400, expired.clone()),
            ("POST /auth/verify-email", json!({ "token": "a".repeat(64) }), 400, expired.clone()),
            ("POST /auth/resend-verification", email("new@n.example"), 201, resent.clone()),
            ("POST /auth/resend-verification", email("nobody@x.example"), 201, resent),
            ("POST /auth/refresh", Value::Null, 401, json!("Missing refresh token")),
            ("POST /auth/logout", Value::Null, 200, json!("Logged out")),
            ("POST /auth/logout-all", Value::Null, 401, json!("Sign in, and send the access token as a Bearer token.")),
            ("POST /auth/reset-password-request", email("root@x.example"), 201, sent.clone()),
            ("POST /auth/reset-password-request", email("nobody@x.example"), 201, sent),
            ("POST /auth/reset-password-request", email("no address"), 400, json!(["email must be an email"])),
            ("POST /auth/reset-password", json!({ "token": "a".repeat(64), "password": PASSWORD }), 400, expired),
            ("GET /auth/check", Value::Null, 401, json!("Sign in, and send the access token as a Bearer token.")),
            ("GET /me", Value::Null, 401, json!("Sign in, and send the access token as a Bearer token.")),
        ] {
            let (method, path) = line.split_once(' ').unwrap();
            let anonymous = Browser::new(&t);
            let response = anonymous.ask(method.parse().unwrap(), path, body.clone(), &[]).await;
            assert_eq!((response.status, &response.body["message"]), (status, &message), "{line} {body}: {response:?}");
            if status >= 400 {
                let reason = StatusCode::from_u16(status).unwrap().canonical_reason();
                assert_eq!(response.body["error"].as_str(), reason, "{line}");
                assert_eq!(response.body["statusCode"], json!(status), "{line}");
                assert_eq!(response.header("content-type"), "application/problem+json", "{line}");
            }
        }
        for address in ["new@n.example", "ana@a.example", "root@x.example"] {
            mail.next(address).await;
        }
        t.wait_until_idle().await;
        assert_eq!(mail.all_to("nobody@x.example").len(), 0);
        for address in ["new@n.example", "ana@a.example", "root@x.example", "ben@x.example"] {
            mail.forget(address);
        }
        mail.finish();
        t
    });
}

#[test]
fn sign_up_with_a_known_email_responds_as_for_a_new_one_and_notifies_the_owner() {
    it_unstarted(|mut t| async {
        let mail = t.start_mail_sink().await;
        t.start_without_bot().await;
        signed_in_admin(&t).await;
        let stranger = Browser::new(&t);
        let without_id = |mut response: Response| {
            for member in ["userId", "email"] {
                let value = response.body[member].as_str().unwrap().to_owned();
                response.text = response.text.replace(&value, member);
            }
            shape(&response)
        };
        let new = stranger.post("/auth/signup", form("news@x.example")).await;
        let known = stranger.post("/auth/signup", form("Root@x.example")).await;
        assert_eq!(without_id(new), without_id(known));
        assert_eq!(mail.next("root@x.example").await.subject, "You already have an account");
        mail.next("news@x.example").await;
        // Signing in with the new password responds the same for both, and fails.
        let own_form = json!({ "password": "brass-Lantern-92 orbit", "name": "Somebody" });
        let sign_up_and_log_in = async |email: &str| {
            let mut form = own_form.clone();
            form["email"] = json!(email);
            stranger.post("/auth/signup", form.clone()).await;
            shape(&stranger.post("/auth/login", form).await)
        };
        let refused = sign_up_and_log_in("Root@x.example").await;
        assert_eq!((refused.0, &refused), (403, &sign_up_and_log_in("new@x.example").await));
        assert_eq!(stranger.sign_in("root@x.example").await.body["user"]["name"], "Root", "the account is unchanged");
        t.wait_until_idle().await;
        for email in ["root@x.example", "Root@x.example", "new@x.example"] {
            mail.forget(email);
        }
        mail.finish();
        t
    });
}

#[test]
fn refresh_cookie_is_cleared_with_the_attributes_it_was_set_with() {
    it_unstarted(|mut t| async {
        admin::create_admin(&t.assemble(&[]).await.unwrap().core, "root@x.example", Some("Root"), PASSWORD)
            .await
            .unwrap();
        let names = ["DCA_PUBLIC_URL", "REFRESH_COOKIE_NAME", "COOKIE_DOMAIN", "COOKIE_SAMESITE", "COOKIE_SECURE"];
        for (settings, name, expected) in [
            (["", "", "", "", ""], "rt", "HttpOnly; SameSite=Lax; Path=/auth; Max-Age="),
            (["https://dca.example", "", "", "", ""], "__Host-rt", "HttpOnly; SameSite=Lax; Secure; Path=/; Max-Age="),
            (["", "sid", "", "", ""], "sid", "HttpOnly; SameSite=Lax; Path=/auth; Max-Age="),
            (
                ["https://dca.example", "", "x.example", "none", ""],
                "rt",
                "HttpOnly; SameSite=None; Secure; Path=/auth; Domain=x.example; Max-Age=",
            ),
            (
                ["https://dca.example", "sid", "", "strict", "false"],
                "sid",
                "HttpOnly; SameSite=Strict; Path=/auth; Max-Age=",
            ),
        ] {
            for (name, value) in names.iter().zip(settings) {
                t.set(name, value);
            }
            t.start_without_bot().await;
            let ana = Browser::new(&t);
            let signed_in = ana.sign_in("root@x.example").await;
            let (first, attributes) = cookie(&signed_in, name);
            assert_eq!(attributes, format!("{expected}604800"), "{settings:?}");
            let refreshed = ana.post("/auth/refresh", Value::Null).await;
            let (second, attributes) = cookie(&refreshed, name);
            assert_eq!(attributes, format!("{expected}604800"), "{settings:?}");
            assert!(first.len() == 43 && second.len() == 43 && first != second, "{first} {second}");
            let cleared = (String::new(), format!("{expected}0"));
            let logged_out = ana.post("/auth/logout", Value::Null).await;
            assert_eq!((logged_out.status, cookie(&logged_out, name)), (200, cleared.clone()));
            assert_eq!(ana.cookie(name), None);
            ana.set_access_token(None);
            ana.set_cookie(name, Some("nonsense"));
            let refused = ana.post("/auth/refresh", Value::Null).await;
            assert_eq!((refused.status, &refused.body["message"]), (401, &json!("Session invalidated")));
            assert_eq!(cookie(&refused, name), cleared, "{settings:?}");
            ana.set_cookie(name, Some(&second));
            let refused = ana.post("/auth/refresh", Value::Null).await;
            assert_eq!((refused.status, cookie(&refused, name)), (401, cleared), "signed out");
            t.stop().await;
        }
        t
    });
}

#[test]
fn undocumented_request_fields_are_ignored() {
    it_unstarted(|mut t| async {
        let mail = t.start_mail_sink().await;
        t.start_without_bot().await;
        let undocumented = json!({
            "id": "01900000-0000-7000-8000-000000000000", "id_user": "x", "role": "SUPER_ADMIN", "roles": ["SUPER_ADMIN"],
            "status": "ACTIVE", "email_verified": true, "emailVerifiedAt": "2026-01-01T00:00:00Z",
            "passwordHash": "$2b$12$", "password_hash": "$2b$12$", "discordId": "123456789012345678",
            "ownedLicenses": { "connect": [{ "id": "x" }] }, "deletionAt": null, "twoFactorEnabled": true,
        });
        let mut signup = undocumented.clone();
        signup.as_object_mut().unwrap().extend(form("ana@x.example").as_object().unwrap().clone());
        let ana = Browser::new(&t);
        let created = ana.post("/auth/signup", signup).await;
        assert_eq!(created.status, 201, "{created:?}");
        assert_eq!(ana.sign_in("ana@x.example").await.code(), "EMAIL_NOT_VERIFIED");
        let token = mail.next("ana@x.example").await.token();
        ana.post("/auth/verify-email", json!({ "token": token })).await;
        mail.next("ana@x.example").await;
        let signed_in = ana.sign_in("ana@x.example").await;
        let before = ana.get("/me").await.body;
        assert_eq!(before["id"], created.body["user_id"]);
        assert_eq!((&before["role"], &before["discordId"]), (&json!("USER"), &Value::Null));

        let mut change = undocumented;
        change["name"] = json!("Ana");
        let mut expected = before;
        for member in ["name", "username", "display_name"] {
            expected[member] = json!("Ana");
        }
        // The names of the multi-user service are not part of the routes under `/api`.
        let mut without_names = expected.clone();
        for name in ["id_user", "email_verified", "surname", "display_name", "photo_url", "phone_number"] {
            without_names.as_object_mut().unwrap().remove(name);
        }
        for (path, expected) in [("/me", &expected), ("/api/users/profile", &without_names)] {
            let changed = ana.ask(Method::PATCH, path, change.clone(), &[]).await;
            assert_eq!((changed.status, &changed.body), (200, expected), "{path}");
        }
        assert_eq!(ana.get("/me").await.body, expected);
        assert_eq!(ana.sign_in("ana@x.example").await.status, 200, "the password is the same");
        let hash = rows(t.core().db.writer(), "SELECT password_hash FROM credentials").await;
        let hash = hash[0]["password_hash"].as_str().unwrap();
        for response in [created, signed_in, ana.get("/auth/me").await, ana.get("/me/export").await] {
            assert!(!response.text.contains(hash) && !response.text.to_lowercase().contains("hash"), "{response:?}");
        }
        mail.finish();
        t
    });
}

#[test]
fn logout_all_ends_only_the_callers_sessions() {
    it_unstarted(|mut t| async {
        let mail = t.start_mail_sink().await;
        t.start_without_bot().await;
        let ana = Browser::signed_in(&t, &mail, "ana@x.example").await;
        let second = Browser::new(&t);
        second.sign_in("ana@x.example").await;
        let ben = Browser::signed_in(&t, &mail, "ben@x.example").await;
        assert_eq!(ana.post("/auth/logout-all", Value::Null).await.status, 200);
        for signed_out in [&ana, &second] {
            assert_eq!(signed_out.get("/me").await.status, 401);
            assert_eq!(signed_out.post("/auth/refresh", Value::Null).await.status, 401);
        }
        assert_eq!(ben.get("/me").await.status, 200);
        assert_eq!(ben.post("/auth/refresh", Value::Null).await.status, 200);
        mail.finish();
        t
    });
}

#[test]
fn concurrent_refreshes_agree_and_token_reuse_ends_all_sessions_of_the_user() {
    it_unstarted(|mut t| async {
        let mail = t.start_mail_sink().await;
        t.start_without_bot().await;
        let ana = Browser::signed_in(&t, &mail, "ana@x.example").await;
        let (second, ben) = (Browser::new(&t), Browser::signed_in(&t, &mail, "ben@x.example").await);
        second.sign_in("ana@x.example").await;
        let old = ana.cookie("rt").unwrap();
        let (one, two) = futures::join!(ana.post("/auth/refresh", Value::Null), ana.post("/auth/refresh", Value::Null));
        assert_eq!((one.status, two.status), (200, 200));
        assert_eq!(cookie(&one, "rt").0, cookie(&two, "rt").0, "the same successor");
        assert_eq!(ana.post("/auth/refresh", Value::Null).await.status, 200, "still signed in");

        t.advance(TimeDelta::seconds(11));
        let thief = Browser::new(&t);
        thief.set_cookie("rt", Some(&old));
        let refused = thief.post("/auth/refresh", Value::Null).await;
        assert_eq!((refused.status, refused.code()), (401, "TOKEN_REUSE_DETECTED"));
        assert_eq!(refused.body["message"], "Session invalidated");
        assert_eq!(cookie(&refused, "rt").0, "");
        for signed_out in [&ana, &second] {
            assert_eq!(signed_out.get("/me").await.status, 401);
            assert_eq!(signed_out.post("/auth/refresh", Value::Null).await.status, 401);
        }
        assert_eq!(ben.get("/me").await.status, 200);
        assert_eq!(mail.next("ana@x.example").await.subject, "You were signed out everywhere");
        mail.finish();
        t
    });
}

#[test]
fn logout_ends_the_session_of_a_cookie_bearer_or_body_token() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        admin::create_admin(t.core(), "root@x.example", Some("Root"), PASSWORD).await.unwrap();
        for proof in ["cookie", "bearer", "body"] {
            let ana = Browser::new(&t);
            ana.sign_in("root@x.example").await;
            let (refresh, access) = (ana.cookie("rt").unwrap(), ana.access_token().unwrap());
            ana.set_cookie("rt", Some(&refresh).filter(|_| proof == "cookie").map(String::as_str));
            ana.set_access_token(Some(access.as_str()).filter(|_| proof == "bearer"));
            let body = if proof == "body" { json!({ "refreshToken": refresh }) } else { Value::Null };
            let logged_out = ana.post("/auth/logout", body).await;
            assert_eq!((logged_out.status, logged_out.body), (200, json!({ "message": "Logged out" })), "{proof}");
            ana.set_access_token(Some(&access));
            assert_eq!(ana.get("/me").await.code(), "INVALID_SESSION", "{proof}");
        }
        t
    });
}
