//! How many SQL statements each unit of work takes, counted in the process: those of transactions included, renewals of
//! leases not. The least of several runs, because the relay also looks for deliveries on its own.
//!
//! On SQLite; with `TEST_DATABASE_URL` and `TEST_REDIS_URL` on PostgreSQL and Redis too.

use std::time::Duration;

use dca_auth::workers::relay;
use dca_auth::{App, Config, app::Inputs, app::Part, process::Running, telemetry};
use dca_core::api_keys::{self, NewApiKey};
use dca_core::crypto::{api_key::ApiKeyKind, license_key::LicenseKey};
use dca_core::{Caller, Ids, guilds, outbox::Transport, products};
use dca_test_support::{SimDiscord, SimMember};
use tokio::{task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::support::database::Postgres;
use crate::support::discord::Makers;
use crate::support::load::{Connection, post};
use crate::support::{BenchResult, seed};

const RUNS: usize = 5;
/// Concurrent questions about a key that was not asked about before.
const STAMPEDE: usize = 1_000;
const QUIET: Duration = Duration::from_millis(300);

struct Bench {
    running: Running,
    makers: Makers,
    api_key: String,
}

pub async fn measure_all() -> BenchResult<()> {
    Box::pin(measure("SQLite", None)).await?;
    let Some(postgres) = Postgres::create().await? else { return Ok(()) };
    let measured = Box::pin(measure("PostgreSQL", Some(&postgres))).await;
    postgres.delete().await?;
    measured
}

async fn measure(title: &str, postgres: Option<&Postgres>) -> BenchResult<()> {
    let dir = tempfile::tempdir()?;
    let discord = SimDiscord::start().await;
    let mut env = seed::settings(dir.path());
    Makers::configure(&discord, &mut env);
    env.insert("DCA_HTTP_ADDR".to_owned(), "127.0.0.1:0".to_owned());
    if let Some(postgres) = postgres {
        postgres.configure(&mut env);
        if let Ok(redis) = std::env::var("TEST_REDIS_URL") {
            env.extend([("DCA_REDIS_URL".to_owned(), redis), ("DCA_REDIS_PREFIX".to_owned(), postgres.name.clone())]);
        }
    }
    let inputs = Inputs::system(telemetry::recorder()?.handle());
    // Without the workers' timers; the relay is added, because it sends the keys.
    let app = App::build(Config::load(env)?, &[Part::Api, Part::Bot], inputs).await?;
    let stop = CancellationToken::new();
    let mut running = app.clone().start().await?;
    for &transport in Transport::ALL {
        running.spawn(format!("relay {transport}"), relay::run(app.clone(), transport, stop.clone()));
    }
    let makers = Makers::set_up(discord).await;
    let owner = makers.guild.owner().user_id();
    let caller = guilds::admin(&app.core, makers.guild.id().into(), owner.into()).await?;
    let api_key = create_api_key(&app, &caller).await?;
    let mut bench = Bench { running, makers, api_key };
    println!("\n{title:<44}{:>12}", "statements");
    bench.lives().await?;
    bench.validations().await?;
    stop.cancel();
    bench.running.stop().await?;
    Ok(())
}

async fn create_api_key(app: &App, caller: &Caller) -> BenchResult<String> {
    let product = products::get(&app.core, &caller.scope(), "Tools").await?;
    let new = NewApiKey::new(ApiKeyKind::Secret, "bench", &[product.id]);
    Ok(api_keys::create(&app.core, caller, new).await?.1.expose().to_owned())
}

impl Bench {
    fn statements(&self) -> u64 {
        self.running.app.core.db.statements()
    }

    /// The statements that follow from a change, including those of the next moments.
    async fn count(&self, change: impl AsyncFnOnce() -> BenchResult<()>) -> BenchResult<u64> {
        let before = self.statements();
        change().await?;
        if let Some(bot) = &self.running.app.bot {
            bot.drained().await;
        }
        sleep(QUIET).await;
        Ok(self.statements() - before)
    }

    async fn lives(&mut self) -> BenchResult<()> {
        let mut least = [u64::MAX; 6];
        for _ in 0..RUNS {
            let ana = self.makers.guild.join("ana");
            sleep(QUIET).await;
            let gold = self.makers.gold;
            let counts = [
                self.count(async || update(&ana)).await?,
                self.count(async || {
                    ana.grant(gold);
                    self.makers.sent_keys(std::slice::from_ref(&ana)).await
                })
                .await?,
                self.count(async || update(&ana)).await?,
                self.count(async || self.ask(&self.key_of(&ana)?).await).await?,
                self.count(async || {
                    ana.take(gold);
                    Ok(())
                })
                .await?,
            ];
            let life = counts[1] + counts[3] + counts[4];
            for (least, count) in least.iter_mut().zip(counts.into_iter().chain([life])) {
                *least = count.min(*least);
            }
        }
        let names = [
            "update of a member without a mapped role",
            "gain, with its direct message",
            "update of a holder that changes nothing",
            "first validation",
            "loss",
            "life: gain, direct message, validation, loss",
        ];
        for (name, count) in names.into_iter().zip(least) {
            println!("{name:<44}{count:>12}");
        }
        Ok(())
    }

    async fn validations(&mut self) -> BenchResult<()> {
        let ben = self.makers.guild.join("ben");
        ben.grant(self.makers.gold);
        self.makers.sent_keys(std::slice::from_ref(&ben)).await?;
        sleep(QUIET * 4).await;
        let key = self.key_of(&ben)?;
        let cold = self.count(async || self.ask_at_once(&key).await).await?;
        println!("{:<44}{cold:>12}", format!("{STAMPEDE} concurrent validations of a cold key"));
        let unknown = unknown_key();
        let mut wrong = key.clone();
        wrong.replace_range(key.len() - 1.., if key.ends_with('0') { "1" } else { "0" });
        for (name, key) in [("warm key", &key), ("wrong check symbol", &wrong)] {
            println!("{:<44}{:>12}", format!("100 validations, {name}"), self.ask_often(key).await?);
        }
        println!("{:<44}{:>12}", "100 validations, unknown key", self.ask_often(&unknown).await?);
        Ok(())
    }

    async fn ask_often(&self, key: &str) -> BenchResult<u64> {
        self.ask(key).await?;
        sleep(QUIET).await;
        let before = self.statements();
        for _ in 0..100 {
            self.ask(key).await?;
        }
        Ok(self.statements() - before)
    }

    async fn ask_at_once(&self, key: &str) -> BenchResult<()> {
        let addr = self.running.addr.ok_or("the service has no address")?;
        let mut connections = Vec::new();
        for _ in 0..STAMPEDE {
            let mut connection = Connection::open(addr).await?;
            // The service has accepted it.
            connection.send(b"GET /live HTTP/1.1\r\nHost: bench\r\n\r\n").await?;
            connections.push(connection);
        }
        let request = self.request(key);
        let mut tasks = JoinSet::new();
        for mut connection in connections {
            let request = request.clone();
            tasks.spawn(async move { connection.send(&request).await.map(|answer| answer.is_valid()) });
        }
        while let Some(is_valid) = tasks.join_next().await {
            if !is_valid?? {
                return Err("a valid key was rejected".into());
            }
        }
        Ok(())
    }

    async fn ask(&self, key: &str) -> BenchResult<()> {
        let mut connection = Connection::open(self.running.addr.ok_or("the service has no address")?).await?;
        let answer = connection.send(&self.request(key)).await?;
        if answer.status == 200 { Ok(()) } else { answer.unexpected() }
    }

    fn request(&self, key: &str) -> Vec<u8> {
        post("/licenses/validate", Some(&self.api_key), &format!(r#"{{"licenseKey":"{key}"}}"#))
    }

    /// The key that a member was sent.
    fn key_of(&self, member: &SimMember) -> BenchResult<String> {
        let messages = self.makers.discord.dms(member);
        let key = messages.iter().find_map(|message| message.content.split("```").nth(1));
        Ok(key.ok_or("no key was sent")?.trim().to_owned())
    }
}

/// An update that changes nothing.
#[expect(clippy::unnecessary_wraps, reason = "counted like work that can fail")]
fn update(member: &SimMember) -> BenchResult<()> {
    member.update_with(|_| {});
    Ok(())
}

/// A key with correct check symbols that was never issued.
fn unknown_key() -> String {
    LicenseKey::new("TOOLS", Ids::system().v4()).display("TOOLS")
}
