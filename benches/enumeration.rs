//! Whether the time of an answer tells who has an account.
//!
//! One process, as shipped but for its limits: tries at a known address and at an unknown one, one after the other,
//! as sign-in, as request for a new password, and as sign-up. Prints both medians and their difference, and fails
//! where it is more than five milliseconds.
//!
//! `cargo bench --bench enumeration`

use std::{
    collections::BTreeMap,
    error::Error,
    time::{Duration, Instant},
};

use dca_auth::{
    App, Config,
    app::{Inputs, Part},
    telemetry,
};
use dca_core::{Clock, Ids, accounts::admin};
use serde_json::{Value, json};

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const PASSWORD: &str = "plow-Ketchup-41 sundial";
const MOST: f64 = 5.0;

fn main() -> Outcome<()> {
    // `cargo test --all-targets` runs benches too, with an argument of its own.
    if !std::env::args().any(|argument| argument == "--bench") {
        return Ok(());
    }
    _ = rustls::crypto::ring::default_provider().install_default();
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(measure())
}

async fn measure() -> Outcome<()> {
    let dir = tempfile::tempdir()?;
    let settings = [
        ("DCA_DATA_DIR", dir.path().to_str().ok_or("a path that is text")?),
        ("DCA_HTTP_ADDR", "127.0.0.1:0"),
        ("DCA_PASSWORD_MEMORY_KIB", "12288"),
        ("DCA_AUTH_PER_MINUTE", "1000000"),
        ("DCA_FAILURES_PER_ACCOUNT", "1000000"),
        ("DCA_FAILURES_PER_NETWORK", "1000000"),
        ("DCA_LETTERS_PER_NETWORK", "1000000"),
    ];
    let env: BTreeMap<String, String> = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let inputs = Inputs { clock: Clock::system(), ids: Ids::system(), metrics: telemetry::recorder()?.handle() };
    let running = App::build(Config::load(env)?, &[Part::Api], inputs).await?.start().await?;
    let base = format!("http://{}", running.addr.ok_or("an address")?);
    let http = reqwest::Client::builder().tls_certs_only([]).build()?;

    let mut told = Vec::new();
    println!("{:<16}{:>8}{:>12}{:>12}{:>12}", "median, ms", "tries", "known", "unknown", "difference");
    for (name, path, tries, status) in [
        ("sign-in", "/auth/login", 500, 401),
        ("reset request", "/auth/reset-password-request", 500, 201),
        ("resend", "/auth/resend-verification", 500, 201),
        ("sign-up", "/auth/signup", 200, 201),
    ] {
        let [mut known, mut unknown] = [Vec::new(), Vec::new()];
        for turn in 0..tries {
            // Each address has its letters: few tries at any one of them.
            let [owner, nobody] = [format!("a{}@bench.example", turn / 4), format!("b{turn}@nowhere.example")];
            if turn % 4 == 0 {
                admin::create_admin(&running.app.core, &owner, Some("Browser"), PASSWORD).await?;
            }
            let form =
                |email: &str| json!({ "email": email, "password": "sundial-Ketchup-43 plow", "name": "Somebody" });
            // Who is first takes turns too.
            let both = [(&owner, true), (&nobody, false)];
            let both = if turn % 2 == 0 { both } else { [both[1], both[0]] };
            for (email, is_known) in both {
                let took = ask(&http, &format!("{base}{path}"), form(email), status).await?;
                if is_known { &mut known } else { &mut unknown }.push(took);
            }
        }
        let [known, unknown] = [median(known), median(unknown)];
        let difference = (known - unknown).abs();
        println!("{name:<16}{tries:>8}{known:>12.3}{unknown:>12.3}{difference:>12.3}");
        if difference > MOST {
            told.push(name);
        }
    }
    running.stop().await?;
    if told.is_empty() { Ok(()) } else { Err(format!("more than {MOST} ms apart: {told:?}").into()) }
}

async fn ask(http: &reqwest::Client, url: &str, form: Value, status: u16) -> Outcome<Duration> {
    let began = Instant::now();
    let answer = http.post(url).json(&form).send().await?;
    let answered = answer.status().as_u16();
    answer.bytes().await?;
    let took = began.elapsed();
    if answered == status { Ok(took) } else { Err(format!("{url} answered {answered}").into()) }
}

fn median(mut all: Vec<Duration>) -> f64 {
    all.sort_unstable();
    all[all.len() / 2].as_secs_f64() * 1_000.0
}
