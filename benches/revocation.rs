//! Whether a key is still valid anywhere after its revocation was acknowledged.
//!
//! Three instances on PostgreSQL with a Redis of its own are asked about a key without a break while one of them revokes
//! it. Counts the answers `VALID` that arrive after the acknowledgement: to requests that were sent before it, and to those
//! sent after. Also while Redis cuts its subscriptions again and again, while it is stopped, and while one of the other
//! instances is frozen. Prints how long a revocation takes too.
//!
//! Needs `TEST_DATABASE_URL`.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::support::database::Postgres;
use crate::support::load::{self, Connection, Device, Popularity, Proof, Validations, post};
use crate::support::process::Server;
use crate::support::{BenchResult, seed, seed::Seeded, stats, stats::Random};

#[derive(clap::Args)]
pub struct Options {
    /// The number of revocations in each condition
    #[arg(long, default_value_t = 200)]
    revocations: usize,
}

/// How many keys are revoked at once. Each instance is asked about each of them on a connection of its own.
const AT_ONCE: usize = 10;

/// How long the instances are asked before a revocation, and after.
const ASKED_FOR: Duration = Duration::from_millis(60);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Condition {
    Healthy,
    SubscriptionsCut,
    RedisStopped,
    OneFrozen,
}

const CONDITIONS: [(&str, Condition); 4] = [
    ("Redis healthy", Condition::Healthy),
    ("subscriptions cut", Condition::SubscriptionsCut),
    ("one instance frozen", Condition::OneFrozen),
    ("Redis stopped", Condition::RedisStopped),
];

/// An answer `VALID`, or another one.
struct Asked {
    sent: Instant,
    answered: Instant,
    is_valid: bool,
}

/// A license that was revoked, and all answers about its key.
struct Revoked {
    asked: Vec<Asked>,
    requested: Instant,
    acknowledged: Instant,
}

pub async fn measure(options: &Options) -> BenchResult<()> {
    let postgres = Postgres::create().await?.ok_or("this benchmark needs TEST_DATABASE_URL")?;
    let measured = measure_on(&postgres, options).await;
    postgres.delete().await?;
    measured
}

async fn measure_on(postgres: &Postgres, options: &Options) -> BenchResult<()> {
    let dir = tempfile::tempdir()?;
    let mut env = seed::settings(dir.path());
    let redis = Server::redis().await?;
    postgres.configure(&mut env);
    env.insert("DCA_REDIS_URL".to_owned(), format!("redis://{}", redis.addr));
    let seeded = Arc::new(seed::licenses(&env, options.revocations * CONDITIONS.len()).await?);
    let mut instances = Vec::new();
    for number in 0..3 {
        instances.push(Server::service(&env, &dir.path().join(format!("log{number}"))).await?);
    }
    let validations = Validations { seeded, popularity: Popularity::Uniform, proof: Proof::Off, device: Device::None };
    for instance in &instances {
        load::warm_up(instance.addr, &validations, 8).await?;
    }
    println!(
        "{:<22}{:>13}{:>12}{:>14}{:>12}{:>12}{:>12}{:>12}",
        "", "revocations", "answers", "VALID, in", "VALID, sent", "ack ms", "", ""
    );
    println!("{:<22}{:>13}{:>12}{:>14}{:>12}{:>12}{:>12}{:>12}", "", "", "", "flight", "after", "min", "median", "max");
    let mut stale = 0;
    for (index, (name, condition)) in CONDITIONS.iter().enumerate() {
        let keys = index * options.revocations..(index + 1) * options.revocations;
        stale += measure_condition(name, *condition, &instances, &redis, &validations, keys).await?;
    }
    if stale > 0 { Err(format!("{stale} answers were stale").into()) } else { Ok(()) }
}

async fn measure_condition(
    name: &str,
    condition: Condition,
    instances: &[Server],
    redis: &Server,
    validations: &Validations,
    keys: std::ops::Range<usize>,
) -> BenchResult<usize> {
    let end = CancellationToken::new();
    let cutting = tokio::spawn(cut_subscriptions(redis.addr, condition, end.clone()));
    if condition == Condition::RedisStopped {
        redis.signal("STOP")?;
    }
    let frozen = instances.last().filter(|_| condition == Condition::OneFrozen);
    let (mut answers, mut in_flight, mut sent_after, mut took) = (0, 0, 0, Vec::new());
    for first in keys.clone().step_by(AT_ONCE) {
        let batch = first..keys.end.min(first + AT_ONCE);
        for Revoked { asked, requested, acknowledged } in
            revoke_while_asking(instances, validations, batch, frozen).await?
        {
            took.push(acknowledged.duration_since(requested).as_secs_f64() * 1_000.0);
            answers += asked.len();
            for stale in asked.iter().filter(|asked| asked.is_valid && asked.answered > acknowledged) {
                *(if stale.sent > acknowledged { &mut sent_after } else { &mut in_flight }) += 1;
            }
        }
    }
    if condition == Condition::RedisStopped {
        redis.signal("CONT")?;
    }
    end.cancel();
    cutting.await??;
    let [min, median, max] = stats::spread(&took);
    let count = keys.len();
    println!("{name:<22}{count:>13}{answers:>12}{in_flight:>14}{sent_after:>12}{min:>12.1}{median:>12.1}{max:>12.1}");
    Ok(in_flight + sent_after)
}

/// Revokes licenses while all instances are asked about their keys.
async fn revoke_while_asking(
    instances: &[Server],
    validations: &Validations,
    keys: std::ops::Range<usize>,
    frozen: Option<&Server>,
) -> BenchResult<Vec<Revoked>> {
    let stop = CancellationToken::new();
    let asking: Vec<JoinSet<_>> = keys
        .clone()
        .map(|key| instances.iter().map(|server| ask(server.addr, validations.clone(), key, stop.clone())).collect())
        .collect();
    sleep(ASKED_FOR).await;
    if let Some(frozen) = frozen {
        frozen.signal("STOP")?;
    }
    let revoking = keys.map(|key| revoke(instances[0].addr, &validations.seeded, key));
    let revoked = futures::future::try_join_all(revoking).await;
    if let Some(frozen) = frozen {
        frozen.signal("CONT")?;
    }
    sleep(ASKED_FOR).await;
    stop.cancel();
    let mut all = Vec::new();
    for ((requested, acknowledged), mut tasks) in revoked?.into_iter().zip(asking) {
        let mut asked = Vec::new();
        while let Some(of_instance) = tasks.join_next().await {
            asked.extend(of_instance??);
        }
        all.push(Revoked { asked, requested, acknowledged });
    }
    Ok(all)
}

/// Revokes a license. Returns when the request was sent, and when it was acknowledged.
async fn revoke(addr: SocketAddr, seeded: &Seeded, key: usize) -> BenchResult<(Instant, Instant)> {
    let path = format!("/licenses/{}/revoke", seeded.ids[key].0);
    let request = post(&path, Some(&seeded.api_key), r#"{"reason":"bench"}"#);
    let mut connection = Connection::open(addr).await?;
    let requested = Instant::now();
    let answer = connection.send(&request).await?;
    let acknowledged = Instant::now();
    if answer.status == 200 { Ok((requested, acknowledged)) } else { answer.unexpected() }
}

async fn ask(
    addr: SocketAddr,
    validations: Validations,
    key: usize,
    stop: CancellationToken,
) -> BenchResult<Vec<Asked>> {
    let (mut connection, mut random, mut all) = (Connection::open(addr).await?, Random::new(key), Vec::new());
    // One more after the stop, so that a frozen instance has answered.
    let mut is_last = false;
    while !is_last {
        is_last = stop.is_cancelled();
        let request = validations.of(key, &mut random);
        let sent = Instant::now();
        let answer = connection.send(&request).await?;
        all.push(Asked { sent, answered: Instant::now(), is_valid: answer.is_valid() });
    }
    Ok(all)
}

/// Closes the subscriptions again and again, under that condition.
async fn cut_subscriptions(redis: SocketAddr, condition: Condition, end: CancellationToken) -> BenchResult<()> {
    if condition != Condition::SubscriptionsCut {
        return Ok(());
    }
    let mut connection = redis::Client::open(format!("redis://{redis}"))?.get_multiplexed_async_connection().await?;
    while !end.is_cancelled() {
        redis::cmd("CLIENT").arg("KILL").arg("TYPE").arg("pubsub").exec_async(&mut connection).await?;
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
