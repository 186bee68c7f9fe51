//! Test keys, for the integration of an app.

use axum::extract::State;
use dca_core::ids::ProductId;
use dca_core::licenses::{self, VerdictCode};

use crate::http::extract::Authenticated;
use crate::http::prelude::*;
use crate::http::problem::Refusals;

/// A license key that always gives the same verdict.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TestKeyView {
    #[schema(value_type = schemas::VerdictCode)]
    code: VerdictCode,
    #[schema(example = "STUDIO-4000-0000-0000-0000-0000-0000-0XNF")]
    license_key: String,
}

/// List the test keys of a product
///
/// With an API key whose mode is `test`, each of these license keys always gives the verdict `code`. A live API key does
/// not find them.
#[utoipa::path(get, path = "/products/{id}/test-keys", tag = "licenses", security(("api_key" = []), ("bearer" = [])),
    params(("id" = Uuid, Path)), responses((status = 200, body = [TestKeyView]), Refusals))]
pub(crate) async fn test_keys(
    State(app): State<App>,
    Authenticated(caller): Authenticated,
    PathParams(id): PathParams<Uuid>,
) -> JsonResult<Vec<TestKeyView>> {
    let keys = licenses::test_keys(&app.core, &caller, ProductId(id)).await?;
    Ok(Json(keys.into_iter().map(|(code, license_key)| TestKeyView { code, license_key }).collect()))
}
