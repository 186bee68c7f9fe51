//! What the tests stand on: start with [`harness`].

pub mod accounts;
pub mod browser;
pub mod databases;
pub mod fixtures;
pub mod harness;
pub mod proofs;
