//! The Sim over HTTP. The tests of SimDiscord cover what the shared authorization server refuses.

use serde_json::{Value, json};
use url::Url;

use super::SimGoogle;
use crate::oauth::digest;

const REDIRECT_URI: &str = "https://app.example/auth/google/callback";
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";

fn http() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().tls_certs_only([]).build().expect("a client")
}

async fn start() -> SimGoogle {
    let google = SimGoogle::start().await;
    google.register_redirect(REDIRECT_URI);
    google
}

/// The authorize URL with these scopes and extra parameters.
fn authorize(google: &SimGoogle, scope: &str, extra: &[(&str, &str)]) -> String {
    let (page, client, challenge) =
        (format!("{}/o/oauth2/v2/auth", google.base_url()), google.client_id(), digest(VERIFIER));
    let pairs = [
        ("response_type", "code"),
        ("client_id", &client),
        ("redirect_uri", REDIRECT_URI),
        ("scope", scope),
        ("state", "s1"),
        ("code_challenge", &challenge),
        ("code_challenge_method", "S256"),
    ];
    Url::parse_with_params(&page, pairs.iter().chain(extra)).expect("an address").into()
}

fn param(url: &str, name: &str) -> Option<String> {
    let url = Url::parse(url).expect("an address");
    url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

async fn redeem(google: &SimGoogle, callback: &str, verifier: &str) -> (u16, Value) {
    let code = param(callback, "code").expect("a code");
    let (client, secret) = (google.client_id(), google.client_secret());
    let form = [
        ("grant_type", "authorization_code"),
        ("code", &code),
        ("redirect_uri", REDIRECT_URI),
        ("code_verifier", verifier),
        ("client_id", &client),
        ("client_secret", &secret),
    ];
    answer(http().post(format!("{}/token", google.base_url())).form(&form)).await
}

async fn userinfo(google: &SimGoogle, token: &str) -> (u16, Value) {
    answer(http().get(format!("{}/v1/userinfo", google.base_url())).bearer_auth(token)).await
}

async fn answer(request: reqwest::RequestBuilder) -> (u16, Value) {
    let response = request.send().await.expect("an answer");
    let status = response.status().as_u16();
    let text = response.text().await.expect("a body");
    (status, serde_json::from_str(&text).unwrap_or(Value::Null))
}

#[tokio::test]
async fn a_user_signs_in_and_userinfo_returns_their_claims() {
    let google = start().await;
    let ana = google.person("117", "Ana Lima", Some(("ana@mail.example", false)));
    let callback = google.consent(&ana, &authorize(&google, "openid email profile", &[]));
    assert_eq!(param(&callback, "state").as_deref(), Some("s1"));
    assert_eq!(redeem(&google, &callback, &"x".repeat(43)).await.0, 400);
    let (status, tokens) = redeem(&google, &callback, VERIFIER).await;
    assert_eq!((status, &tokens["expires_in"], &tokens["token_type"]), (200, &json!(3599), &json!("Bearer")));
    assert_eq!(tokens["scope"].as_str().unwrap().split(' ').next_back(), Some(super::PROFILE));
    assert!(tokens.get("refresh_token").is_none());
    assert_eq!(redeem(&google, &callback, VERIFIER).await.1["error"], "invalid_grant");

    let token = tokens["access_token"].as_str().unwrap();
    let (_, claims) = userinfo(&google, token).await;
    assert_eq!((&claims["sub"], &claims["given_name"]), (&json!("117"), &json!("Ana")));
    assert_eq!((&claims["email"], &claims["email_verified"]), (&json!("ana@mail.example"), &json!(false)));
    google.person("117", "Ana Lima", None);
    assert!(userinfo(&google, token).await.1.get("email").is_none());
    assert_eq!(userinfo(&google, "guess").await.0, 401);

    let callback = google.consent(&ana, &authorize(&google, "openid", &[("access_type", "offline")]));
    let (_, tokens) = redeem(&google, &callback, VERIFIER).await;
    assert!(tokens["refresh_token"].is_string());
    assert_eq!(userinfo(&google, tokens["access_token"].as_str().unwrap()).await.1, json!({ "sub": "117" }));
    google.finish();
}

#[tokio::test]
async fn users_decline_and_injected_failures_occur() {
    let google = start().await;
    let ana = google.person("117", "Ana", None);
    let authorize_url = authorize(&google, "openid", &[]);
    let declined = google.decline(&authorize_url);
    assert_eq!(
        (param(&declined, "error").as_deref(), param(&declined, "state").as_deref()),
        (Some("access_denied"), Some("s1"))
    );
    assert_eq!(answer(http().get(&authorize_url)).await.0, 200);
    let wrong = authorize(&google, "email", &[]);
    assert_eq!(answer(http().get(&wrong)).await.0, 400);
    assert!(std::panic::catch_unwind(|| google.consent(&ana, &wrong)).is_err());

    google.fail_next("/token", 503);
    let callback = google.consent(&ana, &authorize_url);
    assert_eq!(redeem(&google, &callback, VERIFIER).await.0, 503);
    assert_eq!(redeem(&google, &callback, VERIFIER).await.0, 200);
    google.finish();
    assert_eq!(answer(http().get(format!("{}/certs", google.base_url()))).await.0, 404);
    assert!(std::panic::catch_unwind(|| google.finish()).is_err(), "an unknown route");
}
