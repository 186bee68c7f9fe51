//! Refresh tokens: rotation, reuse, and the end of a session.

use chrono::TimeDelta;
use dca_core::{Code, accounts::sessions, users::Role};
use futures::future::join_all;
use serde_json::{Value, json};

use super::access_tokens::code_of;
use crate::support::{
    accounts::{
        auth_state, create_account, events_of_kind, execute, me, post, refresh_token, sign_in_as, signed_in_as,
    },
    browser::{Browser, PASSWORD, Response},
    fixtures::{Request, rows},
    harness::{TestApp, it_unstarted},
};

async fn refresh(t: &TestApp, token: &str) -> Response {
    post(t, "/auth/refresh", json!({ "refreshToken": token })).await
}

fn next_of(response: &Response) -> String {
    assert_eq!(response.status, 200, "{response:?}");
    response.body["refreshToken"].as_str().unwrap().to_owned()
}

#[test]
fn concurrent_refreshes_return_the_same_successor() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let (ana, _) = signed_in_as(&t, "ana@x.example", Role::User).await;
        let token = refresh_token(&ana);
        let answers = join_all((0..50).map(|_| refresh(&t, &token))).await;
        let next: Vec<String> = answers.iter().map(next_of).collect();
        assert!(next.iter().all(|other| *other == next[0] && *other != token), "{next:?}");
        let sql = "SELECT generation FROM refresh_tokens WHERE used_at IS NULL";
        assert_eq!(rows(t.core().db.writer(), sql).await, [json!({ "generation": 2 })], "one live successor");
        for answer in &answers {
            assert_eq!(me(&t, answer.body["accessToken"].as_str().unwrap()).await.status, 200);
        }
        next_of(&refresh(&t, &next[0]).await);
        t
    });
}

#[test]
fn refresh_token_reuse_is_a_retry_within_ten_seconds_and_ends_all_sessions_after() {
    it_unstarted(|mut t| async {
        let mail = t.start_mail_sink().await;
        t.start_with_limits(&[]).await;
        let (ana, id) = signed_in_as(&t, "ana@x.example", Role::User).await;
        let elsewhere = sign_in_as(&t, "ana@x.example").await;
        let (ben, _) = signed_in_as(&t, "ben@x.example", Role::User).await;
        let first = refresh_token(&ana);
        let second = next_of(&refresh(&t, &first).await);
        for _ in 0..2 {
            t.advance_when_idle(TimeDelta::seconds(5)).await;
            assert_eq!(next_of(&refresh(&t, &first).await), second);
        }
        t.advance_when_idle(TimeDelta::microseconds(1)).await;
        let late = refresh(&t, &first).await;
        assert_eq!((late.status, late.code()), (401, "TOKEN_REUSE_DETECTED"), "{late:?}");
        for (browser, token) in [(&ana, second), (&elsewhere, refresh_token(&elsewhere))] {
            let response = refresh(&t, &token).await;
            assert_eq!((response.status, response.code()), (401, "INVALID_SESSION"), "{response:?}");
            assert_eq!(browser.get("/me").await.code(), "INVALID_SESSION");
        }
        assert_eq!(ben.get("/me").await.status, 200, "the session of another user");
        next_of(&refresh(&t, &refresh_token(&ben)).await);
        let reused = events_of_kind(t.core(), "session.token_reused").await;
        assert_eq!((reused.len(), &reused[0]["actor"]), (1, &json!("system")));
        let subjects =
            rows(t.core().db.writer(), "SELECT subject FROM events WHERE kind = 'session.token_reused'").await;
        assert!(!subjects.is_empty() && id.0.as_u128() > 0);
        assert_eq!(mail.next("ana@x.example").await.subject, "You were signed out everywhere");
        mail.finish();
        t
    });
}

#[test]
fn refresh_token_reuse_after_its_successor_was_used_ends_all_sessions() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let (ana, _) = signed_in_as(&t, "ana@x.example", Role::User).await;
        let first = refresh_token(&ana);
        let second = next_of(&refresh(&t, &first).await);
        let third = next_of(&refresh(&t, &second).await);
        let old = refresh(&t, &first).await;
        assert_eq!((old.status, old.code()), (401, "TOKEN_REUSE_DETECTED"), "{old:?}");
        assert_eq!(refresh(&t, &third).await.code(), "INVALID_SESSION");
        assert_eq!(refresh(&t, &first).await.code(), "INVALID_SESSION", "the reuse is reported once");
        t
    });
}

#[test]
fn a_session_ends_when_idle_for_a_week_and_after_ninety_days() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let (ana, _) = signed_in_as(&t, "ana@x.example", Role::User).await;
        let mut token = refresh_token(&ana);
        let idle = refresh_token(&sign_in_as(&t, "ana@x.example").await);
        for day in 1..=14 {
            t.advance_when_idle(TimeDelta::days(6)).await;
            let response = refresh(&t, &token).await;
            token = next_of(&response);
            if day == 1 {
                t.advance_when_idle(TimeDelta::days(1) - TimeDelta::microseconds(1)).await;
                let unused = refresh(&t, &idle).await;
                assert_eq!(unused.status, 200, "just under a week: {unused:?}");
                t.advance_when_idle(TimeDelta::microseconds(1) - TimeDelta::days(1)).await;
            }
        }
        // After 84 of 90 days, tokens expire with the session.
        let response = refresh(&t, &token).await;
        let cookie = response.cookies().into_iter().find(|cookie| cookie.starts_with("rt=")).unwrap();
        assert!(cookie.contains(&format!("Max-Age={}", 6 * 86_400)), "{cookie}");
        let last = next_of(&response);
        t.advance_when_idle(TimeDelta::days(6) - TimeDelta::seconds(1)).await;
        let last_access = refresh(&t, &last).await;
        assert_eq!(last_access.body["expiresIn"], 1, "{last_access:?}");
        let last = next_of(&last_access);
        t.advance_when_idle(TimeDelta::seconds(1)).await;
        assert_eq!(refresh(&t, &last).await.code(), "INVALID_SESSION");
        let expired = me(&t, last_access.body["accessToken"].as_str().unwrap()).await;
        assert_eq!(expired.code(), "INVALID_SESSION", "the leeway does not extend a session");
        t
    });
}

#[test]
fn an_unused_refresh_token_expires_without_counting_as_reuse() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[("DCA_REFRESH_TOKEN_SECONDS", "3600")]).await;
        let (ana, _) = signed_in_as(&t, "ana@x.example", Role::User).await;
        let token = refresh_token(&ana);
        t.advance_when_idle(TimeDelta::seconds(3_599)).await;
        let next = next_of(&refresh(&t, &token).await);
        t.advance_when_idle(TimeDelta::seconds(3_600)).await;
        assert_eq!(refresh(&t, &next).await.code(), "INVALID_SESSION");
        assert!(events_of_kind(t.core(), "session.token_reused").await.is_empty());
        t
    });
}

#[test]
fn inactive_users_cannot_refresh() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        for (status, code) in
            [("SUSPENDED", "ACCOUNT_SUSPENDED"), ("BANNED", "ACCOUNT_BANNED"), ("PENDING", "EMAIL_NOT_VERIFIED")]
        {
            let (ana, _) = signed_in_as(&t, &format!("{}@x.example", status.to_lowercase()), Role::User).await;
            execute(t.core(), &format!("UPDATE users SET status = '{status}' WHERE status = 'ACTIVE'")).await;
            let response = refresh(&t, &refresh_token(&ana)).await;
            assert_eq!((response.status, response.code()), (401, "INVALID_SESSION"), "{status}: {response:?}");
            let me = ana.get("/me").await;
            assert_eq!((me.status, me.code()), (403, code), "{status}: {me:?}");
            let used =
                rows(t.core().db.writer(), "SELECT 1 AS one FROM refresh_tokens WHERE used_at IS NOT NULL").await;
            assert!(used.is_empty(), "{status}: a token was consumed");
        }
        t
    });
}

#[test]
fn a_revoked_session_ends_on_every_instance_immediately() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let (ana, _) = signed_in_as(&t, "ana@x.example", Role::User).await;
        let (token, other) = (ana.access_token().unwrap(), t.instance().await);
        assert!(sessions::authenticate(&other, &token).await.is_ok());
        assert_eq!(ana.post("/auth/logout-all", Value::Null).await.status, 200);
        assert_eq!(code_of(sessions::authenticate(&other, &token).await), Some(Code::InvalidSession));
        t
    });
}

#[test]
fn any_token_of_a_session_can_log_it_out() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        create_account(&t, "ana@x.example", Role::User).await;
        for method in ["cookie", "body", "bearer"] {
            let ana = sign_in_as(&t, "ana@x.example").await;
            let (access, token) = (ana.access_token().unwrap(), refresh_token(&ana));
            let browser = Browser::new(&t);
            let body = match method {
                "cookie" => {
                    browser.set_cookie("rt", Some(&token));
                    Value::Null
                }
                "body" => json!({ "refreshToken": token }),
                _ => {
                    browser.set_access_token(Some(&access));
                    Value::Null
                }
            };
            assert_eq!(browser.post("/auth/logout", body).await.status, 200, "{method}");
            assert_eq!(me(&t, &access).await.code(), "INVALID_SESSION", "{method}");
            assert_eq!(refresh(&t, &token).await.code(), "INVALID_SESSION", "{method}");
        }
        for garbage in [json!({ "refreshToken": "x" }), json!({ "refreshToken": null }), json!({}), Value::Null] {
            assert_eq!(post(&t, "/auth/logout", garbage).await.status, 200, "the response reveals nothing");
        }
        t
    });
}

#[test]
fn a_duplicate_cookie_is_ignored() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let (ana, _) = signed_in_as(&t, "ana@x.example", Role::User).await;
        let (mine, theirs) = (refresh_token(&ana), refresh_token(&sign_in_as(&t, "ana@x.example").await));
        let before = auth_state(t.core()).await;
        for (path, cookies) in [
            ("/auth/refresh", format!("rt={mine}; rt={theirs}")),
            ("/auth/refresh", format!("rt={mine}; rt={mine}")),
            ("/auth/logout", format!("rt={mine}; rt={theirs}")),
            ("/auth/login", "dca_device=a; dca_device=b".to_owned()),
            ("/api/auth/refresh", format!("refresh_token={mine}; refresh_token={theirs}")),
        ] {
            let request = Request::new(&format!("POST {path}")).with("Cookie", &cookies);
            let body = json!({ "email": "ana@x.example", "password": PASSWORD }).to_string();
            let request = request.with("Content-Type", "application/json").with("Sec-Fetch-Site", "same-origin");
            let answer = request.body(body).ask(t.addr()).await.unwrap();
            assert_eq!((answer.status, &answer.json()["code"]), (401, &json!("INVALID_SESSION")), "{path} {answer:?}");
        }
        assert_eq!(auth_state(t.core()).await, before);
        assert_eq!(ana.get("/me").await.status, 200);
        t
    });
}

#[test]
fn a_sign_in_beyond_the_session_limit_ends_the_oldest_session() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[("MAX_SESSIONS_PER_USER", "3")]).await;
        create_account(&t, "ana@x.example", Role::User).await;
        create_account(&t, "ben@x.example", Role::User).await;
        let ben = sign_in_as(&t, "ben@x.example").await;
        let mut browsers = Vec::new();
        for _ in 0..5 {
            browsers.push(sign_in_as(&t, "ana@x.example").await);
            t.advance(TimeDelta::seconds(1));
        }
        for (n, browser) in browsers.iter().enumerate() {
            let code = if n < 2 { "INVALID_SESSION" } else { "" };
            assert_eq!(browser.get("/me").await.code(), code, "session {n}");
            assert_eq!(browser.post("/auth/refresh", Value::Null).await.code(), code, "session {n}");
        }
        assert_eq!(ben.get("/me").await.status, 200);
        let ended = events_of_kind(t.core(), "session.revoked").await;
        assert!(
            ended.len() == 2 && ended.iter().all(|event| event["after"].to_string().contains("too many sessions")),
            "{ended:?}"
        );
        t
    });
}
