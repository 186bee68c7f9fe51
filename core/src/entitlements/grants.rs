//! What admins decide: a grant is a source like any other, that no role change ends; a revocation suppresses the
//! entitlement until its holder has lost all sources, or is granted the product again.

use super::types::{Change, Evidence, Level, Observation, ObservedSource};
use super::{Entitlement, kinds::SourceKind, store};
use crate::ids::{LicenseId, ProductId, UserId};
use crate::licenses::{self, License};
use crate::{Caller, Core, Error, Reason, Result, tx::Tx, users};

/// Grants a product to a user and sends the key. Refused with `CONFLICT` if the user has a license for the product.
pub async fn grant(core: &Core, caller: &Caller, product: ProductId, user: UserId) -> Result<LicenseId> {
    let mut tx = Tx::begin(core).await?;
    let tenant = caller.scope().tenant();
    users::lock_holder(&tx, tenant, user).await?;
    let mut entitlement = Entitlement::load_current(&mut tx, tenant, user, product).await?;
    if entitlement.license.is_some() {
        return Err(Reason::AlreadyLicensed.refusal());
    }
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

/// Revokes a license now. Its holder gets no new one while they keep one of the sources they have.
/// Refused with `NOT_FOUND`; `INVALID_TRANSITION` if it is revoked already.
pub async fn revoke(core: &Core, caller: &Caller, id: LicenseId, reason: &str) -> Result<License> {
    let owner = licenses::get(core, &caller.scope(), id).await?.user_id;
    let tx = Tx::begin(core).await?;
    if let Some(owner) = owner {
        users::lock_holder(&tx, caller.scope().tenant(), owner).await?;
    }
    let license = licenses::lock(&tx, id).await?;
    revoke_locked(tx, caller, &license, reason).await
}

/// Revokes the license a user has for a product, as [`revoke`] does. Refused with `NOT_FOUND` if the user has none.
pub async fn revoke_member_license(
    core: &Core,
    caller: &Caller,
    user: UserId,
    product: ProductId,
    reason: &str,
) -> Result<License> {
    let tx = Tx::begin(core).await?;
    users::lock_holder(&tx, caller.scope().tenant(), user).await?;
    let license = licenses::lock_unrevoked(&tx, user, product).await?;
    let license = license.ok_or_else(|| Reason::NoMemberLicense.refusal())?;
    revoke_locked(tx, caller, &license, reason).await
}

async fn revoke_locked(mut tx: Tx, caller: &Caller, license: &License, reason: &str) -> Result<License> {
    if reason.chars().count() > 200 {
        return Err(Reason::RevocationReasonTooLong.refusal());
    }
    let license = licenses::apply(&mut tx, caller, licenses::Action::Revoke { license, reason }).await?;
    if let Some(owner) = license.user_id {
        store::suppress(&tx, owner, license.product_id).await?;
    }
    tx.commit().await?;
    Ok(license)
}
