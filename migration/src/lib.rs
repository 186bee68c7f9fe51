//! The schema, for `SQLite` and Postgres from one source.
//!
//! Rules: additive once released; no column defaults and no SQL clock (the application binds every
//! value, so that tests own time); a uniqueness the product relies on is an index here, not a hope.

mod m0001_spine;

pub use sea_orm_migration::prelude::*;

/// Runs the migrations, in order.
#[derive(Debug)]
pub struct Migrator;

impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![Box::new(m0001_spine::Migration)]
    }
}
