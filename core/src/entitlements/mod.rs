//! Entitlements: what entitles a user to a product. Every handler that learns something about a member
//! builds an [`Observation`] and calls [`observe`]; nothing else issues or revokes a license because of
//! a source.
//!
//! ```text
//! observe: Tx { lock holder; record each source if newer -> per product: apply_decision } commit
//! apply_decision: every source of the entitlement -> decide (pure) -> licenses::apply -> key by DM
//! end_expired_grace (worker `expire`): apply_decision for entitlements whose grace has expired
//! ```
//! Invariants: only a newer [`Stamp`] changes a source; a source ends only when its role is known to be
//! gone, never because it could not be checked; a license lasts as long as one of its sources.

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

/// The order of observations: strictly increasing within an instance, and above every stored stamp
/// when an instance starts to observe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp(i64);

/// Issues stamps.
#[derive(Clone, Debug, Default)]
pub struct Stamps(Arc<AtomicI64>);

impl Stamps {
    /// A stamp later than every previous one: the clock in microseconds, or the last stamp plus one.
    #[must_use]
    pub fn next(&self, clock: &Clock) -> Stamp {
        let now = clock.now().timestamp_micros();
        let last = self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |last| Some(now.max(last + 1)));
        Stamp(last.map_or(now, |last| now.max(last + 1)))
    }

    /// Continues after the newest stored stamp, even if the clock of the instance that wrote it ran ahead.
    pub async fn catch_up(&self, core: &Core) -> Result<()> {
        if let Some(newest) = store::newest_stamp(core).await? {
            self.0.fetch_max(newest, Ordering::SeqCst);
        }
        Ok(())
    }
}

/// Whether a source is present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// The source is present.
    Present,
    /// The source is known to be absent.
    Absent,
}

/// What entitles a user to a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceKind {
    /// A mapped role: mapping, guild and role.
    Role(crate::ids::MappingId, Snowflake, Snowflake),
    /// A grant by an admin, one per product.
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

/// One source as observed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedSource {
    /// The product it entitles to.
    pub product: ProductId,
    /// What kind of source it is.
    pub kind: SourceKind,
    /// Whether it is present.
    pub level: Level,
    /// How to send the key of a license issued because of it.
    pub notify: Notify,
}

/// A fact observed about one member.
#[derive(Clone, Debug)]
pub struct Observation {
    /// The tenant.
    pub scope: Scope,
    /// The member's Discord account.
    pub member: Snowflake,
    /// The actor recorded in events.
    pub actor: Actor,
    /// Its place in the order of observations.
    pub stamp: Stamp,
    /// The lease it was made under; once another instance holds that lease, it is dropped.
    pub fence: Option<workers::Lease>,
    /// The observed sources.
    pub seen: Vec<ObservedSource>,
}

/// A license change that followed from an observation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A license was issued.
    Issued(LicenseId),
    /// A license was revoked.
    Revoked(LicenseId),
}

/// Records an observation and applies what follows from it, in one transaction.
pub async fn observe(core: &Core, observation: &Observation) -> Result<Vec<Change>> {
    if confirm_unchanged(core, observation).await? {
        return Ok(Vec::new());
    }
    let mut tx = Tx::begin(core).await?;
    if let Some(fence) = &observation.fence
        && !workers::lock_if_current(&tx, fence).await?
    {
        tracing::warn!(member = %observation.member, "dropped an observation: this instance no longer holds the gateway lease");
        return Ok(Vec::new());
    }
    let changes = observe_in(&mut tx, observation).await?;
    tx.commit().await?;
    Ok(changes)
}

/// Like [`observe`], within a transaction.
async fn observe_in(tx: &mut Tx, observation: &Observation) -> Result<Vec<Change>> {
    let user = users::ensure(tx, Provider::Discord, &observation.member.to_string()).await?;
    users::lock_holder(tx, observation.scope.tenant(), user).await?;
    let mut affected = Vec::<(ProductId, Notify)>::new();
    for source in &observation.seen {
        // A lost source never sends a key.
        let notify = if source.level == Level::Present { source.notify } else { Notify::Silent };
        if record(tx, user, observation, source).await? || notify == Notify::Resend {
            match affected.iter_mut().find(|(product, _)| *product == source.product) {
                Some((_, strongest)) if *strongest == Notify::Silent => *strongest = notify,
                Some(_) => {}
                None => affected.push((source.product, notify)),
            }
        }
    }
    let mut changes = Vec::new();
    for (product, notify) in affected {
        changes.extend(apply_decision(tx, user, product, &observation.actor, notify).await?);
    }
    Ok(changes)
}

/// Fast path for repeated gateway updates: no lock, at most two small writes. `true`: nothing changed.
async fn confirm_unchanged(core: &Core, observation: &Observation) -> Result<bool> {
    let Some(user) = users::find_by_discord(core, observation.member).await? else {
        return Ok(observation.seen.iter().all(|source| source.level == Level::Absent));
    };
    let stored = store::list_of(core, user).await?;
    let stored_row = |source: &ObservedSource| {
        stored.iter().find(|row| row.product_id == source.product && row.reference == reference(source))
    };
    let (mut present, mut absent) = (Vec::new(), Vec::new());
    for source in &observation.seen {
        match (stored_row(source), source.level) {
            (None, Level::Absent) => {}
            (Some(row), Level::Present) if row.ends_at.is_none() && source.notify != Notify::Resend => {
                present.push(row.id)
            }
            (Some(row), Level::Absent) if row.ends_at.is_some() => absent.push(row.id),
            _ => return Ok(false),
        }
    }
    if present.is_empty() && absent.is_empty() {
        return Ok(true);
    }
    if let Some(fence) = &observation.fence
        && !workers::is_current(core, fence).await?
    {
        return Ok(false);
    }
    // A row that changed meanwhile is not confirmed; the caller then handles it under the lock.
    Ok(store::confirm(core, &present, Level::Present, observation.stamp.0).await?
        && store::confirm(core, &absent, Level::Absent, observation.stamp.0).await?)
}

/// Identifies a source across observations: the mapping, or the product of a grant.
fn reference(source: &ObservedSource) -> Uuid {
    match source.kind {
        SourceKind::Role(mapping, ..) => mapping.0,
        SourceKind::Grant => source.product.0,
    }
}

/// Stores an observed source if it is newer. Returns whether its level changed.
async fn record(tx: &mut Tx, user: UserId, observation: &Observation, source: &ObservedSource) -> Result<bool> {
    let stored =
        store::list(tx, user, source.product).await?.into_iter().find(|row| row.reference == reference(source));
    let now = tx.now();
    let stamp = match (source.kind, &stored) {
        // The holder lock orders grants: this one is newer than the stored one, whatever the clocks say.
        (SourceKind::Grant, Some(row)) => observation.stamp.0.max(row.stamp + 1),
        _ => observation.stamp.0,
    };
    let changed = match stored {
        Some(row) if row.stamp >= stamp => false,
        None if source.level == Level::Absent => false,
        None => {
            let row = Source {
                id: tx.core().ids.v7(now),
                tenant_id: observation.scope.tenant(),
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
            if let Some(ends_at) = next.ends_at.filter(|ends_at| *ends_at > now) {
                workers::schedule_at(tx, workers::EXPIRE, ends_at).await?;
            }
            let changed = next.ends_at != row.ends_at;
            store::update(tx, next).await?;
            changed
        }
    };
    if changed && let SourceKind::Role(_, guild, role) = source.kind {
        let level =
            |present: bool| json!({ "guildId": guild.to_string(), "roleId": role.to_string(), "held": present });
        let present = source.level == Level::Present;
        tx.record(NewEvent {
            tenant: observation.scope.tenant(),
            kind: EventKind::RoleChanged,
            actor: observation.actor.clone(),
            subject: Some(user),
            license: None,
            before: Some(level(!present)),
            after: Some(level(present)),
        });
    }
    Ok(changed)
}

/// The grace of a lost source: from the policy of the license, or the current one if there is none.
async fn grace(tx: &Tx, user: UserId, product: ProductId) -> Result<Duration> {
    let policy = match licenses::lock_unrevoked(tx, user, product).await? {
        Some(license) => products::get_policy(tx, license.policy_id).await?,
        None => products::get_current(tx, product).await?.1,
    };
    Ok(Duration::seconds(policy.source_grace_s))
}

/// Issues or revokes the license of an entitlement as its sources require. The caller has locked the
/// holder.
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

/// Sends a license's key to its holder, at most once per license.
async fn send_key(tx: &mut Tx, license: LicenseId, notify: Notify) -> Result<()> {
    outbox::enqueue(tx, &Delivery::KeyDm { license }, format!("key_dm:{license}"), notify).await
}

/// Revokes the licenses whose grace has expired. Returns how many.
pub async fn end_expired_grace(core: &Core) -> Result<u64> {
    let mut revoked = 0;
    loop {
        let batch = store::list_lapsed(core, core.clock.now(), 100).await?;
        for &(tenant, user, product) in &batch {
            revoked += u64::from(end_grace(core, tenant, user, product).await?.is_some());
        }
        if batch.len() < 100 {
            break;
        }
    }
    if let Some(next) = store::next_end(core, core.clock.now()).await? {
        workers::schedule_no_later_than(core.db.writer(), workers::EXPIRE, next).await?;
    }
    Ok(revoked)
}

async fn end_grace(core: &Core, tenant: TenantId, user: UserId, product: ProductId) -> Result<Option<Change>> {
    let mut tx = Tx::begin(core).await?;
    users::lock_holder(&tx, tenant, user).await?;
    let change = apply_decision(&mut tx, user, product, &Actor::System, Notify::Silent).await?;
    tx.commit().await?;
    Ok(change)
}

/// Grants a product to a member: a source like any other, except that role changes do not end it.
///
/// # Errors
/// `CONFLICT` if the member already has a license for the product.
pub async fn grant(core: &Core, caller: &Caller, product: ProductId, member: Snowflake) -> Result<LicenseId> {
    let mut tx = Tx::begin(core).await?;
    let user = users::ensure(&tx, Provider::Discord, &member.to_string()).await?;
    users::lock_holder(&tx, caller.scope.tenant(), user).await?;
    if licenses::lock_unrevoked(&tx, user, product).await?.is_some() {
        return Err(Code::Conflict.because(
            "This member already has a license for that product. Use `/license show` in Discord for details.",
        ));
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
        _ => Err(Error::Internal(format!("a grant of {product} issued no license"))),
    }
}
