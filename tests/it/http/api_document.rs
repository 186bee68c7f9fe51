//! The OpenAPI document, the index and the catalog of codes.

use std::collections::{BTreeMap, BTreeSet};

use dca_core::{Code, crypto::api_key::ApiKeyKind, licenses::VerdictCode};
use serde_json::{Value, json};

use crate::support::{
    browser::Browser,
    fixtures::{Request, TestTenant},
    harness::it_unstarted,
};

pub(super) fn document() -> (Value, String) {
    let text = dca_auth::http::openapi().to_json().unwrap();
    (serde_json::from_str(&text).unwrap(), text)
}

/// Method, path and operation of each documented route.
pub(super) fn operations(document: &Value) -> impl Iterator<Item = (&str, &str, &Value)> {
    let paths = document["paths"].as_object().unwrap().iter();
    paths.flat_map(|(path, item)| {
        item.as_object().unwrap().iter().map(|(method, it)| (method.as_str(), path.as_str(), it))
    })
}

fn references(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => {
            found.extend(members.get("$ref").and_then(Value::as_str).map(str::to_owned));
            members.values().for_each(|value| references(value, found));
        }
        Value::Array(values) => values.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

#[test]
fn the_document_describes_every_response_and_shares_what_repeats() {
    let (document, text) = document();
    assert!(text.len() < 250_000, "{} bytes", text.len());
    let first = text.split(r#""paths":{""#).nth(1).unwrap().split('"').next().unwrap();
    assert_eq!(first, "/licenses/validate", "the first operation is the most important one");
    let mut ids = BTreeSet::new();
    for (method, path, operation) in operations(&document) {
        let id = operation["operationId"].as_str().unwrap();
        assert!(ids.insert(id), "{id} of {method} {path} is not unique");
        assert!(operation["summary"].is_string() && operation["tags"].is_array(), "{method} {path}");
        for (status, response) in operation["responses"].as_object().unwrap() {
            assert!(!response["description"].as_str().unwrap_or_default().is_empty(), "{method} {path} {status}");
            let is_problem = status.as_str() >= "400" && !["/health", "/ready"].contains(&path);
            let shared = response["$ref"] == "#/components/responses/Problem";
            assert_eq!(shared, is_problem, "{method} {path} {status}");
        }
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let name = parameter["name"].as_str().unwrap();
            let place = match name {
                "If-Match" | "Idempotency-Key" => "header",
                _ if path.contains(&format!("{{{name}}}")) => "path",
                _ => "query",
            };
            assert_eq!(parameter["in"], place, "{name} of {method} {path}");
            assert_ne!(parameter["schema"]["type"], json!(["string", "null"]), "{name} of {method} {path}");
        }
    }
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    for reference in found {
        assert!(document.pointer(&reference[1..]).is_some(), "{reference} does not exist");
    }
    let schemas = &document["components"]["schemas"];
    for (schema, value) in [("Role", "SUPER_ADMIN"), ("AccountStatus", "BANNED"), ("VerdictCode", "VALID")] {
        assert!(schemas[schema]["enum"].as_array().unwrap().contains(&json!(value)), "{schema}");
    }
    for (pointer, format) in [
        ("/SignUpRequest/properties/email", "email"),
        ("/SignUpRequest/properties/password", "password"),
        ("/SessionView/properties/expiresAt", "date-time"),
        ("/Problem/properties/type", "uri"),
    ] {
        assert_eq!(schemas.pointer(pointer).unwrap()["format"], format, "{pointer}");
    }
}

#[test]
fn the_examples_of_the_document_are_valid_requests_and_responses() {
    it_unstarted(|mut t| async {
        let mail = t.start_mail_sink().await;
        t.start_without_bot().await;
        let schemas = document().0["components"]["schemas"].clone();
        let example = |name: &str| -> Value {
            let properties = schemas[name]["properties"].as_object().unwrap().iter();
            properties.filter_map(|(name, schema)| Some((name.clone(), schema.get("example")?.clone()))).collect()
        };
        let tenant = TestTenant::new(t.core(), "Makers").await;
        let gold = tenant.product("Gold", "GOLD").await;
        let api_key = tenant.api_key(ApiKeyKind::Secret, &[&gold]).await.1;
        let body = example("ValidateRequest").to_string();
        let request = Request::new("POST /licenses/validate").with("Content-Type", "application/json");
        let answer = request.with("X-API-Key", &api_key).body(body).ask(t.addr()).await.unwrap().json();
        assert_eq!(answer["code"], "NOT_FOUND", "the example is a well-formed key: {answer}");

        let (key, nonce) = (tenant.license(&gold, 1).await.1, "q83vASNFZ4mrze8BI0VniQ");
        let request = Request::new("POST /licenses/validate").with("Content-Type", "application/json");
        let request =
            request.with("X-API-Key", &api_key).body(json!({ "licenseKey": key, "nonce": nonce }).to_string());
        let answer = request.ask(t.addr()).await.unwrap().json();
        let shape = |value: &Value| -> BTreeMap<String, bool> {
            value.as_object().unwrap().iter().map(|(name, value)| (name.clone(), value.is_string())).collect()
        };
        let documented = &schemas["ValidateResponse"]["example"];
        assert_eq!((shape(documented), shape(&documented["license"])), (shape(&answer), shape(&answer["license"])));

        let browser = Browser::new(&t);
        assert_eq!(browser.post("/auth/signup", example("SignUpRequest")).await.status, 201);
        let refused = browser.post("/auth/login", example("SignInRequest")).await;
        assert_eq!(refused.code(), "EMAIL_NOT_VERIFIED", "the password is the one of the sign-up: {refused:?}");
        mail.next("ana@example.com").await;
        mail.finish();
        t
    });
}

#[test]
fn the_index_shows_where_things_are() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let index = Request::new("GET /").ask(t.addr()).await.unwrap();
        assert_eq!((index.status, index.header("content-type")), (200, "application/json"));
        let index = index.json();
        assert_eq!(index["version"], dca_auth::VERSION);
        let public_url = t.app().config.http.public_url.clone();
        for name in ["docs", "openapi", "errors", "health", "ready", "validate"] {
            let path = index[name].as_str().unwrap().strip_prefix(&public_url).unwrap();
            let status = Request::new(&format!("GET {path}")).ask(t.addr()).await.unwrap().status;
            assert_eq!(status, if name == "validate" { 405 } else { 200 }, "{name}");
        }
        let page = Request::new("GET /").with("Accept", "text/html,*/*").ask(t.addr()).await.unwrap();
        assert!(page.header("content-type").starts_with("text/html"), "{page:?}");
        assert!(page.body.contains(r#"<a href="/docs/">"#), "{page:?}");
        t
    });
}

#[test]
fn the_type_of_a_problem_is_the_url_of_its_entry_in_the_catalog() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let problem = Request::new("GET /nothing").ask(t.addr()).await.unwrap().json();
        let (page, anchor) = problem["type"].as_str().unwrap().split_once('#').unwrap();
        let path = page.strip_prefix(&t.app().config.http.public_url).unwrap();
        let catalog = Request::new(&format!("GET {path}")).ask(t.addr()).await.unwrap();
        assert_eq!((catalog.status, anchor), (200, "NOT_FOUND"));
        let codes = Code::ALL.iter().map(ToString::to_string);
        for anchor in codes.chain(VerdictCode::ALL.iter().map(|code| format!("verdict-{code}"))) {
            assert_eq!(catalog.body.matches(&format!(r#"<dt id="{anchor}">"#)).count(), 1, "{anchor}");
        }
        t
    });
}
