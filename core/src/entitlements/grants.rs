//! What admins decide: a grant is a source like any other, that no role change ends; a revocation suppresses the
//! entitlement until its holder has lost all sources, or is granted the product again.

use super::types::{Change, Evidence, Level, Observation, ObservedSource};
use super::{Entitlement, kinds::SourceKind, store};
use crate::entity::source::Model as Source;
use crate::ids::{LicenseId, ProductId, UserId};
use crate::licenses::{self, License};
use crate::policy::PolicyTerms;
use crate::{Caller, Core, Error, Reason, Result, bans, tx::Tx, users};

/// Grants a product to a user and sends the key. Refused with `CONFLICT` if the user has a license for the product, is
/// banned, or has had a trial and this would be another one.
pub async fn grant(core: &Core, caller: &Caller, product: ProductId, user: UserId) -> Result<LicenseId> {
    let mut tx = Tx::begin(core).await?;
    let tenant = caller.scope().tenant();
    users::lock_holder(&tx, tenant, user).await?;
    let mut entitlement = Entitlement::load_current(&mut tx, tenant, user, product).await?;
    if entitlement.license.is_some() {
        return Err(Reason::AlreadyLicensed.refusal());
    }
    bans::require_not_banned(&tx, tenant, product, user).await?;
    licenses::require_first_trial(&tx, user, product, &entitlement.policy.terms).await?;
    entitlement.end_suppression(&tx).await?;
    // The holder's lock orders grants, whatever the clock of another instance says.
    core.stamps.raise_above(entitlement.sources.iter().map(|source| source.stamp).max().unwrap_or_default());
    let observed = ObservedSource {
        product,
        kind: SourceKind::Manual,
        reference: product.0,
        level: Level::Present,
        initial_announce: None,
        label: None,
    };
    let observation = Observation {
        caller: caller.clone(),
        user,
        evidence: Evidence::Reported,
        stamp: core.stamps.next(&core.clock),
        fence: None,
        sources: vec![observed],
    };
    let change = entitlement.apply_observation(&mut tx, &observation).await?;
    tx.commit().await?;
    match change {
        Some(Change::Issued(license)) => Ok(license),
        _ => Err(Error::Internal(format!("a grant of product {product} issued no license"))),
    }
}

/// Records that a license is given to a user, which entitles them to it. The caller has locked the holder. Refused with
/// `CONFLICT` if the user has a license for the product, is banned, or has had a trial and this is another one.
pub(crate) async fn assign(tx: &mut Tx, license: &License, terms: &PolicyTerms, user: UserId) -> Result<()> {
    let (tenant, product) = (license.tenant_id, license.product_id);
    let entitlement = Entitlement::load_current(tx, tenant, user, product).await?;
    if entitlement.license.is_some() {
        return Err(Reason::AlreadyLicensed.refusal());
    }
    bans::require_not_banned(tx, tenant, product, user).await?;
    licenses::require_first_trial(tx, user, product, terms).await?;
    let (core, now) = (tx.core().clone(), tx.now());
    let known = entitlement.sources.iter().find(|source| source.reference == license.id.0);
    let source = Source {
        id: known.map_or_else(|| core.ids.v7(now), |known| known.id),
        tenant_id: tenant,
        user_id: user,
        product_id: product,
        kind: SourceKind::Assignment,
        reference: license.id.0,
        stamp: core.stamps.next(&core.clock).0,
        live_since: now,
        ends_at: None,
        suppressed: false,
    };
    match known {
        Some(_) => store::update(tx, &source).await,
        None => store::insert(tx, source).await,
    }
}

/// Ends what entitles users to a product: they get no license for it until they have lost all sources, or are given one.
pub(crate) async fn suppress(tx: &Tx, users: &[UserId], product: ProductId) -> Result<()> {
    store::suppress(tx, users, product).await
}
