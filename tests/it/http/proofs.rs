//! Signed verdicts, and the signed list of the keys that sign them, as an app verifies them: with the public root key
//! and nothing else.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::TimeDelta;
use dca_auth::workers::SIGNING_KEYS;
use dca_core::{
    Code,
    crypto::{
        proof::{self, Operation, VerdictClaims},
        seal::Purpose,
    },
    key_list,
    key_rotation::{self, ACTIVATION_DELAY, Rotation},
    users::Role,
};
use ed25519_dalek::{Signer, SigningKey};
use hmac::{Hmac, KeyInit, Mac};
use reqwest::Method;
use serde_json::{Value, json};
use sha2::Sha256;

use crate::support::{
    accounts::{me, signed_in_as},
    browser::Browser,
    harness::{TestApp, it_unstarted},
    proofs::{encode, fetch_list, parts, root_of, verify_as_app},
};

fn proof(t: &TestApp) -> String {
    let claims = VerdictClaims::new(t.core(), Operation::Validate, &[9; 32], "VALID", t.clock.now());
    let nonce = Some("q83vASNFZ4mrze8BI0VniQ".to_owned());
    VerdictClaims { valid: true, nonce, state: Some("active".into()), ..claims }.sign(t.core()).unwrap()
}

#[test]
fn a_proof_verifies_with_the_root_key_alone_and_no_forgery_does() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let (root, list, proof, now) =
            (root_of(t.core()).await, fetch_list(&t).await, proof(&t), t.clock.now().timestamp());
        let check = |list: &str, jws: &str| verify_as_app(&root, list, jws, proof::VERDICT, now);
        let claims = check(&list, &proof).expect("verifies");
        assert_eq!((&claims["iat"], &claims["nbf"], &claims["exp"]), (&json!(now), &json!(now - 5), &json!(now + 300)));
        assert_eq!(
            (&claims["iss"], &claims["req"]),
            (&json!(t.app().config.http.public_url), &json!(URL_SAFE_NO_PAD.encode([9; 32])))
        );
        assert_eq!(verify_as_app(&root, &list, &proof, proof::VERDICT, now + 300), None, "expired");
        assert_eq!(verify_as_app(&root, &list, &proof, proof::LICENSE_FILE, now), None, "of another type");

        let [header, body, signature] = proof.split('.').collect::<Vec<_>>().try_into().unwrap();
        let (fields, _) = parts(&proof);
        for name in claims.as_object().unwrap().keys() {
            for value in [json!(true), json!("x"), json!(4_102_444_800_i64), Value::Null] {
                let mut changed = claims.clone();
                changed[name] = value;
                if changed != claims {
                    assert_eq!(check(&list, &format!("{header}.{}.{signature}", encode(&changed))), None, "{name}");
                }
            }
        }
        let with = |name: &str, value: Value| {
            let mut header = fields.clone();
            header[name] = value;
            encode(&header)
        };
        let own = SigningKey::from_bytes(&[3; 32]);
        let sign = |header: &str, key: &SigningKey| {
            let message = format!("{header}.{body}");
            format!("{message}.{}", URL_SAFE_NO_PAD.encode(key.sign(message.as_bytes()).to_bytes()))
        };
        let hs256 = |header: &str| {
            let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&root).unwrap();
            mac.update(format!("{header}.{body}").as_bytes());
            format!("{header}.{body}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
        };
        let mut own_list = parts(&list).1;
        own_list["keys"][0]["x"] = URL_SAFE_NO_PAD.encode(own.verifying_key()).into();
        let own_list = format!("{}.{}", list.split('.').next().unwrap(), encode(&own_list));
        let own_list = format!("{own_list}.{}", URL_SAFE_NO_PAD.encode(own.sign(own_list.as_bytes()).to_bytes()));
        for (what, list, forged) in [
            ("no algorithm", &list, format!("{}.{body}.", with("alg", json!("none")))),
            ("HMAC with the public root key", &list, hs256(&with("alg", json!("HS256")))),
            ("a list as a verdict", &list, list.clone()),
            ("another type", &list, sign(&with("typ", json!("dca-license+jwt")), &own)),
            ("an unknown key", &list, sign(&with("kid", json!("x")), &own)),
            ("the key id of another", &list, sign(header, &own)),
            ("a list signed by another root", &own_list, sign(header, &own)),
            ("no signature", &list, format!("{header}.{body}.")),
        ] {
            assert_eq!(check(list, &forged), None, "{what}");
        }
        let (ana, _) = signed_in_as(&t, "ana@x.example", Role::User).await;
        assert_eq!(check(&list, &ana.access_token().unwrap()), None, "an access token as a verdict");
        assert_eq!(me(&t, &proof).await.code(), "INVALID_TOKEN", "a verdict as an access token");
        t
    });
}

/// The ids of the keys in a list.
fn kids(list: &str) -> Vec<String> {
    let keys = parts(list).1["keys"].clone();
    keys.as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_signing_key_is_rotated_with_overlap_and_listed_until_what_it_signed_has_expired() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let root = root_of(t.core()).await;
        let seq = |list: &str| parts(list).1["seq"].as_i64().unwrap();
        let kid = |jws: &str| parts(jws).0["kid"].as_str().unwrap().to_owned();
        let valid = |list: &str, jws: &str| {
            verify_as_app(&root, list, jws, proof::VERDICT, t.clock.now().timestamp()).is_some()
        };
        let (first_list, first) = (fetch_list(&t).await, kids(&fetch_list(&t).await));
        t.advance(TimeDelta::days(59));
        t.run_worker(SIGNING_KEYS).await;
        let renewed_list = fetch_list(&t).await;
        assert_eq!(
            (kids(&renewed_list), seq(&renewed_list) > seq(&first_list)),
            (first.clone(), true),
            "only its end moves"
        );
        t.advance(TimeDelta::days(1));
        t.run_worker(SIGNING_KEYS).await;
        let (second_list, former) = (fetch_list(&t).await, proof(&t));
        assert_eq!((kids(&second_list).len(), &kids(&second_list)[1..]), (2, &first[..]));
        assert!(seq(&second_list) > seq(&first_list));
        assert_eq!(kid(&former), first[0], "the new key is listed before it signs");
        t.advance(ACTIVATION_DELAY - TimeDelta::seconds(1));
        assert_eq!(kid(&proof(&t)), first[0]);
        assert!(valid(&second_list, &former), "a proof of the former key");
        t.advance(TimeDelta::seconds(1));
        let next = proof(&t);
        assert_eq!(kid(&next), kids(&second_list)[0]);
        assert!(valid(&second_list, &next) && !valid(&first_list, &next), "apps fetch the list for an unknown key");

        t.advance(key_list::KEY_LIFETIME - TimeDelta::days(60) - ACTIVATION_DELAY - TimeDelta::seconds(1));
        t.run_worker(SIGNING_KEYS).await;
        assert!(kids(&fetch_list(&t).await).contains(&first[0]), "a file that it signed may still be valid");
        t.advance(TimeDelta::days(1));
        t.run_worker(SIGNING_KEYS).await;
        assert!(!kids(&fetch_list(&t).await).contains(&first[0]));
        t
    });
}

#[test]
fn a_list_is_replaced_before_it_ends_and_the_root_key_is_rotated_only_by_name() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let (root, list) = (root_of(t.core()).await, fetch_list(&t).await);
        key_rotation::rotate(t.core(), None).await.unwrap();
        let rotated = fetch_list(&t).await;
        assert_eq!((root_of(t.core()).await, kids(&rotated).len()), (root.clone(), 2));
        let added = key_rotation::rotate(t.core(), Some(Purpose::RootSigning)).await.unwrap();
        assert_eq!((added.len(), added[0].not_before), (1, t.clock.now()));
        let (new_root, new_list) = (root_of(t.core()).await, fetch_list(&t).await);
        assert_ne!(new_root, root);
        let (proof, now) = (proof(&t), t.clock.now().timestamp());
        for (root, list, is_valid) in
            [(&root, &list, true), (&root, &new_list, false), (&new_root, &list, false), (&new_root, &new_list, true)]
        {
            assert_eq!(verify_as_app(root, list, &proof, proof::VERDICT, now).is_some(), is_valid);
        }
        let other = t.assemble(&[("DCA_PUBLIC_URL", "https://new.example.com")]).await.unwrap();
        key_rotation::renew(&other.core).await.unwrap();
        assert_eq!(parts(&fetch_list(&t).await).1["iss"], "https://new.example.com");
        t
    });
}

#[test]
fn without_the_root_key_the_operator_is_reminded_to_sign_the_list() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let (root, list) = (root_of(t.core()).await, fetch_list(&t).await);
        let pem = key_rotation::export_root(t.core()).unwrap();
        key_rotation::remove_root(t.core()).await.unwrap();
        assert_eq!(key_rotation::export_root(t.core()).unwrap_err().code(), Code::Conflict);
        let reminder = "dca-auth keys publish --root FILE";
        for (days, is_due) in [(75, false), (2, true)] {
            t.advance(TimeDelta::days(days));
            t.run_worker(SIGNING_KEYS).await;
            assert_eq!((fetch_list(&t).await, t.log.text().contains(reminder)), (list.clone(), is_due), "{days}");
        }
        let status = key_rotation::publish(t.core(), &pem, Rotation::WhenDue).await.unwrap();
        assert!(!status.is_publication_due && !status.is_online);
        let signed = fetch_list(&t).await;
        assert_eq!((kids(&signed).len(), &kids(&signed)[1..]), (2, &kids(&list)[..]), "the signing key was due too");
        let again = key_rotation::publish(t.core(), &pem, Rotation::WhenDue).await.unwrap();
        assert_eq!((kids(&fetch_list(&t).await).len(), again.next_rotation), (2, status.next_rotation));
        t.advance(ACTIVATION_DELAY);
        let now = t.clock.now().timestamp();
        assert!(verify_as_app(&root, &signed, &proof(&t), proof::VERDICT, now).is_some());
        assert!(!t.log.text().contains(pem.lines().nth(1).unwrap()), "the key is not logged");
        t
    });
}

#[test]
fn the_published_keys_are_cacheable() {
    it_unstarted(|mut t| async {
        t.start_with_limits(&[]).await;
        let browser = Browser::new(&t);
        for path in ["/.well-known/dca-keys", "/.well-known/jwks.json"] {
            let first = browser.get(path).await;
            assert_eq!((first.status, first.header("cache-control")), (200, "public, max-age=240"), "{path}");
            let etag = first.header("etag").to_owned();
            assert!(etag.starts_with('"') && etag.ends_with('"'), "{etag}");
            let ask =
                async |known: &str| browser.ask(Method::GET, path, Value::Null, &[("If-None-Match", known)]).await;
            for known in [&etag, "*", &format!("\"x\", {etag}"), &format!("W/{etag}")] {
                let unchanged = ask(known).await;
                assert_eq!((unchanged.status, unchanged.text.as_str()), (304, ""), "{path} {known}");
                assert_eq!(
                    (unchanged.header("etag"), unchanged.header("cache-control")),
                    (&*etag, "public, max-age=240")
                );
            }
            assert_eq!(ask("\"x\"").await.status, 200, "{path}");
            key_rotation::rotate(t.core(), Some(Purpose::VerdictSigning)).await.unwrap();
            let changed = ask(&etag).await;
            assert_eq!((changed.status, changed.header("etag") != etag), (200, true), "{path}");
        }
        t
    });
}
