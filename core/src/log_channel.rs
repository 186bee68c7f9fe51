//! The log channels: a reader of the one log. An event becomes one delivery per guild of its tenant that
//! chose a channel; its words are found when it is sent.

use sea_orm::{ColumnTrait, EntityTrait, QueryFilter};

use crate::{
    Core, Result, Snowflake,
    entity::guild,
    events::{self, Event},
    outbox::{self, Delivery, Notify},
    tx::Tx,
    users,
};

/// Turns new events into deliveries. Answers how many events were read.
///
/// # Errors
/// When the database does not answer; the same events are read again then.
pub async fn read_on(core: &Core) -> Result<usize> {
    const BATCH: u64 = 100;
    let mut read = 0;
    loop {
        let mut tx = Tx::begin(core).await?;
        let events = events::advance(&tx, "log_channel", BATCH).await?;
        if events.is_empty() {
            return Ok(read);
        }
        let guilds = guild::Entity::find()
            .filter(guild::Column::LogChannelId.is_not_null())
            .filter(guild::Column::LeftAt.is_null())
            .all(tx.db())
            .await?;
        for event in &events {
            for guild in guilds.iter().filter(|guild| guild.tenant_id == event.tenant_id) {
                let Some(channel) = guild.log_channel_id else { continue };
                let delivery = Delivery::LogLine { channel, seq: event.seq };
                outbox::send(&mut tx, &delivery, format!("log:{}:{}", guild.id, event.seq), Notify::Now).await?;
            }
        }
        read += events.len();
        tx.commit().await?;
    }
}

/// An event and the Discord account of the member it is about.
///
/// # Errors
/// When the database does not answer.
pub async fn find(core: &Core, seq: i64) -> Result<Option<(Event, Option<Snowflake>)>> {
    let Some(event) = events::find(core, seq).await? else { return Ok(None) };
    let member = match event.subject {
        Some(user) => users::discord_id(core, user).await?,
        None => None,
    };
    Ok(Some((event, member)))
}
