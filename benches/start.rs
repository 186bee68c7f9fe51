//! How long the service takes to start and a command to run, and how large it is.
//!
//! A start lasts until `/ready` answers 200. The first one creates the database, the keys and all tables.

use std::{collections::BTreeMap, fs, process::Command, process::Stdio, time::Instant};

use crate::support::database::Postgres;
use crate::support::process::{SERVICE, Server};
use crate::support::{BenchResult, seed, stats};

const STARTS: usize = 20;

pub async fn measure_all() -> BenchResult<()> {
    let kilobytes = u32::try_from(fs::metadata(SERVICE)?.len() / 1_000)?;
    println!("size of the binary: {:.1} MB", f64::from(kilobytes) / 1_000.0);
    measure("SQLite", None).await?;
    let Some(postgres) = Postgres::create().await? else { return Ok(()) };
    let measured = measure("PostgreSQL + Redis", Some(&postgres)).await;
    postgres.delete().await?;
    measured
}

async fn measure(title: &str, postgres: Option<&Postgres>) -> BenchResult<()> {
    let dir = tempfile::tempdir()?;
    let mut env = seed::settings(dir.path());
    let redis = Server::redis().await?;
    if let Some(postgres) = postgres {
        postgres.configure(&mut env);
        env.insert("DCA_REDIS_URL".to_owned(), format!("redis://{}", redis.addr));
    }
    let log = dir.path().join("log");
    let first = Server::service(&env, &log).await?.started_in;
    let (mut starts, mut resident, mut commands) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let service = Server::service(&env, &log).await?;
        starts.push(service.started_in.as_secs_f64() * 1_000.0);
        resident.push(service.resident_mib()?);
        drop(service);
        commands.push(command(&env)?);
    }
    stats::print_header(title);
    stats::print("first start", "ms", &[first.as_secs_f64() * 1_000.0]);
    stats::print("start", "ms", &starts);
    stats::print("resident memory after the start", "MiB", &resident);
    stats::print("dca-auth tenant list", "ms", &commands);
    Ok(())
}

/// How long a command of the command line takes, in ms.
fn command(env: &BTreeMap<String, String>) -> BenchResult<f64> {
    let start = Instant::now();
    let mut command = Command::new(SERVICE);
    let ended = command.args(["tenant", "list"]).env_clear().envs(env).stdout(Stdio::null()).status()?;
    if !ended.success() {
        return Err(format!("{command:?} ended with {ended}").into());
    }
    Ok(start.elapsed().as_secs_f64() * 1_000.0)
}
