//! Queries of the `keyring` table.

use chrono::{DateTime, Utc};
use sea_orm::{ActiveValue::Set, ColumnTrait, EntityTrait, QueryFilter, QueryOrder, sea_query::OnConflict};
use uuid::Uuid;

use crate::{
    Db, Error, Result,
    crypto::seal::Purpose,
    entity::key::{ActiveModel, Column, Entity, Model},
};

/// Returns whether any key exists.
pub(crate) async fn exists(db: &Db) -> Result<bool> {
    Ok(Entity::find().one(db.writer()).await?.is_some())
}

/// Returns the newest key of a purpose, or creates the first one from `id` and `sealed`. When two instances
/// start at once, the second insert does nothing and both read the first key.
pub(crate) async fn find_or_create(
    db: &Db,
    purpose: Purpose,
    id: Uuid,
    sealed: Vec<u8>,
    now: DateTime<Utc>,
) -> Result<Model> {
    let newest = Entity::find().filter(Column::Purpose.eq(purpose.as_str())).order_by_desc(Column::Generation);
    if let Some(row) = newest.clone().one(db.writer()).await? {
        return Ok(row);
    }
    let row = ActiveModel {
        id: Set(id),
        purpose: Set(purpose.to_string()),
        generation: Set(1),
        sealed: Set(sealed),
        not_before: Set(now),
        not_after: Set(None),
    };
    Entity::insert(row)
        .on_conflict(OnConflict::columns([Column::Purpose, Column::Generation]).do_nothing().to_owned())
        .exec_without_returning(db.writer())
        .await?;
    newest
        .one(db.writer())
        .await?
        .ok_or_else(|| Error::Internal(format!("the {purpose} key is missing from the keyring table")))
}
