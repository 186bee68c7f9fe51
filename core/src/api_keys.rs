//! API keys: which app asks, and about which products.

use std::collections::HashSet;

use sea_orm::{
    ActiveValue::Set,
    ColumnTrait, EntityTrait, QueryFilter, QuerySelect, QueryTrait,
    sea_query::{Expr, SelectStatement},
};
use uuid::Uuid;

use crate::{
    Caller, Code, Core, Result, Scope,
    crypto::{
        api_key::{ApiKeyKind, ApiKeyText},
        seal::Purpose,
    },
    entity::{api_key, api_key_product, product},
    events::Actor,
    ids::{ApiKeyId, ProductId},
    tenants::Covered,
    tx::Tx,
};

pub use crate::entity::api_key::Model as ApiKey;

/// Makes a key for these products. The text is shown once: only its HMAC is kept.
///
/// # Errors
/// When the database does not answer.
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
        tenant_id: caller.scope.tenant(),
        name: name.to_owned(),
        kind: text.kind.head().to_owned(),
        lookup: core.keys().mac(Purpose::ApiKeyLookup, text.expose()),
        hint: text.hint(),
        created_at: tx.now(),
        expires_at: None,
        revoked_at: None,
    };
    api_key::Entity::insert(api_key::ActiveModel::from(row.clone())).exec_without_returning(tx.db()).await?;
    let distinct: HashSet<ProductId> = products.iter().copied().collect();
    let bound = distinct
        .into_iter()
        .map(|product_id| api_key_product::ActiveModel { api_key_id: Set(row.id), product_id: Set(product_id) });
    api_key_product::Entity::insert_many(bound).exec_without_returning(tx.db()).await?;
    tx.commit().await?;
    Ok((row, text))
}

/// The caller behind a key.
///
/// # Errors
/// `INVALID_API_KEY` for a key that was never issued, was revoked, or has expired: always the same
/// answer.
pub async fn authenticate(core: &Core, text: &str) -> Result<Caller> {
    let refuse = || Code::InvalidApiKey.because(Code::InvalidApiKey.description());
    let key = ApiKeyText::parse(text).ok_or_else(refuse)?;
    let row = api_key::Entity::find()
        .filter(api_key::Column::Lookup.eq(core.keys().mac(Purpose::ApiKeyLookup, key.expose())))
        .one(core.db.read())
        .await?
        .ok_or_else(refuse)?;
    let now = core.clock.now();
    if row.revoked_at.is_some() || row.expires_at.is_some_and(|at| at <= now) {
        return Err(refuse());
    }
    let covered = product::Entity::find()
        .filter(product::Column::Id.in_subquery(products_of(row.id)))
        .all(core.db.read())
        .await?;
    Ok(Caller {
        scope: Scope::of(row.tenant_id),
        actor: Actor::ApiKey(row.id),
        products: covered.into_iter().map(|row| Covered { id: row.id, prefix: row.prefix }).collect(),
    })
}

fn products_of(id: ApiKeyId) -> SelectStatement {
    api_key_product::Entity::find()
        .select_only()
        .column(api_key_product::Column::ProductId)
        .filter(api_key_product::Column::ApiKeyId.eq(id))
        .into_query()
}

/// Ends a key at once. Answers its hint.
///
/// # Errors
/// `NOT_FOUND` for an id this tenant does not have or that was revoked before.
pub async fn revoke(core: &Core, scope: &Scope, id: Uuid) -> Result<String> {
    let ended = api_key::Entity::update_many()
        .col_expr(api_key::Column::RevokedAt, Expr::value(core.clock.now()))
        .filter(api_key::Column::Id.eq(id))
        .filter(api_key::Column::TenantId.eq(scope.tenant()))
        .filter(api_key::Column::RevokedAt.is_null())
        .exec_with_returning(core.db.writer())
        .await?;
    let row = ended.into_iter().next();
    row.map(|row| row.hint).ok_or_else(|| Code::NotFound.because("There is no live API key with that id."))
}
