//! Password rules: what is refused, how passwords are compared, and hashes of earlier systems.

use dca_core::users::Role;
use serde_json::json;

use super::brute_force::login;
use crate::support::{
    accounts::{auth_state, create_account, execute, post, reset_token, signed_in_as},
    browser::PASSWORD,
    fixtures::rows,
    harness::it_unstarted,
};

#[test]
fn bcrypt_hash_of_an_earlier_system_is_replaced_at_sign_in() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        create_account(&t, "ana@x.example", Role::User).await;
        let hash = bcrypt::hash("their old password", 4).unwrap();
        execute(t.core(), &format!("UPDATE credentials SET password_hash = '{hash}'")).await;
        assert_eq!(login(&t, "ana@x.example", PASSWORD).await.status, 401);
        let stored = async || rows(t.core().db.writer(), "SELECT password_hash FROM credentials").await;
        assert_eq!(stored().await, [json!({ "password_hash": hash })], "a wrong password replaces nothing");
        for _ in 0..2 {
            assert_eq!(login(&t, "ana@x.example", "their old password").await.status, 200);
            let replaced = stored().await[0]["password_hash"].as_str().unwrap().to_owned();
            assert!(replaced.starts_with("$argon2id$v=19$m=12288,t=3,p=1$"), "{replaced}");
        }
        // Hashes with excessive cost or invalid format are not computed.
        for invalid in ["$2b$31$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW", "nonsense", ""] {
            execute(t.core(), &format!("UPDATE credentials SET password_hash = '{invalid}'")).await;
            assert_eq!(login(&t, "ana@x.example", "x").await.status, 401, "{invalid}");
        }
        t
    });
}

#[test]
fn weak_passwords_are_refused_wherever_a_password_is_set() {
    it_unstarted(|mut t| async {
        let mail = t.start_mail_sink().await;
        t.start_with_limits(&[("DCA_APP_NAME", "Lighthouse")]).await;
        let (ana, _) = signed_in_as(&t, "workshop@x.example", Role::User).await;
        let token = reset_token(&t, &mail, "workshop@x.example").await;
        let before = auth_state(t.core()).await;
        for weak in [
            "password",
            "12345678",
            "qwertyuiop",
            "Password1",
            "iloveyou",
            "aaaaaaaaaaaa",
            "workshop1",
            "Somebody2026",
            "lighthouse!",
            "short7!",
            "       ",
            "",
            &"x1".repeat(65),
            &"🦄".repeat(129),
        ] {
            let sign_up = json!({ "email": "workshop@x.example", "password": weak, "name": "Somebody" });
            for (route, response) in [
                ("sign-up", post(&t, "/auth/signup", sign_up).await),
                ("reset", post(&t, "/auth/reset-password", json!({ "token": token, "password": weak })).await),
                (
                    "change",
                    ana.post("/auth/change-password", json!({ "currentPassword": PASSWORD, "newPassword": weak }))
                        .await,
                ),
            ] {
                assert_eq!(
                    (response.status, response.code()),
                    (400, "VALIDATION_ERROR"),
                    "{route} with {weak:?}: {response:?}"
                );
                assert_eq!(response.body["field"], "password", "{route} with {weak:?}");
                assert!(weak.len() < 9 || !response.text.contains(weak), "{route} echoes it: {response:?}");
            }
        }
        assert_eq!(auth_state(t.core()).await, before);
        let strong = json!({ "token": token, "password": "another-Ketchup-42" });
        assert_eq!(post(&t, "/auth/reset-password", strong).await.status, 201, "the token is still valid");
        mail.next("workshop@x.example").await;
        mail.finish();
        t
    });
}

#[test]
fn passwords_are_compared_exactly() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let (ana, _) = signed_in_as(&t, "ana@x.example", Role::User).await;
        let long: String = (0..128_u16).map(|n| char::from(b'!' + u8::try_from(n * 7 % 90).unwrap())).collect();
        let mut current = PASSWORD.to_owned();
        for (case, chosen, similar) in [
            ("eight characters", "vK9#qLz2", "vk9#qlz2"),
            ("128 characters", long.as_str(), &long[..127]),
            ("a NUL", "plow\0Ketchup-41", "plow"),
            ("spaces around", "  leading and trailing 7  ", "leading and trailing 7"),
            ("emoji", "🦄🐙🚀🌵🎺🧊🪁🫖", "🦄🐙🚀🌵🎺🧊🪁"),
            ("no normalization", "caf\u{e9}-plow-sundial", "cafe\u{301}-plow-sundial"),
            ("more than 72 bytes", &"plow-Ketchup-41 sundial ".repeat(4), &"plow-Ketchup-41 sundial ".repeat(3)),
        ] {
            let change = json!({ "currentPassword": current, "newPassword": chosen });
            let response = ana.post("/auth/change-password", change).await;
            assert_eq!(response.status, 200, "{case}: {response:?}");
            assert_eq!(login(&t, "ana@x.example", chosen).await.status, 200, "{case}");
            assert_eq!(login(&t, "ana@x.example", similar).await.status, 401, "{case}");
            chosen.clone_into(&mut current);
        }
        let huge = json!({ "email": "ana@x.example", "password": "x".repeat(1024 * 1024) });
        for path in ["/auth/login", "/auth/signup", "/auth/reset-password", "/api/auth/login"] {
            let response = post(&t, path, huge.clone()).await;
            assert_eq!((response.status, response.code()), (413, "PAYLOAD_TOO_LARGE"), "{path}: {response:?}");
        }
        t
    });
}
