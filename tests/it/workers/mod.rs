//! Deliveries and scheduled work.

mod mail;
mod outbox;
