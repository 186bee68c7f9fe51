//! Readers of the event log. A reader keeps a cursor: one row that all instances share.

use sea_orm::sea_query::SelectStatement;
use sea_orm::{ColumnTrait, EntityTrait, IntoActiveModel, QueryFilter, QueryOrder, QuerySelect};

use super::Event;
use crate::entity::{cursor, event, event_head};
use crate::{Result, db, tx::Tx};

/// Reads the next events of these tenants after a cursor that all instances share, and moves it past them if the
/// transaction commits. Only one instance reads at a time: the cursor's row is locked.
pub(crate) async fn read_next(tx: &Tx, reader: &str, tenants: SelectStatement, limit: u64) -> Result<Vec<Event>> {
    let locked = || cursor::Entity::find_by_id(reader).lock_exclusive();
    let mut known = locked().one(tx.db()).await?;
    if known.is_none() {
        let start = cursor::Model { name: reader.to_owned(), seq: 0 };
        db::insert_if_new(tx.db(), start.into_active_model()).await?;
        known = locked().one(tx.db()).await?;
    }
    let position = known.map_or(0, |row| row.seq);
    // Read first: every event up to the head is visible to the statement that follows.
    let head = event_head::Entity::find().one(tx.db()).await?.map_or(0, |head| head.seq);
    if head <= position {
        return Ok(Vec::new());
    }
    let later = event::Entity::find().filter(event::Column::Seq.gt(position)).filter(event::Column::Seq.lte(head));
    let later = later.filter(event::Column::TenantId.in_subquery(tenants));
    let next = later.order_by_asc(event::Column::Seq).limit(limit).all(tx.db()).await?;
    let read = next.last().filter(|_| next.len() as u64 == limit).map_or(head, |last| last.seq);
    db::update([(cursor::Column::Seq, read.into())], [cursor::Column::Name.eq(reader)]).exec(tx.db()).await?;
    Ok(next)
}
