//! API keys, for those who manage their products.

use std::time::Duration;

use axum::extract::State;
use chrono::{DateTime, Utc};
use dca_core::api_key_scopes::ApiKeyScope;
use dca_core::api_keys::{self, ApiKeyDetails, NewApiKey};
use dca_core::crypto::api_key::{ApiKeyKind, ApiKeyMode, ApiKeyText};
use dca_core::ids::ProductId;
use utoipa_axum::{router::OpenApiRouter, routes};

use super::extract::SignedIn;
use super::paging::{PageResult, Paging};
use super::prelude::*;
use super::problem::Refusals;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new().routes(routes!(list, create)).routes(routes!(rotate)).routes(routes!(revoke))
}

/// An API key, without its text.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ApiKeyView {
    id: Uuid,
    /// The shortened form of the key.
    #[schema(example = "dca_pk_…K7QZ")]
    hint: String,
    name: String,
    #[schema(value_type = schemas::ApiKeyKind)]
    kind: ApiKeyKind,
    #[schema(value_type = schemas::ApiKeyMode)]
    mode: ApiKeyMode,
    #[schema(value_type = Vec<schemas::ApiKeyScope>)]
    scopes: Vec<ApiKeyScope>,
    product_ids: Vec<Uuid>,
    /// Who created it, for example `user:01a1fc38-…`.
    created_by: String,
    created_at: DateTime<Utc>,
    /// When it was last used, to the minute.
    last_used_at: Option<DateTime<Utc>>,
    expires_at: Option<DateTime<Utc>>,
    /// The key that it was rotated to.
    replaced_by: Option<Uuid>,
    revoked_at: Option<DateTime<Utc>>,
}

impl From<ApiKeyDetails> for ApiKeyView {
    fn from(ApiKeyDetails { key, products }: ApiKeyDetails) -> Self {
        Self {
            id: key.id.0,
            hint: key.hint,
            name: key.name,
            kind: key.kind,
            mode: key.mode,
            scopes: key.scopes.0,
            product_ids: products.iter().map(|product| product.id.0).collect(),
            created_by: key.created_by,
            created_at: key.created_at,
            last_used_at: key.last_used_at,
            expires_at: key.expires_at,
            replaced_by: key.replaced_by.map(|id| id.0),
            revoked_at: key.revoked_at,
        }
    }
}

/// A new API key.
#[derive(Serialize, ToSchema)]
pub(crate) struct CreatedApiKeyView {
    /// The key. It is not shown again.
    #[schema(example = "dca_sk_…")]
    key: String,
    #[serde(flatten)]
    details: ApiKeyView,
}

fn created((details, text): (ApiKeyDetails, ApiKeyText)) -> (StatusCode, Json<CreatedApiKeyView>) {
    let view = CreatedApiKeyView { key: text.expose().to_owned(), details: details.into() };
    (StatusCode::CREATED, Json(view))
}

/// Filters the list of API keys.
#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ApiKeysQuery {
    /// Only keys that cover this product.
    #[param(nullable = false)]
    product_id: Option<Uuid>,
}

/// List API keys
///
/// Returns the keys of the tenants that you manage, revoked and expired ones included.
#[utoipa::path(get, path = "/api-keys", tag = "api keys", security(("bearer" = [])), params(Paging, ApiKeysQuery),
    responses((status = 200, body = super::paging::PageView<ApiKeyView>), Refusals))]
pub(crate) async fn list(
    State(app): State<App>,
    SignedIn(caller): SignedIn,
    Query(query): Query<ApiKeysQuery>,
    paging: Paging,
) -> PageResult<ApiKeyView> {
    let page = api_keys::list(&app.core, &caller, query.product_id.map(ProductId), &paging.request).await?;
    Ok(paging.render(page))
}

/// The settings of a new API key.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct CreateApiKeyRequest {
    /// A label for the key, at most 100 characters.
    #[schema(example = "Game client")]
    name: String,
    #[schema(value_type = schemas::ApiKeyKind)]
    kind: ApiKeyKind,
    /// `live` by default.
    #[schema(value_type = Option<schemas::ApiKeyMode>, nullable = false)]
    mode: Option<ApiKeyMode>,
    /// By default, all that a key of this kind may have.
    #[schema(value_type = Option<Vec<schemas::ApiKeyScope>>, nullable = false)]
    scopes: Option<Vec<ApiKeyScope>>,
    /// The products whose licenses the key may be used for: 1 to 100 of one tenant.
    product_ids: Vec<Uuid>,
    /// When the key expires, within 10 years. By default, it does not.
    expires_at: Option<DateTime<Utc>>,
}

/// Create an API key
///
/// The response has the key in `key`, which is not shown again. You must manage all of its products.
#[utoipa::path(post, path = "/api-keys", tag = "api keys", security(("bearer" = [])),
    request_body = CreateApiKeyRequest, responses((status = 201, body = CreatedApiKeyView), Refusals))]
pub(crate) async fn create(
    State(app): State<App>,
    SignedIn(caller): SignedIn,
    JsonBody(form): JsonBody<CreateApiKeyRequest>,
) -> StatusResult<CreatedApiKeyView> {
    let new = NewApiKey {
        name: form.name,
        kind: form.kind,
        mode: form.mode.unwrap_or(ApiKeyMode::Live),
        scopes: form.scopes,
        products: form.product_ids.into_iter().map(ProductId).collect(),
        expires_at: form.expires_at,
    };
    Ok(created(api_keys::create(&app.core, &caller, new).await?))
}

/// How to rotate an API key.
#[derive(Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct RotateApiKeyRequest {
    /// How long the former key works beside the new one, in seconds. 86400 (24 hours) by default; 0 ends it at once.
    #[schema(nullable = false, maximum = 2_592_000)]
    overlap_seconds: Option<u64>,
}

/// Rotate an API key
///
/// Creates a key with the same settings, and the same lifetime from now on. The former key expires after the overlap.
#[utoipa::path(post, path = "/api-keys/{id}/rotate", tag = "api keys", security(("bearer" = [])),
    params(("id" = Uuid, Path)), request_body = Option<RotateApiKeyRequest>,
    responses((status = 201, body = CreatedApiKeyView), Refusals))]
pub(crate) async fn rotate(
    State(app): State<App>,
    SignedIn(caller): SignedIn,
    PathParams(id): PathParams<Uuid>,
    OptionalJson(form): OptionalJson<RotateApiKeyRequest>,
) -> StatusResult<CreatedApiKeyView> {
    let overlap = form.overlap_seconds.map_or(api_keys::DEFAULT_OVERLAP, Duration::from_secs);
    Ok(created(api_keys::rotate(&app.core, &caller, &id.to_string(), overlap).await?))
}

/// Revoke an API key
///
/// Requests with the key are refused at once. The key is named by its ID or by its `hint`.
#[utoipa::path(delete, path = "/api-keys/{id}", tag = "api keys", security(("bearer" = [])),
    params(("id" = String, Path)), responses((status = 204), Refusals))]
pub(crate) async fn revoke(
    State(app): State<App>,
    SignedIn(caller): SignedIn,
    PathParams(id): PathParams<String>,
) -> Result<StatusCode, Problem> {
    api_keys::revoke(&app.core, &caller, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}
