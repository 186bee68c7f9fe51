//! `cargo run --example demo`: the real service beside a stand-in for Discord, and the main job played
//! through the doors people use: Discord, HTTP and the command line.
//!
//! A role becomes a key, the key validates, the role goes, the key is refused. Then everything stays
//! up to be tried; `-- --once` ends instead, with exit code 0 if every step held.

use std::{net::TcpListener, panic::AssertUnwindSafe, path::Path, process, time::Duration};

use anyhow::{Context, Result, anyhow, ensure};
use clap::Parser;
use dca_auth::{
    App, Config,
    app::{Inputs, Part, Running},
    cli, config, telemetry,
};
use dca_core::{Clock, Ids};
use dca_test_support::{Opt, SimDiscord};
use futures::FutureExt;
use serde_json::{Value, json};

/// How long a step may take.
const LIMIT: Duration = Duration::from_secs(20);

fn main() -> Result<process::ExitCode> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let once = match words.first().map(String::as_str) {
        None => false,
        Some("--once") => true,
        // The command line's door: called like this, the program is `dca-auth` (see `dca_auth` below).
        Some("dca-auth") => return Ok(cli::run(cli::Cli::parse_from(words), config::env_map())),
        Some(_) => {
            eprintln!("usage: cargo run --example demo [-- --once]");
            return Ok(process::ExitCode::from(2));
        }
    };
    tokio::runtime::Runtime::new()?.block_on(play(once))?;
    Ok(process::ExitCode::SUCCESS)
}

async fn play(once: bool) -> Result<()> {
    let data = tempfile::tempdir()?;
    let discord = SimDiscord::start().await;
    let running = step(1, "The service starts: SQLite in a new folder, HTTP, the bot, the workers", async {
        let running = Box::pin(serve(data.path(), &discord)).await?;
        discord.until("the slash commands", |sim| sim.requests().iter().any(|r| r.path.ends_with("/commands"))).await;
        Ok(running)
    })
    .await?;
    let told = story(&running, &discord, data.path()).await;
    if told.is_ok() && !once {
        let url = &running.app.config.public_url;
        println!("\nAll of it stays up until Ctrl-C:\n   API     {url}/licenses/validate");
        println!("   docs    {url}/docs\n   health  {url}/health");
        tokio::signal::ctrl_c().await?;
    }
    running.stop().await?;
    told
}

/// What `dca-auth serve` does, with a map for its environment.
async fn serve(data: &Path, discord: &SimDiscord) -> Result<Running> {
    // Port 3000 if it is free, any other if not.
    let free = TcpListener::bind("127.0.0.1:3000").or_else(|_| TcpListener::bind("127.0.0.1:0"))?.local_addr()?;
    let settings = [
        ("DCA_DATA_DIR", data.display().to_string()),
        ("DCA_HTTP_ADDR", free.to_string()),
        ("DCA_DISCORD_TOKEN", discord.token()),
        ("DCA_DISCORD_API_URL", discord.base_url()),
        ("DCA_LOG", "warn".to_owned()),
    ];
    let config = Config::load(settings.map(|(name, value)| (name.to_owned(), value)).into())?;
    telemetry::log(&config);
    let recorder = telemetry::recorder()?;
    let inputs = Inputs { clock: Clock::system(), ids: Ids::system(), metrics: recorder.handle() };
    metrics::set_global_recorder(recorder).context("metrics")?;
    App::build(config, &[Part::Api, Part::Bot, Part::Workers], inputs).await?.start().await
}

async fn story(running: &Running, discord: &SimDiscord, data: &Path) -> Result<()> {
    let bot = running.app.bot.clone().context("the bot is part of this process")?;
    let url = format!("{}/licenses/validate", running.app.config.public_url);
    let guild = discord.guild("Makers");
    let (owner, gold, ana) = (guild.owner(), guild.role("Gold"), guild.join("ana"));
    // A browser is slower than the bot; a program must wait until it has stored what Discord told. It hears
    // in order: when a command is answered, all that went before was heard.
    let caught_up = async || {
        discord.run(&owner, "/key", &[]).await;
        bot.drained().await;
    };

    step(2, "The server's owner runs /setup and chooses the role that earns the product", async {
        caught_up().await;
        // Grace 0: a license ends with its role, not 24 hours later, and this story need not wait.
        let options = [("product", Opt::Str("Studio".to_owned())), ("grace_hours", Opt::Int(0))];
        let panel = discord.run(&owner, "/setup", &options).await;
        say(&format!("/setup product:Studio grace_hours:0\nbot: {}", panel.content));
        let reply = discord.choose(&owner, &panel, "setup:role", &[gold]).await;
        say(&format!("(chooses Gold)\nbot: {}", reply.content));
        ensure!(reply.content.starts_with('✅'), "the bot refused the role");
        // The service looks who has the role already: nobody. Only then is Ana to get it.
        discord.until("a look at the members", |sim| sim.requests().iter().any(|r| r.path.contains("/members?"))).await;
        Ok(())
    })
    .await?;

    let api_key = step(3, "The operator makes an API key for the app on the command line", async {
        dca_auth(data, &["apikey", "create", "--product", "Studio"]).await
    })
    .await?;

    let key = step(4, "Ana is given the role, and gets her key by direct message", async {
        ana.grant(gold);
        key_in(&discord.next_dm(&ana).await.content)
    })
    .await?;

    step(5, "The app asks whether the key may be used", async {
        let verdict = validate(&url, &api_key, &key).await?;
        ensure!(verdict["valid"] == true && verdict["license"]["state"] == "active", "the key should be valid");
        Ok(())
    })
    .await?;

    step(6, "The role is taken away; the grace is 0, so the license ends with it", async {
        ana.take(gold);
        caught_up().await;
        let reply = discord.run(&ana, "/key", &[]).await;
        say(&format!("Ana: /key\nbot: {}", reply.content));
        ensure!(!reply.content.contains(&key), "the key should no longer be shown");
        Ok(())
    })
    .await?;

    step(7, "The app asks again, and the key is refused", async {
        let verdict = validate(&url, &api_key, &key).await?;
        ensure!(verdict["valid"] == false && verdict["code"] == "REVOKED", "the key should be refused");
        Ok(())
    })
    .await?;

    step(8, "The role comes back: a new license and a new key, for you to try", async {
        ana.grant(gold);
        let new = key_in(&discord.next_dm(&ana).await.content)?;
        ensure!(new != key, "a revoked key should never come back");
        ensure!(validate(&url, &api_key, &new).await?["valid"] == true, "the new key should be valid");
        discord.finish(); // Nothing was sent that Discord would refuse, or that nobody read.
        Ok(())
    })
    .await
}

/// Runs a numbered step within its limit; a panic of the Sim is a failure of the step.
async fn step<T>(number: u8, title: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    println!("\n{number}. {title}");
    let done = match tokio::time::timeout(LIMIT, AssertUnwindSafe(work).catch_unwind()).await {
        Ok(Ok(done)) => done,
        Ok(Err(_)) => Err(anyhow!("the panic above tells more")),
        Err(_) => Err(anyhow!("not done within {LIMIT:?}")),
    };
    done.with_context(|| format!("step {number} failed ({title})"))
}

/// `dca-auth` as a process of its own, on the same data. Answers what it printed.
async fn dca_auth(data: &Path, words: &[&str]) -> Result<String> {
    say(&format!("$ dca-auth {}", words.join(" ")));
    let mut command = process::Command::new(std::env::current_exe()?);
    command.arg("dca-auth").args(words).env_clear().env("DCA_DATA_DIR", data);
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    ensure!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8(output.stdout)?;
    say(&said);
    Ok(said.trim().to_owned())
}

/// Asks the API what the `curl` line would.
async fn validate(url: &str, api_key: &str, key: &str) -> Result<Value> {
    let body = json!({ "licenseKey": key });
    say(&format!("$ curl {url} -H 'X-API-Key: {api_key}' -H 'Content-Type: application/json' -d '{body}'"));
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).build()?;
    let answer = client.post(url).header("X-API-Key", api_key).json(&body).send().await?;
    let answer = answer.error_for_status()?.text().await?;
    say(&answer);
    Ok(serde_json::from_str(&answer)?)
}

/// The key in a message: the text between its fences.
fn key_in(message: &str) -> Result<String> {
    say(&format!("bot to Ana: {message}"));
    Ok(message.split("```").nth(1).context("the message should carry a key")?.trim().to_owned())
}

fn say(text: &str) {
    text.lines().for_each(|line| println!("   {line}"));
}
