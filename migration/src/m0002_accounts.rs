//! Accounts: credentials, sessions, tokens, throttles, second factors and guild managers.

use sea_orm_migration::prelude::*;
use sea_orm_migration::schema::var_binary;
use sea_orm_migration::schema::{
    big_integer, blob, boolean, integer, json_binary_null, text, text_null, uuid, uuid_null,
};

use crate::m0001_licensing::{foreign_key_to, index, timestamp, timestamp_null};

/// Creates the account tables.
#[derive(Debug)]
pub struct Migration;

impl MigrationName for Migration {
    fn name(&self) -> &'static str {
        "m0002_accounts"
    }
}

/// New columns of `users` and `identities`. The defaults are for existing rows: users known from Discord
/// who never signed in.
fn columns() -> Vec<(&'static str, ColumnDef)> {
    let mut status = text("status");
    let mut role = text("role");
    let mut deletion_by_admin = boolean("deletion_by_admin");
    status.default("ACTIVE");
    role.default("USER");
    deletion_by_admin.default(false);
    vec![
        ("users", text_null("email")),
        ("users", text_null("folded_email")),
        ("users", timestamp_null("email_verified_at")),
        ("users", text_null("name")),
        ("users", text_null("folded_name")),
        ("users", text_null("locale")),
        ("users", status),
        ("users", text_null("status_reason")),
        ("users", role),
        ("users", timestamp_null("registered_at")),
        ("users", timestamp_null("deletion_at")),
        ("users", deletion_by_admin),
        ("identities", text_null("name")),
        ("identities", ColumnDef::new("tokens_sealed").blob().null().to_owned()),
    ]
}

fn tables() -> Vec<TableCreateStatement> {
    let user_key = |table: &str| foreign_key_to(table, "user_id", "users");
    vec![
        Table::create()
            .table("credentials")
            .col(uuid("user_id").primary_key())
            .col(text("password_hash"))
            .col(timestamp("changed_at"))
            .foreign_key(&mut user_key("credentials"))
            .to_owned(),
        Table::create()
            .table("sessions")
            .col(uuid("id").primary_key())
            .col(uuid("user_id"))
            .col(text("method"))
            .col(text_null("agent"))
            .col(text("network"))
            .col(timestamp("created_at"))
            .col(timestamp("last_seen_at"))
            .col(timestamp("expires_at"))
            .col(timestamp_null("second_factor_at"))
            .col(timestamp_null("revoked_at"))
            .col(text_null("revoke_reason"))
            .foreign_key(&mut user_key("sessions"))
            .to_owned(),
        Table::create()
            .table("refresh_tokens")
            .col(var_binary("hash", 32).primary_key())
            .col(uuid("session_id"))
            .col(integer("generation"))
            .col(timestamp("created_at"))
            .col(timestamp("expires_at"))
            .col(timestamp_null("used_at"))
            .foreign_key(&mut foreign_key_to("refresh_tokens", "session_id", "sessions"))
            .index(Index::create().name("refresh_tokens_generation").unique().col("session_id").col("generation"))
            .to_owned(),
        Table::create()
            .table("one_time_tokens")
            .col(uuid("id").primary_key())
            .col(text("purpose"))
            .col(uuid_null("user_id"))
            .col(json_binary_null("data"))
            .col(timestamp("created_at"))
            .col(timestamp("expires_at"))
            .col(timestamp_null("used_at"))
            .foreign_key(&mut user_key("one_time_tokens"))
            .to_owned(),
        Table::create()
            .table("throttles")
            .col(text("name").primary_key())
            .col(integer("used"))
            .col(timestamp("resets_at"))
            .to_owned(),
        Table::create()
            .table("second_factors")
            .col(uuid("user_id").primary_key())
            .col(blob("secret_sealed"))
            .col(timestamp("created_at"))
            .col(timestamp_null("confirmed_at"))
            .col(big_integer("last_step"))
            .foreign_key(&mut user_key("second_factors"))
            .to_owned(),
        Table::create()
            .table("recovery_codes")
            .col(var_binary("lookup", 32).primary_key())
            .col(uuid("user_id"))
            .col(timestamp_null("used_at"))
            .foreign_key(&mut user_key("recovery_codes"))
            .to_owned(),
        Table::create()
            .table("guild_managers")
            .col(big_integer("guild_id"))
            .col(uuid("user_id"))
            .col(timestamp("created_at"))
            .primary_key(Index::create().col("guild_id").col("user_id"))
            .foreign_key(&mut foreign_key_to("guild_managers", "guild_id", "guilds"))
            .foreign_key(&mut user_key("guild_managers"))
            .to_owned(),
    ]
}

fn indexes() -> Vec<IndexCreateStatement> {
    vec![
        index("users", &["folded_email"]),
        index("users", &["folded_name"]),
        index("users", &["deletion_at"]),
        index("users", &["status", "created_at"]),
        index("sessions", &["user_id"]),
        index("sessions", &["expires_at"]),
        index("sessions", &["revoked_at"]),
        index("refresh_tokens", &["expires_at"]),
        index("one_time_tokens", &["user_id", "purpose"]),
        index("one_time_tokens", &["expires_at"]),
        index("throttles", &["resets_at"]),
        index("recovery_codes", &["user_id"]),
        index("guild_managers", &["user_id"]),
        index("events", &["subject", "seq"]),
    ]
}

/// Partial indexes, which the query builder does not support. The SQL works on both databases.
const PARTIAL_INDEXES: [&str; 2] = [
    // Several users may have the same unverified email, but only one can have verified it.
    "CREATE UNIQUE INDEX users_email ON users (folded_email) WHERE email_verified_at IS NOT NULL",
    // The list of users, which contains only those who signed up.
    "CREATE INDEX users_registered ON users (created_at, id) WHERE registered_at IS NOT NULL",
];

#[async_trait::async_trait]
impl MigrationTrait for Migration {
    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for (table, column) in columns() {
            manager.alter_table(Table::alter().table(table).add_column(column).to_owned()).await?;
        }
        for table in tables() {
            manager.create_table(table).await?;
        }
        for index in indexes() {
            manager.create_index(index).await?;
        }
        for sql in PARTIAL_INDEXES {
            manager.get_connection().execute_unprepared(sql).await?;
        }
        Ok(())
    }

    async fn down(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for table in tables().iter().rev().filter_map(TableCreateStatement::get_table_name) {
            manager.drop_table(Table::drop().table(table.clone()).to_owned()).await?;
        }
        // SQLite cannot drop a column that is used by an index.
        let user_indexes = ["email", "registered", "folded_email", "folded_name", "deletion_at", "status_created_at"];
        let names =
            user_indexes.map(|name| format!("users_{name}")).into_iter().chain(["events_subject_seq".to_owned()]);
        for name in names {
            manager.get_connection().execute_unprepared(&format!("DROP INDEX {name}")).await?;
        }
        for (table, column) in columns().iter().rev() {
            let drop = Table::alter().table(*table).drop_column(column.get_column_name()).to_owned();
            manager.alter_table(drop).await?;
        }
        Ok(())
    }
}
