//! Products and their policies.

use axum::http::{HeaderName, StatusCode};
use axum::{Json, extract::State};
use chrono::{DateTime, Utc};
use dca_core::ids::{PolicyId, ProductId, TenantId};
use dca_core::policy::{PolicyPatch, PolicyTerms};
use dca_core::products::{self, Changed, Policy, Product};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::{router::OpenApiRouter, routes};
use uuid::Uuid;

use super::extract::{Authenticated, JsonBody, PathParams};
use super::paging::{PageResult, PageView, Paging};
use super::precondition::{Precondition, etag};
use super::problem::{JsonResult, Problem, Refusals};
use super::schemas;
use crate::App;

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list, create))
        .routes(routes!(get, rename))
        .routes(routes!(policies, change_policy))
        .routes(routes!(policy))
}

/// One version of a product's policy, or the terms of single licenses.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct PolicyView {
    id: Uuid,
    product_id: Uuid,
    /// The number of the version. `null` for the terms of single licenses.
    version: Option<i32>,
    #[schema(value_type = schemas::PolicyTerms)]
    terms: PolicyTerms,
    created_at: DateTime<Utc>,
}

impl From<Policy> for PolicyView {
    fn from(policy: Policy) -> Self {
        let Policy { id, product_id, version, terms, created_at } = policy;
        Self { id: id.0, product_id: product_id.0, version, terms, created_at }
    }
}

/// A product.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ProductView {
    id: Uuid,
    tenant_id: Uuid,
    name: String,
    /// What its license keys begin with.
    #[schema(example = "STUDIO")]
    prefix: String,
    /// The current version of its policy.
    policy_id: Uuid,
    created_at: DateTime<Utc>,
}

impl From<Product> for ProductView {
    fn from(product: Product) -> Self {
        let Product { id, tenant_id, name, prefix, policy_id, created_at, .. } = product;
        Self { id: id.0, tenant_id: tenant_id.0, name, prefix, policy_id: policy_id.0, created_at }
    }
}

/// A product with its current policy.
#[derive(Serialize, ToSchema)]
struct ProductDetails {
    #[serde(flatten)]
    product: ProductView,
    policy: PolicyView,
}

/// A product as a handler returns it, with its revision.
type ProductResponse = (StatusCode, [(HeaderName, String); 1], Json<ProductDetails>);

type ProductResult = Result<ProductResponse, Problem>;

fn details(status: StatusCode, product: Product, policy: Policy) -> ProductResponse {
    let tag = etag(product.rev);
    (status, tag, Json(ProductDetails { product: product.into(), policy: policy.into() }))
}

/// List products
///
/// Those that you manage or, for an API key with the scope `licenses:read`, those that it covers.
#[utoipa::path(get, path = "/products", tag = "products", security(("api_key" = []), ("bearer" = [])),
    params(Paging), responses((status = 200, body = PageView<ProductView>), Refusals))]
async fn list(State(app): State<App>, Authenticated(caller): Authenticated, paging: Paging) -> PageResult<ProductView> {
    let page = products::list(&app.core, &caller, &paging.request).await?;
    Ok(paging.render(page))
}

/// A new product.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct CreateProductRequest {
    #[schema(example = "Studio")]
    name: String,
    /// What its license keys begin with: 2 to 8 letters or digits. It never changes. By default, it resembles the name.
    prefix: Option<String>,
    /// The tenant that owns the product. Required unless you manage exactly one.
    #[schema(value_type = Option<Uuid>)]
    tenant_id: Option<TenantId>,
    /// The preset that the policy begins with. `STANDARD`, `PREMIUM`, `ENTERPRISE` and `LIFETIME` are accepted too.
    #[serde(rename = "type")]
    license_type: Option<String>,
    /// The members of the policy that differ.
    #[schema(value_type = Option<schemas::PolicyTerms>)]
    policy: Option<PolicyPatch>,
}

/// Create a product
///
/// For admins, and managers of a Discord server; API keys create no products.
#[utoipa::path(post, path = "/products", tag = "products", security(("bearer" = [])),
    request_body = CreateProductRequest, responses((status = 201, body = ProductDetails), Refusals))]
async fn create(
    State(app): State<App>,
    Authenticated(caller): Authenticated,
    JsonBody(form): JsonBody<CreateProductRequest>,
) -> ProductResult {
    let patch = form.policy.unwrap_or_default().of_type(form.license_type)?;
    let created =
        products::create(&app.core, &caller, form.tenant_id, &form.name, form.prefix.as_deref(), &patch).await?;
    Ok(details(StatusCode::CREATED, created.product, created.policy))
}

/// Retrieve a product
#[utoipa::path(get, path = "/products/{id}", tag = "products", security(("api_key" = []), ("bearer" = [])),
    params(("id" = Uuid, Path)), responses((status = 200, body = ProductDetails), Refusals))]
async fn get(
    State(app): State<App>,
    Authenticated(caller): Authenticated,
    PathParams(id): PathParams<ProductId>,
) -> ProductResult {
    let (product, policy) = products::read(&app.core, &caller, id).await?;
    Ok(details(StatusCode::OK, product, policy))
}

/// The fields to change.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct RenameProductRequest {
    #[schema(example = "Studio Pro")]
    name: String,
}

/// Rename a product
#[utoipa::path(patch, path = "/products/{id}", tag = "products", security(("api_key" = []), ("bearer" = [])),
    params(("id" = Uuid, Path), Precondition), request_body = RenameProductRequest,
    responses((status = 200, body = ProductDetails), Refusals))]
async fn rename(
    State(app): State<App>,
    Authenticated(caller): Authenticated,
    PathParams(id): PathParams<ProductId>,
    Precondition(if_match): Precondition,
    JsonBody(form): JsonBody<RenameProductRequest>,
) -> ProductResult {
    let renamed = products::rename(&app.core, &caller, id, &form.name, &if_match).await?;
    Ok(details(StatusCode::OK, renamed.product, renamed.policy))
}

/// List the versions of a product's policy
#[utoipa::path(get, path = "/products/{id}/policies", tag = "products", security(("api_key" = []), ("bearer" = [])),
    params(("id" = Uuid, Path), Paging), responses((status = 200, body = PageView<PolicyView>), Refusals))]
async fn policies(
    State(app): State<App>,
    Authenticated(caller): Authenticated,
    PathParams(id): PathParams<ProductId>,
    paging: Paging,
) -> PageResult<PolicyView> {
    let page = products::versions(&app.core, &caller, id, &paging.request).await?;
    Ok(paging.render(page))
}

/// A change of a policy.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
struct ChangePolicyRequest {
    /// The preset to begin with instead of the current policy.
    #[serde(rename = "type")]
    license_type: Option<String>,
    /// The members that change, as a JSON merge patch (RFC 7396): `null` restores the default of a member.
    #[schema(value_type = Option<schemas::PolicyTerms>)]
    policy: Option<PolicyPatch>,
}

/// Change the policy of a product
///
/// Adds a version for new licenses; existing licenses keep theirs. Status 200 if the terms stay the same.
/// `If-Match` and `ETag` are about the product.
#[utoipa::path(post, path = "/products/{id}/policies", tag = "products", security(("api_key" = []), ("bearer" = [])),
    params(("id" = Uuid, Path), Precondition), request_body = ChangePolicyRequest,
    responses((status = 201, body = PolicyView), (status = 200, body = PolicyView), Refusals))]
async fn change_policy(
    State(app): State<App>,
    Authenticated(caller): Authenticated,
    PathParams(id): PathParams<ProductId>,
    Precondition(if_match): Precondition,
    JsonBody(form): JsonBody<ChangePolicyRequest>,
) -> Result<(StatusCode, [(HeaderName, String); 1], Json<PolicyView>), Problem> {
    let patch = form.policy.unwrap_or_default().of_type(form.license_type)?;
    let Changed { product, policy, is_new } =
        products::change_policy(&app.core, &caller, id, &patch, &if_match).await?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, etag(product.rev), Json(policy.into())))
}

/// Retrieve a policy
#[utoipa::path(get, path = "/policies/{id}", tag = "products", security(("api_key" = []), ("bearer" = [])),
    params(("id" = Uuid, Path)), responses((status = 200, body = PolicyView), Refusals))]
async fn policy(
    State(app): State<App>,
    Authenticated(caller): Authenticated,
    PathParams(id): PathParams<PolicyId>,
) -> JsonResult<PolicyView> {
    Ok(Json(products::policy(&app.core, &caller, id).await?.into()))
}
