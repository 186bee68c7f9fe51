//! How many keys per second are sent when many members gain a role at once, from the first update to the last direct
//! message. "Raw" claims and completes rows of a table one by one on the same database: a measure of the database.
//!
//! On SQLite; with `TEST_DATABASE_URL` on PostgreSQL too.

use std::{collections::BTreeMap, time::Instant};

use dca_test_support::SimDiscord;
use sea_orm_migration::sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend};

use crate::support::database::Postgres;
use crate::support::discord::Makers;
use crate::support::process::Server;
use crate::support::{BenchResult, seed, stats};

#[derive(clap::Args)]
pub struct Options {
    /// How many members gain the role
    #[arg(long, default_value_t = 5_000)]
    gains: u32,
    /// The number of rounds, each in a new installation
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

pub async fn measure(options: &Options) -> BenchResult<()> {
    let (mut keys, mut raw) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        keys.push(keys_per_second(None, options.gains).await?);
        raw.push(raw_per_second(None, options.gains).await?);
    }
    report("SQLite", &keys, &raw);
    let (mut keys, mut raw) = (Vec::new(), Vec::new());
    for _ in 0..options.rounds {
        let Some(postgres) = Postgres::create().await? else { return Ok(()) };
        let measured = async {
            keys.push(keys_per_second(Some(&postgres), options.gains).await?);
            raw.push(raw_per_second(Some(&postgres), options.gains).await?);
            BenchResult::Ok(())
        };
        let measured = measured.await;
        postgres.delete().await?;
        measured?;
    }
    report("PostgreSQL", &keys, &raw);
    Ok(())
}

fn report(title: &str, keys: &[f64], raw: &[f64]) {
    stats::print_header(title);
    stats::print("gains with a direct message", "per second", keys);
    stats::print("raw claim and completion", "per second", raw);
    let ratios: Vec<f64> = keys.iter().zip(raw).map(|(keys, raw)| keys / raw).collect();
    stats::print("gains", "÷ raw", &ratios);
}

async fn keys_per_second(postgres: Option<&Postgres>, gains: u32) -> BenchResult<f64> {
    let (dir, discord) = (tempfile::tempdir()?, SimDiscord::start().await);
    let env = settings(&dir, postgres, Some(&discord));
    let _service = Server::service(&env, &dir.path().join("log")).await?;
    let makers = Makers::set_up(discord).await;
    let members = makers.members(usize::try_from(gains)?);
    tokio::time::sleep(std::time::Duration::from_secs(5)).await;
    let start = Instant::now();
    for member in &members {
        member.grant(makers.gold);
    }
    makers.sent_keys(&members).await?;
    Ok(f64::from(gains) / start.elapsed().as_secs_f64())
}

async fn raw_per_second(postgres: Option<&Postgres>, rows: u32) -> BenchResult<f64> {
    let dir = tempfile::tempdir()?;
    let core = seed::open(&settings(&dir, postgres, None)).await?;
    let db = core.db.pool();
    db.execute_unprepared("CREATE TABLE raw (id integer PRIMARY KEY, state text, due_at bigint)").await?;
    db.execute_unprepared("CREATE INDEX raw_due ON raw (due_at) WHERE state = 'due'").await?;
    for row in 0..rows {
        db.execute_unprepared(&format!("INSERT INTO raw VALUES ({row}, 'due', {row})")).await?;
    }
    let start = Instant::now();
    while let Some(id) = claim(db).await? {
        db.execute_unprepared(&format!("UPDATE raw SET state = 'sent' WHERE id = {id}")).await?;
    }
    let rate = f64::from(rows) / start.elapsed().as_secs_f64();
    core.db.close().await?;
    Ok(rate)
}

async fn claim(db: &DatabaseConnection) -> BenchResult<Option<i32>> {
    let lock = if db.get_database_backend() == DbBackend::Postgres { "FOR UPDATE SKIP LOCKED" } else { "" };
    let claim = format!(
        "UPDATE raw SET state = 'claimed' WHERE id = (SELECT id FROM raw WHERE state = 'due' ORDER BY due_at LIMIT 1 {lock}) \
         RETURNING id"
    );
    let statement = sea_orm_migration::sea_orm::Statement::from_string(db.get_database_backend(), claim);
    Ok(db.query_one_raw(statement).await?.map(|row| row.try_get("", "id")).transpose()?)
}

fn settings(
    dir: &tempfile::TempDir,
    postgres: Option<&Postgres>,
    discord: Option<&SimDiscord>,
) -> BTreeMap<String, String> {
    let mut env = seed::settings(dir.path());
    if let Some(discord) = discord {
        Makers::configure(discord, &mut env);
    }
    if let Some(postgres) = postgres {
        postgres.configure(&mut env);
    }
    env
}
