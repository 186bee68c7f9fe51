//! The OpenAPI document: what the attributes of the handlers do not say.

use std::{collections::BTreeMap, sync::LazyLock};

use axum::body::Bytes;
use axum::http::{Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{Content, Ref, RefOr, Response as ResponseDoc, ResponseBuilder, Schema};
use utoipa::{Modify, OpenApi};

use super::{problem, schemas};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "DCA-Auth",
        description = "Validate license keys of Discord communities, and manage user accounts. `/errors` describes \
                       every error code.",
        license(name = "MIT", identifier = "MIT")
    ),
    tags(
        (name = "licenses", description = "Validation of license keys, for apps."),
        (name = "api keys", description = "The credentials of apps, for those who manage their products."),
        (name = "products", description = "Products and their policies, for those who manage them."),
        (name = "accounts", description = "Sign-up, sign-in, sessions and the signed-in user's own account."),
        (name = "administration", description = "Users, sessions, roles and deliveries, for admins."),
        (name = "operations", description = "Health checks and metrics."),
    ),
    components(schemas(problem::Document<'_>, schemas::Provider)),
    modifiers(&SharedComponents)
)]
pub(super) struct Doc;

struct SharedComponents;

impl Modify for SharedComponents {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        let components = api.components.get_or_insert_default();
        let header = SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::new("X-API-Key")));
        components.add_security_scheme("api_key", header);
        let bearer = SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build());
        components.add_security_scheme("bearer", bearer);
        let content = Content::new(Some(Ref::from_schema_name("Problem")));
        let response = ResponseBuilder::new().description("A problem (RFC 9457)");
        let response = response.content("application/problem+json", content).build();
        components.responses.insert("Problem".to_owned(), response.into());
    }
}

/// Retrieves the document, which is generated and serialized once.
pub(super) async fn document() -> Response {
    static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| super::openapi().to_json().unwrap_or_default().into());
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT.clone()).into_response()
}

/// Gives every operation an ID from its method and path, which do not change, and every response a description.
pub(super) fn complete(mut api: utoipa::openapi::OpenApi) -> utoipa::openapi::OpenApi {
    let schemas = api.components.get_or_insert_default().schemas.clone();
    for (path, item) in &mut api.paths.paths {
        for (method, operation) in of_path(item) {
            operation.operation_id = Some(operation_id(&method, path));
            for (status, response) in &mut operation.responses.responses {
                if let RefOr::T(response) = response
                    && response.description.is_empty()
                {
                    response.description = describe(&schemas, status, response);
                }
            }
        }
    }
    api
}

/// All operations of a document.
pub(super) fn operations(api: &mut utoipa::openapi::OpenApi) -> impl Iterator<Item = (Method, &mut Operation)> {
    api.paths.paths.values_mut().flat_map(of_path)
}

fn of_path(item: &mut PathItem) -> impl Iterator<Item = (Method, &mut Operation)> {
    let all = [
        (Method::GET, &mut item.get),
        (Method::POST, &mut item.post),
        (Method::PUT, &mut item.put),
        (Method::PATCH, &mut item.patch),
        (Method::DELETE, &mut item.delete),
    ];
    all.into_iter().filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}

/// For example `deleteAuthSessionsId` for `DELETE /auth/sessions/{id}`.
fn operation_id(method: &Method, path: &str) -> String {
    let words = path.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let capitalized = words.map(|word| word[..1].to_ascii_uppercase() + &word[1..]);
    method.as_str().to_ascii_lowercase() + &capitalized.collect::<String>()
}

/// The description of the response's schema, or else the meaning of the status.
fn describe(schemas: &BTreeMap<String, RefOr<Schema>>, status: &str, response: &ResponseDoc) -> String {
    let content = response.content.values().next().and_then(|content| match content {
        RefOr::T(content) => content.schema.as_ref(),
        RefOr::Ref(_) => None,
    });
    let schema = content.and_then(|schema| match schema {
        RefOr::Ref(shared) => schemas.get(shared.ref_location.rsplit('/').next()?),
        schema @ RefOr::T(_) => Some(schema),
    });
    let description = match schema {
        Some(RefOr::T(Schema::Object(object))) => object.description.clone(),
        Some(RefOr::T(Schema::AllOf(parts))) => parts.description.clone(),
        _ => None,
    };
    let reason = status.parse().ok().and_then(|status: StatusCode| status.canonical_reason());
    description.unwrap_or_else(|| reason.unwrap_or("Success").to_owned())
}
