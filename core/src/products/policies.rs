//! The versions of a product's policy, and the terms of single licenses.

use std::collections::BTreeSet;

use sea_orm::sea_query::{Expr, ExprTrait};
use sea_orm::{ColumnTrait, EntityTrait, IntoActiveModel, QueryFilter, QuerySelect};
use serde_json::json;
use uuid::Builder;

use crate::caller::{Access, Caller, no_product};
use crate::crypto::sha256;
use crate::db::{self, Reader};
use crate::entity::{policy, policy::Model as Policy, product, product::Model as Product};
use crate::events::{EventData, NewEvent};
use crate::ids::{PolicyId, ProductId};
use crate::page::{self, Page, PageRequest};
use crate::policy::{PolicyPatch, PolicyTerms};
use crate::{Code, Core, Error, Result, precondition::IfMatch, tx::Tx};

/// A product with its current policy, after a change.
#[derive(Clone, Debug, PartialEq)]
pub struct Changed {
    /// The product.
    pub product: Product,
    /// Its current policy.
    pub policy: Policy,
    /// Whether the change made a difference.
    pub is_new: bool,
}

/// Adds a version of a product's policy, for new licenses only, unless the terms stay the same. Refused with
/// `NOT_FOUND`, `ACCESS_DENIED`, `PRECONDITION_FAILED`; `VALIDATION_ERROR` for invalid terms.
pub async fn change_policy(
    core: &Core,
    caller: &Caller,
    product: ProductId,
    patch: &PolicyPatch,
    if_match: &IfMatch,
) -> Result<Changed> {
    let mut tx = Tx::begin(core).await?;
    let product = lock(&tx, caller, product).await?;
    if_match.check(product.rev)?;
    let changed = add_version(&mut tx, caller, product, patch).await?;
    tx.commit().await?;
    Ok(changed)
}

/// Locks a product that the caller manages. Refused with `NOT_FOUND`, `ACCESS_DENIED`.
pub(super) async fn lock(tx: &Tx, caller: &Caller, id: ProductId) -> Result<Product> {
    let row = product::Entity::find_by_id(id).lock_exclusive().one(tx.db()).await?;
    let product = row.ok_or_else(|| no_product(id))?;
    caller.require_product(Access::Manage, product.tenant_id, id)?;
    Ok(product)
}

/// Adds a version of a locked product's policy, unless the terms stay the same.
pub(super) async fn add_version(
    tx: &mut Tx,
    caller: &Caller,
    mut product: Product,
    patch: &PolicyPatch,
) -> Result<Changed> {
    let current = current_of(tx, &product).await?;
    let terms = current.terms.patched(patch)?;
    if terms == current.terms {
        return Ok(Changed { product, policy: current, is_new: false });
    }
    product.policy_id = PolicyId(tx.core().ids.v7(tx.now()));
    product.rev += 1;
    let version = current.version.unwrap_or_default() + 1;
    let policy = insert_version(tx, &product, version, terms).await?;
    let values = [(product::Column::PolicyId, product.policy_id.into()), (product::Column::Rev, product.rev.into())];
    db::update(values, [product::Column::Id.eq(product.id)]).exec(tx.db()).await?;
    let data = EventData::PolicyChanged { product_id: product.id, version };
    tx.record(NewEvent::tenant(product.tenant_id, caller.actor(), data));
    Ok(Changed { product, policy, is_new: true })
}

/// Inserts the policy that the product names as its current one.
pub(super) async fn insert_version(tx: &Tx, product: &Product, version: i32, terms: PolicyTerms) -> Result<Policy> {
    let (id, product_id) = (product.policy_id, product.id);
    let row = Policy { id, product_id, version: Some(version), terms, created_at: tx.now() };
    policy::Entity::insert(row.clone().into_active_model()).exec_without_returning(tx.db()).await?;
    Ok(row)
}

/// The policy of a license with these changes: the current version if they make no difference, or else terms without a
/// version.
pub(crate) async fn terms_for(tx: &Tx, product: &Product, patch: &PolicyPatch) -> Result<Policy> {
    let current = current_of(tx, product).await?;
    let terms = current.terms.patched(patch)?;
    if terms == current.terms { Ok(current) } else { pin_terms(tx, product.id, terms).await }
}

/// The row of terms without a version. Its id follows from them, so that licenses with equal terms share a row.
pub(crate) async fn pin_terms(tx: &Tx, product_id: ProductId, terms: PolicyTerms) -> Result<Policy> {
    let digest = sha256(json!({ "product": product_id, "terms": terms }).to_string().as_bytes());
    let bytes = digest.first_chunk().copied().unwrap_or_default();
    let id = PolicyId(Builder::from_custom_bytes(bytes).into_uuid());
    let row = Policy { id, product_id, version: None, terms, created_at: tx.now() };
    db::insert_if_new(tx.db(), row.into_active_model()).await?;
    find_policy(tx, id).await?.ok_or_else(|| Error::Internal(format!("policy {id} is missing")))
}

async fn find_policy(from: &impl Reader, id: PolicyId) -> Result<Option<Policy>> {
    Ok(policy::Entity::find_by_id(id).one(from.connection()).await?)
}

/// The terms of new licenses.
pub(super) async fn current_of(from: &impl Reader, product: &Product) -> Result<Policy> {
    let policy = find_policy(from, product.policy_id).await?;
    policy.ok_or_else(|| Error::Internal(format!("product {} has no policy", product.id)))
}

/// These products, each with its current policy and once more with each of the policies that licenses have.
pub(crate) async fn list_with_policies(
    tx: &Tx,
    products: &BTreeSet<ProductId>,
    pinned: &BTreeSet<PolicyId>,
) -> Result<Vec<(Product, Policy)>> {
    let of = |column| Expr::col((policy::Entity, column));
    let current = Expr::col((product::Entity, product::Column::PolicyId));
    let mut both = product::Entity::find().select_also(policy::Entity);
    QuerySelect::query(&mut both).from(policy::Entity);
    let both = both
        .filter(product::Column::Id.is_in(products.iter().copied()))
        .filter(of(policy::Column::ProductId).eq(Expr::col((product::Entity, product::Column::Id))))
        .filter(of(policy::Column::Id).eq(current).or(of(policy::Column::Id).is_in(pinned.iter().map(|id| id.0))));
    let rows = both.all(tx.db()).await?;
    Ok(rows.into_iter().filter_map(|(product, policy)| Some((product, policy?))).collect())
}

/// A product with a version of its policy; without one, the current version.
pub(crate) async fn get_with_policy(
    from: &impl Reader,
    id: ProductId,
    version: Option<PolicyId>,
) -> Result<(Product, Policy)> {
    let missing = || Error::Internal(format!("product {id} has no policy"));
    let current = || Expr::col((product::Entity, product::Column::PolicyId));
    let version = version.map_or_else(current, |version| Expr::val(version.0));
    let mut both = product::Entity::find_by_id(id).select_also(policy::Entity);
    QuerySelect::query(&mut both).from(policy::Entity);
    let both = both.filter(Expr::col((policy::Entity, policy::Column::Id)).eq(version));
    let (product, policy) = both.one(from.connection()).await?.ok_or_else(missing)?;
    Ok((product, policy.ok_or_else(missing)?))
}

/// A product that the caller may read, with its current policy. Refused with `NOT_FOUND`, `REQUIRES_2FA`.
pub async fn read(core: &Core, caller: &Caller, id: ProductId) -> Result<(Product, Policy)> {
    let row = product::Entity::find_by_id(id).one(core.db.read()).await?;
    let product = row.ok_or_else(|| no_product(id))?;
    caller.require_product(Access::Read, product.tenant_id, id)?;
    let policy = current_of(core, &product).await?;
    Ok((product, policy))
}

/// A policy of a product that the caller may read. Refused with `NOT_FOUND`, `REQUIRES_2FA`.
pub async fn policy(core: &Core, caller: &Caller, id: PolicyId) -> Result<Policy> {
    let missing = || Code::NotFound.refusal();
    let policy = find_policy(core, id).await?.ok_or_else(missing)?;
    let product = product::Entity::find_by_id(policy.product_id).one(core.db.read()).await?.ok_or_else(missing)?;
    // A product that the caller may not read is not named.
    caller.require_product(Access::Read, product.tenant_id, product.id).map_err(|error| match error.code() {
        Code::NotFound => missing(),
        _ => error,
    })?;
    Ok(policy)
}

/// The versions of a product's policy, newest first. Refused with `NOT_FOUND`, `REQUIRES_2FA`, `INVALID_CURSOR`.
pub async fn versions(core: &Core, caller: &Caller, product: ProductId, request: &PageRequest) -> Result<Page<Policy>> {
    let product = read(core, caller, product).await?.0.id;
    let own = policy::Entity::find().filter(policy::Column::ProductId.eq(product));
    let versions = own.filter(policy::Column::Version.is_not_null());
    page::newest_first(core, versions, policy::Column::Id, &("policies", product), request).await
}
