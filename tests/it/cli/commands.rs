//! The compiled binary: output, exit codes, and where it writes secrets.

use std::{
    io::{BufRead, BufReader, Read},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
};

use dca_core::guilds;
use dca_migration::{Migrator, MigratorTrait};
use serde_json::{Value, json};

use crate::support::{
    fixtures::{Request, rows, send_request_head},
    harness::{LIMIT, TestApp, assert_no_secret, it_unstarted},
};

/// Exit code, standard output and standard error of a command.
#[derive(Debug)]
pub struct CommandOutput {
    pub code: i32,
    pub out: String,
    pub err: String,
}

/// The binary with only the settings of the test, `changed` on top.
pub fn binary(t: &TestApp, args: &[&str], changed: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dca-auth"));
    command.env_clear().envs(t.env()).envs(changed.iter().copied()).current_dir(t.dir()).args(args);
    command
}

pub fn run(mut command: Command) -> CommandOutput {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    CommandOutput { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
}

/// Runs a command without a bot token.
pub(super) fn run_without_bot(t: &TestApp, args: &[&str]) -> CommandOutput {
    run(binary(t, args, &[("DCA_DISCORD_TOKEN", "")]))
}

/// Runs a command that must succeed; returns its standard output.
pub(super) fn run_ok(t: &TestApp, args: &[&str]) -> String {
    let output = run_without_bot(t, args);
    assert_eq!(output.code, 0, "{args:?}: {output:?}");
    output.out
}

/// Runs a command that must exit with this code; returns its standard error.
pub(super) fn run_err(t: &TestApp, code: i32, args: &[&str]) -> String {
    let output = run_without_bot(t, args);
    assert_eq!((output.code, output.out.as_str()), (code, ""), "{args:?}: {output:?}");
    output.err
}

#[test]
fn migrate_applies_and_reverts_migrations() {
    it_unstarted(|t| async {
        let states = |last: &str| {
            let mut lines: Vec<_> =
                Migrator::migrations().iter().map(|known| format!("applied {}", known.name())).collect();
            let newest = lines.pop().unwrap().replace("applied", last);
            format!("{}\n{newest}\n", lines.join("\n"))
        };
        let (all, all_but_last) = (states("applied"), states("pending"));
        for (args, expected) in [
            (vec!["migrate", "up"], &all),
            (vec!["migrate", "status"], &all),
            (vec!["migrate", "down", "--yes"], &all_but_last),
            (vec!["migrate", "status"], &all_but_last),
            (vec!["migrate", "up"], &all),
        ] {
            assert_eq!(run_ok(&t, &args), *expected, "{args:?}");
        }
        t
    });
}

/// The value after a label in the output of `seed demo`.
pub(super) fn value_after(text: &str, label: &str) -> String {
    let line = text.lines().find_map(|line| line.strip_prefix(label)).expect(label);
    line.trim().to_owned()
}

#[test]
fn product_set_creates_and_changes_a_product_and_show_prints_its_terms() {
    it_unstarted(|t| async {
        run_ok(&t, &["seed", "demo"]);
        let set = |args: &[&str]| run_ok(&t, &[&["product", "set", "Studio"], args].concat());
        let created = set(&["--prefix", "stu", "--type", "TRIAL"]);
        assert!(created.starts_with("product                  Studio\nprefix                   STU\n"), "{created}");
        assert!(
            created.contains("\ndurationSeconds          1209600\n") && created.contains("\ntransfer  "),
            "{created}"
        );
        set(&["--policy", r#"{"maxDevices":7,"features":["pro"]}"#]);
        assert_eq!(set(&["--policy", r#"{"maxDevices":7}"#]), set(&[]), "nothing to change");
        let shown: Value = serde_json::from_str(&run_ok(&t, &["product", "show", "studio", "--json"])).unwrap();
        let (policy, terms) = (&shown["policy"], &shown["policy"]["terms"]);
        assert_eq!((&policy["version"], &terms["maxDevices"], &terms["type"]), (&json!(2), &json!(7), &json!("TRIAL")));
        let refused = |args: &[&str]| run_err(&t, 1, &[&["product", "set", "Studio"], args].concat());
        assert!(refused(&["--prefix", "OTHER"]).contains("already has the prefix STU"));
        let fault = "policy.maxDevices must be 1 to 100000";
        assert!(refused(&["--policy", r#"{"maxDevices":0}"#]).contains(fault));
        assert!(
            refused(&["--policy", "3 devices"])
                .contains(r#"--policy must be a JSON object, for example '{"maxDevices":3}'"#)
        );
        assert!(refused(&["--type", "GOLD"]).contains("must be one of `PERPETUAL`, `SUBSCRIPTION`"));
        t
    });
}

#[test]
fn key_commands_issue_inspect_and_revoke() {
    it_unstarted(|t| async {
        let (first, second) = (run_ok(&t, &["seed", "demo"]), run_ok(&t, &["seed", "demo"]));
        assert_eq!(value_after(&first, "license key:"), value_after(&second, "license key:"), "seeded once");
        assert!(first.contains("curl http://127.0.0.1:0/licenses/validate -H 'X-API-Key: dca_sk_"), "{first}");
        let core = t.instance().await;
        assert_eq!(rows(core.db.writer(), "SELECT user_id FROM identities WHERE provider = 'discord'").await.len(), 0);
        assert!(run_err(&t, 1, &["key", "issue", "--product", "Nothing"]).contains("Known: Demo Tools."));

        let key = run_ok(&t, &["key", "issue", "--product", "demo tools"]);
        let key = key.trim();
        assert!(key.starts_with("DEMO-") && key.len() == 39, "{key}");
        let inspect = |of: &str| serde_json::from_str::<Value>(&run_ok(&t, &["key", "inspect", of])).unwrap();
        let inspected = inspect(key);
        assert_eq!((&inspected["state"], &inspected["userId"]), (&"generated".into(), &Value::Null));
        assert!(!inspected.to_string().contains(key), "the key itself is not shown again");
        let id = inspected["id"].as_str().unwrap().to_owned();
        assert!(run_ok(&t, &["key", "revoke", &id, "--reason", "refunded"]).starts_with("revoked DEMO-…-"));
        assert!(run_err(&t, 1, &["key", "revoke", key]).contains("already revoked"));
        let inspected = inspect(key);
        assert_eq!((&inspected["state"], &inspected["revokeReason"]), (&"revoked".into(), &"refunded".into()));
        assert!(run_err(&t, 1, &["key", "inspect", "DEMO-1"]).contains("Neither a license id nor a key"));
        assert!(
            run_err(&t, 1, &["key", "inspect", "01900000-0000-7000-8000-000000000000"]).contains("No such license")
        );

        let of_member = ["key", "issue", "--product", "Demo Tools", "--member", "42"];
        assert_eq!(inspect(run_ok(&t, &of_member).trim())["state"], "assigned");
        assert!(run_err(&t, 1, &of_member).contains("already has a license for this product"));
        t
    });
}

#[test]
fn apikey_commands_create_and_revoke() {
    it_unstarted(|t| async {
        t.instance().await;
        assert!(run_err(&t, 1, &["apikey", "create", "--product", "Demo Tools"]).contains("No tenant yet"));
        run_ok(&t, &["seed", "demo"]);
        let create = ["apikey", "create", "--product", "Demo Tools", "--kind", "publishable"];
        let created = run_without_bot(&t, &create);
        assert_eq!((created.code, created.out.len()), (0, 44), "the key and a newline: {created:?}");
        assert!(created.out.starts_with("dca_pk_") && !created.err.contains(created.out.trim()), "{created:?}");
        let id = created.err.split([' ', ';']).nth(1).unwrap();
        assert!(run_ok(&t, &["apikey", "revoke", id]).starts_with("revoked dca_pk_…"));
        assert!(run_err(&t, 1, &["apikey", "revoke", id]).contains("There is no active API key with this ID"));
        let unknown = ["apikey", "create", "--product", "Nothing"];
        assert!(run_err(&t, 1, &unknown).contains("There is no product \"Nothing\""));

        let core = t.instance().await;
        guilds::record_join(&core, 900.into(), "Makers").await.unwrap();
        run_ok(&t, &create);
        assert!(
            run_err(&t, 2, &["key", "issue", "--product", "a", "--member", "abc"])
                .contains("such as 80351110224678912")
        );
        let several = run_err(&t, 1, &["apikey", "list"]);
        assert!(several.contains("Choose one with --tenant") && several.contains("Makers"), "{several}");
        for tenant in ["Demo", "900"] {
            let args = [&create[..], &["--tenant", tenant]].concat();
            assert_eq!(
                run_without_bot(&t, &args).code,
                i32::from(tenant == "900"),
                "only the tenant Demo has the product"
            );
        }
        assert!(run_err(&t, 1, &[&create[..], &["--tenant", "x"]].concat()).contains("No tenant \"x\""));
        t
    });
}

#[test]
fn wrong_usage_exits_with_2_and_prints_usage() {
    it_unstarted(|t| async {
        for args in [
            &["frobnicate"][..],
            &["key"],
            &["key", "issue"],
            &["key", "issue", "--product", "x", "--member", "ana"],
            &["apikey", "create"],
            &["serve", "--only", "everything"],
            &["migrate", "sideways"],
        ] {
            let message = run_err(&t, 2, args);
            assert!(
                message.contains("Usage: dca-auth") || message.contains("For more information, try '--help'"),
                "{message}"
            );
        }
        let version = run_ok(&t, &["--version"]);
        assert!(version.starts_with(concat!("dca-auth ", env!("CARGO_PKG_VERSION"))), "{version}");
        assert!(run_ok(&t, &["--help"]).contains("Usage: dca-auth"));
        let openapi: Value = serde_json::from_str(&run_ok(&t, &["openapi"])).unwrap();
        assert_eq!(openapi, serde_json::to_value(dca_auth::http::openapi()).unwrap());
        assert!(!t.dir().join("master.key").exists(), "none of these commands created a key");
        t
    });
}

#[test]
fn wrong_configuration_exits_with_78_and_lists_every_fault() {
    it_unstarted(|t| async {
        let secret = "s3cr3t-value";
        let faults = [
            ("DCA_HTTP_ADDR", "nonsense"),
            ("DCA_DATABASE_POOL_SIZE", "-1"),
            ("DCA_LOG_FORMAT", "xml"),
            ("DCA_DISCORD_TOKNE", secret),
            ("DCA_MASTER_KEY", secret),
            ("DCA_DATABASE_URL", "mysql://root:s3cr3t-value@db/x"),
            ("DCA_DISCORD_API_URL", "http://203.0.113.1"),
            ("DCA_TRUSTED_PROXIES", "everybody"),
            ("DCA_TLS_CERT_FILE", "/nowhere.pem"),
        ];
        for args in [&["serve"][..], &[], &["doctor"], &["migrate", "status"], &["seed", "demo"]] {
            let output = run(binary(&t, args, &faults));
            assert_eq!((output.code, output.out.as_str()), (78, ""), "{args:?}: {output:?}");
            for (name, _) in faults {
                assert!(output.err.contains(name), "{args:?} does not name {name}: {output:?}");
            }
            assert!(
                output.err.contains("Did you mean DCA_DISCORD_TOKEN?") && !output.err.contains(secret),
                "{output:?}"
            );
        }
        assert!(!t.dir().join("master.key").exists(), "no key was created");
        let closing = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("postgres://x:{secret}@{}/x", closing.local_addr().unwrap());
        std::thread::spawn(move || closing.incoming().for_each(drop));
        let output = run(binary(&t, &["migrate", "status"], &[("DCA_DATABASE_URL", &url), ("DCA_DISCORD_TOKEN", "")]));
        assert_eq!(output.code, 1, "an unreachable database is not a configuration fault: {output:?}");
        assert!(output.err.contains("DCA_DATABASE_URL") && !output.err.contains(secret), "{output:?}");
        t
    });
}

/// A running service and its log.
pub(super) struct Service {
    child: Child,
    lines: mpsc::Receiver<String>,
    log: Vec<Value>,
}

impl Service {
    pub(super) fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = mpsc::channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, lines, log: Vec::new() }
    }

    /// Waits for this log message; returns its line.
    pub(super) fn wait_for(&mut self, message: &str) -> Value {
        loop {
            let line = self.lines.recv_timeout(LIMIT).unwrap_or_else(|_| panic!("no {message:?} in {:#?}", self.log));
            let line: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("no JSON: {line}"));
            self.log.push(line.clone());
            if line["message"] == message {
                return line;
            }
        }
    }

    pub(super) fn signal(&self, name: &str) {
        let kill = Command::new("kill").args([format!("-{name}"), self.child.id().to_string()]).status().unwrap();
        assert!(kill.success());
    }

    /// Waits for the end; returns exit code and standard output.
    pub(super) fn wait_exit(&mut self) -> (Option<i32>, String) {
        while let Ok(line) = self.lines.recv_timeout(LIMIT) {
            self.log.push(serde_json::from_str(&line).unwrap_or(Value::String(line)));
        }
        let mut out = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        (self.child.wait().unwrap().code(), out)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

pub(super) fn listening(up: &Value) -> std::net::SocketAddr {
    up["listening"].as_str().unwrap().parse().unwrap()
}

fn assert_private(folder: &Path) {
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(folder), 0o700, "{}", folder.display());
    let files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(files.iter().any(|file| file.ends_with("master.key")), "{files:?}");
    for file in files {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
}

#[test]
fn serve_works_in_an_empty_folder() {
    it_unstarted(|t| async {
        let folder = t.dir().join("bare");
        std::fs::create_dir(&folder).unwrap();
        let bare = |args: &[&str]| {
            let mut command = binary(&t, args, &[]);
            command.env_clear().env("DCA_HTTP_ADDR", "127.0.0.1:0").current_dir(&folder);
            command
        };
        let mut served = Service::start(bare(&[]));
        let up = served.wait_for("DCA-Auth is up");
        assert_private(&folder.join("data"));
        assert_eq!(
            (&up["level"], &up["mode"], &up["version"]),
            (&"INFO".into(), &"embedded".into(), &dca_auth::VERSION.into())
        );
        assert_eq!(
            up["off"],
            "bot: no DCA_DISCORD_TOKEN; redis: no DCA_REDIS_URL, rate limits are not shared between instances; \
             tls: no DCA_TLS_CERT_FILE; mail: no DCA_SMTP_HOST, emails are written to data/mail"
        );
        assert_eq!(Request::new("GET /ready").ask(listening(&up)).await.unwrap().status, 200);
        assert_eq!(run(bare(&["seed", "demo"])).code, 0, "beside a running service");
        served.signal("TERM");
        assert_eq!(served.wait_exit(), (Some(0), String::new()));
        assert_private(&folder.join("data"));

        let mut again = Service::start(bare(&["serve", "--only", "api"]));
        let up = again.wait_for("DCA-Auth is up");
        assert!(up["off"].as_str().unwrap().contains("gateway: --only; workers: --only"), "{up}");
        let started: Vec<_> = again.log.iter().filter(|line| line["level"] != "DEBUG").collect();
        assert_eq!(started.len(), 1, "one line reports the start: {started:#?}");
        let address_taken = run({
            let mut command = bare(&["serve"]);
            command.env("DCA_HTTP_ADDR", listening(&up).to_string()).env("DCA_DATA_DIR", "other");
            command
        });
        assert_eq!(address_taken.code, 1, "{address_taken:?}");
        assert!(
            address_taken.err.contains("cannot listen on") && address_taken.err.contains("DCA_HTTP_ADDR"),
            "{address_taken:?}"
        );
        again.signal("INT");
        assert_eq!(again.wait_exit().0, Some(0));
        t
    });
}

#[test]
fn log_contains_no_secret_and_names_unused_settings() {
    it_unstarted(|t| async {
        let master = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
        let settings = [("DCA_MASTER_KEY", master), ("DCA_LOG", "debug"), ("JWT_SECRET", "s3cr3t-value")];
        let seeded = run(binary(&t, &["seed", "demo"], &settings)).out;
        let (key, api_key) = (value_after(&seeded, "license key:"), value_after(&seeded, "API key:"));
        let mut served = Service::start(binary(&t, &["serve"], &settings));
        let addr = listening(&served.wait_for("DCA-Auth is up"));
        let unused =
            served.wait_for("these settings of earlier systems are not used; the end of .env.example says why");
        assert_eq!((&unused["level"], &unused["names"]), (&"WARN".into(), &"JWT_SECRET".into()));
        t.discord.connected().await;
        let ask = |line: &str| Request::new(line).with("X-API-Key", &api_key).with("Content-Type", "application/json");
        let validate = ask("POST /licenses/validate").body(json!({ "licenseKey": key }).to_string());
        assert_eq!(validate.ask(addr).await.unwrap().json()["code"], "VALID");
        for invalid in [
            ask(&format!("GET /licenses/{key}?token={api_key}")),
            ask("POST /licenses/validate").body(format!(r#"{{"licenseKey":["{key}"]}}"#)),
            ask("POST /licenses/validate").body(format!(r#"{{"licenseKey":"{}"}}"#, &key[..38])),
            ask("POST /licenses/validate").with("X-API-Key", &api_key[..42]).with("Cookie", &api_key).body("{}"),
        ] {
            invalid.ask(addr).await.unwrap();
        }
        served.wait_for("request completed");
        served.signal("TERM");
        let (code, out) = served.wait_exit();
        assert_eq!((code, out.as_str()), (Some(0), ""));
        let log = served.log.iter().map(Value::to_string).collect::<Vec<_>>().join("\n");
        assert_no_secret(&log, &t.discord.token());
        let password = t.env().get("DCA_DATABASE_URL").map_or("none", String::as_str);
        for secret in [master, "s3cr3t-value", &key, &key[..38], &api_key, &api_key[..42], password] {
            assert!(!log.contains(secret), "{secret} is in the log:\n{log}");
        }
        t
    });
}

#[test]
fn second_signal_exits_at_once() {
    it_unstarted(|t| async {
        let seeded = run_ok(&t, &["seed", "demo"]);
        let api_key = value_after(&seeded, "API key:");
        let mut served = Service::start(binary(&t, &["serve"], &[("DCA_DISCORD_TOKEN", "")]));
        let addr = listening(&served.wait_for("DCA-Auth is up"));
        let _unfinished = send_request_head(addr, &api_key, "{}").await;
        served.signal("TERM");
        served.wait_for("shutting down; send a second signal to stop immediately");
        served.signal("TERM");
        assert_eq!(served.wait_exit().0, Some(1));
        assert_eq!(served.log.last().unwrap(), "dca-auth: stopped by a second signal");
        t
    });
}
