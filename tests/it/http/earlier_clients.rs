//! Calls of clients of earlier systems that differ from the native routes, besides paths and names.

use chrono::TimeDelta;
use dca_core::{
    key_rotation::{self, ACTIVATION_DELAY},
    users::Role,
};
use reqwest::Method;
use serde_json::{Value, json};

use super::sign_in::{ProviderAccount, with_providers};
use crate::support::{
    accounts::{Authenticator, signed_in_as},
    browser::{Browser, PASSWORD},
    fixtures::Request,
    harness::it_unstarted,
};

#[test]
fn earlier_clients_sign_in_with_a_unique_name_or_a_linked_discord_account() {
    it_unstarted(|mut t| async {
        let (mail, google) = (t.start_mail_sink().await, with_providers(&mut t).await);
        t.start_without_bot().await;
        let ana = Browser::signed_in(&t, &mail, "ana@x.example").await;
        let sign_in = async |field: &str, identifier: &str| {
            let form = json!({ field: identifier, "password": PASSWORD });
            Browser::new(&t).post("/api/auth/login", form).await
        };
        let discord = ProviderAccount::discord(&t, "ana");
        ana.ask(Method::PATCH, "/me", json!({ "name": "Ana Löwe" }), &[]).await;
        let not_linked = sign_in("identifier", "1000").await;
        assert_eq!((not_linked.status, not_linked.code()), (401, "INVALID_CREDENTIALS"));
        assert_eq!(discord.link(&ana).await.status, 200);
        mail.next("ana@x.example").await; // the notice of the link
        let id = ana.get("/me").await.body["discordId"].as_str().unwrap().to_owned();
        for (field, identifier) in [
            ("identifier", "ana löwe"),
            ("username", " ANA LÖWE"),
            ("identifier", id.as_str()),
            ("discordId", &id),
            ("email", "ana@x.example"),
        ] {
            let response = sign_in(field, identifier).await;
            assert_eq!(response.status, 200, "{field} {identifier}: {response:?}");
            assert_eq!(response.body["user"]["email"], "ana@x.example");
        }
        for identifier in ["ana", "ana löwe\0", "", "1000"] {
            assert_eq!(sign_in("identifier", identifier).await.code(), "INVALID_CREDENTIALS", "{identifier:?}");
        }
        let ben = Browser::signed_in(&t, &mail, "ben@x.example").await;
        ben.ask(Method::PATCH, "/me", json!({ "name": "Ana löwe" }), &[]).await;
        let ambiguous = sign_in("identifier", "Ana Löwe").await;
        assert_eq!(ambiguous.code(), "INVALID_CREDENTIALS", "two users have this name");
        mail.finish();
        google.finish();
        t
    });
}

#[test]
fn the_setup_of_two_factor_authentication_shows_a_qr_code_and_the_recovery_codes_that_enabling_confirms() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let (ana, _) = signed_in_as(&t, "ana@x.example", Role::User).await;
        let setup = ana.post("/api/auth/2fa/setup", json!({ "password": PASSWORD })).await;
        assert!(setup.body["qrCode"].as_str().unwrap().starts_with("data:image/svg+xml;base64,"), "{setup:?}");
        let codes = setup.body["backupCodes"].as_array().unwrap().clone();
        assert_eq!(codes.len(), 10, "{setup:?}");
        let sign_in = async |code: &Value| {
            let form = json!({ "identifier": "ana@x.example", "password": PASSWORD, "twoFactorCode": code });
            Browser::new(&t).post("/api/auth/login", form).await
        };
        let app = Authenticator::new(setup.body["secret"].as_str().unwrap());
        key_rotation::rotate(t.core(), None).await.unwrap();
        t.advance_when_idle(ACTIVATION_DELAY).await;
        let enabled = ana.post("/api/auth/2fa/enable", json!({ "token": app.code(t.clock.now()) })).await;
        assert_eq!((enabled.status, &enabled.body["backupCodes"]), (200, &json!(codes)), "{enabled:?}");
        for (code, status) in [(&codes[0], 200), (&codes[0], 401), (&codes[9], 200)] {
            assert_eq!(sign_in(code).await.status, status, "{code}");
        }
        let renewed = ana.post("/auth/2fa/recovery-codes", json!({ "code": codes[1] })).await;
        assert_eq!(renewed.status, 200, "{renewed:?}");
        assert_eq!(sign_in(&codes[2]).await.status, 401, "the codes of the setup are replaced");
        assert_eq!(sign_in(&renewed.body["recoveryCodes"][0]).await.status, 200);
        t
    });
}

#[test]
fn a_sign_in_with_a_password_waits_for_the_code_until_the_password_changes() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let (ana, id) = signed_in_as(&t, "ana@x.example", Role::User).await;
        let (ben, _) = signed_in_as(&t, "ben@x.example", Role::User).await;
        let app = Authenticator::enabled(&t, &ana).await.0;
        let code = || app.code(t.clock.now());
        let form = json!({ "identifier": "ana@x.example", "password": PASSWORD });
        let waiting = Browser::new(&t);
        let asked = waiting.post("/api/auth/login", form.clone()).await;
        assert_eq!((asked.status, asked.code()), (401, "REQUIRES_2FA"), "{asked:?}");
        t.advance_when_idle(TimeDelta::minutes(1)).await;
        // The user is the one who entered the password, whatever the body says.
        let other = Browser::new(&t).post("/api/auth/2fa/verify", json!({ "userId": id, "token": code() })).await;
        assert_eq!((other.status, other.code()), (400, "INVALID_ONE_TIME_TOKEN"), "{other:?}");
        let ben_id = ben.get("/me").await.body["id"].clone();
        let done = waiting.post("/api/auth/2fa/verify", json!({ "userId": ben_id, "token": code() })).await;
        assert_eq!((done.status, &done.body["user"]["email"]), (200, &json!("ana@x.example")), "{done:?}");
        assert!(done.body["refreshToken"].is_string(), "{done:?}");

        let asked = waiting.post("/auth/login", form).await;
        let change = json!({ "currentPassword": PASSWORD, "newPassword": "brass-Lantern-92 orbit" });
        assert_eq!(ana.post("/auth/change-password", change).await.status, 200);
        t.advance_when_idle(TimeDelta::minutes(1)).await;
        let late = json!({ "twoFactorToken": asked.body["twoFactorToken"], "code": code() });
        assert_eq!(waiting.post("/auth/2fa/verify", late).await.code(), "INVALID_ONE_TIME_TOKEN");
        t
    });
}

#[test]
fn only_the_routes_of_the_multi_user_service_accept_forms_and_not_from_other_sites() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        signed_in_as(&t, "ana@x.example", Role::User).await;
        let password = PASSWORD.replace(' ', "+");
        let form = format!("email=ana%40x.example&password={password}");
        let sign_up = format!("email=new%40x.example&name=New&password={password}");
        for (path, body, origin, status) in [
            ("/auth/login", form.as_str(), "", 200),
            ("/auth/login", &form, "https://evil.example", 403),
            ("/auth/login", "email=ana%40x.example&password=short", "", 401),
            ("/auth/login", "email=ana%40x.example", "", 400),
            ("/auth/signup", &sign_up, "", 201),
            ("/auth/verify-email", "token=0", "", 400),
            ("/api/auth/login", &form, "", 415),
            ("/licenses/validate", "licenseKey=x", "", 401),
        ] {
            let request =
                Request::new(&format!("POST {path}")).with("Content-Type", "application/x-www-form-urlencoded");
            let request = if origin.is_empty() { request } else { request.with("Origin", origin) };
            let answer = request.body(body).ask(t.addr()).await.unwrap();
            assert_eq!(answer.status, status, "{path} {origin}: {answer:?}");
        }
        t
    });
}
