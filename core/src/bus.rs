//! Nudges: hints that there is work. Everything durable is a row that a timer finds anyway, so a
//! lost nudge costs latency, never correctness.

use std::time::Duration;

use futures::StreamExt;
use redis::{AsyncCommands, Client, aio::ConnectionManager};
use tokio::sync::broadcast;
use tracing::{debug, warn};

use crate::error::string_enum;

string_enum! {
    /// What there may be work on.
    Topic {
        Outbox => ("outbox", "Deliveries were written."),
        Workers => ("workers", "A scheduled worker became due."),
    }
}

/// Carries notifications inside the process and, with Redis, to every instance.
#[derive(Clone)]
pub struct Bus {
    local: broadcast::Sender<Topic>,
    remote: Option<(ConnectionManager, String)>,
}

impl Bus {
    /// For one process.
    #[must_use]
    pub fn memory() -> Self {
        Self { local: broadcast::channel(64).0, remote: None }
    }

    /// For many: publishes on `<prefix>:nudge` and forwards what arrives there. The forwarding task
    /// ends with the last clone of the bus.
    #[must_use]
    pub fn redis(client: Client, connection: ConnectionManager, prefix: &str) -> Self {
        let channel = format!("{prefix}:notify");
        let bus = Self { remote: Some((connection, channel.clone())), ..Self::memory() };
        tokio::spawn(forward(client, channel, bus.local.downgrade()));
        bus
    }

    /// Says that there may be work. Never fails and never waits for Redis.
    pub fn notify(&self, topic: Topic) {
        _ = self.local.send(topic);
        if let Some((connection, channel)) = &self.remote {
            let (mut connection, channel) = (connection.clone(), channel.clone());
            tokio::spawn(async move {
                if let Err(error) = connection.publish::<_, _, ()>(channel, topic.as_str()).await {
                    debug!(%error, "a nudge did not reach Redis");
                }
            });
        }
    }

    /// Nudges from now on, of this instance and of the others.
    #[must_use]
    pub fn subscribe(&self) -> broadcast::Receiver<Topic> {
        self.local.subscribe()
    }
}

async fn forward(client: Client, channel: String, local: broadcast::WeakSender<Topic>) {
    while local.upgrade().is_some() {
        match listen(&client, &channel, &local).await {
            Ok(()) => debug!("Redis closed the nudge subscription"),
            Err(error) => warn!(%error, "no notifications from other instances until Redis is back"),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn listen(client: &Client, channel: &str, local: &broadcast::WeakSender<Topic>) -> redis::RedisResult<()> {
    let mut subscription = client.get_async_pubsub().await?;
    subscription.subscribe(channel).await?;
    // What was published while nobody listened is unknown: look at everything once.
    for topic in Topic::ALL {
        local.upgrade().map(|local| local.send(*topic));
    }
    let mut messages = subscription.on_message();
    while let Some(message) = messages.next().await {
        let word = message.get_payload::<String>()?;
        let Some(local) = local.upgrade() else { break };
        for topic in Topic::ALL.iter().filter(|topic| topic.as_str() == word) {
            _ = local.send(*topic);
        }
    }
    Ok(())
}
