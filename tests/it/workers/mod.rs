//! Deliveries and scheduled work.

mod cleanup;
mod mail;
mod outbox;
