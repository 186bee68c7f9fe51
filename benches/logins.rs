//! What two hundred people who sign in at once cost everybody else.
//!
//! One process, as shipped: validations arrive at 2,000 a second whatever happens (an open loop: a late answer
//! counts from when its request was due), first alone, then while 200 accounts sign in at the same moment and
//! try again when they are told to wait. Prints both tails and their ratio.
//!
//! `cargo bench --bench logins`

use std::{
    collections::BTreeMap,
    error::Error,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use dca_auth::{
    App, Config,
    app::{Inputs, Part},
    telemetry,
};
use dca_core::{
    Caller, Clock, Core, Ids,
    accounts::admin,
    api_keys,
    crypto::api_key::ApiKeyKind,
    entitlements, licenses,
    products::{self, Terms},
    tenants,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const PER_SECOND: u64 = 2_000;
const CONNECTIONS: usize = 64;
const PEOPLE: usize = 200;
const IDLE: Duration = Duration::from_secs(10);
const PASSWORD: &str = "plow-Ketchup-41 sundial";

fn main() -> Outcome<()> {
    // `cargo test --all-targets` runs benches too, with an argument of its own.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(measure())
}

async fn measure() -> Outcome<()> {
    let dir = tempfile::tempdir()?;
    let settings = [
        ("DCA_DATA_DIR", dir.path().to_str().ok_or("a path that is text")?),
        ("DCA_HTTP_ADDR", "127.0.0.1:0"),
        ("DCA_VALIDATE_PER_MINUTE", "100000000"),
        ("DCA_AUTH_PER_MINUTE", "100000000"),
        ("DCA_FAILURES_PER_NETWORK", "1000000"),
    ];
    let env: BTreeMap<String, String> = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let inputs = Inputs { clock: Clock::system(), ids: Ids::system(), metrics: telemetry::recorder()?.handle() };
    let running = App::build(Config::load(env)?, &[Part::Api], inputs).await?.start().await?;
    let (core, addr) = (&running.app.core, running.addr.ok_or("an address")?);
    let request = validation(core).await?;
    for browser in 0..PEOPLE {
        admin::create_admin(core, &format!("browser{browser}@bench.example"), Some("Browser"), PASSWORD).await?;
    }

    let idle = {
        let stop = Arc::new(AtomicBool::new(false));
        let load = tokio::spawn(validate(addr, request.clone(), Arc::clone(&stop)));
        tokio::time::sleep(IDLE).await;
        stop.store(true, Ordering::Relaxed);
        load.await??
    };
    let stop = Arc::new(AtomicBool::new(false));
    let load = tokio::spawn(validate(addr, request, Arc::clone(&stop)));
    let began = Instant::now();
    let waited = Arc::new(AtomicU64::new(0));
    let logins: Vec<_> = (0..PEOPLE).map(|browser| tokio::spawn(sign_in(addr, browser, Arc::clone(&waited)))).collect();
    for login in logins {
        login.await??;
    }
    let took = began.elapsed();
    stop.store(true, Ordering::Relaxed);
    let busy = load.await??;

    println!("{:<28}{:>10}{:>10}{:>10}{:>10}", "validate, ms", "count", "p50", "p99", "max");
    for (name, all) in [("alone", &idle), ("while 200 sign in", &busy)] {
        println!("{name:<28}{:>10}{:>10.2}{:>10.2}{:>10.2}", all.len(), at(all, 50), at(all, 99), at(all, 100));
    }
    println!("p99 while signing in / alone: {:.2}", at(&busy, 99) / at(&idle, 99));
    println!(
        "{PEOPLE} signed in within {:.1} s; {} times somebody was told to wait",
        took.as_secs_f64(),
        waited.load(Ordering::Relaxed)
    );
    running.stop().await?;
    Ok(())
}

/// A request to validate a license that is there.
async fn validation(core: &Core) -> Outcome<Vec<u8>> {
    let caller = Caller::operator(tenants::create(core, "Bench").await?);
    let terms = Terms { duration: None, source_grace: None };
    let product = products::define(core, &caller, "Bench", Some("BENCH"), &terms).await?;
    let (_, api_key) = api_keys::create(core, &caller, "bench", ApiKeyKind::Secret, &[product.id]).await?;
    entitlements::grant(core, &caller, product.id, 7_u64.into()).await?;
    let license = licenses::list_of(core, &caller.scope, 7_u64.into()).await?.pop().ok_or("a license")?;
    let body = format!("{{\"licenseKey\":\"{}\"}}", licenses::reveal(core, &license)?);
    Ok(post("/licenses/validate", &format!("X-API-Key: {}\r\n", api_key.expose()), &body))
}

fn post(path: &str, headers: &str, body: &str) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Sends one request and reads its answer; the status.
async fn ask(stream: &mut TcpStream, request: &[u8]) -> Outcome<u16> {
    stream.write_all(request).await?;
    let mut answer = Vec::with_capacity(2_048);
    loop {
        if stream.read_buf(&mut answer).await? == 0 {
            return Err("the connection was closed".into());
        }
        let Some(head) = answer.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let text = std::str::from_utf8(&answer[..head])?.to_ascii_lowercase();
        let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0");
        if answer.len() >= head + 4 + length.trim().parse::<usize>()? {
            return Ok(text.split(' ').nth(1).ok_or("a status")?.parse()?);
        }
    }
}

/// Validates at a fixed rate until `stop`; how long each took from when it was due, in ms, sorted.
async fn validate(addr: SocketAddr, request: Vec<u8>, stop: Arc<AtomicBool>) -> Outcome<Vec<f64>> {
    let (next, began, request) = (Arc::new(AtomicU64::new(0)), Instant::now(), Arc::new(request));
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        let (next, request, stop) = (Arc::clone(&next), Arc::clone(&request), Arc::clone(&stop));
        connections.push(tokio::spawn(async move {
            let mut stream = TcpStream::connect(addr).await?;
            stream.set_nodelay(true)?;
            let mut took = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let due = began + Duration::from_micros(number * 1_000_000 / PER_SECOND);
                tokio::time::sleep_until(due.into()).await;
                let status = ask(&mut stream, &request).await?;
                if status != 200 {
                    return Err(format!("a validation was answered with {status}").into());
                }
                took.push(due.elapsed().as_secs_f64() * 1_000.0);
            }
            Outcome::Ok(took)
        }));
    }
    let mut all = Vec::new();
    for connection in connections {
        all.extend(connection.await??);
    }
    all.sort_by(f64::total_cmp);
    Ok(all)
}

/// Signs one browser in, as often as it takes.
async fn sign_in(addr: SocketAddr, browser: usize, waited: Arc<AtomicU64>) -> Outcome<()> {
    let body = format!("{{\"email\":\"browser{browser}@bench.example\",\"password\":\"{PASSWORD}\"}}");
    let mut stream = TcpStream::connect(addr).await?;
    loop {
        match ask(&mut stream, &post("/auth/login", "", &body)).await? {
            200 => return Ok(()),
            503 => waited.fetch_add(1, Ordering::Relaxed),
            status => return Err(format!("a sign-in was answered with {status}").into()),
        };
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

/// The value below which this many percent lie.
fn at(sorted: &[f64], percent: usize) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get(last * percent / 100).copied().unwrap_or(f64::NAN)
}
