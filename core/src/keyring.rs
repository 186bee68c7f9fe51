//! The `keyring` table.

use sea_orm::{ActiveValue::Set, ColumnTrait, EntityTrait, QueryFilter, QueryOrder, sea_query::OnConflict};
use uuid::Uuid;

use crate::{
    Core, Result,
    crypto::seal::Purpose,
    entity::key::{ActiveModel, Column, Entity, Model},
    tx::Tx,
};

/// The newest key of a purpose. Two instances that start at once agree: the second insert does
/// nothing, and both read the first.
pub(crate) async fn find_or_create(core: &Core, purpose: Purpose, seal: impl FnOnce(Uuid) -> Vec<u8>) -> Result<Model> {
    let newest = Entity::find().filter(Column::Purpose.eq(purpose.as_str())).order_by_desc(Column::Generation);
    if let Some(row) = newest.clone().one(core.db.read()).await? {
        return Ok(row);
    }
    let tx = Tx::begin(core).await?;
    let id = core.ids.v7(tx.now());
    Entity::insert(ActiveModel {
        id: Set(id),
        purpose: Set(purpose.to_string()),
        generation: Set(1),
        sealed: Set(seal(id)),
        not_before: Set(tx.now()),
        not_after: Set(None),
    })
    .on_conflict(OnConflict::columns([Column::Purpose, Column::Generation]).do_nothing().to_owned())
    .exec_without_returning(tx.db())
    .await?;
    let row = newest.one(tx.db()).await?;
    tx.commit().await?;
    row.ok_or_else(|| crate::Error::Broken(format!("no {purpose} key")))
}
