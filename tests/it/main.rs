//! The product through its front doors, against the real stack: see `harness` first.

mod accounts;
mod aliases;
mod cli;
mod cluster;
mod commands;
mod gateway;
mod harness;
mod house;
mod limits;
mod mail;
mod ops;
mod outbox;
mod pages;
mod sign_in;
mod stage;
mod store;
mod story;
mod validate;
mod visitor;
