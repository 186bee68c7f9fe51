//! The signed lists of the keys that sign verdicts.

use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{big_integer, text, var_binary};

use crate::m0001_licensing::timestamp;

/// Creates the table of key lists.
#[derive(Debug)]
pub struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0003_key_lists"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let table = Table::create()
            .table("key_lists")
            .col(big_integer("seq").primary_key())
            .col(var_binary("root_key", 32))
            .col(text("jws"))
            .col(timestamp("expires_at"))
            .to_owned();
        manager.create_table(table).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.drop_table(Table::drop().table("key_lists").to_owned()).await
    }
}
