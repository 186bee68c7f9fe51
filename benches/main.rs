//! The benchmarks, in one binary: `cargo bench --bench figures -- NAME`. Each prints a table.
//!
//! Those that measure the CPU time of servers start them in processes of their own.

mod enumeration;
mod event_head;
mod gateway;
mod logins;
mod open_loop;
mod outbox;
mod revocation;
mod start;
mod statements;
mod support;
mod validate;

use std::net::SocketAddr;

use axum::{Router, body::Bytes, routing::post};
use clap::{Parser, Subcommand};
use support::BenchResult;

/// The benchmarks of DCA-Auth.
#[derive(Parser)]
struct Arguments {
    /// Set by `cargo bench`, but not by `cargo test --all-targets`
    #[arg(long, global = true, hide = true)]
    bench: bool,
    #[command(subcommand)]
    benchmark: Option<Benchmark>,
}

#[derive(Subcommand)]
enum Benchmark {
    /// CPU time of a validation, divided by that of a bare axum server
    Validate(validate::Options),
    /// Latency of validations at a fixed rate, from many clients
    OpenLoop(open_loop::Options),
    /// Whether a key is valid anywhere after its revocation was acknowledged
    Revocation(revocation::Options),
    /// CPU time of updates of members, and of gained roles
    Gateway,
    /// Keys per second when many members gain a role
    Outbox(outbox::Options),
    /// SQL statements of each unit of work
    Statements,
    /// Start time, memory and size
    Start,
    /// How 200 concurrent sign-ins affect the latency of validations
    Logins(logins::Options),
    /// How many transactions per second can write events
    EventHead,
    /// Whether response times reveal which addresses have an account
    Enumeration,
    /// Runs a bare axum server
    #[command(hide = true)]
    Echo { addr: SocketAddr },
}

fn main() -> BenchResult<()> {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    if let Some(Benchmark::Echo { addr }) = arguments.benchmark {
        return runtime.block_on(echo(addr));
    }
    if !arguments.bench {
        return Ok(());
    }
    // For the connections of the load, and of the servers, which inherit it.
    rlimit::increase_nofile_limit(u64::MAX)?;
    _ = rustls::crypto::ring::default_provider().install_default();
    runtime.block_on(async {
        match arguments.benchmark {
            Some(Benchmark::Validate(options)) => validate::measure(&options).await,
            Some(Benchmark::OpenLoop(options)) => open_loop::measure(&options).await,
            Some(Benchmark::Revocation(options)) => revocation::measure(&options).await,
            Some(Benchmark::Gateway) => gateway::measure_all().await,
            Some(Benchmark::Outbox(options)) => outbox::measure(&options).await,
            Some(Benchmark::Statements) => Box::pin(statements::measure_all()).await,
            Some(Benchmark::Start) => start::measure_all().await,
            Some(Benchmark::Logins(options)) => logins::measure(&options).await,
            Some(Benchmark::EventHead) => event_head::measure_all().await,
            Some(Benchmark::Enumeration) => Box::pin(enumeration::measure()).await,
            _ => Err("name a benchmark: `cargo bench --bench figures -- help` lists them".into()),
        }
    })
}

/// A server that does nothing but HTTP: what a validation can cost at least.
async fn echo(addr: SocketAddr) -> BenchResult<()> {
    let router = Router::new().route("/licenses/validate", post(|body: Bytes| async { body }));
    Ok(axum::serve(tokio::net::TcpListener::bind(addr).await?, router).await?)
}
