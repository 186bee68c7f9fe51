//! What a validation costs.
//!
//! The service (`dca-auth serve`, with its access log in a file and its rate limits on) and a bare axum
//! server that returns what it is sent answer the same requests by turns, in rounds. Each request is for a random key. The
//! cost is the CPU time of all serving processes, PostgreSQL and Redis included, divided by the number of requests. The
//! load is a closed loop: its own CPU time is not counted, and its rate says little.
//!
//! On SQLite; with `TEST_DATABASE_URL` on PostgreSQL with a Redis of its own too. After `npm ci` in
//! `benches/peers/fastify`, also the same contract in Fastify with ioredis.

use std::{path::Path, process::Command, sync::Arc, time::Duration};

use crate::support::database::Postgres;
use crate::support::load::{self, Answer, Device, Popularity, Proof, Validations};
use crate::support::process::{Server, free_address, postgres_cpu};
use crate::support::seed::{self, Seeded};
use crate::support::{BenchResult, stats};

#[derive(clap::Args)]
pub struct Options {
    /// The number of licenses
    #[arg(long, default_value_t = 100_000)]
    keys: usize,
    /// The number of rounds
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long each server is measured in a round
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// The number of connections
    #[arg(long, default_value_t = 32)]
    connections: usize,
    /// Use the n-th key as often as 1/n instead of all equally often
    #[arg(long)]
    zipf: bool,
    /// Measure with this value of `DCA_LOG`; with `warn`, without the access log
    #[arg(long, default_value = "info")]
    log: String,
    /// Only on this database
    #[arg(long)]
    only: Option<Database>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Database {
    Sqlite,
    Postgres,
}

const PEER: &str = "Fastify + ioredis, device";

/// What serves, and what is sent to it.
struct Case<'a> {
    name: &'a str,
    server: &'a Server,
    /// The Redis that belongs to it.
    redis: Option<&'a Server>,
    /// The name of the PostgreSQL database that belongs to it.
    database: Option<&'a str>,
    validations: Validations,
    expected: fn(&Answer<'_>) -> bool,
}

impl Case<'_> {
    /// In seconds.
    fn cpu(&self) -> f64 {
        let redis = self.redis.map(Server::cpu).unwrap_or_default();
        self.server.cpu() + redis + self.database.map(postgres_cpu).unwrap_or_default()
    }
}

pub async fn measure(options: &Options) -> BenchResult<()> {
    if options.only != Some(Database::Postgres) {
        measure_on("SQLite", None, options).await?;
    }
    let wanted = options.only != Some(Database::Sqlite);
    let Some(postgres) = (if wanted { Postgres::create().await? } else { None }) else { return Ok(()) };
    let measured = measure_on("PostgreSQL + Redis", Some(&postgres), options).await;
    postgres.delete().await?;
    measured
}

async fn measure_on(title: &str, postgres: Option<&Postgres>, options: &Options) -> BenchResult<()> {
    let dir = tempfile::tempdir()?;
    let mut env = seed::settings(dir.path());
    env.insert("DCA_LOG".to_owned(), options.log.clone());
    let redis = if postgres.is_some() { Some(Server::redis().await?) } else { None };
    if let (Some(postgres), Some(redis)) = (postgres, &redis) {
        postgres.configure(&mut env);
        env.insert("DCA_REDIS_URL".to_owned(), format!("redis://{}", redis.addr));
    }
    let seeded = Arc::new(seed::licenses(&env, options.keys).await?);
    let service = Server::service(&env, &dir.path().join("log")).await?;
    let echo = Server::echo().await?;
    let popularity = if options.zipf { Popularity::zipf(options.keys) } else { Popularity::Uniform };
    let plain = Validations { seeded: seeded.clone(), popularity, proof: Proof::Off, device: Device::None };
    let device = Validations { device: Device::Named, ..plain.clone() };
    let proof = Validations { proof: Proof::Fresh, ..plain.clone() };
    load::warm_up(service.addr, &device, options.connections).await?;
    let ours = |name, validations: &Validations| Case {
        name,
        server: &service,
        redis: redis.as_ref(),
        database: postgres.map(|postgres| postgres.name.as_str()),
        validations: validations.clone(),
        expected: load::is_valid,
    };
    let is_ok = |answer: &Answer<'_>| answer.status == 200;
    let bare = Case {
        name: "axum, echo",
        server: &echo,
        redis: None,
        database: None,
        validations: plain.clone(),
        expected: is_ok,
    };
    let mut cases = vec![bare, ours("validate, no proof", &plain), ours("validate, device, no proof", &device)];
    cases.push(ours("validate, fresh proof", &proof));
    let peer_redis = Server::redis().await?;
    let peer = if postgres.is_some() { peer(&peer_redis, &seeded).await? } else { None };
    cases.extend(peer.as_ref().map(|server| Case {
        name: PEER,
        server,
        redis: Some(&peer_redis),
        database: None,
        validations: device.clone(),
        expected: load::is_valid,
    }));
    compare(title, &cases, options).await?;
    println!("{:<44}{:>12}{:>12.1}", "resident memory of the service", "MiB", service.resident_mib()?);
    Ok(())
}

async fn compare(title: &str, cases: &[Case<'_>], options: &Options) -> BenchResult<()> {
    let mut costs = vec![Vec::new(); cases.len()];
    for _ in 0..options.rounds {
        for (case, costs) in cases.iter().zip(&mut costs) {
            let (duration, before) = (Duration::from_secs_f64(options.seconds), case.cpu());
            let sent =
                load::closed_loop(case.server.addr, &case.validations, options.connections, duration, case.expected);
            let answered = f64::from(u32::try_from(sent.await?)?);
            costs.push((case.cpu() - before) * 1e6 / answered);
        }
    }
    stats::print_header(&format!("{title}, {} keys", options.keys));
    for (case, costs) in cases.iter().zip(&costs) {
        stats::print(case.name, "CPU µs", costs);
    }
    for (case, of_case) in cases.iter().zip(&costs).skip(1) {
        let ratios: Vec<f64> = of_case.iter().zip(&costs[0]).map(|(cost, echo)| cost / echo).collect();
        stats::print(case.name, "÷ echo", &ratios);
    }
    if let Some(peer) = cases.iter().position(|case| case.name == PEER) {
        // The third case asks the same of us.
        let ratios: Vec<f64> = costs[peer].iter().zip(&costs[2]).map(|(peer, ours)| peer / ours).collect();
        stats::print(PEER, "÷ ours", &ratios);
    }
    Ok(())
}

/// Starts the peer with the same licenses, if its packages are installed.
async fn peer(redis: &Server, seeded: &Seeded) -> BenchResult<Option<Server>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/peers/fastify");
    if !dir.join("node_modules").exists() {
        println!("without the peer: run `npm ci` in benches/peers/fastify");
        return Ok(None);
    }
    let keys = tempfile::NamedTempFile::new()?;
    std::fs::write(keys.path(), seeded.keys.join("\n"))?;
    let mut command = Command::new("node");
    command.current_dir(&dir).env("REDIS_PORT", redis.addr.port().to_string());
    let loaded = command.arg("load.js").arg(keys.path()).arg(&seeded.fingerprint).status()?;
    if !loaded.success() {
        return Err("the peer could not load its licenses".into());
    }
    let addr = free_address()?;
    let mut command = Command::new("node");
    command.current_dir(&dir).env("REDIS_PORT", redis.addr.port().to_string()).env("PORT", addr.port().to_string());
    command.env("API_KEY", &seeded.api_key).arg("server.js");
    Ok(Some(Server::start(&mut command, addr, None).await?))
}
