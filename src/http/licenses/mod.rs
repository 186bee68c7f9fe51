//! Licenses: for apps, their owners, and those who manage them.

pub(super) mod details;
pub(super) mod devices;
pub(super) mod files;
pub(super) mod leases;
pub(super) mod manage;
mod questions;
pub(super) mod test_keys;
pub(super) mod usage;
pub(super) mod validate;
pub(super) mod views;

use std::collections::BTreeMap;

use utoipa::IntoResponses;
use utoipa::openapi::{RefOr, Response};

use super::problem;

/// The problems that a route for licenses may return.
pub(super) struct Refusals;

impl IntoResponses for Refusals {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        problem::responses(&[400, 401, 403, 404, 409, 413, 415, 422, 429, 503])
    }
}
