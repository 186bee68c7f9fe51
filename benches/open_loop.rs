//! Validations at a fixed rate, from many clients.
//!
//! Each client has a connection of its own and sends a request whenever one is due, whether or not the service keeps up:
//! latency counts from when the request was due. The timer of the load is precise to a millisecond, which the latencies
//! include. Prints them for two loads in each round: a bare axum server, and the service.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::support::load::{self, Connection, Device, Popularity, Proof, Validations};
use crate::support::process::Server;
use crate::support::stats::{Random, percentile, print, print_header};
use crate::support::{BenchResult, seed};

#[derive(clap::Args)]
pub struct Options {
    /// The number of licenses
    #[arg(long, default_value_t = 100_000)]
    keys: usize,
    /// The number of clients
    #[arg(long, default_value_t = 10_000)]
    clients: u32,
    /// The number of requests per second
    #[arg(long, default_value_t = 5_000)]
    rate: u32,
    /// How long each server is measured in a round
    #[arg(long, default_value_t = 20)]
    seconds: u32,
    /// The number of rounds
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

pub async fn measure(options: &Options) -> BenchResult<()> {
    let dir = tempfile::tempdir()?;
    let env = seed::settings(dir.path());
    let seeded = Arc::new(seed::licenses(&env, options.keys).await?);
    let service = Server::service(&env, &dir.path().join("log")).await?;
    let echo = Server::echo().await?;
    let validations = Validations { seeded, popularity: Popularity::Uniform, proof: Proof::Off, device: Device::Named };
    load::warm_up(service.addr, &validations, 32).await?;
    let servers = [("axum, echo", &echo), ("validate, device, no proof", &service)];
    let mut figures = [const { [const { Vec::new() }; 4] }; 2];
    for _ in 0..options.rounds {
        for ((_, server), figures) in servers.iter().zip(&mut figures) {
            let (start, before) = (Instant::now(), server.cpu());
            let latencies = open_loop(server.addr, &validations, options).await?;
            let share = (server.cpu() - before) / start.elapsed().as_secs_f64();
            let values = [percentile(&latencies, 50), percentile(&latencies, 99), percentile(&latencies, 100)];
            for (figures, value) in figures.iter_mut().zip(values.into_iter().chain([share * 100.0])) {
                figures.push(value);
            }
        }
    }
    print_header(&format!("{} requests/s from {} clients", options.rate, options.clients));
    for ((name, _), figures) in servers.iter().zip(&figures) {
        for (unit, samples) in ["p50 ms", "p99 ms", "max ms", "% of a core"].into_iter().zip(figures) {
            print(name, unit, samples);
        }
    }
    Ok(())
}

/// Returns the sorted latencies in ms.
async fn open_loop(addr: SocketAddr, validations: &Validations, options: &Options) -> BenchResult<Vec<f64>> {
    let mut connections = Vec::new();
    for _ in 0..options.clients {
        connections.push(Connection::open(addr).await?);
    }
    let interval = Duration::from_secs(1) / options.rate;
    let (start, requests) = (Instant::now() + Duration::from_millis(100), options.rate * options.seconds);
    let mut tasks = JoinSet::new();
    for (client, mut connection) in (0..options.clients).zip(connections) {
        let (validations, step) = (validations.clone(), usize::try_from(options.clients)?);
        tasks.spawn(async move {
            let (mut random, mut latencies) = (Random::new(step), Vec::new());
            for number in (client..requests).step_by(step) {
                let request = validations.random(&mut random);
                let due = start + interval * number;
                sleep_until(due).await;
                let answer = connection.send(&request).await?;
                if answer.status != 200 {
                    return answer.unexpected();
                }
                latencies.push(due.elapsed().as_secs_f64() * 1_000.0);
            }
            BenchResult::Ok(latencies)
        });
    }
    let mut all = Vec::new();
    while let Some(latencies) = tasks.join_next().await {
        all.extend(latencies??);
    }
    all.sort_by(f64::total_cmp);
    Ok(all)
}
