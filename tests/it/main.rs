//! Integration tests: the whole service over HTTP, Discord, SMTP and the command line. Start with `support::harness`.

mod architecture;
mod cli;
mod discord;
mod http;
mod outages;
mod plans;
mod process;
mod storage;
mod support;
mod tls;
mod workers;
