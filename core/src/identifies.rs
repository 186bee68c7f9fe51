//! How often the bot identifies at the Discord gateway.
//!
//! Discord resets the token of a bot that identifies more than about 1,000 times in a day. Every IDENTIFY is a row, so
//! that restarts and other instances count too.

use std::time::Duration;

use chrono::TimeDelta;
use sea_orm::{ColumnTrait, EntityTrait, IntoActiveModel, PaginatorTrait, QueryFilter, QueryOrder};

use crate::entity::identify::{Column, Entity, Model};
use crate::{Core, Result};

const DAY: TimeDelta = TimeDelta::days(1);

/// Counts an IDENTIFY that is about to be sent, unless `limit` were counted in the last 24 hours: then returns how
/// long until the next one is allowed.
pub async fn reserve(core: &Core, limit: u64) -> Result<Option<Duration>> {
    let (now, writer) = (core.clock.now(), core.db.writer());
    Entity::delete_many().filter(Column::SentAt.lte(now - DAY)).exec(writer).await?;
    if Entity::find().count(writer).await? >= limit {
        let oldest = Entity::find().order_by_asc(Column::SentAt).one(writer).await?;
        let next = oldest.map_or(DAY, |oldest| oldest.sent_at + DAY - now);
        return Ok(Some(next.to_std().unwrap_or_default()));
    }
    Entity::insert(Model { id: core.ids.v7(now), sent_at: now }.into_active_model()).exec(writer).await?;
    Ok(None)
}
