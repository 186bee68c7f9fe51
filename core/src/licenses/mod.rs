//! Licenses: issue, change, show and validate.
//!
//! ```text
//! entitlements -> issue, apply(Revoke | Suspend | Resume) -> row + event (+ delivery)
//! callers -> change (lock -> access -> revision -> state) -> apply(Action) -> row + event (+ delivery)
//! validate: facts (memory | query) -> judge (pure) -> sign -> still true? -> answer; behind it, the first VALID and the last use
//! expire, end of grace: every read computes the state from the clock; workers only record the events
//! ```
//! Invariants: at most one unrevoked license per user and product; a revoked license stays revoked; the
//! key is stored as an HMAC for lookup and encrypted for display, never in plain text.

use chrono::{DateTime, Utc};
use sea_orm::ColumnTrait;

use crate::crypto::{license_key::LicenseKey, seal::Purpose};
use crate::events::EventData;
use crate::ids::{LicenseId, ProductId, UserId};
use crate::policy::{LicenseType, PolicyTerms};
use crate::products;
use crate::{Caller, Core, Reason, Result, Scope, entity::license::Column, tx::Tx};

mod actions;
mod bulk;
mod device_store;
mod devices;
pub(crate) mod facts;
mod files;
mod key_message;
mod leases;
mod list;
mod load;
mod manage;
mod metadata;
mod offline_request;
mod prove;
mod question;
mod recognition;
mod requested;
mod resets;
mod seen;
mod state;
mod store;
mod test_keys;
mod usage;
mod validate;
mod verdict;
mod verdict_code;

pub(crate) use self::actions::{Action, apply, issue, record};
pub use self::bulk::{LicenseBatch, LicenseSelection, MAX_BULK, Revocation, Run, generate_all, revoke_all};
pub use self::devices::list as list_devices;
pub use self::devices::{Activation, Deactivation, FullLicense, NewDevice, activate, deactivate, deactivate_by_owner};
pub use self::facts::{Device, DeviceMatching, Facts, Lease, LicenseFacts};
pub use self::files::{FileRequest, LicenseFile, checkout};
pub use self::key_message::{KeyMessage, for_delivery};
pub(crate) use self::leases::delete_expired as delete_expired_leases;
pub use self::leases::{Beat, end as end_lease, heartbeat};
pub use self::list::{LicenseFilter, LicenseOrder, LicenseSearch, SortOrder, list, search};
pub use self::load::load_license_facts;
pub use self::manage::{Change, NameChange, OwnTerms, Renewal, change, change_all, redeem, revoke};
pub use self::manage::{revoke_member_license, show};
pub use self::offline_request::activate_offline;
pub use self::prove::{ProofContext, prove};
pub use self::question::{Question, Version};
pub use self::requested::Requested;
pub use self::resets::{NextReset, reset as reset_devices};
pub use self::seen::store_pending;
pub use self::state::{Command, LicenseState, NotAllowed};
pub use self::store::list_of;
pub(crate) use self::store::{find, list_sources_ended, lock_all_unrevoked_of, next_sources_end, set_sources_end};
pub use self::test_keys::test_keys;
pub use self::usage::Usage;
pub use self::validate::{Answer, count_usage, validate};
pub use self::verdict::{Verdict, judge};
pub use self::verdict_code::{VerdictCode, Warning};
pub use crate::entity::license::Model as License;

/// Why a license was revoked or suspended after its last source.
pub(crate) const ENTITLEMENT_LOST: &str = "entitlement_lost";

/// Why one of two licenses for a product was revoked when their owners' accounts were merged.
const ACCOUNTS_MERGED: &str = "accounts_merged";

/// Moves the licenses of a user to another one. Of two unrevoked licenses for one product the one in use is kept,
/// or else that of `into`; the other one is revoked. The caller has locked both holders.
pub(crate) async fn merge_users(tx: &mut Tx, caller: &Caller, from: UserId, into: UserId) -> Result<()> {
    let kept = store::lock_all_unrevoked(tx, into).await?;
    for license in store::lock_all_unrevoked(tx, from).await? {
        if let Some(other) = kept.iter().find(|kept| kept.product_id == license.product_id) {
            let is_in_use = license.first_valid_at.is_some() && other.first_valid_at.is_none();
            let ended = if is_in_use { other.clone() } else { License { user_id: Some(into), ..license } };
            let (_, policy) = products::get_with_policy(tx, ended.product_id, Some(ended.policy_id)).await?;
            apply(tx, caller, &ended, &policy.terms, Action::Revoke { reason: ACCOUNTS_MERGED }).await?;
        }
    }
    for license in store::set_user(tx, from, into).await? {
        record(tx, caller, &license, EventData::LicenseChanged { fields: vec!["owner"] });
    }
    Ok(())
}

/// Whether the terms are those of a trial, and the user has had one of the product: there is one for each user. The caller
/// has locked the holder.
pub(crate) async fn has_had_trial(tx: &Tx, user: UserId, product: ProductId, terms: &PolicyTerms) -> Result<bool> {
    Ok(terms.license_type == LicenseType::Trial && store::has_had_trial(tx, user, product).await?)
}

/// Refused with `CONFLICT` if this would be another trial.
pub(crate) async fn require_first_trial(tx: &Tx, user: UserId, product: ProductId, terms: &PolicyTerms) -> Result<()> {
    if has_had_trial(tx, user, product, terms).await? { Err(Reason::TrialUsed.refusal()) } else { Ok(()) }
}

/// Decrypts a license's key, to show it to its holder. Fails if the ciphertext cannot be decrypted.
pub fn reveal_key(core: &Core, license: &License) -> Result<String> {
    core.keys().unseal(Purpose::LicenseSeal, license.id.0, &license.key_sealed)
}

/// A license as shown to its holder.
#[derive(Clone, PartialEq, Eq)]
pub struct MemberLicense {
    /// The product's name.
    pub product: String,
    /// The license.
    pub id: LicenseId,
    /// How many keys it has had.
    pub key_epoch: i32,
    /// The key in plain text; only for the holder.
    pub key: String,
    /// Its state.
    pub state: LicenseState,
    /// When it expires, if it does.
    pub expires_at: Option<DateTime<Utc>>,
    /// When its grace ends, if nothing entitles the member any more.
    pub ends_at: Option<DateTime<Utc>>,
}

/// A license that ended, as shown to the member who had it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedLicense {
    /// The product's name.
    pub product: String,
    /// When it ended.
    pub at: DateTime<Utc>,
    /// Whether an admin revoked it; otherwise, nothing entitled the member any more.
    pub by_admin: bool,
}

fn member_license(core: &Core, license: &License, product: &str) -> Result<MemberLicense> {
    Ok(MemberLicense {
        product: product.to_owned(),
        id: license.id,
        key_epoch: license.key_epoch,
        key: reveal_key(core, license)?,
        state: license.state(core.clock.now()),
        expires_at: license.expires_at,
        ends_at: license.sources_end_at,
    })
}

/// A user's licenses with a tenant that are not revoked.
pub async fn list_usable(core: &Core, scope: &Scope, user: UserId) -> Result<Vec<MemberLicense>> {
    let products = products::names(core, scope).await?;
    let licenses = store::list_of(core, scope, user).await?;
    let name = |id| products.get(&id).map_or("", String::as_str);
    let now = core.clock.now();
    let unrevoked = licenses.iter().filter(|license| license.state(now) != LicenseState::Revoked);
    unrevoked.map(|license| member_license(core, license, name(license.product_id))).collect()
}

/// The license of each product that a user had last with a tenant, if it has ended.
pub async fn list_ended(core: &Core, scope: &Scope, user: UserId) -> Result<Vec<EndedLicense>> {
    let (now, licenses) = (core.clock.now(), store::list_of(core, scope, user).await?);
    let mut ended = Vec::new();
    for product in products::list_all(core, scope).await? {
        let of_product = licenses.iter().filter(|license| license.product_id == product.id);
        // `None` if one of them has not ended.
        let all: Option<Vec<_>> = of_product.map(|license| Some((license.ended_at(now)?, license))).collect();
        let Some((at, last)) = all.into_iter().flatten().max_by_key(|(at, _)| *at) else { continue };
        let by_admin = last.revoke_reason.as_deref().is_some_and(|reason| reason != ENTITLEMENT_LOST);
        ended.push(EndedLicense { product: product.name, at, by_admin });
    }
    Ok(ended)
}

/// Records that the holder of a license does not accept messages, so that they do not have its key.
pub async fn record_undelivered_key(core: &Core, id: LicenseId) -> Result<()> {
    let mut tx = Tx::begin(core).await?;
    let license = store::lock(&tx, id).await?;
    record(&mut tx, &Caller::System(Scope::of(license.tenant_id)), &license, EventData::KeyUndelivered {});
    tx.commit().await
}

/// Finds a license of a tenant by id or key. Refused with `NOT_FOUND`, or `MALFORMED_KEY` if the text is neither an id
/// nor a key.
pub async fn inspect(core: &Core, scope: &Scope, id_or_key: &str) -> Result<(License, LicenseState)> {
    let license = if let Ok(id) = id_or_key.parse() {
        store::get(core, scope, LicenseId(id)).await?
    } else {
        let key = LicenseKey::parse(id_or_key, &[]);
        let key = key.map_err(|malformed| Reason::NeitherIdNorKey { malformed }.refusal())?;
        let lookups = core.keys().macs(Purpose::LicenseLookup, &key.canonical());
        let found = store::find_in_scope(core, scope, Column::KeyLookup.is_in(lookups)).await?;
        found.ok_or_else(|| Reason::NoLicense.refusal())?
    };
    let state = license.state(core.clock.now());
    Ok((license, state))
}

/// Records an event for each expired license, exactly once. Returns how many.
pub async fn announce_expired(core: &Core) -> Result<u64> {
    const BATCH: u64 = 100;
    let mut announced = 0;
    loop {
        let batch = store::list_unannounced(core, core.clock.now(), BATCH).await?;
        for &id in &batch {
            announced += u64::from(announce(core, id).await?);
        }
        if (batch.len() as u64) < BATCH {
            return Ok(announced);
        }
    }
}

async fn announce(core: &Core, id: LicenseId) -> Result<bool> {
    let mut tx = Tx::begin(core).await?;
    let license = store::lock(&tx, id).await?;
    // It may have been renewed or revoked since it was listed.
    if license.lapse_seen_at.is_some() || license.state(tx.now()) != LicenseState::Expired {
        return Ok(false);
    }
    store::update(&tx, id, [(Column::LapseSeenAt, tx.now().into())]).await?;
    let system = Caller::System(Scope::of(license.tenant_id));
    record(
        &mut tx,
        &system,
        &license,
        EventData::LicenseExpired { state: LicenseState::Expired, expires_at: license.expires_at },
    );
    tx.commit().await?;
    Ok(true)
}
