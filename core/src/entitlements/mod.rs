//! Entitlements: what entitles a user to a product. Whatever learns something about a user builds an
//! [`Observation`] and calls [`observe`]; nothing else issues or revokes a license because of a source.
//!
//! ```text
//! observe: Tx { lock holder; per product: load -> next (pure) per source -> decide (pure) -> apply } commit
//! end_expired_grace (worker `expire`): load -> decide -> apply, for entitlements whose grace has expired
//! ```
//! Invariants: only a newer [`Stamp`] changes a source; a source ends only when it is known to be gone, never
//! because it could not be checked; a license lasts as long as one of its sources.

use chrono::Duration;

use crate::events::{EventData, NewEvent};
use crate::ids::{LicenseId, ProductId, TenantId, UserId};
use crate::licenses::{self, License};
use crate::outbox::{self, Delivery, Notify};
use crate::products::{self, Policy, Product};
use crate::{Caller, Core, Result, Scope, entity::source::Model as Source, tx::Tx, users, workers};

pub mod breaker;
mod decide;
mod grants;
mod kinds;
mod merge;
pub mod reconcile;
mod stamp;
mod store;
mod types;

use self::decide::{Decision, SourceState, decide, key_timing, next};
pub use self::grants::{grant, revoke, revoke_member_license};
pub use self::kinds::{Announce, SourceKind};
pub use self::stamp::{Stamp, Stamps};
pub use self::types::{Change, Evidence, Level, Observation, ObservedSource};
pub(crate) use self::{merge::merge_users, store::count_holders};

/// Records an observation and applies what follows from it, in one transaction.
pub async fn observe(core: &Core, observation: &Observation) -> Result<Vec<Change>> {
    if confirm_unchanged(core, observation).await? {
        return Ok(Vec::new());
    }
    let mut tx = Tx::begin(core).await?;
    if let Some(fence) = &observation.fence
        && !workers::lock_if_current(&tx, fence).await?
    {
        tracing::warn!(user = %observation.user, "dropped an observation: this instance no longer holds the gateway lease");
        return Ok(Vec::new());
    }
    let tenant = observation.caller.scope().tenant();
    users::lock_holder(&tx, tenant, observation.user).await?;
    let mut products: Vec<ProductId> = observation.sources.iter().map(|source| source.product).collect();
    products.sort_unstable();
    products.dedup();
    let mut changes = Vec::new();
    for product in products {
        let mut entitlement = Entitlement::load(&tx, tenant, observation.user, product).await?;
        changes.extend(entitlement.apply_observation(&mut tx, observation).await?);
    }
    tx.commit().await?;
    Ok(changes)
}

/// Revokes the licenses whose grace has expired. Returns how many.
pub async fn end_expired_grace(core: &Core) -> Result<u64> {
    const BATCH: u64 = 100;
    let mut revoked = 0;
    loop {
        let batch = store::list_lapsed(core, core.clock.now(), BATCH).await?;
        for &(tenant, user, product) in &batch {
            let mut tx = Tx::begin(core).await?;
            users::lock_holder(&tx, tenant, user).await?;
            let mut entitlement = Entitlement::load(&tx, tenant, user, product).await?;
            let system = Caller::System(Scope::of(tenant));
            revoked += u64::from(entitlement.apply_decision(&mut tx, &system, Notify::Silent).await?.is_some());
            tx.commit().await?;
        }
        if (batch.len() as u64) < BATCH {
            break;
        }
    }
    if let Some(next) = store::next_end(core, core.clock.now()).await? {
        workers::schedule_no_later_than(core.db.writer(), workers::EXPIRE, next).await?;
    }
    Ok(revoked)
}

/// Makes every further stamp newer than what any instance has stored.
pub async fn catch_up_stamps(core: &Core) -> Result<()> {
    if let Some(newest) = store::newest_stamp(core).await? {
        core.stamps.raise_above(newest);
    }
    Ok(())
}

/// A user's entitlement to a product, read once; the holder is locked.
struct Entitlement {
    tenant: TenantId,
    user: UserId,
    product: Product,
    /// The policy of the license, or the current one if there is no license.
    policy: Policy,
    license: Option<License>,
    sources: Vec<Source>,
}

impl Entitlement {
    async fn load(tx: &Tx, tenant: TenantId, user: UserId, product: ProductId) -> Result<Self> {
        let license = licenses::lock_unrevoked(tx, user, product).await?;
        let pinned = license.as_ref().map(|license| license.policy_id);
        let (product, policy) = products::get_with_policy(tx, product, pinned).await?;
        let sources = store::list(tx, user, product.id).await?;
        Ok(Self { tenant, user, product, policy, license, sources })
    }

    /// Records the observed sources of this product, and applies what follows if one of them changed.
    async fn apply_observation(&mut self, tx: &mut Tx, observation: &Observation) -> Result<Option<Change>> {
        let Observation { caller, evidence, .. } = observation;
        let (mut send, mut changed, mut rolling_out) = (Notify::Silent, false, false);
        let product = self.product.id;
        for observed in observation.sources.iter().filter(|observed| observed.product == product) {
            let has_changed = self.store_source(tx, observation, observed).await?;
            changed |= has_changed;
            let is_present = observed.level == Level::Present;
            // A first reconciliation may have issued the license silently, a moment before this was reported.
            rolling_out |= is_present && observed.initial_announce.is_some() && *evidence == Evidence::Reported;
            if is_present && has_changed && send == Notify::Silent {
                send = key_timing(*evidence, observed.initial_announce);
            }
        }
        let send = if rolling_out { Notify::Now } else { send };
        let decided = changed || rolling_out;
        let change = if decided { self.apply_decision(tx, caller, send).await? } else { None };
        if let (None, true, Some(license)) = (change, rolling_out, &self.license) {
            send_key(tx, license.id, Notify::Now).await?;
        }
        Ok(change)
    }

    /// Stores an observed source if it is newer. Returns whether its level changed.
    async fn store_source(
        &mut self,
        tx: &mut Tx,
        observation: &Observation,
        observed: &ObservedSource,
    ) -> Result<bool> {
        let now = tx.now();
        let stored = self.sources.iter_mut().find(|source| source.reference == observed.reference);
        let before = stored.as_deref().map(SourceState::of);
        let grace_ends = now + Duration::seconds(self.policy.source_grace_s);
        let Some(after) = next(before, observed.level, observation.stamp, now, grace_ends) else { return Ok(false) };
        if let Some(source) = stored {
            source.set(after);
            store::update(tx, source).await?;
        } else {
            let source = Source {
                id: tx.core().ids.v7(now),
                tenant_id: self.tenant,
                user_id: self.user,
                product_id: self.product.id,
                kind: observed.kind,
                reference: observed.reference,
                stamp: after.stamp.0,
                live_since: after.live_since,
                ends_at: after.ends_at,
                suppressed: after.suppressed,
            };
            store::insert(tx, source.clone()).await?;
            self.sources.push(source);
        }
        if let Some(ends_at) = after.ends_at.filter(|ends_at| *ends_at > now) {
            workers::schedule_at(tx, workers::EXPIRE, ends_at).await?;
        }
        let changed = before.is_none_or(|before| before.ends_at != after.ends_at);
        if let (true, Some(label)) = (changed, &observed.label) {
            let held = observed.level == Level::Present;
            let data = EventData::SourceChanged { source: label.clone(), held };
            let event = NewEvent::tenant(self.tenant, observation.caller.actor(), data);
            tx.record(NewEvent { subject: Some(self.user), ..event });
        }
        Ok(changed)
    }

    /// Issues or revokes the license as the sources require.
    async fn apply_decision(&mut self, tx: &mut Tx, caller: &Caller, send: Notify) -> Result<Option<Change>> {
        let sources: Vec<_> = self.sources.iter().map(SourceState::of).collect();
        match (decide(&sources, self.license.as_ref().map(|license| license.id), tx.now()), &self.license) {
            (Decision::Issue, _) => {
                let (product, policy, owner) = (&self.product, &self.policy, Some(self.user));
                let license = licenses::apply(tx, caller, licenses::Action::Issue { product, policy, owner }).await?;
                let id = license.id;
                self.license = Some(license);
                send_key(tx, id, send).await?;
                Ok(Some(Change::Issued(id)))
            }
            (Decision::Revoke, Some(license)) => {
                let revoke = licenses::Action::Revoke { license, reason: "entitlement_lost" };
                Ok(Some(Change::Revoked(licenses::apply(tx, caller, revoke).await?.id)))
            }
            (Decision::Keep | Decision::Revoke, _) => Ok(None),
        }
    }
}

impl Source {
    fn set(&mut self, state: SourceState) {
        let SourceState { stamp, live_since, ends_at, suppressed } = state;
        (self.stamp, self.live_since, self.ends_at, self.suppressed) = (stamp.0, live_since, ends_at, suppressed);
    }
}

/// Sends a license's key to its holder, at most once per license.
async fn send_key(tx: &mut Tx, license: LicenseId, send: Notify) -> Result<()> {
    outbox::enqueue(tx, &Delivery::KeyDm { license }, format!("key_dm:{license}"), send).await
}

/// Fast path for repeated updates: no lock, at most two small writes. `true`: nothing changed.
async fn confirm_unchanged(core: &Core, observation: &Observation) -> Result<bool> {
    let stored = store::list_of(core, observation.user).await?;
    let (mut present, mut absent) = (Vec::new(), Vec::new());
    for observed in &observation.sources {
        let is_same =
            |source: &&Source| (source.product_id, source.reference) == (observed.product, observed.reference);
        match (stored.iter().find(is_same), observed.level) {
            (None, Level::Absent) => {}
            (Some(source), Level::Present) if source.ends_at.is_none() && observed.initial_announce.is_none() => {
                present.push(source.id);
            }
            (Some(source), Level::Absent) if source.ends_at.is_some() => absent.push(source.id),
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
    Ok(store::confirm(core, &present, Level::Present, observation.stamp).await?
        && store::confirm(core, &absent, Level::Absent, observation.stamp).await?)
}
