//! Questions of apps about license keys.

use std::sync::Arc;

use super::device_store;
use super::devices::{self, NewDevice};
use super::facts::{DeviceMatching, Facts, LicenseFacts, load};
use super::question::Question;
use super::requested::Requested;
use super::test_keys;
use super::usage::{self, Usage};
use super::verdict::{Verdict, judge};
use super::verdict_code::VerdictCode;
use crate::api_key_scopes::ApiKeyScope;
use crate::crypto::license_key::{LicenseKey, Malformed};
use crate::write_behind::{FirstValid, Used};
use crate::{AppCaller, Caller, Core, Result, api_keys, bans, events, fingerprint::Fingerprint};

/// Validates a key for the app that has this API key. A key that cannot be used is a [`Verdict`], not an error. Activates
/// an unknown device if the policy says so. Refused with `INVALID_API_KEY`, `ACCESS_DENIED`.
pub async fn validate(core: &Core, api_key: &str, question: &Question) -> Result<Verdict> {
    let (app, verdict) = answer(core, api_key, question).await?;
    let Some(device) = device_to_activate(&app, question, &verdict) else { return Ok(verdict) };
    let (wanted, device) = (Requested::Key(question.key.clone()), NewDevice::new(device, None, None, None)?);
    let activated = devices::activate(core, &Caller::App(app), &wanted, &device).await?.verdict;
    match activated.code {
        VerdictCode::Valid => Ok(answer(core, api_key, question).await?.1),
        // The license needs no device, so a lack of seats does not matter.
        _ if verdict.is_valid() => Ok(verdict),
        _ => Ok(activated),
    }
}

/// The app and the verdict for it; a valid license was used.
async fn answer(core: &Core, api_key: &str, asked: &Question) -> Result<(AppCaller, Verdict)> {
    let (app, found) = examine(core, api_key, ApiKeyScope::Validate, asked).await?;
    let verdict = found.map_or_else(|verdict| verdict, |facts| used(core, &app, facts, asked));
    Ok((app, verdict))
}

/// The device of a request, if it is unknown and the policy activates such devices.
fn device_to_activate(app: &AppCaller, asked: &Question, verdict: &Verdict) -> Option<Fingerprint> {
    let is_allowed = verdict.facts.as_ref()?.terms.auto_activate && app.scopes.contains(&ApiKeyScope::Activate);
    let is_unknown =
        matches!(verdict.code, VerdictCode::NotActivated | VerdictCode::DeviceNotActivated | VerdictCode::Valid);
    let is_new = verdict.device.is_none() && is_unknown && !verdict.is_test;
    asked.device.clone().filter(|_| is_allowed && is_new)
}

/// Counts usage of a valid license, if so much is left of the quota. A license that is not valid, and that
/// of a test key, counts nothing and has no usage; one without such a quota has nothing left of it. Refused with `INVALID_API_KEY`, `ACCESS_DENIED`.
pub async fn count_usage(
    core: &Core,
    api_key: &str,
    question: &Question,
    quota: &str,
    amount: i64,
) -> Result<(Verdict, Option<Usage>)> {
    let (app, found) = examine(core, api_key, ApiKeyScope::Usage, question).await?;
    let facts = match found {
        Ok(facts) => facts,
        Err(verdict) => return Ok((verdict, None)),
    };
    let (usage, was_added) = usage::add(core, &facts.license, quota, amount).await?;
    let verdict = if was_added {
        used(core, &app, facts, question)
    } else {
        Verdict::of(VerdictCode::QuotaExceeded, &facts, question, core.clock.now())
    };
    Ok((verdict, Some(usage)))
}

/// The app, which needs this scope, and the facts of a valid license, or else the verdict.
async fn examine(
    core: &Core,
    api_key: &str,
    scope: ApiKeyScope,
    asked: &Question,
) -> Result<(AppCaller, std::result::Result<Facts, Verdict>)> {
    let now = core.clock.now();
    let (app, found) = find(core, api_key, asked).await?;
    app.require(scope)?;
    if let Some(verdict) = test_keys::test_verdict(&app, &asked.key, now) {
        return Ok((app, Err(verdict)));
    }
    let mut facts = match found {
        Ok(facts) => facts,
        Err(malformed) => {
            let verdict = Verdict::without_license(VerdictCode::MalformedKey, now);
            return Ok((app, Err(Verdict { malformed: Some(malformed), ..verdict })));
        }
    };
    if let Some(facts) = &mut facts {
        facts.is_quota_exhausted = usage::is_exhausted(core, &facts.license, &asked.quotas, now).await?;
    }
    let verdict = judge(facts.as_ref(), asked, now);
    let valid = facts.filter(|_| verdict.is_valid()).ok_or(verdict);
    Ok((app, valid))
}

/// The app, and the facts of the key. One statement, or two for a key without a prefix: the products of the API key say
/// which are implied. A malformed key costs only the query for the API key.
pub(super) async fn find(
    core: &Core,
    api_key: &str,
    asked: &Question,
) -> Result<(AppCaller, std::result::Result<Option<Facts>, Malformed>)> {
    if let Ok(key) = LicenseKey::parse(&asked.key, &[]) {
        let (app, facts) = read(core, api_key, &key, asked).await?;
        return Ok((app, Ok(facts)));
    }
    let app = api_keys::authenticate(core, api_key).await?;
    let implied: Vec<String> = app.products.iter().map(|product| product.prefix.clone()).collect();
    match LicenseKey::parse(&asked.key, &implied) {
        Ok(key) => {
            let (app, facts) = read(core, api_key, &key, asked).await?;
            Ok((app, Ok(facts)))
        }
        Err(malformed) => Ok((app, Err(malformed))),
    }
}

/// The app and the facts. Only a fingerprint that is unknown costs further statements, if the policy tolerates changes.
async fn read(core: &Core, api_key: &str, key: &LicenseKey, asked: &Question) -> Result<(AppCaller, Option<Facts>)> {
    let (app, mut facts) = load(core, api_key, key, asked).await?;
    if let (Some(facts), Some(seen)) = (&mut facts, &asked.device)
        && facts.device == DeviceMatching::Unknown
        && facts.license.devices_used > 0
    {
        let LicenseFacts { license, terms, .. } = &facts.license;
        facts.device = device_store::recognize(core, core.keys(), license.id, seen, terms.device_match).await?;
        if let Some(device) = facts.device.device() {
            let known = vec![device.fingerprint.clone()];
            let (tenant, product, now) = (license.tenant_id, license.product_id, core.clock.now());
            facts.device_blocked |= bans::is_blocked(core, tenant, product, known, now).await?;
        }
    }
    Ok((app, facts))
}

/// The verdict about a valid license, as it is after this use, which is stored behind the answer.
pub(super) fn used(core: &Core, app: &AppCaller, mut facts: Facts, asked: &Question) -> Verdict {
    let now = core.clock.now();
    let license = facts.license.license.clone();
    core.write_behind.mark_used(Used::License(license.id), license.last_seen_at, now);
    if let Some(device) = facts.device.device() {
        core.write_behind.mark_used(Used::Device(device.id), Some(device.last_seen_at), now);
    }
    if license.awaits_first_valid(now) {
        let first = FirstValid { at: now, by: app.key, request_id: events::request_id() };
        let at = core.write_behind.mark_first_valid(license.id, license.life_begins_at(), first);
        facts.license.license = Arc::new(license.with_first_valid(&facts.license.terms, at));
    }
    judge(Some(&facts), asked, now)
}
