//! Log channels: an event becomes one delivery for each guild of its tenant that has a log channel. The
//! text is produced when the delivery is sent.

use sea_orm::{ColumnTrait, EntityTrait, QueryFilter};

use crate::events::{self, Event};
use crate::outbox::{self, Delivery, Notify};
use crate::{Core, DiscordUserId, Result, entity::guild, tx::Tx, users};

/// Turns new events into deliveries. Returns how many events were read. After an error, the next call
/// reads the same events again.
pub async fn enqueue_log_lines(core: &Core) -> Result<usize> {
    const BATCH: u64 = 100;
    let mut read = 0;
    loop {
        let mut tx = Tx::begin(core).await?;
        let events = events::read_next(&tx, "log_channel", BATCH).await?;
        if events.is_empty() {
            return Ok(read);
        }
        let guilds = guild::Entity::find()
            .filter(guild::Column::TenantId.is_in(events.iter().map(|event| event.tenant_id)))
            .filter(guild::Column::LogChannelId.is_not_null())
            .filter(guild::Column::LeftAt.is_null())
            .all(tx.db())
            .await?;
        for event in &events {
            for guild in guilds.iter().filter(|guild| guild.tenant_id == event.tenant_id) {
                let Some(channel) = guild.log_channel_id else { continue };
                let delivery = Delivery::LogLine { channel, seq: event.seq };
                outbox::enqueue(&mut tx, &delivery, format!("log:{}:{}", guild.id, event.seq), Notify::Now).await?;
            }
        }
        read += events.len();
        tx.commit().await?;
    }
}

/// An event and the Discord account of the member it is about.
pub async fn find_event(core: &Core, seq: i64) -> Result<Option<(Event, Option<DiscordUserId>)>> {
    let Some(event) = events::find(core, seq).await? else { return Ok(None) };
    let member = match event.subject {
        Some(user) => users::discord_id(core, user).await?,
        None => None,
    };
    Ok(Some((event, member)))
}
