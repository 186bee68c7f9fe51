//! What the tests of what must not be possible stand on: accounts of any role, an authenticator app, a door to
//! Google, and a look at everything that decides who gets in.

use std::fmt::Write;

use chrono::{DateTime, TimeDelta, Utc};
use dca_core::{
    Core,
    accounts::{Role, admin},
    ids::UserId,
};
use dca_test_support::{GooglePerson, MailSink, SimGoogle};
use reqwest::Method;
use sea_orm_migration::sea_orm::ConnectionTrait;
use serde_json::{Value, json};
use totp_rs::{Algorithm, Builder, Secret, Totp};

use crate::{
    browser::{Browser, PASSWORD, Response},
    fixtures::rows,
    harness::TestApp,
};

impl TestApp {
    /// Starts a process without a bot, under limits that no test meets by chance.
    pub async fn start_with_limits(&mut self, settings: &[(&str, &str)]) {
        for name in ["DCA_AUTH_PER_MINUTE", "DCA_AUTH_FAILURES_PER_MINUTE", "DCA_MAILS_PER_MINUTE"] {
            self.set(name, "60000");
        }
        for (name, value) in settings {
            self.set(name, value);
        }
        if !self.env().contains_key("DCA_SMTP_HOST") {
            // Letters that nobody looks at go somewhere all the same, for as long as the test runs.
            std::mem::forget(self.with_mail().await);
        }
        self.start_without_bot().await;
    }

    /// Lets time pass when no delivery is under way: a lease ends with time.
    pub async fn later(&self, by: TimeDelta) {
        self.idle().await;
        self.advance(by);
    }

    /// Sets up a Google of its own for the process that is started next.
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

/// Runs a statement.
pub async fn execute(core: &Core, sql: &str) {
    core.db.writer().execute_unprepared(sql).await.unwrap();
}

/// An account with a proved address and the usual password.
pub async fn account(t: &TestApp, email: &str, role: Role) -> UserId {
    let id = admin::create_admin(t.core(), email, Some("Somebody"), PASSWORD).await.unwrap().0;
    execute(t.core(), &format!("UPDATE users SET role = '{role}' WHERE folded_email = '{email}'")).await;
    id
}

/// Somebody with such an account, who has just signed in.
pub async fn signed_in_as(t: &TestApp, email: &str, role: Role) -> (Browser, UserId) {
    let id = account(t, email, role).await;
    (sign_in_as(t, email).await, id)
}

/// The same browser at another browser.
pub async fn sign_in_as(t: &TestApp, email: &str) -> Browser {
    let browser = Browser::new(t);
    let response = browser.sign_in(email).await;
    assert_eq!(response.status, 200, "{response:?}");
    browser
}

/// The refresh token in a browser.
pub fn refresh_token(browser: &Browser) -> String {
    browser.cookie("rt").expect("a refresh cookie")
}

/// Posts something with nothing but this: no cookie, no token.
pub async fn post(t: &TestApp, path: &str, body: Value) -> Response {
    Browser::new(t).post(path, body).await
}

/// Asks who an access token stands for.
pub async fn me(t: &TestApp, access_token: &str) -> Response {
    let browser = Browser::new(t);
    browser.set_access(Some(access_token));
    browser.get("/me").await
}

/// `DELETE`, with a body or without.
pub async fn delete(browser: &Browser, path: &str, body: Value) -> Response {
    browser.ask(Method::DELETE, path, body, &[]).await
}

/// A sign-in with Google that was agreed to: state and code.
pub async fn google_consent(browser: &Browser, google: &SimGoogle, who: &GooglePerson) -> (String, String) {
    let begun = browser.post("/auth/google", Value::Null).await;
    assert_eq!(begun.status, 200, "{begun:?}");
    callback_params(google, who, begun.body["authUrl"].as_str().unwrap())
}

/// State and code, as Google sends them back.
pub fn callback_params(google: &SimGoogle, who: &GooglePerson, url: &str) -> (String, String) {
    let back = reqwest::Url::parse(&google.consent(who, url)).unwrap();
    let part = |name: &str| back.query_pairs().find(|(known, _)| known == name).unwrap().1.into_owned();
    (part("state"), part("code"))
}

/// Signs in with Google, or begins to.
pub async fn sign_in_with_google(browser: &Browser, google: &SimGoogle, who: &GooglePerson) -> Response {
    let (state, code) = google_consent(browser, google, who).await;
    browser.post("/auth/google/callback", json!({ "state": state, "code": code })).await
}

/// An authenticator app.
pub struct Authenticator(Totp);

impl Authenticator {
    /// An app that was told a secret.
    pub fn new(secret: &str) -> Self {
        let secret = Secret::try_from_base32(secret).unwrap();
        let totp = Builder::new().with_algorithm(Algorithm::SHA1).with_digits(6).with_skew(1);
        let totp = totp.with_step_duration(30).with_secret(secret).with_account_name("ana".to_owned());
        Self(totp.build().unwrap())
    }

    /// Sets a second factor up: the app, and the recovery codes. The current code is used up by it.
    pub async fn enabled(t: &TestApp, browser: &Browser) -> (Self, Vec<String>) {
        let made = browser.post("/auth/2fa/setup", json!({ "password": PASSWORD })).await;
        assert_eq!(made.status, 200, "{made:?}");
        let app = Self::new(made.body["secret"].as_str().unwrap());
        let enabled = browser.post("/auth/2fa/enable", json!({ "code": app.code(t.clock.now()) })).await;
        assert_eq!(enabled.status, 200, "{enabled:?}");
        let codes = enabled.body["recoveryCodes"].as_array().unwrap();
        (app, codes.iter().map(|code| code.as_str().unwrap().to_owned()).collect())
    }

    /// What it shows at a time.
    pub fn code(&self, at: DateTime<Utc>) -> String {
        self.0.generate(at.timestamp().unsigned_abs()).to_string()
    }

    /// A code it shows at no time near this one.
    pub fn wrong_code(&self, at: DateTime<Utc>) -> String {
        let near: Vec<_> = (-3..=3).map(|step| self.code(at + TimeDelta::seconds(30 * step))).collect();
        (0..10).map(|n| format!("{n}{n}{n}000")).find(|code| !near.contains(code)).unwrap()
    }
}

/// Everything that decides who gets in, but for the counters of tries.
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

/// A whole table, as text.
pub async fn rows_of(core: &Core, table: &str) -> String {
    format!("{:?}", rows(core.db.writer(), &format!("SELECT * FROM {table}")).await)
}

/// The kinds in the log, with who did them and to whom it happened, oldest first.
pub async fn events_of_kind(core: &Core, kind: &str) -> Vec<Value> {
    let sql = format!("SELECT kind, actor, after FROM events WHERE kind = '{kind}' ORDER BY seq");
    rows(core.db.writer(), &sql).await
}

/// The link of a letter, asked for.
pub async fn reset_token(t: &TestApp, mail: &MailSink, email: &str) -> String {
    let response = post(t, "/auth/reset-password-request", json!({ "email": email })).await;
    assert_eq!(response.status, 201, "{response:?}");
    mail.next(email).await.token()
}
