//! API keys: the credentials of apps, each limited to a set of products.

use std::collections::{HashMap, HashSet};

use sea_orm::sea_query::SelectStatement;
use sea_orm::{ColumnTrait, EntityTrait, IntoActiveModel, QueryFilter, QueryOrder, QuerySelect, QueryTrait};
use uuid::Uuid;

use crate::crypto::api_key::{ApiKeyKind, ApiKeyText};
use crate::crypto::seal::Purpose;
use crate::entity::{api_key, api_key_product, product};
use crate::ids::{ApiKeyId, ProductId};
use crate::{AppCaller, Caller, Code, Core, CoveredProduct, Reason, Result, Scope, db, products, tx::Tx};

pub use crate::entity::api_key::Model as ApiKey;

/// Creates a key for these products. Its text cannot be shown again: only its HMAC is stored.
pub async fn create(
    core: &Core,
    caller: &Caller,
    name: &str,
    kind: ApiKeyKind,
    products: &[ProductId],
) -> Result<(ApiKey, ApiKeyText)> {
    let text = ApiKeyText::generate(kind, &core.ids);
    let tx = Tx::begin(core).await?;
    let row = api_key::Model {
        id: ApiKeyId(core.ids.v7(tx.now())),
        tenant_id: caller.scope().tenant(),
        name: name.to_owned(),
        kind: text.kind,
        lookup: core.keys().mac(Purpose::ApiKeyLookup, text.expose()),
        hint: text.hint(),
        created_at: tx.now(),
        expires_at: None,
        revoked_at: None,
    };
    api_key::Entity::insert(row.clone().into_active_model()).exec_without_returning(tx.db()).await?;
    let distinct: HashSet<ProductId> = products.iter().copied().collect();
    let covered = |product_id| api_key_product::Model { api_key_id: row.id, product_id }.into_active_model();
    api_key_product::Entity::insert_many(distinct.into_iter().map(covered)).exec_without_returning(tx.db()).await?;
    tx.commit().await?;
    Ok((row, text))
}

/// Returns the app that a key authenticates. Refused with `INVALID_API_KEY` if the key was never issued, was revoked,
/// or has expired. The response does not differ.
pub async fn authenticate(core: &Core, text: &str) -> Result<AppCaller> {
    let invalid = || Code::InvalidApiKey.refusal();
    let key = ApiKeyText::parse(text).ok_or_else(invalid)?;
    let lookups = core.keys().macs(Purpose::ApiKeyLookup, key.expose());
    let row = api_key::Entity::find().filter(api_key::Column::Lookup.is_in(lookups)).one(core.db.read()).await?;
    let row = row.ok_or_else(invalid)?;
    let now = core.clock.now();
    if row.revoked_at.is_some() || row.expires_at.is_some_and(|expires_at| expires_at <= now) {
        return Err(invalid());
    }
    let products = product::Entity::find().filter(product::Column::Id.in_subquery(product_ids(row.id)));
    let products = products.all(core.db.read()).await?;
    Ok(AppCaller {
        scope: Scope::of(row.tenant_id),
        key: row.id,
        products: products.into_iter().map(|row| CoveredProduct { id: row.id, prefix: row.prefix }).collect(),
    })
}

fn product_ids(id: ApiKeyId) -> SelectStatement {
    api_key_product::Entity::find()
        .select_only()
        .column(api_key_product::Column::ProductId)
        .filter(api_key_product::Column::ApiKeyId.eq(id))
        .into_query()
}

/// All keys of a tenant with the names of their products, oldest first.
pub async fn list(core: &Core, scope: &Scope) -> Result<Vec<(ApiKey, Vec<String>)>> {
    let own = api_key::Entity::find().filter(api_key::Column::TenantId.eq(scope.tenant()));
    let keys = own.order_by_asc(api_key::Column::CreatedAt).all(core.db.read()).await?;
    let names: HashMap<ProductId, String> =
        products::list(core, scope).await?.into_iter().map(|product| (product.id, product.name)).collect();
    let of_keys = api_key_product::Column::ApiKeyId.is_in(keys.iter().map(|key| key.id));
    let covered = api_key_product::Entity::find().filter(of_keys).all(core.db.read()).await?;
    let products_of = |id| {
        let own = covered.iter().filter(|row| row.api_key_id == id);
        own.filter_map(|row| names.get(&row.product_id).cloned()).collect()
    };
    Ok(keys.into_iter().map(|key| (key.clone(), products_of(key.id))).collect())
}

/// Whether any tenant has a key that is not revoked; for the operator.
pub async fn exist(core: &Core) -> Result<bool> {
    let active = api_key::Entity::find().filter(api_key::Column::RevokedAt.is_null());
    Ok(active.one(core.db.read()).await?.is_some())
}

/// Revokes a key, given by its id or its hint. Refused with `NOT_FOUND` if the tenant has no such key or it is already
/// revoked; with `CONFLICT` if several have this hint.
pub async fn revoke(core: &Core, scope: &Scope, id_or_hint: &str) -> Result<ApiKey> {
    use api_key::Column;
    let this = Uuid::try_parse(id_or_hint).map_or_else(|_| Column::Hint.eq(id_or_hint), |id| Column::Id.eq(id));
    let own = api_key::Entity::find().filter(this).filter(Column::TenantId.eq(scope.tenant()));
    let mut found = own.filter(Column::RevokedAt.is_null()).limit(2).all(core.db.read()).await?;
    let id = match &found[..] {
        [key] => key.id,
        [] => return Err(Reason::NoActiveApiKey.refusal()),
        _ => return Err(Reason::AmbiguousApiKey.refusal()),
    };
    let active = [Column::Id.eq(id), Column::RevokedAt.is_null()];
    let revoke = db::update([(Column::RevokedAt, core.clock.now().into())], active);
    found = revoke.exec_with_returning(core.db.writer()).await?;
    found.pop().ok_or_else(|| Reason::NoActiveApiKey.refusal())
}
