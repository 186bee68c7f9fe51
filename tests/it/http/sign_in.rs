//! Sign-in with Discord and Google: authorization, callback, account linking.

use chrono::TimeDelta;
use dca_core::{accounts::admin, entitlements, ids::UserId, licenses, products};
use dca_test_support::{GooglePerson, SimDiscord, SimGoogle, SimMember};
use reqwest::{Method, Url};
use serde_json::{Value, json};
use totp_rs::Totp;

use crate::support::{
    accounts::{signed_in_admin, user_id},
    browser::{Browser, PASSWORD, Response},
    fixtures::rows,
    harness::{TestApp, it_unstarted, key_in, licenses_of, services},
};

/// The configured public URL. Tests send their requests to the real port.
const HOME: &str = "http://dca.example";

/// Configures both providers for the next start.
async fn with_providers(t: &mut TestApp) -> SimGoogle {
    let google = SimGoogle::start().await;
    for (name, value) in [
        ("DCA_PUBLIC_URL", HOME.to_owned()),
        ("DCA_DISCORD_CLIENT_ID", t.discord.client_id()),
        ("DCA_DISCORD_CLIENT_SECRET", t.discord.client_secret()),
        ("DCA_GOOGLE_CLIENT_ID", google.client_id()),
        ("DCA_GOOGLE_CLIENT_SECRET", google.client_secret()),
        ("DCA_GOOGLE_API_URL", google.base_url()),
    ] {
        t.set(name, &value);
    }
    t.discord.register_redirect(&format!("{HOME}/auth/discord/callback"));
    google.register_redirect(&format!("{HOME}/auth/google/callback"));
    google
}

/// A user's account at a provider.
#[derive(Clone)]
enum ProviderAccount {
    Discord(SimDiscord, SimMember),
    Google(SimGoogle, GooglePerson),
}

impl ProviderAccount {
    fn discord(t: &TestApp, name: &str) -> Self {
        Self::Discord(t.discord.clone(), t.discord.guild("Club").join(name))
    }

    fn google(google: &SimGoogle, sub: &str, email: Option<(&str, bool)>) -> Self {
        Self::Google(google.clone(), google.person(sub, "Ana Lima", email))
    }

    fn with_email(self, address: &str, verified: bool) -> Self {
        match &self {
            Self::Discord(_, member) => member.set_email(address, verified),
            Self::Google(google, person) => {
                google.person(&person.sub, "Ana Lima", Some((address, verified)));
            }
        }
        self
    }

    fn provider(&self) -> &'static str {
        match self {
            Self::Discord(..) => "discord",
            Self::Google(..) => "google",
        }
    }

    /// Consents on the provider's page; returns the path of the callback.
    fn consent(&self, page: &str) -> String {
        let callback = match self {
            Self::Discord(discord, member) => discord.consent(member, page),
            Self::Google(google, person) => google.consent(person, page),
        };
        callback.strip_prefix(HOME).expect("our own callback").to_owned()
    }

    fn decline(&self, page: &str) -> String {
        let callback = match self {
            Self::Discord(discord, _) => discord.decline(page),
            Self::Google(google, _) => google.decline(page),
        };
        callback.strip_prefix(HOME).expect("our own callback").to_owned()
    }

    /// Starts a sign-in; returns the address of the provider's page.
    async fn start(&self, browser: &Browser) -> String {
        let response = browser.get(&format!("/auth/{}", self.provider())).await;
        assert_eq!(response.status, 302, "{response:?}");
        response.header("location").to_owned()
    }

    /// Completes a sign-in in this browser.
    async fn sign_in(&self, browser: &Browser) -> Response {
        let page = self.start(browser).await;
        browser.get(&self.consent(&page)).await
    }

    /// Links the provider account to the signed-in account.
    async fn link(&self, browser: &Browser) -> Response {
        let started = browser.post(&format!("/auth/{}/link", self.provider()), Value::Null).await;
        let Some(page) = started.body["authUrl"].as_str() else { return started };
        let callback = query(&self.consent(page));
        let body = json!({ "code": param(&callback, "code"), "state": param(&callback, "state") });
        browser.post(&format!("/auth/{}/link", self.provider()), body).await
    }
}

fn query(path: &str) -> Vec<(String, String)> {
    Url::parse(HOME).unwrap().join(path).unwrap().query_pairs().into_owned().collect()
}

fn param<'a>(query: &'a [(String, String)], name: &str) -> &'a str {
    query.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
}

/// Opens a page as a browser does.
async fn open(browser: &Browser, path: &str) -> Response {
    browser.ask(Method::GET, path, Value::Null, &[("accept", "text/html,application/xhtml+xml")]).await
}

async fn registered(t: &TestApp) -> Vec<Value> {
    rows(t.core().db.writer(), "SELECT subject FROM events WHERE kind = 'user.registered' ORDER BY subject").await
}

async fn count(t: &TestApp, table: &str) -> usize {
    rows(t.core().db.writer(), &format!("SELECT 1 AS one FROM {table}")).await.len()
}

#[test]
fn sign_in_with_a_provider_works_with_redirects_json_and_pages() {
    it_unstarted(|mut t| async {
        let google = with_providers(&mut t).await;
        t.start_without_bot().await;
        for (account, scopes) in [
            (ProviderAccount::discord(&t, "ana").with_email("ana@d.example", true), "identify email"),
            (ProviderAccount::google(&google, "117", Some(("ana@g.example", true))), "openid email profile"),
        ] {
            let provider = account.provider();
            let browser = Browser::new(&t);
            let started = browser.get(&format!("/auth/{provider}")).await;
            let page = started.header("location").to_owned();
            let parameters = query(&page);
            assert_eq!((started.status, param(&parameters, "scope")), (302, scopes));
            assert_eq!(
                (param(&parameters, "response_type"), param(&parameters, "code_challenge_method")),
                ("code", "S256")
            );
            assert_eq!(param(&parameters, "redirect_uri"), format!("{HOME}/auth/{provider}/callback"));
            let state = param(&parameters, "state");
            let cookie = format!("dca_sign_in={state}; HttpOnly; SameSite=Lax; Path=/; Max-Age=600");
            assert_eq!(started.cookies(), [cookie]);

            let callback = account.consent(&page);
            let first = browser.get(&callback).await;
            assert_eq!((first.status, &first.body["isNewUser"]), (200, &json!(true)), "{first:?}");
            for member in ["/user/id", "/tokens/accessToken", "/tokens/refreshToken", "/sessionId", "/access_token"] {
                assert!(first.body.pointer(member).is_some_and(Value::is_string), "{member}");
            }
            assert!(browser.cookie("rt").is_some() && browser.cookie("dca_sign_in").is_none());
            let me = browser.get("/auth/me").await.body;
            let address = if provider == "discord" { "ana@d.example" } else { "ana@g.example" };
            assert_eq!((&me["user"]["email"], &me["user"]["email_verified"]), (&json!(address), &json!(true)));
            assert_eq!(me["session"]["method"], provider);
            assert!(!t.log.text().contains(param(&query(&callback), "code")), "the code is in the log");

            // As JSON with the state in the body, or in the cookie only.
            for start in ["/auth", "/api/auth"] {
                for with_state in [true, false] {
                    let app = Browser::new(&t);
                    let started = app.post(&format!("{start}/{provider}"), Value::Null).await;
                    assert_eq!(started.status, 200);
                    let callback = query(&account.consent(started.body["authUrl"].as_str().unwrap()));
                    let mut body = json!({ "code": param(&callback, "code") });
                    if with_state {
                        body["state"] = json!(param(&callback, "state"));
                    }
                    let again = app.post(&format!("{start}/{provider}/callback"), body).await;
                    assert_eq!((again.status, &again.body["isNewUser"]), (200, &json!(false)), "{again:?}");
                    assert_eq!(again.body["user"]["id"], first.body["user"]["id"]);
                }
            }
            let browser = Browser::new(&t);
            let page = account.start(&browser).await;
            let page = open(&browser, &account.consent(&page)).await;
            assert!(page.status == 200 && page.text.contains("You are signed in"), "{page:?}");
            assert_eq!(browser.post("/auth/refresh", Value::Null).await.status, 200);
        }
        assert_eq!((registered(&t).await.len(), count(&t, "users").await), (2, 2), "one event for each account");
        google.finish();
        t
    });
}

#[test]
fn the_browser_returns_to_the_frontend_with_a_cookie_and_no_token_in_the_url() {
    it_unstarted(|mut t| async {
        let google = with_providers(&mut t).await;
        t.set("APP_FRONTEND_URL", "https://app.example");
        t.start_without_bot().await;
        for account in [ProviderAccount::discord(&t, "ana"), ProviderAccount::google(&google, "117", None)] {
            let browser = Browser::new(&t);
            let response = account.sign_in(&browser).await;
            assert_eq!((response.status, response.header("location")), (302, "https://app.example/auth/cb"));
            assert_eq!(browser.post("/auth/refresh", Value::Null).await.status, 200);
            let other = if account.provider() == "discord" {
                ProviderAccount::google(&google, "118", None)
            } else {
                ProviderAccount::discord(&t, "ben")
            };
            let started = browser.post(&format!("/auth/{}/link", other.provider()), Value::Null).await;
            let response = browser.get(&other.consent(started.body["authUrl"].as_str().unwrap())).await;
            assert_eq!(
                (response.status, response.header("location")),
                (302, "https://app.example/auth/cb?linked=true")
            );
        }
        google.finish();
        t
    });
}

#[test]
fn a_callback_that_does_not_match_its_sign_in_is_refused() {
    it_unstarted(|mut t| async {
        let google = with_providers(&mut t).await;
        t.start_without_bot().await;
        let ana = ProviderAccount::discord(&t, "ana");
        let browser = Browser::new(&t);
        let refused = async |browser: &Browser, path: &str, reason: &str| {
            let response = browser.get(path).await;
            assert_eq!((response.status, response.code()), (400, "SIGN_IN_FAILED"), "{reason}: {response:?}");
            assert!(browser.cookie("rt").is_none() && browser.cookie("dca_sign_in").is_none(), "{reason}");
            let (users, sessions) = (count(&t, "users").await, count(&t, "sessions").await);
            assert_eq!((users, sessions), (0, 0), "{reason}");
        };
        let page = ana.start(&browser).await;
        let state = param(&query(&page), "state").to_owned();
        let callback = ana.consent(&page);
        refused(&Browser::new(&t), &callback, "no cookie").await;
        let other = Browser::new(&t);
        ana.start(&other).await;
        refused(&other, &callback, "the cookie of another sign-in").await;
        refused(&browser, &format!("/auth/discord/callback?code={}", param(&query(&callback), "code")), "no state")
            .await;
        browser.set_cookie("dca_sign_in", Some(&state));
        refused(&browser, &callback.replace("/discord/", "/google/"), "a state of Discord at Google's callback").await;
        browser.set_cookie("dca_sign_in", Some(&state));
        refused(&browser, &callback, "a state that was used").await;
        let page = ana.start(&browser).await;
        let fresh = format!("/auth/discord/callback?code=nonsense&state={}", param(&query(&page), "state"));
        refused(&browser, &fresh, "an unknown code").await;
        let page = ana.start(&browser).await;
        refused(&browser, &ana.decline(&page), "declined").await;
        for (method, path) in [("POST", "/oauth2/token"), ("GET", "/users/@me")] {
            let page = ana.start(&browser).await;
            let callback = ana.consent(&page);
            t.discord.fail_next(method, path, 500);
            refused(&browser, &callback, path).await;
        }
        for path in ["/token", "/v1/userinfo"] {
            let eva = ProviderAccount::google(&google, "117", None);
            let page = eva.start(&browser).await;
            let callback = eva.consent(&page);
            google.fail_next(path, 503);
            refused(&browser, &callback, path).await;
        }
        let page = ana.start(&browser).await;
        let callback = ana.consent(&page);
        t.advance(TimeDelta::minutes(10));
        refused(&browser, &callback, "ten minutes later").await;

        let page = ana.start(&browser).await;
        let callback = ana.consent(&page);
        let state = browser.cookie("dca_sign_in").unwrap();
        assert_eq!(browser.get(&callback).await.status, 200);
        let thief = Browser::new(&t);
        thief.set_cookie("dca_sign_in", Some(&state));
        assert_eq!(thief.get(&callback).await.code(), "SIGN_IN_FAILED", "a state works once");
        // A code used in another sign-in fails, because its PKCE verifier does not match.
        let page = ana.start(&browser).await;
        let stolen = query(&ana.consent(&page));
        let page = ana.start(&thief).await;
        let path =
            format!("/auth/discord/callback?code={}&state={}", param(&stolen, "code"), param(&query(&page), "state"));
        assert_eq!(thief.get(&path).await.code(), "SIGN_IN_FAILED", "PKCE");
        let page = open(&Browser::new(&t), "/auth/discord/callback?error=access_denied").await;
        assert!(page.status == 400 && page.text.contains("Something went wrong"), "{page:?}");
        google.finish();
        t
    });
}

#[test]
fn an_unconfigured_provider_returns_not_found_and_stores_nothing() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let root = signed_in_admin(&t).await;
        for provider in ["discord", "google"] {
            let response = root.get(&format!("/auth/{provider}")).await;
            assert_eq!((response.status, response.code()), (404, "NOT_FOUND"));
            assert!(response.body["detail"].as_str().unwrap().ends_with(" is not set up here."), "{response:?}");
            assert_eq!(response.body["title"], "Not found.");
            assert_eq!(root.post(&format!("/auth/{provider}"), Value::Null).await.status, 404);
            assert_eq!(root.post(&format!("/auth/{provider}/link"), Value::Null).await.status, 404);
        }
        assert_eq!(root.get("/auth/nonsense").await.status, 404);
        assert_eq!(count(&t, "one_time_tokens").await, 0);
        t
    });
}

#[test]
fn a_matching_email_does_not_link_accounts() {
    it_unstarted(|mut t| async {
        let (mail, google) = (t.start_mail_sink().await, with_providers(&mut t).await);
        t.start_without_bot().await;
        // The local account exists first.
        let local = Browser::signed_in(&t, &mail, "ana@x.example").await;
        let browser = Browser::new(&t);
        let by_discord = ProviderAccount::discord(&t, "ana").with_email("ANA@x.example", true);
        let theirs = by_discord.sign_in(&browser).await.body["user"].clone();
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
        let other =
            ProviderAccount::discord(&t, "eva").with_email("eva@x.example", true).sign_in(&Browser::new(&t)).await;
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
fn banned_and_suspended_users_cannot_sign_in_with_a_provider() {
    it_unstarted(|mut t| async {
        let google = with_providers(&mut t).await;
        t.start().await;
        let root = signed_in_admin(&t).await;
        let (guild, gold, ana) = t.guild_with_product("Gold Tools", 0).await;
        ana.grant(gold);
        t.discord.next_dm(&ana).await;
        // Banned before the first sign-in.
        let licenses = licenses_of(&t, &guild, &ana).await;
        let ban = format!("/admin/users/{}/ban", licenses[0].user_id.unwrap());
        assert_eq!(root.post(&ban, Value::Null).await.status, 200);
        let account = ProviderAccount::Discord(t.discord.clone(), ana.clone());
        let refused = account.sign_in(&Browser::new(&t)).await;
        assert_eq!((refused.status, refused.code()), (403, "ACCOUNT_BANNED"), "{refused:?}");
        let browser = Browser::new(&t);
        ProviderAccount::google(&google, "117", None).sign_in(&browser).await;
        assert_eq!(account.link(&browser).await.code(), "ACCOUNT_BANNED", "linking is refused too");
        // Suspended after a sign-in.
        let eva = ProviderAccount::google(&google, "118", None);
        let browser = Browser::new(&t);
        eva.sign_in(&browser).await;
        let path = format!("/admin/users/{}", user_id(&browser).await);
        root.ask(Method::PATCH, &path, json!({ "status": "SUSPENDED" }), &[]).await;
        assert_eq!(eva.sign_in(&Browser::new(&t)).await.code(), "ACCOUNT_SUSPENDED");
        assert_eq!(browser.get("/me").await.code(), "ACCOUNT_SUSPENDED");
        google.finish();
        t
    });
}

/// Enables two-factor authentication for the signed-in user.
async fn enable_second_factor(t: &TestApp, browser: &Browser) -> Totp {
    let setup = browser.post("/auth/2fa/setup", Value::Null).await;
    let totp = Totp::from_url(setup.body["otpauthUrl"].as_str().unwrap()).unwrap();
    let enabled = browser.post("/auth/2fa/enable", json!({ "code": next_code(t, &totp) })).await;
    assert_eq!(enabled.status, 200, "{enabled:?}");
    totp
}

/// Advances the clock by one step and returns the new code.
fn next_code(t: &TestApp, totp: &Totp) -> String {
    t.advance(TimeDelta::seconds(30));
    totp.generate(t.clock.now().timestamp().unsigned_abs()).to_string()
}

#[test]
fn sign_in_with_a_provider_requires_the_second_factor() {
    it_unstarted(|mut t| async {
        let (mail, google) = (t.start_mail_sink().await, with_providers(&mut t).await);
        t.start_without_bot().await;
        for account in [ProviderAccount::discord(&t, "ana"), ProviderAccount::google(&google, "117", None)] {
            let browser = Browser::new(&t);
            account.sign_in(&browser).await;
            let totp = enable_second_factor(&t, &browser).await;

            let app = Browser::new(&t);
            let pending = account.sign_in(&app).await;
            assert_eq!((pending.status, pending.code()), (401, "REQUIRES_2FA"), "{pending:?}");
            assert!(app.cookie("rt").is_none() && app.access_token().is_none());
            let token = pending.body["twoFactorToken"].as_str().unwrap().to_owned();
            app.set_cookie("dca_second_factor", None);
            let wrong = app.post("/auth/2fa/verify", json!({ "twoFactorToken": token, "code": "000000" })).await;
            assert_eq!((wrong.status, wrong.code()), (401, "INVALID_2FA_CODE"));
            let right = json!({ "twoFactorToken": token, "code": next_code(&t, &totp) });
            let signed_in = app.post("/auth/2fa/verify", right).await;
            assert_eq!(signed_in.status, 200, "{signed_in:?}");
            let session = app.get("/auth/me").await.body["session"].clone();
            assert_eq!(session["method"], account.provider());
            assert!(session["secondFactorAt"].is_string(), "{session:?}");
            let again = json!({ "twoFactorToken": token, "code": next_code(&t, &totp) });
            assert_eq!(app.post("/auth/2fa/verify", again).await.code(), "INVALID_ONE_TIME_TOKEN");

            // The same with pages and the cookie.
            let browser = Browser::new(&t);
            let page = account.start(&browser).await;
            let redirect = open(&browser, &account.consent(&page)).await;
            assert_eq!((redirect.status, redirect.header("location")), (303, "/second-factor"));
            let form = open(&browser, "/second-factor").await;
            assert!(form.text.contains(r#"<form method="post" action="/second-factor">"#), "{}", form.text);
            let wrong = browser.submit("/second-factor", &[("code", "000000")]).await;
            assert!(wrong.status == 401 && wrong.text.contains("Invalid two-factor code"), "{wrong:?}");
            assert!(wrong.text.contains("<form"), "the form is shown again");
            let right = browser.submit("/second-factor", &[("code", &next_code(&t, &totp))]).await;
            assert!(right.status == 200 && right.text.contains("You are signed in"), "{right:?}");
            assert!(browser.cookie("dca_second_factor").is_none());
            assert_eq!(browser.post("/auth/refresh", Value::Null).await.status, 200);
        }
        mail.finish();
        google.finish();
        t
    });
}

#[test]
fn provider_tokens_are_stored_encrypted() {
    it_unstarted(|mut t| async {
        let google = with_providers(&mut t).await;
        t.start_without_bot().await;
        ProviderAccount::discord(&t, "ana").sign_in(&Browser::new(&t)).await;
        ProviderAccount::google(&google, "117", None).sign_in(&Browser::new(&t)).await;
        let hex = if services().0.is_some() { "encode(tokens_sealed, 'hex')" } else { "lower(hex(tokens_sealed))" };
        let rows = rows(t.core().db.writer(), &format!("SELECT {hex} AS sealed FROM identities")).await;
        assert_eq!(rows.len(), 2);
        // "Token" in hexadecimal, as plain text would contain it.
        let plain = "546f6b656e";
        for row in rows {
            let sealed = row["sealed"].as_str().unwrap();
            assert!(sealed.len() > 200 && !sealed.contains(plain), "{sealed}");
        }
        google.finish();
        t
    });
}

#[test]
fn every_new_account_records_one_event() {
    it_unstarted(|mut t| async {
        let (mail, google) = (t.start_mail_sink().await, with_providers(&mut t).await);
        t.start_without_bot().await;
        admin::create_admin(t.core(), "root@x.example", Some("Root"), PASSWORD).await.unwrap();
        let local = Browser::signed_in(&t, &mail, "ana@x.example").await;
        let accounts = [ProviderAccount::discord(&t, "ana"), ProviderAccount::google(&google, "117", None)];
        for account in accounts.iter().chain(&accounts) {
            account.sign_in(&Browser::new(&t)).await;
        }
        ProviderAccount::google(&google, "118", None).link(&local).await;
        // A second sign-up with the same email records no second event.
        let form = json!({ "email": "ana@x.example", "password": PASSWORD, "name": "Ana" });
        Browser::new(&t).post("/auth/signup", form).await;
        mail.next("ana@x.example").await;
        let users =
            rows(t.core().db.writer(), "SELECT id AS subject FROM users WHERE status = 'ACTIVE' ORDER BY id").await;
        assert_eq!((registered(&t).await, users.len()), (users, 4), "one event for each account");
        mail.finish();
        google.finish();
        t
    });
}
