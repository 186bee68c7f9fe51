//! Two-factor authentication: setup, codes, recovery codes, and that no other sign-in bypasses it.

use chrono::TimeDelta;
use dca_core::users::Role;
use serde_json::{Value, json};

use crate::support::{
    accounts::{
        Authenticator, auth_state, delete, events_of_kind, execute, post, reset_token, sign_in_as, sign_in_with_google,
        signed_in_as, table_text,
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

/// A code as authenticator apps show it.
fn spaced(code: &str) -> String {
    format!(" {} {} ", &code[..3], &code[3..])
}

#[test]
fn enabling_requires_a_valid_code_and_then_every_sign_in_requires_one() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let (ana, _) = signed_in_as(&t, "ana@x.example", Role::User).await;
        assert_code(&ana.post("/auth/2fa/enable", json!({ "code": "000000" })).await, 409, "CONFLICT");
        assert_code(&ana.post("/auth/2fa/setup", json!({ "password": "wrong" })).await, 401, "INVALID_CREDENTIALS");
        assert_code(&ana.post("/auth/2fa/setup", Value::Null).await, 401, "INVALID_CREDENTIALS");
        let setup = ana.post("/auth/2fa/setup", json!({ "password": PASSWORD })).await;
        let (secret, url) = (setup.body["secret"].as_str().unwrap(), setup.body["otpauthUrl"].as_str().unwrap());
        assert!(url.starts_with("otpauth://totp/") && url.contains(secret), "{url}");
        assert_eq!(secret.len(), 32, "160 bits, as RFC 4226 recommends");
        // Setup alone does not affect sign-in; repeating it creates a new secret.
        assert_eq!(login(&t, "").await.status, 200);
        let again = ana.post("/auth/2fa/setup", json!({ "password": PASSWORD })).await;
        assert_ne!(again.body["secret"], secret);
        let (stale, app) = (Authenticator::new(secret), Authenticator::new(again.body["secret"].as_str().unwrap()));
        let now = t.clock.now();
        for wrong in [stale.code(now), app.wrong_code(now), app.code(now + STEP * 2), String::new(), "x".repeat(9_000)]
        {
            assert_code(&ana.post("/auth/2fa/enable", json!({ "code": wrong })).await, 401, "INVALID_2FA_CODE");
        }
        let enabled = ana.post("/auth/2fa/enable", json!({ "code": spaced(&app.code(now)) })).await;
        assert_eq!(enabled.body["recoveryCodes"].as_array().unwrap().len(), 10, "{enabled:?}");
        assert_code(&ana.post("/auth/2fa/setup", json!({ "password": PASSWORD })).await, 409, "CONFLICT");
        assert_code(&ana.post("/auth/2fa/enable", json!({ "code": app.code(now) })).await, 409, "CONFLICT");
        assert_code(&login(&t, "").await, 401, "REQUIRES_2FA");
        // A wrong password does not reveal that a code is required.
        let guess = json!({ "email": "ana@x.example", "password": "not this one" });
        assert_code(&post(&t, "/auth/login", guess).await, 401, "INVALID_CREDENTIALS");
        t
    });
}

#[test]
fn a_wrong_code_is_refused_and_a_valid_code_works_once() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let (ana, _) = signed_in_as(&t, "ana@x.example", Role::User).await;
        let (app, _) = Authenticator::enabled(&t, &ana).await;
        let used = app.code(t.clock.now());
        assert_code(&login(&t, &used).await, 401, "INVALID_2FA_CODE");
        t.advance_when_idle(STEP * 10).await;
        let now = t.clock.now();
        let [before, current, next] = [-1, 0, 1].map(|step| app.code(now + STEP * step));
        let before_state = auth_state(t.core()).await;
        for wrong in [app.wrong_code(now), app.code(now - STEP * 2), app.code(now + STEP * 2), format!("{current}0")] {
            assert_code(&login(&t, &wrong).await, 401, "INVALID_2FA_CODE");
        }
        assert_eq!(auth_state(t.core()).await, before_state, "a wrong code changed something");
        // One step early or late is accepted, each code once, and none older than the last one used.
        for (code, status) in
            [(&before, 200), (&before, 401), (&current, 200), (&next, 200), (&current, 401), (&next, 401)]
        {
            assert_eq!(login(&t, code).await.status, status, "{code}");
        }
        t.advance_when_idle(STEP * 2).await;
        assert_eq!(login(&t, &spaced(&app.code(t.clock.now()))).await.status, 200, "spaces are ignored");
        t
    });
}

#[test]
fn concurrent_sign_ins_use_a_code_only_once() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[("DCA_FAILURES_PER_ACCOUNT", "50")]).await;
        let (ana, _) = signed_in_as(&t, "ana@x.example", Role::User).await;
        let (app, recovery) = Authenticator::enabled(&t, &ana).await;
        t.advance_when_idle(STEP * 2).await;
        for code in [app.code(t.clock.now()), recovery[3].clone()] {
            let answers = futures::future::join_all((0..15).map(|_| login(&t, &code))).await;
            let accepted = answers.iter().filter(|response| response.status == 200).count();
            assert_eq!(accepted, 1, "{code}");
        }
        t
    });
}

#[test]
fn a_recovery_code_works_once_in_any_notation() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let (ana, _) = signed_in_as(&t, "ana@x.example", Role::User).await;
        let (app, codes) = Authenticator::enabled(&t, &ana).await;
        assert_eq!(codes.iter().collect::<std::collections::HashSet<_>>().len(), 10);
        for typed in [codes[0].clone(), codes[1].to_lowercase(), codes[2].replace('-', " ")] {
            assert_eq!(login(&t, &typed).await.status, 200, "{typed}");
            assert_code(&login(&t, &typed).await, 401, "INVALID_2FA_CODE");
        }
        let truncated = &codes[3][..codes[3].len() - 1];
        assert_code(&login(&t, truncated).await, 401, "INVALID_2FA_CODE");
        // The codes of another user do not work.
        let (ben, _) = signed_in_as(&t, "ben@x.example", Role::User).await;
        let (_, theirs) = Authenticator::enabled(&t, &ben).await;
        assert_code(&login(&t, &theirs[0]).await, 401, "INVALID_2FA_CODE");
        // Renewing requires a code and invalidates the old recovery codes.
        let renew = async |code: &str| ana.post("/auth/2fa/recovery-codes", json!({ "code": code })).await;
        assert_code(&renew("000000").await, 401, "INVALID_2FA_CODE");
        assert_code(&renew("").await, 401, "REQUIRES_2FA");
        t.advance_when_idle(STEP * 2).await;
        let renewed = renew(&app.code(t.clock.now())).await;
        let renewed = renewed.body["recoveryCodes"][0].as_str().unwrap();
        assert_code(&login(&t, &codes[4]).await, 401, "INVALID_2FA_CODE");
        assert_eq!(login(&t, renewed).await.status, 200);
        t
    });
}

#[test]
fn wrong_codes_are_limited_per_day_and_reported_to_the_owner_once() {
    it_unstarted(|mut t| async {
        let mail = t.start_mail_sink().await;
        t.start_with_limits(&[("DCA_FAILURES_PER_ACCOUNT", "4")]).await;
        let (ana, _) = signed_in_as(&t, "ana@x.example", Role::User).await;
        let (app, _) = Authenticator::enabled(&t, &ana).await;
        mail.next("ana@x.example").await;
        for _ in 0..5 {
            let wrong = app.wrong_code(t.clock.now());
            for _ in 0..4 {
                assert_code(&login(&t, &wrong).await, 401, "INVALID_2FA_CODE");
            }
            assert_code(&login(&t, &wrong).await, 429, "RATE_LIMIT_EXCEEDED");
            t.advance_when_idle(TimeDelta::minutes(15)).await;
        }
        assert_eq!(mail.next("ana@x.example").await.subject, "Wrong two-factor codes for your account");
        let correct = app.code(t.clock.now());
        let slowed = login(&t, &correct).await;
        assert_code(&slowed, 429, "RATE_LIMIT_EXCEEDED");
        assert!(slowed.header("retry-after").parse::<u64>().unwrap() > 22 * 3_600, "{slowed:?}");
        ana.set_access_token(None);
        let form = json!({ "email": "ana@x.example", "password": PASSWORD, "code": correct });
        assert_eq!(ana.post("/auth/login", form).await.status, 200, "a known browser has attempts of its own");
        t.advance_when_idle(TimeDelta::hours(23)).await;
        assert_eq!(login(&t, &app.code(t.clock.now())).await.status, 200, "a day later");
        mail.finish();
        t
    });
}

#[test]
fn secret_and_recovery_codes_are_not_stored_in_plain_text() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let (ana, _) = signed_in_as(&t, "ana@x.example", Role::User).await;
        let setup = ana.post("/auth/2fa/setup", json!({ "password": PASSWORD })).await;
        let secret = setup.body["secret"].as_str().unwrap().to_owned();
        let app = Authenticator::new(&secret);
        let enabled = ana.post("/auth/2fa/enable", json!({ "code": app.code(t.clock.now()) })).await;
        let mut stored = t.log.text();
        for table in ["second_factors", "recovery_codes", "events", "outbox", "throttles"] {
            stored += &table_text(t.core(), table).await;
        }
        assert!(!stored.contains(&secret) && stored.contains("second_factor_changed"), "{stored}");
        for code in enabled.body["recoveryCodes"].as_array().unwrap() {
            let code = code.as_str().unwrap();
            assert!(!stored.contains(code) && !stored.contains(&code.replace('-', "")), "{code}");
            // 24 symbols of 5 bits.
            assert_eq!(code.replace('-', "").len(), 24);
        }
        t
    });
}

#[test]
fn password_reset_and_provider_sign_in_do_not_bypass_the_second_factor() {
    it_unstarted(|mut t| async {
        let (mail, google) = (t.start_mail_sink().await, t.with_google().await);
        t.start_with_limits(&[]).await;
        let (ana, _) = signed_in_as(&t, "ana@x.example", Role::User).await;
        let person = google.person("117", "Ana", None);
        let started = ana.post("/auth/google/link", Value::Null).await;
        let (state, code) =
            crate::support::accounts::callback_params(&google, &person, started.body["authUrl"].as_str().unwrap());
        assert_eq!(ana.post("/auth/google/link", json!({ "state": state, "code": code })).await.status, 200);
        let (app, recovery) = Authenticator::enabled(&t, &ana).await;
        for subject in ["Your sign-in methods were changed", "Your two-factor authentication was changed"] {
            assert_eq!(mail.next("ana@x.example").await.subject, subject);
        }

        let token = reset_token(&t, &mail, "ana@x.example").await;
        let reset = json!({ "token": token, "password": "another-Ketchup-42" });
        let done = post(&t, "/auth/reset-password", reset).await;
        assert_eq!((done.status, done.cookies().len()), (201, 0), "a reset does not sign in: {done:?}");
        mail.next("ana@x.example").await;
        assert_code(&ana.get("/me").await, 401, "INVALID_SESSION");
        let form = |code: Value| json!({ "email": "ana@x.example", "password": "another-Ketchup-42", "code": code });
        assert_code(&post(&t, "/auth/login", form(Value::Null)).await, 401, "REQUIRES_2FA");

        let browser = Browser::new(&t);
        let pending = sign_in_with_google(&browser, &google, &person).await;
        assert_code(&pending, 401, "REQUIRES_2FA");
        assert!(browser.access_token().is_none() && browser.cookie("rt").is_none());
        let token = pending.body["twoFactorToken"].as_str().unwrap();
        t.advance_when_idle(STEP * 2).await;
        let verify =
            async |code: &str| post(&t, "/auth/2fa/verify", json!({ "twoFactorToken": token, "code": code })).await;
        assert_code(&verify(&app.wrong_code(t.clock.now())).await, 401, "INVALID_2FA_CODE");
        assert_eq!(verify(&app.code(t.clock.now())).await.status, 200);
        assert_code(&verify(&recovery[0]).await, 400, "INVALID_ONE_TIME_TOKEN");
        assert_eq!(post(&t, "/auth/login", form(json!(recovery[0]))).await.status, 200);
        mail.finish();
        google.finish();
        t
    });
}

#[test]
fn disabling_requires_password_and_code() {
    it_unstarted(|mut t| async {
        let mail = t.start_mail_sink().await;
        t.start_with_limits(&[]).await;
        let (ana, _) = signed_in_as(&t, "ana@x.example", Role::User).await;
        assert_code(&ana.post("/auth/2fa/disable", json!({ "password": PASSWORD })).await, 409, "CONFLICT");
        let (app, _) = Authenticator::enabled(&t, &ana).await;
        mail.next("ana@x.example").await;
        t.advance_when_idle(STEP * 2).await;
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
        let disabled = ana.post("/auth/2fa/disable", json!({ "password": PASSWORD, "code": right })).await;
        assert_eq!(disabled.status, 200, "{disabled:?}");
        assert_eq!(login(&t, "").await.status, 200);
        assert!(rows(t.core().db.writer(), "SELECT used_at FROM recovery_codes").await.is_empty());
        let events: Vec<_> = events_of_kind(t.core(), "user.second_factor_changed").await;
        assert_eq!(events.len(), 2, "{events:?}");
        mail.next("ana@x.example").await;
        mail.finish();
        t
    });
}

#[test]
fn enabling_ends_all_other_sessions() {
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
fn admins_cannot_act_without_a_required_second_factor() {
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
        assert_eq!(ana.get("/me").await.status, 200, "the own account stays accessible");
        assert_code(&eve.get("/admin/users").await, 401, "REQUIRES_2FA");
        let (app, _) = Authenticator::enabled(&t, &ana).await;
        assert_eq!(ana.post(&ban, Value::Null).await.status, 200, "enabling it verifies the session");
        // A session that was not verified with the second factor is refused.
        t.advance_when_idle(STEP * 2).await;
        let response = login(&t, &app.code(t.clock.now())).await;
        assert!(!response.body["accessToken"].is_null());
        execute(t.core(), "UPDATE sessions SET second_factor_at = NULL").await;
        assert_code(&ana.get("/admin/users").await, 401, "REQUIRES_2FA");
        t
    });
}
