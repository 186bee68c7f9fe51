//! The second factor: what it asks for, what it stops, and that nothing goes around it.

use chrono::TimeDelta;
use dca_core::accounts::Role;
use serde_json::{Value, json};

use crate::{
    account_fixtures::{
        Authenticator, auth_state, delete, events_of_kind, execute, post, reset_token, rows_of, sign_in_as,
        sign_in_with_google, signed_in_as,
    },
    browser::{Browser, PASSWORD, Response},
    fixtures::rows,
    harness::{TestApp, it_unstarted},
};

const STEP: TimeDelta = TimeDelta::seconds(30);

async fn login(t: &TestApp, code: &str) -> Response {
    post(t, "/auth/login", json!({ "email": "ana@x.example", "password": PASSWORD, "twoFactorCode": code })).await
}

fn assert_code(response: &Response, status: u16, code: &str) {
    assert_eq!((response.status, response.code()), (status, code), "{response:?}");
}

#[test]
fn it_counts_once_a_code_was_shown_and_then_every_sign_in_asks_for_one() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let (ana, _) = signed_in_as(&t, "ana@x.example", Role::User).await;
        assert_code(&ana.post("/auth/2fa/enable", json!({ "code": "000000" })).await, 409, "CONFLICT");
        assert_code(&ana.post("/auth/2fa/setup", json!({ "password": "wrong" })).await, 401, "INVALID_CREDENTIALS");
        assert_code(&ana.post("/auth/2fa/setup", Value::Null).await, 401, "INVALID_CREDENTIALS");
        let made = ana.post("/auth/2fa/setup", json!({ "password": PASSWORD })).await;
        let (secret, url) = (made.body["secret"].as_str().unwrap(), made.body["otpauthUrl"].as_str().unwrap());
        assert!(url.starts_with("otpauth://totp/") && url.contains(secret), "{url}");
        assert_eq!(secret.len(), 32, "160 bits, as RFC 4226 recommends");
        // Setting it up alone changes no sign-in; doing so again makes another secret.
        assert_eq!(login(&t, "").await.status, 200);
        let again = ana.post("/auth/2fa/setup", json!({ "password": PASSWORD })).await;
        assert_ne!(again.body["secret"], secret);
        let (stale, app) = (Authenticator::new(secret), Authenticator::new(again.body["secret"].as_str().unwrap()));
        let now = t.clock.now();
        for wrong in [stale.code(now), app.wrong_code(now), app.code(now + STEP * 2), String::new(), "x".repeat(9_000)]
        {
            assert_code(&ana.post("/auth/2fa/enable", json!({ "code": wrong })).await, 401, "INVALID_2FA_CODE");
        }
        let enabled = ana.post("/auth/2fa/enable", json!({ "code": app.code(now) })).await;
        assert_eq!(enabled.body["recoveryCodes"].as_array().unwrap().len(), 10, "{enabled:?}");
        assert_code(&ana.post("/auth/2fa/setup", json!({ "password": PASSWORD })).await, 409, "CONFLICT");
        assert_code(&ana.post("/auth/2fa/enable", json!({ "code": app.code(now) })).await, 409, "CONFLICT");
        assert_code(&login(&t, "").await, 401, "REQUIRES_2FA");
        // Whether a code is needed is told to who knows the password.
        let guess = json!({ "email": "ana@x.example", "password": "not this one" });
        assert_code(&post(&t, "/auth/login", guess).await, 401, "INVALID_CREDENTIALS");
        t
    });
}

#[test]
fn a_wrong_code_is_refused_and_a_right_one_works_once() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let (ana, _) = signed_in_as(&t, "ana@x.example", Role::User).await;
        let (app, _) = Authenticator::enabled(&t, &ana).await;
        let used = app.code(t.clock.now());
        assert_code(&login(&t, &used).await, 401, "INVALID_2FA_CODE");
        t.later(STEP * 10).await;
        let now = t.clock.now();
        let [before, current, next] = [-1, 0, 1].map(|step| app.code(now + STEP * step));
        let before_standing = auth_state(t.core()).await;
        for wrong in [app.wrong_code(now), app.code(now - STEP * 2), app.code(now + STEP * 2), format!("{current}0")] {
            assert_code(&login(&t, &wrong).await, 401, "INVALID_2FA_CODE");
        }
        assert_eq!(auth_state(t.core()).await, before_standing, "a wrong code opened or changed something");
        // A step early and a step late are forgiven, each once, and never backwards.
        for (code, status) in
            [(&before, 200), (&before, 401), (&current, 200), (&next, 200), (&current, 401), (&next, 401)]
        {
            assert_eq!(login(&t, code).await.status, status, "{code}");
        }
        t.later(STEP * 2).await;
        assert_eq!(login(&t, &format!(" {} ", app.code(t.clock.now()))).await.status, 200, "as people paste it");
        t
    });
}

#[test]
fn of_many_at_once_one_uses_a_code() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[("DCA_FAILURES_PER_ACCOUNT", "50")]).await;
        let (ana, _) = signed_in_as(&t, "ana@x.example", Role::User).await;
        let (app, recovery) = Authenticator::enabled(&t, &ana).await;
        t.later(STEP * 2).await;
        for code in [app.code(t.clock.now()), recovery[3].clone()] {
            let answers = futures::future::join_all((0..15).map(|_| login(&t, &code))).await;
            let won = answers.iter().filter(|response| response.status == 200).count();
            assert_eq!(won, 1, "{code}");
        }
        t
    });
}

#[test]
fn a_recovery_code_works_once_however_it_is_typed() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let (ana, _) = signed_in_as(&t, "ana@x.example", Role::User).await;
        let (app, codes) = Authenticator::enabled(&t, &ana).await;
        assert_eq!(codes.iter().collect::<std::collections::HashSet<_>>().len(), 10);
        for typed in [codes[0].clone(), codes[1].to_lowercase(), codes[2].replace('-', " ")] {
            assert_eq!(login(&t, &typed).await.status, 200, "{typed}");
            assert_code(&login(&t, &typed).await, 401, "INVALID_2FA_CODE");
        }
        let cut = &codes[3][..codes[3].len() - 1];
        assert_code(&login(&t, cut).await, 401, "INVALID_2FA_CODE");
        // Another browser's are worth nothing.
        let (ben, _) = signed_in_as(&t, "ben@x.example", Role::User).await;
        let (_, theirs) = Authenticator::enabled(&t, &ben).await;
        assert_code(&login(&t, &theirs[0]).await, 401, "INVALID_2FA_CODE");
        // New ones cost a code, and end the old.
        let renew = async |code: &str| ana.post("/auth/2fa/recovery-codes", json!({ "code": code })).await;
        assert_code(&renew("000000").await, 401, "INVALID_2FA_CODE");
        assert_code(&renew("").await, 401, "REQUIRES_2FA");
        t.later(STEP * 2).await;
        let renewed = renew(&app.code(t.clock.now())).await;
        let renewed = renewed.body["recoveryCodes"][0].as_str().unwrap();
        assert_code(&login(&t, &codes[4]).await, 401, "INVALID_2FA_CODE");
        assert_eq!(login(&t, renewed).await.status, 200);
        t
    });
}

#[test]
fn neither_secret_nor_recovery_code_rests_readable() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let (ana, _) = signed_in_as(&t, "ana@x.example", Role::User).await;
        let made = ana.post("/auth/2fa/setup", json!({ "password": PASSWORD })).await;
        let secret = made.body["secret"].as_str().unwrap().to_owned();
        let app = Authenticator::new(&secret);
        let enabled = ana.post("/auth/2fa/enable", json!({ "code": app.code(t.clock.now()) })).await;
        let mut kept = t.log.text();
        for table in ["second_factors", "recovery_codes", "events", "outbox", "throttles"] {
            kept += &rows_of(t.core(), table).await;
        }
        assert!(!kept.contains(&secret) && kept.contains("second_factor_changed"), "{kept}");
        for code in enabled.body["recoveryCodes"].as_array().unwrap() {
            let code = code.as_str().unwrap();
            assert!(!kept.contains(code) && !kept.contains(&code.replace('-', "")), "{code}");
            // 24 symbols of 5 bits.
            assert_eq!(code.replace('-', "").len(), 24);
        }
        t
    });
}

#[test]
fn a_new_password_and_another_way_in_do_not_go_around_it() {
    it_unstarted(|mut t| async {
        let (mail, google) = (t.with_mail().await, t.with_google().await);
        t.start_with_limits(&[]).await;
        let (ana, _) = signed_in_as(&t, "ana@x.example", Role::User).await;
        let who = google.person("117", "Ana", None);
        let begun = ana.post("/auth/google/link", Value::Null).await;
        let (state, code) =
            crate::account_fixtures::callback_params(&google, &who, begun.body["authUrl"].as_str().unwrap());
        assert_eq!(ana.post("/auth/google/link", json!({ "state": state, "code": code })).await.status, 200);
        let (app, recovery) = Authenticator::enabled(&t, &ana).await;
        mail.next("ana@x.example").await;

        let token = reset_token(&t, &mail, "ana@x.example").await;
        let reset = json!({ "token": token, "password": "another-Ketchup-42" });
        let done = post(&t, "/auth/reset-password", reset).await;
        assert_eq!((done.status, done.cookies().len()), (201, 0), "it signs nobody in: {done:?}");
        mail.next("ana@x.example").await;
        assert_code(&ana.get("/me").await, 401, "INVALID_SESSION");
        let with = |code: Value| json!({ "email": "ana@x.example", "password": "another-Ketchup-42", "code": code });
        assert_code(&post(&t, "/auth/login", with(Value::Null)).await, 401, "REQUIRES_2FA");

        let browser = Browser::new(&t);
        let waiting = sign_in_with_google(&browser, &google, &who).await;
        assert_code(&waiting, 401, "REQUIRES_2FA");
        assert!(browser.access().is_none() && browser.cookie("rt").is_none());
        let token = waiting.body["twoFactorToken"].as_str().unwrap();
        t.later(STEP * 2).await;
        let verify =
            async |code: &str| post(&t, "/auth/2fa/verify", json!({ "twoFactorToken": token, "code": code })).await;
        assert_code(&verify(&app.wrong_code(t.clock.now())).await, 401, "INVALID_2FA_CODE");
        assert_eq!(verify(&app.code(t.clock.now())).await.status, 200);
        assert_code(&verify(&recovery[0]).await, 400, "INVALID_ONE_TIME_TOKEN");
        assert_eq!(post(&t, "/auth/login", with(json!(recovery[0]))).await.status, 200);
        mail.finish();
        google.finish();
        t
    });
}

#[test]
fn taking_it_away_needs_password_and_code() {
    it_unstarted(|mut t| async {
        let mail = t.with_mail().await;
        t.start_with_limits(&[]).await;
        let (ana, _) = signed_in_as(&t, "ana@x.example", Role::User).await;
        assert_code(&ana.post("/auth/2fa/disable", json!({ "password": PASSWORD })).await, 409, "CONFLICT");
        let (app, _) = Authenticator::enabled(&t, &ana).await;
        mail.next("ana@x.example").await;
        t.later(STEP * 2).await;
        let (right, wrong) = (app.code(t.clock.now()), app.wrong_code(t.clock.now()));
        for (password, code, refusal) in [
            (json!("not this one"), json!(right), "INVALID_CREDENTIALS"),
            (Value::Null, json!(right), "INVALID_CREDENTIALS"),
            (json!(PASSWORD), json!(wrong), "INVALID_2FA_CODE"),
            (json!(PASSWORD), Value::Null, "REQUIRES_2FA"),
        ] {
            let form = json!({ "password": password, "code": code });
            assert_code(&ana.post("/auth/2fa/disable", form.clone()).await, 401, refusal);
            assert_code(&delete(&ana, "/me", form).await, 401, refusal);
        }
        assert_eq!(ana.get("/me").await.body["twoFactorEnabled"], true);
        let gone = ana.post("/auth/2fa/disable", json!({ "password": PASSWORD, "code": right })).await;
        assert_eq!(gone.status, 200, "{gone:?}");
        assert_eq!(login(&t, "").await.status, 200);
        assert!(rows(t.core().db.writer(), "SELECT used_at FROM recovery_codes").await.is_empty());
        let how: Vec<_> = events_of_kind(t.core(), "user.second_factor_changed").await;
        assert_eq!(how.len(), 2, "{how:?}");
        mail.next("ana@x.example").await;
        mail.finish();
        t
    });
}

#[test]
fn setting_it_up_ends_every_other_session() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let (ana, _) = signed_in_as(&t, "ana@x.example", Role::User).await;
        let elsewhere = sign_in_as(&t, "ana@x.example").await;
        let (ben, _) = signed_in_as(&t, "ben@x.example", Role::User).await;
        Authenticator::enabled(&t, &ana).await;
        assert_code(&elsewhere.get("/me").await, 401, "INVALID_SESSION");
        assert_code(&elsewhere.post("/auth/refresh", Value::Null).await, 401, "INVALID_SESSION");
        assert_eq!((ana.get("/me").await.status, ben.get("/me").await.status), (200, 200));
        t
    });
}

#[test]
fn an_admin_who_needs_one_acts_on_nobody_without_it() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[("DCA_REQUIRE_SECOND_FACTOR", "admins")]).await;
        let (_, id) = signed_in_as(&t, "ben@x.example", Role::User).await;
        let (ana, _) = signed_in_as(&t, "ana@x.example", Role::Admin).await;
        let (eve, _) = signed_in_as(&t, "eve@x.example", Role::Moderator).await;
        let ban = format!("/admin/users/{id}/ban");
        for path in ["/admin/users", "/admin/sessions", "/admin/roles", "/admin/outbox"] {
            assert_code(&ana.get(path).await, 401, "REQUIRES_2FA");
        }
        assert_code(&ana.post(&ban, Value::Null).await, 401, "REQUIRES_2FA");
        assert_eq!(ana.get("/me").await.status, 200, "their own account is theirs");
        assert_eq!(eve.get("/admin/users").await.status, 200, "who only looks needs none");
        let (app, _) = Authenticator::enabled(&t, &ana).await;
        assert_eq!(ana.post(&ban, Value::Null).await.status, 200, "proved by setting it up");
        // A session that proved none stays outside, also when one exists.
        t.later(STEP * 2).await;
        let response = login(&t, &app.code(t.clock.now())).await;
        assert!(!response.body["accessToken"].is_null());
        execute(t.core(), "UPDATE sessions SET second_factor_at = NULL").await;
        assert_code(&ana.get("/admin/users").await, 401, "REQUIRES_2FA");
        t
    });
}
