//! `dca-auth doctor`: prints the findings of [`crate::doctor`].

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use crate::doctor::{self, Outcome};
use crate::{app::App, config::Config};

#[derive(Args, Debug)]
pub(super) struct Doctor {
    /// Print a JSON array instead of text
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(config: Config, args: &Doctor) -> Result<ExitCode> {
    let mut findings = doctor::check_database(&config).await;
    if findings.iter().all(|finding| finding.outcome != Outcome::Fail) {
        match App::build_for_command(config).await {
            Ok(app) => findings.extend(doctor::check_app(&app).await),
            Err(error) => findings.push(doctor::startup_failure(&error)),
        }
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&findings)?);
    } else {
        for finding in &findings {
            let label = match finding.outcome {
                Outcome::Ok => "ok  ",
                Outcome::Off => "off ",
                Outcome::Fail => "FAIL",
            };
            let fix = finding.fix.as_ref().map_or_else(String::new, |fix| format!("\n       → {fix}"));
            println!("{label} {}: {}{fix}", finding.check, finding.detail);
        }
    }
    let is_healthy = findings.iter().all(|finding| finding.outcome != Outcome::Fail);
    Ok(if is_healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
