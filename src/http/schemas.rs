//! The closed sets of strings in the OpenAPI document. Core declares them and does not know OpenAPI.

use dca_core::outbox::{DeliveryKind as CoreDeliveryKind, DeliveryState as CoreDeliveryState};
use dca_core::{crypto::api_key, licenses, policy, users};
use serde_json::json;
use utoipa::openapi::{ObjectBuilder, RefOr, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

macro_rules! string_schemas {
    ($($name:ident: $type:ty = $doc:literal),* $(,)?) => {$(
        #[doc = $doc]
        pub enum $name {}

        impl PartialSchema for $name {
            fn schema() -> RefOr<Schema> {
                let values = <$type>::ALL.iter().map(|value| value.as_str());
                ObjectBuilder::new().schema_type(Type::String).description(Some($doc)).enum_values(Some(values)).into()
            }
        }

        impl ToSchema for $name {}
    )*};
}

string_schemas! {
    AccountStatus: users::AccountStatus = "The status of an account.",
    ApiKeyKind: api_key::ApiKeyKind = "Where an API key may be used.",
    ApiKeyMode: api_key::ApiKeyMode = "Whether an API key works with real licenses, or with test keys only.",
    ApiKeyScope: dca_core::api_key_scopes::ApiKeyScope = "What an API key may be used for.",
    Code: dca_core::Code = "The code of a problem. `/errors` describes each one.",
    DeliveryKind: CoreDeliveryKind = "What a delivery sends.",
    DeliveryState: CoreDeliveryState = "The state of a delivery.",
    LicenseState: licenses::LicenseState = "The state of a license.",
    LicenseType: policy::LicenseType = "The type of a license: a preset of terms.",
    Locale: users::Locale = "The language of emails.",
    Provider: users::Provider = "A sign-in provider.",
    Role: users::Role = "The role of a user, from lowest to highest.",
    SignInMethod: users::SignInMethod = "How a user signed in.",
    VerdictCode: licenses::VerdictCode = "`VALID`, or why the license is not valid.",
    Warning: licenses::Warning = "What the user of a valid license should know.",
}

/// The terms of a policy. Core declares them too; `docs/POLICIES.md` describes each member.
pub enum PolicyTerms {}

impl PartialSchema for PolicyTerms {
    fn schema() -> RefOr<Schema> {
        let description =
            "The terms of licenses. The example has the defaults; docs/POLICIES.md describes each member.";
        let example = json!(policy::PolicyTerms::default());
        ObjectBuilder::new().schema_type(Type::Object).description(Some(description)).examples([example]).into()
    }
}

impl ToSchema for PolicyTerms {}
