//! Products and their policies. A policy is versioned; a license keeps the version it was born under.

use std::time::Duration;

use sea_orm::{
    ActiveValue::Set, ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect,
    sea_query::OnConflict,
};

use crate::{
    Caller, Code, Core, Error, Result, Scope,
    crypto::license_key,
    entity::{policy, product},
    ids::{PolicyId, ProductId},
    tx::Tx,
};

pub use crate::entity::{policy::Model as Policy, product::Model as Product};

/// A change to a product's rules, for its next license; what is not named stays, or begins with its
/// default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// How long a license lives from its assignment; zero, and the default: for ever.
    pub duration: Option<Duration>,
    /// How long a license outlives its last source; zero ends it at once. A day by default: a revoked
    /// license never comes back, so a slip should not end it.
    pub source_grace: Option<Duration>,
}

const DEFAULT_GRACE_S: i64 = 24 * 3_600;

/// Makes a product, or gives the one of that name new terms; an existing product keeps its prefix.
///
/// # Errors
/// `VALIDATION_ERROR` for a name or prefix that cannot be used, `CONFLICT` for a prefix of another
/// product.
pub async fn define(core: &Core, caller: &Caller, name: &str, prefix: Option<&str>, terms: &Terms) -> Result<Product> {
    let name = name.trim();
    if name.is_empty() || name.chars().count() > 80 || name.chars().any(char::is_control) {
        return Err(Code::ValidationError.because("A product's name has 1 to 80 visible characters."));
    }
    let mut tx = Tx::begin(core).await?;
    let product = match find_in(tx.db(), &caller.scope, name).await? {
        Some(known) if prefix.is_some_and(|p| !p.eq_ignore_ascii_case(&known.prefix)) => {
            return Err(Code::Conflict.because(format!("{name} exists with the prefix {}; it keeps it.", known.prefix)));
        }
        Some(known) => known,
        None => insert(&tx, &caller.scope, name, prefix).await?,
    };
    set_terms(&mut tx, product.id, terms).await?;
    tx.commit().await?;
    Ok(product)
}

async fn insert(tx: &Tx, scope: &Scope, name: &str, prefix: Option<&str>) -> Result<Product> {
    let prefix = prefix.map_or_else(|| suggest_prefix(name), |p| p.trim().to_ascii_uppercase());
    if !license_key::is_prefix(&prefix) {
        return Err(Code::ValidationError.because("A key prefix has 2 to 8 letters A–Z or digits."));
    }
    let row = product::ActiveModel {
        id: Set(ProductId(tx.core().ids.v7(tx.now()))),
        tenant_id: Set(scope.tenant()),
        name: Set(name.to_owned()),
        folded_prefix: Set(license_key::fold_prefix(&prefix)),
        prefix: Set(prefix.clone()),
        created_at: Set(tx.now()),
    };
    product::Entity::insert(row)
        .on_conflict(OnConflict::new().do_nothing().to_owned())
        .exec_without_returning(tx.db())
        .await?;
    // By name: somebody else may have made it meanwhile.
    find_in(tx.db(), scope, name).await?.ok_or_else(|| {
        Code::Conflict.because(format!("The key prefix {prefix} (or one that reads alike) is taken; choose another."))
    })
}

/// The first letters and digits of a name: "Gold Tools" → `GOLDTOOL`.
fn suggest_prefix(name: &str) -> String {
    let plain: String = name.chars().filter(char::is_ascii_alphanumeric).take(8).collect();
    if plain.len() < 2 { "KEY".to_owned() } else { plain.to_ascii_uppercase() }
}

async fn set_terms(tx: &mut Tx, product: ProductId, terms: &Terms) -> Result<()> {
    // One version after the other, whoever else sets terms now.
    product::Entity::find_by_id(product).lock_exclusive().one(tx.db()).await?;
    let newest = newest_policy(tx.db(), product).await?;
    let seconds = |d: Duration| i64::try_from(d.as_secs()).unwrap_or(i64::MAX);
    let duration_s = match terms.duration {
        Some(given) => Some(seconds(given)).filter(|s| *s > 0),
        None => newest.as_ref().and_then(|p| p.duration_s),
    };
    let standing_grace_s = newest.as_ref().map_or(DEFAULT_GRACE_S, |p| p.source_grace_s);
    let source_grace_s = terms.source_grace.map_or(standing_grace_s, seconds);
    if newest.as_ref().is_some_and(|p| p.duration_s == duration_s && p.source_grace_s == source_grace_s) {
        return Ok(());
    }
    let row = policy::ActiveModel {
        id: Set(PolicyId(tx.core().ids.v7(tx.now()))),
        product_id: Set(product),
        version: Set(newest.map_or(1, |p| p.version + 1)),
        duration_s: Set(duration_s),
        source_grace_s: Set(source_grace_s),
        created_at: Set(tx.now()),
    };
    policy::Entity::insert(row).exec_without_returning(tx.db()).await?;
    Ok(())
}

async fn newest_policy(db: &impl ConnectionTrait, product: ProductId) -> Result<Option<Policy>> {
    let newest = policy::Entity::find()
        .filter(policy::Column::ProductId.eq(product))
        .order_by_desc(policy::Column::Version)
        .one(db)
        .await?;
    Ok(newest)
}

/// The product and the rules its next license is born under.
pub(crate) async fn get_current(tx: &Tx, product: ProductId) -> Result<(Product, Policy)> {
    let row = product::Entity::find_by_id(product).one(tx.db()).await?;
    let policy = newest_policy(tx.db(), product).await?;
    row.zip(policy).ok_or_else(|| Error::Broken(format!("product {product} has no policy")))
}

/// The rules a license was born under.
pub(crate) async fn get_policy(tx: &Tx, id: PolicyId) -> Result<Policy> {
    let row = policy::Entity::find_by_id(id).one(tx.db()).await?;
    row.ok_or_else(|| Error::Broken(format!("policy {id} is gone")))
}

async fn find_in(db: &impl ConnectionTrait, scope: &Scope, name: &str) -> Result<Option<Product>> {
    let found = product::Entity::find()
        .filter(product::Column::TenantId.eq(scope.tenant()))
        .filter(product::Column::Name.eq(name))
        .one(db)
        .await?;
    Ok(found)
}

/// A product by name or id.
///
/// # Errors
/// `NOT_FOUND`, naming the ones there are.
pub async fn get(core: &Core, scope: &Scope, name_or_id: &str) -> Result<Product> {
    let all = list(core, scope).await?;
    let wanted = name_or_id.trim();
    let found = all.iter().find(|p| p.name == wanted || p.id.to_string() == wanted);
    let found = found.or_else(|| all.iter().find(|p| p.name.eq_ignore_ascii_case(wanted)));
    found.cloned().ok_or_else(|| {
        let names: Vec<_> = all.iter().take(10).map(|p| p.name.as_str()).collect();
        let more = if all.len() > names.len() { " …" } else { "" };
        let known = if names.is_empty() { "none yet".to_owned() } else { names.join(", ") };
        let wanted: String = wanted.chars().take(80).collect();
        Code::NotFound.because(format!("There is no product {wanted:?}. Known: {known}{more}."))
    })
}

/// Every product of the tenant, by name.
///
/// # Errors
/// When the database does not answer.
pub async fn list(core: &Core, scope: &Scope) -> Result<Vec<Product>> {
    let found = product::Entity::find()
        .filter(product::Column::TenantId.eq(scope.tenant()))
        .order_by_asc(product::Column::Name)
        .all(core.db.read())
        .await?;
    Ok(found)
}
