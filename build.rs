//! Sets `BUILD_VERSION`: the version with the commit, if it is known.

use std::{env, path::Path, process::Command};

fn main() {
    println!("cargo::rerun-if-env-changed=GIT_COMMIT");
    let version = env!("CARGO_PKG_VERSION");
    let commit = env::var("GIT_COMMIT").ok().or_else(commit_of_checkout).filter(|commit| !commit.is_empty());
    let version = commit.map_or_else(|| version.to_owned(), |commit| format!("{version} ({commit})"));
    println!("cargo::rustc-env=BUILD_VERSION={version}");
}

/// The commit of this folder; `None` without git, or if the folder is part of another repository.
fn commit_of_checkout() -> Option<String> {
    let root = env!("CARGO_MANIFEST_DIR");
    let git = |args: &[&str]| {
        let output = Command::new("git").args(["-C", root]).args(args).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    if Path::new(&git(&["rev-parse", "--show-toplevel"])?).canonicalize().ok()?
        != Path::new(root).canonicalize().ok()?
    {
        return None;
    }
    // The log of HEAD changes with every commit and checkout.
    let log = git(&["rev-parse", "--path-format=absolute", "--git-path", "logs/HEAD"])?;
    if Path::new(&log).exists() {
        println!("cargo::rerun-if-changed={log}");
    }
    git(&["rev-parse", "--short=12", "HEAD"])
}
