//! `dca-auth doctor`: prints the findings of [`crate::doctor`].

use std::process::ExitCode;

use anyhow::Result;

use super::output::Output;
use crate::config::Config;
use crate::doctor::{self, Finding, Outcome};

pub(super) async fn run(config: Config) -> Result<Output> {
    let findings = doctor::run(&config).await;
    let is_healthy = findings.iter().all(|finding| finding.outcome != Outcome::Fail);
    let text: Vec<String> = findings.iter().map(line).collect();
    let code = if is_healthy { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    Ok(Output::new(serde_json::to_value(&findings)?, text.join("\n")).with_exit_code(code))
}

fn line(finding: &Finding) -> String {
    let label = match finding.outcome {
        Outcome::Ok => "ok  ",
        Outcome::Off => "off ",
        Outcome::Fail => "FAIL",
    };
    let fix = finding.fix.as_ref().map_or_else(String::new, |fix| format!("\n       → {fix}"));
    format!("{label} {}: {}{fix}", finding.check, finding.detail)
}
