//! The end of a ban: its user gets the licenses that their sources entitle them to.

use std::collections::BTreeSet;

use super::{decide_again, store};
use crate::ids::{BanId, ProductId};
use crate::{Caller, Core, Result, bans, products, tx::Tx};

/// Lifts a ban. A user whose sources entitle them to a license gets one at once. Without effect if it was lifted before.
/// Refused with `NOT_FOUND`, `ACCESS_DENIED`, `REQUIRES_2FA`.
pub async fn lift_ban(core: &Core, caller: &Caller, id: BanId) -> Result<()> {
    let mut tx = Tx::begin(core).await?;
    let lifted = bans::lift(&mut tx, caller, id).await?;
    if let Some((ban, user)) = lifted.and_then(|ban| ban.user_id.map(|user| (ban, user))) {
        let sources = store::list_of(&tx, &[user]).await?;
        let own = sources.iter().filter(|source| source.tenant_id == ban.tenant_id);
        let ids: BTreeSet<ProductId> = own.map(|source| source.product_id).collect();
        for product in ids {
            let (product, _) = products::get_with_policy(&tx, product, None).await?;
            decide_again(&mut tx, caller, user, &product).await?;
        }
    }
    tx.commit().await
}
