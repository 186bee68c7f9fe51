//! Export and deletion of personal data.

use chrono::TimeDelta;
use dca_auth::workers::CLEANUP;
use dca_core::{
    licenses,
    users::{self, Provider, Role},
};
use sea_orm_migration::sea_orm::ConnectionTrait;
use serde_json::{Value, json};

use crate::support::{
    accounts::{
        Authenticator, create_account, delete, events_of_kind, execute, post, sign_in_as, sign_in_with_google,
        signed_in_as,
    },
    browser::{Browser, PASSWORD, Response},
    fixtures::{TestTenant, rows},
    harness::{TestApp, it_unstarted},
};

async fn count(t: &TestApp, table: &str) -> usize {
    rows(t.core().db.writer(), &format!("SELECT * FROM {table}")).await.len()
}

async fn login(t: &TestApp, email: &str) -> Response {
    post(t, "/auth/login", json!({ "email": email, "password": PASSWORD })).await
}

#[test]
fn export_contains_everything_but_secrets() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let (ana, id) = signed_in_as(&t, "ana@x.example", Role::User).await;
        let (ben, _) = signed_in_as(&t, "ben@x.example", Role::User).await;
        let (_, codes) = Authenticator::enabled(&t, &ana).await;
        let response = ana.get("/me/export").await;
        assert_eq!(response.status, 200, "{response:?}");
        assert_eq!(response.header("content-disposition"), "attachment; filename=\"account.json\"");
        assert_eq!(response.header("cache-control"), "no-store");
        let user = &response.body["user"];
        assert_eq!((&user["id"], &user["email"]), (&json!(id.0), &json!("ana@x.example")));
        assert_eq!(response.body["hasSecondFactor"], true);
        assert_eq!(response.body["sessions"].as_array().unwrap().len(), 1, "only the user's own session");
        let kinds: Vec<_> =
            response.body["events"].as_array().unwrap().iter().map(|event| event["kind"].clone()).collect();
        for kind in ["user.registered", "user.signed_in", "user.second_factor_changed"] {
            assert!(kinds.contains(&json!(kind)), "{kinds:?}");
        }
        let secrets = [ana.access_token().unwrap(), ana.cookie("rt").unwrap(), ana.cookie("dca_device").unwrap()];
        for secret in
            secrets.iter().chain(&codes).map(String::as_str).chain(["$argon2", PASSWORD, "ben@", "sealed", "hash"])
        {
            assert!(!response.text.contains(secret), "{secret} is exported");
        }
        assert_eq!(events_of_kind(t.core(), "user.exported").await.len(), 1);
        assert_eq!(Browser::new(&t).get("/me/export").await.status, 401);
        assert!(!ben.get("/me/export").await.text.contains("ana@"));
        t
    });
}

#[test]
fn deletion_needs_the_password_and_is_undone_by_a_sign_in_within_14_days() {
    it_unstarted(|mut t| async {
        let mail = t.start_mail_sink().await;
        t.start_with_limits(&[]).await;
        let (ana, _) = signed_in_as(&t, "ana@x.example", Role::User).await;
        let second = sign_in_as(&t, "ana@x.example").await;
        for wrong in [Value::Null, json!({}), json!({ "password": "not this one" }), json!({ "password": null })] {
            assert_eq!(delete(&ana, "/me", wrong).await.code(), "INVALID_CREDENTIALS");
        }
        assert_eq!((ana.get("/me").await.status, second.get("/me").await.status), (200, 200));
        let scheduled = delete(&ana, "/me", json!({ "password": PASSWORD })).await;
        assert_eq!(scheduled.status, 202, "{scheduled:?}");
        let deletion_at: chrono::DateTime<chrono::Utc> =
            scheduled.body["deletionAt"].as_str().unwrap().parse().unwrap();
        assert_eq!(deletion_at - t.clock.now(), TimeDelta::days(14));
        for browser in [&ana, &second] {
            assert_eq!(browser.get("/me").await.code(), "INVALID_SESSION");
            assert_eq!(browser.post("/auth/refresh", Value::Null).await.status, 401);
        }
        assert_eq!(mail.next("ana@x.example").await.subject, "Your account will be deleted");

        t.advance_when_idle(TimeDelta::days(14) - TimeDelta::seconds(1)).await;
        t.run_worker(CLEANUP).await;
        assert_eq!(login(&t, "ana@x.example").await.status, 200, "one second before the deletion");
        assert_eq!(events_of_kind(t.core(), "user.deletion_undone").await.len(), 1);
        t.advance_when_idle(TimeDelta::days(30)).await;
        t.run_worker(CLEANUP).await;
        assert_eq!(login(&t, "ana@x.example").await.status, 200, "the deletion stays undone");
        mail.finish();
        t
    });
}

#[test]
fn no_personal_data_is_left_14_days_after_a_deletion() {
    it_unstarted(|mut t| async {
        let mail = t.start_mail_sink().await;
        t.start_with_limits(&[]).await;
        let (ana, _) = signed_in_as(&t, "ana@x.example", Role::User).await;
        let (ben, _) = signed_in_as(&t, "ben@x.example", Role::User).await;
        let (app, _) = Authenticator::enabled(&t, &ana).await;
        let reset = json!({ "email": "ana@x.example" });
        assert_eq!(post(&t, "/auth/reset-password-request", reset).await.status, 201);
        t.advance_when_idle(TimeDelta::seconds(60)).await;
        let form = json!({ "password": PASSWORD, "code": app.code(t.clock.now()) });
        assert_eq!(delete(&ana, "/me", form).await.status, 202);
        t.wait_until_idle().await;
        mail.forget("ana@x.example");
        t.advance_when_idle(TimeDelta::days(14)).await;
        t.run_worker(CLEANUP).await;
        for (table, left) in [
            ("users", 1),
            ("credentials", 1),
            ("sessions", 1),
            ("refresh_tokens", 0),
            ("second_factors", 0),
            ("recovery_codes", 0),
            ("one_time_tokens", 0),
        ] {
            assert_eq!(count(&t, table).await, left, "{table}");
        }
        for table in ["users", "events", "outbox", "throttles", "identities", "sessions"] {
            let text = format!("{:?}", rows(t.core().db.writer(), &format!("SELECT * FROM {table}")).await);
            assert!(!text.contains("ana@") && !text.contains("Ana"), "{table}: {text}");
        }
        assert_eq!(events_of_kind(t.core(), "user.erased").await.len(), 1);
        assert_eq!(login(&t, "ana@x.example").await.code(), "INVALID_CREDENTIALS");
        assert_eq!(login(&t, "ben@x.example").await.status, 200, "other accounts are unchanged");
        drop(ben);
        // The email can be used again.
        create_account(&t, "ana@x.example", Role::User).await;
        assert_eq!(login(&t, "ana@x.example").await.status, 200);
        mail.finish();
        t
    });
}

#[test]
fn deleted_license_holder_keeps_only_the_discord_id_and_the_license() {
    it_unstarted(|mut t| async {
        let google = t.with_google().await;
        t.start_with_limits(&[]).await;
        let tenant = TestTenant::new(t.core(), "Makers").await;
        let gold = tenant.product("Gold", "GOLD").await;
        let (license, key) = tenant.license(&gold, 42).await;
        let api_key = tenant.api_key(dca_core::crypto::api_key::ApiKeyKind::Secret, &[&gold]).await.1;
        // The member's Discord user becomes a registered account.
        let ana = Browser::new(&t);
        let person = google.person("117", "Ana Lima", Some(("ana@mail.example", true)));
        assert_eq!(sign_in_with_google(&ana, &google, &person).await.status, 200);
        let holder = users::find_by_identity(t.core(), Provider::Discord, "42").await.unwrap().unwrap();
        assert_eq!(count(&t, "users").await, 2);
        for sql in [
            "UPDATE identities SET user_id = (SELECT user_id FROM holders) WHERE provider = 'google'",
            "UPDATE sessions SET user_id = (SELECT user_id FROM holders)",
            "UPDATE users SET email = NULL, folded_email = NULL, email_verified_at = NULL WHERE email IS NOT NULL",
            "UPDATE users SET email = 'ana@mail.example', folded_email = 'ana@mail.example', name = 'Ana Lima', \
             role = 'ADMIN', deletion_at = created_at WHERE id = (SELECT user_id FROM holders)",
        ] {
            execute(t.core(), sql).await;
        }
        t.advance_when_idle(TimeDelta::days(14)).await;
        t.run_worker(CLEANUP).await;
        let left = users::find(t.core(), holder).await.unwrap().expect("the row stays");
        assert_eq!((left.email, left.name, left.role.as_str(), left.registered_at), (None, None, "USER", None));
        assert_eq!((left.folded_email, left.locale, left.deletion_at), (None, None, None));
        let identities = rows(t.core().db.writer(), "SELECT provider, name FROM identities").await;
        assert_eq!(identities, [json!({ "provider": "discord", "name": null })]);
        assert_eq!(count(&t, "sessions").await, 0);
        assert_eq!(t.validate(&api_key, &key).await["code"], "VALID");
        assert_eq!(licenses::reveal_key(t.core(), &license).unwrap(), key);
        t
    });
}

#[test]
fn cleanup_deletes_unverified_accounts_and_expired_rows() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[("DCA_LETTERS_PER_NETWORK", "1000")]).await;
        let form = |email: &str| json!({ "email": email, "password": PASSWORD, "name": "New" });
        assert_eq!(post(&t, "/auth/signup", form("new@x.example")).await.status, 201);
        create_account(&t, "ana@x.example", Role::User).await;
        assert_eq!(login(&t, "ana@x.example").await.status, 200);
        assert_eq!(login(&t, "nobody@x.example").await.status, 401);
        t.wait_until_idle().await;
        t.advance_when_idle(TimeDelta::days(7)).await;
        t.run_worker(CLEANUP).await;
        assert_eq!(
            (count(&t, "users").await, count(&t, "throttles").await),
            (2, 0),
            "unverified accounts are kept for a week"
        );
        t.advance_when_idle(TimeDelta::days(1)).await;
        t.run_worker(CLEANUP).await;
        assert_eq!((count(&t, "users").await, count(&t, "credentials").await), (1, 1));
        let sql = "SELECT email FROM users";
        assert_eq!(rows(t.core().db.writer(), sql).await, [json!({ "email": "ana@x.example" })]);
        assert_eq!(post(&t, "/auth/reset-password-request", json!({ "email": "ana@x.example" })).await.status, 201);
        assert_eq!(count(&t, "one_time_tokens").await, 1);
        t.wait_until_idle().await;
        t.advance_when_idle(TimeDelta::days(8)).await;
        t.run_worker(CLEANUP).await;
        assert_eq!((count(&t, "one_time_tokens").await, count(&t, "sessions").await), (0, 1));
        t.advance_when_idle(TimeDelta::days(180)).await;
        t.run_worker(CLEANUP).await;
        assert_eq!((count(&t, "sessions").await, count(&t, "refresh_tokens").await), (0, 0));
        assert_eq!(count(&t, "users").await, 1, "verified accounts stay");
        t
    });
}

#[test]
fn a_deletion_by_an_admin_is_undone_only_by_an_admin() {
    it_unstarted(|mut t| async {
        let mail = t.start_mail_sink().await;
        t.start_with_limits(&[]).await;
        let (root, _) = signed_in_as(&t, "root@x.example", Role::SuperAdmin).await;
        for (email, kept) in [("ana@a.example", true), ("ben@b.example", false)] {
            let (user, id) = signed_in_as(&t, email, Role::User).await;
            // A deletion that the user requested becomes the admin's.
            assert_eq!(delete(&user, "/me", json!({ "password": PASSWORD })).await.status, 202);
            mail.next(email).await;
            let path = format!("/admin/users/{id}");
            let scheduled = delete(&root, &path, Value::Null).await;
            assert_eq!(scheduled.status, 202, "{scheduled:?}");
            let text = mail.next(email).await.text;
            assert!(text.contains("An administrator of DCA-Auth has decided to delete your account."), "{text}");
            assert_eq!(user.get("/me").await.code(), "INVALID_SESSION");
            // The user can still sign in, for example to export their data.
            let again = sign_in_as(&t, email).await;
            assert_eq!(again.get("/me").await.body["deletionAt"], scheduled.body["deletionAt"]);
            if kept {
                let active = json!({ "status": "ACTIVE" });
                let user = root.ask(reqwest::Method::PATCH, &path, active, &[]).await;
                assert_eq!((user.status, &user.body["deletionAt"]), (200, &Value::Null), "{user:?}");
            }
        }
        t.advance_when_idle(TimeDelta::days(14)).await;
        t.run_worker(CLEANUP).await;
        assert_eq!(login(&t, "ana@a.example").await.status, 200);
        assert_eq!(login(&t, "ben@b.example").await.code(), "INVALID_CREDENTIALS");
        mail.finish();
        t
    });
}

#[test]
fn the_database_refuses_to_delete_a_user_with_licenses() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let tenant = TestTenant::new(t.core(), "Makers").await;
        tenant.license(&tenant.product("Gold", "GOLD").await, 42).await;
        for table in ["licenses", "entitlement_sources", "holders"] {
            let deleted = t.core().db.writer().execute_unprepared("DELETE FROM users").await;
            assert!(deleted.is_err(), "with a row in {table}");
            assert_eq!(count(&t, table).await, 1);
            execute(t.core(), &format!("DELETE FROM {table}")).await;
        }
        execute(t.core(), "DELETE FROM users").await;
        t
    });
}
