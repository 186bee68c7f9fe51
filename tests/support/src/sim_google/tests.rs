//! The Sim over HTTP. What the authorization server refuses is proven with SimDiscord, who shares it.

use serde_json::{Value, json};
use url::Url;

use super::SimGoogle;
use crate::oauth::digest;

const BACK: &str = "https://app.example/auth/google/callback";
const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";

fn http() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().tls_certs_only([]).build().expect("a client")
}

async fn start() -> SimGoogle {
    let google = SimGoogle::start().await;
    google.register_redirect(BACK);
    google
}

/// The authorize address with these scopes, and with `more`.
fn authorize(google: &SimGoogle, scope: &str, more: &[(&str, &str)]) -> String {
    let (page, client, challenge) =
        (format!("{}/o/oauth2/v2/auth", google.base_url()), google.client_id(), digest(VERIFIER));
    let pairs = [
        ("response_type", "code"),
        ("client_id", &client),
        ("redirect_uri", BACK),
        ("scope", scope),
        ("state", "s1"),
        ("code_challenge", &challenge),
        ("code_challenge_method", "S256"),
    ];
    Url::parse_with_params(&page, pairs.iter().chain(more)).expect("an address").into()
}

fn param(url: &str, name: &str) -> Option<String> {
    let url = Url::parse(url).expect("an address");
    url.query_pairs().find(|(known, _)| known == name).map(|(_, value)| value.into_owned())
}

async fn redeem(google: &SimGoogle, callback: &str, verifier: &str) -> (u16, Value) {
    let code = param(callback, "code").expect("a code");
    let (client, secret) = (google.client_id(), google.client_secret());
    let form = [
        ("grant_type", "authorization_code"),
        ("code", &code),
        ("redirect_uri", BACK),
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
async fn a_person_signs_in_and_is_who_they_are() {
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
    let (_, about) = userinfo(&google, token).await;
    assert_eq!((&about["sub"], &about["given_name"]), (&json!("117"), &json!("Ana")));
    assert_eq!((&about["email"], &about["email_verified"]), (&json!("ana@mail.example"), &json!(false)));
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
async fn people_decline_and_google_fails() {
    let google = start().await;
    let ana = google.person("117", "Ana", None);
    let asked = authorize(&google, "openid", &[]);
    let declined = google.decline(&asked);
    assert_eq!(
        (param(&declined, "error").as_deref(), param(&declined, "state").as_deref()),
        (Some("access_denied"), Some("s1"))
    );
    assert_eq!(answer(http().get(&asked)).await.0, 200);
    let wrong = authorize(&google, "email", &[]);
    assert_eq!(answer(http().get(&wrong)).await.0, 400);
    assert!(std::panic::catch_unwind(|| google.consent(&ana, &wrong)).is_err());

    google.fail_next("/token", 503);
    let callback = google.consent(&ana, &asked);
    assert_eq!(redeem(&google, &callback, VERIFIER).await.0, 503);
    assert_eq!(redeem(&google, &callback, VERIFIER).await.0, 200);
    google.finish();
    assert_eq!(answer(http().get(format!("{}/certs", google.base_url()))).await.0, 404);
    assert!(std::panic::catch_unwind(|| google.finish()).is_err(), "a route nobody models");
}
