//! Questions of apps about license keys.
//!
//! ```text
//! API key (memory | database) -> parse key (no I/O) -> facts (memory | database) -> judge (pure) -> sign -> still true? -> answer
//! ```

use std::sync::Arc;
use std::time::Instant;

use super::device_store;
use super::devices::{self, NewDevice};
use super::facts::{DeviceMatching, Facts, LicenseFacts};
use super::load::load;
use super::prove::{ProofContext, prove};
use super::question::Question;
use super::requested::Requested;
use super::test_keys;
use super::usage::{self, Usage};
use super::verdict::{Verdict, judge};
use super::verdict_code::VerdictCode;
use crate::api_key_scopes::ApiKeyScope;
use crate::cache::{FactsKey, Origin};
use crate::changes::{self, Basis};
use crate::crypto::license_key::{LicenseKey, Malformed};
use crate::crypto::{api_key::ApiKeyMode, seal::Purpose};
use crate::write_behind::{FirstValid, Used};
use crate::{AppCaller, Caller, Core, Result, api_keys, bans, events, fingerprint::Fingerprint};

/// How often an answer is computed again because something changed meanwhile.
pub(super) const ATTEMPTS: usize = 3;

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
    for _ in 0..ATTEMPTS {
        let attempt = Attempt::begin(core).await?;
        let mut judged = judge_for(core, api_key, ApiKeyScope::Validate, question).await?;
        if let Some(device) = device_to_activate(&judged, question) {
            let activated = activate(core, &judged.app, question, device).await?;
            if activated.is_valid() {
                // As it is now, which the next attempt reads.
                continue;
            }
            // If the license needs no device, a lack of seats does not matter.
            if !judged.verdict.is_valid() {
                judged = Judged::without_facts(judged.app, activated);
            }
        }
        judged.use_license(core, question, attempt.seq).await;
        if let Some(answer) = attempt.finish(core, judged, proof).await? {
            return Ok(answer);
        }
    }
    Err(changes::out_of_date())
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
    for _ in 0..ATTEMPTS {
        let attempt = Attempt::begin(core).await?;
        let mut judged = judge_for(core, api_key, ApiKeyScope::Usage, question).await?;
        if let Some(known) = judged.known.as_ref().filter(|_| judged.verdict.is_valid()) {
            let (_, was_added) = match &counted {
                Some(counted) => counted,
                None => counted.insert(usage::add(core, &known.facts.license, quota, amount).await?),
            };
            if *was_added {
                judged.use_license(core, question, attempt.seq).await;
            } else {
                judged.verdict = Verdict::of(VerdictCode::QuotaExceeded, &known.facts, question, core.clock.now());
            }
        }
        if let Some(answer) = attempt.finish(core, judged, proof).await? {
            return Ok((answer, counted.map(|(usage, _)| usage)));
        }
    }
    Err(changes::out_of_date())
}

/// A verdict, and what it was computed from.
pub(super) struct Judged {
    pub verdict: Verdict,
    app: AppCaller,
    /// The facts, if the app may know of the license.
    known: Option<KnownFacts>,
}

impl Judged {
    pub(super) fn without_facts(app: AppCaller, verdict: Verdict) -> Self {
        Self { verdict, app, known: None }
    }

    fn origin(&self) -> Origin {
        self.known.as_ref().map_or(Origin::Database, |known| known.origin)
    }

    /// A valid license is used: the verdict shows it as it is afterwards, which is stored behind the answer.
    pub(super) async fn use_license(&mut self, core: &Core, asked: &Question, seq: i64) {
        let Some(known) = self.known.as_mut().filter(|_| self.verdict.is_valid()) else { return };
        if mark_used(core, &self.app, &mut known.facts) {
            core.cache.replace_facts(known.key, known.facts.clone(), seq).await;
        }
        self.verdict = judge(Some(&known.facts), asked, core.clock.now());
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
        Ok(Self { began: Instant::now(), seq: core.cache.changes.current().await? })
    }

    /// The answer. `None` if it is no longer true.
    pub(super) async fn finish(
        self,
        core: &Core,
        judged: Judged,
        proof: Option<&ProofContext>,
    ) -> Result<Option<Answer>> {
        let signed = proof.map(|context| prove(core, context, &judged.verdict)).transpose()?;
        let is_true = self.is_true(core, &judged).await?;
        Ok(is_true.then_some(Answer { verdict: judged.verdict, proof: signed }))
    }

    /// A verdict that says no from memory is compared with the log as it is now: what would change it may just have been
    /// done, at another instance.
    async fn is_true(&self, core: &Core, judged: &Judged) -> Result<bool> {
        let Some(facts) = judged.verdict.facts.as_ref().filter(|_| !judged.verdict.is_test) else { return Ok(true) };
        let changes = &core.cache.changes;
        if judged.verdict.is_valid() || judged.origin() == Origin::Database {
            changes.current().await?;
        } else {
            changes.read_after(self.began).await?;
        }
        Ok(changes.unchanged_since(self.seq, Basis::License(facts.license.id, facts.license.tenant_id)))
    }
}

/// The device of a request, if it is unknown and the policy activates such devices.
fn device_to_activate(judged: &Judged, asked: &Question) -> Option<Fingerprint> {
    let verdict = &judged.verdict;
    let is_allowed = verdict.facts.as_ref()?.terms.auto_activate && judged.app.scopes.contains(&ApiKeyScope::Activate);
    let is_unknown =
        matches!(verdict.code, VerdictCode::NotActivated | VerdictCode::DeviceNotActivated | VerdictCode::Valid);
    let is_new = verdict.device.is_none() && is_unknown && !verdict.is_test;
    asked.device.clone().filter(|_| is_allowed && is_new)
}

/// The verdict for an app, whose API key needs this scope.
async fn judge_for(core: &Core, api_key: &str, scope: ApiKeyScope, asked: &Question) -> Result<Judged> {
    let app = api_keys::authenticate(core, api_key).await?;
    app.require(scope)?;
    loop {
        let now = core.clock.now();
        let mut known = match find(core, &app, asked).await? {
            Ok(Some(known)) => known,
            Ok(None) => return Ok(Judged::without_facts(app, Verdict::without_license(VerdictCode::NotFound, now))),
            Err(verdict) => return Ok(Judged::without_facts(app, verdict)),
        };
        known.facts.is_quota_exhausted = usage::is_exhausted(core, &known.facts.license, &asked.quotas, now).await?;
        let verdict = judge(Some(&known.facts), asked, now);
        if verdict.code != VerdictCode::CheckInOverdue || known.origin == Origin::Database {
            return Ok(known.judged(app, verdict));
        }
        // Another instance may have seen the device, which is no event.
        core.cache.forget_facts(known.key).await;
    }
}

/// The facts of a license, and by what they are known.
pub(super) struct KnownFacts {
    pub facts: Facts,
    key: FactsKey,
    origin: Origin,
}

impl KnownFacts {
    /// The verdict, with the facts it was computed from.
    pub(super) fn judged(self, app: AppCaller, verdict: Verdict) -> Judged {
        Judged { verdict, app, known: Some(self) }
    }
}

/// The facts of the key, if there is such a license and the app may know of it; or the verdict without any: about a test
/// key or a malformed one.
pub(super) async fn find(
    core: &Core,
    app: &AppCaller,
    asked: &Question,
) -> Result<std::result::Result<Option<KnownFacts>, Verdict>> {
    let now = core.clock.now();
    if app.mode == ApiKeyMode::Test {
        return Ok(test_keys::test_verdict(app, &asked.key, now).map_or(Ok(None), Err));
    }
    let key = match parse(app, &asked.key) {
        Ok(key) => key,
        Err(malformed) => {
            let verdict = Verdict::without_license(VerdictCode::MalformedKey, now);
            return Ok(Err(Verdict { malformed: Some(malformed), ..verdict }));
        }
    };
    let lookup = core.keys().lookup(Purpose::LicenseLookup, &key.canonical());
    let device = asked.device.as_ref().map(|device| device.lookup(core.keys()));
    let (facts_key, load) = ((lookup, device), read(core, &key, asked));
    let found = if asked.lease.is_some() {
        // Sessions change without events.
        load.await?.map(|facts| (facts, Origin::Database))
    } else {
        core.cache.facts(facts_key, load).await?.map(|found| (found.value, found.origin))
    };
    let found = found.filter(|(facts, _)| app.may_know(&facts.license.license));
    Ok(Ok(found.map(|(facts, origin)| KnownFacts { facts, key: facts_key, origin })))
}

/// Parses a key. One without a prefix has that of a product of the app.
fn parse(app: &AppCaller, text: &str) -> std::result::Result<LicenseKey, Malformed> {
    LicenseKey::parse(text, &[]).or_else(|_| {
        let implied: Vec<String> = app.products.iter().map(|product| product.prefix.clone()).collect();
        LicenseKey::parse(text, &implied)
    })
}

/// Reads facts. Only a fingerprint that is unknown costs further statements, if the policy tolerates changes.
async fn read(core: &Core, key: &LicenseKey, asked: &Question) -> Result<Option<Facts>> {
    let Some(mut facts) = load(core, key, asked).await? else { return Ok(None) };
    if let Some(seen) = &asked.device
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
    Ok(Some(facts))
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
        let at = core.write_behind.mark_first_valid(license.id, license.life_begins_at(), first);
        facts.license.license = Arc::new(license.with_first_valid(&facts.license.terms, at));
        is_changed = true;
    }
    is_changed
}
