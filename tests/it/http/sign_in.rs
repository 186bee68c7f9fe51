//! Sign-in with Discord and Google: authorization, callback, account linking.

use chrono::TimeDelta;
use dca_core::accounts::admin;
use dca_test_support::{GooglePerson, SimDiscord, SimGoogle, SimMember};
use reqwest::{Method, Url};
use serde_json::{Value, json};
use totp_rs::Totp;

use crate::support::{
    accounts::{signed_in_admin, user_id},
    browser::{Browser, PASSWORD, Response},
    fixtures::rows,
    harness::{TestApp, it_unstarted, licenses_of, services},
};

/// The configured public URL. Tests send their requests to the real port.
const HOME: &str = "http://dca.example";

/// Configures both providers for the next start.
pub(super) async fn with_providers(t: &mut TestApp) -> SimGoogle {
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
pub(super) enum ProviderAccount {
    Discord(SimDiscord, SimMember),
    Google(SimGoogle, GooglePerson),
}

impl ProviderAccount {
    pub(super) fn discord(t: &TestApp, name: &str) -> Self {
        Self::Discord(t.discord.clone(), t.discord.guild("Club").join(name))
    }

    pub(super) fn google(google: &SimGoogle, sub: &str, email: Option<(&str, bool)>) -> Self {
        Self::Google(google.clone(), google.person(sub, "Ana Lima", email))
    }

    pub(super) fn with_email(self, address: &str, verified: bool) -> Self {
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
    pub(super) fn consent(&self, page: &str) -> String {
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
    pub(super) async fn start(&self, browser: &Browser) -> String {
        let response = browser.get(&format!("/auth/{}", self.provider())).await;
        assert_eq!(response.status, 302, "{response:?}");
        response.header("location").to_owned()
    }

    /// Completes a sign-in in this browser.
    pub(super) async fn sign_in(&self, browser: &Browser) -> Response {
        let page = self.start(browser).await;
        browser.get(&self.consent(&page)).await
    }

    /// Links the provider account to the signed-in account.
    pub(super) async fn link(&self, browser: &Browser) -> Response {
        let started = browser.post(&format!("/auth/{}/link", self.provider()), Value::Null).await;
        let Some(page) = started.body["authUrl"].as_str() else { return started };
        let callback = query(&self.consent(page));
        let body = json!({ "code": param(&callback, "code"), "state": param(&callback, "state") });
        browser.post(&format!("/auth/{}/link", self.provider()), body).await
    }
}

pub(super) fn query(path: &str) -> Vec<(String, String)> {
    Url::parse(HOME).unwrap().join(path).unwrap().query_pairs().into_owned().collect()
}

pub(super) fn param<'a>(query: &'a [(String, String)], name: &str) -> &'a str {
    query.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value)
}

/// Opens a page as a browser does.
pub(super) async fn open(browser: &Browser, path: &str) -> Response {
    browser.ask(Method::GET, path, Value::Null, &[("accept", "text/html,application/xhtml+xml")]).await
}

pub(super) async fn registered(t: &TestApp) -> Vec<Value> {
    rows(t.core().db.writer(), "SELECT subject FROM events WHERE kind = 'user.registered' ORDER BY subject").await
}

pub(super) async fn count(t: &TestApp, table: &str) -> usize {
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
        let (_mail, google) = (t.start_mail_sink().await, with_providers(&mut t).await);
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
            let declined = account.decline(&account.start(&browser).await);
            let response = browser.get(&declined).await;
            assert_eq!(
                (response.status, response.header("location")),
                (302, "https://app.example/auth/cb?error=SIGN_IN_FAILED")
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
