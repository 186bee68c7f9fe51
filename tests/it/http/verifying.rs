//! The verifiers of `docs/VERIFYING.md`, with answers of the service and what an attacker can make of them. The one in
//! Rust runs here. The calls are stored for `tests/verifying/run.py`, which runs the others.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use dca_core::crypto::api_key::ApiKeyKind;
use dca_core::crypto::proof::{LICENSE_FILE, VERDICT, sign};
use dca_core::{key_list, licenses};
use ed25519_dalek::{Signer, SigningKey};
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::Sha256;

use self::verify::Verifier;
use super::validate::validate_request;
use crate::support::{
    fixtures::TestTenant,
    harness::{TestApp, it_unstarted},
    proofs::{encode, fetch_list, parts, root_of},
};

#[path = "../../verifying/verify.rs"]
mod verify;

const DOCUMENT: &str = include_str!("../../../docs/VERIFYING.md");
const FINGERPRINT: &str = "desk-pc:0123456789abcdef";
const NONCE: &str = "q83vASNFZ4mrze8BI0VniQ";

/// A signature is worth what its key is: these are an attacker's.
fn attacker() -> SigningKey {
    SigningKey::from_bytes(&[3; 32])
}

fn signed(header: &Value, claims: &Value, signature: impl FnOnce(&[u8]) -> Vec<u8>) -> String {
    let message = format!("{}.{}", encode(header), encode(claims));
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature(message.as_bytes())))
}

/// A copy of an object with other members. `null` removes one.
fn with(object: &Value, members: Value) -> Value {
    let (mut object, Value::Object(members)) = (object.clone(), members) else { panic!("not members") };
    object.as_object_mut().unwrap().extend(members);
    object.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    object
}

/// The body of a request, and the proof of its answer.
async fn ask(t: &TestApp, api_key: &str, key: &str) -> Value {
    let body = json!({ "licenseKey": key, "nonce": NONCE, "device": { "fingerprint": FINGERPRINT }, "app": "ñandú" });
    let answer = validate_request(api_key, body.to_string()).ask(t.addr()).await.unwrap().json();
    json!({ "body": body.to_string(), "proof": answer["proof"] })
}

/// Calls of both functions that differ from a good one: a name, what differs, and the code in the claims that `verify` and
/// `verifyOffline` return, or "" for no answer.
type Calls = Vec<(&'static str, Value, [&'static str; 2])>;

const NONE: [&str; 2] = ["", ""];

/// What the service answers, and what somebody else may make of its answers.
fn replayed(now: i64, body: &str, proof: &str, list: &str) -> Calls {
    let [header, claims, signature] = proof.split('.').collect::<Vec<_>>().try_into().unwrap();
    let more = encode(&with(&parts(proof).1, json!({ "features": ["all"] })));
    let end = parts(proof).1["offlineUntil"].as_i64().expect("the policy allows to work offline");
    vec![
        ("unchanged", json!({}), ["VALID", "VALID"]),
        ("five minutes later", json!({ "now": now + 300 }), ["VALID", "VALID"]),
        ("on a clock that is slow", json!({ "now": now - 300 }), ["VALID", "VALID"]),
        ("later", json!({ "now": now + 301 }), ["", "VALID"]),
        ("on a clock that was set back", json!({ "now": now - 301 }), NONE),
        ("before a time that was seen", json!({ "now": now + 60, "latest": now + 361 }), ["VALID", ""]),
        ("after the time offline", json!({ "now": end }), NONE),
        ("with another nonce", json!({ "nonce": "AAAAAAAAAAAAAAAAAAAAAA" }), ["", "VALID"]),
        ("with another body", json!({ "body": format!("{body} ") }), ["", "VALID"]),
        ("for another operation", json!({ "op": "usage" }), ["", "VALID"]),
        ("on another device", json!({ "fingerprint": "laptop:0123456789abcdef" }), ["VALID", ""]),
        ("no proof", json!({ "proof": "" }), NONE),
        ("JSON as a proof", json!({ "proof": r#"{"valid":true,"code":"VALID"}"# }), NONE),
        ("garbage as a proof", json!({ "proof": "a.b.c" }), NONE),
        ("changed claims", json!({ "proof": format!("{header}.{more}.{signature}") }), NONE),
        ("a fourth part", json!({ "proof": format!("{proof}.{signature}") }), NONE),
        ("a short signature", json!({ "proof": format!("{header}.{claims}.{}", &signature[..40]) }), NONE),
        ("no signature", json!({ "proof": format!("{header}.{claims}.") }), NONE),
        ("the list as a proof", json!({ "proof": list }), NONE),
        ("the proof as a list", json!({ "list": proof }), NONE),
        ("no list", json!({ "list": "" }), NONE),
        ("an old list", json!({ "now": parts(list).1["exp"] }), NONE),
    ]
}

/// What an attacker can sign: with their own key, or with no key at all.
fn forged(root: &[u8], proof: &str, list: &str) -> Calls {
    let own = attacker();
    let by_attacker = |message: &[u8]| own.sign(message).to_bytes().to_vec();
    let ((header, claims), (list_header, list_claims)) = (parts(proof), parts(list));
    let x = list_claims["keys"][0]["x"].as_str().unwrap();
    let x = URL_SAFE_NO_PAD.decode(x).unwrap();
    let hmac = |key: &[u8], message: &[u8]| {
        let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key).unwrap();
        mac.update(message);
        mac.finalize().into_bytes().to_vec()
    };
    let hs256 = |key: &[u8]| signed(&with(&header, json!({ "alg": "HS256" })), &claims, |message| hmac(key, message));
    let own_key =
        with(&list_claims["keys"][0], json!({ "kid": "own", "x": URL_SAFE_NO_PAD.encode(own.verifying_key()) }));
    let own_list = with(&list_claims, json!({ "keys": [own_key] }));
    let own_header = with(&header, json!({ "kid": "own" }));
    let own_proof = signed(&own_header, &claims, by_attacker);
    let unsigned_list = format!("{}.{}.{}", encode(&list_header), encode(&own_list), list.rsplit('.').next().unwrap());
    let none = with(&header, json!({ "alg": "none" }));
    vec![
        ("signed with another key", json!({ "proof": own_proof }), NONE),
        ("signed with another key under a known name", json!({ "proof": signed(&header, &claims, by_attacker) }), NONE),
        ("no algorithm", json!({ "proof": format!("{}.{}.", encode(&none), encode(&claims)) }), NONE),
        ("HMAC with the public key", json!({ "proof": hs256(&x) }), NONE),
        ("HMAC with the public root key", json!({ "proof": hs256(root) }), NONE),
        (
            "a list signed by another root",
            json!({ "proof": own_proof, "list": signed(&list_header, &own_list, by_attacker) }),
            NONE,
        ),
        ("a changed list", json!({ "proof": own_proof, "list": unsigned_list }), NONE),
    ]
}

/// What the service signs for somebody or something else.
fn signed_for_others(t: &TestApp, proof: &str, list: &str) -> Calls {
    let (claims, list_claims) = (parts(proof).1, parts(list).1);
    let key = &list_claims["keys"][0];
    let (nbf, exp) = (key["nbf"].as_i64().unwrap(), key["exp"].as_i64().unwrap());
    let sign = |typ, members| json!({ "proof": sign(t.core(), typ, &with(&claims, members)).unwrap() });
    let by_verdict_key = sign_list(t, &list_claims);
    vec![
        ("no limits", sign(VERDICT, json!({ "limits": null })), ["VALID", "VALID"]),
        ("no nonce", sign(VERDICT, json!({ "nonce": null })), ["", "VALID"]),
        ("no device", sign(VERDICT, json!({ "fph": null })), ["VALID", ""]),
        ("no time offline", sign(VERDICT, json!({ "offlineUntil": null })), ["VALID", ""]),
        ("a verdict of a test key", sign(VERDICT, json!({ "test": true })), NONE),
        ("another version", sign(VERDICT, json!({ "ver": 2 })), NONE),
        ("no product", sign(VERDICT, json!({ "aud": null })), NONE),
        ("a license file", sign(LICENSE_FILE, json!({})), NONE),
        ("signed before the key's time", sign(VERDICT, json!({ "iat": nbf - 1 })), NONE),
        ("valid after the key's time", sign(VERDICT, json!({ "exp": exp + 1 })), NONE),
        ("a list signed by a verdict key", by_verdict_key, NONE),
    ]
}

fn sign_list(t: &TestApp, claims: &Value) -> Value {
    json!({ "list": sign(t.core(), key_list::TYPE, claims).unwrap() })
}

#[test]
fn the_documented_verifiers_accept_the_answers_of_the_service_and_nothing_else() {
    let rust = format!("```rust\n{}```", include_str!("../../verifying/verify.rs"));
    assert!(DOCUMENT.contains(&rust), "docs/VERIFYING.md does not contain tests/verifying/verify.rs");
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let tenant = TestTenant::new(t.core(), "Makers").await;
        let (gold, blue) = (tenant.product("Gold", "GOLD").await, tenant.product("Blue", "BLUE").await);
        let api_key = tenant.api_key(ApiKeyKind::Publishable, &[&gold, &blue]).await.1;
        let ((license, key), (_, other)) = (tenant.license(&gold, 1).await, tenant.license(&blue, 1).await);
        let answer = ask(&t, &api_key, &key).await;
        let (body, proof) = (answer["body"].as_str().unwrap(), answer["proof"].as_str().unwrap());
        let (root, list, now) = (root_of(t.core()).await, fetch_list(&t).await, t.clock.now().timestamp());

        let mut calls = replayed(now, body, proof, &list);
        calls.extend(forged(&root, proof, &list));
        calls.extend(signed_for_others(&t, proof, &list));
        calls.push(("another product", ask(&t, &api_key, &other).await, NONE));
        calls.push(("not a key", ask(&t, &api_key, "GOLD-1").await, ["MALFORMED_KEY", ""]));
        t.wait_until_stored().await;
        licenses::revoke(t.core(), &tenant.caller, license.id, "refunded").await.unwrap();
        calls.push(("revoked", ask(&t, &api_key, &key).await, ["REVOKED", ""]));

        let good = json!({
            "proof": proof, "list": list, "now": now, "latest": now, "fingerprint": FINGERPRINT,
            "op": "validate", "nonce": NONCE, "body": body,
        });
        let calls = calls.iter().flat_map(|(name, changes, expect)| {
            let call = with(&good, changes.clone());
            ["verify", "verifyOffline"].into_iter().zip(expect).map(move |(function, expect)| {
                with(&call, json!({ "name": name, "function": function, "expect": expect }))
            })
        });
        let (root, product) = (URL_SAFE_NO_PAD.encode(root), gold.id.to_string());
        let vectors = json!({ "root": root, "product": product, "calls": calls.collect::<Vec<_>>() });
        verify_in_rust(&vectors);
        std::fs::write(concat!(env!("CARGO_TARGET_TMPDIR"), "/verifying.json"), vectors.to_string()).unwrap();
        t
    });
}

fn verify_in_rust(vectors: &Value) {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let verifier = Verifier { root: &text(&vectors["root"]), product: &text(&vectors["product"]) };
    for call in vectors["calls"].as_array().unwrap() {
        let [function, proof, list, op, nonce, body, fingerprint] =
            ["function", "proof", "list", "op", "nonce", "body", "fingerprint"].map(|name| text(&call[name]));
        let (now, latest) = (call["now"].as_i64().unwrap(), call["latest"].as_i64().unwrap());
        let claims = match function.as_str() {
            "verify" => verifier.verify(&proof, &list, &op, &nonce, body.as_bytes(), now),
            _ => verifier.verify_offline(&proof, &list, &fingerprint, latest, now),
        };
        let code = claims.map_or(String::new(), |claims| text(&claims["code"]));
        assert_eq!(code, text(&call["expect"]), "{function}: {}", call["name"]);
    }
}
