//! Merges what two users hold when they turn out to be one person.

use super::decide::{SourceState, ends_at, merge};
use super::{Entitlement, store};
use crate::{Caller, Result, ids::UserId, licenses, tx::Tx, users};

/// Moves sources and licenses of `from`, who is going to be deleted, to `into`. Of two licenses for one product the one
/// in use is kept, or else that of `into`; the other one is revoked.
pub(crate) async fn merge_users(tx: &mut Tx, caller: &Caller, from: UserId, into: UserId) -> Result<()> {
    merge_now(tx, caller, from, into).await?;
    // A transaction that began before the lock may have added something. Afterwards nothing can be added.
    users::lock_for_deletion(tx, from).await?;
    merge_now(tx, caller, from, into).await
}

async fn merge_now(tx: &mut Tx, caller: &Caller, from: UserId, into: UserId) -> Result<()> {
    for tenant in users::holder_tenants(tx, from).await? {
        users::lock_holder(tx, tenant, from.min(into)).await?;
        users::lock_holder(tx, tenant, from.max(into)).await?;
    }
    let kept = store::list_of(tx, &[into]).await?;
    for source in store::list_of(tx, &[from]).await? {
        let same = kept.iter().find(|kept| kept.product_id == source.product_id && kept.reference == source.reference);
        match same {
            None => store::set_user(tx, source.id, into).await?,
            Some(kept) => {
                let mut merged = kept.clone();
                merged.set(merge(SourceState::of(kept), SourceState::of(&source), tx.now()));
                store::update(tx, &merged).await?;
                store::delete(tx, source.id).await?;
            }
        }
    }
    licenses::merge_users(tx, caller, from, into).await?;
    for source in store::list_of(tx, &[into]).await? {
        let merged = Entitlement::load(tx, source.tenant_id, into, source.product_id).await?;
        if let Some(license) = &merged.license {
            licenses::set_sources_end(tx, license, &merged.policy.terms, ends_at(&merged.states())).await?;
        }
    }
    users::delete_holders(tx, from).await
}
