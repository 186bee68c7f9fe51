//! Products and their policies. Policies are versioned; a license keeps the version it was issued under.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use sea_orm::{ColumnTrait, EntityTrait, IntoActiveModel, QueryFilter, QueryOrder, QuerySelect, Select};

use crate::entity::{policy, product};
use crate::ids::{PolicyId, ProductId};
use crate::{Caller, Core, Error, Reason, Result, Scope, crypto::license_key, db, db::Reader, plain_text, tx::Tx};

pub use crate::entity::{policy::Model as Policy, product::Model as Product};

/// Changes to a product's policy, for new licenses only. `None` keeps the current value, or uses the
/// default for a new product.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyChanges {
    /// How long a license is valid after its assignment. Zero, the default, means forever.
    pub duration: Option<Duration>,
    /// How long a license outlives its last source. Zero revokes it at once. The default is one day:
    /// a revoked license never comes back, so a role removed by mistake should not end it.
    pub source_grace: Option<Duration>,
}

const DEFAULT_GRACE_S: i64 = 24 * 3_600;

/// Creates a product, or changes the policy of the product with this name, whatever its case. A prefix never changes. Refused with
/// `VALIDATION_ERROR` for an invalid name or prefix; `CONFLICT` if another product uses the prefix, or this product has
/// a different one.
pub async fn create_or_update(
    core: &Core,
    caller: &Caller,
    name: &str,
    prefix: Option<&str>,
    changes: &PolicyChanges,
) -> Result<Product> {
    let name = name.trim();
    if plain_text::is_blank(name) || name.chars().count() > 80 || plain_text::forbidden(name).is_some() {
        return Err(Reason::InvalidProductName.refusal());
    }
    let tx = Tx::begin(core).await?;
    let product = match find_by_name(&tx, &caller.scope(), name).await? {
        Some(known) if prefix.is_some_and(|p| !p.eq_ignore_ascii_case(&known.prefix)) => {
            return Err(Reason::PrefixIsFixed { product: known.name, prefix: known.prefix }.refusal());
        }
        Some(known) => known,
        None => insert(&tx, &caller.scope(), name, prefix).await?,
    };
    set_policy(&tx, product.id, changes).await?;
    tx.commit().await?;
    Ok(product)
}

/// Inserts a product. Without a given prefix, it gets a free one that resembles its name.
async fn insert(tx: &Tx, scope: &Scope, name: &str, given: Option<&str>) -> Result<Product> {
    let mut prefix = given.map_or_else(|| suggest_prefix(name), |given| given.trim().to_ascii_uppercase());
    if !license_key::is_prefix(&prefix) {
        return Err(Reason::InvalidPrefix.refusal());
    }
    loop {
        let product = Product {
            id: ProductId(tx.core().ids.v7(tx.now())),
            tenant_id: scope.tenant(),
            name: name.to_owned(),
            folded_name: name.to_lowercase(),
            folded_prefix: license_key::fold_prefix(&prefix),
            prefix: prefix.clone(),
            created_at: tx.now(),
        };
        db::insert_if_new(tx.db(), product.into_active_model()).await?;
        // Found by name, since a concurrent call may have created it.
        if let Some(product) = find_by_name(tx, scope, name).await? {
            return Ok(product);
        }
        let free = free_prefix(tx, scope, &prefix).await?;
        if given.is_some() {
            return Err(Reason::PrefixTaken { prefix, free }.refusal());
        }
        prefix = free;
    }
}

/// A prefix that no product of the tenant has: this one with a number, "GOLD" → `GOLD2`.
async fn free_prefix(tx: &Tx, scope: &Scope, prefix: &str) -> Result<String> {
    let taken: HashSet<String> = of_tenant(scope).all(tx.db()).await?.into_iter().map(|p| p.folded_prefix).collect();
    let numbered = (2..).map(|n: u32| format!("{}{n}", &prefix[..prefix.len().min(8 - n.to_string().len())]));
    let free = numbered.into_iter().find(|prefix| !taken.contains(&license_key::fold_prefix(prefix)));
    free.ok_or_else(|| Error::Internal("no prefix is free".to_owned()))
}

/// The first eight letters and digits of a name: "Gold Tools" → `GOLDTOOL`.
fn suggest_prefix(name: &str) -> String {
    let plain: String = name.chars().filter(char::is_ascii_alphanumeric).take(8).collect();
    if plain.len() < 2 { "KEY".to_owned() } else { plain.to_ascii_uppercase() }
}

async fn set_policy(tx: &Tx, product: ProductId, changes: &PolicyChanges) -> Result<()> {
    // The lock orders concurrent policy changes.
    product::Entity::find_by_id(product).lock_exclusive().one(tx.db()).await?;
    let newest = newest_policy(tx, product).await?;
    let seconds = |d: Duration| i64::try_from(d.as_secs()).unwrap_or(i64::MAX);
    let duration_s = match changes.duration {
        Some(given) => Some(seconds(given)).filter(|s| *s > 0),
        None => newest.as_ref().and_then(|p| p.duration_s),
    };
    let current_grace_s = newest.as_ref().map_or(DEFAULT_GRACE_S, |p| p.source_grace_s);
    let source_grace_s = changes.source_grace.map_or(current_grace_s, seconds);
    if newest.as_ref().is_some_and(|p| p.duration_s == duration_s && p.source_grace_s == source_grace_s) {
        return Ok(());
    }
    let (id, version) = (PolicyId(tx.core().ids.v7(tx.now())), newest.map_or(1, |p| p.version + 1));
    let row = Policy { id, product_id: product, version, duration_s, source_grace_s, created_at: tx.now() };
    policy::Entity::insert(row.into_active_model()).exec_without_returning(tx.db()).await?;
    Ok(())
}

async fn newest_policy(from: &impl Reader, product: ProductId) -> Result<Option<Policy>> {
    let of_product = policy::Entity::find().filter(policy::Column::ProductId.eq(product));
    Ok(of_product.order_by_desc(policy::Column::Version).one(from.connection()).await?)
}

/// The terms of new licenses.
pub async fn current_policy(core: &Core, product: &Product) -> Result<Policy> {
    let policy = newest_policy(core, product.id).await?;
    policy.ok_or_else(|| Error::Internal(format!("product {} has no policy", product.id)))
}

/// A product with a version of its policy; without one, the current version.
pub(crate) async fn get_with_policy(tx: &Tx, id: ProductId, version: Option<PolicyId>) -> Result<(Product, Policy)> {
    let product = product::Entity::find_by_id(id).one(tx.db()).await?;
    let policy = match version {
        Some(version) => policy::Entity::find_by_id(version).one(tx.db()).await?,
        None => newest_policy(tx, id).await?,
    };
    product.zip(policy).ok_or_else(|| Error::Internal(format!("product {id} has no policy")))
}

fn of_tenant(scope: &Scope) -> Select<product::Entity> {
    product::Entity::find().filter(product::Column::TenantId.eq(scope.tenant()))
}

async fn find_by_name(tx: &Tx, scope: &Scope, name: &str) -> Result<Option<Product>> {
    Ok(of_tenant(scope).filter(product::Column::FoldedName.eq(name.to_lowercase())).one(tx.db()).await?)
}

/// A product by name or id. Refused with `NOT_FOUND`, listing the existing products.
pub async fn get(core: &Core, scope: &Scope, name_or_id: &str) -> Result<Product> {
    let all = list(core, scope).await?;
    let wanted = name_or_id.trim();
    let found = all.iter().find(|p| p.folded_name == wanted.to_lowercase() || p.id.to_string() == wanted);
    found.cloned().ok_or_else(|| {
        let known = all.iter().take(10).map(|p| p.name.clone()).collect();
        let wanted = wanted.chars().take(80).collect();
        Reason::NoProduct { wanted, known, total: all.len() }.refusal()
    })
}

/// The product of a license.
pub(crate) async fn find(core: &Core, id: ProductId) -> Result<Product> {
    let row = product::Entity::find_by_id(id).one(core.db.read()).await?;
    row.ok_or_else(|| Error::Internal(format!("product {id} is missing")))
}

/// A product of any tenant, if there is one; for the operator.
pub async fn first(core: &Core) -> Result<Option<Product>> {
    Ok(product::Entity::find().order_by_asc(product::Column::CreatedAt).one(core.db.read()).await?)
}

/// All products of a tenant, sorted by name.
pub async fn list(core: &Core, scope: &Scope) -> Result<Vec<Product>> {
    Ok(of_tenant(scope).order_by_asc(product::Column::Name).all(core.db.read()).await?)
}

/// The names of all products of a tenant.
pub async fn names(core: &Core, scope: &Scope) -> Result<HashMap<ProductId, String>> {
    Ok(list(core, scope).await?.into_iter().map(|product| (product.id, product.name)).collect())
}
