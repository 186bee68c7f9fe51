//! How many transactions per second can write events. They all take their sequence numbers from one row, the event head.
//!
//! "License" issues a license, with its two events. "Bare" only updates a head and inserts a row, each in a statement of
//! its own, as a measure of the database. Both with the given number of concurrent writers, in five rounds of a second.
//!
//! `cargo bench --bench figures -- event-head`; with `TEST_DATABASE_URL` on PostgreSQL too, in a database of its own.

use std::{collections::BTreeMap, sync::Arc, time::Duration, time::Instant};

use dca_auth::{App, Config, app::Inputs, telemetry};
use dca_core::policy::PolicyPatch;
use dca_core::products::{self, Product};
use dca_core::users::{self, Provider};
use dca_core::{Caller, Core, entitlements, ids::UserId, tenants};
use sea_orm_migration::sea_orm::{ConnectionTrait, TransactionTrait};
use tokio::task::JoinSet;

use crate::support::{BenchResult, database::Postgres};

const ROUNDS: usize = 5;
const ROUND: Duration = Duration::from_secs(1);
const WRITERS: [usize; 3] = [1, 4, 16];
/// More users than one writer needs in a round.
const USERS_PER_WRITER: usize = 1_500;

pub async fn measure_all() -> BenchResult<()> {
    println!("{:<12}{:<10}{:>8}{:>10}{:>10}{:>10}", "writes/s", "", "writers", "min", "median", "max");
    measure("SQLite", None).await?;
    let Some(postgres) = Postgres::create().await? else { return Ok(()) };
    let measured = measure("PostgreSQL", Some(postgres.url.clone())).await;
    postgres.delete().await?;
    measured
}

async fn measure(database: &str, url: Option<String>) -> BenchResult<()> {
    let dir = tempfile::tempdir()?;
    let mut env = BTreeMap::from([("DCA_DATA_DIR".to_owned(), dir.path().display().to_string())]);
    env.extend(url.map(|url| ("DCA_DATABASE_URL".to_owned(), url)));
    let app = App::build(Config::load(env)?, &[], Inputs::system(telemetry::recorder()?.handle())).await?;
    let core = app.core.clone();
    for (table, key) in
        [("bare_head", "id integer PRIMARY KEY, seq bigint"), ("bare", "seq bigint PRIMARY KEY, at text")]
    {
        core.db.writer().execute_unprepared(&format!("CREATE TABLE {table} ({key})")).await?;
    }
    core.db.writer().execute_unprepared("INSERT INTO bare_head VALUES (1, 0)").await?;
    let caller = Caller::operator(tenants::create(&core, "Bench").await?);
    for writers in WRITERS {
        let [mut license, mut bare] = [Vec::new(), Vec::new()];
        for number in 0..ROUNDS {
            // Nobody has a license for a new product.
            let (name, terms) = (format!("W{writers}R{number}"), PolicyPatch::default());
            let product = products::create_or_update(&core, &caller, &name, Some(&name), &terms).await?.product;
            let users = users(&core, writers).await?;
            license.push(round(users, |users| issue(core.clone(), caller.clone(), product.clone(), users)).await?);
            bare.push(round(vec![(); writers], |()| append(core.clone())).await?);
        }
        for (name, mut rates) in [("license", license), ("bare", bare)] {
            rates.sort_unstable();
            let [min, median, max] = [rates[0], rates[ROUNDS / 2], rates[ROUNDS - 1]];
            println!("{database:<12}{name:<10}{writers:>8}{min:>10}{median:>10}{max:>10}");
        }
    }
    core.db.close().await?;
    Ok(())
}

/// Runs a writer for each input until the round ends; returns the number of writes per second.
async fn round<I, F>(inputs: Vec<I>, writer: impl Fn(I) -> F) -> BenchResult<u128>
where
    F: Future<Output = BenchResult<u128>> + Send + 'static,
{
    let start = Instant::now();
    let mut tasks: JoinSet<_> = inputs.into_iter().map(writer).collect();
    let mut writes = 0;
    while let Some(written) = tasks.join_next().await {
        writes += written??;
    }
    Ok(writes * 1_000 / start.elapsed().as_millis())
}

async fn issue(core: Core, caller: Caller, product: Product, users: Arc<[UserId]>) -> BenchResult<u128> {
    let (start, mut writes) = (Instant::now(), 0);
    for user in users.iter() {
        if start.elapsed() >= ROUND {
            return Ok(writes);
        }
        entitlements::grant(&core, &caller, product.id, *user).await?;
        writes += 1;
    }
    Err("too few users for a round".into())
}

async fn append(core: Core) -> BenchResult<u128> {
    let (start, mut writes) = (Instant::now(), 0);
    while start.elapsed() < ROUND {
        let tx = core.db.pool().begin().await?;
        tx.execute_unprepared("UPDATE bare_head SET seq = seq + 1").await?;
        tx.execute_unprepared("INSERT INTO bare SELECT seq, 'now' FROM bare_head").await?;
        tx.commit().await?;
        writes += 1;
    }
    Ok(writes)
}

async fn users(core: &Core, writers: usize) -> BenchResult<Vec<Arc<[UserId]>>> {
    let mut all = Vec::new();
    for writer in 0..writers {
        let mut users = Vec::new();
        for n in 0..USERS_PER_WRITER / writers.min(3) {
            users.push(users::ensure(core, Provider::Discord, &format!("{writer}0{n}")).await?);
        }
        all.push(users.into());
    }
    Ok(all)
}
