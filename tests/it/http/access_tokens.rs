//! Access tokens: forged ones, those of another installation, and their lifetime.

use aes_gcm::{
    Aes256Gcm, Key,
    aead::{Aead, KeyInit, Payload},
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use chrono::{DateTime, TimeDelta, Utc};
use dca_core::{Code, Error, accounts::sessions, users::Role};
use ed25519_dalek::{Signer, SigningKey};
use hmac::{Hmac, Mac};
use sea_orm_migration::sea_orm::{ConnectionTrait, Statement};
use serde_json::{Value, json};
use sha2::Sha256;
use uuid::Uuid;

use crate::support::{
    accounts::{auth_state, me, refresh_token, signed_in_as},
    fixtures::log_head,
    harness::{TestApp, it_unstarted},
};

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
        let other_core =
            t.assemble(&[("DCA_DATABASE_URL", &url), ("DCA_MASTER_KEY", &master)]).await.unwrap().core.clone();
        assert_eq!(code_of(sessions::authenticate(&other_core, &access).await), Some(Code::InvalidToken));
        let client = dca_core::accounts::ClientInfo {
            network: "192.0.2.0/24".to_owned(),
            agent: None,
            device: Some(device),
            sign_up: None,
            locale: dca_core::users::Locale::En,
        };
        assert_eq!(code_of(sessions::refresh(&other_core, &client, &refresh).await), Some(Code::InvalidSession));
        t
    });
}

pub(super) fn code_of<V>(result: dca_core::Result<V>) -> Option<Code> {
    match result {
        Err(Error::Refused(refusal)) => Some(refusal.code()),
        Err(other) => panic!("{other}"),
        Ok(_) => None,
    }
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
