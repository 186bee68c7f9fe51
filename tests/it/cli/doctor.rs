//! `dca-auth doctor`: what it finds, and that it changes nothing.

use std::path::Path;

use dca_core::guilds;
use dca_test_support::MailSink;
use serde_json::Value;

use super::commands::{binary, run, run_ok};
use crate::support::harness::{TestApp, it, it_unstarted};

/// Runs `doctor --json` with these settings changed; returns its exit code and the failed checks with their detail.
fn failed_checks(t: &TestApp, changed: &[(&str, &str)]) -> (i32, Vec<(String, String)>) {
    let output = run(binary(t, &["doctor", "--json"], changed));
    let findings: Vec<Value> = serde_json::from_str(&output.out).unwrap_or_else(|_| panic!("{output:?}"));
    let wrong = findings.iter().filter(|finding| finding["outcome"] == "fail");
    let wrong = wrong.map(|finding| {
        assert!(finding["fix"].as_str().is_some_and(|fix| fix.len() > 10), "no fix: {finding}");
        let [check, detail] = ["check", "detail"].map(|name| finding[name].as_str().unwrap().to_owned());
        (check, detail)
    });
    (output.code, wrong.collect())
}

fn assert_fails(t: &TestApp, changed: &[(&str, &str)], check: &str, detail: &str) {
    let (code, wrong) = failed_checks(t, changed);
    assert_eq!(code, 1, "{wrong:?}");
    assert!(matches!(&wrong[..], [(c, d)] if c.starts_with(check) && d.contains(detail)), "{check}: {wrong:?}");
}

#[test]
fn doctor_passes_on_a_healthy_setup_and_names_each_fault() {
    it(|mut t| async {
        let guild = t.discord.guild("Makers");
        let gold = guild.role("Gold");
        t.wait_for_events(&guild).await;
        t.map_role(&guild, "Gold Tools", gold, 24).await;
        assert_eq!(failed_checks(&t, &[]), (0, vec![]));
        assert!(run_ok(&t, &["doctor"]).contains("off  discord: no DCA_DISCORD_TOKEN"));
        assert_fails(&t, &[("DCA_REDIS_URL", "redis://127.0.0.1:1")], "redis", "");
        let unreachable = [("DCA_SMTP_HOST", "127.0.0.1"), ("DCA_SMTP_PORT", "1")];
        assert_fails(&t, &unreachable, "mail", "connection to the mail server failed");
        let sink = MailSink::start().await;
        sink.require_auth("makers", "right");
        let port = sink.port().to_string();
        let host = [("DCA_SMTP_HOST", "127.0.0.1"), ("DCA_SMTP_PORT", port.as_str()), ("DCA_SMTP_USER", "makers")];
        assert_eq!(failed_checks(&t, &[&host[..], &[("DCA_SMTP_PASSWORD", "right")]].concat()), (0, vec![]));
        assert_fails(
            &t,
            &[&host[..], &[("DCA_SMTP_PASSWORD", "wrong")]].concat(),
            "mail",
            "authentication with the mail server failed",
        );

        let (logs, caller) = (guild.channel("logs"), t.caller(&guild).await);
        guilds::set_log_channel(t.core(), &caller, guild.id().into(), logs.into()).await.unwrap();
        t.stop().await;
        guild.deny(logs, 1 << 11);
        assert_fails(&t, &[], "log channel in Makers", "Send Messages");
        guild.deny(logs, 0);
        guild.delete_role(gold);
        assert_fails(&t, &[], "mapped roles in Makers", "does not exist");
        t.discord.disallow_intents(true);
        let (_, wrong) = failed_checks(&t, &[]);
        assert_eq!(wrong[0].0, "intents");
        t.discord.disallow_intents(false);
        guild.kick_bot();
        assert_fails(&t, &[], "access in Makers", "");
        t.discord.reject_token(true);
        assert_fails(&t, &[], "token", "rejected the bot token");
        t
    });
}

/// The files in a folder, with their content.
fn files(folder: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = paths.map(|path| (path.clone(), std::fs::read(path).unwrap_or_default())).collect();
    files.sort();
    files
}

#[test]
fn doctor_changes_nothing_and_finds_the_data_folder() {
    it_unstarted(|mut t| async {
        t.set("DCA_DISCORD_TOKEN", "");
        let empty = tempfile::tempdir().unwrap();
        let folder = empty.path().join("data").display().to_string();
        let unset = |args: &[&str]| {
            let mut command = binary(&t, args, &[]);
            command.env_remove("DCA_DATABASE_URL").env_remove("DCA_DATA_DIR").current_dir(empty.path());
            run(command)
        };
        let missing = unset(&["doctor"]);
        assert_eq!(missing.code, 1, "{missing:?}");
        assert!(
            missing.out.contains(&format!("FAIL database: there is no database at {folder}/dca.db.")),
            "{missing:?}"
        );
        assert!(missing.out.contains("--data-dir"), "{missing:?}");
        assert!(missing.out.contains("off  mail: "), "the other checks run: {missing:?}");
        assert!(files(empty.path()).is_empty(), "{:?}", files(empty.path()));

        let before = files(t.dir());
        let unused = run(binary(&t, &["doctor"], &[]));
        assert_eq!(unused.code, 1);
        assert!(unused.out.contains("FAIL database: the database is empty."), "{unused:?}");
        assert_eq!(files(t.dir()), before, "no master key, no folder for emails");

        t.instance().await.db.close().await.unwrap();
        let before = files(t.dir());
        let dir = t.dir().display().to_string();
        let found = if t.env().contains_key("DCA_DATABASE_URL") {
            run(binary(&t, &["doctor"], &[]))
        } else {
            unset(&["doctor", "--data-dir", &dir])
        };
        assert!(found.out.contains(&format!("ok   settings: data folder {dir}, database ")), "{found:?}");
        assert_eq!(found.code, 0, "{found:?}");
        assert_eq!(files(t.dir()), before);
        let other = [("DCA_MASTER_KEY", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=")];
        assert_fails(&t, &other, "master key", "the master key does not match this database");
        t
    });
}
