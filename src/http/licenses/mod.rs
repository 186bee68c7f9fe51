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
