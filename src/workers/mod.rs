//! Background work, on apalis: [`relay`] performs deliveries, and each worker of [`SCHEDULED`] runs on its own timer.

mod cleanup;
mod expire;
mod log_channel;
mod reconcile_roles;
pub mod relay;
mod runtime;
pub mod scheduled;
mod signing_keys;

pub use self::signing_keys::SIGNING_KEYS;
pub use self::{cleanup::CLEANUP, expire::EXPIRE, log_channel::LOG_CHANNEL, reconcile_roles::RECONCILE_ROLES};

/// Every scheduled worker.
pub const SCHEDULED: [scheduled::ScheduledWorker; 5] = [EXPIRE, RECONCILE_ROLES, LOG_CHANNEL, CLEANUP, SIGNING_KEYS];
