//! Tenants, guilds, products, entitlements, licenses, API keys, the event log, the outbox and workers.

use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::{
    big_integer, big_integer_null, blob, boolean, integer, integer_null, json_binary, json_binary_null,
};
use sea_orm_migration::schema::{text, text_null, timestamp_with_time_zone, timestamp_with_time_zone_null, uuid};
use sea_orm_migration::schema::{uuid_null, var_binary};

/// Creates the licensing tables.
#[derive(Debug)]
pub struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0001_licensing"
    }
}

pub(crate) fn timestamp(column: &str) -> ColumnDef {
    timestamp_with_time_zone(column.to_owned())
}

pub(crate) fn timestamp_null(column: &str) -> ColumnDef {
    timestamp_with_time_zone_null(column.to_owned())
}

/// A foreign key with `ON DELETE CASCADE`.
pub(crate) fn foreign_key_to(table: &str, column: &str, parent: &str) -> ForeignKeyCreateStatement {
    ForeignKey::create()
        .from(table.to_owned(), column.to_owned())
        .to(parent.to_owned(), "id")
        .on_delete(ForeignKeyAction::Cascade)
        .to_owned()
}

/// A foreign key to a user who cannot be deleted while the row exists, so that no license is lost by accident.
fn owner_key(table: &str) -> ForeignKeyCreateStatement {
    foreign_key_to(table, "user_id", "users").on_delete(ForeignKeyAction::Restrict).to_owned()
}

pub(crate) fn index(table: &str, columns: &[&str]) -> IndexCreateStatement {
    let mut index = Index::create();
    index.table(table.to_owned()).name(format!("{table}_{}", columns.join("_")));
    for column in columns {
        index.col((*column).to_owned());
    }
    index
}

#[expect(clippy::too_many_lines, reason = "the schema is easier to read in one place")]
fn tables() -> Vec<TableCreateStatement> {
    vec![
        Table::create()
            .table("tenants")
            .col(uuid("id").primary_key())
            .col(text("name"))
            .col(timestamp("created_at"))
            .to_owned(),
        Table::create()
            .table("guilds")
            .col(big_integer("id").primary_key())
            .col(uuid("tenant_id"))
            .col(text("name"))
            .col(big_integer_null("log_channel_id"))
            .col(timestamp_null("left_at"))
            .col(integer("failed_reads"))
            .col(timestamp_null("next_read_at"))
            .col(timestamp("created_at"))
            .foreign_key(&mut foreign_key_to("guilds", "tenant_id", "tenants"))
            .to_owned(),
        Table::create()
            .table("circuit_breakers")
            .col(text("origin").primary_key())
            .col(uuid("tenant_id"))
            .col(timestamp("opened_at"))
            .col(timestamp_null("confirmed_until"))
            .col(integer("ending"))
            .col(integer("holders"))
            .col(json_binary("losses"))
            .foreign_key(&mut foreign_key_to("circuit_breakers", "tenant_id", "tenants"))
            .to_owned(),
        Table::create().table("users").col(uuid("id").primary_key()).col(timestamp("created_at")).to_owned(),
        Table::create()
            .table("identities")
            .col(text("provider"))
            .col(text("subject"))
            .col(uuid("user_id"))
            .col(timestamp("created_at"))
            .primary_key(Index::create().col("provider").col("subject"))
            .foreign_key(&mut foreign_key_to("identities", "user_id", "users"))
            .to_owned(),
        Table::create()
            .table("holders")
            .col(uuid("tenant_id"))
            .col(uuid("user_id"))
            .primary_key(Index::create().col("tenant_id").col("user_id"))
            .foreign_key(&mut foreign_key_to("holders", "tenant_id", "tenants"))
            .foreign_key(&mut owner_key("holders"))
            .to_owned(),
        Table::create()
            .table("products")
            .col(uuid("id").primary_key())
            .col(uuid("tenant_id"))
            .col(text("name"))
            .col(text("folded_name"))
            .col(text("prefix"))
            .col(text("folded_prefix"))
            .col(uuid("policy_id"))
            .col(timestamp("created_at"))
            .col(big_integer("rev"))
            .foreign_key(&mut foreign_key_to("products", "tenant_id", "tenants"))
            .index(Index::create().name("products_name").unique().col("tenant_id").col("folded_name"))
            .index(Index::create().name("products_prefix").unique().col("tenant_id").col("folded_prefix"))
            .to_owned(),
        Table::create()
            .table("policies")
            .col(uuid("id").primary_key())
            .col(uuid("product_id"))
            .col(integer_null("version"))
            .col(json_binary("terms"))
            .col(timestamp("created_at"))
            .foreign_key(&mut foreign_key_to("policies", "product_id", "products"))
            .index(Index::create().name("policies_version").unique().col("product_id").col("version"))
            .to_owned(),
        Table::create()
            .table("role_mappings")
            .col(uuid("id").primary_key())
            .col(uuid("tenant_id"))
            .col(big_integer("guild_id"))
            .col(big_integer("role_id"))
            .col(uuid("product_id"))
            .col(text("announce"))
            .col(timestamp_null("applied_at"))
            .col(timestamp_null("role_deleted_at"))
            .col(timestamp_null("removed_at"))
            .col(timestamp("created_at"))
            .foreign_key(&mut foreign_key_to("role_mappings", "tenant_id", "tenants"))
            .foreign_key(&mut foreign_key_to("role_mappings", "guild_id", "guilds"))
            .foreign_key(&mut foreign_key_to("role_mappings", "product_id", "products"))
            .to_owned(),
        Table::create()
            .table("entitlement_sources")
            .col(uuid("id").primary_key())
            .col(uuid("tenant_id"))
            .col(uuid("user_id"))
            .col(uuid("product_id"))
            .col(text("kind"))
            .col(uuid("reference"))
            .col(big_integer("stamp"))
            .col(timestamp("live_since"))
            .col(timestamp_null("ends_at"))
            .col(boolean("suppressed"))
            .foreign_key(&mut foreign_key_to("entitlement_sources", "tenant_id", "tenants"))
            .foreign_key(&mut owner_key("entitlement_sources"))
            .foreign_key(&mut foreign_key_to("entitlement_sources", "product_id", "products"))
            .index(
                Index::create()
                    .name("entitlement_sources_reference")
                    .unique()
                    .col("user_id")
                    .col("product_id")
                    .col("reference"),
            )
            .to_owned(),
        Table::create()
            .table("licenses")
            .col(uuid("id").primary_key())
            .col(uuid("tenant_id"))
            .col(uuid("product_id"))
            .col(uuid("policy_id"))
            .col(uuid_null("user_id"))
            .col(text_null("name"))
            .col(json_binary("metadata"))
            .col(var_binary("key_lookup", 32).unique_key())
            .col(blob("key_sealed"))
            .col(text("key_hint"))
            .col(integer("key_epoch"))
            .col(timestamp("created_at"))
            .col(timestamp_null("assigned_at"))
            .col(timestamp_null("activated_at"))
            .col(timestamp_null("first_valid_at"))
            .col(timestamp_null("last_seen_at"))
            .col(timestamp_null("renewed_at"))
            .col(timestamp_null("transferred_at"))
            .col(timestamp_null("expires_at"))
            .col(timestamp_null("lapses_at"))
            .col(timestamp_null("lapse_seen_at"))
            .col(timestamp_null("suspended_at"))
            .col(text_null("suspend_reason"))
            .col(text("on_source_lost"))
            .col(timestamp_null("sources_end_at"))
            .col(timestamp_null("revoked_at"))
            .col(text_null("revoke_reason"))
            .col(big_integer("rev"))
            .foreign_key(&mut foreign_key_to("licenses", "tenant_id", "tenants"))
            .foreign_key(&mut foreign_key_to("licenses", "product_id", "products"))
            .foreign_key(&mut foreign_key_to("licenses", "policy_id", "policies"))
            .foreign_key(&mut owner_key("licenses"))
            .to_owned(),
        Table::create()
            .table("devices")
            .col(uuid("id").primary_key())
            .col(uuid("license_id"))
            .col(var_binary("fingerprint", 32))
            .col(json_binary("components"))
            .col(text_null("name"))
            .col(text_null("platform"))
            .col(text_null("app_version"))
            .col(timestamp("activated_at"))
            .col(timestamp("last_seen_at"))
            .foreign_key(&mut foreign_key_to("devices", "license_id", "licenses"))
            .index(Index::create().name("devices_fingerprint").unique().col("license_id").col("fingerprint"))
            .to_owned(),
        Table::create()
            .table("leases")
            .col(uuid("id").primary_key())
            .col(uuid("license_id"))
            .col(uuid_null("device_id"))
            .col(big_integer("seq"))
            .col(text_null("nonce"))
            .col(timestamp("opened_at"))
            .col(timestamp("expires_at"))
            .col(timestamp_null("superseded_at"))
            .foreign_key(&mut foreign_key_to("leases", "license_id", "licenses"))
            .to_owned(),
        Table::create()
            .table("device_resets")
            .col(uuid("id").primary_key())
            .col(uuid("license_id"))
            .col(text("kind"))
            .col(text("actor"))
            .col(integer("devices"))
            .col(timestamp("at"))
            .foreign_key(&mut foreign_key_to("device_resets", "license_id", "licenses"))
            .to_owned(),
        Table::create()
            .table("license_usage")
            .col(uuid("license_id"))
            .col(text("quota"))
            .col(timestamp("period_start"))
            .col(big_integer("used"))
            .primary_key(Index::create().col("license_id").col("quota").col("period_start"))
            .foreign_key(&mut foreign_key_to("license_usage", "license_id", "licenses"))
            .to_owned(),
        Table::create()
            .table("bans")
            .col(uuid("id").primary_key())
            .col(uuid("tenant_id"))
            .col(uuid_null("product_id"))
            .col(uuid_null("user_id"))
            .col(ColumnDef::new("fingerprint").var_binary(32))
            .col(text("reason"))
            .col(text("actor"))
            .col(timestamp("created_at"))
            .col(timestamp_null("expires_at"))
            .col(timestamp_null("lifted_at"))
            .foreign_key(&mut foreign_key_to("bans", "tenant_id", "tenants"))
            .foreign_key(&mut foreign_key_to("bans", "product_id", "products"))
            .foreign_key(&mut foreign_key_to("bans", "user_id", "users"))
            .to_owned(),
        Table::create()
            .table("events")
            .col(big_integer("seq").primary_key())
            .col(uuid("tenant_id"))
            .col(text("kind"))
            .col(uuid_null("subject"))
            .col(uuid_null("license_id"))
            .col(text("actor"))
            .col(json_binary_null("before"))
            .col(json_binary_null("after"))
            .col(text_null("request_id"))
            .col(timestamp("at"))
            .to_owned(),
        Table::create().table("event_head").col(integer("id").primary_key()).col(big_integer("seq")).to_owned(),
        Table::create().table("cursors").col(text("name").primary_key()).col(big_integer("seq")).to_owned(),
        Table::create()
            .table("outbox")
            .col(uuid("id").primary_key())
            .col(text("kind"))
            .col(text("transport"))
            .col(text("ordering_key"))
            .col(text("dedupe_key").unique_key())
            .col(json_binary("payload"))
            .col(timestamp("due_at"))
            .col(timestamp_null("expires_at"))
            .col(integer("attempt"))
            .col(big_integer("lease_token"))
            .col(timestamp_null("lease_until"))
            .col(text("state"))
            .col(text_null("last_error"))
            .col(timestamp("created_at"))
            .to_owned(),
        Table::create()
            .table("workers")
            .col(text("name").primary_key())
            .col(timestamp("due_at"))
            .col(timestamp_null("lease_until"))
            .col(big_integer("token"))
            .col(uuid_null("holder"))
            .col(timestamp_null("last_run"))
            .col(text_null("last_result"))
            .to_owned(),
        Table::create().table("gateway_identifies").col(uuid("id").primary_key()).col(timestamp("sent_at")).to_owned(),
        Table::create()
            .table("keyring")
            .col(uuid("id").primary_key())
            .col(text("purpose"))
            .col(integer("generation"))
            .col(blob("sealed"))
            .col(timestamp("not_before"))
            .col(timestamp_null("not_after"))
            .index(Index::create().name("keyring_generation").unique().col("purpose").col("generation"))
            .to_owned(),
        Table::create()
            .table("api_keys")
            .col(uuid("id").primary_key())
            .col(uuid("tenant_id"))
            .col(text("name"))
            .col(text("kind"))
            .col(var_binary("lookup", 32).unique_key())
            .col(text("hint"))
            .col(text("mode"))
            .col(json_binary("scopes"))
            .col(text("created_by"))
            .col(timestamp("created_at"))
            .col(timestamp_null("last_used_at"))
            .col(timestamp_null("expires_at"))
            .col(uuid_null("replaced_by"))
            .col(timestamp_null("revoked_at"))
            .foreign_key(&mut foreign_key_to("api_keys", "tenant_id", "tenants"))
            .to_owned(),
        Table::create()
            .table("api_key_products")
            .col(uuid("api_key_id"))
            .col(uuid("product_id"))
            .primary_key(Index::create().col("api_key_id").col("product_id"))
            .foreign_key(&mut foreign_key_to("api_key_products", "api_key_id", "api_keys"))
            .foreign_key(&mut foreign_key_to("api_key_products", "product_id", "products"))
            .to_owned(),
    ]
}

fn indexes() -> Vec<IndexCreateStatement> {
    vec![
        index("identities", &["user_id", "provider", "subject"]),
        index("guilds", &["tenant_id"]),
        index("role_mappings", &["guild_id"]),
        index("holders", &["user_id"]),
        index("entitlement_sources", &["reference", "user_id"]),
        index("entitlement_sources", &["stamp"]),
        index("licenses", &["tenant_id", "user_id"]),
        index("licenses", &["user_id"]),
        index("licenses", &["tenant_id", "id"]),
        index("licenses", &["product_id", "id"]),
        index("leases", &["license_id", "expires_at"]),
        index("leases", &["expires_at"]),
        index("device_resets", &["license_id", "at"]),
        index("bans", &["tenant_id", "id"]),
        index("bans", &["user_id"]),
        index("bans", &["fingerprint"]),
        index("api_keys", &["tenant_id", "id"]),
        index("events", &["tenant_id", "seq"]),
        index("events", &["at"]),
        index("outbox", &["kind", "due_at"]),
        index("outbox", &["state", "due_at"]),
    ]
}

/// Partial indexes, which the query builder does not support. The SQL works on both databases.
const PARTIAL_INDEXES: [&str; 7] = [
    // At most one license per user and product that is not revoked.
    "CREATE UNIQUE INDEX licenses_unrevoked ON licenses (user_id, product_id) \
     WHERE revoked_at IS NULL AND user_id IS NOT NULL",
    "CREATE UNIQUE INDEX role_mappings_live ON role_mappings (guild_id, role_id, product_id) \
     WHERE removed_at IS NULL",
    // Licenses in their grace period.
    "CREATE INDEX licenses_sources_end_at ON licenses (sources_end_at) \
     WHERE revoked_at IS NULL AND sources_end_at IS NOT NULL AND (suspended_at IS NULL OR on_source_lost <> 'suspend')",
    // Who has a source, for reconciliations.
    "CREATE INDEX entitlement_sources_live ON entitlement_sources (reference, user_id) WHERE ends_at IS NULL",
    // Licenses whose expiry is still to be reported.
    "CREATE INDEX licenses_unannounced ON licenses (lapses_at) \
     WHERE revoked_at IS NULL AND lapse_seen_at IS NULL",
    // What the relays claim. Completed deliveries, which are kept for a month, cost them nothing.
    "CREATE INDEX outbox_due ON outbox (transport, due_at) WHERE state = 'pending'",
    "CREATE INDEX outbox_order ON outbox (ordering_key, id) WHERE state = 'pending'",
];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for table in tables() {
            manager.create_table(table).await?;
        }
        for index in indexes() {
            manager.create_index(index).await?;
        }
        let db = manager.get_connection();
        for sql in PARTIAL_INDEXES {
            db.execute_unprepared(sql).await?;
        }
        // The single row from which events take their sequence numbers.
        db.execute_unprepared("INSERT INTO event_head (id, seq) VALUES (1, 0)").await?;
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for table in tables().iter().rev().filter_map(TableCreateStatement::get_table_name) {
            manager.drop_table(Table::drop().table(table.clone()).to_owned()).await?;
        }
        Ok(())
    }
}
