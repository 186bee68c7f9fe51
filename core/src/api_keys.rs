//! API keys: the credentials of apps, each limited to a set of products and scopes. Sessions and the operator manage
//! them; an API key cannot.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use sea_orm::sea_query::{Expr, Query};
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, ExprTrait, FromQueryResult, IntoActiveModel, QueryFilter};
use sea_orm::{QueryOrder, QuerySelect, QueryTrait, Select};
use uuid::Uuid;

use crate::api_key_scopes::{ApiKeyScope, ApiKeyScopes};
use crate::cache::CachedApiKey;
use crate::caller::no_product;
use crate::crypto::api_key::{ApiKeyKind, ApiKeyMode, ApiKeyText};
use crate::crypto::seal::Purpose;
use crate::db::Reader;
use crate::entity::{api_key, api_key_product, product};
use crate::events::{ApiKeyLabel, EventData, NewEvent};
use crate::ids::{ApiKeyId, ProductId, TenantId};
use crate::page::{self, Page, PageRequest};
use crate::products::{self, Product};
use crate::write_behind::Used;
use crate::{Access, AppCaller, Caller, Code, Core, CoveredProduct, Reason, Result, Scope, db, plain_text, tx::Tx};

pub use crate::entity::api_key::Model as ApiKey;

/// The most products that a key may cover.
pub const MAX_PRODUCTS: usize = 100;
/// The longest lifetime of a key that expires.
const MAX_DAYS: i64 = 3_650;
/// How long a rotated key works beside its successor, unless the caller chooses it.
pub const DEFAULT_OVERLAP: Duration = Duration::from_hours(24);
/// The longest overlap.
pub const MAX_OVERLAP: Duration = Duration::from_hours(30 * 24);

/// The settings of a new key.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "fields are named after what they hold")]
pub struct NewApiKey {
    pub name: String,
    pub kind: ApiKeyKind,
    pub mode: ApiKeyMode,
    /// `None`: all that a key of this kind may have.
    pub scopes: Option<Vec<ApiKeyScope>>,
    /// All of one tenant.
    pub products: Vec<ProductId>,
    pub expires_at: Option<DateTime<Utc>>,
}

impl NewApiKey {
    /// A live key that does not expire, with all scopes of its kind.
    pub fn new(kind: ApiKeyKind, name: &str, products: &[ProductId]) -> Self {
        let (name, products) = (name.to_owned(), products.to_vec());
        Self { name, kind, mode: ApiKeyMode::Live, scopes: None, products, expires_at: None }
    }
}

/// A key with the products that it covers.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "fields are named after what they hold")]
pub struct ApiKeyDetails {
    pub key: ApiKey,
    pub products: Vec<Product>,
}

/// Creates a key. Its text cannot be shown again: only its HMAC is stored. Refused with `VALIDATION_ERROR`; `NOT_FOUND`,
/// `ACCESS_DENIED` or `REQUIRES_2FA` unless the caller manages all of its products.
pub async fn create(core: &Core, caller: &Caller, new: NewApiKey) -> Result<(ApiKeyDetails, ApiKeyText)> {
    let new = NewApiKey { name: plain_text::line("name", &new.name, 100)?, ..new };
    let scopes = valid_scopes(new.kind, new.scopes.as_deref())?;
    let now = core.clock.now();
    if new.expires_at.is_some_and(|at| at <= now || at > now + TimeDelta::days(MAX_DAYS)) {
        return Err(Reason::ApiKeyExpiry { max_days: MAX_DAYS }.refusal());
    }
    let mut tx = Tx::begin(core).await?;
    let products = managed_products(&tx, caller, &new.products).await?;
    let settings = Settings { tenant: products[0].tenant_id, scopes, new };
    let (key, text) = insert(&tx, caller, settings, &products).await?;
    let data = EventData::ApiKeyCreated {
        api_key: label(&key),
        kind: key.kind,
        scopes: key.scopes.0.clone(),
        product_ids: products.iter().map(|product| product.id).collect(),
        expires_at: key.expires_at,
    };
    tx.record(NewEvent::tenant(key.tenant_id, caller.actor(), data));
    tx.commit().await?;
    Ok((ApiKeyDetails { key, products }, text))
}

/// The scopes of a new key, each once.
fn valid_scopes(kind: ApiKeyKind, wanted: Option<&[ApiKeyScope]>) -> Result<Vec<ApiKeyScope>> {
    let allowed = ApiKeyScope::of(kind);
    let wanted = wanted.unwrap_or(allowed);
    if let Some(&scope) = wanted.iter().find(|scope| !allowed.contains(scope)) {
        return Err(Reason::ScopeNotForKind { scope }.refusal());
    }
    let scopes: Vec<_> = allowed.iter().copied().filter(|scope| wanted.contains(scope)).collect();
    if scopes.is_empty() { Err(Reason::NoScopes.refusal()) } else { Ok(scopes) }
}

/// The products of a new key: they belong to one tenant, and the caller manages them.
async fn managed_products(tx: &Tx, caller: &Caller, ids: &[ProductId]) -> Result<Vec<Product>> {
    // Refuses apps, which may manage licenses.
    caller.managed_tenants()?;
    if ids.is_empty() || ids.len() > MAX_PRODUCTS {
        return Err(Reason::ProductCount { max: MAX_PRODUCTS }.refusal());
    }
    let found = products::find_all(tx, ids.iter().copied()).await?;
    for &id in ids {
        let product = found.iter().find(|product| product.id == id);
        let tenant = product.ok_or_else(|| no_product(id))?.tenant_id;
        caller.require_product(Access::Manage, tenant, id)?;
    }
    if found.iter().any(|product| product.tenant_id != found[0].tenant_id) {
        return Err(Reason::ProductsOfSeveralTenants.refusal());
    }
    Ok(found)
}

/// A new key with its validated settings.
struct Settings {
    tenant: TenantId,
    scopes: Vec<ApiKeyScope>,
    new: NewApiKey,
}

async fn insert(tx: &Tx, caller: &Caller, settings: Settings, products: &[Product]) -> Result<(ApiKey, ApiKeyText)> {
    let (core, Settings { tenant, scopes, new }) = (tx.core(), settings);
    let text = ApiKeyText::generate(new.kind, new.mode, &core.ids);
    let key = api_key::Model {
        id: ApiKeyId(core.ids.v7(tx.now())),
        tenant_id: tenant,
        name: new.name,
        kind: new.kind,
        lookup: core.keys().mac(Purpose::ApiKeyLookup, text.expose()),
        hint: text.hint(),
        mode: new.mode,
        scopes: ApiKeyScopes(scopes),
        created_by: caller.actor().to_string(),
        created_at: tx.now(),
        last_used_at: None,
        expires_at: new.expires_at,
        replaced_by: None,
        revoked_at: None,
    };
    api_key::Entity::insert(key.clone().into_active_model()).exec_without_returning(tx.db()).await?;
    let covered = |of: &Product| api_key_product::Model { api_key_id: key.id, product_id: of.id }.into_active_model();
    api_key_product::Entity::insert_many(products.iter().map(covered)).exec_without_returning(tx.db()).await?;
    Ok((key, text))
}

fn label(key: &ApiKey) -> ApiKeyLabel {
    ApiKeyLabel { api_key_id: key.id, hint: key.hint.clone(), mode: key.mode }
}

impl ApiKey {
    /// Whether it authenticates apps at `now`.
    pub fn is_active(&self, now: DateTime<Utc>) -> bool {
        self.revoked_at.is_none() && self.expires_at.is_none_or(|expires_at| expires_at > now)
    }
}

/// Returns the app that a key authenticates. Refused with `INVALID_API_KEY` if the key was never issued, was revoked,
/// or has expired. The response does not differ.
pub async fn authenticate(core: &Core, text: &str) -> Result<AppCaller> {
    let invalid = || Code::InvalidApiKey.refusal();
    let text = ApiKeyText::parse(text).ok_or_else(invalid)?;
    let lookup = core.keys().lookup(Purpose::ApiKeyLookup, text.expose());
    let cached = core.cache.api_key(lookup, || find(core, &text)).await?.ok_or_else(invalid)?;
    let (CachedApiKey { key, app }, now) = (cached.value, core.clock.now());
    if !key.is_active(now) {
        return Err(invalid());
    }
    if core.write_behind.mark_used(Used::ApiKey(key.id), key.last_used_at, now) {
        let key = Arc::new(ApiKey { last_used_at: Some(now), ..(*key).clone() });
        core.cache.replace_api_key(lookup, CachedApiKey { key, app: app.clone() }, cached.seq).await;
    }
    Ok(app)
}

/// Reads a key and the products that it covers.
async fn find(core: &Core, text: &ApiKeyText) -> Result<Option<CachedApiKey>> {
    let lookups = core.keys().macs(Purpose::ApiKeyLookup, text.expose());
    let covered = |column| Expr::col((api_key_product::Entity, column));
    let of_key = covered(api_key_product::Column::ApiKeyId).eq(Expr::col((api_key::Entity, api_key::Column::Id)));
    let product = Expr::col((product::Entity, product::Column::Id)).eq(covered(api_key_product::Column::ProductId));
    let mut query = Query::select();
    query.from(api_key::Entity).and_where(Expr::col((api_key::Entity, api_key::Column::Lookup)).is_in(lookups));
    query.left_join(api_key_product::Entity, of_key).left_join(product::Entity, product);
    db::columns::<api_key::Entity>(&mut query, KEY);
    db::columns::<product::Entity>(&mut query, PRODUCT);
    let rows = core.connection().query_all(&query.take()).await?;
    let Some(first) = rows.first() else { return Ok(None) };
    let key = ApiKey::from_query_result(first, KEY)?;
    let products = rows.iter().map(|row| product::Model::from_query_result_optional(row, PRODUCT));
    let products: Vec<Option<Product>> = products.collect::<Result<_, _>>()?;
    let covered = |product: Product| CoveredProduct { id: product.id, prefix: product.prefix };
    let app = AppCaller {
        scope: Scope::of(key.tenant_id),
        key: key.id,
        kind: key.kind,
        mode: key.mode,
        scopes: key.scopes.0.as_slice().into(),
        products: products.into_iter().flatten().map(covered).collect(),
    };
    Ok(Some(CachedApiKey { key: Arc::new(key), app }))
}

/// The prefixes of the columns that [`find`] reads.
const KEY: &str = "key_";
const PRODUCT: &str = "product_";

/// The keys that a caller manages, revoked and expired ones included.
fn managed(caller: &Caller) -> Result<Select<api_key::Entity>> {
    let tenants = caller.managed_tenants()?;
    let all = api_key::Entity::find();
    Ok(match tenants {
        Some(tenants) => all.filter(api_key::Column::TenantId.is_in(tenants)),
        None => all,
    })
}

/// A page of the keys that the caller manages, or of those that cover a product. Refused with `NOT_FOUND` if the caller
/// may not know of the product; `ACCESS_DENIED`, `REQUIRES_2FA`, `INVALID_CURSOR`.
pub async fn list(
    core: &Core,
    caller: &Caller,
    product: Option<ProductId>,
    request: &PageRequest,
) -> Result<Page<ApiKeyDetails>> {
    let mut rows = managed(caller)?;
    if let Some(id) = product {
        let found = products::find_all(core, [id]).await?.pop().ok_or_else(|| no_product(id))?;
        caller.require_product(Access::Manage, found.tenant_id, id)?;
        let of_product = api_key_product::Entity::find().select_only().column(api_key_product::Column::ApiKeyId);
        let of_product = of_product.filter(api_key_product::Column::ProductId.eq(id)).into_query();
        rows = rows.filter(api_key::Column::Id.in_subquery(of_product));
    }
    let list = ("api-keys", product, caller.managed_tenants()?);
    let Page { items, next } = page::newest_first(core, rows, api_key::Column::Id, &list, request).await?;
    Ok(Page { items: with_products(core, items).await?, next })
}

/// All keys that the caller manages, oldest first; for the command line.
pub async fn list_all(core: &Core, caller: &Caller) -> Result<Vec<ApiKeyDetails>> {
    let keys = managed(caller)?.order_by_asc(api_key::Column::Id).all(core.db.read()).await?;
    with_products(core, keys).await
}

async fn with_products(from: &impl Reader, keys: Vec<ApiKey>) -> Result<Vec<ApiKeyDetails>> {
    let of_keys = api_key_product::Column::ApiKeyId.is_in(keys.iter().map(|key| key.id));
    let covered = api_key_product::Entity::find().filter(of_keys).all(from.connection()).await?;
    let products = products::find_all(from, covered.iter().map(|row| row.product_id)).await?;
    let by_id: HashMap<ProductId, Product> = products.into_iter().map(|product| (product.id, product)).collect();
    let details = |key: ApiKey| {
        let own = covered.iter().filter(|row| row.api_key_id == key.id);
        let mut products: Vec<_> = own.filter_map(|row| by_id.get(&row.product_id).cloned()).collect();
        products.sort_by(|a, b| a.name.cmp(&b.name));
        ApiKeyDetails { key, products }
    };
    Ok(keys.into_iter().map(details).collect())
}

/// Whether any tenant has a key that is not revoked; for the operator.
pub async fn exist(core: &Core) -> Result<bool> {
    let active = api_key::Entity::find().filter(api_key::Column::RevokedAt.is_null());
    Ok(active.one(core.db.read()).await?.is_some())
}

/// Creates a key with the settings of another one, which expires after `overlap`, unless it expires before. If the former
/// key had a lifetime, the new one has the same from now on. Refused with `NOT_FOUND` if there is no such active key;
/// `CONFLICT` if it was rotated before; `VALIDATION_ERROR` if the overlap is too long.
pub async fn rotate(
    core: &Core,
    caller: &Caller,
    id_or_hint: &str,
    overlap: Duration,
) -> Result<(ApiKeyDetails, ApiKeyText)> {
    if overlap > MAX_OVERLAP {
        return Err(Reason::OverlapTooLong { max_seconds: MAX_OVERLAP.as_secs() }.refusal());
    }
    let mut tx = Tx::begin(core).await?;
    let former = lock(&tx, caller, id_or_hint).await?;
    if !former.is_active(tx.now()) {
        return Err(Reason::NoActiveApiKey.refusal());
    }
    if former.replaced_by.is_some() {
        return Err(Reason::ApiKeyReplaced.refusal());
    }
    let products = with_products(&tx, vec![former.clone()]).await?.remove(0).products;
    let new = NewApiKey {
        mode: former.mode,
        expires_at: former.expires_at.map(|expires_at| tx.now() + (expires_at - former.created_at)),
        ..NewApiKey::new(former.kind, &former.name, &[])
    };
    let settings = Settings { tenant: former.tenant_id, scopes: former.scopes.0.clone(), new };
    let (key, text) = insert(&tx, caller, settings, &products).await?;
    let end = tx.now() + overlap;
    let expires_at = former.expires_at.map_or(end, |expires_at| Ord::min(expires_at, end));
    let changes = [(api_key::Column::ReplacedBy, key.id.into()), (api_key::Column::ExpiresAt, expires_at.into())];
    db::update(changes, [api_key::Column::Id.eq(former.id)]).exec(tx.db()).await?;
    let data = EventData::ApiKeyRotated { api_key: label(&former), replaced_by: key.id, expires_at };
    tx.record(NewEvent::tenant(key.tenant_id, caller.actor(), data));
    tx.commit_and_propagate(caller).await?;
    Ok((ApiKeyDetails { key, products }, text))
}

/// Revokes a key, given by its id or its hint. Refused with `NOT_FOUND` if the caller manages no such key or it is already
/// revoked; with `CONFLICT` if several have this hint.
pub async fn revoke(core: &Core, caller: &Caller, id_or_hint: &str) -> Result<ApiKey> {
    let mut tx = Tx::begin(core).await?;
    let key = lock(&tx, caller, id_or_hint).await?;
    let now = [(api_key::Column::RevokedAt, tx.now().into())];
    db::update(now, [api_key::Column::Id.eq(key.id)]).exec(tx.db()).await?;
    tx.record(NewEvent::tenant(key.tenant_id, caller.actor(), EventData::ApiKeyRevoked { api_key: label(&key) }));
    tx.commit_and_propagate(caller).await?;
    Ok(key)
}

/// Finds and locks a key that is not revoked.
async fn lock(tx: &Tx, caller: &Caller, id_or_hint: &str) -> Result<ApiKey> {
    use api_key::Column;
    let this = Uuid::try_parse(id_or_hint).map_or_else(|_| Column::Hint.eq(id_or_hint), |id| Column::Id.eq(id));
    let unrevoked = managed(caller)?.filter(this).filter(Column::RevokedAt.is_null());
    let mut found = unrevoked.limit(2).lock_exclusive().all(tx.db()).await?;
    match (found.pop(), found.is_empty()) {
        (Some(key), true) => Ok(key),
        (None, _) => Err(Reason::NoActiveApiKey.refusal()),
        (Some(_), false) => Err(Reason::AmbiguousApiKey.refusal()),
    }
}
