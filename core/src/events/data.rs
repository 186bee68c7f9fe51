//! What each kind of event says, serialized in this file alone. The fields are public and stable.

use chrono::{DateTime, Utc};
use serde::{Serialize, Serializer};
use serde_json::{Value, json};
use uuid::Uuid;

use super::{Event, EventKind};
use crate::api_key_scopes::ApiKeyScope;
use crate::crypto::api_key::{ApiKeyKind, ApiKeyMode};
use crate::ids::{ApiKeyId, BanId, DeviceId, GuildId, LeaseId, ProductId, RoleId, SessionId, UserId};
use crate::policy::ResetKind;
use crate::users::{AccountStatus, Provider, Role, SignInMethod};
use crate::{error::Code, licenses::LicenseState, outbox::DeliveryKind};

/// Declares the data of each event; `=>` names its kind where the variant is called differently.
macro_rules! event_data {
    ($($variant:ident $(=> $kind:ident)? { $($(#[$attr:meta])* $field:ident: $type:ty),* $(,)? })*) => {
        /// The data of an event.
        #[derive(Clone, Debug, Serialize)]
        #[serde(untagged, rename_all_fields = "camelCase")]
        pub(crate) enum EventData {
            $($variant { $($(#[$attr])* $field: $type),* }),*
        }

        impl EventData {
            /// The kind it belongs to.
            pub(crate) const fn kind(&self) -> EventKind {
                match self { $(Self::$variant { .. } => event_data!(@kind $variant $($kind)?)),* }
            }
        }
    };
    (@kind $variant:ident $kind:ident) => { EventKind::$kind };
    (@kind $variant:ident) => { EventKind::$variant };
}

// `bulk` is how many licenses one command changes, if there are several.
event_data! {
    LicenseCreated {
        state: LicenseState,
        product_id: ProductId,
        #[serde(skip_serializing_if = "Option::is_none")] bulk: Option<usize>,
    }
    LicenseAssigned { #[serde(skip)] from: LicenseState, state: LicenseState }
    LicenseActivated {
        #[serde(skip)] from: LicenseState,
        state: LicenseState,
        #[serde(skip_serializing_if = "Option::is_none")] device_id: Option<DeviceId>,
    }
    LicenseDeactivated { devices: Vec<DeviceId> }
    DeviceLimitReached { max: Option<u32>, used: u64 }
    LeaseSuperseded { lease_id: LeaseId, device_id: Option<DeviceId> }
    BanCreated { ban_id: BanId, product_id: Option<ProductId>, reason: String, expires_at: Option<DateTime<Utc>> }
    BanLifted { ban_id: BanId, product_id: Option<ProductId> }
    DeviceReset { kind: ResetKind, devices: Vec<DeviceId> }
    LicenseChanged { fields: Vec<&'static str> }
    LicenseTransferred { #[serde(skip)] from: LicenseState, state: LicenseState, from_user_id: Option<UserId> }
    LicenseSuspended { #[serde(skip)] from: LicenseState, state: LicenseState, reason: String }
    LicenseResumed { #[serde(skip)] from: LicenseState, state: LicenseState }
    LicenseRenewed { #[serde(skip)] from: LicenseState, state: LicenseState, expires_at: Option<DateTime<Utc>> }
    KeyRotated { key_epoch: i32 }
    LicenseExpired { state: LicenseState, expires_at: Option<DateTime<Utc>> }
    LicenseRevoked {
        #[serde(skip)] from: LicenseState,
        state: LicenseState,
        reason: String,
        #[serde(skip_serializing_if = "Option::is_none")] bulk: Option<usize>,
    }
    LicenseCheckedOut { device_id: DeviceId, expires_at: DateTime<Utc> }
    KeyUndelivered {}
    SourceChanged => RoleChanged { #[serde(flatten)] source: SourceLabel, product_id: ProductId, held: bool }
    ProductCreated { product_id: ProductId, name: String }
    ProductRenamed { #[serde(skip)] from: String, product_id: ProductId, name: String }
    PolicyChanged { product_id: ProductId, version: i32 }
    MappingCreated { #[serde(flatten)] source: SourceLabel, product_id: ProductId }
    MappingRemoved { #[serde(flatten)] source: SourceLabel, product_id: ProductId }
    SourceUnverifiable { #[serde(flatten)] source: SourceLabel, product_id: ProductId }
    BreakerTripped { #[serde(flatten)] origin: OriginLabel, ending: usize, holders: usize }
    SyncConfirmed { #[serde(flatten)] origin: OriginLabel }
    UserRegistered { #[serde(flatten)] sign_up: SignUpData }
    SignUpRepeated { #[serde(flatten)] sign_up: SignUpData }
    EmailVerified {}
    EmailChanged {}
    SignedIn { method: SignInMethod, session_id: SessionId, network: String, second_factor: bool }
    SignInRefused { why: Code, network: String }
    PasswordChanged { by: &'static str }
    SecondFactorChanged { how: &'static str }
    IdentityLinked { provider: Provider }
    IdentityUnlinked { provider: Provider }
    ProfileChanged {}
    UserStatusChanged { from: AccountStatus, to: AccountStatus, reason: Option<String> }
    RoleAssigned => AccessChanged { #[serde(skip_serializing_if = "Option::is_none")] from: Option<Role>, to: Role }
    GuildManagerChanged => AccessChanged { #[serde(serialize_with = "as_text")] guild_id: GuildId, manages: bool }
    SessionRevoked { session_id: SessionId, why: String }
    SessionsRevoked => SessionRevoked { sessions: u64, why: String }
    TokenReused { session_id: SessionId }
    UserExported {}
    DeletionPlanned { at: DateTime<Utc> }
    DeletionUndone {}
    UserErased {}
    ApiKeyCreated {
        #[serde(flatten)] api_key: ApiKeyLabel, kind: ApiKeyKind, scopes: Vec<ApiKeyScope>, product_ids: Vec<ProductId>,
        expires_at: Option<DateTime<Utc>>,
    }
    ApiKeyRotated { #[serde(flatten)] api_key: ApiKeyLabel, replaced_by: ApiKeyId, expires_at: DateTime<Utc> }
    ApiKeyRevoked { #[serde(flatten)] api_key: ApiKeyLabel }
    DeliveryReplayed { delivery: Uuid, kind: DeliveryKind }
}

/// How events name an API key.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ApiKeyLabel {
    pub api_key_id: ApiKeyId,
    pub hint: String,
    pub mode: ApiKeyMode,
}

/// How an account was created, and the network of the request.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct SignUpData {
    pub method: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub network: Option<String>,
}

/// How events name a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged, rename_all_fields = "camelCase")]
#[expect(missing_docs, reason = "fields are named after what they hold")]
pub enum SourceLabel {
    /// A Discord role.
    DiscordRole {
        #[serde(serialize_with = "as_text")]
        guild_id: GuildId,
        #[serde(serialize_with = "as_text")]
        role_id: RoleId,
    },
}

/// How events name what a reconciliation walks.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged, rename_all_fields = "camelCase")]
#[expect(missing_docs, reason = "fields are named after what they hold")]
pub enum OriginLabel {
    /// A Discord server.
    Guild { guild_id: String },
}

fn as_text<T: std::fmt::Display, S: Serializer>(id: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(id)
}

impl Event {
    /// How many licenses the command changed that this event is part of, if there are several.
    pub fn bulk(&self) -> Option<u64> {
        self.after.as_ref()?.get("bulk")?.as_u64()
    }
}

impl EventData {
    /// The state before, for events that change one.
    pub(crate) fn before(&self) -> Option<Value> {
        match self {
            Self::LicenseAssigned { from, .. }
            | Self::LicenseActivated { from, .. }
            | Self::LicenseTransferred { from, .. }
            | Self::LicenseSuspended { from, .. }
            | Self::LicenseResumed { from, .. }
            | Self::LicenseRenewed { from, .. }
            | Self::LicenseRevoked { from, .. } => Some(json!({ "state": from })),
            Self::ProductRenamed { from, .. } => Some(json!({ "name": from })),
            Self::SourceChanged { source, product_id, held } => {
                let (source, product_id) = (source.clone(), *product_id);
                Some(json!(Self::SourceChanged { source, product_id, held: !held }))
            }
            _ => None,
        }
    }

    /// The state after, or what there is to say; `None` if the kind says everything.
    pub(crate) fn after(&self) -> Option<Value> {
        let data = json!(self);
        // An empty object is part of the public format of this kind.
        (data != json!({}) || matches!(self, Self::DeletionUndone {})).then_some(data)
    }
}
