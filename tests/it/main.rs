//! Integration tests: the whole service over HTTP, Discord, SMTP and the command line. Start with `harness`.

mod account_fixtures;
mod accounts;
mod administration;
mod aliases;
mod architecture;
mod asvs;
mod browser;
mod brute_force;
mod cli;
mod cluster;
mod commands;
mod erasure;
mod fixtures;
mod gateway;
mod harness;
mod license_lifecycle;
mod limits;
mod mail;
mod ops;
mod outbox;
mod pages;
mod second_factor;
mod sign_in;
mod storage;
mod tokens;
mod validate;
