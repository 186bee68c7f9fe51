//! What commands, the gateway and workers share.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use dca_core::{Core, GuildId, mappings::Mapping, workers::Lease};
use tokio::sync::watch;
use tracing::{error, info, warn};

use crate::{guild_pass::GuildPass, rest::DiscordClient, updates::UpdateBuffer};

/// The status of this instance's gateway connection.
#[derive(Clone, Debug, PartialEq, Eq, strum::IntoStaticStr, strum::VariantNames)]
#[strum(serialize_all = "lowercase")]
pub enum GatewayStatus {
    /// Another instance holds the gateway lease; this one takes over when it expires.
    Standby,
    /// This instance holds the gateway lease and is connecting.
    Connecting,
    /// Connected; events arrive.
    #[strum(serialize = "ok")]
    Connected,
    /// Connected, but Discord has not answered the last heartbeat.
    Silent,
    /// The connection was lost or could not be made; contains why.
    Reconnecting(String),
    /// No new session may be started for now; contains why.
    Limited(String),
    /// Discord refuses the connection until an operator acts; contains what to do.
    Refused(String),
}

impl GatewayStatus {
    /// Every [`GatewayStatus::name`].
    pub const NAMES: &[&str] = <Self as strum::VariantNames>::VARIANTS;

    /// One word, for `/health` and metrics.
    pub fn name(&self) -> &'static str {
        self.into()
    }

    /// A description for people.
    pub fn detail(&self) -> &str {
        match self {
            Self::Standby => "connected from another instance, or about to connect",
            Self::Connecting => "connecting to Discord",
            Self::Connected => "receiving events",
            Self::Silent => "Discord has not answered the last heartbeat",
            Self::Reconnecting(detail) | Self::Limited(detail) | Self::Refused(detail) => detail,
        }
    }
}

/// A status, and since when.
#[derive(Clone, Debug)]
pub struct GatewayState {
    /// The status.
    pub status: GatewayStatus,
    /// When it began.
    pub since: DateTime<Utc>,
}

/// The bot: state shared by commands and workers.
pub struct Bot {
    /// The core services.
    pub core: Core,
    /// The client of Discord's REST API.
    pub discord: DiscordClient,
    /// How long the gateway lease lasts without being renewed.
    pub lease_duration: Duration,
    /// The status of the gateway connection.
    pub gateway: watch::Sender<GatewayState>,
    pub(crate) lease: Mutex<Option<Lease>>,
    pub(crate) updates: UpdateBuffer,
}

impl Bot {
    /// A bot that is not connected yet.
    pub fn new(core: Core, discord: DiscordClient, lease_duration: Duration) -> Arc<Self> {
        let gateway = watch::Sender::new(GatewayState { status: GatewayStatus::Standby, since: core.clock.now() });
        Arc::new(Self {
            core,
            discord,
            lease_duration,
            gateway,
            lease: Mutex::new(None),
            updates: UpdateBuffer::default(),
        })
    }

    /// Sets the status of the gateway connection. A change is one line in the log.
    pub(crate) fn set_status(&self, status: GatewayStatus) {
        let changed = self.gateway.send_if_modified(|state| {
            let changed = state.status.name() != status.name();
            if changed {
                state.since = self.core.clock.now();
            }
            state.status = status;
            changed
        });
        if !changed {
            return;
        }
        let status = &self.gateway.borrow().status;
        let (name, detail) = (status.name(), status.detail());
        match status {
            GatewayStatus::Refused(_) => error!(status = name, "{detail} The license API keeps running."),
            GatewayStatus::Silent | GatewayStatus::Reconnecting(_) | GatewayStatus::Limited(_) => {
                warn!(status = name, "Discord: {detail}");
            }
            GatewayStatus::Connected => info!(status = name, "Discord is connected"),
            _ => info!(status = name, "Discord: {detail}"),
        }
    }

    pub(crate) fn is_refused(&self) -> bool {
        matches!(self.gateway.borrow().status, GatewayStatus::Refused(_))
    }

    /// A random number from 0 to 1.
    pub(crate) fn random(&self) -> f64 {
        f64::from(u32::from_be_bytes(self.core.ids.bytes())) / f64::from(u32::MAX)
    }

    /// The gateway lease, while this instance holds it.
    pub fn gateway_lease(&self) -> Option<Lease> {
        self.lease.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Begins a reconciliation of all guilds.
    pub fn begin_reconcile(&self) {
        self.updates.begin_reconcile();
    }

    /// Ends it.
    pub fn end_reconcile(&self) {
        self.updates.end_reconcile();
    }

    /// Begins to reconcile a guild with these mappings, before its members are read.
    pub fn reconcile_guild(&self, guild: GuildId, mappings: &[Mapping]) -> GuildPass<'_> {
        GuildPass::begin(&self.updates, guild, mappings)
    }

    /// Stores every update of a guild's members until they are reconciled, because a role is about to be mapped.
    pub(crate) fn forget_roles(&self, guild: GuildId) {
        self.updates.known_roles(|known| known.forget(guild));
    }

    /// Returns when every buffered update is stored.
    pub async fn drained(&self) {
        self.updates.drained().await;
    }
}
