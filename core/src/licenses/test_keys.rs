//! Test keys: each product has one license key for every verdict, so that an app can be tested without a license.
//!
//! They are computed from the prefix of the product and the code, and no license has them. With an API key for testing they
//! always give the same answer, and nothing is read or written. A live API key does not find them.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde_json::json;
use uuid::{Builder, Uuid};

use super::License;
use super::facts::LicenseFacts;
use super::verdict::Verdict;
use super::verdict_code::VerdictCode;
use crate::caller::no_product;
use crate::crypto::api_key::ApiKeyMode;
use crate::crypto::{license_key::LicenseKey, sha256};
use crate::ids::{LicenseId, PolicyId, ProductId, TenantId};
use crate::policy::{OnSourceLost, PolicyTerms};
use crate::{Access, AppCaller, Caller, Core, CoveredProduct, Result, products};

/// The test keys of a product, one per code. Refused with `NOT_FOUND` unless the caller may read its licenses.
pub async fn test_keys(core: &Core, caller: &Caller, product: ProductId) -> Result<Vec<(VerdictCode, String)>> {
    let found = products::find_all(core, [product]).await?.pop().ok_or_else(|| no_product(product))?;
    caller.require_product(Access::Read, found.tenant_id, product)?;
    Ok(VerdictCode::ALL.iter().map(|&code| (code, test_key(code, &found.prefix))).collect())
}

/// The test key of a code. That of `NOT_FOUND` is a key like the others, and that of `MALFORMED_KEY` is none.
fn test_key(code: VerdictCode, prefix: &str) -> String {
    match code {
        VerdictCode::MalformedKey => format!("{prefix}-TEST-KEY"),
        _ => LicenseKey::new(prefix, secret(code)).display(prefix),
    }
}

/// The bits of a test key. A random key has the same with a probability of 2⁻¹²².
fn secret(code: VerdictCode) -> Uuid {
    digest(&format!("dca-auth test key {code}"))
}

fn digest(text: &str) -> Uuid {
    let hash = sha256(text.as_bytes());
    Builder::from_random_bytes(*hash.first_chunk().unwrap_or(&[0; 16])).into_uuid()
}

/// What an API key for testing answers about a key; `None` for a live one. The product that the app expects, its device and
/// the time make no difference.
pub(crate) fn test_verdict(app: &AppCaller, key: &str, now: DateTime<Utc>) -> Option<Verdict> {
    if app.mode == ApiKeyMode::Live {
        return None;
    }
    let without_license = |code| Verdict { is_test: true, ..Verdict::without_license(code, now) };
    let prefixes: Vec<String> = app.products.iter().map(|product| product.prefix.clone()).collect();
    let key = match LicenseKey::parse(key, &prefixes) {
        Ok(key) => key,
        Err(malformed) => {
            let verdict = without_license(VerdictCode::MalformedKey);
            return Some(Verdict { malformed: Some(malformed), ..verdict });
        }
    };
    let is_key = |code: VerdictCode, product: &CoveredProduct| LicenseKey::new(&product.prefix, secret(code)) == key;
    let mut all = app.products.iter().flat_map(|product| VerdictCode::ALL.iter().map(move |&code| (code, product)));
    let (code, product) = match all.find(|(code, product)| is_key(*code, product)) {
        None | Some((VerdictCode::NotFound, _)) => return Some(without_license(VerdictCode::NotFound)),
        Some((VerdictCode::ProductMismatch, _)) => return Some(without_license(VerdictCode::ProductMismatch)),
        Some(found) => found,
    };
    let hint = key.hint(&product.prefix);
    Some(Verdict { facts: Some(facts(code, product, app.scope.tenant(), hint)), ..without_license(code) })
}

/// When everything about test licenses happened.
fn at() -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + chrono::TimeDelta::days(365 * 50)
}

/// The license that a test key stands for. Nothing of it is stored.
fn facts(code: VerdictCode, product: &CoveredProduct, tenant: TenantId, key_hint: String) -> LicenseFacts {
    let at = at();
    let when = |is: bool| is.then_some(at);
    let is_assigned = code != VerdictCode::NotAssigned;
    let license = License {
        id: LicenseId(digest(&format!("dca-auth test license {} {code}", product.id))),
        tenant_id: tenant,
        product_id: product.id,
        policy_id: PolicyId(digest(&format!("dca-auth test policy {}", product.id))),
        user_id: None,
        name: None,
        metadata: json!({}),
        key_lookup: Vec::new(),
        key_sealed: Vec::new(),
        key_hint,
        key_epoch: 1,
        created_at: at,
        assigned_at: when(is_assigned),
        activated_at: when(is_assigned),
        first_valid_at: when(is_assigned),
        last_seen_at: when(is_assigned),
        renewed_at: None,
        transferred_at: None,
        expires_at: when(code == VerdictCode::Expired),
        lapses_at: when(code == VerdictCode::Expired),
        lapse_seen_at: None,
        suspended_at: when(code == VerdictCode::Suspended),
        suspend_reason: None,
        on_source_lost: OnSourceLost::Keep,
        sources_end_at: None,
        revoked_at: when(code == VerdictCode::Revoked),
        revoke_reason: None,
        rev: 1,
    };
    let terms = PolicyTerms { max_devices: Some(3), features: vec!["test".to_owned()], ..PolicyTerms::default() };
    LicenseFacts { license: Arc::new(license), terms: Arc::new(terms), devices_used: 1, sessions_used: 0 }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::api_key_scopes::ApiKeyScope;
    use crate::crypto::api_key::ApiKeyKind;
    use crate::ids::ApiKeyId;
    use crate::licenses::LicenseState;
    use crate::{Ids, Scope};

    fn app(mode: ApiKeyMode, prefixes: &[&str]) -> AppCaller {
        let ids = Ids::seeded(5);
        let product = |prefix: &&str| CoveredProduct { id: ProductId(ids.v4()), prefix: (*prefix).to_owned() };
        AppCaller {
            scope: Scope::of(TenantId(ids.v4())),
            key: ApiKeyId(ids.v4()),
            kind: ApiKeyKind::Secret,
            mode,
            scopes: ApiKeyScope::ALL.into(),
            products: prefixes.iter().map(product).collect(),
        }
    }

    #[test]
    fn each_test_key_gives_its_verdict_at_any_time() {
        let app = app(ApiKeyMode::Test, &["GOLD", "STUDIO"]);
        let mut keys = HashSet::new();
        for product in app.products.iter() {
            for &code in VerdictCode::ALL {
                let key = test_key(code, &product.prefix);
                let verdicts = [DateTime::UNIX_EPOCH, at(), DateTime::UNIX_EPOCH + chrono::TimeDelta::days(36_500)]
                    .map(|now| (test_verdict(&app, &key, now).unwrap(), now));
                for (verdict, now) in &verdicts {
                    assert_eq!((verdict.code, verdict.is_test, verdict.checked_at), (code, true, *now), "{key}");
                    assert_eq!(verdict.facts, verdicts[0].0.facts, "{key}");
                }
                assert!(keys.insert(key.clone()), "{key} is not unique");
                let facts = verdicts[0].0.facts.clone();
                assert!(facts.is_none_or(|facts| facts.license.product_id == product.id
                    && key.ends_with(&facts.license.key_hint[facts.license.key_hint.len() - 4..])));
            }
        }
    }

    #[test]
    fn the_state_of_a_test_license_fits_its_verdict() {
        let app = app(ApiKeyMode::Test, &["GOLD"]);
        for (code, state) in [
            (VerdictCode::Valid, LicenseState::Active),
            (VerdictCode::Revoked, LicenseState::Revoked),
            (VerdictCode::Suspended, LicenseState::Suspended),
            (VerdictCode::Expired, LicenseState::Expired),
            (VerdictCode::NotAssigned, LicenseState::Generated),
        ] {
            let now = "2026-03-01T12:00:00Z".parse().unwrap();
            let verdict = test_verdict(&app, &test_key(code, "GOLD"), now).unwrap();
            assert_eq!(verdict.facts.unwrap().license.state(now), state, "{code}");
        }
    }

    #[test]
    fn test_keys_of_other_products_and_other_keys_are_unknown() {
        let now = at();
        let test = app(ApiKeyMode::Test, &["GOLD"]);
        let live = app(ApiKeyMode::Live, &["GOLD"]);
        for other in
            [test_key(VerdictCode::Valid, "STUDIO"), LicenseKey::new("GOLD", Ids::seeded(9).v4()).display("GOLD")]
        {
            assert_eq!(test_verdict(&test, &other, now).unwrap().code, VerdictCode::NotFound, "{other}");
        }
        let key = test_key(VerdictCode::Valid, "GOLD");
        assert_eq!(test_verdict(&test, &key["GOLD-".len()..], now).unwrap().code, VerdictCode::Valid, "without prefix");
        assert_eq!(test_verdict(&live, &key, now), None, "a live API key");
    }
}
