//! What events of Discord cost: the CPU time of the service and of PostgreSQL for each update of a member, without what
//! they use when nothing happens. Discord is simulated in this process, which is not counted.
//!
//! On SQLite; with `TEST_DATABASE_URL` on PostgreSQL too.

use std::time::Duration;

use dca_test_support::{SimDiscord, SimMember};
use tokio::time::{Instant, sleep};

use crate::support::database::Postgres;
use crate::support::discord::Makers;
use crate::support::process::{Server, postgres_cpu};
use crate::support::{BenchResult, seed, stats};

/// Members in each case.
const MEMBERS: usize = 500;
const ROUNDS: usize = 5;
/// Updates of each member that change nothing, in a round.
const UPDATES: usize = 10;
/// How long the service may still be at work after the updates.
const REST: Duration = Duration::from_secs(3);

struct Bench<'a> {
    service: &'a Server,
    postgres: Option<&'a Postgres>,
    makers: Makers,
}

pub async fn measure_all() -> BenchResult<()> {
    measure("SQLite", None).await?;
    let Some(postgres) = Postgres::create().await? else { return Ok(()) };
    let measured = measure("PostgreSQL", Some(&postgres)).await;
    postgres.delete().await?;
    measured
}

async fn measure(title: &str, postgres: Option<&Postgres>) -> BenchResult<()> {
    let (dir, discord) = (tempfile::tempdir()?, SimDiscord::start().await);
    let mut env = seed::settings(dir.path());
    Makers::configure(&discord, &mut env);
    if let Some(postgres) = postgres {
        postgres.configure(&mut env);
    }
    let service = Server::service(&env, &dir.path().join("log")).await?;
    let bench = Bench { service: &service, postgres, makers: Makers::set_up(discord).await };
    let idle = bench.idle().await;
    let others = bench.makers.members(MEMBERS);
    sleep(REST).await;
    let (mut irrelevant, mut gains, mut repeated) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        irrelevant.push(bench.cost(idle, &others, UPDATES, |member| member.update_with(|_| {})).await?);
        let holders = bench.makers.members(MEMBERS);
        sleep(REST).await;
        gains.push(bench.cost(idle, &holders, 1, |member| member.grant(bench.makers.gold)).await?);
        repeated.push(bench.cost(idle, &holders, UPDATES, |member| member.update_with(|_| {})).await?);
    }
    stats::print_header(title);
    stats::print("update of a member without a mapped role", "CPU µs", &irrelevant);
    stats::print("update of a holder that changes nothing", "CPU µs", &repeated);
    stats::print("gain of a role, with its direct message", "CPU µs", &gains);
    Ok(())
}

impl Bench<'_> {
    fn cpu(&self) -> f64 {
        self.service.cpu() + self.postgres.map(|postgres| postgres_cpu(&postgres.name)).unwrap_or_default()
    }

    /// The share of a core that is used when nothing happens.
    async fn idle(&self) -> f64 {
        sleep(REST).await;
        let (start, before) = (Instant::now(), self.cpu());
        sleep(REST).await;
        (self.cpu() - before) / start.elapsed().as_secs_f64()
    }

    /// The CPU time of each update, in µs.
    async fn cost(
        &self,
        idle: f64,
        members: &[SimMember],
        updates: usize,
        update: impl Fn(&SimMember),
    ) -> BenchResult<f64> {
        let had_keys = !self.makers.discord.dms(&members[0]).is_empty();
        let (start, before) = (Instant::now(), self.cpu());
        for _ in 0..updates {
            members.iter().for_each(&update);
            sleep(Duration::from_millis(20)).await;
        }
        if !had_keys && members[0].roles().contains(&self.makers.gold) {
            self.makers.sent_keys(members).await?;
        }
        sleep(REST).await;
        let used = self.cpu() - before - idle * start.elapsed().as_secs_f64();
        Ok(used * 1e6 / f64::from(u32::try_from(members.len() * updates)?))
    }
}
