//! Changing the email address of an account.

use chrono::TimeDelta;
use dca_core::users::Role;
use dca_test_support::MailSink;
use reqwest::Method;
use serde_json::{Value, json};

use super::accounts::shape;
use crate::support::{
    accounts::{events_of_kind, post, reset_token, sign_in_as, signed_in_as, table_text},
    browser::{Browser, PASSWORD, Response},
    fixtures::rows,
    harness::it_unstarted,
};

async fn patch(browser: &Browser, path: &str, body: Value) -> Response {
    browser.ask(Method::PATCH, path, body, &[]).await
}

/// Requests a new address; returns the token in the email sent to it.
pub async fn change_token(browser: &Browser, mail: &MailSink, email: &str) -> String {
    let response = patch(browser, "/me", json!({ "email": email, "password": PASSWORD })).await;
    assert_eq!(response.status, 200, "{response:?}");
    let email = mail.next(email).await;
    assert_eq!(email.subject, "Confirm your new email address");
    email.token()
}

#[test]
fn a_new_email_address_replaces_the_old_one_once_its_link_is_confirmed() {
    it_unstarted(|mut t| async {
        let mail = t.start_mail_sink().await;
        t.start_with_limits(&[]).await;
        for (n, path) in ["/me", "/api/users/profile", "/api/users/{id}"].into_iter().enumerate() {
            let (old, new) = (format!("old{n}@x.example"), format!("new{n}@x.example"));
            let (ana, id) = signed_in_as(&t, &old, Role::User).await;
            let reset = reset_token(&t, &mail, &old).await;
            // An unverified account with the new address stops nobody.
            post(&t, "/auth/signup", json!({ "email": new, "password": PASSWORD, "name": "Squatter" })).await;
            let squatter = mail.next(&new).await.token();
            let change = json!({ "email": format!("New{n}@x.example"), "name": "Ana", "locale": "es" });
            let changed = patch(&ana, &path.replace("{id}", &id.to_string()), change).await;
            assert_eq!((changed.status, &changed.body["email"]), (200, &json!(old)), "{path}: {changed:?}");
            let email = mail.next(&new).await;
            assert_eq!(email.subject, "Confirma tu nuevo correo", "{path}");
            assert!(!email.text.contains("Ana"), "the name may be an abuse of someone else's address: {}", email.text);

            // Opening the link changes nothing.
            let page = Browser::new(&t).get(&format!("/verify?token={}", email.token())).await;
            assert!(page.status == 200 && page.text.contains(r#"action="/verify""#), "{page:?}");
            assert_eq!(ana.get("/me").await.body["email"], json!(old));
            let confirmed = Browser::new(&t).submit("/verify", &[("token", &email.token())]).await;
            assert!(confirmed.text.contains("Your email address is confirmed"), "{confirmed:?}");

            let me = ana.get("/me").await;
            assert_eq!(me.body["email"], json!(format!("New{n}@x.example")), "{path}: the session stays");
            let notice = mail.next(&old).await;
            assert_eq!(notice.subject, "Cambió tu correo electrónico", "{path}");
            assert!(!notice.text.contains("new"), "{}", notice.text);
            assert_eq!(Browser::new(&t).sign_in(&old).await.status, 401);
            sign_in_as(&t, &new).await;
            for (route, token) in
                [("reset-password", &reset), ("verify-email", &email.token()), ("verify-email", &squatter)]
            {
                let used = json!({ "token": token, "password": PASSWORD });
                assert_eq!(post(&t, &format!("/auth/{route}"), used).await.code(), "INVALID_ONE_TIME_TOKEN", "{route}");
            }
        }
        assert_eq!(events_of_kind(t.core(), "user.email_changed").await.len(), 3);
        assert!(!table_text(t.core(), "events").await.contains("x.example"), "events contain no addresses");
        mail.finish();
        t
    });
}

#[test]
fn a_new_email_address_needs_the_password_or_a_recent_sign_in() {
    it_unstarted(|mut t| async {
        let mail = t.start_mail_sink().await;
        t.start_with_limits(&[]).await;
        let (ana, _) = signed_in_as(&t, "ana@x.example", Role::User).await;
        t.advance_when_idle(TimeDelta::minutes(15) + TimeDelta::seconds(1)).await;
        assert_eq!(ana.post("/auth/refresh", Value::Null).await.status, 200);
        for (email, password, status, code) in [
            ("new@x.example", Value::Null, 401, "INVALID_CREDENTIALS"),
            ("new@x.example", json!("not this one"), 401, "INVALID_CREDENTIALS"),
            ("new", json!(PASSWORD), 400, "VALIDATION_ERROR"),
            ("Ana@x.example", Value::Null, 200, ""),
            ("new@x.example", json!(PASSWORD), 200, ""),
        ] {
            let changed = patch(&ana, "/me", json!({ "email": email, "password": password, "name": "Ana" })).await;
            assert_eq!((changed.status, changed.code()), (status, code), "{email} {password}: {changed:?}");
            assert_eq!(ana.get("/me").await.body["name"] == "Ana", status == 200, "a refusal changes nothing");
        }
        mail.next("new@x.example").await;
        t.wait_until_idle().await;
        assert_eq!(mail.count(), 1, "the user's own address needs no confirmation");
        mail.finish();
        t
    });
}

#[test]
fn an_email_address_of_someone_else_gets_the_same_response_and_its_owner_is_told() {
    it_unstarted(|mut t| async {
        let mail = t.start_mail_sink().await;
        t.start_with_limits(&[]).await;
        signed_in_as(&t, "owner@x.example", Role::User).await;
        let (ana, _) = signed_in_as(&t, "ana@x.example", Role::User).await;
        let ask = async |email: &str| {
            let response = patch(&ana, "/me", json!({ "email": email })).await;
            // The next request ends this one's link, so that its email would not be sent.
            t.wait_until_idle().await;
            let count = async |table: &str| rows(t.core().db.writer(), &format!("SELECT id FROM {table}")).await.len();
            (shape(&response), count("one_time_tokens").await, count("outbox").await)
        };
        let free = ask("free@x.example").await;
        assert_eq!(free.0.0, 200);
        let taken = ask("OWNER@x.example").await;
        assert_eq!(taken, (free.0.clone(), free.1 + 1, free.2 + 1));
        assert_eq!(mail.next("owner@x.example").await.subject, "You already have an account");
        mail.next("free@x.example").await;
        // Each address gets a limited number of emails.
        for _ in 0..8 {
            assert_eq!(ask("flood@x.example").await.0, free.0);
        }
        assert_eq!(mail.all_to("flood@x.example").len(), 5);
        mail.forget("flood@x.example");
        mail.finish();
        t
    });
}

#[test]
fn the_link_to_a_new_email_address_ends() {
    it_unstarted(|mut t| async {
        let mail = t.start_mail_sink().await;
        t.start_with_limits(&[]).await;
        let (root, _) = signed_in_as(&t, "root@x.example", Role::SuperAdmin).await;
        let cases = ["replaced", "password changed", "signed out", "suspended", "deleted", "taken", "expired"];
        for (n, why) in cases.into_iter().enumerate() {
            let (old, new) = (format!("old{n}@x.example"), format!("new{n}@x.example"));
            let (ana, id) = signed_in_as(&t, &old, Role::User).await;
            let token = change_token(&ana, &mail, &new).await;
            let password = json!({ "password": PASSWORD });
            let done = match why {
                "replaced" => patch(&ana, "/me", json!({ "email": "other@x.example" })).await,
                "password changed" => {
                    let change = json!({ "currentPassword": PASSWORD, "newPassword": "brass-Lantern-92 orbit" });
                    ana.post("/auth/change-password", change).await
                }
                "signed out" => ana.post("/auth/logout", Value::Null).await,
                "suspended" => patch(&root, &format!("/admin/users/{id}"), json!({ "status": "SUSPENDED" })).await,
                "deleted" => ana.ask(Method::DELETE, "/me", password, &[]).await,
                "taken" => {
                    let owner = Browser::new(&t);
                    owner.join(&mail, &new).await;
                    owner.sign_in(&new).await
                }
                _ => {
                    t.advance_when_idle(TimeDelta::hours(1)).await;
                    sign_in_as(&t, &old).await.get("/me").await
                }
            };
            assert!(done.status < 300, "{why}: {done:?}");
            let page = Browser::new(&t).get(&format!("/verify?token={token}")).await;
            assert_eq!(page.text.contains("This link no longer works"), why != "taken", "{why}: {page:?}");
            let refused = post(&t, "/auth/verify-email", json!({ "token": token })).await;
            assert_eq!((refused.status, refused.code()), (400, "INVALID_ONE_TIME_TOKEN"), "{why}: {refused:?}");
            if why == "replaced" {
                let newest = json!({ "token": mail.next("other@x.example").await.token() });
                assert_eq!(post(&t, "/auth/verify-email", newest).await.status, 201);
            }
            t.wait_until_idle().await;
            mail.forget(&old);
        }
        assert_eq!(events_of_kind(t.core(), "user.email_changed").await.len(), 1, "only the newest link works");
        mail.finish();
        t
    });
}

#[test]
fn of_two_users_who_confirm_the_same_email_address_at_once_one_gets_it() {
    it_unstarted(|mut t| async {
        let mail = t.start_mail_sink().await;
        t.start_with_limits(&[]).await;
        let mut tokens = Vec::new();
        for old in ["ana@x.example", "ben@x.example"] {
            let browser = signed_in_as(&t, old, Role::User).await.0;
            tokens.push(change_token(&browser, &mail, "new@x.example").await);
        }
        let confirm = |token: &str| post(&t, "/auth/verify-email", json!({ "token": token }));
        let (one, two) = futures::join!(confirm(&tokens[0]), confirm(&tokens[1]));
        let mut statuses = [one.status, two.status];
        statuses.sort_unstable();
        assert_eq!(statuses, [201, 400], "{one:?} {two:?}");
        t.wait_until_idle().await;
        assert_eq!(mail.all_to("ana@x.example").len() + mail.all_to("ben@x.example").len(), 1, "one is told");
        mail.finish();
        t
    });
}
