//! The rules of the house that no compiler holds: who may depend on whom, and who may ask the system for
//! time and randomness.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use regex::Regex;
use serde_json::Value;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The direct dependencies of every package of ours, without those of its tests.
fn dependencies() -> BTreeMap<String, Vec<String>> {
    // Without `--no-deps` it wants the sources of every platform's crates, which a fresh clone lacks.
    let args = ["metadata", "--no-deps", "--format-version", "1", "--locked", "--offline"];
    let output = Command::new(env!("CARGO")).args(args).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let name = |value: &Value| value["name"].as_str().unwrap().to_owned();
    let shipped = |package: &Value| {
        let all = package["dependencies"].as_array().unwrap().iter();
        all.filter(|dependency| dependency["kind"] != "dev").map(name).collect()
    };
    metadata["packages"].as_array().unwrap().iter().map(|package| (name(package), shipped(package))).collect()
}

#[test]
fn rooms_know_only_the_rooms_below_them() {
    let mut known = dependencies();
    for (room, forbidden) in [
        ("dca-core", "serenity poise axum lettre reqwest apalis apalis-cron dca-commands dca-migration dca-auth"),
        ("dca-commands", "axum sea-orm sea-orm-migration sqlx dca-migration dca-auth"),
        ("dca-auth", "sea-orm sea-orm-migration sqlx serenity poise dca-test-support"),
        ("dca-test-support", "dca-core dca-commands dca-migration dca-auth serenity poise"),
    ] {
        let has = known.remove(room).expect(room);
        let wrong: Vec<_> = forbidden.split(' ').filter(|name| has.iter().any(|has| has == name)).collect();
        assert!(wrong.is_empty(), "{room} must not depend on {wrong:?}");
    }
    let mut migration = known.remove("dca-migration").unwrap();
    migration.sort();
    assert_eq!(migration, ["async-trait", "sea-orm-migration"]);
    assert!(known.is_empty(), "a package without rules: {known:?}");
}

fn sources(folder: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap_or_else(|_| panic!("{}", folder.display())) {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    assert!(!found.is_empty(), "{folder} holds no source");
    found
}

/// The lines in these folders that match, except in these files.
fn mentions(folders: &[&str], pattern: &str, except: &[&str]) -> Vec<String> {
    let pattern = Regex::new(pattern).unwrap();
    let mut found = Vec::new();
    for path in folders.iter().flat_map(|folder| sources(folder)) {
        let name = path.strip_prefix(root()).unwrap().display().to_string();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines = text.lines().enumerate().filter(|(_, line)| pattern.is_match(line));
        let lines = lines.filter(|_| !except.contains(&name.as_str()));
        found.extend(lines.map(|(at, line)| format!("{name}:{}: {}", at + 1, line.trim())));
    }
    found
}

#[test]
fn sql_stays_in_core_and_discord_in_commands() {
    assert_eq!(mentions(&["src", "commands/src"], r"\b(sea_orm\w*|sqlx)::", &[]), [""; 0]);
    assert_eq!(mentions(&["src", "core/src", "migration/src"], r"\b(serenity|poise)::", &[]), [""; 0]);
    assert_eq!(mentions(&["core/src", "commands/src", "migration/src"], r"\baxum::", &[]), [""; 0]);
}

#[test]
fn calls_out_are_made_in_their_own_room() {
    let src = mentions(&["src"], r"\b(lettre|reqwest)::", &["src/config/parse.rs"]);
    let elsewhere = src.iter().filter(|line| !line.starts_with("src/outbound/")).collect::<Vec<_>>();
    assert!(elsewhere.is_empty(), "{elsewhere:?}");
    assert_eq!(mentions(&["core/src", "commands/src", "migration/src"], r"\b(lettre|reqwest)::", &[]), [""; 0]);
}

#[test]
fn time_and_randomness_have_one_source_each() {
    let shipped = ["src", "core/src", "commands/src", "migration/src"];
    let clock = r"\b(Utc|Local|SystemTime)::now\b|CURRENT_TIMESTAMP|current_timestamp\(";
    assert_eq!(mentions(&shipped, clock, &["core/src/clock.rs"]), [""; 0]);
    let randomness = r"\bUuid::(new_v4|now_v7)\b|\brand::|\bgetrandom::";
    assert_eq!(mentions(&shipped, randomness, &["core/src/ids.rs"]), [""; 0]);
}

#[test]
fn what_the_readme_promises_is_what_ci_runs() {
    let [readme, ci] = ["README.md", ".ci/run"].map(|name| std::fs::read_to_string(root().join(name)).unwrap());
    for command in ["cargo run --example demo", "cargo test --workspace"] {
        assert!(readme.contains(command), "the README does not tell {command}");
        assert!(
            ci.lines().any(|line| line.contains(command) && !line.trim().starts_with('#')),
            "CI never runs {command}"
        );
    }
}
