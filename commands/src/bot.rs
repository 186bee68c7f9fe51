//! What commands, the gateway and workers share.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dca_core::{Core, DiscordUserId, GuildId, workers::Lease};
use tokio::sync::watch;

use crate::{rest::DiscordClient, updates::UpdateBuffer};

/// The status of this instance's gateway connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GatewayStatus {
    /// Another instance holds the gateway lease; this one takes over when it expires.
    Standby,
    /// This instance holds the gateway lease and is connecting.
    Connecting,
    /// Connected; events arrive.
    Connected,
    /// Discord refuses the connection until an operator acts; contains what to do.
    Refused(String),
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
    pub status: watch::Sender<GatewayStatus>,
    pub(crate) lease: Mutex<Option<Lease>>,
    pub(crate) updates: UpdateBuffer,
}

impl Bot {
    /// A bot that is not connected yet.
    pub fn new(core: Core, discord: DiscordClient, lease_duration: Duration) -> Arc<Self> {
        let status = watch::Sender::new(GatewayStatus::Standby);
        Arc::new(Self {
            core,
            discord,
            lease_duration,
            status,
            lease: Mutex::new(None),
            updates: UpdateBuffer::default(),
        })
    }

    /// The gateway lease, while this instance holds it.
    pub fn gateway_lease(&self) -> Option<Lease> {
        self.lease.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Begins a reconciliation; see [`Bot::updated_since_reconcile`].
    pub fn begin_reconcile(&self) {
        self.updates.begin_reconcile();
    }

    /// Whether the gateway reported a member since the reconciliation began; if so, that update is newer
    /// than the member list.
    pub fn updated_since_reconcile(&self, guild: GuildId, member: DiscordUserId) -> bool {
        self.updates.updated_since_reconcile(guild, member)
    }

    /// Returns when every buffered update is stored.
    pub async fn drained(&self) {
        self.updates.drained().await;
    }
}
