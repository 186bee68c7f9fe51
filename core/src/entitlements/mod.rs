//! Why a member holds a product. The heart: every door that learns something about a member builds an
//! [`Observation`] and calls [`observe`]; nothing else issues or ends a license because of a source.
//!
//! ```text
//! observe: Tx { lock holder; record each source if newer -> per product: settle } commit
//! settle:  every source of the claim -> decide (pure) -> licenses::apply -> key by DM
//! end_expired_grace (worker `expire`): the same settle, for claims whose grace the clock has ended
//! ```
//! Invariants: a source changes only by a newer [`Stamp`]; only evidence that a role is gone ends a
//! source, never the absence of evidence; a license lives while one source does.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use chrono::Duration;
use serde_json::json;
use uuid::Uuid;

use crate::{
    Caller, Clock, Code, Core, Error, Result, Scope, Snowflake,
    events::{Actor, EventKind, NewEvent},
    ids::{LicenseId, ProductId, TenantId, UserId},
    licenses,
    outbox::{self, Delivery, Notify},
    products,
    tx::Tx,
    users::{self, Provider},
    workers,
};

mod decide;
pub mod reconcile;
mod roles;
mod store;

pub(crate) use self::store::{consume, count_holders};
pub use self::{
    decide::{Decision, decide},
    roles::observation,
};
pub use crate::entity::source::Model as Source;

/// The order of observations: strictly rising within an instance, and raised above everything stored
/// when an instance begins to observe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp(i64);

/// Where stamps come from.
#[derive(Clone, Debug, Default)]
pub struct Stamps(Arc<AtomicI64>);

impl Stamps {
    /// A stamp later than every one before: microseconds of the clock, or the last plus one.
    #[must_use]
    pub fn next(&self, clock: &Clock) -> Stamp {
        let now = clock.now().timestamp_micros();
        let last = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |last| Some(now.max(last + 1)));
        Stamp(last.map_or(now, |last| now.max(last + 1)))
    }

    /// Continues after what a former observer wrote, however its clock ran.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn catch_up(&self, core: &Core) -> Result<()> {
        if let Some(newest) = store::newest_stamp(core).await? {
            self.0.fetch_max(newest, Ordering::SeqCst);
        }
        Ok(())
    }
}

/// Whether a source was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// It is there.
    Present,
    /// It is positively not there.
    Absent,
}

/// What entitles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceKind {
    /// A mapped role: mapping, guild and role.
    Role(crate::ids::MappingId, Snowflake, Snowflake),
    /// An admin's word, one per product.
    Grant,
}

impl SourceKind {
    fn kind(self) -> &'static str {
        match self {
            Self::Role(..) => "discord_role",
            Self::Grant => "manual",
        }
    }
}

/// One source as it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedSource {
    /// What it earns.
    pub product: ProductId,
    /// What it is.
    pub kind: SourceKind,
    /// Whether it is there.
    pub level: Level,
    /// How eagerly a key born of it is sent.
    pub notify: Notify,
}

/// A fact someone saw about one member.
#[derive(Clone, Debug)]
pub struct Observation {
    /// The tenant it matters to.
    pub scope: Scope,
    /// The member's Discord account.
    pub member: Snowflake,
    /// Who says so.
    pub actor: Actor,
    /// When, in order.
    pub stamp: Stamp,
    /// The lease under which it was seen; a former holder's word no longer counts.
    pub fence: Option<workers::Lease>,
    /// The sources.
    pub seen: Vec<ObservedSource>,
}

/// What an observation led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A license was issued.
    Issued(LicenseId),
    /// A license was ended.
    Revoked(LicenseId),
}

/// Records what was seen and does what follows from it, in one unit of work.
///
/// # Errors
/// When the database does not answer; nothing is half-written then.
pub async fn observe(core: &Core, seen: &Observation) -> Result<Vec<Change>> {
    if already_known(core, seen).await? {
        return Ok(Vec::new());
    }
    let mut tx = Tx::begin(core).await?;
    if let Some(fence) = &seen.fence
        && !workers::holds(&tx, fence).await?
    {
        tracing::warn!(member = %seen.member, "an observation of a former gateway holder was dropped");
        return Ok(Vec::new());
    }
    let changes = observe_in(&mut tx, seen).await?;
    tx.commit().await?;
    Ok(changes)
}

/// The same, as part of a unit of work.
async fn observe_in(tx: &mut Tx, seen: &Observation) -> Result<Vec<Change>> {
    let user = users::ensure(tx, Provider::Discord, &seen.member.to_string()).await?;
    users::lock_holder(tx, seen.scope.tenant(), user).await?;
    let mut touched = Vec::<(ProductId, Notify)>::new();
    for source in &seen.seen {
        // Nobody waits for a key because of what they lost.
        let notify = if source.level == Level::Present { source.notify } else { Notify::Silent };
        if record(tx, user, seen, source).await? || notify == Notify::Resend {
            match touched.iter_mut().find(|(product, _)| *product == source.product) {
                Some((_, strongest)) if *strongest == Notify::Silent => *strongest = notify,
                Some(_) => {}
                None => touched.push((source.product, notify)),
            }
        }
    }
    let mut changes = Vec::new();
    for (product, notify) in touched {
        changes.extend(apply_decision(tx, user, product, &seen.actor, notify).await?);
    }
    Ok(changes)
}

/// The common case of a gateway that repeats itself: no lock, at most one small write.
async fn already_known(core: &Core, seen: &Observation) -> Result<bool> {
    let Some(user) = users::find_by_discord(core, seen.member).await? else {
        return Ok(seen.seen.iter().all(|source| source.level == Level::Absent));
    };
    let stored = store::list_of(core, user).await?;
    let known = |source: &ObservedSource| {
        stored.iter().find(|row| row.product_id == source.product && row.reference == reference(source))
    };
    let (mut held, mut gone) = (Vec::new(), Vec::new());
    for source in &seen.seen {
        match (known(source), source.level) {
            (None, Level::Absent) => {}
            (Some(row), Level::Present) if row.ends_at.is_none() && source.notify != Notify::Resend => {
                held.push(row.id)
            }
            (Some(row), Level::Absent) if row.ends_at.is_some() => gone.push(row.id),
            _ => return Ok(false),
        }
    }
    if held.is_empty() && gone.is_empty() {
        return Ok(true);
    }
    if let Some(fence) = &seen.fence
        && !workers::is_held(core, fence).await?
    {
        return Ok(false);
    }
    // Whatever changed meanwhile is not confirmed, and is looked at under the lock.
    Ok(store::confirm(core, &held, Level::Present, seen.stamp.0).await?
        && store::confirm(core, &gone, Level::Absent, seen.stamp.0).await?)
}

/// What makes a source the same one again.
fn reference(source: &ObservedSource) -> Uuid {
    match source.kind {
        SourceKind::Role(mapping, ..) => mapping.0,
        SourceKind::Grant => source.product.0,
    }
}

/// Writes a source down if this is news of it. Answers whether its level changed.
async fn record(tx: &mut Tx, user: UserId, seen: &Observation, source: &ObservedSource) -> Result<bool> {
    let stored =
        store::list(tx, user, source.product).await?.into_iter().find(|row| row.reference == reference(source));
    let now = tx.now();
    let stamp = match (source.kind, &stored) {
        // An admin's word is the newest by the holder's lock, however the clock of the last one ran.
        (SourceKind::Grant, Some(row)) => seen.stamp.0.max(row.stamp + 1),
        _ => seen.stamp.0,
    };
    let changed = match stored {
        Some(row) if row.stamp >= stamp => false,
        None if source.level == Level::Absent => false,
        None => {
            let row = Source {
                id: tx.core().ids.v7(now),
                tenant_id: seen.scope.tenant(),
                user_id: user,
                product_id: source.product,
                kind: source.kind.kind().to_owned(),
                reference: reference(source),
                stamp,
                live_since: now,
                ends_at: None,
                consumed: false,
            };
            store::insert(tx, row).await?;
            true
        }
        Some(row) => {
            let next = match (source.level, row.ends_at) {
                (Level::Present, Some(_)) => {
                    Source { stamp, live_since: now, ends_at: None, consumed: false, ..row.clone() }
                }
                (Level::Absent, None) => {
                    Source { stamp, ends_at: Some(now + grace(tx, user, source.product).await?), ..row.clone() }
                }
                (Level::Present, None) | (Level::Absent, Some(_)) => Source { stamp, ..row.clone() },
            };
            if let Some(ends_at) = next.ends_at.filter(|at| *at > now) {
                workers::wake_at(tx, workers::EXPIRE, ends_at).await?;
            }
            let changed = next.ends_at != row.ends_at;
            store::update(tx, next).await?;
            changed
        }
    };
    if changed && let SourceKind::Role(_, guild, role) = source.kind {
        let level = |held: bool| json!({ "guildId": guild.to_string(), "roleId": role.to_string(), "held": held });
        let held = source.level == Level::Present;
        tx.record(NewEvent {
            tenant: seen.scope.tenant(),
            kind: EventKind::RoleChanged,
            actor: seen.actor.clone(),
            subject: Some(user),
            license: None,
            before: Some(level(!held)),
            after: Some(level(held)),
        });
    }
    Ok(changed)
}

/// How long a license outlives this loss: by the rules it was born under.
async fn grace(tx: &Tx, user: UserId, product: ProductId) -> Result<Duration> {
    let policy = match licenses::lock_unrevoked(tx, user, product).await? {
        Some(license) => products::get_policy(tx, license.policy_id).await?,
        None => products::get_current(tx, product).await?.1,
    };
    Ok(Duration::seconds(policy.source_grace_s))
}

/// Does what a claim's sources ask for. The holder is locked.
async fn apply_decision(
    tx: &mut Tx,
    user: UserId,
    product: ProductId,
    actor: &Actor,
    notify: Notify,
) -> Result<Option<Change>> {
    let sources = store::list(tx, user, product).await?;
    let license = licenses::lock_unrevoked(tx, user, product).await?;
    match (decide(&sources, license.is_some(), tx.now()), license) {
        (Decision::Issue, _) => {
            let (product, policy) = products::get_current(tx, product).await?;
            let issue = licenses::Action::Issue { product: &product, policy: &policy, owner: Some(user) };
            let license = licenses::apply(tx, actor, issue).await?.id;
            send_key(tx, license, notify).await?;
            Ok(Some(Change::Issued(license)))
        }
        (Decision::Revoke, Some(license)) => {
            let revoke = licenses::Action::Revoke { license: &license, reason: "entitlement_lost" };
            Ok(Some(Change::Revoked(licenses::apply(tx, actor, revoke).await?.id)))
        }
        (Decision::Keep, Some(license)) if notify == Notify::Resend => {
            send_key(tx, license.id, notify).await?;
            Ok(None)
        }
        (Decision::Keep | Decision::Revoke, _) => Ok(None),
    }
}

/// Sends a license's key to its holder, once in its life.
async fn send_key(tx: &mut Tx, license: LicenseId, notify: Notify) -> Result<()> {
    outbox::send(tx, &Delivery::KeyDm { license }, format!("key_dm:{license}"), notify).await
}

/// Ends the licenses whose grace the clock has ended. Answers how many.
///
/// # Errors
/// When the database does not answer.
pub async fn end_expired_grace(core: &Core) -> Result<u64> {
    let mut ended = 0;
    loop {
        let batch = store::list_over(core, core.clock.now(), 100).await?;
        for &(tenant, user, product) in &batch {
            ended += u64::from(end_grace(core, tenant, user, product).await?.is_some());
        }
        if batch.len() < 100 {
            break;
        }
    }
    if let Some(next) = store::next_end(core, core.clock.now()).await? {
        workers::no_later_than(core.db.writer(), workers::EXPIRE, next).await?;
    }
    Ok(ended)
}

async fn end_grace(core: &Core, tenant: TenantId, user: UserId, product: ProductId) -> Result<Option<Change>> {
    let mut tx = Tx::begin(core).await?;
    users::lock_holder(&tx, tenant, user).await?;
    let change = apply_decision(&mut tx, user, product, &Actor::System, Notify::Silent).await?;
    tx.commit().await?;
    Ok(change)
}

/// An admin's grant: a source like any other, that no role change ends.
///
/// # Errors
/// `CONFLICT` when the member has a license for the product already.
pub async fn grant(core: &Core, caller: &Caller, product: ProductId, member: Snowflake) -> Result<LicenseId> {
    let mut tx = Tx::begin(core).await?;
    let user = users::ensure(&tx, Provider::Discord, &member.to_string()).await?;
    users::lock_holder(&tx, caller.scope.tenant(), user).await?;
    if licenses::lock_unrevoked(&tx, user, product).await?.is_some() {
        return Err(Code::Conflict.because("They hold a license for that product already; `/license show` tells more."));
    }
    let changes = observe_in(
        &mut tx,
        &Observation {
            scope: caller.scope.clone(),
            member,
            actor: caller.actor.clone(),
            stamp: core.stamps.next(&core.clock),
            fence: None,
            seen: vec![ObservedSource { product, kind: SourceKind::Grant, level: Level::Present, notify: Notify::Now }],
        },
    )
    .await?;
    tx.commit().await?;
    match changes.as_slice() {
        [Change::Issued(license)] => Ok(*license),
        _ => Err(Error::Broken(format!("a grant of {product} issued no license"))),
    }
}
