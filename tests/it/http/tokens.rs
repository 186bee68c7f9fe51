//! Tokens: each kind is accepted only by its own endpoint, none can be forged, and the reuse of a refresh token
//! ends all sessions of the user.

use aes_gcm::{
    Aes256Gcm, Key,
    aead::{Aead, KeyInit, Payload},
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use chrono::{DateTime, TimeDelta, Utc};
use dca_core::{
    Code, Error,
    accounts::sessions,
    crypto::{api_key::ApiKeyKind, seal::Purpose},
    users::Role,
};
use dca_test_support::{GooglePerson, MailSink, SimGoogle};
use ed25519_dalek::{Signer, SigningKey};
use futures::future::join_all;
use hmac::{Hmac, Mac};
use sea_orm_migration::sea_orm::{ConnectionTrait, Statement};
use serde_json::{Value, json};
use sha2::Sha256;
use uuid::Uuid;

use crate::support::{
    accounts::{
        Authenticator, auth_state, callback_params, create_account, events_of_kind, execute, me, post, refresh_token,
        reset_token, sign_in_as, sign_in_with_google, signed_in_as, start_google_sign_in, table_text,
    },
    browser::{Browser, PASSWORD, Response},
    fixtures::{Request, TestTenant, log_head, rows},
    harness::{TestApp, it_unstarted},
};

/// A kind of token, and the endpoint that accepts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TokenKind {
    Access,
    Refresh,
    VerifyEmail,
    ResetPassword,
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
        Purpose::SignIn => Ok(TokenKind::SignIn),
        Purpose::SecondFactor => Ok(TokenKind::SecondFactor),
        Purpose::RecoveryCode => Ok(TokenKind::RecoveryCode),
        Purpose::KnownDevice => Ok(TokenKind::KnownDevice),
        Purpose::ApiKeyLookup => Ok(TokenKind::ApiKey),
        Purpose::LicenseLookup => Ok(TokenKind::License),
        Purpose::LicenseSeal => Err("encrypts license keys"),
        Purpose::CodeVerifier => Err("sent to the provider only"),
        Purpose::ThrottleName => Err("names a row"),
        Purpose::TotpSeal => Err("encrypts TOTP secrets"),
        Purpose::ProviderTokens => Err("encrypts the tokens of providers"),
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
        }
    }

    fn token(&self, kind: TokenKind) -> &str {
        match kind {
            TokenKind::Access => &self.access,
            TokenKind::Refresh => &self.refresh,
            TokenKind::VerifyEmail => &self.verify,
            TokenKind::ResetPassword => &self.reset,
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
            TokenKind::VerifyEmail => post("/auth/verify-email", json!({ "token": token })).await,
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
            for endpoint in kinds.iter().filter(|endpoint| *endpoint != kind) {
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
            TokenKind::SignIn,
            TokenKind::SecondFactor,
            TokenKind::RecoveryCode,
        ] {
            let response = fixture.present(kind, fixture.token(kind)).await;
            assert!(is_refused(kind, &response), "{kind:?} accepted twice: {response:?}");
        }
        for email in ["new@x.example", "lost@x.example"] {
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
            (60, &[TokenKind::ResetPassword]),
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

/// Signs access tokens with the app's own key, read from the database with the master key.
struct Forger {
    key: SigningKey,
    header: Value,
    claims: Value,
}

fn part(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

fn parts(token: &str) -> [Value; 2] {
    let mut parts = token.split('.').map(|part| URL_SAFE_NO_PAD.decode(part).unwrap());
    [(); 2].map(|()| serde_json::from_slice(&parts.next().unwrap()).unwrap())
}

impl Forger {
    async fn new(t: &TestApp, token: &str) -> Self {
        let db = t.core().db.writer();
        let sql = "SELECT id, sealed FROM keyring WHERE purpose = 'access-token'";
        let row = db.query_one_raw(Statement::from_string(db.get_database_backend(), sql)).await.unwrap().unwrap();
        let (id, sealed): (Uuid, Vec<u8>) = (row.try_get("", "id").unwrap(), row.try_get("", "sealed").unwrap());
        let master = std::fs::read_to_string(t.dir().join("master.key")).unwrap();
        let master = STANDARD.decode(master.trim()).unwrap();
        let label = b"access-token";
        let aad = [&u32::try_from(label.len()).unwrap().to_be_bytes()[..], label, id.as_bytes()].concat();
        let (nonce, sealed) = sealed.split_first_chunk::<12>().unwrap();
        let payload = Payload { msg: sealed, aad: &aad };
        let seed = Aes256Gcm::new(&Key::<Aes256Gcm>::try_from(master.as_slice()).unwrap());
        let seed = seed.decrypt(&(*nonce).into(), payload).unwrap();
        let [header, claims] = parts(token);
        Self { key: SigningKey::from_bytes(&seed.try_into().unwrap()), header, claims }
    }

    /// A token with these changes, signed with the right key. `null` removes a member.
    fn sign(&self, header: &Value, claims: &Value) -> String {
        Self::signed(&self.key, &merged(&self.header, header), &merged(&self.claims, claims))
    }

    fn signed(key: &SigningKey, header: &Value, claims: &Value) -> String {
        let text = format!("{}.{}", part(header), part(claims));
        let signature = URL_SAFE_NO_PAD.encode(key.sign(text.as_bytes()).to_bytes());
        format!("{text}.{signature}")
    }

    /// The same claims, signed with HMAC-SHA256 and this secret.
    fn hs256(&self, secret: &[u8]) -> String {
        let text = format!("{}.{}", part(&merged(&self.header, &json!({ "alg": "HS256" }))), part(&self.claims));
        let mut mac = <Hmac<Sha256> as hmac::KeyInit>::new_from_slice(secret).unwrap();
        mac.update(text.as_bytes());
        format!("{text}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
    }
}

fn merged(value: &Value, change: &Value) -> Value {
    let mut members = value.as_object().unwrap().clone();
    for (name, value) in change.as_object().unwrap() {
        members.remove(name);
        if !value.is_null() {
            members.insert(name.clone(), value.clone());
        }
    }
    Value::Object(members)
}

#[test]
fn a_forged_access_token_is_refused() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let (ana, _) = signed_in_as(&t, "ana@x.example", Role::User).await;
        let (_, root) = signed_in_as(&t, "root@x.example", Role::SuperAdmin).await;
        let token = ana.access_token().unwrap();
        let jwks = ana.get("/.well-known/jwks.json").await.body;
        let jwk = &jwks["keys"][0];
        let forger = Forger::new(&t, &token).await;
        assert_eq!(
            jwk["x"],
            URL_SAFE_NO_PAD.encode(forger.key.verifying_key().as_bytes()),
            "the test uses the app's signing key"
        );
        assert_eq!(me(&t, &forger.sign(&json!({}), &json!({}))).await.status, 200);

        let [text, signature] = token.rsplit_once('.').map(|(text, signature)| [text, signature]).unwrap();
        let [head, body] = text.split_once('.').map(|(head, body)| [head, body]).unwrap();
        let none = |alg: &str| format!("{}.{body}.", part(&merged(&forger.header, &json!({ "alg": alg }))));
        let other_key = SigningKey::from_bytes(&[7; 32]);
        let other_jwk = json!({ "kty": "OKP", "crv": "Ed25519", "x": URL_SAFE_NO_PAD.encode(other_key.verifying_key().as_bytes()) });
        let with_other_key =
            |header: Value| Forger::signed(&other_key, &merged(&forger.header, &header), &forger.claims);
        let public = forger.key.verifying_key().to_bytes();
        let header = |change: Value| forger.sign(&change, &json!({}));
        let claims = |change: Value| forger.sign(&json!({}), &change);
        let as_root = part(&merged(&forger.claims, &json!({ "sub": root })));
        let table = [
            ("no algorithm", none("none")),
            ("no algorithm, in upper case", none("NONE")),
            ("no algorithm, with the old signature", format!("{}{signature}", none("None"))),
            ("HS256 with the public key", forger.hs256(&public)),
            ("HS256 with the public key as text", forger.hs256(jwk["x"].as_str().unwrap().as_bytes())),
            ("HS256 with the JWK", forger.hs256(jwk.to_string().as_bytes())),
            ("HS256 with the JWK set", forger.hs256(jwks.to_string().as_bytes())),
            ("HS256 with an empty secret", forger.hs256(b"")),
            ("another algorithm named", header(json!({ "alg": "ES256" }))),
            ("an unknown algorithm", header(json!({ "alg": "EdDSA2" }))),
            ("no kid", header(json!({ "kid": null }))),
            ("an unknown kid", header(json!({ "kid": "AAAAAAAAAAAA" }))),
            ("a path as kid", header(json!({ "kid": "../../../../dev/null" }))),
            ("SQL as kid", header(json!({ "kid": "' OR '1'='1" }))),
            ("a kid that is not a string", header(json!({ "kid": 1 }))),
            ("no typ", header(json!({ "typ": null }))),
            ("a plain JWT", header(json!({ "typ": "JWT" }))),
            ("another typ", header(json!({ "typ": "rt+jwt" }))),
            ("another key with our kid", with_other_key(json!({}))),
            ("another key and its jwk", with_other_key(json!({ "jwk": other_jwk }))),
            ("another key, its jwk and no kid", with_other_key(json!({ "jwk": other_jwk, "kid": null }))),
            ("another key and a jku", with_other_key(json!({ "jku": "http://127.0.0.1:1/keys" }))),
            ("another key and an x5u", with_other_key(json!({ "x5u": "http://127.0.0.1:1/chain" }))),
            ("another audience", claims(json!({ "aud": "dca-auth-admins" }))),
            ("no audience", claims(json!({ "aud": null }))),
            ("another issuer", claims(json!({ "iss": "https://evil.example" }))),
            ("no issuer", claims(json!({ "iss": null }))),
            ("no subject", claims(json!({ "sub": null }))),
            ("no session", claims(json!({ "sid": null }))),
            ("no expiry", claims(json!({ "exp": null }))),
            ("an expiry that is a string", claims(json!({ "exp": "2099-01-01" }))),
            ("an expiry out of range", claims(json!({ "exp": i64::MAX }))),
            ("the claims of another user", format!("{head}.{as_root}.{signature}")),
            ("no signature", format!("{text}.")),
            ("half a signature", format!("{text}.{}", &signature[..40])),
            ("a signature of zeros", format!("{text}.{}", URL_SAFE_NO_PAD.encode([0; 64]))),
            ("a padded signature", format!("{token}==")),
            ("one part too many", format!("{token}.{signature}")),
            ("one part too few", text.to_owned()),
            ("signed, with 10 KiB of padding", claims(json!({ "pad": "x".repeat(10 * 1024) }))),
            ("not JSON", format!("{}.{}.{signature}", URL_SAFE_NO_PAD.encode("{"), URL_SAFE_NO_PAD.encode("{"))),
            ("dots", "...".to_owned()),
            ("one word", "x".to_owned()),
        ];
        let (head_of_log, before) = (log_head(t.core()).await, auth_state(t.core()).await);
        for (what, token) in &table {
            let response = me(&t, token).await;
            assert_eq!((response.status, response.code()), (401, "INVALID_TOKEN"), "{what}: {response:?}");
        }
        let exp = |seconds: i64| json!({ "exp": t.clock.now().timestamp() + seconds });
        for (what, token, code) in [
            ("expired, within the leeway", claims(exp(-4)), ""),
            ("expired, at the end of the leeway", claims(exp(-5)), "TOKEN_EXPIRED"),
            ("expired for a year", claims(exp(-31_536_000)), "TOKEN_EXPIRED"),
            ("another subject with this session", claims(json!({ "sub": root })), "INVALID_SESSION"),
            ("an unknown session", claims(json!({ "sid": Uuid::from_u128(1) })), "INVALID_SESSION"),
        ] {
            let response = me(&t, &token).await;
            assert_eq!(response.code(), code, "{what}: {response:?}");
        }
        assert_eq!((log_head(t.core()).await, auth_state(t.core()).await), (head_of_log, before));
        t
    });
}

#[test]
fn a_token_of_another_installation_is_refused() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let (ana, _) = signed_in_as(&t, "ana@x.example", Role::User).await;
        let (access, refresh) = (ana.access_token().unwrap(), refresh_token(&ana));
        let device = ana.cookie("dca_device").unwrap();
        let other = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}?mode=rwc", other.path().join("dca.db").display());
        let master = STANDARD.encode(dca_core::Ids::seeded(9).bytes::<32>());
        let other_core = t.assemble(&[("DCA_DATABASE_URL", &url), ("DCA_MASTER_KEY", &master)]).await.unwrap().core;
        assert_eq!(code_of(sessions::authenticate(&other_core, &access).await), Some(Code::InvalidToken));
        let client = dca_core::accounts::ClientInfo {
            network: "192.0.2.0/24".to_owned(),
            agent: None,
            device: Some(device),
            locale: dca_core::users::Locale::En,
        };
        assert_eq!(code_of(sessions::refresh(&other_core, &client, &refresh).await), Some(Code::InvalidSession));
        t
    });
}

fn code_of<V>(result: dca_core::Result<V>) -> Option<Code> {
    match result {
        Err(Error::Refused(refusal)) => Some(refusal.code()),
        Err(other) => panic!("{other}"),
        Ok(_) => None,
    }
}

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

#[test]
fn an_access_token_expires_after_fifteen_minutes() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let (ana, _) = signed_in_as(&t, "ana@x.example", Role::User).await;
        let [header, claims] = parts(&ana.access_token().unwrap());
        assert_eq!((&header["alg"], &header["typ"]), (&json!("EdDSA"), &json!("at+jwt")));
        let expires_at = DateTime::<Utc>::from_timestamp(claims["exp"].as_i64().unwrap(), 0).unwrap();
        assert_eq!(expires_at - t.clock.now(), TimeDelta::minutes(15));
        for member in ["email", "name", "role", "roles", "status"] {
            assert_eq!(claims[member], Value::Null, "a token contains no personal data");
        }
        t.advance_when_idle(TimeDelta::minutes(15) + TimeDelta::seconds(5)).await;
        assert_eq!(ana.get("/me").await.code(), "TOKEN_EXPIRED");
        t
    });
}
