//! Questions of apps about license keys.
//!
//! ```text
//! API key (memory | database) -> parse key (no I/O) -> facts (memory | database) -> judge (pure) -> sign -> still true? -> answer
//! ```

use std::sync::Arc;
use std::time::Instant;

use super::devices::{self, NewDevice};
use super::facts::{DeviceMatching, Facts};
use super::load::load_facts;
use super::prove::{ProofContext, prove};
use super::question::Question;
use super::requested::Requested;
use super::test_keys;
use super::usage::{self, Usage};
use super::verdict::{Verdict, judge};
use super::verdict_code::VerdictCode;
use crate::api_key_scopes::ApiKeyScope;
use crate::cache::{CacheStatus, FactsKey};
use crate::changes::{self, Basis};
use crate::crypto::license_key::{LicenseKey, Malformed};
use crate::crypto::seal::Purpose;
use crate::write_behind::{FirstValid, Used};
use crate::{AppCaller, Caller, Core, Result, api_keys, events, fingerprint::Fingerprint};

/// The most times that an answer is computed while what it depends on keeps changing.
pub(super) const MAX_ATTEMPTS: usize = 10;

/// The answer to a question of an app.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The verdict.
    pub verdict: Verdict,
    /// Its signed form, if it was asked for.
    pub proof: Option<String>,
}

/// Validates a key for the app that has this API key. A key that cannot be used is a [`Verdict`], not an error. Activates
/// an unknown device if the policy says so. Refused with `INVALID_API_KEY`, `ACCESS_DENIED`.
pub async fn validate(core: &Core, api_key: &str, question: &Question, proof: Option<&ProofContext>) -> Result<Answer> {
    for _ in 0..MAX_ATTEMPTS {
        let attempt = Attempt::begin(core).await?;
        let mut evaluation = evaluate(core, api_key, ApiKeyScope::Validate, question).await?;
        if let Some(device) = device_to_activate(&evaluation, question) {
            let activated = activate(core, &evaluation.app, question, device).await?;
            if activated.is_valid() {
                // As it is now, which the next attempt reads.
                continue;
            }
            // If the license needs no device, a lack of seats does not matter.
            if !evaluation.verdict.is_valid() {
                evaluation = Evaluation::without_facts(evaluation.app, activated);
            }
        }
        evaluation.record_use(core, question).await;
        if let Some(answer) = attempt.finish(core, evaluation, proof).await? {
            return Ok(answer);
        }
    }
    Err(changes::stale())
}

async fn activate(core: &Core, app: &AppCaller, asked: &Question, device: Fingerprint) -> Result<Verdict> {
    let (wanted, device) = (Requested::Key(asked.key.clone()), NewDevice::new(device, None, None, None)?);
    Ok(devices::activate(core, &Caller::App(app.clone()), &wanted, &device).await?.verdict)
}

/// Counts usage of a valid license, if so much is left of the quota. A license that is not valid, and that
/// of a test key, counts nothing and has no usage; one without such a quota has nothing left of it. Refused with
/// `INVALID_API_KEY`, `ACCESS_DENIED`.
pub async fn count_usage(
    core: &Core,
    api_key: &str,
    question: &Question,
    quota: &str,
    amount: i64,
    proof: Option<&ProofContext>,
) -> Result<(Answer, Option<Usage>)> {
    // Counted once, however often the answer is computed.
    let mut counted: Option<(Usage, bool)> = None;
    for _ in 0..MAX_ATTEMPTS {
        let attempt = Attempt::begin(core).await?;
        let mut evaluation = evaluate(core, api_key, ApiKeyScope::Usage, question).await?;
        if let Some(loaded) = evaluation.loaded.as_ref().filter(|_| evaluation.verdict.is_valid()) {
            let (_, was_added) = match &counted {
                Some(counted) => counted,
                None => counted.insert(usage::add(core, &loaded.facts.license, quota, amount).await?),
            };
            if *was_added {
                evaluation.record_use(core, question).await;
            } else {
                evaluation.verdict = Verdict::of(VerdictCode::QuotaExceeded, &loaded.facts, question, core.clock.now());
            }
        }
        if let Some(answer) = attempt.finish(core, evaluation, proof).await? {
            return Ok((answer, counted.map(|(usage, _)| usage)));
        }
    }
    Err(changes::stale())
}

/// A verdict, and what it was computed from.
pub(super) struct Evaluation {
    pub verdict: Verdict,
    app: AppCaller,
    /// The facts, if the app may know of the license.
    loaded: Option<LoadedFacts>,
}

impl Evaluation {
    pub(super) fn without_facts(app: AppCaller, verdict: Verdict) -> Self {
        Self { verdict, app, loaded: None }
    }

    /// Records the use of a valid license: the verdict shows it as it is afterwards, which is stored behind the answer.
    pub(super) async fn record_use(&mut self, core: &Core, asked: &Question) {
        let Some(loaded) = self.loaded.as_mut().filter(|_| self.verdict.is_valid()) else { return };
        let is_changed = mark_used(core, &self.app, &mut loaded.facts);
        if let Some((entry, seq)) = loaded.entry.filter(|_| is_changed) {
            core.cache.replace_facts(entry, loaded.facts.clone(), seq).await;
        }
        self.verdict = judge(Some(&loaded.facts), asked, core.clock.now());
    }
}

/// An attempt to give an answer that is still true after it was signed.
pub(super) struct Attempt {
    began: Instant,
    /// The newest event known.
    pub seq: i64,
}

impl Attempt {
    pub(super) async fn begin(core: &Core) -> Result<Self> {
        Ok(Self { began: Instant::now(), seq: core.cache.changes.fresh_seq().await? })
    }

    /// The answer. `None` if it is no longer true.
    pub(super) async fn finish(
        self,
        core: &Core,
        evaluation: Evaluation,
        proof: Option<&ProofContext>,
    ) -> Result<Option<Answer>> {
        let signed = proof.map(|context| prove(core, context, &evaluation.verdict)).transpose()?;
        let is_current = self.is_current(core, &evaluation).await?;
        Ok(is_current.then_some(Answer { verdict: evaluation.verdict, proof: signed }))
    }

    /// A negative verdict from memory is compared with the newest event: another instance may just have activated or resumed
    /// the license.
    async fn is_current(&self, core: &Core, evaluation: &Evaluation) -> Result<bool> {
        let verdict = &evaluation.verdict;
        let Some(facts) = verdict.facts.as_ref().filter(|_| !verdict.is_test) else { return Ok(true) };
        let is_cached = evaluation.loaded.as_ref().is_some_and(|loaded| loaded.status == CacheStatus::Hit);
        if is_cached && !verdict.is_valid() {
            core.cache.changes.read_after(self.began).await?;
        }
        core.cache.changes.is_current(self.seq, Basis::License(facts.license.id, facts.license.tenant_id)).await
    }
}

/// The device of a request, if it is unknown and the policy activates such devices.
fn device_to_activate(evaluation: &Evaluation, asked: &Question) -> Option<Fingerprint> {
    let verdict = &evaluation.verdict;
    let is_allowed =
        verdict.facts.as_ref()?.terms.auto_activate && evaluation.app.scopes.contains(&ApiKeyScope::Activate);
    let is_unknown =
        matches!(verdict.code, VerdictCode::NotActivated | VerdictCode::DeviceNotActivated | VerdictCode::Valid);
    let is_new = verdict.device.is_none() && is_unknown && !verdict.is_test;
    asked.device.clone().filter(|_| is_allowed && is_new)
}

/// The verdict for an app, whose API key needs this scope.
async fn evaluate(core: &Core, api_key: &str, scope: ApiKeyScope, asked: &Question) -> Result<Evaluation> {
    let app = api_keys::authenticate(core, api_key).await?;
    app.require(scope)?;
    loop {
        let mut loaded = match find_facts(core, &app, asked).await? {
            Ok(loaded) => loaded,
            Err(verdict) => return Ok(Evaluation::without_facts(app, verdict)),
        };
        let (now, facts) = (core.clock.now(), &mut loaded.facts);
        facts.is_quota_exhausted = usage::is_exhausted(core, &facts.license, &asked.quotas, now).await?;
        let verdict = judge(Some(facts), asked, now);
        match loaded.entry {
            // Use at another instance writes no event, so the device is read again.
            Some((entry, _)) if verdict.code == VerdictCode::CheckInOverdue && loaded.status == CacheStatus::Hit => {
                core.cache.invalidate_facts(entry).await;
            }
            _ => return Ok(loaded.evaluated(app, verdict)),
        }
    }
}

/// The facts of a license that an app may know of.
pub(super) struct LoadedFacts {
    pub facts: Facts,
    status: CacheStatus,
    /// Their entry of the cache, and the event as of which they are current.
    entry: Option<(FactsKey, i64)>,
}

impl LoadedFacts {
    /// The verdict, with the facts it was computed from.
    pub(super) fn evaluated(self, app: AppCaller, verdict: Verdict) -> Evaluation {
        Evaluation { verdict, app, loaded: Some(self) }
    }
}

/// The facts of the key; or the verdict without any: about a test key, a malformed one, or a license that does not exist or
/// that the app may not know of.
pub(super) async fn find_facts(
    core: &Core,
    app: &AppCaller,
    asked: &Question,
) -> Result<std::result::Result<LoadedFacts, Verdict>> {
    let now = core.clock.now();
    if let Some(verdict) = test_keys::test_verdict(app, &asked.key, now) {
        return Ok(Err(verdict));
    }
    let key = match parse_key(app, &asked.key) {
        Ok(key) => key,
        Err(malformed) => return Ok(Err(Verdict::malformed(malformed, now))),
    };
    let found = if asked.lease.is_some() {
        // Sessions change without events.
        let facts = load_facts(core, &key, asked).await?;
        facts.map(|facts| LoadedFacts { facts, status: CacheStatus::Miss, entry: None })
    } else {
        let lookup = core.keys().lookup(Purpose::LicenseLookup, &key.canonical());
        let entry = (lookup, asked.device.as_ref().map(|device| device.lookup(core.keys())));
        let cached = core.cache.facts(entry, || load_facts(core, &key, asked)).await?;
        cached.map(|cached| LoadedFacts {
            facts: cached.value,
            status: cached.status,
            entry: Some((entry, cached.seq)),
        })
    };
    let found = found.filter(|found| app.may_know(&found.facts.license.license));
    Ok(found.ok_or_else(|| Verdict::without_license(VerdictCode::NotFound, now)))
}

/// Parses a key. One without a prefix has that of a product of the app.
fn parse_key(app: &AppCaller, text: &str) -> std::result::Result<LicenseKey, Malformed> {
    LicenseKey::parse(text, &[]).or_else(|_| {
        let implied: Vec<String> = app.products.iter().map(|product| product.prefix.clone()).collect();
        LicenseKey::parse(text, &implied)
    })
}

/// Marks a license and its device as used now. Returns whether that changes the facts.
fn mark_used(core: &Core, app: &AppCaller, facts: &mut Facts) -> bool {
    let now = core.clock.now();
    let license = &facts.license.license;
    let mut is_changed = false;
    if core.write_behind.mark_used(Used::License(license.id), license.last_seen_at, now) {
        Arc::make_mut(&mut facts.license.license).last_seen_at = Some(now);
        is_changed = true;
    }
    if let DeviceMatching::Exact(device) | DeviceMatching::Drifted(device) = &mut facts.device
        && core.write_behind.mark_used(Used::Device(device.id), Some(device.last_seen_at), now)
    {
        Arc::make_mut(device).last_seen_at = now;
        is_changed = true;
    }
    let license = &facts.license.license;
    if license.awaits_first_valid(now) {
        let first = FirstValid { at: now, by: app.key, request_id: events::request_id() };
        let (at, waits) = core.write_behind.mark_first_valid(license.id, license.life_begins_at(), first);
        facts.license.license = Arc::new(license.with_first_valid(&facts.license.terms, at));
        // One for which there is no room is offered again by the next validation.
        is_changed = waits;
    }
    is_changed
}
