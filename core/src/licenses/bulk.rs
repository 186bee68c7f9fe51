//! Many licenses in one transaction: all of them change, or none.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use sea_orm::{ColumnTrait, Condition};
use serde_json::{Map, Value};

use super::actions::{self, Action, NewLicenses, apply, issue_all, record};
use super::facts::LicenseFacts;
use super::list::LicenseFilter;
use super::manage::{MAX_NAME, checked_reason, later_date, send_key};
use super::metadata::check_metadata;
use super::{state::Command, store};
use crate::entity::license::{Column, Model as License};
use crate::events::EventData;
use crate::ids::{LicenseId, ProductId, TenantId, UserId};
use crate::policy::PolicyPatch;
use crate::products;
use crate::string_enum::string_enum;
use crate::users::{self, Recipient};
use crate::{Access, Caller, Core, Reason, Result, entitlements, plain_text, tx::Tx};

/// The most licenses of one call.
pub const MAX_BULK: usize = 1_000;

/// Whether a call is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Run {
    /// It is.
    Real,
    /// It is checked, and what it would do is reported.
    Dry,
}

/// What licenses to generate.
#[derive(Clone, Debug)]
pub struct LicenseBatch {
    /// Of which product.
    pub product: ProductId,
    /// How many, at most [`MAX_BULK`].
    pub count: usize,
    /// Who gets it; only one license can be assigned at once.
    pub owner: Option<UserId>,
    /// What differs from the current policy of the product.
    pub policy: PolicyPatch,
    /// When they expire, whatever the policy says.
    pub expires_at: Option<DateTime<Utc>>,
    /// A name for all of them.
    pub name: Option<String>,
    /// Metadata for all of them.
    pub metadata: Map<String, Value>,
}

impl LicenseBatch {
    /// One license that is not assigned to anyone, under the current policy of the product.
    pub fn one_of(product: ProductId) -> Self {
        let (policy, metadata) = (PolicyPatch::default(), Map::new());
        Self { product, count: 1, owner: None, policy, expires_at: None, name: None, metadata }
    }
}

/// Generates licenses; none in a dry run. Refused with `NOT_FOUND`, `ACCESS_DENIED`, `VALIDATION_ERROR`; `CONFLICT` if the
/// owner has a license for the product.
pub async fn generate_all(core: &Core, caller: &Caller, wanted: LicenseBatch, run: Run) -> Result<Vec<LicenseFacts>> {
    if !(1..=MAX_BULK).contains(&wanted.count) {
        return Err(Reason::CountOutOfRange { field: "count", max: MAX_BULK }.refusal());
    }
    if wanted.owner.is_some() && wanted.count > 1 {
        return Err(Reason::SeveralForOneUser.refusal());
    }
    let name = wanted.name.map(|name| plain_text::line("name", &name, MAX_NAME)).transpose()?;
    let metadata = Value::Object(wanted.metadata);
    check_metadata(&metadata)?;
    let now = core.clock.now();
    let expires_at = wanted.expires_at.map(|at| later_date("expiresAt", at, now)).transpose()?;
    let (product, _) = products::read(core, caller, wanted.product).await?;
    caller.require_product(Access::Manage, product.tenant_id, product.id)?;
    let owner = match wanted.owner {
        Some(owner) => Some(users::resolve(core, Recipient::User(owner)).await?),
        None => None,
    };
    let mut tx = Tx::begin(core).await?;
    if let Some(owner) = owner {
        users::lock_holder(&tx, product.tenant_id, owner).await?;
    }
    let policy = products::terms_for(&tx, &product, &wanted.policy).await?;
    let new = NewLicenses {
        product: &product,
        policy: &policy,
        owner: None,
        name: name.as_deref(),
        metadata: &metadata,
        expires_at,
        count: wanted.count,
    };
    let mut licenses = issue_all(&mut tx, caller, new).await?;
    if let (Some(owner), Some(license)) = (owner, licenses.first_mut()) {
        entitlements::assign(&mut tx, license, &policy.terms, owner).await?;
        *license = apply(&mut tx, caller, license, &policy.terms, Action::Assign { to: owner }).await?;
        send_key(&mut tx, license).await?;
    }
    if run == Run::Dry {
        // Everything was checked; the transaction is rolled back.
        return Ok(Vec::new());
    }
    tx.commit().await?;
    let terms = Arc::new(policy.terms);
    let facts =
        |license| LicenseFacts { license: Arc::new(license), terms: terms.clone(), devices_used: 0, sessions_used: 0 };
    Ok(licenses.into_iter().map(facts).collect())
}

/// Which licenses to revoke.
#[derive(Clone, Debug)]
pub enum LicenseSelection {
    /// These.
    Ids(Vec<LicenseId>),
    /// Those of a product that match and are not revoked.
    Matching(ProductId, LicenseFilter),
}

string_enum! {
    /// What a revocation did to a license.
    Revocation {
        /// It revoked it, or would in a dry run.
        Revoked => "revoked",
        /// It was revoked already.
        Unchanged => "unchanged",
    }
}

/// Revokes licenses. Refused with `NOT_FOUND` if the caller may not know of one of them, `ACCESS_DENIED`; `CONFLICT` if too
/// many match.
pub async fn revoke_all(
    core: &Core,
    caller: &Caller,
    selection: &LicenseSelection,
    reason: &str,
    run: Run,
) -> Result<Vec<(LicenseId, Revocation)>> {
    let reason = checked_reason(reason)?;
    let matching = match selection {
        LicenseSelection::Ids(ids) if ids.is_empty() || ids.len() > MAX_BULK => {
            return Err(Reason::CountOutOfRange { field: "ids", max: MAX_BULK }.refusal());
        }
        LicenseSelection::Ids(ids) => Condition::all().add(Column::Id.is_in(ids.iter().copied())),
        LicenseSelection::Matching(product, filter) => {
            let (product, _) = products::read(core, caller, *product).await?;
            caller.require_product(Access::Moderate, product.tenant_id, product.id)?;
            let of_product = Condition::all().add(Column::ProductId.eq(product.id));
            of_product.add(Column::RevokedAt.is_null()).add(filter.condition(core.clock.now()))
        }
    };
    let known = store::list_matching(core, matching, MAX_BULK as u64 + 1).await?;
    if known.len() > MAX_BULK {
        return Err(Reason::TooManyMatch { max: MAX_BULK }.refusal());
    }
    require_all(caller, selection, &known)?;
    let mut tx = Tx::begin(core).await?;
    let mut holders: BTreeMap<TenantId, Vec<UserId>> = BTreeMap::new();
    for license in &known {
        holders.entry(license.tenant_id).or_default().extend(license.user_id);
    }
    for (tenant, users) in holders.into_iter().filter(|(_, users)| !users.is_empty()) {
        users::lock_holders(&tx, tenant, users).await?;
    }
    let ids: Vec<LicenseId> = known.iter().map(|license| license.id).collect();
    let licenses = store::lock_all(&tx, &ids).await?;
    // One that changed hands meanwhile has a holder who is not locked.
    let owners = |licenses: &[License]| licenses.iter().map(|row| (row.id, row.user_id)).collect::<BTreeMap<_, _>>();
    if owners(&licenses) != owners(&known) {
        return Err(Reason::ChangedMeanwhile.refusal());
    }
    let outcome = |license: &License| match license.allow(Command::Revoke, tx.now()) {
        Ok(_) => Revocation::Revoked,
        Err(_) => Revocation::Unchanged,
    };
    let results: Vec<_> = licenses.iter().map(|license| (license.id, outcome(license))).collect();
    if run == Run::Real {
        let revoked = licenses.into_iter().filter(|license| outcome(license) == Revocation::Revoked).collect();
        set_revoked(&mut tx, caller, revoked, &reason).await?;
        tx.commit_and_propagate(caller).await?;
    }
    Ok(results)
}

fn require_all(caller: &Caller, selection: &LicenseSelection, known: &[License]) -> Result<()> {
    if let LicenseSelection::Ids(ids) = selection {
        let wanted: BTreeSet<&LicenseId> = ids.iter().collect();
        if wanted.len() != known.len() {
            return Err(Reason::NoLicense.refusal());
        }
    }
    // One that the caller may not know of comes before one that they may not change.
    known.iter().try_for_each(|license| caller.require(Access::Read, license))?;
    known.iter().try_for_each(|license| caller.require(Access::Moderate, license))
}

/// Revokes locked licenses, with one statement for all of them.
async fn set_revoked(tx: &mut Tx, caller: &Caller, licenses: Vec<License>, reason: &str) -> Result<()> {
    let now = tx.now();
    let ids: Vec<LicenseId> = licenses.iter().map(|license| license.id).collect();
    store::revoke_all(tx, &ids, reason).await?;
    let mut owners: BTreeMap<ProductId, Vec<UserId>> = BTreeMap::new();
    for license in &licenses {
        owners.entry(license.product_id).or_default().extend(license.user_id);
    }
    for (product, users) in owners {
        entitlements::suppress(tx, &users, product).await?;
    }
    let bulk = actions::bulk(licenses.len());
    for license in licenses {
        let from = license.state(now);
        let revoked = License { revoked_at: Some(now), ..license };
        let (state, reason) = (revoked.state(now), reason.to_owned());
        record(tx, caller, &revoked, EventData::LicenseRevoked { from, state, reason, bulk });
    }
    Ok(())
}
