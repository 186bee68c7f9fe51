//! Tokens: each kind is accepted only by its own endpoint, none can be forged, and the reuse of a refresh token
//! ends all sessions of the user.

use chrono::TimeDelta;
use dca_core::{
    crypto::{api_key::ApiKeyKind, seal::Purpose},
    users::Role,
};
use dca_test_support::{GooglePerson, MailSink, SimGoogle};
use serde_json::{Value, json};

use super::email_change::change_token;
use crate::support::{
    accounts::{
        Authenticator, auth_state, callback_params, create_account, events_of_kind, me, post, refresh_token,
        reset_token, sign_in_with_google, signed_in_as, start_google_sign_in, table_text,
    },
    browser::{Browser, PASSWORD, Response},
    fixtures::{TestTenant, rows},
    harness::{TestApp, it_unstarted},
};

/// A kind of token, and the endpoint that accepts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TokenKind {
    Access,
    Refresh,
    VerifyEmail,
    ResetPassword,
    ChangeEmail,
    SignIn,
    SecondFactor,
    RecoveryCode,
    KnownDevice,
    ApiKey,
    License,
}

/// The kind of token made with a key purpose, or the reason why the purpose makes none. Every new purpose needs
/// a row here.
const fn token_kind(purpose: Purpose) -> Result<TokenKind, &'static str> {
    match purpose {
        Purpose::AccessToken => Ok(TokenKind::Access),
        Purpose::RefreshToken => Ok(TokenKind::Refresh),
        Purpose::VerifyEmail => Ok(TokenKind::VerifyEmail),
        Purpose::ResetPassword => Ok(TokenKind::ResetPassword),
        Purpose::ChangeEmail => Ok(TokenKind::ChangeEmail),
        Purpose::SignIn => Ok(TokenKind::SignIn),
        Purpose::SecondFactor => Ok(TokenKind::SecondFactor),
        Purpose::RecoveryCode => Ok(TokenKind::RecoveryCode),
        Purpose::KnownDevice => Ok(TokenKind::KnownDevice),
        Purpose::ApiKeyLookup => Ok(TokenKind::ApiKey),
        Purpose::LicenseLookup => Ok(TokenKind::License),
        Purpose::LicenseSeal => Err("encrypts license keys"),
        Purpose::CodeVerifier => Err("sent to the provider only"),
        Purpose::ThrottleName => Err("names a row"),
        Purpose::Fingerprint => Err("names a device"),
        Purpose::TotpSeal => Err("encrypts TOTP secrets"),
        Purpose::IdempotentResponse => Err("encrypts responses"),
        Purpose::Cursor => Err("authenticates the position in a list"),
        Purpose::ProviderTokens => Err("encrypts the tokens of providers"),
        Purpose::VerdictSigning => Err("signs verdicts, which apps read and no endpoint accepts"),
        Purpose::RootSigning => Err("signs the list of signing keys"),
    }
}

/// An app with one valid token of every kind.
struct Fixture<'a> {
    t: &'a TestApp,
    /// A license and an API key that finds it.
    license: String,
    api_key: String,
    /// The email of an account with too many failed sign-ins, and the cookie of its known device.
    locked: &'static str,
    device: String,
    /// Two sign-ins that wait for a second factor, and two recovery codes.
    pending: [String; 2],
    recovery: [String; 2],
    /// The state and code of a provider's callback.
    state: String,
    code: String,
    access: String,
    refresh: String,
    verify: String,
    reset: String,
    change: String,
}

impl<'a> Fixture<'a> {
    async fn build(t: &'a TestApp, mail: &MailSink, google: &SimGoogle) -> Self {
        let tenant = TestTenant::new(t.core(), "Makers").await;
        let gold = tenant.product("Gold", "GOLD").await;
        let license = tenant.license(&gold, 1).await.1;
        let api_key = tenant.api_key(ApiKeyKind::Secret, &[&gold]).await.1;

        let (root, _) = signed_in_as(t, "root@x.example", Role::SuperAdmin).await;
        let (owner, _) = signed_in_as(t, "owner@x.example", Role::User).await;
        for _ in 0..20 {
            let guess = json!({ "email": "owner@x.example", "password": "not this one" });
            let status = post(t, "/auth/login", guess).await.status;
            assert!([401, 429].contains(&status), "{status}");
        }

        let form = json!({ "email": "new@x.example", "password": PASSWORD, "name": "New" });
        assert_eq!(post(t, "/auth/signup", form).await.status, 201);
        let verify = mail.next("new@x.example").await.token();
        create_account(t, "lost@x.example", Role::User).await;

        let (mover, _) = signed_in_as(t, "mover@x.example", Role::User).await;

        let person = google.person("117", "Ana", None);
        let ana = Browser::new(t);
        assert_eq!(sign_in_with_google(&ana, google, &person).await.status, 200);
        let (_, codes) = Authenticator::enabled(t, &ana).await;
        let pending_token = async |person: &GooglePerson| {
            let response = sign_in_with_google(&Browser::new(t), google, person).await;
            assert_eq!((response.status, response.code()), (401, "REQUIRES_2FA"), "{response:?}");
            response.body["twoFactorToken"].as_str().unwrap().to_owned()
        };
        let (state, code) = start_google_sign_in(&Browser::new(t), google, &google.person("118", "Ben", None)).await;
        Self {
            t,
            license,
            api_key,
            locked: "owner@x.example",
            device: owner.cookie("dca_device").unwrap(),
            pending: [pending_token(&person).await, pending_token(&person).await],
            recovery: [codes[0].clone(), codes[1].clone()],
            state,
            code,
            access: root.access_token().unwrap(),
            refresh: refresh_token(&root),
            verify,
            reset: reset_token(t, mail, "lost@x.example").await,
            change: change_token(&mover, mail, "moved@x.example").await,
        }
    }

    fn token(&self, kind: TokenKind) -> &str {
        match kind {
            TokenKind::Access => &self.access,
            TokenKind::Refresh => &self.refresh,
            TokenKind::VerifyEmail => &self.verify,
            TokenKind::ResetPassword => &self.reset,
            TokenKind::ChangeEmail => &self.change,
            TokenKind::SignIn => &self.state,
            TokenKind::SecondFactor => &self.pending[0],
            TokenKind::RecoveryCode => &self.recovery[0],
            TokenKind::KnownDevice => &self.device,
            TokenKind::ApiKey => &self.api_key,
            TokenKind::License => &self.license,
        }
    }

    /// Sends a token to the endpoint of this kind.
    async fn present(&self, endpoint: TokenKind, token: &str) -> Response {
        let browser = Browser::new(self.t);
        let post = async |path: &str, body: Value| browser.post(path, body).await;
        let validate = async |api_key: &str, key: &str| {
            let headers = [("x-api-key", api_key)];
            browser.ask(reqwest::Method::POST, "/licenses/validate", json!({ "licenseKey": key }), &headers).await
        };
        match endpoint {
            TokenKind::Access => me(self.t, token).await,
            TokenKind::Refresh => post("/auth/refresh", json!({ "refreshToken": token })).await,
            // Either confirms an address; which one depends on the token.
            TokenKind::VerifyEmail | TokenKind::ChangeEmail => {
                post("/auth/verify-email", json!({ "token": token })).await
            }
            TokenKind::ResetPassword => {
                post("/auth/reset-password", json!({ "token": token, "password": "another-Ketchup-42" })).await
            }
            TokenKind::SignIn => {
                browser.set_cookie("dca_sign_in", Some(token));
                post("/auth/google/callback", json!({ "state": token, "code": self.code })).await
            }
            TokenKind::SecondFactor => {
                post("/auth/2fa/verify", json!({ "twoFactorToken": token, "code": self.recovery[1] })).await
            }
            TokenKind::RecoveryCode => {
                post("/auth/2fa/verify", json!({ "twoFactorToken": self.pending[1], "code": token })).await
            }
            TokenKind::KnownDevice => {
                browser.set_cookie("dca_device", Some(token));
                post("/auth/login", json!({ "email": self.locked, "password": PASSWORD })).await
            }
            TokenKind::ApiKey => validate(token, &self.license).await,
            TokenKind::License => validate(&self.api_key, token).await,
        }
    }
}

/// Whether two kinds have the same endpoint.
fn is_shared(left: TokenKind, right: TokenKind) -> bool {
    let confirms_address = |kind| matches!(kind, TokenKind::VerifyEmail | TokenKind::ChangeEmail);
    left == right || confirms_address(left) && confirms_address(right)
}

/// Whether the endpoint refused the token.
fn is_refused(endpoint: TokenKind, response: &Response) -> bool {
    match endpoint {
        // The response is always 200 with a verdict.
        TokenKind::License => response.status == 200 && response.body["valid"] == false,
        // Without a known device, the rate limit of strangers applies.
        TokenKind::KnownDevice => response.status == 429,
        _ => matches!(response.status, 400 | 401),
    }
}

#[test]
fn a_token_is_accepted_only_as_its_own_kind() {
    it_unstarted(|mut t| async {
        let (mail, google) = (t.start_mail_sink().await, t.with_google().await);
        t.start_with_limits(&[("DCA_FAILURES_PER_ACCOUNT", "20")]).await;
        let fixture = Fixture::build(&t, &mail, &google).await;
        let kinds: Vec<TokenKind> = Purpose::ALL.iter().filter_map(|purpose| token_kind(*purpose).ok()).collect();
        let before = auth_state(t.core()).await;
        for kind in &kinds {
            for endpoint in kinds.iter().filter(|endpoint| !is_shared(**endpoint, *kind)) {
                let response = fixture.present(*endpoint, fixture.token(*kind)).await;
                assert!(is_refused(*endpoint, &response), "{kind:?} accepted as {endpoint:?}: {response:?}");
                assert!(!response.text.contains(fixture.token(*kind)), "{kind:?} echoed as {endpoint:?}: {response:?}");
            }
        }
        assert_eq!(auth_state(t.core()).await, before, "a refused token changed something");
        // The refresh token has not been rotated, so presenting it is not a reuse.
        for kind in &kinds {
            let response = fixture.present(*kind, fixture.token(*kind)).await;
            assert!(!is_refused(*kind, &response) && response.status < 300, "{kind:?} refused: {response:?}");
        }
        // One-time tokens do not work again.
        for kind in [
            TokenKind::VerifyEmail,
            TokenKind::ResetPassword,
            TokenKind::ChangeEmail,
            TokenKind::SignIn,
            TokenKind::SecondFactor,
            TokenKind::RecoveryCode,
        ] {
            let response = fixture.present(kind, fixture.token(kind)).await;
            assert!(is_refused(kind, &response), "{kind:?} accepted twice: {response:?}");
        }
        for email in ["new@x.example", "lost@x.example", "mover@x.example"] {
            t.wait_until_idle().await;
            mail.forget(email);
        }
        mail.finish();
        google.finish();
        t
    });
}

#[test]
fn tokens_expire() {
    it_unstarted(|mut t| async {
        let (mail, google) = (t.start_mail_sink().await, t.with_google().await);
        t.start_with_limits(&[]).await;
        let fixture = Fixture::build(&t, &mail, &google).await;
        for (minutes, expired) in [
            (10, &[TokenKind::SignIn, TokenKind::SecondFactor][..]),
            (60, &[TokenKind::ResetPassword, TokenKind::ChangeEmail]),
            (24 * 60, &[TokenKind::VerifyEmail, TokenKind::Access]),
        ] {
            let step = TimeDelta::minutes(minutes) - (t.clock.now() - crate::support::harness::start_time());
            t.advance_when_idle(step).await;
            for kind in expired {
                let response = fixture.present(*kind, fixture.token(*kind)).await;
                assert!(is_refused(*kind, &response), "{kind:?} after {minutes} minutes: {response:?}");
            }
        }
        t.wait_until_idle().await;
        mail.finish();
        t
    });
}

#[test]
fn no_token_is_stored_or_logged_in_plain_text() {
    it_unstarted(|mut t| async {
        let (mail, google) = (t.start_mail_sink().await, t.with_google().await);
        t.start_with_limits(&[("DCA_FAILURES_PER_ACCOUNT", "20")]).await;
        let fixture = Fixture::build(&t, &mail, &google).await;
        let mut stored = t.log.text();
        for table in [
            "users",
            "credentials",
            "sessions",
            "refresh_tokens",
            "one_time_tokens",
            "recovery_codes",
            "second_factors",
            "outbox",
            "events",
            "throttles",
            "identities",
        ] {
            stored += &table_text(t.core(), table).await;
        }
        for purpose in Purpose::ALL {
            let Ok(kind) = token_kind(*purpose) else { continue };
            let token = fixture.token(kind);
            assert!(!stored.contains(token), "{kind:?} is stored in plain text");
            let bytes: Vec<u8> = token.bytes().collect();
            assert!(!stored.contains(&format!("{bytes:?}")), "{kind:?} is stored as bytes");
        }
        assert!(!stored.contains(PASSWORD) && !stored.contains(&fixture.code));
        assert!(!stored.contains("throttles") && stored.contains("argon2id"), "the tables are included");
        t.wait_until_idle().await;
        t
    });
}

#[test]
fn a_pending_link_ends_with_its_session() {
    it_unstarted(|mut t| async {
        let google = t.with_google().await;
        t.start_with_limits(&[]).await;
        let (ana, _) = signed_in_as(&t, "ana@x.example", Role::User).await;
        let thief = google.person("666", "Thief", None);
        let started = ana.post("/auth/google/link", Value::Null).await;
        let (state, code) = callback_params(&google, &thief, started.body["authUrl"].as_str().unwrap());
        let browser = Browser::new(&t);
        browser.set_cookie("dca_sign_in", Some(&state));
        assert_eq!(ana.post("/auth/logout-all", Value::Null).await.status, 200);
        let response = browser.get(&format!("/auth/google/callback?state={state}&code={code}")).await;
        assert!(matches!(response.status, 400 | 401), "{response:?}");
        assert!(rows(t.core().db.writer(), "SELECT provider FROM identities").await.is_empty());
        assert!(events_of_kind(t.core(), "user.identity_linked").await.is_empty());
        t
    });
}
