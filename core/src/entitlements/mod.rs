//! Entitlements: what entitles a user to a product. Whatever learns something about a user builds an
//! [`Observation`] and calls [`observe`]; nothing else issues or revokes a license because of a source.
//!
//! ```text
//! observe: Tx { lock holders; per user and product: load -> next (pure) per source -> decide (pure) -> apply } commit
//! end_expired_grace (worker `expire`): load -> decide -> apply, for licenses whose grace has ended by the clock
//! ```
//! Invariants: only a newer [`Stamp`] changes a source; a source ends only when it is known to be gone, never
//! because it could not be checked; a license lasts as long as one of its sources.

use std::collections::{BTreeSet, HashMap};

use chrono::Duration;

use crate::events::{EventData, NewEvent};
use crate::ids::{ProductId, TenantId, UserId};
use crate::licenses::{self, Action, ENTITLEMENT_LOST, License};
use crate::outbox::{self, Notify};
use crate::products::{self, Policy, Product};
use crate::{Caller, Core, Error, Result, Scope, bans, entity::source::Model as Source, tx::Tx, users, workers};

pub mod breaker;
mod decide;
mod grants;
mod kinds;
mod lift;
mod merge;
pub mod reconcile;
mod stamp;
mod store;
mod types;

use self::decide::{Decision, SourceState, decide, ends_at, key_timing, next};
pub use self::grants::grant;
pub(crate) use self::grants::{assign, suppress};
pub use self::kinds::{Announce, SourceKind};
pub use self::lift::lift_ban;
pub use self::stamp::{Stamp, Stamps};
pub use self::types::{Change, Evidence, Level, Observation, ObservedSource};
pub(crate) use self::{merge::merge_users, store::count_dependent};

/// Records an observation and applies what follows from it, in one transaction.
pub async fn observe(core: &Core, observation: &Observation) -> Result<Vec<Change>> {
    observe_all(core, std::slice::from_ref(observation)).await
}

/// Records observations of one tenant and one observer, in their order, and applies what follows from them, in one
/// transaction.
pub async fn observe_all(core: &Core, observations: &[Observation]) -> Result<Vec<Change>> {
    let users: Vec<UserId> = observations.iter().map(|observation| observation.user).collect();
    let stored = store::list_of(core, &users).await?;
    let mut news: Vec<&Observation> = Vec::new();
    for observation in observations {
        // What is stored says nothing about an observation that follows a new one.
        let follows = news.iter().any(|new| new.user == observation.user);
        if follows || !confirm_unchanged(core, observation, &stored).await? {
            news.push(observation);
        }
    }
    let Some(first) = news.first() else { return Ok(Vec::new()) };
    let tenant = first.caller.scope().tenant();
    let mut tx = Tx::begin(core).await?;
    if let Some(fence) = &first.fence
        && !workers::lock_if_current(&tx, fence).await?
    {
        tracing::warn!(count = news.len(), "dropped observations: this instance no longer holds the gateway lease");
        return Ok(Vec::new());
    }
    users::lock_holders(&tx, tenant, news.iter().map(|new| new.user).collect()).await?;
    let pairs = news.iter().flat_map(|new| new.sources.iter().map(|source| (new.user, source.product)));
    let mut loaded = Entitlement::load_all(&tx, tenant, &pairs.collect()).await?;
    let mut changes = Vec::new();
    for observation in news {
        let products: BTreeSet<ProductId> = observation.sources.iter().map(|source| source.product).collect();
        for product in products {
            let mut entitlement = match loaded.remove(&(observation.user, product)) {
                Some(loaded) => loaded.current(&mut tx).await?,
                // An earlier observation has changed it.
                None => Entitlement::load_current(&mut tx, tenant, observation.user, product).await?,
            };
            changes.extend(entitlement.apply_observation(&mut tx, observation).await?);
        }
    }
    tx.commit().await?;
    Ok(changes)
}

/// Revokes or suspends the licenses whose last source has ended, grace included. Returns how many.
pub async fn end_expired_grace(core: &Core) -> Result<u64> {
    const BATCH: u64 = 100;
    let mut ended = 0;
    loop {
        let batch = licenses::list_sources_ended(core, core.clock.now(), BATCH).await?;
        for license in &batch {
            // Only an entitlement has sources, and its license has an owner.
            let Some(user) = license.user_id else { continue };
            let mut tx = Tx::begin(core).await?;
            users::lock_holder(&tx, license.tenant_id, user).await?;
            let mut entitlement = Entitlement::load(&tx, license.tenant_id, user, license.product_id).await?;
            let system = Caller::System(Scope::of(license.tenant_id));
            ended += u64::from(entitlement.apply_decision(&mut tx, &system, Notify::Silent).await?.is_some());
            tx.commit().await?;
        }
        if (batch.len() as u64) < BATCH {
            break;
        }
    }
    if let Some(next) = licenses::next_sources_end(core, core.clock.now()).await? {
        workers::schedule_no_later_than(core.db.writer(), workers::EXPIRE, next).await?;
    }
    Ok(ended)
}

/// Applies what follows from the sources of a user, whose ban was lifted. The caller has locked the holder.
pub(crate) async fn decide_again(tx: &mut Tx, caller: &Caller, user: UserId, product: &Product) -> Result<()> {
    let mut entitlement = Entitlement::load_current(tx, product.tenant_id, user, product.id).await?;
    entitlement.apply_decision(tx, caller, Notify::Now).await.map(drop)
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
        let loaded = Self::load_all(tx, tenant, &BTreeSet::from([(user, product)])).await?.into_values().next();
        loaded.ok_or_else(|| Error::Internal(format!("product {product} has no policy")))
    }

    /// Loads entitlements with one statement per table.
    async fn load_all(
        tx: &Tx,
        tenant: TenantId,
        pairs: &BTreeSet<(UserId, ProductId)>,
    ) -> Result<HashMap<(UserId, ProductId), Self>> {
        let users: BTreeSet<UserId> = pairs.iter().map(|(user, _)| *user).collect();
        let products: BTreeSet<ProductId> = pairs.iter().map(|(_, product)| *product).collect();
        let licenses = licenses::lock_all_unrevoked_of(tx, &users, &products).await?;
        let pinned = licenses.iter().map(|license| license.policy_id).collect();
        let policies = products::list_with_policies(tx, &products, &pinned).await?;
        let sources = store::list_of(tx, &users.into_iter().collect::<Vec<_>>()).await?;
        let load = |&(user, product): &(UserId, ProductId)| {
            let is_own = |license: &&License| (license.user_id, license.product_id) == (Some(user), product);
            let license = licenses.iter().find(is_own).cloned();
            let is_policy = |(known, policy): &&(Product, Policy)| {
                known.id == product
                    && policy.id == license.as_ref().map_or(known.policy_id, |license| license.policy_id)
            };
            let (product, policy) = policies.iter().find(is_policy).cloned()?;
            let own = sources.iter().filter(|source| (source.user_id, source.product_id) == (user, product.id));
            let sources = own.cloned().collect();
            Some(((user, product.id), Self { tenant, user, product, policy, license, sources }))
        };
        Ok(pairs.iter().filter_map(load).collect())
    }

    /// Loads an entitlement as it is now.
    async fn load_current(tx: &mut Tx, tenant: TenantId, user: UserId, product: ProductId) -> Result<Self> {
        Self::load(tx, tenant, user, product).await?.current(tx).await
    }

    /// The entitlement as it is now. If its grace has ended, that is recorded first: a revoked license never comes back.
    async fn current(mut self, tx: &mut Tx) -> Result<Self> {
        if !matches!(self.decide(tx), Decision::Revoke | Decision::Suspend) {
            return Ok(self);
        }
        self.apply_decision(tx, &Caller::System(Scope::of(self.tenant)), Notify::Silent).await?;
        Self::load(tx, self.tenant, self.user, self.product.id).await
    }

    fn decide(&self, tx: &Tx) -> Decision {
        decide(&self.states(), self.license.as_ref(), tx.now())
    }

    fn states(&self) -> Vec<SourceState> {
        self.sources.iter().map(SourceState::of).collect()
    }

    /// Records the observed sources of this product, and applies what follows if one of them changed.
    async fn apply_observation(&mut self, tx: &mut Tx, observation: &Observation) -> Result<Option<Change>> {
        let Observation { caller, evidence, .. } = observation;
        let (mut send, mut changed, mut lost, mut rolling_out) = (Notify::Silent, false, false, false);
        let product = self.product.id;
        for observed in observation.sources.iter().filter(|observed| observed.product == product) {
            let has_changed = self.store_source(tx, observation, observed).await?;
            changed |= has_changed;
            lost |= has_changed && observed.level == Level::Absent;
            let is_present = observed.level == Level::Present;
            // A first reconciliation may have issued the license silently, a moment before this was reported.
            rolling_out |= is_present && observed.initial_announce.is_some() && *evidence == Evidence::Reported;
            if is_present && has_changed && send == Notify::Silent {
                send = key_timing(*evidence, observed.initial_announce);
            }
        }
        // A user who has lost everything can get a license again.
        if lost && self.sources.iter().all(|source| source.ends_at.is_some()) {
            self.end_suppression(tx).await?;
        }
        let send = if rolling_out { Notify::Now } else { send };
        let decided = changed || rolling_out;
        let change = if decided { self.apply_decision(tx, caller, send).await? } else { None };
        if let (None, true, Some(license)) = (change, rolling_out, &self.license) {
            send_key(tx, license, Notify::Now).await?;
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
        let suppressed = self.sources.iter().any(|source| source.suppressed);
        let stored = self.sources.iter_mut().find(|source| source.reference == observed.reference);
        let before = stored.as_deref().map(SourceState::of);
        let grace_ends = now + Duration::seconds(self.policy.terms.source_grace_seconds);
        let after = next(before, observed.level, observation.stamp, now, grace_ends, suppressed);
        let Some(after) = after else { return Ok(false) };
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
            let data = EventData::SourceChanged { source: label.clone(), product_id: self.product.id, held };
            let event = NewEvent::tenant(self.tenant, observation.caller.actor(), data);
            // The license, because its last source may end with this one.
            let license = self.license.as_ref().map(|license| license.id);
            tx.record(NewEvent { subject: Some(self.user), license, ..event });
        }
        Ok(changed)
    }

    /// Ends the suppression by an admin's revocation.
    async fn end_suppression(&mut self, tx: &Tx) -> Result<()> {
        if self.sources.iter().all(|source| !source.suppressed) {
            return Ok(());
        }
        self.sources.iter_mut().for_each(|source| source.suppressed = false);
        store::end_suppression(tx, self.user, self.product.id).await
    }

    /// Whether the user can get direct messages, as those with a role can.
    async fn has_discord(&self, tx: &Tx) -> Result<bool> {
        let has_role = self.sources.iter().any(|source| source.kind == SourceKind::DiscordRole);
        Ok(has_role || users::has_discord(tx, self.user).await?)
    }

    /// Changes the license as the sources require, and stores when they end.
    async fn apply_decision(&mut self, tx: &mut Tx, caller: &Caller, send: Notify) -> Result<Option<Change>> {
        let (decision, ends_at, terms) = (self.decide(tx), ends_at(&self.states()), &self.policy.terms);
        let Some(license) = &self.license else {
            // A banned user is not given anything, and nobody a second trial.
            let (product, user) = (self.product.id, self.user);
            if decision != Decision::Issue
                || bans::is_banned(tx, self.tenant, product, user).await?
                || licenses::has_had_trial(tx, user, product, terms).await?
            {
                return Ok(None);
            }
            let license = licenses::issue(tx, caller, &self.product, &self.policy, Some(self.user)).await?;
            if send != Notify::Silent && self.has_discord(tx).await? {
                send_key(tx, &license, send).await?;
            }
            let id = license.id;
            self.license = Some(license);
            return Ok(Some(Change::Issued(id)));
        };
        let (action, change) = match decision {
            Decision::Revoke => (Action::Revoke { reason: ENTITLEMENT_LOST }, Change::Revoked(license.id)),
            Decision::Suspend => {
                // The end is not known if all sources are suppressed.
                let since = ends_at.map_or(tx.now(), |ends_at| ends_at.max(license.created_at));
                (Action::Suspend { since, reason: ENTITLEMENT_LOST }, Change::Suspended(license.id))
            }
            Decision::Resume => (Action::Resume, Change::Resumed(license.id)),
            Decision::Issue | Decision::Keep => {
                licenses::set_sources_end(tx, license, terms, ends_at).await?;
                if tx.unannounced() == Some(license.id) {
                    licenses::record(tx, caller, license, EventData::LicenseChanged { fields: vec!["sources"] });
                }
                return Ok(None);
            }
        };
        let license = License { sources_end_at: license.end_with_sources(ends_at), ..license.clone() };
        self.license = Some(licenses::apply(tx, caller, &license, terms, action).await?);
        Ok(Some(change))
    }
}

impl Source {
    fn set(&mut self, state: SourceState) {
        let SourceState { stamp, live_since, ends_at, suppressed } = state;
        (self.stamp, self.live_since, self.ends_at, self.suppressed) = (stamp.0, live_since, ends_at, suppressed);
    }
}

/// Sends a license's key to its holder, at most once per key.
pub(crate) async fn send_key(tx: &mut Tx, license: &License, send: Notify) -> Result<()> {
    let (delivery, key) = outbox::key_dm(license.id, license.key_epoch);
    outbox::enqueue(tx, &delivery, key, send).await
}

/// Fast path for repeated updates: no lock, at most two small writes. `true`: nothing changed.
async fn confirm_unchanged(core: &Core, observation: &Observation, stored: &[Source]) -> Result<bool> {
    let (mut present, mut absent) = (Vec::new(), Vec::new());
    for observed in &observation.sources {
        let wanted = (observation.user, observed.product, observed.reference);
        let is_same = |source: &&Source| (source.user_id, source.product_id, source.reference) == wanted;
        match (stored.iter().find(is_same), observed.level) {
            (None, Level::Absent | Level::Withdrawn) => {}
            (Some(source), Level::Present) if source.ends_at.is_none() && observed.initial_announce.is_none() => {
                present.push(source.id);
            }
            (Some(source), Level::Absent | Level::Withdrawn) if source.ends_at.is_some() => absent.push(source.id),
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
