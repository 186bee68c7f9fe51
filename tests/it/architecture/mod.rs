//! Architecture rules that the compiler does not check: which package may depend on which, where system time and
//! randomness are read, and how long files and functions may be.

mod import_loops;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

use regex::Regex;
use serde_json::Value;

/// The folder of the workspace.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The direct dependencies of every workspace package, without dev-dependencies.
fn dependencies() -> BTreeMap<String, Vec<String>> {
    // Without `--no-deps`, cargo needs the sources of every platform's crates, which a fresh clone lacks.
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
fn packages_do_not_depend_on_forbidden_packages() {
    let mut packages = dependencies();
    for (package, forbidden) in [
        ("dca-core", "serenity poise axum lettre reqwest apalis apalis-cron dca-commands dca-migration dca-auth"),
        ("dca-commands", "axum sea-orm sea-orm-migration sqlx dca-migration dca-auth"),
        ("dca-auth", "sea-orm sea-orm-migration sqlx serenity poise dca-test-support"),
        ("dca-test-support", "dca-core dca-commands dca-migration dca-auth serenity poise"),
    ] {
        let direct = packages.remove(package).expect(package);
        let wrong: Vec<_> = forbidden.split(' ').filter(|name| direct.iter().any(|direct| direct == name)).collect();
        assert!(wrong.is_empty(), "{package} must not depend on {wrong:?}");
    }
    let mut migration = packages.remove("dca-migration").unwrap();
    migration.sort();
    assert_eq!(migration, ["async-trait", "sea-orm-migration"]);
    assert!(packages.is_empty(), "a package without rules: {packages:?}");
}

/// The Rust files in a folder of the workspace.
pub fn sources(folder: &str) -> Vec<PathBuf> {
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
    assert!(!found.is_empty(), "no source files in {folder}");
    found
}

/// The lines in these folders that match the pattern, except in these files.
fn mentions(folders: &[&str], pattern: &str, except: &[&str]) -> Vec<String> {
    let pattern = Regex::new(pattern).unwrap();
    let mut found = Vec::new();
    for path in folders.iter().flat_map(|folder| sources(folder)) {
        let name = path.strip_prefix(root()).unwrap().display().to_string();
        let text = std::fs::read_to_string(&path).unwrap();
        let lines = text.lines().enumerate().filter(|(_, line)| pattern.is_match(line));
        let lines = lines.filter(|_| !except.contains(&name.as_str()));
        found.extend(lines.map(|(index, line)| format!("{name}:{}: {}", index + 1, line.trim())));
    }
    found
}

#[test]
fn sql_is_used_only_in_core_and_discord_only_in_commands() {
    assert_eq!(mentions(&["src", "commands/src"], r"\b(sea_orm\w*|sqlx)::", &[]), [""; 0]);
    assert_eq!(mentions(&["src", "core/src", "migration/src"], r"\b(serenity|poise)::", &[]), [""; 0]);
    assert_eq!(mentions(&["core/src", "commands/src", "migration/src"], r"\baxum::", &[]), [""; 0]);
}

#[test]
fn http_clients_and_smtp_are_used_only_in_src_outbound_and_for_discord() {
    let src = mentions(&["src"], r"\b(lettre|reqwest)::", &["src/config/mail.rs"]);
    let elsewhere = src.iter().filter(|line| !line.starts_with("src/outbound/")).collect::<Vec<_>>();
    assert!(elsewhere.is_empty(), "{elsewhere:?}");
    let discord = ["commands/src/rest.rs", "commands/src/rate_limits.rs"];
    assert_eq!(mentions(&["core/src", "commands/src", "migration/src"], r"\b(lettre|reqwest)::", &discord), [""; 0]);
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
fn ci_runs_the_commands_of_the_readme() {
    let [readme, ci] = ["README.md", ".ci/run"].map(|name| std::fs::read_to_string(root().join(name)).unwrap());
    for command in ["cargo run --example demo", "cargo test --workspace"] {
        assert!(readme.contains(command), "the README does not mention {command}");
        assert!(
            ci.lines().any(|line| line.contains(command) && !line.trim().starts_with('#')),
            "CI never runs {command}"
        );
    }
}

/// The lengths of a file's functions, read from rustfmt's indentation. Unit tests are not counted.
fn function_lengths(text: &str) -> Vec<(String, usize)> {
    let start = Regex::new(r"^( *)(?:pub(?:\([^)]*\))? )?(?:const |async |unsafe )*fn (\w+)").unwrap();
    let lines: Vec<&str> = text.split("#[cfg(test)]\nmod tests {").next().unwrap().lines().collect();
    let mut found = Vec::new();
    for (first, line) in lines.iter().enumerate() {
        let Some(function) = start.captures(line) else { continue };
        let end = format!("{}}}", &function[1]);
        // A function on one line, and a declaration without a body.
        let is_short = line.ends_with('}') || line.ends_with(';');
        if let Some(length) = lines[first..].iter().position(|line| *line == end).filter(|_| !is_short) {
            found.push((function[2].to_owned(), length + 1));
        }
    }
    found
}

#[test]
fn functions_have_at_most_60_lines_and_files_500() {
    let (mut functions, mut files) = (Vec::new(), Vec::new());
    for path in ["core/src", "commands/src", "src", "migration/src"].into_iter().flat_map(sources) {
        let name = path.strip_prefix(root()).unwrap().display().to_string();
        let text = std::fs::read_to_string(&path).unwrap();
        files.extend((text.lines().count() > 500).then(|| name.clone()));
        let is_excepted = name.starts_with("migration/") || name.ends_with("/tests.rs");
        let long = function_lengths(&text).into_iter().filter(|(_, length)| *length > 60 && !is_excepted);
        functions.extend(long.map(|(function, _)| format!("{name}::{function}")));
    }
    functions.sort();
    files.sort();
    assert_eq!(functions, [""; 0], "functions with more than 60 lines");
    assert_eq!(files, [""; 0], "files with more than 500 lines");
}
