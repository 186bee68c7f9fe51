//! What an API key may be used for.

use serde::{Deserialize, Serialize};

use crate::crypto::api_key::ApiKeyKind;
use crate::string_enum::string_enum;

string_enum! {
    /// One thing that an API key may be used for, with the licenses of its products.
    ApiKeyScope {
        /// Validate licenses.
        Validate => "licenses:validate",
        /// Activate devices.
        Activate => "licenses:activate",
        /// Deactivate the device that makes the request.
        Deactivate => "licenses:deactivate",
        /// Open, renew and end floating sessions.
        Heartbeat => "licenses:heartbeat",
        /// Count usage.
        Usage => "licenses:usage",
        /// Read licenses, devices, products and policies.
        Read => "licenses:read",
        /// Issue and change licenses.
        Write => "licenses:write",
    }
}

impl ApiKeyScope {
    /// The scopes that a publishable key may have.
    pub const PUBLISHABLE: &'static [Self] =
        &[Self::Validate, Self::Activate, Self::Deactivate, Self::Heartbeat, Self::Usage];

    /// All scopes that a key of this kind may have, which are those it gets by default.
    pub const fn of(kind: ApiKeyKind) -> &'static [Self] {
        match kind {
            ApiKeyKind::Publishable => Self::PUBLISHABLE,
            ApiKeyKind::Secret => Self::ALL,
        }
    }
}

/// The scopes of an API key, as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, sea_orm::FromJsonQueryResult)]
pub struct ApiKeyScopes(pub Vec<ApiKeyScope>);
