//! Linking accounts at providers, and what happens to emails and licenses.

use chrono::TimeDelta;
use dca_core::{
    entitlements,
    ids::UserId,
    licenses, products,
    users::{self, Provider},
};
use serde_json::{Value, json};

use super::sign_in::{ProviderAccount, count, open, param, query, with_providers};
use crate::support::{
    accounts::user_id,
    browser::{Browser, PASSWORD},
    harness::{it_unstarted, key_in, licenses_of},
};

#[test]
fn a_matching_email_does_not_link_accounts() {
    it_unstarted(|mut t| async {
        let (mail, google) = (t.start_mail_sink().await, with_providers(&mut t).await);
        t.start_without_bot().await;
        // The local account exists first.
        let local = Browser::signed_in(&t, &mail, "ana@x.example").await;
        let browser = Browser::new(&t);
        let by_discord = ProviderAccount::discord(&t, "ana").with_email("ANA@x.example", true);
        let signed_in = by_discord.sign_in(&browser).await.body;
        assert_eq!((&signed_in["isNewUser"], &signed_in["emailInUse"]), (&json!(true), &json!(true)));
        let theirs = signed_in["user"].clone();
        assert_ne!(theirs["id"].as_str().unwrap(), user_id(&local).await);
        assert_eq!((&theirs["email"], &theirs["email_verified"]), (&Value::Null, &json!(false)));
        assert_eq!(local.get("/me").await.body["discordId"], Value::Null);
        // The provider account exists first.
        let by_google = ProviderAccount::google(&google, "117", Some(("eva@x.example", true)));
        let eva = by_google.sign_in(&Browser::new(&t)).await.body["user"].clone();
        assert_eq!(eva["email"], "eva@x.example");
        let form = json!({ "email": "eva@x.example", "password": PASSWORD, "name": "Eva" });
        assert_eq!(Browser::new(&t).post("/auth/signup", form).await.status, 201);
        assert_eq!(mail.next("eva@x.example").await.subject, "You already have an account");
        assert_eq!(Browser::new(&t).sign_in("eva@x.example").await.status, 403, "the email belongs to another account");
        let again = by_google.sign_in(&Browser::new(&t)).await;
        assert_eq!((&again.body["user"]["id"], &again.body["isNewUser"]), (&eva["id"], &json!(false)));
        // Two providers with the same email.
        let by_discord = ProviderAccount::discord(&t, "eva").with_email("eva@x.example", true);
        let page = by_discord.start(&browser).await;
        let page = open(&browser, &by_discord.consent(&page)).await;
        assert!(page.text.contains("another account already has your email address"), "{page:?}");
        let other = by_discord.sign_in(&Browser::new(&t)).await;
        assert_eq!(other.body["emailInUse"], Value::Null, "only said when the account is created");
        assert_ne!(other.body["user"]["id"], eva["id"]);
        assert_eq!(other.body["user"]["email"], Value::Null);
        assert_eq!(count(&t, "users").await, 5, "including the unverified account");
        mail.finish();
        google.finish();
        t
    });
}

#[test]
fn an_email_verified_by_a_provider_replaces_an_unverified_account() {
    it_unstarted(|mut t| async {
        let (mail, google) = (t.start_mail_sink().await, with_providers(&mut t).await);
        t.start_without_bot().await;
        let squatter = Browser::new(&t);
        let form = json!({ "email": "eva@x.example", "password": PASSWORD, "name": "Squatter" });
        squatter.post("/auth/signup", form).await;
        let token = mail.next("eva@x.example").await.token();
        let unverified = ProviderAccount::discord(&t, "mallory").with_email("eva@x.example", false);
        assert_eq!(unverified.sign_in(&Browser::new(&t)).await.body["user"]["email"], Value::Null);
        assert_eq!(
            squatter.sign_in("eva@x.example").await.code(),
            "EMAIL_NOT_VERIFIED",
            "the unverified account is kept"
        );
        let eva = ProviderAccount::google(&google, "117", Some(("eva@x.example", true)));
        assert_eq!(eva.sign_in(&Browser::new(&t)).await.body["user"]["email"], "eva@x.example");
        assert_eq!(squatter.sign_in("eva@x.example").await.status, 401);
        assert_eq!(squatter.post("/auth/verify-email", json!({ "token": token })).await.status, 400);
        mail.finish();
        google.finish();
        t
    });
}

#[test]
fn a_provider_account_is_linked_from_a_session_and_to_one_user() {
    it_unstarted(|mut t| async {
        let (mail, google) = (t.start_mail_sink().await, with_providers(&mut t).await);
        t.start_without_bot().await;
        let (ana, ben) = (ProviderAccount::discord(&t, "ana"), ProviderAccount::discord(&t, "ben"));
        assert_eq!(ana.link(&Browser::new(&t)).await.code(), "NO_TOKEN");
        let browser = Browser::signed_in(&t, &mail, "ana@x.example").await;
        let linked = ana.link(&browser).await;
        assert_eq!((linked.status, linked.body), (200, json!({ "message": "Linked" })));
        let ana_id = user_id(&browser).await;
        let signed_in = ana.sign_in(&Browser::new(&t)).await;
        assert_eq!((&signed_in.body["user"]["id"], &signed_in.body["isNewUser"]), (&json!(ana_id), &json!(false)));
        assert_eq!(ana.link(&browser).await.status, 200, "linking again changes nothing");
        let second = ben.link(&browser).await;
        assert_eq!((second.status, second.code()), (409, "CONFLICT"), "{second:?}");

        // A provider account linked to another user is refused by both callbacks.
        let other = Browser::signed_in(&t, &mail, "ben@x.example").await;
        assert_eq!(ana.link(&other).await.code(), "CONFLICT");
        let started = other.post("/auth/discord/link", Value::Null).await;
        let callback = ana.consent(started.body["authUrl"].as_str().unwrap());
        assert_eq!(other.get(&callback).await.code(), "CONFLICT");
        assert_eq!(other.get("/me").await.body["discordId"], Value::Null);
        // A link completed in another browser fails; in the same browser the page confirms it.
        let started = other.post("/auth/discord/link", Value::Null).await;
        let callback = ben.consent(started.body["authUrl"].as_str().unwrap());
        let stranger = Browser::new(&t);
        assert_eq!(stranger.get(&callback).await.code(), "SIGN_IN_FAILED");
        let page = open(&other, &callback).await;
        assert!(page.status == 200 && page.text.contains("Your account is linked"), "{page:?}");
        assert!(other.get("/me").await.body["discordId"].is_string());
        // The link fails if the user signed out before completing it.
        let started = other.post("/auth/google/link", Value::Null).await;
        let callback = ProviderAccount::google(&google, "116", None).consent(started.body["authUrl"].as_str().unwrap());
        assert_eq!(other.post("/auth/logout-all", Value::Null).await.status, 200);
        assert_eq!(other.get(&callback).await.code(), "INVALID_SESSION");
        assert_eq!(count(&t, "identities").await, 2);

        let eva = ProviderAccount::google(&google, "117", None);
        assert_eq!(eva.link(&browser).await.status, 200);
        let unlinked = browser.post("/auth/google/unlink", Value::Null).await;
        assert_eq!((unlinked.status, unlinked.body), (200, json!({ "message": "Unlinked" })));
        assert_eq!(browser.post("/auth/google/unlink", Value::Null).await.status, 404);
        let fresh = eva.sign_in(&Browser::new(&t)).await;
        assert_eq!(fresh.body["isNewUser"], true, "an unlinked provider account signs up again");
        // The only sign-in method cannot be unlinked.
        let only = Browser::new(&t);
        ProviderAccount::google(&google, "118", None).sign_in(&only).await;
        assert_eq!(only.post("/auth/google/unlink", Value::Null).await.code(), "CONFLICT");
        assert_eq!(only.post("/auth/discord/unlink", Value::Null).await.status, 404);
        assert_eq!(ProviderAccount::discord(&t, "carl").link(&only).await.status, 200);
        let path = |provider: &str| format!("/auth/{provider}/unlink");
        let (google_path, discord_path) = (path("google"), path("discord"));
        let (first, second) =
            futures::join!(only.post(&google_path, Value::Null), only.post(&discord_path, Value::Null));
        let mut statuses = [first.status, second.status];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 409], "of two concurrent requests, one is refused");
        t.wait_until_idle().await;
        for email in ["ana@x.example", "ben@x.example"] {
            mail.forget(email);
        }
        mail.finish();
        google.finish();
        t
    });
}

#[test]
fn linking_discord_brings_existing_and_later_licenses() {
    it_unstarted(|mut t| async {
        let (mail, google) = (t.start_mail_sink().await, with_providers(&mut t).await);
        t.start().await;
        let (guild, gold, ana) = t.guild_with_product("Gold Tools", 0).await;
        ana.grant(gold);
        let key = key_in(&t.discord.next_dm(&ana).await.content);
        let api_key = t.api_key(&guild, "Gold Tools").await;
        let browser = Browser::signed_in(&t, &mail, "ana@x.example").await;
        let account = ProviderAccount::Discord(t.discord.clone(), ana.clone());
        let linked = account.link(&browser).await;
        assert_eq!(linked.status, 200, "{linked:?}");
        mail.next("ana@x.example").await;
        let id = user_id(&browser).await;
        let licenses = licenses_of(&t, &guild, &ana).await;
        assert_eq!(licenses.len(), 1);
        assert_eq!(licenses[0].user_id.unwrap().to_string(), id, "the license belongs to the account");
        let export = browser.get("/me/export").await.body;
        assert_eq!(export["licenses"].as_array().unwrap().len(), 1, "{export:?}");
        assert_eq!(t.validate(&api_key, &key).await["code"], "VALID");
        let refused = browser.post("/auth/discord/unlink", Value::Null).await;
        assert_eq!((refused.status, refused.code()), (409, "CONFLICT"), "unlinking would lose the licenses");
        ana.take(gold);
        t.wait_for_events_of_kind(&guild, "license.revoked", 1).await;
        assert_eq!(t.validate(&api_key, &key).await["code"], "REVOKED");
        ana.grant(gold);
        let new = key_in(&t.discord.next_dm(&ana).await.content);
        assert_eq!(t.validate(&api_key, &new).await["code"], "VALID");
        assert_eq!(licenses_of(&t, &guild, &ana).await.len(), 2);
        // Signing in uses the account that was created when the member got the role.
        let ben = guild.join("ben");
        ben.grant(gold);
        t.discord.next_dm(&ben).await;
        let browser = Browser::new(&t);
        let signed_in = ProviderAccount::Discord(t.discord.clone(), ben.clone()).sign_in(&browser).await;
        assert_eq!(signed_in.body["isNewUser"], true);
        let licenses = licenses_of(&t, &guild, &ben).await;
        assert_eq!(licenses[0].user_id.unwrap().to_string(), signed_in.body["user"]["id"].as_str().unwrap());
        mail.finish();
        google.finish();
        t
    });
}

#[test]
fn linking_discord_to_an_account_with_licenses_keeps_the_license_in_use() {
    it_unstarted(|mut t| async {
        let (mail, google) = (t.start_mail_sink().await, with_providers(&mut t).await);
        t.start().await;
        let (guild, gold, _) = t.guild_with_product("Gold Tools", 0).await;
        let (caller, api_key) = (t.caller(&guild).await, t.api_key(&guild, "Gold Tools").await);
        let product = products::get(t.core(), &caller.scope(), "Gold Tools").await.unwrap();
        for (name, in_use, other, roles) in [("ana", 0, 1, 2), ("bea", 1, 0, 4)] {
            let member = guild.join(name);
            member.grant(gold);
            let member_key = key_in(&t.discord.next_dm(&member).await.content);
            let browser = Browser::signed_in(&t, &mail, &format!("{name}@x.example")).await;
            let user = UserId(user_id(&browser).await.parse().unwrap());
            entitlements::grant(t.core(), &caller, product.id, user).await.unwrap();
            t.wait_until_idle().await;
            let granted = licenses::list_usable(t.core(), &caller.scope(), user).await.unwrap().pop().unwrap();
            let keys = [member_key, granted.key];
            assert_eq!(t.validate(&api_key, &keys[in_use]).await["code"], "VALID");

            let linked = ProviderAccount::Discord(t.discord.clone(), member.clone()).link(&browser).await;
            assert_eq!(linked.status, 200, "{linked:?}");
            mail.next(&format!("{name}@x.example")).await;
            assert_eq!(t.validate(&api_key, &keys[in_use]).await["code"], "VALID", "{name}");
            assert_eq!(t.validate(&api_key, &keys[other]).await["code"], "REVOKED", "{name}");
            let licenses = licenses_of(&t, &guild, &member).await;
            assert!(licenses.len() == 2 && licenses.iter().all(|license| license.user_id == Some(user)));

            // The grant still entitles, without the role.
            member.take(gold);
            t.wait_for_events_of_kind(&guild, "user.role_changed", roles).await;
            assert_eq!(t.validate(&api_key, &keys[in_use]).await["code"], "VALID", "{name}");
        }
        mail.finish();
        google.finish();
        t
    });
}

#[test]
fn linking_and_unlinking_need_the_password_or_a_recent_sign_in_and_notify_the_owner() {
    it_unstarted(|mut t| async {
        let (mail, google) = (t.start_mail_sink().await, with_providers(&mut t).await);
        t.start_without_bot().await;
        let browser = Browser::signed_in(&t, &mail, "ana@x.example").await;
        let (discord, by_google) = (ProviderAccount::discord(&t, "ana"), ProviderAccount::google(&google, "117", None));
        let next_notice = async || {
            let email = mail.next("ana@x.example").await;
            assert_eq!(email.subject, "Your sign-in methods were changed");
            email.text
        };
        assert_eq!(discord.link(&browser).await.status, 200, "the sign-in is recent");
        let notice = next_notice().await;
        assert!(notice.contains("Now these can sign in to it: Discord (ana)."), "{notice}");

        t.advance_when_idle(TimeDelta::minutes(15) + TimeDelta::seconds(1)).await;
        assert_eq!(browser.post("/auth/refresh", Value::Null).await.status, 200);
        let password = json!({ "password": PASSWORD });
        for path in ["/auth/google/link", "/auth/discord/unlink"] {
            for body in [Value::Null, json!({ "password": "not this one" }), json!({ "password": "" })] {
                let refused = browser.post(path, body.clone()).await;
                assert_eq!((refused.status, refused.code()), (401, "INVALID_CREDENTIALS"), "{path} {body}");
            }
        }
        let started = browser.post("/auth/google/link", password.clone()).await;
        let callback = by_google.consent(started.body["authUrl"].as_str().unwrap());
        assert_eq!(browser.get(&callback).await.status, 200, "the password is not needed again");
        let notice = next_notice().await;
        assert!(notice.contains("Discord (ana), Google (Ana Lima)."), "{notice}");
        assert_eq!(browser.post("/auth/google/unlink", password.clone()).await.status, 200);
        assert!(!next_notice().await.contains("Google (Ana Lima)"));

        // The callback of a sign-in does not replace the confirmation.
        for (password, status) in [(Value::Null, 401), (json!(PASSWORD), 200)] {
            let started = browser.post("/auth/google", Value::Null).await;
            let callback = query(&by_google.consent(started.body["authUrl"].as_str().unwrap()));
            let (code, state) = (param(&callback, "code"), param(&callback, "state"));
            let body = json!({ "code": code, "state": state, "password": password });
            let linked = browser.post("/auth/google/link", body).await;
            assert_eq!(linked.status, status, "{linked:?}");
        }
        next_notice().await;
        browser.post("/auth/reset-password-request", json!({ "email": "ana@x.example" })).await;
        let reset = mail.next("ana@x.example").await.text;
        assert!(reset.contains("Discord (ana), Google (Ana Lima). A new password does not change that."), "{reset}");
        mail.finish();
        google.finish();
        t
    });
}

#[test]
fn a_role_given_while_accounts_are_merged_is_not_lost() {
    it_unstarted(|mut t| async {
        let (mail, google) = (t.start_mail_sink().await, with_providers(&mut t).await);
        t.start().await;
        let (guild, gold, _) = t.guild_with_product("Gold Tools", 0).await;
        let api_key = t.api_key(&guild, "Gold Tools").await;
        for n in 0..6 {
            let member = guild.join(&format!("ana{n}"));
            users::ensure(t.core(), Provider::Discord, &member.user_id().to_string()).await.unwrap();
            let browser = Browser::signed_in(&t, &mail, &format!("ana{n}@x{n}.example")).await;
            let account = ProviderAccount::Discord(t.discord.clone(), member.clone());
            let (linked, key) = futures::join!(account.link(&browser), async {
                member.grant(gold);
                key_in(&t.discord.next_dm(&member).await.content)
            });
            assert_eq!(linked.status, 200, "{linked:?}");
            mail.next(&format!("ana{n}@x{n}.example")).await;
            let licenses = licenses_of(&t, &guild, &member).await;
            assert_eq!(licenses.len(), 1);
            assert_eq!(licenses[0].user_id.unwrap().to_string(), user_id(&browser).await);
            assert_eq!(t.validate(&api_key, &key).await["code"], "VALID");
        }
        mail.finish();
        google.finish();
        t
    });
}

#[test]
fn an_invalid_user_id_of_a_provider_is_refused() {
    it_unstarted(|mut t| async {
        let google = with_providers(&mut t).await;
        t.start_without_bot().await;
        for subject in ["", "\0", "1\0", " ", "1\u{202e}", &"1".repeat(256)] {
            let refused = ProviderAccount::google(&google, subject, None).sign_in(&Browser::new(&t)).await;
            assert_eq!((refused.status, refused.code()), (400, "SIGN_IN_FAILED"), "{subject:?}: {refused:?}");
        }
        assert_eq!((count(&t, "users").await, count(&t, "identities").await), (0, 0));
        google.finish();
        t
    });
}
