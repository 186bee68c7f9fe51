//! The `credentials` table: password hashes.

use sea_orm::{ActiveValue::Set, EntityTrait, sea_query::OnConflict};

use crate::{Result, db::Reader, entity::credential, ids::UserId, tx::Tx};

/// The hash of a user's password, if there is one.
pub(super) async fn password_of(from: &impl Reader, user: UserId) -> Result<Option<String>> {
    let row = credential::Entity::find_by_id(user).one(from.connection()).await?;
    Ok(row.map(|row| row.password_hash))
}

pub(super) async fn delete_password(tx: &Tx, user: UserId) -> Result<()> {
    credential::Entity::delete_by_id(user).exec(tx.db()).await?;
    Ok(())
}

pub(super) async fn set_password(tx: &Tx, user: UserId, hash: String) -> Result<()> {
    let row = credential::ActiveModel { user_id: Set(user), password_hash: Set(hash), changed_at: Set(tx.now()) };
    let update = OnConflict::column(credential::Column::UserId)
        .update_columns([credential::Column::PasswordHash, credential::Column::ChangedAt])
        .to_owned();
    credential::Entity::insert(row).on_conflict(update).exec_without_returning(tx.db()).await?;
    Ok(())
}
