//! The names of scheduled workers, and when they run next.

use chrono::{DateTime, Utc};
use sea_orm::{ColumnTrait, ConnectionTrait, UpdateMany};

use crate::{
    Result,
    db::update,
    entity::worker::{Column, Entity},
};

/// Revokes licenses whose grace has expired, and records license expiry.
pub const EXPIRE: &str = "expire";
/// Reconciles the roles of all members of all guilds.
pub const RECONCILE_ROLES: &str = "reconcile_roles";
/// Posts new events to the log channels.
pub const LOG_CHANNEL: &str = "log_channel";
/// Deletes expired data.
pub const CLEANUP: &str = "cleanup";
/// Rotates the key that signs verdicts, and signs the list of these keys.
pub const SIGNING_KEYS: &str = "signing_keys";
/// The lease of the instance that is connected to the Discord gateway.
pub const GATEWAY: &str = "gateway";

/// Moves the next run forward to `due_at` if it is due later.
pub(crate) async fn schedule_no_later_than(db: &impl ConnectionTrait, name: &str, due_at: DateTime<Utc>) -> Result<()> {
    no_later_than(name, due_at).exec(db).await?;
    Ok(())
}

pub(crate) fn no_later_than(name: &str, due_at: DateTime<Utc>) -> UpdateMany<Entity> {
    update([(Column::DueAt, due_at.into())], [Column::Name.eq(name), Column::DueAt.gt(due_at)])
}
