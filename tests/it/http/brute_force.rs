//! Guessing attacks: attempt limits, responses that do not reveal accounts.

use chrono::TimeDelta;
use dca_core::{
    Code, Error,
    accounts::{self, ClientInfo, SignIn},
    users::{self, Locale, Provider, Role},
};
use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};

use super::accounts::without_value;
use crate::support::{
    accounts::{Authenticator, create_account, delete, events_of_kind, execute, post, sign_in_as, signed_in_as},
    browser::{Browser, PASSWORD, Response},
    harness::{TestApp, it_unstarted},
};

const WRONG: &str = "not this one";

/// Attempts to sign in from an address given by a trusted proxy.
async fn login_from(t: &TestApp, from: &str, email: &str, password: &str) -> Response {
    let form = json!({ "email": email, "password": password });
    Browser::new(t).ask(Method::POST, "/auth/login", form, &[("x-forwarded-for", from)]).await
}

pub(super) async fn login(t: &TestApp, email: &str, password: &str) -> Response {
    login_from(t, "192.0.2.1", email, password).await
}

/// The number of responses per status.
fn statuses(answers: &[Response]) -> std::collections::BTreeMap<u16, usize> {
    answers.iter().fold(std::collections::BTreeMap::new(), |mut counts, response| {
        *counts.entry(response.status).or_default() += 1;
        counts
    })
}

fn assert_slowed(response: &Response) {
    assert_eq!((response.status, response.code()), (429, "RATE_LIMIT_EXCEEDED"), "{response:?}");
    let wait: u64 = response.header("retry-after").parse().unwrap_or_else(|_| panic!("no Retry-After: {response:?}"));
    assert!((1..=900).contains(&wait), "{response:?}");
}

/// Repeats a guess that was declined with 503, because a busy machine hashes slowly. It does not count as an attempt.
async fn until_hashed(guess: impl AsyncFn() -> Response) -> Response {
    loop {
        let response = guess().await;
        if response.status != 503 {
            return response;
        }
    }
}

#[test]
fn only_ten_of_two_hundred_concurrent_password_guesses_are_checked() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        create_account(&t, "ana@x.example", Role::User).await;
        let guess = async |email: &str| until_hashed(async || login(&t, email, WRONG).await).await;
        let answers = join_all((0..200).map(|_| guess("ana@x.example"))).await;
        assert_eq!(statuses(&answers), [(401, 10), (429, 190)].into());
        answers.iter().filter(|response| response.status == 429).for_each(assert_slowed);
        assert_eq!(events_of_kind(t.core(), "user.sign_in_refused").await.len(), 10);
        assert_slowed(&login(&t, "ana@x.example", PASSWORD).await);
        assert_slowed(&login(&t, " ANA@X.example ", PASSWORD).await);
        // Attempts for an unknown email are counted in the same way.
        let unknown = join_all((0..12).map(|_| guess("nobody@x.example"))).await;
        assert_eq!(statuses(&unknown), [(401, 10), (429, 2)].into());
        t.advance(TimeDelta::minutes(15));
        assert_eq!(login(&t, "ana@x.example", PASSWORD).await.status, 200, "a quarter of an hour later");
        t
    });
}

#[test]
fn at_most_ten_concurrent_code_guesses_are_checked() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let (ana, _) = signed_in_as(&t, "ana@x.example", Role::User).await;
        let (app, _) = Authenticator::enabled(&t, &ana).await;
        t.advance(TimeDelta::seconds(30));
        let code = app.wrong_code(t.clock.now());
        let guess = async || {
            let form = json!({ "email": "ana@x.example", "password": PASSWORD, "twoFactorCode": code });
            until_hashed(async || post(&t, "/auth/login", form.clone()).await).await
        };
        let first = guess().await;
        assert_eq!((first.status, first.code()), (401, "INVALID_2FA_CODE"), "{first:?}");
        // At most ten of 31 guesses are checked; the others are slowed.
        let mut answers = vec![first];
        answers.extend(join_all((0..30).map(|_| guess())).await);
        let counts = statuses(&answers);
        assert_eq!(counts, [(401, 10), (429, 21)].into());
        let correct = || json!({ "email": "ana@x.example", "password": PASSWORD, "code": app.code(t.clock.now()) });
        assert_slowed(&post(&t, "/auth/login", correct()).await);
        t.advance(TimeDelta::minutes(15));
        assert_eq!(post(&t, "/auth/login", correct()).await.status, 200);
        t
    });
}

#[test]
fn instances_share_attempt_counts() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[("DCA_FAILURES_PER_ACCOUNT", "4")]).await;
        create_account(&t, "ana@x.example", Role::User).await;
        let other = t.instance().await;
        let client = ClientInfo {
            network: "198.51.100.0/24".to_owned(),
            agent: None,
            device: None,
            sign_up: None,
            locale: Locale::En,
        };
        let sign_in_there = async |password: &str| {
            let form = SignIn { identifier: "ana@x.example".to_owned(), password: password.to_owned(), code: None };
            match accounts::sign_in(&other, &client, form).await {
                Err(Error::Refused(refusal)) => Some(refusal.code()),
                Err(error) => panic!("{error}"),
                Ok(_) => None,
            }
        };
        for _ in 0..2 {
            assert_eq!(login(&t, "ana@x.example", WRONG).await.status, 401);
            assert_eq!(sign_in_there(WRONG).await, Some(Code::InvalidCredentials));
        }
        assert_slowed(&login(&t, "ana@x.example", PASSWORD).await);
        assert_eq!(sign_in_there(PASSWORD).await, Some(Code::RateLimitExceeded));
        t
    });
}

#[test]
fn every_identifier_of_an_account_shares_its_attempts() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[("DCA_FAILURES_PER_ACCOUNT", "4")]).await;
        let (ana, _) = signed_in_as(&t, "ana@x.example", Role::User).await;
        ana.ask(Method::PATCH, "/me", json!({ "name": "Ana" }), &[]).await;
        users::ensure(t.core(), Provider::Discord, "4242").await.unwrap();
        let owner = "SELECT id FROM users WHERE folded_email = 'ana@x.example'";
        execute(t.core(), &format!("UPDATE identities SET user_id = ({owner})")).await;
        let sign_in = async |browser: &Browser, identifier: &str, password: &str| {
            let form = json!({ "identifier": identifier, "password": password });
            browser.post("/api/auth/login", form).await
        };
        for identifiers in [["ana@x.example", "ana", " ANA\t", "4242 "], ["nobody", " nobody", "NOBODY", "nobody\n"]] {
            for identifier in identifiers {
                assert_eq!(sign_in(&Browser::new(&t), identifier, WRONG).await.status, 401, "{identifier:?}");
            }
            for identifier in identifiers {
                assert_slowed(&sign_in(&Browser::new(&t), identifier, PASSWORD).await);
            }
        }
        for identifier in ["ana@x.example", " ana", "4242"] {
            ana.set_access_token(None);
            assert_eq!(sign_in(&ana, identifier, PASSWORD).await.status, 200, "a known browser, by {identifier:?}");
        }
        t
    });
}

#[test]
fn failed_attempts_elsewhere_do_not_lock_out_a_known_browser() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[("DCA_FAILURES_PER_ACCOUNT", "3")]).await;
        let (ana, _) = signed_in_as(&t, "ana@x.example", Role::User).await;
        for _ in 0..3 {
            assert_eq!(login(&t, "ana@x.example", WRONG).await.status, 401);
        }
        assert_slowed(&login(&t, "ana@x.example", PASSWORD).await);
        ana.set_access_token(None);
        assert_eq!(ana.sign_in("ana@x.example").await.status, 200, "a known browser");

        // A known browser has its own attempts, as many as any other, and is known for this account only.
        ana.set_access_token(None);
        for _ in 0..3 {
            let guess = json!({ "email": "ana@x.example", "password": WRONG });
            assert_eq!(ana.post("/auth/login", guess).await.status, 401);
        }
        assert_slowed(&ana.sign_in("ana@x.example").await);
        create_account(&t, "ben@x.example", Role::User).await;
        for _ in 0..3 {
            assert_eq!(login(&t, "ben@x.example", WRONG).await.status, 401);
        }
        assert_slowed(&ana.sign_in("ben@x.example").await);
        let device = ana.cookie("dca_device").unwrap();
        for forged in
            ["", ".", "x", &device[..40], &format!("{}0", &device[..device.len() - 1]), &device.replace('.', "")]
        {
            let browser = Browser::new(&t);
            browser.set_cookie("dca_device", Some(forged));
            assert_slowed(&browser.sign_in("ana@x.example").await);
        }
        t
    });
}

#[test]
fn the_limits_of_a_network_do_not_stop_a_known_browser() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[("DCA_FAILURES_PER_NETWORK", "3"), ("DCA_LETTERS_PER_NETWORK", "3")]).await;
        let (ana, _) = signed_in_as(&t, "ana@x.example", Role::User).await;
        let (app, _) = Authenticator::enabled(&t, &ana).await;
        ana.set_access_token(None);
        t.advance_when_idle(TimeDelta::minutes(1)).await;
        let code = |code: String| json!({ "email": "ana@x.example", "password": PASSWORD, "code": code });
        let reset = json!({ "email": "ana@x.example" });
        for n in 0..3 {
            assert_eq!(login(&t, &format!("nobody-{n}@x.example"), WRONG).await.status, 401);
        }
        assert_slowed(&login(&t, "ana@x.example", PASSWORD).await);
        let correct = app.code(t.clock.now());
        assert_eq!(ana.post("/auth/login", code(correct)).await.status, 200, "a known browser");
        for _ in 0..3 {
            assert_eq!(post(&t, "/auth/reset-password-request", reset.clone()).await.status, 201);
        }
        assert_eq!(post(&t, "/auth/reset-password-request", reset.clone()).await.status, 429);
        ana.set_access_token(None);
        assert_eq!(ana.post("/auth/reset-password-request", reset).await.status, 201, "a known browser");

        t.advance_when_idle(TimeDelta::minutes(15)).await;
        let wrong = app.wrong_code(t.clock.now());
        for _ in 0..3 {
            assert_eq!(post(&t, "/auth/login", code(wrong.clone())).await.code(), "INVALID_2FA_CODE");
        }
        let correct = app.code(t.clock.now());
        assert_slowed(&post(&t, "/auth/login", code(correct.clone())).await);
        assert_eq!(ana.post("/auth/login", code(correct)).await.status, 200, "a known browser");
        t
    });
}

#[test]
fn attempts_are_limited_per_network_and_a_success_refunds_only_its_own() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[
            ("DCA_TRUSTED_PROXIES", "127.0.0.1"),
            ("DCA_FAILURES_PER_NETWORK", "5"),
            ("DCA_FAILURES_PER_ACCOUNT", "100"),
        ])
        .await;
        create_account(&t, "mallory@x.example", Role::User).await;
        create_account(&t, "ana@x.example", Role::User).await;
        for (from, same, other) in [
            ("198.51.100.7", "198.51.100.250", "198.51.101.7"),
            ("2001:db8:1:2::7", "2001:db8:1:2:ffff::1", "2001:db8:1:3::7"),
        ] {
            for _ in 0..4 {
                assert_eq!(login_from(&t, from, "ana@x.example", WRONG).await.status, 401);
                assert_eq!(login_from(&t, from, "mallory@x.example", PASSWORD).await.status, 200);
            }
            assert_eq!(login_from(&t, from, "nobody@x.example", WRONG).await.status, 401);
            assert_slowed(&login_from(&t, same, "ana@x.example", WRONG).await);
            assert_slowed(&login_from(&t, from, "mallory@x.example", PASSWORD).await);
            assert_eq!(login_from(&t, other, "mallory@x.example", PASSWORD).await.status, 200, "another network");
        }
        t
    });
}

#[test]
fn reauthentication_shares_the_attempt_limit_of_sign_in() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[("DCA_FAILURES_PER_ACCOUNT", "4")]).await;
        let (ana, _) = signed_in_as(&t, "ana@x.example", Role::User).await;
        let (ben, _) = signed_in_as(&t, "ben@x.example", Role::User).await;
        let (app, _) = Authenticator::enabled(&t, &ben).await;
        t.advance(TimeDelta::seconds(30));
        // A stolen access token in another browser: responses are the same with and without a second factor.
        for (owner, code) in [(&ana, "000000".to_owned()), (&ben, app.code(t.clock.now()))] {
            let thief = Browser::new(&t);
            thief.set_access_token(owner.access_token().as_deref());
            let wrong = json!({ "password": WRONG, "twoFactorCode": code });
            let change = json!({ "currentPassword": WRONG, "newPassword": "another-Ketchup-42" });
            for response in [
                thief.post("/auth/change-password", change).await,
                thief.post("/auth/2fa/setup", wrong.clone()).await,
                thief.post("/auth/2fa/disable", wrong.clone()).await,
                delete(&thief, "/me", wrong.clone()).await,
            ] {
                assert_eq!((response.status, response.code()), (401, "INVALID_CREDENTIALS"), "{response:?}");
                assert_eq!(response.body["detail"], "Invalid credentials");
            }
            assert_slowed(&delete(&thief, "/me", json!({ "password": PASSWORD })).await);
            assert_slowed(&thief.post("/auth/2fa/disable", json!({ "password": PASSWORD, "code": code })).await);
            assert_eq!(owner.get("/me").await.status, 200, "the owner stays signed in");
        }
        assert_slowed(&login(&t, "ana@x.example", PASSWORD).await);
        assert_slowed(&login(&t, "ben@x.example", PASSWORD).await);
        t
    });
}

/// A response without ids and time.
fn comparable(response: &Response) -> (u16, Vec<(String, String)>, Value) {
    let skipped = ["date", "ratelimit", "x-request-id", "x-correlation-id"];
    let headers = response.headers.iter().filter(|(name, _)| !skipped.contains(&name.as_str()));
    let headers = headers
        .map(|(name, value)| (name.to_string(), without_value(name.as_str(), value.to_str().unwrap())))
        .collect();
    let mut body = response.body.clone();
    // New ids, and what the request itself contains.
    for member in ["/user_id", "/userId", "/id", "/user/id", "/email", "/user/email", "/error/correlationId"] {
        if let Some(value) = body.pointer_mut(member) {
            *value = json!("masked");
        }
    }
    (response.status, headers, body)
}

#[test]
fn responses_do_not_reveal_whether_an_account_exists() {
    it_unstarted(|mut t| async {
        let mail = t.start_mail_sink().await;
        t.start_with_limits(&[]).await;
        create_account(&t, "ana@x.example", Role::User).await;
        let pending = json!({ "email": "new@x.example", "password": PASSWORD, "name": "New" });
        assert_eq!(post(&t, "/auth/signup", pending).await.status, 201);
        create_account(&t, "bad@x.example", Role::User).await;
        execute(t.core(), "UPDATE users SET status = 'BANNED' WHERE folded_email = 'bad@x.example'").await;
        for (path, form) in [
            ("/auth/login", json!({ "password": WRONG })),
            ("/auth/login", json!({ "password": WRONG, "twoFactorCode": "000000" })),
            ("/auth/reset-password-request", json!({})),
            ("/auth/resend-verification", json!({})),
            ("/auth/signup", json!({ "password": "sundial-Ketchup-43 plow", "name": "Somebody" })),
            ("/api/auth/login", json!({ "password": WRONG })),
            ("/api/auth/register", json!({ "password": "sundial-Ketchup-43 plow", "username": "Somebody" })),
        ] {
            let ask = async |email: &str| {
                let mut form = form.clone();
                form["email"] = json!(email);
                comparable(&post(&t, path, form).await)
            };
            let unknown = ask("who@x.example").await;
            for known in ["ana@x.example", "new@x.example", "bad@x.example"] {
                assert_eq!(ask(known).await, unknown, "{path} reveals {known}");
            }
        }
        // The status of an account is reported only with the right password.
        assert_eq!(login(&t, "bad@x.example", PASSWORD).await.code(), "ACCOUNT_BANNED");
        t.wait_until_idle().await;
        for email in ["ana@x.example", "new@x.example", "bad@x.example", "who@x.example"] {
            mail.forget(email);
        }
        mail.finish();
        t
    });
}

#[test]
fn emails_per_address_are_limited_to_five_an_hour_without_revealing_it() {
    it_unstarted(|mut t| async {
        let mail = t.start_mail_sink().await;
        t.start_with_limits(&[("DCA_LETTERS_PER_NETWORK", "8")]).await;
        create_account(&t, "ana@x.example", Role::User).await;
        let ask = async || post(&t, "/auth/reset-password-request", json!({ "email": "ana@x.example" })).await;
        let first = comparable(&ask().await);
        for _ in 0..7 {
            assert_eq!(comparable(&ask().await), first);
        }
        for _ in 0..12 {
            t.advance(TimeDelta::seconds(5));
            t.wait_until_idle().await;
        }
        assert_eq!(mail.all_to("ana@x.example").len(), 5);
        let slowed = ask().await;
        assert_eq!((slowed.status, slowed.code()), (429, "RATE_LIMIT_EXCEEDED"), "{slowed:?}");
        assert!(!slowed.header("retry-after").is_empty());
        t.advance(TimeDelta::hours(1));
        assert_eq!(ask().await.status, 201);
        mail.next("ana@x.example").await;
        mail.finish();
        t
    });
}

#[test]
fn invalid_email_is_handled_like_an_unknown_one() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[("DCA_FAILURES_PER_NETWORK", "1000")]).await;
        create_account(&t, "ana@x.example", Role::User).await;
        let long = format!("{}@x.example", "a".repeat(300));
        for invalid in
            ["", " ", "ana", "ana@x.example\0", "\0", "ana@x.example'--", "%", "ana@x.exampl_", "<a@b>", &long]
        {
            let response = login(&t, invalid, PASSWORD).await;
            assert_eq!((response.status, response.code()), (401, "INVALID_CREDENTIALS"), "{invalid:?}: {response:?}");
        }
        for invalid in
            ["", " ", "ana", "ana@x.example\0", "\0", "ana@x@y.example", "ana@localhost", "<a@b.example>", &long]
        {
            for path in ["/auth/reset-password-request", "/auth/resend-verification"] {
                let response = post(&t, path, json!({ "email": invalid })).await;
                assert_eq!(
                    (response.status, response.code()),
                    (400, "VALIDATION_ERROR"),
                    "{path} {invalid:?}: {response:?}"
                );
            }
        }
        assert_eq!(sign_in_as(&t, "ana@x.example").await.get("/me").await.status, 200);
        t
    });
}

#[test]
fn sign_ins_are_limited_per_account() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[("DCA_SIGN_INS_PER_ACCOUNT", "3")]).await;
        for email in ["ana@x.example", "ben@x.example"] {
            create_account(&t, email, Role::User).await;
        }
        for _ in 0..3 {
            assert_eq!(login(&t, "ana@x.example", PASSWORD).await.status, 200);
        }
        assert_slowed(&login(&t, "ana@x.example", PASSWORD).await);
        assert_eq!(login(&t, "ben@x.example", PASSWORD).await.status, 200);
        t.advance(TimeDelta::minutes(15));
        assert_eq!(login(&t, "ana@x.example", PASSWORD).await.status, 200);
        t
    });
}
