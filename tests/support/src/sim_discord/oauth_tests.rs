//! "Log in with Discord" over HTTP.

use std::time::Duration;

use serde_json::{Value, json};

use super::{Fault, FaultKind, SimDiscord, SimMember};
use crate::oauth::digest;

const REDIRECT_URI: &str = "https://app.example/auth/discord/callback";
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";

/// An application and a user.
struct App {
    discord: SimDiscord,
    ana: SimMember,
    http: reqwest::Client,
}

impl App {
    async fn start() -> Self {
        let discord = SimDiscord::start().await;
        discord.register_redirect(REDIRECT_URI);
        let ana = discord.guild("Makers").join("ana");
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().tls_certs_only([]).build().expect("a client");
        Self { discord, ana, http }
    }

    /// The authorize URL, with one parameter replaced, or removed if its value is empty.
    fn authorize(&self, name: &str, value: &str) -> String {
        let (client, challenge) = (self.discord.client_id(), digest(VERIFIER));
        let mut pairs = vec![
            ("response_type", "code"),
            ("client_id", &client),
            ("redirect_uri", REDIRECT_URI),
            ("scope", "identify email"),
            ("state", "s t/1"),
            ("code_challenge", &challenge),
            ("code_challenge_method", "S256"),
        ];
        pairs.retain(|(key, _)| *key != name);
        pairs.extend((!value.is_empty()).then_some((name, value)));
        let page = format!("{}/oauth2/authorize", self.discord.base_url());
        url::Url::parse_with_params(&page, pairs).expect("an address").into()
    }

    fn code(&self) -> String {
        param(&self.discord.consent(&self.ana, &self.authorize("", "")), "code")
    }

    /// The form that redeems a code, with one field replaced, or removed if its value is empty.
    fn redeem_form(&self, code: &str, name: &str, value: &str) -> Vec<(String, String)> {
        let (client, secret) = (self.discord.client_id(), self.discord.client_secret());
        let mut form = vec![
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", REDIRECT_URI),
            ("code_verifier", VERIFIER),
            ("client_id", &client),
            ("client_secret", &secret),
        ];
        form.retain(|(key, _)| *key != name);
        form.extend((!value.is_empty()).then_some((name, value)));
        form.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    async fn post(&self, path: &str, form: &[(String, String)]) -> (u16, Value) {
        let url = format!("{}{path}", self.discord.base_url());
        answer(self.http.post(url).form(form)).await
    }

    /// A token request with the client credentials in the header.
    async fn token(&self, form: &[(&str, &str)]) -> (u16, Value) {
        let request = self.http.post(format!("{}/api/v10/oauth2/token", self.discord.base_url())).form(form);
        answer(request.basic_auth(self.discord.client_id(), Some(self.discord.client_secret()))).await
    }

    async fn refresh(&self, token: &Value) -> (u16, Value) {
        let token = token.as_str().expect("a refresh token");
        self.token(&[("grant_type", "refresh_token"), ("refresh_token", token)]).await
    }

    async fn get(&self, path: &str, token: &Value) -> (u16, Value) {
        let url = format!("{}{path}", self.discord.base_url());
        answer(self.http.get(url).bearer_auth(token.as_str().expect("an access token"))).await
    }

    /// Logs in as Ana and returns the tokens.
    async fn log_in(&self) -> Value {
        let (status, tokens) = self.post("/api/oauth2/token", &self.redeem_form(&self.code(), "", "")).await;
        assert_eq!(status, 200, "{tokens}");
        tokens
    }
}

async fn answer(request: reqwest::RequestBuilder) -> (u16, Value) {
    let response = request.send().await.expect("an answer");
    (response.status().as_u16(), response.json().await.expect("json"))
}

fn param(url: &str, name: &str) -> String {
    let url = url::Url::parse(url).expect("an address");
    let found = url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned());
    found.unwrap_or_else(|| panic!("no {name} in {url}"))
}

#[tokio::test]
async fn a_user_logs_in_and_the_scopes_limit_their_data() {
    let app = App::start().await;
    let callback = app.discord.consent(&app.ana, &app.authorize("", ""));
    assert!(callback.starts_with(&format!("{REDIRECT_URI}?code=")));
    assert_eq!(param(&callback, "state"), "s t/1");

    let tokens = app.log_in().await;
    assert_eq!((&tokens["token_type"], &tokens["expires_in"]), (&json!("Bearer"), &json!(604_800)));
    assert_eq!(tokens["scope"], "identify email");
    let (status, me) = app.get("/api/v10/users/@me", &tokens["access_token"]).await;
    assert_eq!((status, &me["id"]), (200, &json!(app.ana.user_id().to_string())));
    assert_eq!((&me["email"], &me["verified"], &me["username"]), (&Value::Null, &json!(false), &json!("ana")));
    app.ana.set_email("ana@example.org", true);
    let (_, me) = app.get("/api/users/@me", &tokens["access_token"]).await;
    assert_eq!((&me["email"], &me["verified"]), (&json!("ana@example.org"), &json!(true)));
    let (_, authorization) = app.get("/api/v10/oauth2/@me", &tokens["access_token"]).await;
    assert_eq!(
        (&authorization["scopes"], &authorization["user"]["username"]),
        (&json!(["identify", "email"]), &json!("ana"))
    );
    assert_eq!(authorization["application"]["id"], app.discord.client_id());

    // Without the scope `email`, the user has no email members.
    let callback = app.discord.consent(&app.ana, &app.authorize("scope", "identify"));
    let (_, narrow) = app.post("/api/oauth2/token", &app.redeem_form(&param(&callback, "code"), "", "")).await;
    let (_, me) = app.get("/api/v10/users/@me", &narrow["access_token"]).await;
    assert!(me.get("email").is_none() && me.get("verified").is_none());

    let requests = app.discord.requests();
    assert_eq!(requests[0].path, "/oauth2/token");
    assert_eq!(requests[0].body["grant_type"], "authorization_code");
    app.discord.finish();
}

#[tokio::test]
async fn the_consent_page_validates_its_parameters() {
    let app = App::start().await;
    let unregistered = format!("{REDIRECT_URI}/");
    for (name, value, status) in [
        ("", "", 200),
        ("state", "", 200),
        ("client_id", "1", 400),
        ("redirect_uri", unregistered.as_str(), 400),
        ("redirect_uri", "", 400),
        ("response_type", "token", 400),
        ("scope", "email", 400),
        ("scope", "identify everything", 400),
        ("code_challenge_method", "plain", 400),
        ("code_challenge_method", "", 400),
        ("code_challenge", "short", 400),
    ] {
        let response = answer(app.http.get(app.authorize(name, value))).await;
        assert_eq!(response.0, status, "{name}={value}: {}", response.1);
    }
    let wrong = app.authorize("client_id", "1");
    assert!(std::panic::catch_unwind(|| app.discord.consent(&app.ana, &wrong)).is_err());
    let wrong_path = app.authorize("", "").replace("/oauth2/authorize", "/authorize");
    assert!(std::panic::catch_unwind(|| app.discord.decline(&wrong_path)).is_err());

    let declined = app.discord.decline(&app.authorize("", ""));
    assert_eq!((param(&declined, "error"), param(&declined, "state")), ("access_denied".into(), "s t/1".into()));
    assert!(param(&declined, "error_description").contains("denied"));
    app.discord.finish();
}

#[tokio::test]
async fn a_code_is_redeemed_once_by_its_client() {
    let app = App::start().await;
    let code = app.code();
    let long = "x".repeat(43);
    for (name, value, status, error) in [
        ("grant_type", "password", 400, "unsupported_grant_type"),
        ("client_secret", "guess", 401, "invalid_client"),
        ("client_id", "", 401, "invalid_client"),
        ("code", "guess", 400, "invalid_grant"),
        ("redirect_uri", "https://evil.example/", 400, "invalid_grant"),
        ("redirect_uri", "", 400, "invalid_grant"),
        ("code_verifier", "", 400, "invalid_grant"),
        ("code_verifier", "short", 400, "invalid_grant"),
        ("code_verifier", long.as_str(), 400, "invalid_grant"),
    ] {
        let refused = app.post("/api/oauth2/token", &app.redeem_form(&code, name, value)).await;
        assert_eq!((refused.0, &refused.1["error"]), (status, &json!(error)), "{name}={value}");
    }
    let json = app.http.post(format!("{}/api/oauth2/token", app.discord.base_url())).json(&json!({ "code": code }));
    assert_eq!(answer(json).await.1["error"], "invalid_request");

    let redeem_form = app.redeem_form(&code, "", "");
    assert_eq!(app.post("/api/oauth2/token", &redeem_form).await.0, 200);
    assert_eq!(app.post("/api/oauth2/token", &redeem_form).await.1["error"], "invalid_grant");

    let late = app.code();
    app.discord.advance_oauth(Duration::from_secs(601));
    assert_eq!(app.post("/api/oauth2/token", &app.redeem_form(&late, "", "")).await.0, 400);

    // Without a challenge, a code verifier is refused.
    let callback = app.discord.consent(&app.ana, &app.authorize("code_challenge", ""));
    let code = param(&callback, "code");
    assert_eq!(app.post("/api/oauth2/token", &app.redeem_form(&code, "", "")).await.0, 400);
    assert_eq!(app.post("/api/oauth2/token", &app.redeem_form(&code, "code_verifier", "")).await.0, 200);
    app.discord.finish();
}

#[tokio::test]
async fn tokens_are_refreshed_expire_and_are_revoked() {
    let app = App::start().await;
    let first = app.log_in().await;
    let (status, second) = app.refresh(&first["refresh_token"]).await;
    assert_eq!(status, 200);
    assert_eq!(app.refresh(&first["refresh_token"]).await.1["error"], "invalid_grant", "the refresh token was rotated");
    assert_eq!(app.get("/api/v10/users/@me", &second["access_token"]).await.0, 200);
    app.discord.advance_oauth(Duration::from_hours(7 * 24));
    assert_eq!(app.get("/api/v10/users/@me", &second["access_token"]).await.0, 401);
    let (_, third) = app.refresh(&second["refresh_token"]).await;

    let other = app.log_in().await;
    let (client, secret) = (app.discord.client_id(), app.discord.client_secret());
    let token = third["access_token"].as_str().unwrap().to_owned();
    let mut form = vec![("token".to_owned(), token), ("client_id".to_owned(), client)];
    assert_eq!(app.post("/api/oauth2/token/revoke", &form).await.0, 401);
    form.push(("client_secret".to_owned(), secret));
    assert_eq!(app.post("/api/oauth2/token/revoke", &form).await, (200, json!({})));
    assert_eq!(app.post("/api/oauth2/token/revoke", &form).await, (200, json!({})));
    for tokens in [third, other] {
        assert_eq!(app.get("/api/v10/oauth2/@me", &tokens["access_token"]).await.0, 401, "all grants were revoked");
        assert_eq!(app.refresh(&tokens["refresh_token"]).await.0, 400);
    }

    let tokens = app.log_in().await;
    app.ana.deauthorize();
    assert_eq!(app.get("/api/v10/users/@me", &tokens["access_token"]).await.0, 401);
    app.discord.finish();
}

#[tokio::test]
async fn faults_apply_to_oauth_routes() {
    let app = App::start().await;
    let redeem_form = app.redeem_form(&app.code(), "", "");
    app.discord.fail_next("POST", "/oauth2/token", 500);
    assert_eq!(app.post("/api/oauth2/token", &redeem_form).await.0, 500);
    app.discord.fault(Fault::on("POST", "/oauth2/token", FaultKind::Hold));
    let (answered, ()) = tokio::join!(app.post("/api/oauth2/token", &redeem_form), async {
        app.discord.held().await;
        app.discord.release();
    });
    assert_eq!(answered.0, 200, "the failed attempt did not consume the code");
    app.discord.fail_next("GET", "/users/@me", 503);
    assert_eq!(app.get("/api/v10/users/@me", &answered.1["access_token"]).await.0, 503);
    app.discord.finish();
}
