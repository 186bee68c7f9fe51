//! `dca-auth apikey` and `dca-auth product test-keys`.

use serde_json::{Value, json};

use super::commands::{run_err, run_ok};
use crate::support::{
    browser::Browser,
    harness::{TestApp, it_unstarted},
};

fn json_of(t: &TestApp, args: &[&str]) -> Value {
    serde_json::from_str(&run_ok(t, &[args, &["--json"]].concat())).unwrap()
}

#[test]
fn apikey_settings_are_stored_listed_and_rotated() {
    it_unstarted(|t| async {
        run_ok(&t, &["seed", "demo"]);
        let create = ["apikey", "create", "--product", "Demo Tools", "--name", "ci"];
        let limits = ["--scope", "licenses:read", "--scope", "licenses:validate", "--expires", "2099-01-01"];
        let too_long = run_err(&t, 1, &[&create[..], &limits].concat());
        assert!(too_long.contains("at most 3650 days"), "{too_long}");
        let tomorrow = (dca_core::Clock::system().now() + chrono::Duration::days(2)).format("%Y-%m-%d").to_string();
        let limits = [&limits[..5], &[tomorrow.as_str()], &["--test"]].concat();
        let created = json_of(&t, &[&create[..], &limits].concat());
        let expected = json!(["licenses:validate", "licenses:read"]);
        assert_eq!((&created["scopes"], &created["mode"]), (&expected, &json!("test")), "{created}");
        assert_eq!(created["expiresAt"], format!("{tomorrow}T00:00:00Z"));
        assert!(created["key"].as_str().unwrap().starts_with("dca_sk_test_"), "{created}");
        let read = ["--kind", "publishable", "--scope", "licenses:read"];
        let refused = run_err(&t, 1, &[&create[..], &read].concat());
        assert!(refused.contains("A publishable key cannot have the scope licenses:read"), "{refused}");
        let unknown = run_err(&t, 2, &[&create[..], &["--scope", "all"]].concat());
        assert!(unknown.contains("possible values: licenses:validate"), "{unknown}");
        assert!(run_err(&t, 2, &[&create[..], &["--expires", "soon"]].concat()).contains("--expires"));

        let id = created["id"].as_str().unwrap();
        let rotated = json_of(&t, &["apikey", "rotate", id, "--overlap-hours", "1"]);
        assert_eq!((&rotated["scopes"], &rotated["name"]), (&expected, &json!("ci")), "{rotated}");
        let rows = json_of(&t, &["apikey", "list"]);
        assert_eq!(rows[1]["replacedBy"], rotated["id"]);
        assert_eq!((&rows[2]["id"], &rows[2]["key"]).0, &rotated["id"]);
        assert!(!rows.to_string().contains(rotated["key"].as_str().unwrap()), "keys are not shown again");
        let table = run_ok(&t, &["apikey", "list"]);
        for heading in ["MODE", "SCOPES", "LAST USED", "EXPIRES"] {
            assert!(table.lines().next().unwrap().contains(heading), "{table}");
        }
        assert!(run_err(&t, 1, &["apikey", "rotate", id]).contains("was already rotated"));
        assert!(run_err(&t, 1, &["apikey", "rotate", "dca_sk_…0000"]).contains("no active API key"));
        t
    });
}

/// The code blocks of a section of the README, in a language.
fn code_blocks(section: &str, language: &str) -> Vec<String> {
    let readme = include_str!("../../../README.md");
    let section = readme.split("\n## ").find(|text| text.starts_with(section)).expect(section);
    let blocks = section.split("```").skip(1).step_by(2);
    blocks.filter_map(|block| Some(block.strip_prefix(language)?.trim().to_owned())).collect()
}

#[test]
fn the_examples_of_the_readme_test_an_integration() {
    it_unstarted(|mut t| async {
        run_ok(&t, &["seed", "demo"]);
        let core = t.instance().await;
        let tenant = crate::support::fixtures::TestTenant::new(&core, "Makers").await;
        tenant.product("Studio", "STUDIO").await;
        let blocks = code_blocks("Test your integration", "sh");
        let [commands, curl] = &blocks[..] else { panic!("{blocks:?}") };
        let mut outputs = Vec::new();
        for line in commands.lines() {
            let args: Vec<_> = line.strip_prefix("dca-auth ").expect(line).split(' ').collect();
            outputs.push(run_ok(&t, &args));
        }
        let quoted: Vec<_> = curl.split('\'').skip(1).step_by(2).collect();
        let [api_key, content_type, body] = quoted[..] else { panic!("{curl}") };
        assert_eq!(content_type, "Content-Type: application/json");
        let (name, placeholder) = api_key.split_once(": ").unwrap();
        assert!(outputs[1].starts_with(placeholder.strip_suffix('…').unwrap()), "{api_key}");
        let url = curl.split_whitespace().nth(1).unwrap().strip_prefix("http://127.0.0.1:3000").unwrap();
        let body: Value = serde_json::from_str(body).unwrap();
        let in_list = format!("REVOKED  {}", body["licenseKey"].as_str().unwrap());
        let listed: Vec<_> =
            outputs[0].lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join("  ")).collect();
        assert!(listed.contains(&in_list), "{listed:#?}");
        t.start_without_bot().await;
        let headers = [(name, outputs[1].trim())];
        let answer = Browser::new(&t).ask(reqwest::Method::POST, url, body, &headers).await;
        let shown: Value = serde_json::from_str(&code_blocks("Test your integration", "json")[0]).unwrap();
        for (member, value) in shown.as_object().unwrap() {
            assert_eq!(&answer.body[member], value, "{member} of {answer:?}");
        }
        t
    });
}
