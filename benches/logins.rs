//! How 200 concurrent sign-ins affect the latency of validations.
//!
//! One process with the default settings except for its rate limits, on SQLite. Sends 2,000 validations per second in an
//! open loop (latency counts from when a request was due; the timer is precise to a millisecond), first alone, then while
//! 200 accounts sign in at once and retry when the server is busy. Prints the latencies of both phases and the ratio of
//! their 99th percentiles in each round.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use dca_core::accounts::admin;
use tokio::task::JoinSet;

use crate::support::load::{self, Connection, Device, Popularity, Proof, Validations, post};
use crate::support::process::Server;
use crate::support::stats::{Random, percentile, print, print_header};
use crate::support::{BenchResult, seed};

#[derive(clap::Args)]
pub struct Options {
    /// The memory of a password hash in KiB, instead of the default
    #[arg(long)]
    memory: Option<u32>,
    /// The number of rounds
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

const PER_SECOND: u64 = 2_000;
const CONNECTIONS: usize = 64;
const KEYS: usize = 1_000;
const ACCOUNTS: usize = 200;
const ALONE: Duration = Duration::from_secs(10);
const PASSWORD: &str = "plow-Ketchup-41 sundial";

/// Latencies in ms, sorted, and how many sign-ins there were per second.
struct Round {
    alone: Vec<f64>,
    storm: Vec<f64>,
    sign_ins: f64,
}

pub async fn measure(options: &Options) -> BenchResult<()> {
    let dir = tempfile::tempdir()?;
    let mut env = seed::settings(dir.path());
    let limits =
        ["DCA_AUTH_PER_MINUTE", "DCA_FAILURES_PER_NETWORK", "DCA_SIGN_INS_PER_ACCOUNT", "DCA_MAX_SESSIONS_PER_USER"];
    env.extend(limits.map(|name| (name.to_owned(), "1000000".to_owned())));
    env.extend(options.memory.map(|memory| ("DCA_PASSWORD_MEMORY_KIB".to_owned(), memory.to_string())));
    let seeded = Arc::new(seed::licenses(&env, KEYS).await?);
    let core = seed::open(&env).await?;
    for index in 0..ACCOUNTS {
        admin::create_admin(&core, &format!("user{index}@bench.example"), Some("User"), PASSWORD).await?;
    }
    core.db.close().await?;
    let service = Server::service(&env, &dir.path().join("log")).await?;
    let validations = Validations { seeded, popularity: Popularity::Uniform, proof: Proof::Off, device: Device::None };
    load::warm_up(service.addr, &validations, CONNECTIONS).await?;
    let mut rounds = Vec::new();
    for _ in 0..options.rounds {
        rounds.push(round(service.addr, &validations).await?);
    }
    report(&rounds);
    Ok(())
}

fn report(rounds: &[Round]) {
    let of = |figure: fn(&Round) -> f64| rounds.iter().map(figure).collect::<Vec<_>>();
    print_header(&format!("{PER_SECOND} validations/s, {ACCOUNTS} sign-ins at once"));
    print("alone", "p50 ms", &of(|round| percentile(&round.alone, 50)));
    print("alone", "p99 ms", &of(|round| percentile(&round.alone, 99)));
    print("while signing in", "p50 ms", &of(|round| percentile(&round.storm, 50)));
    print("while signing in", "p99 ms", &of(|round| percentile(&round.storm, 99)));
    print("p99 while signing in", "÷ alone", &of(|round| percentile(&round.storm, 99) / percentile(&round.alone, 99)));
    print("sign-ins", "per second", &of(|round| round.sign_ins));
}

async fn round(addr: SocketAddr, validations: &Validations) -> BenchResult<Round> {
    let stop = Arc::new(AtomicBool::new(false));
    let load = tokio::spawn(validate(addr, validations.clone(), Arc::clone(&stop)));
    tokio::time::sleep(ALONE).await;
    stop.store(true, Ordering::Relaxed);
    let alone = load.await??;
    let stop = Arc::new(AtomicBool::new(false));
    let load = tokio::spawn(validate(addr, validations.clone(), Arc::clone(&stop)));
    let start = Instant::now();
    let mut sign_ins: JoinSet<_> = (0..ACCOUNTS).map(|index| sign_in(addr, index)).collect();
    while let Some(ended) = sign_ins.join_next().await {
        ended??;
    }
    let sign_ins = f64::from(u32::try_from(ACCOUNTS)?) / start.elapsed().as_secs_f64();
    stop.store(true, Ordering::Relaxed);
    Ok(Round { alone, storm: load.await??, sign_ins })
}

/// Validates at a fixed rate until `stop`. Returns the sorted latencies in ms, measured from when a request was due.
async fn validate(addr: SocketAddr, validations: Validations, stop: Arc<AtomicBool>) -> BenchResult<Vec<f64>> {
    let (next, start) = (Arc::new(AtomicU64::new(0)), Instant::now());
    let mut connections = JoinSet::new();
    for seed in 0..CONNECTIONS {
        let (next, validations, stop) = (Arc::clone(&next), validations.clone(), Arc::clone(&stop));
        connections.spawn(async move {
            let (mut connection, mut random, mut latencies) =
                (Connection::open(addr).await?, Random::new(seed), Vec::new());
            while !stop.load(Ordering::Relaxed) {
                let request = validations.random(&mut random);
                let number = next.fetch_add(1, Ordering::Relaxed);
                let due = start + Duration::from_micros(number * 1_000_000 / PER_SECOND);
                tokio::time::sleep_until(due.into()).await;
                let answer = connection.send(&request).await?;
                if !answer.is_valid() {
                    return answer.unexpected();
                }
                latencies.push(due.elapsed().as_secs_f64() * 1_000.0);
            }
            BenchResult::Ok(latencies)
        });
    }
    let mut latencies = Vec::new();
    while let Some(of_connection) = connections.join_next().await {
        latencies.extend(of_connection??);
    }
    latencies.sort_by(f64::total_cmp);
    Ok(latencies)
}

/// Signs in to one account, and retries while the server is busy.
async fn sign_in(addr: SocketAddr, index: usize) -> BenchResult<()> {
    let body = format!("{{\"email\":\"user{index}@bench.example\",\"password\":\"{PASSWORD}\"}}");
    let mut connection = Connection::open(addr).await?;
    loop {
        let answer = connection.send(&post("/auth/login", None, &body)).await?;
        match answer.status {
            200 => return Ok(()),
            503 => tokio::time::sleep(Duration::from_secs(2)).await,
            _ => return answer.unexpected(),
        }
    }
}
