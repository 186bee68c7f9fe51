//! Log channels: what happens becomes one delivery for each guild of its tenant that has a log channel. The
//! text is produced when the delivery is sent.

use std::collections::HashSet;

use sea_orm::{ColumnTrait, Condition, EntityTrait, QueryFilter, QuerySelect, QueryTrait};

use crate::events::{self, Event};
use crate::outbox::{self, Delivery, Notify};
use crate::{Core, DiscordUserId, Result, entity::guild, ids::ProductId, licenses, products, tx::Tx, users};

/// Turns new events of tenants with a log channel into deliveries. Returns how many events were read. After an error, the
/// next call reads the same events again.
pub async fn enqueue_log_lines(core: &Core) -> Result<usize> {
    const BATCH: u64 = 100;
    let mut read = 0;
    loop {
        let mut tx = Tx::begin(core).await?;
        let tenants = guild::Entity::find().filter(has_log_channel()).select_only().column(guild::Column::TenantId);
        let events = events::read_next(&tx, "log_channel", tenants.into_query(), BATCH).await?;
        if events.is_empty() {
            // The cursor moves past the events of others.
            tx.commit().await?;
            return Ok(read);
        }
        let of_tenants = guild::Column::TenantId.is_in(events.iter().map(|event| event.tenant_id));
        let guilds = guild::Entity::find().filter(of_tenants).filter(has_log_channel()).all(tx.db()).await?;
        let mut keys = HashSet::new();
        for event in &events {
            let key = entry_key(event);
            if !keys.insert(key.clone()) {
                continue;
            }
            for guild in guilds.iter().filter(|guild| guild.tenant_id == event.tenant_id) {
                let Some(channel) = guild.log_channel_id else { continue };
                let delivery = Delivery::LogLine { channel, seq: event.seq };
                outbox::enqueue(&mut tx, &delivery, format!("log:{}:{key}", guild.id), Notify::Now).await?;
            }
        }
        read += events.len();
        tx.commit().await?;
    }
}

fn has_log_channel() -> Condition {
    Condition::all().add(guild::Column::LogChannelId.is_not_null()).add(guild::Column::LeftAt.is_null())
}

/// The same for all events about one user, or of one bulk command, in one unit of work, which have the same time. They
/// share a line: a second delivery with this key is not added.
fn entry_key(event: &Event) -> String {
    match event.subject {
        _ if event.bulk().is_some() => {
            let request = event.request_id.as_deref().unwrap_or_default();
            format!("{}:bulk:{}:{}:{request}", event.tenant_id, event.at.timestamp_micros(), event.actor)
        }
        Some(user) => format!("{}:{user}:{}:{}", event.tenant_id, event.at.timestamp_micros(), event.actor),
        None => event.seq.to_string(),
    }
}

/// What one line is about.
#[derive(Clone, Debug)]
pub struct LogEntry {
    /// What happened, in order; at least one, and the first one of a bulk command.
    pub events: Vec<Event>,
    /// The Discord account of the member it is about.
    pub member: Option<DiscordUserId>,
    /// The names of the products it is about.
    pub products: Vec<String>,
}

/// The entry that begins with an event; `None` if the event no longer exists.
pub async fn find_entry(core: &Core, seq: i64) -> Result<Option<LogEntry>> {
    let mut events = events::list_from(core, seq, 20).await?;
    let Some(key) = events.first().filter(|first| first.seq == seq).map(entry_key) else { return Ok(None) };
    events.retain(|event| entry_key(event) == key);
    let is_bulk = events[0].bulk().is_some();
    let member = match events[0].subject {
        Some(user) if !is_bulk => users::discord_id(core, user).await?,
        _ => None,
    };
    let mut products = Vec::new();
    for event in &events {
        if let Some(product) = product_of(core, event).await?
            && !products.contains(&product)
        {
            products.push(product);
        }
    }
    if is_bulk {
        events.truncate(1);
    }
    Ok(Some(LogEntry { events, member, products }))
}

async fn product_of(core: &Core, event: &Event) -> Result<Option<String>> {
    let named = event.after.as_ref().and_then(|after| after.get("productId")?.as_str()?.parse().ok());
    let product = match (named.map(ProductId), event.license_id) {
        (None, Some(license)) => licenses::find(core, license).await?.map(|license| license.product_id),
        (named, _) => named,
    };
    match product {
        Some(product) => Ok(Some(products::find(core, product).await?.name)),
        None => Ok(None),
    }
}
