//! Readers of the event log. A reader keeps a cursor: one row that all instances share ([`read_next`]), or a
//! sequence number of its own in each instance ([`read_after`]).

use sea_orm::{
    ActiveValue::Set,
    ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect,
    sea_query::{Expr, OnConflict},
};

use super::Event;
use crate::{
    Result,
    entity::{cursor, event},
    tx::Tx,
};

/// Reads the next events after a cursor that all instances share, and moves it past them if the transaction
/// commits. Only one instance reads at a time: moving the cursor locks its row.
pub(crate) async fn read_next(tx: &Tx, reader: &str, limit: u64) -> Result<Vec<Event>> {
    let row = cursor::ActiveModel { name: Set(reader.to_owned()), seq: Set(0) };
    cursor::Entity::insert(row)
        .on_conflict(OnConflict::column(cursor::Column::Name).do_nothing().to_owned())
        .exec_without_returning(tx.db())
        .await?;
    let position = cursor::Entity::find_by_id(reader).lock_exclusive().one(tx.db()).await?.map_or(0, |row| row.seq);
    let next = read_after(tx.db(), position, limit).await?;
    if let Some(last) = next.last() {
        cursor::Entity::update_many()
            .col_expr(cursor::Column::Seq, Expr::value(last.seq))
            .filter(cursor::Column::Name.eq(reader))
            .exec(tx.db())
            .await?;
    }
    Ok(next)
}

/// The events after a sequence number, oldest first.
async fn read_after(db: &impl ConnectionTrait, seq: i64, limit: u64) -> Result<Vec<Event>> {
    let events = event::Entity::find().filter(event::Column::Seq.gt(seq)).order_by_asc(event::Column::Seq).limit(limit);
    Ok(events.all(db).await?)
}
