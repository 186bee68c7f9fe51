//! Readers of the event log. A reader keeps a cursor: one row that all instances share.

use sea_orm::{ColumnTrait, EntityTrait, IntoActiveModel, QueryFilter, QueryOrder, QuerySelect};

use super::Event;
use crate::entity::{cursor, event};
use crate::{Result, db, tx::Tx};

/// Reads the next events after a cursor that all instances share, and moves it past them if the transaction
/// commits. Only one instance reads at a time: moving the cursor locks its row.
pub(crate) async fn read_next(tx: &Tx, reader: &str, limit: u64) -> Result<Vec<Event>> {
    let start = cursor::Model { name: reader.to_owned(), seq: 0 };
    db::insert_if_new(tx.db(), start.into_active_model()).await?;
    let position = cursor::Entity::find_by_id(reader).lock_exclusive().one(tx.db()).await?.map_or(0, |row| row.seq);
    let later = event::Entity::find().filter(event::Column::Seq.gt(position));
    let next = later.order_by_asc(event::Column::Seq).limit(limit).all(tx.db()).await?;
    if let Some(last) = next.last() {
        let moved = [(cursor::Column::Seq, last.seq.into())];
        db::update(moved, [cursor::Column::Name.eq(reader)]).exec(tx.db()).await?;
    }
    Ok(next)
}
