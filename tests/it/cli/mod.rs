//! The compiled binary: its commands, and several processes on one database.

mod apikeys;
pub mod cluster;
pub mod commands;
mod doctor;
mod faults;
mod installation;
mod output;
