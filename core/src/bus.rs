//! Notifications that there is new work. All work is stored in rows that a timer polls as well, so a lost
//! notification costs latency, never correctness.

use std::time::Duration;

use futures::StreamExt;
use redis::{AsyncCommands, Client, aio::ConnectionManager};
use tokio::sync::broadcast;
use tracing::{debug, warn};

use crate::{log_limit::LogLimit, string_enum::string_enum};

string_enum! {
    /// The kind of work that may be waiting.
    Topic {
        /// Deliveries of every transport.
        Outbox => "outbox",
        /// Deliveries of this transport.
        DirectMessages => "direct_messages",
        /// Deliveries of this transport.
        Discord => "discord",
        /// Deliveries of this transport.
        Smtp => "smtp",
        /// Scheduled workers.
        Workers => "workers",
        /// The event log.
        Events => "events",
    }
}

/// Distributes notifications within the process and, with Redis, to all instances.
#[derive(Clone)]
pub struct Bus {
    local: broadcast::Sender<Topic>,
    remote: Option<(ConnectionManager, String)>,
}

impl Bus {
    /// A bus for a single process.
    pub fn memory() -> Self {
        Self { local: broadcast::channel(64).0, remote: None }
    }

    /// A bus for several instances: publishes to the channel `<prefix>:notify` and forwards what arrives
    /// there. The forwarding task ends when the last clone of the bus is dropped.
    pub fn redis(client: Client, connection: ConnectionManager, prefix: &str) -> Self {
        let channel = format!("{prefix}:notify");
        let bus = Self { remote: Some((connection, channel.clone())), ..Self::memory() };
        tokio::spawn(forward(client, channel, bus.local.downgrade()));
        bus
    }

    /// Sends a notification within the process.
    pub fn notify_locally(&self, topic: Topic) {
        _ = self.local.send(topic);
    }

    /// Sends a notification. Never fails and does not wait for Redis.
    pub fn notify(&self, topic: Topic) {
        self.notify_locally(topic);
        if let Some((connection, channel)) = &self.remote {
            let (mut connection, channel) = (connection.clone(), channel.clone());
            tokio::spawn(async move {
                if let Err(error) = connection.publish::<_, _, ()>(channel, topic.as_str()).await {
                    debug!(%error, "could not publish a notification to Redis");
                }
            });
        }
    }

    /// Receives the notifications of all instances from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Topic> {
        self.local.subscribe()
    }
}

async fn forward(client: Client, channel: String, local: broadcast::WeakSender<Topic>) {
    let warnings = LogLimit::default();
    while local.upgrade().is_some() {
        match listen(&client, &channel, &local).await {
            Ok(()) => debug!("Redis closed the notification subscription; subscribing again"),
            Err(error) if warnings.allows() => {
                warn!(%error, "not subscribed to Redis; retrying, no notifications from other instances until then");
            }
            Err(error) => debug!(%error, "not subscribed to Redis"),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn listen(client: &Client, channel: &str, local: &broadcast::WeakSender<Topic>) -> redis::RedisResult<()> {
    let mut subscription = client.get_async_pubsub().await?;
    subscription.subscribe(channel).await?;
    // Notifications may have been missed before the subscription, so notify every topic once.
    for topic in Topic::ALL {
        local.upgrade().map(|local| local.send(*topic));
    }
    let mut messages = subscription.on_message();
    while let Some(message) = messages.next().await {
        let payload = message.get_payload::<String>()?;
        let Some(local) = local.upgrade() else { break };
        for topic in Topic::ALL.iter().filter(|topic| topic.as_str() == payload) {
            _ = local.send(*topic);
        }
    }
    Ok(())
}
