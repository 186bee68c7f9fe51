//! `cargo run --example demo`: the real service with a simulated Discord, used through Discord, HTTP and the
//! command line.
//!
//! A member gets a role and a key, the key is valid, the member loses the role, the key is revoked. Then the
//! service keeps running so that you can try it: type `give ana Gold` or `take ana Gold`, or connect a bot of your own
//! to the simulated Discord. With `-- --once` it exits, with code 0 if every step held.

use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicU8, Ordering};
use std::{net::TcpListener, panic::AssertUnwindSafe, path::Path, process, time::Duration};

use anyhow::{Context, Result, anyhow, bail, ensure};
use clap::Parser;
use dca_auth::{
    App, Config,
    app::{Inputs, Part},
    cli, config,
    process::Running,
    telemetry,
};
use dca_test_support::{Opt, SimDiscord, SimGuild};
use futures::FutureExt;
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// Prints a line. The reader may have closed the pipe, as `head` does.
macro_rules! say {
    ($($part:tt)*) => {
        _ = writeln!(io::stdout(), $($part)*)
    };
}

/// The time limit of a step.
const LIMIT: Duration = Duration::from_secs(20);

const STEPS: u8 = 8;

/// How many steps held.
static HELD: AtomicU8 = AtomicU8::new(0);

fn main() -> Result<process::ExitCode> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let once = match args.first().map(String::as_str) {
        None => false,
        Some("--once") => true,
        // Behaves like the `dca-auth` binary: see `dca_auth` below.
        Some("dca-auth") => return Ok(cli::run(cli::Cli::parse_from(args), config::env_map())),
        Some(_) => {
            eprintln!("usage: cargo run --example demo [-- --once]");
            return Ok(process::ExitCode::from(2));
        }
    };
    tokio::runtime::Runtime::new()?.block_on(run_demo(once))?;
    Ok(process::ExitCode::SUCCESS)
}

async fn run_demo(once: bool) -> Result<()> {
    let data = tempfile::tempdir()?;
    let discord = SimDiscord::start().await;
    let (running, _log) = step(1, "Start the service: SQLite in a new folder, HTTP, bot and workers", async {
        let started = Box::pin(serve(data.path(), &discord)).await?;
        discord.until("the slash commands", |sim| sim.requests().iter().any(|r| r.path.ends_with("/commands"))).await;
        Ok(started)
    })
    .await?;
    let guild = discord.guild("Makers");
    let result = run_steps(&running, &discord, &guild, data.path()).await;
    say!("\n{} of {STEPS} steps held", HELD.load(Ordering::Relaxed));
    if result.is_ok() && !once {
        interact(&running, &discord, &guild).await?;
    }
    running.stop().await?;
    result
}

/// Keeps the service running until Ctrl-C or the end of the terminal's input, and changes roles as typed.
async fn interact(running: &Running, discord: &SimDiscord, guild: &SimGuild) -> Result<()> {
    let url = &running.app.config.http.public_url;
    say!("\nThe service keeps running. Press Ctrl-C to stop it.\n   API      {url}/licenses/validate");
    say!("   docs     {url}/docs\n   health   {url}/health");
    say!("   Discord  {} (simulated), bot token {}", discord.base_url(), discord.token());
    say!("Type `give ana Gold` or `take ana Gold` to change a member's roles.");
    let mut lines = stdin_lines();
    loop {
        let line = tokio::select! {
            signal = tokio::signal::ctrl_c() => return Ok(signal?),
            line = lines.recv() => line,
        };
        match line {
            Some(line) => match change_role(running, discord, guild, &line).await {
                Ok(reply) => print_indented(&reply),
                Err(error) => print_indented(&format!("{error:#}")),
            },
            None if io::stdin().is_terminal() => return Ok(()),
            None => return Ok(tokio::signal::ctrl_c().await?),
        }
    }
}

/// The lines of standard input. A thread reads them, because reading cannot be canceled.
fn stdin_lines() -> mpsc::UnboundedReceiver<String> {
    let (sender, lines) = mpsc::unbounded_channel();
    std::thread::spawn(move || io::stdin().lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    lines
}

/// Performs `give NAME ROLE` or `take NAME ROLE`. Returns the bot's reply to the member's `/key` after that. A name that
/// is not a member's joins the server.
async fn change_role(running: &Running, discord: &SimDiscord, guild: &SimGuild, line: &str) -> Result<String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [verb @ ("give" | "take"), name, role] = words[..] else {
        bail!("write `give NAME ROLE` or `take NAME ROLE`, for example `give ana Gold`")
    };
    let role = guild.role_named(role).with_context(|| format!("there is no role {role}; try Gold"))?;
    let member = guild.member_named(name).unwrap_or_else(|| guild.join(name));
    if verb == "give" {
        member.grant(role);
    } else {
        member.take(role);
    }
    wait_for_bot(running, discord, guild).await?;
    Ok(format!("{name}: /key\nbot: {}", discord.run(&member, "/key", &[]).await.content))
}

/// Waits until the bot has stored all earlier gateway events. They arrive in order, so after the reply to a command
/// everything before it has arrived.
async fn wait_for_bot(running: &Running, discord: &SimDiscord, guild: &SimGuild) -> Result<()> {
    discord.run(&guild.owner(), "/key", &[]).await;
    running.app.bot.as_ref().context("this process runs no bot")?.drained().await;
    Ok(())
}

/// Does what `dca-auth serve` does, with the settings from a map instead of the environment.
async fn serve(data: &Path, discord: &SimDiscord) -> Result<(Running, telemetry::Log)> {
    // Port 3000, or any other if it is in use.
    let addr = TcpListener::bind("127.0.0.1:3000").or_else(|_| TcpListener::bind("127.0.0.1:0"))?.local_addr()?;
    let settings = [
        ("DCA_DATA_DIR", data.display().to_string()),
        ("DCA_HTTP_ADDR", addr.to_string()),
        ("DCA_DISCORD_TOKEN", discord.token()),
        ("DCA_DISCORD_API_URL", discord.base_url()),
        ("DCA_LOG", "warn".to_owned()),
    ];
    let config = Config::load(settings.map(|(name, value)| (name.to_owned(), value)).into())?;
    let log = telemetry::log(&config);
    let recorder = telemetry::recorder()?;
    let inputs = Inputs::system(recorder.handle());
    metrics::set_global_recorder(recorder).context("metrics")?;
    Ok((App::build(config, &[Part::Api, Part::Bot, Part::Workers], inputs).await?.start().await?, log))
}

async fn run_steps(running: &Running, discord: &SimDiscord, guild: &SimGuild, data: &Path) -> Result<()> {
    let url = format!("{}/licenses/validate", running.app.config.http.public_url);
    let (owner, gold, ana) = (guild.owner(), guild.role("Gold"), guild.join("ana"));

    step(2, "The server's owner runs /setup and chooses the role for the product", async {
        wait_for_bot(running, discord, guild).await?;
        // Without a grace period, so that the license ends together with the role.
        let options = [("product", Opt::Str("Studio".to_owned())), ("grace_hours", Opt::Int(0))];
        let panel = discord.run(&owner, "/setup", &options).await;
        print_indented(&format!("/setup product:Studio grace_hours:0\nbot: {}", panel.content));
        let reply = discord.choose(&owner, &panel, "setup:role", &[gold]).await;
        print_indented(&format!("(chooses Gold)\nbot: {}", reply.content));
        ensure!(reply.content.starts_with('✅'), "the bot refused the role");
        // Ana gets the role only after the service has checked which members have it already.
        discord
            .until("a request for the members", |sim| sim.requests().iter().any(|r| r.path.contains("/members?")))
            .await;
        Ok(())
    })
    .await?;

    let api_key = step(3, "The operator creates an API key for the app on the command line", async {
        dca_auth(data, &["apikey", "create", "--product", "Studio"]).await
    })
    .await?;

    let key = step(4, "Ana gets the role, and receives her key by direct message", async {
        ana.grant(gold);
        license_key_in(&discord.next_dm(&ana).await.content)
    })
    .await?;

    step(5, "The app validates the key", async {
        let verdict = validate(&url, &api_key, &key).await?;
        ensure!(verdict["valid"] == true && verdict["license"]["state"] == "active", "the key should be valid");
        Ok(())
    })
    .await?;

    step(6, "Ana loses the role. There is no grace period, so the license ends immediately", async {
        ana.take(gold);
        wait_for_bot(running, discord, guild).await?;
        let reply = discord.run(&ana, "/key", &[]).await;
        print_indented(&format!("Ana: /key\nbot: {}", reply.content));
        ensure!(!reply.content.contains(&key), "the bot should no longer show the key");
        Ok(())
    })
    .await?;

    step(7, "The app validates the key again: it is revoked", async {
        let verdict = validate(&url, &api_key, &key).await?;
        ensure!(verdict["valid"] == false && verdict["code"] == "REVOKED", "the key should be revoked");
        Ok(())
    })
    .await?;

    step(8, "Ana gets the role again, with a new license and a new key", async {
        ana.grant(gold);
        let new_key = license_key_in(&discord.next_dm(&ana).await.content)?;
        ensure!(new_key != key, "a revoked key should not be issued again");
        ensure!(validate(&url, &api_key, &new_key).await?["valid"] == true, "the new key should be valid");
        discord.finish(); // Fails if a request was invalid or a message was not read.
        Ok(())
    })
    .await
}

/// Runs a step with a time limit. A panic of the Sim fails the step.
async fn step<T>(number: u8, title: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    say!("\n{number}. {title}");
    let result = match tokio::time::timeout(LIMIT, AssertUnwindSafe(work).catch_unwind()).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(anyhow!("panicked; see the message above")),
        Err(_) => Err(anyhow!("timed out after {LIMIT:?}")),
    };
    if result.is_ok() {
        HELD.fetch_add(1, Ordering::Relaxed);
    }
    result.with_context(|| format!("step {number} failed ({title})"))
}

/// Runs `dca-auth` as a child process on the same data and returns its output.
async fn dca_auth(data: &Path, args: &[&str]) -> Result<String> {
    print_indented(&format!("$ dca-auth {}", args.join(" ")));
    let mut command = process::Command::new(std::env::current_exe()?);
    command.arg("dca-auth").args(args).env_clear().env("DCA_DATA_DIR", data);
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    ensure!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    let stdout = String::from_utf8(output.stdout)?;
    print_indented(&stdout);
    Ok(stdout.trim().to_owned())
}

/// Validates a key, and prints the equivalent `curl` command.
async fn validate(url: &str, api_key: &str, key: &str) -> Result<Value> {
    let body = json!({ "licenseKey": key });
    print_indented(&format!("$ curl {url} -H 'X-API-Key: {api_key}' -H 'Content-Type: application/json' -d '{body}'"));
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).build()?;
    let response = client.post(url).header("X-API-Key", api_key).json(&body).send().await?;
    let text = response.error_for_status()?.text().await?;
    print_indented(&text);
    Ok(serde_json::from_str(&text)?)
}

/// Returns the key in a message: the text of its code block.
fn license_key_in(message: &str) -> Result<String> {
    print_indented(&format!("bot to Ana: {message}"));
    Ok(message.split("```").nth(1).context("the message contains no key")?.trim().to_owned())
}

fn print_indented(text: &str) {
    text.lines().for_each(|line| say!("   {line}"));
}
