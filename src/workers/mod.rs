//! Background work, on apalis: [`relay`] performs deliveries, and each worker of [`SCHEDULED`] runs on its own timer.

mod cleanup;
mod expire;
mod log_channel;
mod reconcile_roles;
pub mod relay;
mod runtime;
pub mod scheduled;

pub use self::{cleanup::CLEANUP, expire::EXPIRE, log_channel::LOG_CHANNEL, reconcile_roles::RECONCILE_ROLES};

/// Every scheduled worker.
pub const SCHEDULED: [scheduled::ScheduledWorker; 4] = [EXPIRE, RECONCILE_ROLES, LOG_CHANNEL, CLEANUP];
