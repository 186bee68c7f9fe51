//! The product through its front doors, against the real stack: see `harness` first.

mod accounts;
mod aliases;
mod checklist;
mod cli;
mod cluster;
mod commands;
mod erasure;
mod gateway;
mod guarded;
mod guesses;
mod harness;
mod house;
mod limits;
mod mail;
mod ops;
mod outbox;
mod pages;
mod people;
mod second_factor;
mod sign_in;
mod stage;
mod store;
mod story;
mod tokens;
mod validate;
mod visitor;
