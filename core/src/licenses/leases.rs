//! Floating sessions: how many apps use a license at the same time.
//!
//! A session begins with the first heartbeat of an app, and lasts until it ends it or sends no more. Each heartbeat has a
//! higher number than the one before, so that a copy of a session is noticed: whoever repeats a number with another nonce
//! continues a session that someone else has continued already.
//!
//! ```text
//! heartbeat: find (one statement) -> judge -> renew (one statement)
//!                                          -> open, revive: under the lock of the license
//! ```

use std::sync::Arc;

use chrono::{DateTime, Duration, Utc};
use sea_orm::sea_query::Expr;
use sea_orm::{ColumnTrait, EntityTrait, IntoActiveModel, PaginatorTrait, QueryFilter, QueryOrder, Select};

use super::facts::{Facts, Lease};
use super::prove::ProofContext;
use super::question::Question;
use super::validate::{Answer, Attempt, Evaluation, LoadedFacts, MAX_ATTEMPTS, find_facts};
use super::verdict::{Verdict, judge};
use super::verdict_code::VerdictCode;
use super::{record, requested, store};
use crate::api_key_scopes::ApiKeyScope;
use crate::entity::lease::{Column, Entity};
use crate::events::EventData;
use crate::ids::{LeaseId, LicenseId};
use crate::policy::{LeaseTerms, OnFull};
use crate::{AppCaller, Caller, Core, Reason, Result, Scope, api_keys, changes, db, tx::Tx};

/// How long an expired session is kept: longer than any can be revived.
const KEPT: Duration = Duration::days(2);

/// One heartbeat of a session.
#[derive(Clone, Debug)]
pub struct Beat {
    /// Its number, higher than that of the one before.
    pub seq: i64,
    /// Its nonce. The same number with the same nonce is the same heartbeat, sent again.
    pub nonce: String,
}

/// The session, or why there is none.
type Session = std::result::Result<Lease, VerdictCode>;

/// Opens a session with the first heartbeat, which names none, or renews one. The verdict is about the license too, as at
/// a validation. Refused with `INVALID_API_KEY`, `ACCESS_DENIED`.
pub async fn heartbeat(
    core: &Core,
    api_key: &str,
    asked: &Question,
    beat: &Beat,
    proof: Option<&ProofContext>,
) -> Result<Answer> {
    for _ in 0..MAX_ATTEMPTS {
        let attempt = Attempt::begin(core).await?;
        let app = api_keys::authenticate(core, api_key).await?;
        app.require(ApiKeyScope::Heartbeat)?;
        let evaluation = match find_facts(core, &app, asked).await? {
            Ok(loaded) => renewed(core, app, loaded, asked, beat).await?,
            Err(verdict) => Evaluation::without_facts(app, verdict),
        };
        if let Some(answer) = attempt.finish(core, evaluation, proof).await? {
            return Ok(answer);
        }
    }
    Err(changes::stale())
}

/// The verdict after a heartbeat.
async fn renewed(
    core: &Core,
    app: AppCaller,
    mut loaded: LoadedFacts,
    asked: &Question,
    beat: &Beat,
) -> Result<Evaluation> {
    let now = core.clock.now();
    let facts = &mut loaded.facts;
    let verdict = judge(Some(facts), asked, now);
    let session = match (verdict.code, facts.license.terms.lease.clone(), facts.lease.clone()) {
        (VerdictCode::LeaseRequired, Some(terms), _) => open(core, facts, asked, &terms, beat).await?,
        (VerdictCode::LeaseExpired, Some(terms), Some(lease)) => revive(core, facts, lease.id, &terms, beat).await?,
        (VerdictCode::Valid, Some(terms), Some(lease)) => renew(core, &lease, &terms, beat).await?,
        (VerdictCode::Valid, None, _) => {
            let mut evaluation = loaded.evaluated(app, verdict);
            evaluation.record_use(core, asked).await;
            return Ok(evaluation);
        }
        _ => return Ok(loaded.evaluated(app, verdict)),
    };
    let lease = match session {
        Ok(lease) => lease,
        Err(code) => {
            let verdict = Verdict::of(code, facts, asked, now);
            return Ok(loaded.evaluated(app, verdict));
        }
    };
    let asked = Question { lease: Some(lease.id), ..asked.clone() };
    facts.lease = Some(Arc::new(lease));
    let verdict = judge(Some(facts), &asked, now);
    let mut evaluation = loaded.evaluated(app, verdict);
    evaluation.record_use(core, &asked).await;
    Ok(evaluation)
}

/// Renews a session that has not ended, without a lock.
async fn renew(core: &Core, lease: &Lease, terms: &LeaseTerms, beat: &Beat) -> Result<Session> {
    let now = core.clock.now();
    if beat.is_repeated(lease) {
        return Ok(Ok(lease.clone()));
    }
    let unchanged =
        [Column::Id.eq(lease.id), Column::Seq.lt(beat.seq), Column::SupersededAt.is_null(), Column::ExpiresAt.gt(now)];
    let renewed = beat.renewed(lease, terms, now);
    if db::update(beat.changes(&renewed), unchanged).exec(core.db.writer()).await?.rows_affected == 1 {
        return Ok(Ok(renewed));
    }
    // Another heartbeat came first, or the session ended meanwhile.
    Ok(match Entity::find_by_id(lease.id).one(core.db.writer()).await? {
        Some(current) if beat.is_repeated(&current) => Ok(current),
        Some(current) if current.superseded_at.is_some() || current.expires_at > now => {
            Err(VerdictCode::LeaseSuperseded)
        }
        _ => Err(VerdictCode::LeaseExpired),
    })
}

/// Opens a session, if one is free or the policy ends the oldest.
async fn open(core: &Core, facts: &mut Facts, asked: &Question, terms: &LeaseTerms, beat: &Beat) -> Result<Session> {
    let mut tx = Tx::begin(core).await?;
    let (now, license) = (tx.now(), store::lock(&tx, facts.license.license.id).await?);
    facts.license.license = Arc::new(license);
    let id = facts.license.license.id;
    let first = Lease {
        id: LeaseId(tx.core().ids.v7(now)),
        license_id: id,
        device_id: facts.device.device().map(|device| device.id),
        seq: beat.seq,
        nonce: Some(beat.nonce.clone()),
        opened_at: now,
        expires_at: now + Duration::seconds(terms.ttl_seconds),
        superseded_at: None,
    };
    // What the license is worth with a session, as it is under the lock.
    let with_session = Facts { lease: Some(Arc::new(first.clone())), ..facts.clone() };
    let verdict = judge(Some(&with_session), &Question { lease: Some(first.id), ..asked.clone() }, now);
    if !verdict.is_valid() {
        return Ok(Err(verdict.code));
    }
    let sessions = open_sessions(id, now).order_by_asc(Column::OpenedAt).order_by_asc(Column::Id).all(tx.db()).await?;
    if let Some(repeated) = sessions.iter().find(|lease| beat.is_repeated(lease)) {
        return Ok(Ok(repeated.clone()));
    }
    let max = usize::try_from(terms.max_concurrent).unwrap_or(usize::MAX);
    let beyond = (sessions.len() + 1).saturating_sub(max);
    if beyond > 0 && terms.on_full == OnFull::Reject {
        return Ok(Err(VerdictCode::LeaseLimitExceeded));
    }
    for oldest in sessions.iter().take(beyond) {
        let superseded = [(Column::SupersededAt, now.into())];
        db::update(superseded, [Column::Id.eq(oldest.id)]).exec(tx.db()).await?;
        let data = EventData::LeaseSuperseded { lease_id: oldest.id, device_id: oldest.device_id };
        let license = &facts.license.license;
        record(&mut tx, &Caller::System(Scope::of(license.tenant_id)), license, data);
    }
    Entity::insert(first.clone().into_active_model()).exec_without_returning(tx.db()).await?;
    tx.commit().await?;
    facts.license.sessions_used = (sessions.len() + 1 - beyond) as u64;
    Ok(Ok(first))
}

/// Continues a session that expired a moment ago, if there is still room for it.
async fn revive(core: &Core, facts: &mut Facts, id: LeaseId, terms: &LeaseTerms, beat: &Beat) -> Result<Session> {
    let tx = Tx::begin(core).await?;
    let (now, license) = (tx.now(), store::lock(&tx, facts.license.license.id).await?);
    facts.license.license = Arc::new(license);
    let license = facts.license.license.id;
    let Some(lease) = Entity::find_by_id(id).one(tx.db()).await? else { return Ok(Err(VerdictCode::LeaseExpired)) };
    if lease.superseded_at.is_some() || (beat.seq <= lease.seq && !beat.is_repeated(&lease)) {
        return Ok(Err(VerdictCode::LeaseSuperseded));
    }
    if lease.expires_at + Duration::seconds(terms.ttl_seconds) <= now {
        return Ok(Err(VerdictCode::LeaseExpired));
    }
    let others = open_sessions(license, now).filter(Column::Id.ne(id)).count(tx.db()).await?;
    if others >= u64::from(terms.max_concurrent) {
        return Ok(Err(VerdictCode::LeaseLimitExceeded));
    }
    let renewed = beat.renewed(&lease, terms, now);
    db::update(beat.changes(&renewed), [Column::Id.eq(id)]).exec(tx.db()).await?;
    tx.commit().await?;
    facts.license.sessions_used = others + 1;
    Ok(Ok(renewed))
}

impl Beat {
    /// Whether it is the last heartbeat of a session, sent again.
    fn is_repeated(&self, lease: &Lease) -> bool {
        self.seq == lease.seq && lease.nonce.as_ref() == Some(&self.nonce)
    }

    fn renewed(&self, lease: &Lease, terms: &LeaseTerms, now: DateTime<Utc>) -> Lease {
        let expires_at = now + Duration::seconds(terms.ttl_seconds);
        Lease { seq: self.seq, nonce: Some(self.nonce.clone()), expires_at, ..lease.clone() }
    }

    fn changes(&self, renewed: &Lease) -> [(Column, Expr); 3] {
        let nonce = self.nonce.clone().into();
        [(Column::Seq, self.seq.into()), (Column::Nonce, nonce), (Column::ExpiresAt, renewed.expires_at.into())]
    }
}

/// The sessions of a license that have not ended.
fn open_sessions(license: LicenseId, now: DateTime<Utc>) -> Select<Entity> {
    let of_license = Entity::find().filter(Column::LicenseId.eq(license));
    of_license.filter(Column::SupersededAt.is_null()).filter(Column::ExpiresAt.gt(now))
}

/// Ends a session, for an app of the product, the owner of the license or a manager. Refused with `NOT_FOUND`,
/// `ACCESS_DENIED`, `REQUIRES_2FA`.
pub async fn end(core: &Core, caller: &Caller, id: LeaseId) -> Result<()> {
    let missing = || Reason::NoLease.refusal();
    let lease = Entity::find_by_id(id).one(core.db.read()).await?.ok_or_else(missing)?;
    if let Caller::App(app) = caller {
        app.require(ApiKeyScope::Heartbeat)?;
    }
    let license = store::find(core, lease.license_id).await?.ok_or_else(missing)?;
    if !requested::is_visible(caller, &license)? {
        return Err(missing());
    }
    Entity::delete_by_id(id).exec(core.db.writer()).await?;
    Ok(())
}

/// Deletes sessions that cannot be revived any more. Returns how many.
pub(crate) async fn delete_expired(core: &Core) -> Result<u64> {
    let expired = Column::ExpiresAt.lt(core.clock.now() - KEPT);
    db::delete_in_batches(core.db.writer(), Column::Id, expired).await
}
