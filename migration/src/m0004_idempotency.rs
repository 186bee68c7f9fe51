//! Idempotency keys.

use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{uuid, var_binary};

use crate::m0001_licensing::{index, timestamp, timestamp_null};

/// Creates the table of idempotency keys.
#[derive(Debug)]
pub struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0004_idempotency"
    }
}

const TABLE: &str = "idempotency_keys";

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        let table = Table::create()
            .table(TABLE)
            .col(uuid("id").primary_key())
            .col(var_binary("operation", 32))
            .col(var_binary("request", 32))
            .col(timestamp("created_at"))
            .col(timestamp("lease_until"))
            .col(timestamp_null("committed_at"))
            .col(ColumnDef::new("response_sealed").blob().null())
            .to_owned();
        manager.create_table(table).await?;
        manager.create_index(index(TABLE, &["operation"]).unique().to_owned()).await?;
        manager.create_index(index(TABLE, &["created_at"])).await
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        manager.drop_table(Table::drop().table(TABLE).to_owned()).await
    }
}
