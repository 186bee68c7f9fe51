//! Fixtures for the security tests: accounts of any role, an authenticator app, a simulated Google, and snapshots of
//! the tables that decide access.

use std::fmt::Write;

use chrono::{DateTime, TimeDelta, Utc};
use dca_core::{Core, accounts::admin, ids::UserId, users::Role};
use dca_test_support::{GooglePerson, MailSink, SimGoogle};
use reqwest::Method;
use sea_orm_migration::sea_orm::ConnectionTrait;
use serde_json::{Value, json};
use totp_rs::{Algorithm, Builder, Secret, Totp};

use crate::support::{
    browser::{Browser, PASSWORD, Response},
    fixtures::rows,
    harness::TestApp,
};

impl TestApp {
    /// Starts the service without a bot, with rate limits that no test reaches by accident.
    pub async fn start_with_limits(&mut self, settings: &[(&str, &str)]) {
        for name in ["DCA_AUTH_PER_MINUTE", "DCA_AUTH_FAILURES_PER_MINUTE", "DCA_MAILS_PER_MINUTE"] {
            self.set(name, "60000");
        }
        for (name, value) in settings {
            self.set(name, value);
        }
        if !self.env().contains_key("DCA_SMTP_HOST") {
            // Emails need a server for the whole test, even if the test reads none of them.
            std::mem::forget(self.start_mail_sink().await);
        }
        self.start_without_bot().await;
    }

    /// Advances the clock once no delivery is in progress, because a delivery's lease would expire.
    pub async fn advance_when_idle(&self, by: TimeDelta) {
        self.wait_until_idle().await;
        self.advance(by);
    }

    /// Starts a [`SimGoogle`] and configures the next start of the service to use it.
    pub async fn with_google(&mut self) -> SimGoogle {
        let google = SimGoogle::start().await;
        google.register_redirect("http://app.example/auth/google/callback");
        for (name, value) in [
            ("DCA_PUBLIC_URL", "http://app.example"),
            ("DCA_GOOGLE_API_URL", &google.base_url()),
            ("DCA_GOOGLE_CLIENT_ID", &google.client_id()),
            ("DCA_GOOGLE_CLIENT_SECRET", &google.client_secret()),
        ] {
            self.set(name, value);
        }
        google
    }
}

/// Runs an SQL statement.
pub async fn execute(core: &Core, sql: &str) {
    core.db.writer().execute_unprepared(sql).await.unwrap();
}

/// Creates an account with a verified email and [`PASSWORD`].
pub async fn create_account(t: &TestApp, email: &str, role: Role) -> UserId {
    let id = admin::create_admin(t.core(), email, Some("Somebody"), PASSWORD).await.unwrap().0;
    execute(t.core(), &format!("UPDATE users SET role = '{role}' WHERE folded_email = '{email}'")).await;
    id
}

/// Creates an account and signs in to it.
pub async fn signed_in_as(t: &TestApp, email: &str, role: Role) -> (Browser, UserId) {
    let id = create_account(t, email, role).await;
    (sign_in_as(t, email).await, id)
}

/// Creates the first admin and signs in.
pub async fn signed_in_admin(t: &TestApp) -> Browser {
    admin::create_admin(t.core(), "root@x.example", Some("Root"), PASSWORD).await.unwrap();
    let browser = Browser::new(t);
    assert_eq!(browser.sign_in("root@x.example").await.status, 200);
    browser
}

/// The id of the signed-in user.
pub async fn user_id(browser: &Browser) -> String {
    browser.get("/me").await.body["id"].as_str().unwrap().to_owned()
}

/// Signs in to an existing account from a new browser.
pub async fn sign_in_as(t: &TestApp, email: &str) -> Browser {
    let browser = Browser::new(t);
    let response = browser.sign_in(email).await;
    assert_eq!(response.status, 200, "{response:?}");
    browser
}

/// The refresh token in the browser's cookie.
pub fn refresh_token(browser: &Browser) -> String {
    browser.cookie("rt").expect("a refresh cookie")
}

/// Sends a `POST` without cookies or an access token.
pub async fn post(t: &TestApp, path: &str, body: Value) -> Response {
    Browser::new(t).post(path, body).await
}

/// Sends `GET /me` with an access token.
pub async fn me(t: &TestApp, access_token: &str) -> Response {
    let browser = Browser::new(t);
    browser.set_access_token(Some(access_token));
    browser.get("/me").await
}

/// Sends a `DELETE`; `null` sends no body.
pub async fn delete(browser: &Browser, path: &str, body: Value) -> Response {
    browser.ask(Method::DELETE, path, body, &[]).await
}

/// Starts a sign-in with Google and gives consent; returns `state` and `code`.
pub async fn start_google_sign_in(browser: &Browser, google: &SimGoogle, person: &GooglePerson) -> (String, String) {
    let started = browser.post("/auth/google", Value::Null).await;
    assert_eq!(started.status, 200, "{started:?}");
    callback_params(google, person, started.body["authUrl"].as_str().unwrap())
}

/// Gives consent at an authorization URL; returns `state` and `code` of the redirect.
pub fn callback_params(google: &SimGoogle, person: &GooglePerson, url: &str) -> (String, String) {
    let redirect = reqwest::Url::parse(&google.consent(person, url)).unwrap();
    let param = |name: &str| redirect.query_pairs().find(|(key, _)| key == name).unwrap().1.into_owned();
    (param("state"), param("code"))
}

/// Signs in with Google; returns the response of the callback.
pub async fn sign_in_with_google(browser: &Browser, google: &SimGoogle, person: &GooglePerson) -> Response {
    let (state, code) = start_google_sign_in(browser, google, person).await;
    browser.post("/auth/google/callback", json!({ "state": state, "code": code })).await
}

/// An authenticator app.
pub struct Authenticator(Totp);

impl Authenticator {
    /// Creates an app from a base32 secret.
    pub fn new(secret: &str) -> Self {
        let secret = Secret::try_from_base32(secret).unwrap();
        let totp = Builder::new().with_algorithm(Algorithm::SHA1).with_digits(6).with_skew(1);
        let totp = totp.with_step_duration(30).with_secret(secret).with_account_name("ana".to_owned());
        Self(totp.build().unwrap())
    }

    /// Enables two-factor authentication; returns the app and the recovery codes. Consumes the current code.
    pub async fn enabled(t: &TestApp, browser: &Browser) -> (Self, Vec<String>) {
        let setup = browser.post("/auth/2fa/setup", json!({ "password": PASSWORD })).await;
        assert_eq!(setup.status, 200, "{setup:?}");
        let app = Self::new(setup.body["secret"].as_str().unwrap());
        let enabled = browser.post("/auth/2fa/enable", json!({ "code": app.code(t.clock.now()) })).await;
        assert_eq!(enabled.status, 200, "{enabled:?}");
        let codes = enabled.body["recoveryCodes"].as_array().unwrap();
        (app, codes.iter().map(|code| code.as_str().unwrap().to_owned()).collect())
    }

    /// The code at a time.
    pub fn code(&self, at: DateTime<Utc>) -> String {
        self.0.generate(at.timestamp().unsigned_abs()).to_string()
    }

    /// A code that is not valid at any time near this one.
    pub fn wrong_code(&self, at: DateTime<Utc>) -> String {
        let near: Vec<_> = (-3..=3).map(|step| self.code(at + TimeDelta::seconds(30 * step))).collect();
        (0..10).map(|n| format!("{n}{n}{n}000")).find(|code| !near.contains(code)).unwrap()
    }
}

/// A snapshot of the tables that decide access, without the attempt counters.
pub async fn auth_state(core: &Core) -> String {
    let mut all = String::new();
    for sql in [
        "SELECT status, role, email, name, deletion_at FROM users ORDER BY created_at, email",
        "SELECT password_hash FROM credentials ORDER BY password_hash",
        "SELECT method, last_seen_at, second_factor_at, revoked_at, revoke_reason FROM sessions \
         ORDER BY created_at, method, revoked_at, second_factor_at",
        "SELECT generation, used_at FROM refresh_tokens ORDER BY created_at, generation, used_at",
        "SELECT purpose, used_at FROM one_time_tokens ORDER BY created_at, purpose, used_at",
        "SELECT used_at FROM recovery_codes ORDER BY used_at",
        "SELECT confirmed_at, last_step FROM second_factors ORDER BY created_at",
        "SELECT provider, subject FROM identities ORDER BY provider, subject",
        "SELECT guild_id FROM guild_managers ORDER BY guild_id",
    ] {
        writeln!(all, "{:?}", rows(core.db.writer(), sql).await).unwrap();
    }
    all
}

/// The rows of a table, as text.
pub async fn table_text(core: &Core, table: &str) -> String {
    format!("{:?}", rows(core.db.writer(), &format!("SELECT * FROM {table}")).await)
}

/// The events of a kind, oldest first.
pub async fn events_of_kind(core: &Core, kind: &str) -> Vec<Value> {
    let sql = format!("SELECT kind, actor, after FROM events WHERE kind = '{kind}' ORDER BY seq");
    rows(core.db.writer(), &sql).await
}

/// Requests a password reset; returns the token in the email.
pub async fn reset_token(t: &TestApp, mail: &MailSink, email: &str) -> String {
    let response = post(t, "/auth/reset-password-request", json!({ "email": email })).await;
    assert_eq!(response.status, 201, "{response:?}");
    mail.next(email).await.token()
}
