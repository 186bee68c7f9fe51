//! Signing in with Discord and with Google, from the first click to the session.

use chrono::TimeDelta;
use dca_core::accounts::admin;
use dca_test_support::{GooglePerson, SimDiscord, SimGoogle, SimMember};
use reqwest::{Method, Url};
use serde_json::{Value, json};
use totp_rs::Totp;

use crate::{
    accounts::{id_of, root},
    browser::{Browser, PASSWORD, Response},
    fixtures::rows,
    harness::{TestApp, it_unstarted, licenses_of, services},
};

/// Where the product believes to be; tests knock at its real port.
const HOME: &str = "http://dca.example";

/// Sets both providers up for the process that is started next.
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

/// Somebody with an account at a provider.
#[derive(Clone)]
enum Known {
    ByDiscord(SimDiscord, SimMember),
    ByGoogle(SimGoogle, GooglePerson),
}

impl Known {
    fn discord(t: &TestApp, name: &str) -> Self {
        Self::ByDiscord(t.discord.clone(), t.discord.guild("Club").join(name))
    }

    fn google(google: &SimGoogle, sub: &str, email: Option<(&str, bool)>) -> Self {
        Self::ByGoogle(google.clone(), google.person(sub, "Ana Lima", email))
    }

    fn has_email(self, address: &str, verified: bool) -> Self {
        match &self {
            Self::ByDiscord(_, member) => member.set_email(address, verified),
            Self::ByGoogle(google, browser) => {
                google.person(&browser.sub, "Ana Lima", Some((address, verified)));
            }
        }
        self
    }

    fn provider(&self) -> &'static str {
        match self {
            Self::ByDiscord(..) => "discord",
            Self::ByGoogle(..) => "google",
        }
    }

    /// Agrees on the provider's page. Answers the callback, as a path here.
    fn consents(&self, page: &str) -> String {
        let callback = match self {
            Self::ByDiscord(discord, member) => discord.consent(member, page),
            Self::ByGoogle(google, browser) => google.consent(browser, page),
        };
        callback.strip_prefix(HOME).expect("our own callback").to_owned()
    }

    fn declines(&self, page: &str) -> String {
        let callback = match self {
            Self::ByDiscord(discord, _) => discord.decline(page),
            Self::ByGoogle(google, _) => google.decline(page),
        };
        callback.strip_prefix(HOME).expect("our own callback").to_owned()
    }

    /// Clicks "sign in with …": the address of the provider's page.
    async fn begins(&self, browser: &Browser) -> String {
        let response = browser.get(&format!("/auth/{}", self.provider())).await;
        assert_eq!(response.status, 302, "{response:?}");
        response.header("location").to_owned()
    }

    /// All the way, in a browser of their own or a known one.
    async fn signs_in(&self, browser: &Browser) -> Response {
        let page = self.begins(browser).await;
        browser.get(&self.consents(&page)).await
    }

    /// Links it to the account that is signed in.
    async fn links(&self, browser: &Browser) -> Response {
        let begun = browser.post(&format!("/auth/{}/link", self.provider()), Value::Null).await;
        let Some(page) = begun.body["authUrl"].as_str() else { return begun };
        let callback = query(&self.consents(page));
        let body = json!({ "code": of(&callback, "code"), "state": of(&callback, "state") });
        browser.post(&format!("/auth/{}/link", self.provider()), body).await
    }
}

fn query(path: &str) -> Vec<(String, String)> {
    Url::parse(HOME).unwrap().join(path).unwrap().query_pairs().into_owned().collect()
}

fn of<'a>(query: &'a [(String, String)], name: &str) -> &'a str {
    query.iter().find(|(known, _)| known == name).map_or("", |(_, value)| value)
}

/// As a browser asks for a page.
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
fn a_provider_signs_somebody_in_by_every_way_there_is() {
    it_unstarted(|mut t| async {
        let google = with_providers(&mut t).await;
        t.start_without_bot().await;
        for (known, scopes) in [
            (Known::discord(&t, "ana").has_email("ana@d.example", true), "identify email"),
            (Known::google(&google, "117", Some(("ana@g.example", true))), "openid email profile"),
        ] {
            let provider = known.provider();
            let browser = Browser::new(&t);
            let begun = browser.get(&format!("/auth/{provider}")).await;
            let page = begun.header("location").to_owned();
            let asked = query(&page);
            assert_eq!((begun.status, of(&asked, "scope")), (302, scopes));
            assert_eq!((of(&asked, "response_type"), of(&asked, "code_challenge_method")), ("code", "S256"));
            assert_eq!(of(&asked, "redirect_uri"), format!("{HOME}/auth/{provider}/callback"));
            let state = of(&asked, "state");
            let cookie = format!("dca_sign_in={state}; HttpOnly; SameSite=Lax; Path=/; Max-Age=600");
            assert_eq!(begun.cookies(), [cookie]);

            let callback = known.consents(&page);
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
            assert!(!t.log.text().contains(of(&query(&callback), "code")), "the code is in the log");

            // As JSON from the first step on; with the state or with the cookie alone; as a page.
            for start in ["/auth", "/api/auth"] {
                for with_state in [true, false] {
                    let app = Browser::new(&t);
                    let begun = app.post(&format!("{start}/{provider}"), Value::Null).await;
                    assert_eq!(begun.status, 200);
                    let callback = query(&known.consents(begun.body["authUrl"].as_str().unwrap()));
                    let mut body = json!({ "code": of(&callback, "code") });
                    if with_state {
                        body["state"] = json!(of(&callback, "state"));
                    }
                    let again = app.post(&format!("{start}/{provider}/callback"), body).await;
                    assert_eq!((again.status, &again.body["isNewUser"]), (200, &json!(false)), "{again:?}");
                    assert_eq!(again.body["user"]["id"], first.body["user"]["id"]);
                }
            }
            let browser = Browser::new(&t);
            let page = known.begins(&browser).await;
            let shown = open(&browser, &known.consents(&page)).await;
            assert!(shown.status == 200 && shown.text.contains("You are signed in"), "{shown:?}");
            assert_eq!(browser.post("/auth/refresh", Value::Null).await.status, 200);
        }
        assert_eq!((registered(&t).await.len(), count(&t, "users").await), (2, 2), "once for each account");
        google.finish();
        t
    });
}

#[test]
fn the_frontend_gets_the_browser_back_with_a_cookie_and_no_token_in_the_address() {
    it_unstarted(|mut t| async {
        let google = with_providers(&mut t).await;
        t.set("APP_FRONTEND_URL", "https://app.example");
        t.start_without_bot().await;
        for known in [Known::discord(&t, "ana"), Known::google(&google, "117", None)] {
            let browser = Browser::new(&t);
            let back = known.signs_in(&browser).await;
            assert_eq!((back.status, back.header("location")), (302, "https://app.example/auth/cb"));
            assert_eq!(browser.post("/auth/refresh", Value::Null).await.status, 200);
            let other = if known.provider() == "discord" {
                Known::google(&google, "118", None)
            } else {
                Known::discord(&t, "ben")
            };
            let begun = browser.post(&format!("/auth/{}/link", other.provider()), Value::Null).await;
            let back = browser.get(&other.consents(begun.body["authUrl"].as_str().unwrap())).await;
            assert_eq!((back.status, back.header("location")), (302, "https://app.example/auth/cb?linked=true"));
        }
        google.finish();
        t
    });
}

#[test]
fn a_return_that_does_not_fit_its_beginning_signs_nobody_in() {
    it_unstarted(|mut t| async {
        let google = with_providers(&mut t).await;
        t.start_without_bot().await;
        let ana = Known::discord(&t, "ana");
        let browser = Browser::new(&t);
        let refused = async |browser: &Browser, path: &str, why: &str| {
            let response = browser.get(path).await;
            assert_eq!((response.status, response.code()), (400, "SIGN_IN_FAILED"), "{why}: {response:?}");
            assert!(browser.cookie("rt").is_none() && browser.cookie("dca_sign_in").is_none(), "{why}");
            let (users, sessions) = (count(&t, "users").await, count(&t, "sessions").await);
            assert_eq!((users, sessions), (0, 0), "{why}");
        };
        let page = ana.begins(&browser).await;
        let state = of(&query(&page), "state").to_owned();
        let callback = ana.consents(&page);
        refused(&Browser::new(&t), &callback, "no cookie").await;
        let other = Browser::new(&t);
        ana.begins(&other).await;
        refused(&other, &callback, "the cookie of another sign-in").await;
        refused(&browser, &format!("/auth/discord/callback?code={}", of(&query(&callback), "code")), "no state").await;
        browser.set_cookie("dca_sign_in", Some(&state));
        refused(&browser, &callback.replace("/discord/", "/google/"), "a state of Discord at Google's callback").await;
        browser.set_cookie("dca_sign_in", Some(&state));
        refused(&browser, &callback, "a state that was used").await;
        let page = ana.begins(&browser).await;
        let fresh = format!("/auth/discord/callback?code=nonsense&state={}", of(&query(&page), "state"));
        refused(&browser, &fresh, "a code of nobody").await;
        let page = ana.begins(&browser).await;
        refused(&browser, &ana.declines(&page), "declined").await;
        for (method, path) in [("POST", "/oauth2/token"), ("GET", "/users/@me")] {
            let page = ana.begins(&browser).await;
            let callback = ana.consents(&page);
            t.discord.fail_next(method, path, 500);
            refused(&browser, &callback, path).await;
        }
        for path in ["/token", "/v1/userinfo"] {
            let eva = Known::google(&google, "117", None);
            let page = eva.begins(&browser).await;
            let callback = eva.consents(&page);
            google.fail_next(path, 503);
            refused(&browser, &callback, path).await;
        }
        let page = ana.begins(&browser).await;
        let late = ana.consents(&page);
        t.advance(TimeDelta::minutes(10));
        refused(&browser, &late, "ten minutes later").await;

        let page = ana.begins(&browser).await;
        let callback = ana.consents(&page);
        let state = browser.cookie("dca_sign_in").unwrap();
        assert_eq!(browser.get(&callback).await.status, 200);
        let thief = Browser::new(&t);
        thief.set_cookie("dca_sign_in", Some(&state));
        assert_eq!(thief.get(&callback).await.code(), "SIGN_IN_FAILED", "once");
        // The code of one sign-in in another: its verifier is not the one the provider was told of.
        let page = ana.begins(&browser).await;
        let stolen = query(&ana.consents(&page));
        let page = ana.begins(&thief).await;
        let path = format!("/auth/discord/callback?code={}&state={}", of(&stolen, "code"), of(&query(&page), "state"));
        assert_eq!(thief.get(&path).await.code(), "SIGN_IN_FAILED", "PKCE");
        let shown = open(&Browser::new(&t), "/auth/discord/callback?error=access_denied").await;
        assert!(shown.status == 400 && shown.text.contains("That did not work"), "{shown:?}");
        google.finish();
        t
    });
}

#[test]
fn a_provider_that_is_not_set_up_is_not_there_and_leaves_no_trace() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let root = root(&t).await;
        for provider in ["discord", "google"] {
            let response = root.get(&format!("/auth/{provider}")).await;
            assert_eq!((response.status, response.code()), (404, "NOT_FOUND"));
            assert!(response.body["detail"].as_str().unwrap().ends_with(" is not set up here."), "{response:?}");
            assert_eq!(response.body["title"], "There is no such thing.");
            assert_eq!(root.post(&format!("/auth/{provider}"), Value::Null).await.status, 404);
            assert_eq!(root.post(&format!("/auth/{provider}/link"), Value::Null).await.status, 404);
        }
        assert_eq!(root.get("/auth/nonsense").await.status, 404);
        assert_eq!(count(&t, "one_time_tokens").await, 0);
        t
    });
}

#[test]
fn an_address_links_nothing() {
    it_unstarted(|mut t| async {
        let (mail, google) = (t.with_mail().await, with_providers(&mut t).await);
        t.start_without_bot().await;
        // The local account was first.
        let local = Browser::signed_in(&t, &mail, "ana@x.example").await;
        let browser = Browser::new(&t);
        let by_discord = Known::discord(&t, "ana").has_email("ANA@x.example", true);
        let theirs = by_discord.signs_in(&browser).await.body["user"].clone();
        assert_ne!(theirs["id"].as_str().unwrap(), id_of(&local).await);
        assert_eq!((&theirs["email"], &theirs["email_verified"]), (&Value::Null, &json!(false)));
        assert_eq!(local.get("/me").await.body["discordId"], Value::Null);
        // The provider's was first.
        let by_google = Known::google(&google, "117", Some(("eva@x.example", true)));
        let eva = by_google.signs_in(&Browser::new(&t)).await.body["user"].clone();
        assert_eq!(eva["email"], "eva@x.example");
        let form = json!({ "email": "eva@x.example", "password": PASSWORD, "name": "Eva" });
        assert_eq!(Browser::new(&t).post("/auth/signup", form).await.status, 201);
        assert_eq!(mail.next("eva@x.example").await.subject, "You already have an account");
        assert_eq!(Browser::new(&t).sign_in("eva@x.example").await.status, 403, "claimed in vain");
        let again = by_google.signs_in(&Browser::new(&t)).await;
        assert_eq!((&again.body["user"]["id"], &again.body["isNewUser"]), (&eva["id"], &json!(false)));
        // Two providers.
        let other = Known::discord(&t, "eva").has_email("eva@x.example", true).signs_in(&Browser::new(&t)).await;
        assert_ne!(other.body["user"]["id"], eva["id"]);
        assert_eq!(other.body["user"]["email"], Value::Null);
        assert_eq!(count(&t, "users").await, 5, "and the claim in vain");
        mail.finish();
        google.finish();
        t
    });
}

#[test]
fn an_address_that_a_provider_proved_ends_claims_and_one_it_did_not_ends_none() {
    it_unstarted(|mut t| async {
        let (mail, google) = (t.with_mail().await, with_providers(&mut t).await);
        t.start_without_bot().await;
        let squatter = Browser::new(&t);
        let form = json!({ "email": "eva@x.example", "password": PASSWORD, "name": "Squatter" });
        squatter.post("/auth/signup", form).await;
        let bait = mail.next("eva@x.example").await.token();
        let unproved = Known::discord(&t, "mallory").has_email("eva@x.example", false);
        assert_eq!(unproved.signs_in(&Browser::new(&t)).await.body["user"]["email"], Value::Null);
        assert_eq!(squatter.sign_in("eva@x.example").await.code(), "EMAIL_NOT_VERIFIED", "the claim stands");
        let eva = Known::google(&google, "117", Some(("eva@x.example", true)));
        assert_eq!(eva.signs_in(&Browser::new(&t)).await.body["user"]["email"], "eva@x.example");
        assert_eq!(squatter.sign_in("eva@x.example").await.status, 401);
        assert_eq!(squatter.post("/auth/verify-email", json!({ "token": bait })).await.status, 400);
        mail.finish();
        google.finish();
        t
    });
}

#[test]
fn a_link_is_made_from_a_session_and_to_one_account() {
    it_unstarted(|mut t| async {
        let (mail, google) = (t.with_mail().await, with_providers(&mut t).await);
        t.start_without_bot().await;
        let (ana, ben) = (Known::discord(&t, "ana"), Known::discord(&t, "ben"));
        assert_eq!(ana.links(&Browser::new(&t)).await.code(), "NO_TOKEN");
        let browser = Browser::signed_in(&t, &mail, "ana@x.example").await;
        let linked = ana.links(&browser).await;
        assert_eq!((linked.status, linked.body), (200, json!({ "message": "Linked" })));
        let ana_id = id_of(&browser).await;
        let signed_in = ana.signs_in(&Browser::new(&t)).await;
        assert_eq!((&signed_in.body["user"]["id"], &signed_in.body["isNewUser"]), (&json!(ana_id), &json!(false)));
        assert_eq!(ana.links(&browser).await.status, 200, "once more changes nothing");
        let second = ben.links(&browser).await;
        assert_eq!((second.status, second.code()), (409, "CONFLICT"), "{second:?}");

        // Somebody else's account, by both endings of the link.
        let other = Browser::signed_in(&t, &mail, "ben@x.example").await;
        assert_eq!(ana.links(&other).await.code(), "CONFLICT");
        let begun = other.post("/auth/discord/link", Value::Null).await;
        let callback = ana.consents(begun.body["authUrl"].as_str().unwrap());
        assert_eq!(other.get(&callback).await.code(), "CONFLICT");
        assert_eq!(other.get("/me").await.body["discordId"], Value::Null);
        // A link that ended elsewhere is no sign-in, and the page says what happened.
        let begun = other.post("/auth/discord/link", Value::Null).await;
        let callback = ben.consents(begun.body["authUrl"].as_str().unwrap());
        let stranger = Browser::new(&t);
        assert_eq!(stranger.get(&callback).await.code(), "SIGN_IN_FAILED");
        let shown = open(&other, &callback).await;
        assert!(shown.status == 200 && shown.text.contains("The account is linked"), "{shown:?}");
        assert!(other.get("/me").await.body["discordId"].is_string());
        // Whoever began it was signed out before it ended.
        let begun = other.post("/auth/google/link", Value::Null).await;
        let callback = Known::google(&google, "116", None).consents(begun.body["authUrl"].as_str().unwrap());
        assert_eq!(other.post("/auth/logout-all", Value::Null).await.status, 200);
        assert_eq!(other.get(&callback).await.code(), "INVALID_SESSION");
        assert_eq!(count(&t, "identities").await, 2);

        let eva = Known::google(&google, "117", None);
        assert_eq!(eva.links(&browser).await.status, 200);
        let unlinked = browser.post("/auth/google/unlink", Value::Null).await;
        assert_eq!((unlinked.status, unlinked.body), (200, json!({ "message": "Unlinked" })));
        assert_eq!(browser.post("/auth/google/unlink", Value::Null).await.status, 404);
        let fresh = eva.signs_in(&Browser::new(&t)).await;
        assert_eq!(fresh.body["isNewUser"], true, "it is nobody's any more");
        // The only way in stays.
        let only = Browser::new(&t);
        Known::google(&google, "118", None).signs_in(&only).await;
        assert_eq!(only.post("/auth/google/unlink", Value::Null).await.code(), "CONFLICT");
        assert_eq!(only.post("/auth/discord/unlink", Value::Null).await.status, 404);
        assert_eq!(Known::discord(&t, "carl").links(&only).await.status, 200);
        let path = |provider: &str| format!("/auth/{provider}/unlink");
        let (one, two) = (path("google"), path("discord"));
        let (one, two) = futures::join!(only.post(&one, Value::Null), only.post(&two, Value::Null));
        let mut both = [one.status, two.status];
        both.sort_unstable();
        assert_eq!(both, [200, 409], "of two at once, one stays");
        mail.finish();
        google.finish();
        t
    });
}

#[test]
fn linking_brings_what_a_role_earned_and_what_discord_says_later() {
    it_unstarted(|mut t| async {
        let (mail, google) = (t.with_mail().await, with_providers(&mut t).await);
        t.start().await;
        let (guild, gold, ana) = t.guild_with_product("Gold Tools", 0).await;
        ana.grant(gold);
        let key = crate::harness::key_in(&t.discord.next_dm(&ana).await.content);
        let api_key = t.api_key(&guild, "Gold Tools").await;
        let browser = Browser::signed_in(&t, &mail, "ana@x.example").await;
        let known = Known::ByDiscord(t.discord.clone(), ana.clone());
        let linked = known.links(&browser).await;
        assert_eq!(linked.status, 200, "{linked:?}");
        let id = id_of(&browser).await;
        let held = licenses_of(&t, &guild, &ana).await;
        assert_eq!(held.len(), 1);
        assert_eq!(held[0].user_id.unwrap().to_string(), id, "it is the account's");
        let export = browser.get("/me/export").await.body;
        assert_eq!(export["licenses"].as_array().unwrap().len(), 1, "{export:?}");
        assert_eq!(t.validate(&api_key, &key).await["code"], "VALID");
        let stays = browser.post("/auth/discord/unlink", Value::Null).await;
        assert_eq!((stays.status, stays.code()), (409, "CONFLICT"), "licenses would be lost with it");
        ana.take(gold);
        t.events(&guild, "license.revoked", 1).await;
        assert_eq!(t.validate(&api_key, &key).await["code"], "REVOKED");
        ana.grant(gold);
        let new = crate::harness::key_in(&t.discord.next_dm(&ana).await.content);
        assert_eq!(t.validate(&api_key, &new).await["code"], "VALID");
        assert_eq!(licenses_of(&t, &guild, &ana).await.len(), 2);
        // A member with a role who signs in is the browser the role made.
        let ben = guild.join("ben");
        ben.grant(gold);
        t.discord.next_dm(&ben).await;
        let browser = Browser::new(&t);
        let signed_in = Known::ByDiscord(t.discord.clone(), ben.clone()).signs_in(&browser).await;
        assert_eq!(signed_in.body["isNewUser"], true);
        let held = licenses_of(&t, &guild, &ben).await;
        assert_eq!(held[0].user_id.unwrap().to_string(), signed_in.body["user"]["id"].as_str().unwrap());
        mail.finish();
        google.finish();
        t
    });
}

#[test]
fn who_may_not_enter_does_not_enter_through_a_provider() {
    it_unstarted(|mut t| async {
        let google = with_providers(&mut t).await;
        t.start().await;
        let root = root(&t).await;
        let (guild, gold, ana) = t.guild_with_product("Gold Tools", 0).await;
        ana.grant(gold);
        t.discord.next_dm(&ana).await;
        // Banned before they ever signed in.
        let held = licenses_of(&t, &guild, &ana).await;
        let ban = format!("/admin/users/{}/ban", held[0].user_id.unwrap());
        assert_eq!(root.post(&ban, Value::Null).await.status, 200);
        let known = Known::ByDiscord(t.discord.clone(), ana.clone());
        let refused = known.signs_in(&Browser::new(&t)).await;
        assert_eq!((refused.status, refused.code()), (403, "ACCOUNT_BANNED"), "{refused:?}");
        let browser = Browser::new(&t);
        Known::google(&google, "117", None).signs_in(&browser).await;
        assert_eq!(known.links(&browser).await.code(), "ACCOUNT_BANNED", "nor by a link");
        // Suspended after they did.
        let eva = Known::google(&google, "118", None);
        let browser = Browser::new(&t);
        eva.signs_in(&browser).await;
        let path = format!("/admin/users/{}", id_of(&browser).await);
        root.ask(Method::PATCH, &path, json!({ "status": "SUSPENDED" }), &[]).await;
        assert_eq!(eva.signs_in(&Browser::new(&t)).await.code(), "ACCOUNT_SUSPENDED");
        assert_eq!(browser.get("/me").await.code(), "ACCOUNT_SUSPENDED");
        google.finish();
        t
    });
}

/// Sets a second factor up for who is signed in.
async fn second_factor(t: &TestApp, browser: &Browser) -> Totp {
    let made = browser.post("/auth/2fa/setup", Value::Null).await;
    let totp = Totp::from_url(made.body["otpauthUrl"].as_str().unwrap()).unwrap();
    let enabled = browser.post("/auth/2fa/enable", json!({ "code": code(t, &totp) })).await;
    assert_eq!(enabled.status, 200, "{enabled:?}");
    totp
}

/// The next code, half a minute later.
fn code(t: &TestApp, totp: &Totp) -> String {
    t.advance(TimeDelta::seconds(30));
    totp.generate(t.clock.now().timestamp().unsigned_abs()).to_string()
}

#[test]
fn a_provider_does_not_stand_for_the_second_factor() {
    it_unstarted(|mut t| async {
        let (mail, google) = (t.with_mail().await, with_providers(&mut t).await);
        t.start_without_bot().await;
        for known in [Known::discord(&t, "ana"), Known::google(&google, "117", None)] {
            let browser = Browser::new(&t);
            known.signs_in(&browser).await;
            let totp = second_factor(&t, &browser).await;

            let app = Browser::new(&t);
            let waits = known.signs_in(&app).await;
            assert_eq!((waits.status, waits.code()), (401, "REQUIRES_2FA"), "{waits:?}");
            assert!(app.cookie("rt").is_none() && app.access().is_none());
            let token = waits.body["twoFactorToken"].as_str().unwrap().to_owned();
            app.set_cookie("dca_second_factor", None);
            let wrong = app.post("/auth/2fa/verify", json!({ "twoFactorToken": token, "code": "000000" })).await;
            assert_eq!((wrong.status, wrong.code()), (401, "INVALID_2FA_CODE"));
            let right = json!({ "twoFactorToken": token, "code": code(&t, &totp) });
            let signed_in = app.post("/auth/2fa/verify", right).await;
            assert_eq!(signed_in.status, 200, "{signed_in:?}");
            let session = app.get("/auth/me").await.body["session"].clone();
            assert_eq!(session["method"], known.provider());
            assert!(session["secondFactorAt"].is_string(), "{session:?}");
            let again = json!({ "twoFactorToken": token, "code": code(&t, &totp) });
            assert_eq!(app.post("/auth/2fa/verify", again).await.code(), "INVALID_ONE_TIME_TOKEN");

            // The same as pages, by the cookie.
            let browser = Browser::new(&t);
            let page = known.begins(&browser).await;
            let asked = open(&browser, &known.consents(&page)).await;
            assert_eq!((asked.status, asked.header("location")), (303, "/second-factor"));
            let form = open(&browser, "/second-factor").await;
            assert!(form.text.contains(r#"<form method="post" action="/second-factor">"#), "{}", form.text);
            let wrong = browser.submit("/second-factor", &[("code", "000000")]).await;
            assert!(wrong.status == 401 && wrong.text.contains("Invalid two-factor code"), "{wrong:?}");
            assert!(wrong.text.contains("<form"), "it may be tried again");
            let right = browser.submit("/second-factor", &[("code", &code(&t, &totp))]).await;
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
fn what_a_provider_gave_rests_sealed() {
    it_unstarted(|mut t| async {
        let google = with_providers(&mut t).await;
        t.start_without_bot().await;
        Known::discord(&t, "ana").signs_in(&Browser::new(&t)).await;
        Known::google(&google, "117", None).signs_in(&Browser::new(&t)).await;
        let hex = if services().0.is_some() { "encode(tokens_sealed, 'hex')" } else { "lower(hex(tokens_sealed))" };
        let kept = rows(t.core().db.writer(), &format!("SELECT {hex} AS sealed FROM identities")).await;
        assert_eq!(kept.len(), 2);
        // "Token", as it would stand there in clear.
        let word = "546f6b656e";
        for row in kept {
            let sealed = row["sealed"].as_str().unwrap();
            assert!(sealed.len() > 200 && !sealed.contains(word), "{sealed}");
        }
        google.finish();
        t
    });
}

#[test]
fn an_account_and_its_event_are_one() {
    it_unstarted(|mut t| async {
        let (mail, google) = (t.with_mail().await, with_providers(&mut t).await);
        t.start_without_bot().await;
        admin::create_admin(t.core(), "root@x.example", Some("Root"), PASSWORD).await.unwrap();
        let local = Browser::signed_in(&t, &mail, "ana@x.example").await;
        let known = [Known::discord(&t, "ana"), Known::google(&google, "117", None)];
        for one in known.iter().chain(&known) {
            one.signs_in(&Browser::new(&t)).await;
        }
        Known::google(&google, "118", None).links(&local).await;
        // Signed up again, and refused half-way: no second event.
        let form = json!({ "email": "ana@x.example", "password": PASSWORD, "name": "Ana" });
        Browser::new(&t).post("/auth/signup", form).await;
        mail.next("ana@x.example").await;
        let users =
            rows(t.core().db.writer(), "SELECT id AS subject FROM users WHERE status = 'ACTIVE' ORDER BY id").await;
        assert_eq!((registered(&t).await, users.len()), (users, 4), "each account once");
        mail.finish();
        google.finish();
        t
    });
}
