//! The `credentials` table: password hashes.

use sea_orm::{EntityTrait, IntoActiveModel, sea_query::OnConflict};

use crate::entity::credential::{Column, Entity, Model};
use crate::{Result, accounts::one_time, crypto::seal::Purpose, db::Reader, ids::UserId, tx::Tx};

/// The hash of a user's password, if there is one.
pub(super) async fn password_of(from: &impl Reader, user: UserId) -> Result<Option<String>> {
    let row = Entity::find_by_id(user).one(from.connection()).await?;
    Ok(row.map(|row| row.password_hash))
}

pub(super) async fn delete_password(tx: &Tx, user: UserId) -> Result<()> {
    Entity::delete_by_id(user).exec(tx.db()).await?;
    Ok(())
}

/// Stores a password hash. Sign-ins that wait for a second factor end, because they may rely on the previous password.
pub(super) async fn set_password(tx: &Tx, user: UserId, hash: String) -> Result<()> {
    one_time::end_all(tx, Purpose::SecondFactor, user).await?;
    let row = Model { user_id: user, password_hash: hash, changed_at: tx.now() }.into_active_model();
    let changing = [Column::PasswordHash, Column::ChangedAt];
    let update = OnConflict::column(Column::UserId).update_columns(changing).to_owned();
    Entity::insert(row).on_conflict(update).exec_without_returning(tx.db()).await?;
    Ok(())
}
