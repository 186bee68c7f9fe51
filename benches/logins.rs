//! How 200 concurrent sign-ins affect the latency of validations.
//!
//! One process with the default settings except for its rate limits. Sends 2,000 validations per second in an open
//! loop (latency counts from when a request was due), first alone, then while 200 accounts sign in at once and
//! retry when the server is busy. Prints the latencies of both phases and the ratio of their 99th percentiles.
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
    Caller, Core,
    accounts::admin,
    api_keys::{self, NewApiKey},
    crypto::api_key::ApiKeyKind,
    entitlements, licenses,
    policy::PolicyPatch,
    products, tenants,
    users::{self, Provider},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

type BenchResult<T> = Result<T, Box<dyn Error + Send + Sync>>;

const PER_SECOND: u64 = 2_000;
const CONNECTIONS: usize = 64;
const ACCOUNTS: usize = 200;
const IDLE_DURATION: Duration = Duration::from_secs(10);
const PASSWORD: &str = "plow-Ketchup-41 sundial";

fn main() -> BenchResult<()> {
    // `cargo test --all-targets` runs this too, but without `--bench`.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(measure())
}

async fn measure() -> BenchResult<()> {
    let dir = tempfile::tempdir()?;
    let settings = [
        ("DCA_DATA_DIR", dir.path().to_str().ok_or("the temporary path is not UTF-8")?),
        ("DCA_HTTP_ADDR", "127.0.0.1:0"),
        ("DCA_VALIDATE_PER_MINUTE", "100000000"),
        ("DCA_AUTH_PER_MINUTE", "100000000"),
        ("DCA_FAILURES_PER_NETWORK", "1000000"),
    ];
    let env: BTreeMap<String, String> = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let inputs = Inputs::system(telemetry::recorder()?.handle());
    let running = App::build(Config::load(env)?, &[Part::Api], inputs).await?.start().await?;
    let (core, addr) = (&running.app.core, running.addr.ok_or("the service has no address")?);
    let request = validation(core).await?;
    for index in 0..ACCOUNTS {
        admin::create_admin(core, &format!("user{index}@bench.example"), Some("User"), PASSWORD).await?;
    }

    let idle = {
        let stop = Arc::new(AtomicBool::new(false));
        let load = tokio::spawn(validate(addr, request.clone(), Arc::clone(&stop)));
        tokio::time::sleep(IDLE_DURATION).await;
        stop.store(true, Ordering::Relaxed);
        load.await??
    };
    let stop = Arc::new(AtomicBool::new(false));
    let load = tokio::spawn(validate(addr, request, Arc::clone(&stop)));
    let start = Instant::now();
    let retries = Arc::new(AtomicU64::new(0));
    let logins: Vec<_> = (0..ACCOUNTS).map(|index| tokio::spawn(sign_in(addr, index, Arc::clone(&retries)))).collect();
    for login in logins {
        login.await??;
    }
    let elapsed = start.elapsed();
    stop.store(true, Ordering::Relaxed);
    let busy = load.await??;

    println!("{:<28}{:>10}{:>10}{:>10}{:>10}", "validate, ms", "count", "p50", "p99", "max");
    for (name, samples) in [("alone", &idle), ("while 200 sign in", &busy)] {
        println!(
            "{name:<28}{:>10}{:>10.2}{:>10.2}{:>10.2}",
            samples.len(),
            percentile(samples, 50),
            percentile(samples, 99),
            percentile(samples, 100)
        );
    }
    println!("p99 while signing in / alone: {:.2}", percentile(&busy, 99) / percentile(&idle, 99));
    println!(
        "{ACCOUNTS} signed in within {:.1} s, with {} retries",
        elapsed.as_secs_f64(),
        retries.load(Ordering::Relaxed)
    );
    running.stop().await?;
    Ok(())
}

/// A request that validates an existing license.
async fn validation(core: &Core) -> BenchResult<Vec<u8>> {
    let caller = Caller::operator(tenants::create(core, "Bench").await?);
    let terms = PolicyPatch::default();
    let product = products::create_or_update(core, &caller, "Bench", Some("BENCH"), &terms).await?.product;
    let (_, api_key) =
        api_keys::create(core, &caller, NewApiKey::new(ApiKeyKind::Secret, "bench", &[product.id])).await?;
    let user = users::ensure(core, Provider::Discord, "7").await?;
    entitlements::grant(core, &caller, product.id, user).await?;
    let license = licenses::list_of(core, &caller.scope(), user).await?.pop().ok_or("no license was issued")?;
    let body = format!("{{\"licenseKey\":\"{}\"}}", licenses::reveal_key(core, &license)?);
    Ok(post("/licenses/validate", &format!("X-API-Key: {}\r\n", api_key.expose()), &body))
}

fn post(path: &str, headers: &str, body: &str) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n{headers}Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Sends a request, reads the response, and returns its status.
async fn send(stream: &mut TcpStream, request: &[u8]) -> BenchResult<u16> {
    stream.write_all(request).await?;
    let mut response = Vec::with_capacity(2_048);
    loop {
        if stream.read_buf(&mut response).await? == 0 {
            return Err("the server closed the connection".into());
        }
        let Some(head) = response.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let text = std::str::from_utf8(&response[..head])?.to_ascii_lowercase();
        let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0");
        if response.len() >= head + 4 + length.trim().parse::<usize>()? {
            return Ok(text.split(' ').nth(1).ok_or("the response has no status")?.parse()?);
        }
    }
}

/// Validates at a fixed rate until `stop`. Returns the sorted latencies in ms, measured from when a request was due.
async fn validate(addr: SocketAddr, request: Vec<u8>, stop: Arc<AtomicBool>) -> BenchResult<Vec<f64>> {
    let (next, start, request) = (Arc::new(AtomicU64::new(0)), Instant::now(), Arc::new(request));
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        let (next, request, stop) = (Arc::clone(&next), Arc::clone(&request), Arc::clone(&stop));
        connections.push(tokio::spawn(async move {
            let mut stream = TcpStream::connect(addr).await?;
            stream.set_nodelay(true)?;
            let mut latencies = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let due = start + Duration::from_micros(number * 1_000_000 / PER_SECOND);
                tokio::time::sleep_until(due.into()).await;
                let status = send(&mut stream, &request).await?;
                if status != 200 {
                    return Err(format!("a validation returned status {status}").into());
                }
                latencies.push(due.elapsed().as_secs_f64() * 1_000.0);
            }
            BenchResult::Ok(latencies)
        }));
    }
    let mut latencies = Vec::new();
    for connection in connections {
        latencies.extend(connection.await??);
    }
    latencies.sort_by(f64::total_cmp);
    Ok(latencies)
}

/// Signs in to one account, and retries while the server is busy.
async fn sign_in(addr: SocketAddr, index: usize, retries: Arc<AtomicU64>) -> BenchResult<()> {
    let body = format!("{{\"email\":\"user{index}@bench.example\",\"password\":\"{PASSWORD}\"}}");
    let mut stream = TcpStream::connect(addr).await?;
    loop {
        match send(&mut stream, &post("/auth/login", "", &body)).await? {
            200 => return Ok(()),
            503 => retries.fetch_add(1, Ordering::Relaxed),
            status => return Err(format!("a sign-in returned status {status}").into()),
        };
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
}

/// The given percentile of sorted values.
fn percentile(sorted: &[f64], percent: usize) -> f64 {
    let last = sorted.len().saturating_sub(1);
    sorted.get(last * percent / 100).copied().unwrap_or(f64::NAN)
}
