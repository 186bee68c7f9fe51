//! `dca-auth completions` and `dca-auth man`.

use std::path::Path;

use anyhow::{Context, Result};
use clap::Command;
use serde_json::json;

use super::output::Output;

pub(super) const COMPLETION_EXAMPLES: &str = "\
Examples:
  dca-auth completions bash > /etc/bash_completion.d/dca-auth
  dca-auth completions zsh > ~/.zfunc/_dca-auth";

pub(super) fn completions(shell: clap_complete::Shell, mut command: Command) -> Result<Output> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "dca-auth", &mut script);
    Ok(Output::text(String::from_utf8(script)?.trim_end()))
}

pub(super) fn man(dir: Option<&Path>, command: Command) -> Result<Output> {
    let Some(dir) = dir else {
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page)?;
        return Ok(Output::text(String::from_utf8(page)?.trim_end()));
    };
    clap_mangen::generate_to(command, dir).with_context(|| format!("cannot write to {}", dir.display()))?;
    Ok(Output::new(json!({ "dir": dir }), format!("Wrote the manual pages to {}.", dir.display())))
}
