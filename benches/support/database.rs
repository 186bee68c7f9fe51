//! Databases of their own on the server of `TEST_DATABASE_URL`.

use std::collections::BTreeMap;

use dca_core::Ids;
use sea_orm_migration::sea_orm::{ConnectionTrait, Database, DatabaseConnection};

use super::BenchResult;

/// A PostgreSQL database; [`Postgres::delete`] deletes it.
pub struct Postgres {
    admin: DatabaseConnection,
    pub name: String,
    pub url: String,
}

impl Postgres {
    /// Creates one; `None` if there is no server.
    pub async fn create() -> BenchResult<Option<Self>> {
        let Ok(server) = std::env::var("TEST_DATABASE_URL") else { return Ok(None) };
        let admin = Database::connect(&server).await?;
        let name = format!("dca_bench_{}", Ids::system().v4().simple());
        admin.execute_unprepared(&format!("CREATE DATABASE {name}")).await?;
        let base = server.rsplit_once('/').ok_or("TEST_DATABASE_URL names no database")?.0;
        Ok(Some(Self { url: format!("{base}/{name}"), admin, name }))
    }

    pub fn configure(&self, env: &mut BTreeMap<String, String>) {
        env.insert("DCA_DATABASE_URL".to_owned(), self.url.clone());
    }

    pub async fn delete(self) -> BenchResult<()> {
        self.admin.execute_unprepared(&format!("DROP DATABASE {} WITH (FORCE)", self.name)).await?;
        Ok(())
    }
}
