//! Links in emails: verification of an address, and password resets.

use chrono::TimeDelta;
use dca_core::users::Role;
use reqwest::Method;
use serde_json::{Value, json};

use super::accounts::{cookie, form, shape};
use crate::support::{
    accounts::{Authenticator, post, reset_token, signed_in_admin, signed_in_as, user_id},
    browser::{Browser, PASSWORD},
    fixtures::{log_head, rows},
    harness::it_unstarted,
};

#[test]
fn one_time_token_works_only_for_its_purpose_and_does_not_lift_a_suspension() {
    it_unstarted(|mut t| async {
        let mail = t.start_mail_sink().await;
        t.start_without_bot().await;
        let root = signed_in_admin(&t).await;
        let ben = Browser::signed_in(&t, &mail, "ben@x.example").await;
        let path = format!("/admin/users/{}", user_id(&ben).await);
        root.ask(Method::PATCH, &path, json!({ "status": "SUSPENDED" }), &[]).await;
        ben.post("/auth/reset-password-request", json!({ "email": "ben@x.example" })).await;
        let token = mail.next("ben@x.example").await.token();
        let wrong = ben.post("/auth/verify-email", json!({ "token": token })).await;
        assert_eq!((wrong.status, &wrong.body["message"]), (400, &json!("Invalid or expired token")));
        assert_eq!(ben.sign_in("ben@x.example").await.code(), "ACCOUNT_SUSPENDED");
        let new = json!({ "token": token, "password": "brass-Lantern-92 orbit" });
        assert_eq!(
            ben.post("/auth/reset-password", new).await.status,
            201,
            "the wrong route did not consume the token"
        );
        let again = json!({ "email": "ben@x.example", "password": "brass-Lantern-92 orbit" });
        assert_eq!(ben.post("/auth/login", again).await.code(), "ACCOUNT_SUSPENDED");
        mail.next("ben@x.example").await;
        // A verification token does not reset a password.
        Browser::new(&t).post("/auth/signup", form("cat@x.example")).await;
        let token = mail.next("cat@x.example").await.token();
        let new = json!({ "token": token, "password": "brass-Lantern-92 orbit" });
        assert_eq!(ben.post("/auth/reset-password", new).await.status, 400);
        mail.finish();
        t
    });
}

#[test]
fn each_reset_request_sends_an_email_and_responds_alike_for_unknown_accounts() {
    it_unstarted(|mut t| async {
        let mail = t.start_mail_sink().await;
        t.start_without_bot().await;
        let ana = Browser::signed_in(&t, &mail, "ana@x.example").await;
        let stranger = Browser::new(&t);
        let ask = |email: &'static str| stranger.post("/auth/reset-password-request", json!({ "email": email }));
        let first = shape(&ask("ana@x.example").await);
        assert_eq!(first.0, 201);
        for email in ["ana@x.example", "nobody@x.example", "nobody@x.example"] {
            assert_eq!(shape(&ask(email).await), first, "{email}");
        }
        let (one, two) = (mail.next("ana@x.example").await.token(), mail.next("ana@x.example").await.token());
        assert_ne!(one, two);
        let reset = |token: &str, password: &str| json!({ "token": token, "password": password });
        let weak = stranger.post("/auth/reset-password", reset(&two, "password1")).await;
        assert_eq!((weak.status, &weak.body["field"]), (400, &json!("password")));
        let done = stranger.post("/auth/reset-password", reset(&two, "brass-Lantern-92 orbit")).await;
        let message = json!({ "message": "Password has been reset successfully" });
        assert_eq!((done.status, done.body), (201, message));
        for used in [&one, &two] {
            assert_eq!(stranger.post("/auth/reset-password", reset(used, PASSWORD)).await.status, 400);
        }
        assert_eq!(mail.next("ana@x.example").await.subject, "Your password was changed");
        assert_eq!(ana.get("/me").await.status, 401, "every session ended");
        let refreshed = ana.post("/auth/refresh", Value::Null).await;
        assert_eq!((refreshed.status, cookie(&refreshed, "rt").0), (401, String::new()));
        assert_eq!(ana.sign_in("ana@x.example").await.status, 401);
        mail.finish();
        t
    });
}

#[test]
fn emailed_links_expire() {
    it_unstarted(|mut t| async {
        let mail = t.start_mail_sink().await;
        t.start_without_bot().await;
        let ana = Browser::new(&t);
        ana.post("/auth/signup", form("ana@x.example")).await;
        let verify = json!({ "token": mail.next("ana@x.example").await.token() });
        ana.post("/auth/reset-password-request", json!({ "email": "ana@x.example" })).await;
        let reset = json!({ "token": mail.next("ana@x.example").await.token(), "password": PASSWORD });
        t.advance(TimeDelta::hours(1));
        assert_eq!(ana.post("/auth/reset-password", reset).await.status, 400);
        t.advance(TimeDelta::hours(23));
        assert_eq!(ana.post("/auth/verify-email", verify).await.status, 400);
        ana.post("/auth/resend-verification", json!({ "email": "ana@x.example" })).await;
        let verify = json!({ "token": mail.next("ana@x.example").await.token() });
        t.advance(TimeDelta::hours(24) - TimeDelta::seconds(1));
        assert_eq!(ana.post("/auth/verify-email", verify).await.status, 201);
        mail.next("ana@x.example").await;
        mail.finish();
        t
    });
}

#[test]
fn verification_is_resent_only_to_unverified_users_and_earlier_links_still_work() {
    it_unstarted(|mut t| async {
        let mail = t.start_mail_sink().await;
        t.start_without_bot().await;
        signed_in_admin(&t).await;
        let ana = Browser::new(&t);
        ana.post("/auth/signup", form("ana@x.example")).await;
        for email in ["ana@x.example", "root@x.example", "nobody@x.example"] {
            assert_eq!(ana.post("/auth/resend-verification", json!({ "email": email })).await.status, 201);
        }
        let (one, two) = (mail.next("ana@x.example").await.token(), mail.next("ana@x.example").await.token());
        assert_ne!(one, two);
        assert_eq!(ana.post("/auth/verify-email", json!({ "token": one })).await.status, 201);
        assert_eq!(
            ana.post("/auth/verify-email", json!({ "token": two })).await.status,
            400,
            "an email is verified only once"
        );
        mail.next("ana@x.example").await;
        ana.post("/auth/resend-verification", json!({ "email": "ana@x.example" })).await;
        t.wait_until_idle().await;
        assert_eq!(mail.count(), 3, "no other email was sent");
        mail.finish();
        t
    });
}

#[test]
fn verifying_an_email_discards_passwords_set_before() {
    it_unstarted(|mut t| async {
        let mail = t.start_mail_sink().await;
        t.start_without_bot().await;
        let (squatter, ana) = (Browser::new(&t), Browser::new(&t));
        let squatter_form =
            |email: &str| json!({ "email": email, "password": "brass-Lantern-92 orbit", "name": "Squatter" });
        for email in ["ana@x.example", "eva@x.example"] {
            assert_eq!(squatter.post("/auth/signup", squatter_form(email)).await.status, 201);
        }
        let squatter_token = mail.next("ana@x.example").await.token();
        // Ana signs up for the same email, but opens the link of the other sign-up.
        ana.post("/auth/signup", form("ana@x.example")).await;
        let token = mail.next("ana@x.example").await.token();
        assert_eq!(ana.post("/auth/verify-email", json!({ "token": squatter_token })).await.status, 201);
        let reset_email = mail.next("ana@x.example").await;
        assert_eq!(squatter.post("/auth/login", squatter_form("ana@x.example")).await.status, 401);
        assert_eq!(ana.post("/auth/verify-email", json!({ "token": token })).await.status, 400);
        let reset =
            ana.post("/auth/reset-password", json!({ "token": reset_email.token(), "password": PASSWORD })).await;
        assert_eq!(reset.status, 201);
        mail.next("ana@x.example").await;
        assert_eq!(ana.sign_in("ana@x.example").await.status, 200);
        assert_eq!(squatter.post("/auth/login", squatter_form("ana@x.example")).await.status, 401);
        // Eva resets the password of an account she did not create: the reset verifies her email.
        mail.next("eva@x.example").await;
        ana.post("/auth/reset-password-request", json!({ "email": "eva@x.example" })).await;
        let token = mail.next("eva@x.example").await.token();
        ana.post("/auth/reset-password", json!({ "token": token, "password": PASSWORD })).await;
        assert_eq!(squatter.post("/auth/login", squatter_form("eva@x.example")).await.status, 401);
        assert_eq!(Browser::new(&t).sign_in("eva@x.example").await.status, 200);
        assert_eq!(rows(t.core().db.writer(), "SELECT id FROM users").await.len(), 2);
        mail.forget("eva@x.example");
        mail.finish();
        t
    });
}

#[test]
fn the_password_of_a_sign_up_stays_only_if_its_browser_or_the_password_verifies_the_email() {
    it_unstarted(|mut t| async {
        let mail = t.start_mail_sink().await;
        t.start_without_bot().await;
        for (email, same_browser, password, stays) in [
            ("ana@a.example", true, Value::Null, true),
            ("ben@b.example", false, json!(PASSWORD), true),
            ("eva@c.example", false, Value::Null, false),
            ("ida@d.example", false, json!(""), false),
        ] {
            let browser = Browser::new(&t);
            browser.post("/auth/signup", form(email)).await;
            let token = mail.next(email).await.token();
            let opener = if same_browser { browser } else { Browser::new(&t) };
            if !password.is_null() {
                let wrong = json!({ "token": token, "password": "not this one" });
                let other = Browser::new(&t);
                assert_eq!(other.post("/auth/verify-email", wrong).await.code(), "INVALID_CREDENTIALS", "{email}");
            }
            let verified = opener.post("/auth/verify-email", json!({ "token": token, "password": password })).await;
            assert_eq!((verified.status, &verified.body["passwordRequired"]), (201, &json!(!stays)), "{email}");
            let (subject, status) = if stays { ("Welcome!", 200) } else { ("Reset your password", 401) };
            assert_eq!(mail.next(email).await.subject, subject, "{email}");
            assert_eq!(Browser::new(&t).sign_in(email).await.status, status, "{email}");
        }
        mail.finish();
        t
    });
}

#[test]
fn signing_up_again_with_the_same_password_resends_the_link_and_keeps_the_password() {
    it_unstarted(|mut t| async {
        let mail = t.start_mail_sink().await;
        t.start_without_bot().await;
        let (phone, laptop) = (Browser::new(&t), Browser::new(&t));
        let first = phone.post("/auth/signup", form("ana@x.example")).await;
        let again = laptop.post("/auth/signup", form("Ana@x.example")).await;
        assert_eq!((again.status, &again.body["user_id"]), (201, &first.body["user_id"]));
        assert_eq!(shape(&first).1, shape(&again).1.clone(), "the headers are the same");
        let tokens = [mail.next("ana@x.example").await.token(), mail.next("ana@x.example").await.token()];
        assert_ne!(tokens[0], tokens[1]);
        let verified = phone.post("/auth/verify-email", json!({ "token": tokens[1] })).await;
        assert_eq!(verified.body["passwordRequired"], false);
        assert_eq!(mail.next("ana@x.example").await.subject, "Welcome!");
        assert_eq!(Browser::new(&t).sign_in("ana@x.example").await.status, 200);
        assert_eq!(rows(t.core().db.writer(), "SELECT id FROM users").await.len(), 1);
        mail.finish();
        t
    });
}

#[test]
fn a_password_reset_wins_over_a_sensitive_operation_in_progress() {
    it_unstarted(|mut t| async {
        let mail = t.start_mail_sink().await;
        t.start_with_limits(&[]).await;
        let change = json!({ "currentPassword": PASSWORD, "newPassword": "brass-Lantern-92 orbit" });
        let confirm = json!({ "password": PASSWORD });
        for (email, method, path, mut body, kind) in [
            ("ana@a.example", "POST", "/auth/change-password", change, "user.password_changed"),
            ("ben@b.example", "DELETE", "/me", confirm.clone(), "user.deletion_planned"),
            ("eva@c.example", "POST", "/auth/2fa/disable", confirm, "user.second_factor_changed"),
        ] {
            let (browser, _) = signed_in_as(&t, email, Role::User).await;
            if path.contains("2fa") {
                let (app, _) = Authenticator::enabled(&t, &browser).await;
                t.advance_when_idle(TimeDelta::seconds(30)).await;
                body["code"] = json!(app.code(t.clock.now()));
                mail.next(email).await;
            }
            let reset = json!({ "token": reset_token(&t, &mail, email).await, "password": "velvet-Harbor-38 comet" });
            let before = log_head(t.core()).await;
            let (reset, operation) = futures::join!(
                post(&t, "/auth/reset-password", reset),
                browser.ask(method.parse().unwrap(), path, body, &[])
            );
            let sql = format!("SELECT kind, after FROM events WHERE seq > {before} ORDER BY seq");
            let events: Vec<String> = rows(t.core().db.writer(), &sql).await.iter().map(Value::to_string).collect();
            let is_reset = |event: &&String| event.contains("password reset");
            let reset_at = events.iter().position(|event| is_reset(&event) && event.contains("password_changed"));
            let operation_at = events.iter().position(|event| event.contains(kind) && !is_reset(&event));
            // A changed password ends the link of the reset.
            assert!(operation_at < reset_at || reset.status == 400, "{path}: {operation:?} {events:?}");
            assert_eq!(operation.status == 401, operation_at.is_none(), "{path}: {operation:?}");
            t.wait_until_idle().await;
            mail.forget(email);
        }
        mail.finish();
        t
    });
}
