//! Whether response times reveal which addresses have an account.
//!
//! One process with the default settings, except for rate limits and the memory of password hashes. Alternates between
//! known and unknown addresses for sign-in, password reset, resent verification and sign-up. Prints both medians and
//! their difference, and fails if a difference is more than five milliseconds.
//!
//! `cargo bench --bench figures -- enumeration`

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use dca_auth::{
    App, Config,
    app::{Inputs, Part},
    telemetry,
};
use dca_core::accounts::admin;
use serde_json::{Value, json};

use crate::support::BenchResult;

const PASSWORD: &str = "plow-Ketchup-41 sundial";
const MAX_DIFFERENCE_MS: f64 = 5.0;

pub async fn measure() -> BenchResult<()> {
    let dir = tempfile::tempdir()?;
    let settings = [
        ("DCA_DATA_DIR", dir.path().to_str().ok_or("the temporary path is not UTF-8")?),
        ("DCA_HTTP_ADDR", "127.0.0.1:0"),
        ("DCA_PASSWORD_MEMORY_KIB", "12288"),
        ("DCA_AUTH_PER_MINUTE", "1000000"),
        ("DCA_FAILURES_PER_ACCOUNT", "1000000"),
        ("DCA_FAILURES_PER_NETWORK", "1000000"),
        ("DCA_LETTERS_PER_NETWORK", "1000000"),
    ];
    let env: BTreeMap<String, String> = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let inputs = Inputs::system(telemetry::recorder()?.handle());
    let running = App::build(Config::load(env)?, &[Part::Api], inputs).await?.start().await?;
    let base = format!("http://{}", running.addr.ok_or("the service has no address")?);
    let http = reqwest::Client::builder().tls_certs_only([]).build()?;

    let mut failed = Vec::new();
    println!("{:<16}{:>8}{:>12}{:>12}{:>12}", "median, ms", "attempts", "known", "unknown", "difference");
    for (name, path, attempts, status) in [
        ("sign-in", "/auth/login", 500, 401),
        ("reset request", "/auth/reset-password-request", 500, 201),
        ("resend", "/auth/resend-verification", 500, 201),
        ("sign-up", "/auth/signup", 200, 201),
    ] {
        let [mut known, mut unknown] = [Vec::new(), Vec::new()];
        for index in 0..attempts {
            // The number of emails per address is limited, so each address is used only a few times.
            let [known_email, unknown_email] =
                [format!("a{}@bench.example", index / 4), format!("b{index}@nowhere.example")];
            if index % 4 == 0 {
                admin::create_admin(&running.app.core, &known_email, Some("User"), PASSWORD).await?;
            }
            let form = |email: &str| json!({ "email": email, "password": "sundial-Ketchup-43 plow", "name": "User" });
            // Alternate the order too.
            let mut requests = [(&known_email, true), (&unknown_email, false)];
            if index % 2 == 1 {
                requests.reverse();
            }
            for (email, is_known) in requests {
                let elapsed = send(&http, &format!("{base}{path}"), form(email), status).await?;
                if is_known { &mut known } else { &mut unknown }.push(elapsed);
            }
        }
        let [known, unknown] = [median(known), median(unknown)];
        let difference = (known - unknown).abs();
        println!("{name:<16}{attempts:>8}{known:>12.3}{unknown:>12.3}{difference:>12.3}");
        if difference > MAX_DIFFERENCE_MS {
            failed.push(name);
        }
    }
    running.stop().await?;
    if failed.is_empty() {
        Ok(())
    } else {
        Err(format!("the difference exceeds {MAX_DIFFERENCE_MS} ms: {failed:?}").into())
    }
}

async fn send(http: &reqwest::Client, url: &str, form: Value, status: u16) -> BenchResult<Duration> {
    let start = Instant::now();
    let response = http.post(url).json(&form).send().await?;
    let actual = response.status().as_u16();
    response.bytes().await?;
    let elapsed = start.elapsed();
    if actual == status { Ok(elapsed) } else { Err(format!("{url} returned status {actual}").into()) }
}

fn median(mut samples: Vec<Duration>) -> f64 {
    samples.sort_unstable();
    samples[samples.len() / 2].as_secs_f64() * 1_000.0
}
