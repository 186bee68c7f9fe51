//! Products and their policies. Policies are versioned; a license keeps the version it was issued under.

use std::collections::{HashMap, HashSet};

use sea_orm::{ColumnTrait, EntityTrait, IntoActiveModel, QueryFilter, QueryOrder, Select};

use crate::db::Reader;
use crate::entity::product;
use crate::events::{EventData, NewEvent};
use crate::ids::{PolicyId, ProductId, TenantId};
use crate::page::{self, Page, PageRequest};
use crate::policy::{PolicyPatch, PolicyTerms};
use crate::{Caller, Core, Error, Reason, Result, Scope, crypto::license_key, db, plain_text};
use crate::{precondition::IfMatch, tenants, tx::Tx};

mod policies;

pub use self::policies::{Changed, change_policy, policy, read, versions};
pub(crate) use self::policies::{get_with_policy, list_with_policies, pin_terms, terms_for};
pub use crate::entity::{policy::Model as Policy, product::Model as Product};

/// Creates a product whose policy is the default with these changes. Without `tenant`, it belongs to the tenant of the
/// caller. Refused with `VALIDATION_ERROR` for an invalid name, prefix or policy, and if the caller must name the tenant;
/// `NOT_FOUND` for another tenant; `CONFLICT` if the tenant has a product with this name or prefix.
pub async fn create(
    core: &Core,
    caller: &Caller,
    tenant: Option<TenantId>,
    name: &str,
    prefix: Option<&str>,
    patch: &PolicyPatch,
) -> Result<Changed> {
    let (tenant, name) = (caller.require_tenant(tenant)?, valid_name(name)?);
    let mut tx = Tx::begin(core).await?;
    let all = lock_all(&tx, tenant).await?;
    if let Some(known) = all.iter().find(|product| is_called(product, name)) {
        return Err(Reason::ProductExists { product: known.name.clone() }.refusal());
    }
    let prefix = choose_prefix(&all, name, prefix)?;
    let created = insert(&mut tx, caller, tenant, name, prefix, patch).await?;
    tx.commit().await?;
    Ok(created)
}

/// Creates a product, or changes the policy of the product with this name, whatever its case. A prefix never changes. Refused with
/// `VALIDATION_ERROR` for an invalid name, prefix or policy; `CONFLICT` if another product uses the prefix, or this product
/// has a different one.
pub async fn create_or_update(
    core: &Core,
    caller: &Caller,
    name: &str,
    prefix: Option<&str>,
    patch: &PolicyPatch,
) -> Result<Changed> {
    let (tenant, name) = (caller.require_tenant(None)?, valid_name(name)?);
    let mut tx = Tx::begin(core).await?;
    let all = lock_all(&tx, tenant).await?;
    let changed = match all.iter().find(|product| is_called(product, name)) {
        Some(known) if prefix.is_some_and(|prefix| !prefix.eq_ignore_ascii_case(&known.prefix)) => {
            let (product, prefix) = (known.name.clone(), known.prefix.clone());
            return Err(Reason::PrefixIsFixed { product, prefix }.refusal());
        }
        Some(known) => {
            let product = policies::lock(&tx, caller, known.id).await?;
            policies::add_version(&mut tx, caller, product, patch).await?
        }
        None => {
            let prefix = choose_prefix(&all, name, prefix)?;
            insert(&mut tx, caller, tenant, name, prefix, patch).await?
        }
    };
    tx.commit().await?;
    Ok(changed)
}

/// Renames a product. Refused with `NOT_FOUND`, `ACCESS_DENIED`, `PRECONDITION_FAILED`; `VALIDATION_ERROR` for an invalid
/// name; `CONFLICT` if another product has it.
pub async fn rename(core: &Core, caller: &Caller, id: ProductId, name: &str, if_match: &IfMatch) -> Result<Changed> {
    let name = valid_name(name)?;
    let tenant = read(core, caller, id).await?.0.tenant_id;
    let mut tx = Tx::begin(core).await?;
    let all = lock_all(&tx, tenant).await?;
    let mut product = policies::lock(&tx, caller, id).await?;
    if_match.check(product.rev)?;
    if let Some(other) = all.iter().find(|other| other.id != id && is_called(other, name)) {
        return Err(Reason::ProductExists { product: other.name.clone() }.refusal());
    }
    let policy = policies::current_of(&tx, &product).await?;
    if product.name == name {
        return Ok(Changed { product, policy, is_new: false });
    }
    let from = std::mem::replace(&mut product.name, name.to_owned());
    product.rev += 1;
    let values = [
        (product::Column::Name, name.into()),
        (product::Column::FoldedName, name.to_lowercase().into()),
        (product::Column::Rev, product.rev.into()),
    ];
    db::update(values, [product::Column::Id.eq(id)]).exec(tx.db()).await?;
    let data = EventData::ProductRenamed { product_id: id, from, name: name.to_owned() };
    tx.record(NewEvent::tenant(tenant, caller.actor(), data));
    tx.commit().await?;
    Ok(Changed { product, policy, is_new: true })
}

fn valid_name(name: &str) -> Result<&str> {
    let name = name.trim();
    if plain_text::is_blank(name) || name.chars().count() > 80 || plain_text::forbidden(name).is_some() {
        return Err(Reason::InvalidProductName.refusal());
    }
    Ok(name)
}

fn is_called(product: &Product, name: &str) -> bool {
    product.folded_name == name.to_lowercase()
}

/// The products of a tenant. Its row stays locked, so that names and prefixes stay unique without a failed insert.
async fn lock_all(tx: &Tx, tenant: TenantId) -> Result<Vec<Product>> {
    tenants::lock(tx, tenant).await?;
    Ok(of_tenant(&Scope::of(tenant)).all(tx.db()).await?)
}

/// Inserts a product and its first policy.
async fn insert(
    tx: &mut Tx,
    caller: &Caller,
    tenant: TenantId,
    name: &str,
    prefix: String,
    patch: &PolicyPatch,
) -> Result<Changed> {
    let terms = PolicyTerms::default().patched(patch)?;
    let product = Product {
        id: ProductId(tx.core().ids.v7(tx.now())),
        tenant_id: tenant,
        name: name.to_owned(),
        folded_name: name.to_lowercase(),
        folded_prefix: license_key::fold_prefix(&prefix),
        prefix,
        policy_id: PolicyId(tx.core().ids.v7(tx.now())),
        created_at: tx.now(),
        rev: 1,
    };
    product::Entity::insert(product.clone().into_active_model()).exec_without_returning(tx.db()).await?;
    let policy = policies::insert_version(tx, &product, 1, terms).await?;
    let data = EventData::ProductCreated { product_id: product.id, name: name.to_owned() };
    tx.record(NewEvent::tenant(tenant, caller.actor(), data));
    Ok(Changed { product, policy, is_new: true })
}

/// The prefix of a new product. Without a given one, it gets a free one that resembles its name.
fn choose_prefix(all: &[Product], name: &str, given: Option<&str>) -> Result<String> {
    let prefix = given.map_or_else(|| suggest_prefix(name), |given| given.trim().to_ascii_uppercase());
    if !license_key::is_prefix(&prefix) {
        return Err(Reason::InvalidPrefix.refusal());
    }
    let taken: HashSet<&str> = all.iter().map(|product| &*product.folded_prefix).collect();
    let is_free = |prefix: &String| !taken.contains(&*license_key::fold_prefix(prefix));
    // "GOLD" → "GOLD2"
    let numbered = (2..).map(|n: u32| format!("{}{n}", &prefix[..prefix.len().min(8 - n.to_string().len())]));
    match numbered.into_iter().find(is_free) {
        _ if is_free(&prefix) => Ok(prefix),
        Some(free) if given.is_some() => Err(Reason::PrefixTaken { prefix, free }.refusal()),
        free => free.ok_or_else(|| Error::Internal("no prefix is free".to_owned())),
    }
}

/// The first eight letters and digits of a name: "Gold Tools" → `GOLDTOOL`.
fn suggest_prefix(name: &str) -> String {
    let plain: String = name.chars().filter(char::is_ascii_alphanumeric).take(8).collect();
    if plain.len() < 2 { "KEY".to_owned() } else { plain.to_ascii_uppercase() }
}

fn of_tenant(scope: &Scope) -> Select<product::Entity> {
    product::Entity::find().filter(product::Column::TenantId.eq(scope.tenant()))
}

/// A product by name or id. Refused with `NOT_FOUND`, listing the existing products.
pub async fn get(core: &Core, scope: &Scope, name_or_id: &str) -> Result<Product> {
    let all = list_all(core, scope).await?;
    let wanted = name_or_id.trim();
    let found = all.iter().find(|p| p.folded_name == wanted.to_lowercase() || p.id.to_string() == wanted);
    found.cloned().ok_or_else(|| {
        let known = all.iter().take(10).map(|p| p.name.clone()).collect();
        let wanted = wanted.chars().take(80).collect();
        Reason::NoProduct { wanted, known, total: all.len() }.refusal()
    })
}

/// These products, of any tenant. Those that do not exist are missing.
pub(crate) async fn find_all(from: &impl Reader, ids: impl IntoIterator<Item = ProductId>) -> Result<Vec<Product>> {
    let these = product::Entity::find().filter(product::Column::Id.is_in(ids));
    Ok(these.order_by_asc(product::Column::Name).all(from.connection()).await?)
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

/// The products that the caller may read, newest first. Refused with `ACCESS_DENIED`, `REQUIRES_2FA`, `INVALID_CURSOR`.
pub async fn list(core: &Core, caller: &Caller, request: &PageRequest) -> Result<Page<Product>> {
    let readable = caller.readable(product::Column::TenantId, product::Column::Id)?;
    let rows = product::Entity::find().filter(readable);
    let list = ("products", caller.actor().to_string());
    page::newest_first(core, rows, product::Column::Id, &list, request).await
}

/// All products of a tenant, sorted by name.
pub async fn list_all(core: &Core, scope: &Scope) -> Result<Vec<Product>> {
    Ok(of_tenant(scope).order_by_asc(product::Column::Name).all(core.db.read()).await?)
}

/// The names of all products of a tenant.
pub async fn names(core: &Core, scope: &Scope) -> Result<HashMap<ProductId, String>> {
    Ok(list_all(core, scope).await?.into_iter().map(|product| (product.id, product.name)).collect())
}
