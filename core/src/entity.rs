//! The tables as rows. `Model` is the domain's value; columns and `ActiveModel` are used only by the
//! file that owns the table. Never serialized.

use sea_orm::entity::prelude::*;

use crate::ids::{ApiKeyId, LicenseId, MappingId, PolicyId, ProductId, SessionId, Snowflake, TenantId, UserId};

/// A table: its module, its name, its columns.
macro_rules! table {
    ($(#[$doc:meta])* $module:ident $name:literal { $($(#[$attr:meta])* $field:ident : $type:ty),* $(,)? }) => {
        $(#[$doc])*
        pub mod $module {
            use super::*;

            $(#[$doc])*
            #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
            #[sea_orm(table_name = $name)]
            pub struct Model { $(#[doc = concat!("Column `", stringify!($field), "`.")] $(#[$attr])* pub $field: $type),* }

            /// Relations are followed by explicit joins.
            #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
            pub enum Relation {}

            impl ActiveModelBehavior for ActiveModel {}
        }
    };
}

table! {
    /// An owner of guilds, products and API keys.
    tenant "tenants" {
        #[sea_orm(primary_key, auto_increment = false)] id: TenantId,
        name: String,
        created_at: DateTimeUtc,
    }
}

table! {
    /// A Discord server the bot was invited to.
    guild "guilds" {
        #[sea_orm(primary_key, auto_increment = false)] id: Snowflake,
        tenant_id: TenantId,
        name: String,
        log_channel_id: Option<Snowflake>,
        left_at: Option<DateTimeUtc>,
        breaker_opened_at: Option<DateTimeUtc>,
        confirmed_until: Option<DateTimeUtc>,
        created_at: DateTimeUtc,
    }
}

table! {
    /// A person: seen in Discord, or signed up here.
    user "users" {
        #[sea_orm(primary_key, auto_increment = false)] id: UserId,
        created_at: DateTimeUtc,
        email: Option<String>,
        folded_email: Option<String>,
        email_verified_at: Option<DateTimeUtc>,
        name: Option<String>,
        locale: Option<String>,
        status: String,
        status_reason: Option<String>,
        role: String,
        registered_at: Option<DateTimeUtc>,
        deletion_at: Option<DateTimeUtc>,
    }
}

table! {
    /// How a person is known at a provider.
    identity "identities" {
        #[sea_orm(primary_key, auto_increment = false)] provider: String,
        #[sea_orm(primary_key, auto_increment = false)] subject: String,
        user_id: UserId,
        created_at: DateTimeUtc,
        name: Option<String>,
        tokens_sealed: Option<Vec<u8>>,
    }
}

table! {
    /// The row that is locked before anything about a member's licenses is decided.
    holder "holders" {
        #[sea_orm(primary_key, auto_increment = false)] tenant_id: TenantId,
        #[sea_orm(primary_key, auto_increment = false)] user_id: UserId,
    }
}

table! {
    /// A thing that is sold.
    product "products" {
        #[sea_orm(primary_key, auto_increment = false)] id: ProductId,
        tenant_id: TenantId,
        name: String,
        prefix: String,
        folded_prefix: String,
        created_at: DateTimeUtc,
    }
}

table! {
    /// One version of a product's rules; a license keeps the version it was born under.
    policy "policies" {
        #[sea_orm(primary_key, auto_increment = false)] id: PolicyId,
        product_id: ProductId,
        version: i32,
        duration_s: Option<i64>,
        source_grace_s: i64,
        created_at: DateTimeUtc,
    }
}

table! {
    /// "This role earns that product."
    role_mapping "role_mappings" {
        #[sea_orm(primary_key, auto_increment = false)] id: MappingId,
        tenant_id: TenantId,
        guild_id: Snowflake,
        role_id: Snowflake,
        product_id: ProductId,
        announce: String,
        applied_at: Option<DateTimeUtc>,
        role_deleted_at: Option<DateTimeUtc>,
        removed_at: Option<DateTimeUtc>,
        created_at: DateTimeUtc,
    }
}

table! {
    /// One reason why a member may hold a product: a role, or an admin's grant.
    source "entitlement_sources" {
        #[sea_orm(primary_key, auto_increment = false)] id: Uuid,
        tenant_id: TenantId,
        user_id: UserId,
        product_id: ProductId,
        kind: String,
        reference: Uuid,
        stamp: i64,
        live_since: DateTimeUtc,
        ends_at: Option<DateTimeUtc>,
        consumed: bool,
    }
}

table! {
    /// A license; its state is a function of these times.
    license "licenses" {
        #[sea_orm(primary_key, auto_increment = false)] id: LicenseId,
        tenant_id: TenantId,
        product_id: ProductId,
        policy_id: PolicyId,
        user_id: Option<UserId>,
        key_lookup: Vec<u8>,
        key_sealed: Vec<u8>,
        key_hint: String,
        created_at: DateTimeUtc,
        assigned_at: Option<DateTimeUtc>,
        activated_at: Option<DateTimeUtc>,
        first_valid_at: Option<DateTimeUtc>,
        expires_at: Option<DateTimeUtc>,
        expired_seen_at: Option<DateTimeUtc>,
        revoked_at: Option<DateTimeUtc>,
        revoke_reason: Option<String>,
        rev: i64,
    }
}

table! {
    /// The one log.
    event "events" {
        #[sea_orm(primary_key, auto_increment = false)] seq: i64,
        tenant_id: TenantId,
        kind: String,
        subject: Option<UserId>,
        license_id: Option<LicenseId>,
        actor: String,
        before: Option<Json>,
        after: Option<Json>,
        request_id: Option<String>,
        at: DateTimeUtc,
    }
}

table! {
    /// The log's newest sequence number: one row.
    event_head "event_head" {
        #[sea_orm(primary_key, auto_increment = false)] id: i32,
        seq: i64,
    }
}

table! {
    /// How far a reader of the log has come.
    cursor "cursors" {
        #[sea_orm(primary_key, auto_increment = false)] name: String,
        seq: i64,
    }
}

table! {
    /// An effect to perform for one recipient.
    outbox "outbox" {
        #[sea_orm(primary_key, auto_increment = false)] id: Uuid,
        kind: String,
        ordering_key: String,
        dedupe_key: String,
        payload: Json,
        due_at: DateTimeUtc,
        expires_at: Option<DateTimeUtc>,
        attempt: i32,
        lease_token: i64,
        lease_until: Option<DateTimeUtc>,
        state: String,
        last_error: Option<String>,
        created_at: DateTimeUtc,
    }
}

table! {
    /// A scheduled worker, or a lease that exactly one instance holds.
    worker "workers" {
        #[sea_orm(primary_key, auto_increment = false)] name: String,
        due_at: DateTimeUtc,
        lease_until: Option<DateTimeUtc>,
        token: i64,
        last_run: Option<DateTimeUtc>,
        last_result: Option<String>,
    }
}

table! {
    /// A data key, sealed under the master key.
    key "keyring" {
        #[sea_orm(primary_key, auto_increment = false)] id: Uuid,
        purpose: String,
        generation: i32,
        sealed: Vec<u8>,
        not_before: DateTimeUtc,
        not_after: Option<DateTimeUtc>,
    }
}

table! {
    /// An app's credential.
    api_key "api_keys" {
        #[sea_orm(primary_key, auto_increment = false)] id: ApiKeyId,
        tenant_id: TenantId,
        name: String,
        kind: String,
        lookup: Vec<u8>,
        hint: String,
        created_at: DateTimeUtc,
        expires_at: Option<DateTimeUtc>,
        revoked_at: Option<DateTimeUtc>,
    }
}

table! {
    /// The products an API key may ask about.
    api_key_product "api_key_products" {
        #[sea_orm(primary_key, auto_increment = false)] api_key_id: ApiKeyId,
        #[sea_orm(primary_key, auto_increment = false)] product_id: ProductId,
    }
}

table! {
    /// A person's password.
    credential "credentials" {
        #[sea_orm(primary_key, auto_increment = false)] user_id: UserId,
        password_hash: String,
        changed_at: DateTimeUtc,
    }
}

table! {
    /// One sign-in, and everything that was refreshed from it.
    session "sessions" {
        #[sea_orm(primary_key, auto_increment = false)] id: SessionId,
        user_id: UserId,
        method: String,
        agent: Option<String>,
        network: String,
        created_at: DateTimeUtc,
        last_seen_at: DateTimeUtc,
        expires_at: DateTimeUtc,
        second_factor_at: Option<DateTimeUtc>,
        revoked_at: Option<DateTimeUtc>,
        revoke_reason: Option<String>,
    }
}

table! {
    /// A refresh token that was handed out, by its hash.
    refresh_token "refresh_tokens" {
        #[sea_orm(primary_key, auto_increment = false)] hash: Vec<u8>,
        session_id: SessionId,
        generation: i32,
        created_at: DateTimeUtc,
        expires_at: DateTimeUtc,
        used_at: Option<DateTimeUtc>,
    }
}

table! {
    /// A token that works once; its text is derived, never stored.
    one_time_token "one_time_tokens" {
        #[sea_orm(primary_key, auto_increment = false)] id: Uuid,
        purpose: String,
        user_id: Option<UserId>,
        data: Option<Json>,
        created_at: DateTimeUtc,
        expires_at: DateTimeUtc,
        used_at: Option<DateTimeUtc>,
    }
}

table! {
    /// How many tries were taken under a name, until when.
    throttle "throttles" {
        #[sea_orm(primary_key, auto_increment = false)] name: String,
        used: i32,
        resets_at: DateTimeUtc,
    }
}

table! {
    /// A person's authenticator app.
    second_factor "second_factors" {
        #[sea_orm(primary_key, auto_increment = false)] user_id: UserId,
        secret_sealed: Vec<u8>,
        created_at: DateTimeUtc,
        confirmed_at: Option<DateTimeUtc>,
        last_step: i64,
    }
}

table! {
    /// A code for the day the authenticator is lost.
    recovery_code "recovery_codes" {
        #[sea_orm(primary_key, auto_increment = false)] lookup: Vec<u8>,
        user_id: UserId,
        used_at: Option<DateTimeUtc>,
    }
}

table! {
    /// "This person manages that guild here."
    guild_manager "guild_managers" {
        #[sea_orm(primary_key, auto_increment = false)] guild_id: Snowflake,
        #[sea_orm(primary_key, auto_increment = false)] user_id: UserId,
        created_at: DateTimeUtc,
    }
}
