//! What commands print, for people and for programs.

use std::process::Stdio;

use dca_test_support::MailSink;
use serde_json::Value;

use super::commands::{binary, run, run_err, run_ok};
use crate::support::{
    accounts::execute,
    harness::{TestApp, it_unstarted},
};

/// Runs a command that must succeed, with `--json`; returns its standard output.
fn json(t: &TestApp, args: &[&str]) -> Value {
    let text = run_ok(t, &[args, &["--json"]].concat());
    serde_json::from_str(&text).unwrap_or_else(|_| panic!("{args:?}: {text}"))
}

#[test]
fn every_command_prints_json_for_programs() {
    it_unstarted(|t| async {
        let seeded = json(&t, &["seed", "demo"]);
        let key = seeded["licenseKey"].as_str().unwrap();
        let created =
            json(&t, &["apikey", "create", "--product", "Demo Tools", "--name", "site", "--kind", "publishable"]);
        assert!(created["key"].as_str().unwrap().starts_with("dca_pk_"), "{created}");
        let id = created["id"].as_str().unwrap();
        let inspected = json(&t, &["key", "inspect", key]);
        assert_eq!(inspected["state"], "assigned");
        let row = |rows: &Value, index: usize, member: &str| rows[index][member].as_str().unwrap_or("null").to_owned();
        let (tenants, products, keys) =
            (json(&t, &["tenant", "list"]), json(&t, &["product", "list"]), json(&t, &["apikey", "list"]));
        assert_eq!((row(&tenants, 0, "name"), row(&products, 0, "prefix")), ("Demo".to_owned(), "DEMO".to_owned()));
        assert_eq!([row(&keys, 1, "id"), row(&keys, 1, "name"), row(&keys, 1, "kind")], [id, "site", "publishable"]);
        assert_eq!(keys[1]["products"], serde_json::json!(["Demo Tools"]));
        assert!(!keys.to_string().contains(created["key"].as_str().unwrap()), "keys are not shown again");
        let hint = row(&keys, 1, "key");
        let core = t.instance().await;
        let hints = async |of: &str| execute(&core, &format!("UPDATE api_keys SET hint = {of}")).await;
        hints(&format!("'{hint}'")).await;
        let several = run_err(&t, 1, &["apikey", "revoke", &hint]);
        assert!(several.contains("Several API keys") && several.contains("Use the ID"), "{several}");
        hints(&format!("CASE name WHEN 'site' THEN '{hint}' ELSE 'other' END")).await;
        assert_eq!(json(&t, &["apikey", "revoke", &hint])["id"], id, "by the form that the list shows");
        assert!(json(&t, &["apikey", "list"])[1]["revokedAt"].is_string());
        let issued = json(&t, &["key", "issue", "--product", "Demo Tools"]);
        assert_eq!(json(&t, &["key", "revoke", issued["key"].as_str().unwrap()])["state"], "revoked");
        assert_eq!(json(&t, &["admin", "create", "--email", "a@x.example"])["isNew"], true);
        assert_eq!(json(&t, &["migrate", "status"])[0]["isApplied"], true);
        assert_eq!(json(&t, &["keys", "list"])[0]["generation"], 1);
        assert_eq!(json(&t, &["doctor"])[0]["outcome"], "ok");
        assert_eq!(json(&t, &["openapi"])["info"]["title"], "DCA-Auth");
        let failed = run_err(&t, 1, &["key", "inspect", "DEMO-1", "--json"]);
        let failed: Value = serde_json::from_str(&failed).unwrap();
        assert!(failed["error"].as_str().unwrap().contains("Neither a license id nor a key"), "{failed}");
        t
    });
}

#[test]
fn lists_are_tables_for_people() {
    it_unstarted(|t| async {
        run_ok(&t, &["seed", "demo"]);
        let list = run_ok(&t, &["product", "list"]);
        let lines: Vec<&str> = list.lines().collect();
        assert_eq!(lines.len(), 2, "{list}");
        assert!(
            lines[0].starts_with("ID") && lines[0].contains("NAME") && lines[1].contains("Demo Tools  DEMO"),
            "{list}"
        );
        assert_eq!(lines[0].find("PREFIX"), lines[1].find("DEMO"), "columns are aligned: {list}");
        t
    });
}

#[test]
fn secrets_are_read_from_standard_input() {
    it_unstarted(|t| async {
        let key = json(&t, &["seed", "demo"])["licenseKey"].as_str().unwrap().to_owned();
        std::fs::write(t.dir().join("key.txt"), format!("{key}\n")).unwrap();
        let mut command = binary(&t, &["key", "inspect", "-"], &[("DCA_DISCORD_TOKEN", "")]);
        command.stdin(std::fs::File::open(t.dir().join("key.txt")).unwrap());
        let output = run(command);
        assert!(output.code == 0 && output.out.contains("\"state\": \"assigned\""), "{output:?}");
        t
    });
}

#[test]
fn a_reader_that_has_closed_the_pipe_is_no_failure() {
    it_unstarted(|t| async {
        run_ok(&t, &["seed", "demo"]);
        for args in [&["openapi"][..], &["doctor"], &["apikey", "list"], &["completions", "bash"], &["--help"]] {
            let mut command = binary(&t, args, &[("DCA_DISCORD_TOKEN", "")]);
            let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
            drop(child.stdout.take());
            let output = child.wait_with_output().unwrap();
            let err = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success() && err.is_empty(), "{args:?}: {output:?}");
        }
        t
    });
}

#[test]
fn completions_manual_and_help_cover_every_command() {
    it_unstarted(|t| async {
        for shell in ["bash", "zsh", "fish"] {
            assert!(run_ok(&t, &["completions", shell]).contains("apikey"), "{shell}");
        }
        assert!(run_ok(&t, &["man"]).contains("dca\\-auth"));
        let dir = t.dir().join("man1");
        std::fs::create_dir(&dir).unwrap();
        run_ok(&t, &["man", dir.to_str().unwrap()]);
        assert!(dir.join("dca-auth-apikey-create.1").is_file());
        for command in
            [&[][..], &["key"], &["apikey"], &["admin"], &["keys"], &["backup"], &["restore"], &["completions"]]
        {
            let help = run_ok(&t, &[command, &["--help"]].concat());
            assert!(help.contains("Example") && help.contains("dca-auth "), "{command:?}: {help}");
        }
        t
    });
}

#[test]
fn doctor_explains_the_mail_servers_refusal() {
    it_unstarted(|t| async {
        t.instance().await;
        let sink = MailSink::start().await;
        sink.require_auth("makers", "right");
        let port = sink.port().to_string();
        let settings = [
            ("DCA_SMTP_HOST", "127.0.0.1"),
            ("DCA_SMTP_PORT", &*port),
            ("DCA_SMTP_TLS", "none"),
            ("DCA_DISCORD_TOKEN", ""),
        ];
        let output = run(binary(&t, &["doctor"], &settings));
        assert!(output.out.contains("FAIL mail: 530: sender not accepted"), "{output:?}");
        assert!(output.out.contains("The server requires authentication. Set DCA_SMTP_USER"), "{output:?}");
        t
    });
}
