//! The database entities. `Model` is used throughout the domain; columns and `ActiveModel` only by the
//! module that owns the table. Entities are never serialized.

use sea_orm::entity::prelude::*;

use crate::api_key_scopes::ApiKeyScopes;
use crate::crypto::api_key::{ApiKeyKind, ApiKeyMode};
use crate::crypto::seal::Purpose;
use crate::entitlements::{Announce, SourceKind};
use crate::events::EventKind;
use crate::ids::{
    ApiKeyId, BanId, ChannelId, DeviceId, GuildId, InstanceId, LeaseId, LicenseId, MappingId, PolicyId, ProductId,
    RoleId, SessionId,
};
use crate::ids::{TenantId, UserId};
use crate::outbox::{DeliveryKind, DeliveryState, Transport};
use crate::policy::{OnSourceLost, PolicyTerms, ResetKind};
use crate::users::{AccountStatus, Locale, Provider, Role, SignInMethod};

/// Declares an entity module for each table, from its name and columns.
macro_rules! tables {
    ($($(#[$doc:meta])* $module:ident $name:literal { $($(#[$attr:meta])* $field:ident : $type:ty),* $(,)? })*) => {$(
        $(#[$doc])*
        pub mod $module {
            use super::*;

            $(#[$doc])*
            #[derive(Clone, Debug, PartialEq, DeriveEntityModel)]
            #[sea_orm(table_name = $name)]
            pub struct Model { $(#[doc = concat!("Column `", stringify!($field), "`.")] $(#[$attr])* pub $field: $type),* }

            /// Unused: relations are queried with explicit joins.
            #[derive(Copy, Clone, Debug, EnumIter, DeriveRelation)]
            pub enum Relation {}

            impl ActiveModelBehavior for ActiveModel {}
        }
    )*};
}

tables! {
    /// A tenant: the owner of guilds, products and API keys.
    tenant "tenants" {
        #[sea_orm(primary_key, auto_increment = false)] id: TenantId,
        name: String,
        created_at: DateTimeUtc,
    }

    /// A Discord server the bot was invited to.
    guild "guilds" {
        #[sea_orm(primary_key, auto_increment = false)] id: GuildId,
        tenant_id: TenantId,
        name: String,
        log_channel_id: Option<ChannelId>,
        left_at: Option<DateTimeUtc>,
        failed_reads: i32,
        next_read_at: Option<DateTimeUtc>,
        created_at: DateTimeUtc,
    }

    /// A user, whether known from Discord or signed up here.
    user "users" {
        #[sea_orm(primary_key, auto_increment = false)] id: UserId,
        created_at: DateTimeUtc,
        email: Option<String>,
        folded_email: Option<String>,
        folded_name: Option<String>,
        email_verified_at: Option<DateTimeUtc>,
        name: Option<String>,
        locale: Option<Locale>,
        status: AccountStatus,
        status_reason: Option<String>,
        role: Role,
        registered_at: Option<DateTimeUtc>,
        deletion_at: Option<DateTimeUtc>,
        deletion_by_admin: bool,
    }

    /// A user's account at a provider.
    identity "identities" {
        #[sea_orm(primary_key, auto_increment = false)] provider: Provider,
        #[sea_orm(primary_key, auto_increment = false)] subject: String,
        user_id: UserId,
        created_at: DateTimeUtc,
        name: Option<String>,
        tokens_sealed: Option<Vec<u8>>,
    }

    /// The row to lock before changing a user's licenses in a tenant.
    holder "holders" {
        #[sea_orm(primary_key, auto_increment = false)] tenant_id: TenantId,
        #[sea_orm(primary_key, auto_increment = false)] user_id: UserId,
    }

    /// A licensed product.
    product "products" {
        #[sea_orm(primary_key, auto_increment = false)] id: ProductId,
        tenant_id: TenantId,
        name: String,
        folded_name: String,
        prefix: String,
        folded_prefix: String,
        policy_id: PolicyId,
        created_at: DateTimeUtc,
        rev: i64,
    }

    /// One version of a product's license terms. A license keeps the version it was issued with. Terms of single
    /// licenses have no version.
    policy "policies" {
        #[sea_orm(primary_key, auto_increment = false)] id: PolicyId,
        product_id: ProductId,
        version: Option<i32>,
        terms: PolicyTerms,
        created_at: DateTimeUtc,
    }

    /// A mapping from a Discord role to a product.
    role_mapping "role_mappings" {
        #[sea_orm(primary_key, auto_increment = false)] id: MappingId,
        tenant_id: TenantId,
        guild_id: GuildId,
        role_id: RoleId,
        product_id: ProductId,
        announce: Announce,
        applied_at: Option<DateTimeUtc>,
        role_deleted_at: Option<DateTimeUtc>,
        removed_at: Option<DateTimeUtc>,
        created_at: DateTimeUtc,
    }

    /// A source of an entitlement: a role, or a grant by an admin.
    source "entitlement_sources" {
        #[sea_orm(primary_key, auto_increment = false)] id: Uuid,
        tenant_id: TenantId,
        user_id: UserId,
        product_id: ProductId,
        kind: SourceKind,
        reference: Uuid,
        stamp: i64,
        live_since: DateTimeUtc,
        ends_at: Option<DateTimeUtc>,
        suppressed: bool,
    }

    /// A license. Its state is computed from these times.
    license "licenses" {
        #[sea_orm(primary_key, auto_increment = false)] id: LicenseId,
        tenant_id: TenantId,
        product_id: ProductId,
        policy_id: PolicyId,
        user_id: Option<UserId>,
        name: Option<String>,
        metadata: Json,
        key_lookup: Vec<u8>,
        key_sealed: Vec<u8>,
        key_hint: String,
        key_epoch: i32,
        created_at: DateTimeUtc,
        assigned_at: Option<DateTimeUtc>,
        activated_at: Option<DateTimeUtc>,
        first_valid_at: Option<DateTimeUtc>,
        last_seen_at: Option<DateTimeUtc>,
        renewed_at: Option<DateTimeUtc>,
        transferred_at: Option<DateTimeUtc>,
        expires_at: Option<DateTimeUtc>,
        lapses_at: Option<DateTimeUtc>,
        lapse_seen_at: Option<DateTimeUtc>,
        suspended_at: Option<DateTimeUtc>,
        suspend_reason: Option<String>,
        on_source_lost: OnSourceLost,
        sources_end_at: Option<DateTimeUtc>,
        revoked_at: Option<DateTimeUtc>,
        revoke_reason: Option<String>,
        rev: i64,
    }

    /// A device that a license is activated on.
    device "devices" {
        #[sea_orm(primary_key, auto_increment = false)] id: DeviceId,
        license_id: LicenseId,
        fingerprint: Vec<u8>,
        components: Json,
        name: Option<String>,
        platform: Option<String>,
        app_version: Option<String>,
        activated_at: DateTimeUtc,
        last_seen_at: DateTimeUtc,
    }

    /// A floating session of a license, which ends unless the app renews it.
    lease "leases" {
        #[sea_orm(primary_key, auto_increment = false)] id: LeaseId,
        license_id: LicenseId,
        device_id: Option<DeviceId>,
        seq: i64,
        nonce: Option<String>,
        opened_at: DateTimeUtc,
        expires_at: DateTimeUtc,
        superseded_at: Option<DateTimeUtc>,
    }

    /// A reset of a license's devices.
    device_reset "device_resets" {
        #[sea_orm(primary_key, auto_increment = false)] id: Uuid,
        license_id: LicenseId,
        kind: ResetKind,
        actor: String,
        devices: i32,
        at: DateTimeUtc,
    }

    /// What a license has used of a quota in one period.
    usage "license_usage" {
        #[sea_orm(primary_key, auto_increment = false)] license_id: LicenseId,
        #[sea_orm(primary_key, auto_increment = false)] quota: String,
        #[sea_orm(primary_key, auto_increment = false)] period_start: DateTimeUtc,
        used: i64,
    }

    /// A ban of a user or a device, for one product or all of a tenant.
    ban "bans" {
        #[sea_orm(primary_key, auto_increment = false)] id: BanId,
        tenant_id: TenantId,
        product_id: Option<ProductId>,
        user_id: Option<UserId>,
        fingerprint: Option<Vec<u8>>,
        reason: String,
        actor: String,
        created_at: DateTimeUtc,
        expires_at: Option<DateTimeUtc>,
        lifted_at: Option<DateTimeUtc>,
    }

    /// An entry of the event log.
    event "events" {
        #[sea_orm(primary_key, auto_increment = false)] seq: i64,
        tenant_id: TenantId,
        kind: EventKind,
        subject: Option<UserId>,
        license_id: Option<LicenseId>,
        actor: String,
        before: Option<Json>,
        after: Option<Json>,
        request_id: Option<String>,
        at: DateTimeUtc,
    }

    /// The newest sequence number of the event log, in a single row.
    event_head "event_head" {
        #[sea_orm(primary_key, auto_increment = false)] id: i32,
        seq: i64,
    }

    /// The position of a reader of the event log.
    cursor "cursors" {
        #[sea_orm(primary_key, auto_increment = false)] name: String,
        seq: i64,
    }

    /// A delivery: an effect to perform for one recipient.
    outbox "outbox" {
        #[sea_orm(primary_key, auto_increment = false)] id: Uuid,
        kind: DeliveryKind,
        transport: Transport,
        ordering_key: String,
        dedupe_key: String,
        payload: Json,
        due_at: DateTimeUtc,
        expires_at: Option<DateTimeUtc>,
        attempt: i32,
        lease_token: i64,
        lease_until: Option<DateTimeUtc>,
        state: DeliveryState,
        last_error: Option<String>,
        created_at: DateTimeUtc,
    }

    /// The schedule and lease of a worker.
    worker "workers" {
        #[sea_orm(primary_key, auto_increment = false)] name: String,
        due_at: DateTimeUtc,
        lease_until: Option<DateTimeUtc>,
        token: i64,
        holder: Option<InstanceId>,
        last_run: Option<DateTimeUtc>,
        last_result: Option<String>,
    }

    /// An IDENTIFY that was sent to the Discord gateway.
    identify "gateway_identifies" {
        #[sea_orm(primary_key, auto_increment = false)] id: Uuid,
        sent_at: DateTimeUtc,
    }

    /// A data encryption key, encrypted with the master key.
    key "keyring" {
        #[sea_orm(primary_key, auto_increment = false)] id: Uuid,
        purpose: Purpose,
        generation: i32,
        sealed: Vec<u8>,
        not_before: DateTimeUtc,
        not_after: Option<DateTimeUtc>,
    }

    /// A signed list of the keys that sign verdicts.
    key_list "key_lists" {
        #[sea_orm(primary_key, auto_increment = false)] seq: i64,
        root_key: Vec<u8>,
        jws: String,
        expires_at: DateTimeUtc,
    }

    /// An API key.
    api_key "api_keys" {
        #[sea_orm(primary_key, auto_increment = false)] id: ApiKeyId,
        tenant_id: TenantId,
        name: String,
        kind: ApiKeyKind,
        lookup: Vec<u8>,
        hint: String,
        mode: ApiKeyMode,
        scopes: ApiKeyScopes,
        created_by: String,
        created_at: DateTimeUtc,
        last_used_at: Option<DateTimeUtc>,
        expires_at: Option<DateTimeUtc>,
        replaced_by: Option<ApiKeyId>,
        revoked_at: Option<DateTimeUtc>,
    }

    /// A product that an API key may validate.
    api_key_product "api_key_products" {
        #[sea_orm(primary_key, auto_increment = false)] api_key_id: ApiKeyId,
        #[sea_orm(primary_key, auto_increment = false)] product_id: ProductId,
    }

    /// A user's password.
    credential "credentials" {
        #[sea_orm(primary_key, auto_increment = false)] user_id: UserId,
        password_hash: String,
        changed_at: DateTimeUtc,
    }

    /// A session: one sign-in and all tokens refreshed from it.
    session "sessions" {
        #[sea_orm(primary_key, auto_increment = false)] id: SessionId,
        user_id: UserId,
        method: SignInMethod,
        agent: Option<String>,
        network: String,
        created_at: DateTimeUtc,
        last_seen_at: DateTimeUtc,
        expires_at: DateTimeUtc,
        second_factor_at: Option<DateTimeUtc>,
        revoked_at: Option<DateTimeUtc>,
        revoke_reason: Option<String>,
    }

    /// An issued refresh token, stored as a hash.
    refresh_token "refresh_tokens" {
        #[sea_orm(primary_key, auto_increment = false)] hash: Vec<u8>,
        session_id: SessionId,
        generation: i32,
        created_at: DateTimeUtc,
        expires_at: DateTimeUtc,
        used_at: Option<DateTimeUtc>,
    }

    /// A single-use token. Its text is derived from the id and never stored.
    one_time_token "one_time_tokens" {
        #[sea_orm(primary_key, auto_increment = false)] id: Uuid,
        purpose: Purpose,
        user_id: Option<UserId>,
        data: Option<Json>,
        created_at: DateTimeUtc,
        expires_at: DateTimeUtc,
        used_at: Option<DateTimeUtc>,
    }

    /// The attempts counted under a name in the current window.
    throttle "throttles" {
        #[sea_orm(primary_key, auto_increment = false)] name: String,
        used: i32,
        resets_at: DateTimeUtc,
    }

    /// An idempotency key: the hash of its operation, and the response once the operation was executed.
    idempotency_key "idempotency_keys" {
        #[sea_orm(primary_key, auto_increment = false)] id: Uuid,
        operation: Vec<u8>,
        request: Vec<u8>,
        created_at: DateTimeUtc,
        lease_until: DateTimeUtc,
        committed_at: Option<DateTimeUtc>,
        response_sealed: Option<Vec<u8>>,
    }

    /// A user's authenticator app.
    second_factor "second_factors" {
        #[sea_orm(primary_key, auto_increment = false)] user_id: UserId,
        secret_sealed: Vec<u8>,
        created_at: DateTimeUtc,
        confirmed_at: Option<DateTimeUtc>,
        last_step: i64,
    }

    /// A recovery code, for users who lost their authenticator app.
    recovery_code "recovery_codes" {
        #[sea_orm(primary_key, auto_increment = false)] lookup: Vec<u8>,
        user_id: UserId,
        used_at: Option<DateTimeUtc>,
    }

    /// The guild manager role of a user for one guild.
    guild_manager "guild_managers" {
        #[sea_orm(primary_key, auto_increment = false)] guild_id: GuildId,
        #[sea_orm(primary_key, auto_increment = false)] user_id: UserId,
        created_at: DateTimeUtc,
    }

    /// A reconciliation that was stopped because it would revoke many licenses.
    circuit_breaker "circuit_breakers" {
        #[sea_orm(primary_key, auto_increment = false)] origin: String,
        tenant_id: TenantId,
        opened_at: DateTimeUtc,
        confirmed_until: Option<DateTimeUtc>,
        ending: i32,
        holders: i32,
        losses: Json,
    }
}
