//! Rotation of the data keys: what older generations sealed, signed or derived stays valid.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::TimeDelta;
use dca_core::{
    crypto::{api_key::ApiKeyKind, seal::Purpose},
    key_rotation::{self, ACTIVATION_DELAY},
    licenses,
    users::Role,
};
use reqwest::{Method, header};
use serde_json::{Value, json};

use crate::support::{
    accounts::{Authenticator, callback_params, me, refresh_token, sign_in_as, signed_in_as},
    browser::{Browser, PASSWORD},
    fixtures::TestTenant,
    harness::{TestApp, it_unstarted},
};

/// The ids of the signing keys in the JWK set: those of access tokens, then those of verdicts.
async fn key_ids(t: &TestApp) -> Vec<String> {
    let set = Browser::new(t).get("/.well-known/jwks.json").await.body;
    set["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
}

/// The `kid` of an access token.
fn kid(token: &str) -> String {
    let header = URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap();
    serde_json::from_slice::<Value>(&header).unwrap()["kid"].as_str().unwrap().to_owned()
}

#[test]
fn what_older_keys_made_stays_valid_after_a_rotation_and_new_keys_make_the_rest() {
    it_unstarted(|mut t| async {
        let (mail, google) = (t.start_mail_sink().await, t.with_google().await);
        t.start_with_limits(&[]).await;
        let tenant = TestTenant::new(t.core(), "Makers").await;
        let product = tenant.product("Tools", "TOOLS").await;
        let (_, api_key) = tenant.api_key(ApiKeyKind::Secret, &[&product]).await;
        let (license, key) = tenant.license(&product, 1).await;
        let (ana, _) = signed_in_as(&t, "ana@x.example", Role::User).await;
        let (bob, _) = signed_in_as(&t, "bob@x.example", Role::User).await;
        let (app, recovery) = Authenticator::enabled(&t, &bob).await;
        mail.next("bob@x.example").await;
        ana.post("/auth/reset-password-request", json!({ "email": "ana@x.example" })).await;
        let reset = mail.next("ana@x.example").await;
        let (old_token, old_refresh) = (ana.access_token().unwrap(), refresh_token(&ana));
        let person = google.person("117", "Eva", Some(("eva@x.example", true)));
        let eva = Browser::new(&t);
        let started = eva.post("/auth/google", Value::Null).await;
        let (state, code) = callback_params(&google, &person, started.body["authUrl"].as_str().unwrap());

        let other = t.instance().await;
        key_rotation::rotate(t.core(), None).await.unwrap();
        other.reload_keys().await.unwrap();
        let ids = key_ids(&t).await;
        assert_eq!((ids.len(), &ids[1]), (4, &kid(&old_token)), "both keys are published before the new one signs");
        assert_eq!(kid(&sign_in_as(&t, "ana@x.example").await.access_token().unwrap()), ids[1]);
        t.advance_when_idle(ACTIVATION_DELAY).await;

        assert_eq!(me(&t, &old_token).await.status, 200);
        assert_eq!(t.validate(&api_key, &key).await["code"], "VALID");
        assert_eq!(licenses::reveal_key(t.core(), &license).unwrap(), key);
        assert_eq!(licenses::inspect(t.core(), &tenant.caller.scope(), &key).await.unwrap().0.id, license.id);
        let signed_in = eva.post("/auth/google/callback", json!({ "state": state, "code": code })).await;
        assert_eq!(signed_in.status, 200, "a sign-in that began before the rotation: {signed_in:?}");
        assert_eq!(ana.post("/auth/refresh", Value::Null).await.status, 200);
        assert_eq!(kid(&ana.access_token().unwrap()), ids[0], "the new key signs");
        ana.set_cookie("rt", Some(&old_refresh));
        assert_eq!(ana.post("/auth/refresh", Value::Null).await.status, 200, "a repeated refresh within the grace");
        for code in [app.code(t.clock.now()), recovery[0].clone()] {
            let form = json!({ "email": "bob@x.example", "password": PASSWORD, "twoFactorCode": code });
            assert_eq!(Browser::new(&t).post("/auth/login", form).await.status, 200, "{code}");
        }
        let form = json!({ "token": reset.token(), "newPassword": "plow-Ketchup-42" });
        assert_eq!(ana.post("/auth/reset-password", form).await.status, 201);
        mail.next("ana@x.example").await;

        let on_other = tenant.on_instance(&other);
        let (_, new_api_key) = on_other.api_key(ApiKeyKind::Secret, &[&product]).await;
        let (_, new_key) = on_other.license(&product, 2).await;
        assert_eq!(
            t.validate(&new_api_key, &new_key).await["code"],
            "VALID",
            "another instance uses the same new keys"
        );
        let new_token = bob.access_token().unwrap();
        t.advance_when_idle(TimeDelta::minutes(61)).await;
        assert_eq!(
            key_ids(&t).await,
            [&ids[..1], &ids[2..]].concat(),
            "the old signing key ended with the last of its tokens"
        );
        assert_eq!(me(&t, &new_token).await.code(), "INVALID_TOKEN");
        assert_eq!(t.validate(&api_key, &key).await["code"], "VALID");
        t
    });
}

#[test]
fn jwk_set_is_cacheable() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let browser = Browser::new(&t);
        let set = browser.get("/.well-known/jwks.json").await;
        assert_eq!(set.header("cache-control"), "public, max-age=240");
        let etag = set.header(header::ETAG.as_str()).to_owned();
        let again =
            async || browser.ask(Method::GET, "/.well-known/jwks.json", Value::Null, &[("If-None-Match", &etag)]).await;
        let unchanged = again().await;
        assert_eq!((unchanged.status, unchanged.text.as_str(), unchanged.header("etag")), (304, "", etag.as_str()));
        key_rotation::rotate(t.core(), Some(Purpose::AccessToken)).await.unwrap();
        assert_eq!(again().await.status, 200);
        t
    });
}
