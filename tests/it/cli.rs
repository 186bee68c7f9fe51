//! The real binary: what it prints, where it leaves secrets, and how it exits.

use std::{
    io::{BufRead, BufReader, Read},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
};

use dca_core::{
    guilds,
    mappings::{self, Announce},
};
use dca_test_support::{MailSink, SimGuild};
use serde_json::{Value, json};

use crate::{
    fixtures::{Request, half_sent},
    harness::{LIMIT, TestApp, assert_no_secret, it, it_unstarted},
};

/// How a command ended.
#[derive(Debug)]
struct Ran {
    code: i32,
    out: String,
    err: String,
}

/// The binary in an environment of its own: these settings, changed, and nothing else.
pub fn binary(t: &TestApp, args: &[&str], changed: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dca-auth"));
    command.env_clear().envs(t.env()).envs(changed.iter().copied()).current_dir(t.dir()).args(args);
    command
}

fn run(mut command: Command) -> Ran {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
}

/// Runs a command, without a bot.
fn dca(t: &TestApp, args: &[&str]) -> Ran {
    run(binary(t, args, &[("DCA_DISCORD_TOKEN", "")]))
}

/// Runs a command that must succeed: its output.
fn done(t: &TestApp, args: &[&str]) -> String {
    let ran = dca(t, args);
    assert_eq!(ran.code, 0, "{args:?}: {ran:?}");
    ran.out
}

/// Runs a command that must fail with this code: what it said.
fn failed(t: &TestApp, code: i32, args: &[&str]) -> String {
    let ran = dca(t, args);
    assert_eq!((ran.code, ran.out.as_str()), (code, ""), "{args:?}: {ran:?}");
    ran.err
}

#[test]
fn the_schema_is_moved_by_hand() {
    it_unstarted(|t| async {
        for (args, expected) in [
            (vec!["migrate", "up"], "applied m0001_spine\napplied m0002_accounts\n"),
            (vec!["migrate", "status"], "applied m0001_spine\napplied m0002_accounts\n"),
            (vec!["migrate", "down", "--yes"], "applied m0001_spine\npending m0002_accounts\n"),
            (vec!["migrate", "status"], "applied m0001_spine\npending m0002_accounts\n"),
            (vec!["migrate", "up"], "applied m0001_spine\napplied m0002_accounts\n"),
        ] {
            assert_eq!(done(&t, &args), expected, "{args:?}");
        }
        t
    });
}

/// The word behind a label of `seed demo`.
fn labelled(text: &str, label: &str) -> String {
    let line = text.lines().find_map(|line| line.strip_prefix(label)).expect(label);
    line.trim().to_owned()
}

#[test]
fn keys_are_made_shown_and_ended_at_the_command_line() {
    it_unstarted(|t| async {
        let (first, second) = (done(&t, &["seed", "demo"]), done(&t, &["seed", "demo"]));
        assert_eq!(labelled(&first, "license key:"), labelled(&second, "license key:"), "seeded once");
        assert!(first.contains("curl http://127.0.0.1:0/licenses/validate -H 'X-API-Key: dca_sk_"), "{first}");
        assert!(failed(&t, 1, &["key", "issue", "--product", "Nothing"]).contains("Known: Demo Tools."));

        let key = done(&t, &["key", "issue", "--product", "demo tools"]);
        let key = key.trim();
        assert!(key.starts_with("DEMO-") && key.len() == 39, "{key}");
        let inspect = |of: &str| serde_json::from_str::<Value>(&done(&t, &["key", "inspect", of])).unwrap();
        let shown = inspect(key);
        assert_eq!((&shown["state"], &shown["userId"]), (&"generated".into(), &Value::Null));
        assert!(!shown.to_string().contains(key), "the key itself is not shown again");
        let id = shown["id"].as_str().unwrap().to_owned();
        assert!(done(&t, &["key", "revoke", &id, "--reason", "refunded"]).starts_with("revoked DEMO-…-"));
        assert!(failed(&t, 1, &["key", "revoke", key]).contains("revoked already"));
        let shown = inspect(key);
        assert_eq!((&shown["state"], &shown["revokeReason"]), (&"revoked".into(), &"refunded".into()));
        assert!(failed(&t, 1, &["key", "inspect", "DEMO-1"]).contains("Neither a license id nor a key"));
        assert!(failed(&t, 1, &["key", "inspect", "01900000-0000-7000-8000-000000000000"]).contains("No such license"));

        let of_member = ["key", "issue", "--product", "Demo Tools", "--member", "42"];
        assert_eq!(inspect(done(&t, &of_member).trim())["state"], "assigned");
        assert!(failed(&t, 1, &of_member).contains("They hold a license for that product already"));
        t
    });
}

#[test]
fn api_keys_are_made_and_ended_at_the_command_line() {
    it_unstarted(|t| async {
        assert!(failed(&t, 1, &["apikey", "create", "--product", "Demo Tools"]).contains("there is no tenant yet"));
        done(&t, &["seed", "demo"]);
        let create = ["apikey", "create", "--product", "Demo Tools", "--kind", "publishable"];
        let made = dca(&t, &create);
        assert_eq!((made.code, made.out.len()), (0, 44), "the key and a line end: {made:?}");
        assert!(made.out.starts_with("dca_pk_") && !made.err.contains(made.out.trim()), "{made:?}");
        let id = made.err.split([' ', ';']).nth(1).unwrap();
        assert!(done(&t, &["apikey", "revoke", id]).starts_with("revoked dca_pk_…"));
        assert!(failed(&t, 1, &["apikey", "revoke", id]).contains("There is no live API key with that id"));
        let unknown = ["apikey", "create", "--product", "Nothing"];
        assert!(failed(&t, 1, &unknown).contains("There is no product \"Nothing\""));

        let core = t.instance().await;
        guilds::joined(&core, 900.into(), "Makers").await.unwrap();
        let several = failed(&t, 1, &create);
        assert!(several.contains("name one with --tenant") && several.contains("Makers"), "{several}");
        for tenant in ["Demo", "900"] {
            let args = [&create[..], &["--tenant", tenant]].concat();
            assert_eq!(dca(&t, &args).code, i32::from(tenant == "900"), "only the first sells Demo Tools");
        }
        assert!(failed(&t, 1, &[&create[..], &["--tenant", "x"]].concat()).contains("there is no tenant \"x\""));
        t
    });
}

#[test]
fn wrong_usage_is_2_and_says_how_it_is_done() {
    it_unstarted(|t| async {
        for args in [
            &["frobnicate"][..],
            &["key"],
            &["key", "issue"],
            &["key", "issue", "--product", "x", "--member", "ana"],
            &["apikey", "create"],
            &["apikey", "revoke", "not-an-id"],
            &["serve", "--only", "everything"],
            &["migrate", "sideways"],
        ] {
            let says = failed(&t, 2, args);
            assert!(says.contains("Usage: dca-auth") || says.contains("For more information, try '--help'"), "{says}");
        }
        assert_eq!(done(&t, &["--version"]), format!("dca-auth {}\n", env!("CARGO_PKG_VERSION")));
        assert!(done(&t, &["--help"]).contains("Usage: dca-auth"));
        let openapi: Value = serde_json::from_str(&done(&t, &["openapi"])).unwrap();
        assert_eq!(openapi, serde_json::to_value(dca_auth::http::openapi()).unwrap());
        assert!(!t.dir().join("master.key").exists(), "nothing of this opened anything");
        t
    });
}

#[test]
fn wrong_configuration_is_78_and_every_fault_is_told_at_once() {
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
            let ran = run(binary(&t, args, &faults));
            assert_eq!((ran.code, ran.out.as_str()), (78, ""), "{args:?}: {ran:?}");
            for (name, _) in faults {
                assert!(ran.err.contains(name), "{args:?} does not name {name}: {ran:?}");
            }
            assert!(ran.err.contains("did you mean DCA_DISCORD_TOKEN?") && !ran.err.contains(secret), "{ran:?}");
        }
        assert!(!t.dir().join("master.key").exists(), "nothing was begun");
        let hangs_up = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("postgres://x:{secret}@{}/x", hangs_up.local_addr().unwrap());
        std::thread::spawn(move || hangs_up.incoming().for_each(drop));
        let ran = run(binary(&t, &["migrate", "status"], &[("DCA_DATABASE_URL", &url), ("DCA_DISCORD_TOKEN", "")]));
        assert_eq!(ran.code, 1, "a database that is away is no fault of the configuration: {ran:?}");
        assert!(ran.err.contains("DCA_DATABASE_URL") && !ran.err.contains(secret), "{ran:?}");
        t
    });
}

/// A running service, by its log.
struct Served {
    child: Child,
    lines: mpsc::Receiver<String>,
    log: Vec<Value>,
}

impl Served {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let (sender, lines) = mpsc::channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { child, lines, log: Vec::new() }
    }

    /// Reads on until this message: its line.
    fn until(&mut self, message: &str) -> Value {
        loop {
            let line = self.lines.recv_timeout(LIMIT).unwrap_or_else(|_| panic!("no {message:?} in {:#?}", self.log));
            let line: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("no JSON: {line}"));
            self.log.push(line.clone());
            if line["message"] == message {
                return line;
            }
        }
    }

    fn signal(&self, name: &str) {
        let kill = Command::new("kill").args([format!("-{name}"), self.child.id().to_string()]).status().unwrap();
        assert!(kill.success());
    }

    /// Exit code and standard output, once it has ended.
    fn ended(&mut self) -> (Option<i32>, String) {
        while let Ok(line) = self.lines.recv_timeout(LIMIT) {
            self.log.push(serde_json::from_str(&line).unwrap_or(Value::String(line)));
        }
        let mut out = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        (self.child.wait().unwrap().code(), out)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

fn listening(up: &Value) -> std::net::SocketAddr {
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
fn a_bare_folder_is_enough_to_serve() {
    it_unstarted(|t| async {
        let folder = t.dir().join("bare");
        std::fs::create_dir(&folder).unwrap();
        let bare = |args: &[&str]| {
            let mut command = binary(&t, args, &[]);
            command.env_clear().env("DCA_HTTP_ADDR", "127.0.0.1:0").current_dir(&folder);
            command
        };
        let mut served = Served::start(bare(&[]));
        let up = served.until("DCA-Auth is up");
        assert_private(&folder.join("data"));
        assert_eq!((&up["level"], &up["mode"], &up["version"]), (&"INFO".into(), &"embedded".into(), &"0.1.0".into()));
        assert_eq!(
            up["off"],
            "bot: no DCA_DISCORD_TOKEN; redis: no DCA_REDIS_URL, limits and notifications are this process's own; \
             tls: no DCA_TLS_CERT_FILE; mail: no DCA_SMTP_HOST, letters become files in data/mail"
        );
        assert_eq!(Request::new("GET /ready").ask(listening(&up)).await.unwrap().status, 200);
        assert_eq!(run(bare(&["seed", "demo"])).code, 0, "beside a running service");
        served.signal("TERM");
        assert_eq!(served.ended(), (Some(0), String::new()));
        assert_private(&folder.join("data"));

        let mut again = Served::start(bare(&["serve", "--only", "api"]));
        let up = again.until("DCA-Auth is up");
        assert!(up["off"].as_str().unwrap().contains("gateway: --only; workers: --only"), "{up}");
        let told: Vec<_> = again.log.iter().filter(|line| line["level"] != "DEBUG").collect();
        assert_eq!(told.len(), 1, "one line says that it runs: {told:#?}");
        let taken = run({
            let mut command = bare(&["serve"]);
            command.env("DCA_HTTP_ADDR", listening(&up).to_string());
            command
        });
        assert_eq!(taken.code, 1, "{taken:?}");
        assert!(taken.err.contains("cannot listen on") && taken.err.contains("DCA_HTTP_ADDR"), "{taken:?}");
        again.signal("INT");
        assert_eq!(again.ended().0, Some(0));
        t
    });
}

#[test]
fn a_service_tells_no_secret_and_names_what_has_no_effect() {
    it_unstarted(|t| async {
        let master = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
        let settings = [("DCA_MASTER_KEY", master), ("DCA_LOG", "debug"), ("JWT_SECRET", "s3cr3t-value")];
        let seeded = run(binary(&t, &["seed", "demo"], &settings)).out;
        let (key, api_key) = (labelled(&seeded, "license key:"), labelled(&seeded, "API key:"));
        let mut served = Served::start(binary(&t, &["serve"], &settings));
        let addr = listening(&served.until("DCA-Auth is up"));
        let idle = served.until("these settings are understood but have no effect yet");
        assert_eq!((&idle["level"], &idle["names"]), (&"WARN".into(), &"JWT_SECRET".into()));
        t.discord.connected().await;
        let ask = |line: &str| Request::new(line).with("X-API-Key", &api_key).with("Content-Type", "application/json");
        let validate = ask("POST /licenses/validate").body(json!({ "licenseKey": key }).to_string());
        assert_eq!(validate.ask(addr).await.unwrap().json()["code"], "VALID");
        for odd in [
            ask(&format!("GET /licenses/{key}?token={api_key}")),
            ask("POST /licenses/validate").body(format!(r#"{{"licenseKey":["{key}"]}}"#)),
            ask("POST /licenses/validate").body(format!(r#"{{"licenseKey":"{}"}}"#, &key[..38])),
            ask("POST /licenses/validate").with("X-API-Key", &api_key[..42]).with("Cookie", &api_key).body("{}"),
        ] {
            odd.ask(addr).await.unwrap();
        }
        served.until("answered");
        served.signal("TERM");
        let (code, out) = served.ended();
        assert_eq!((code, out.as_str()), (Some(0), ""));
        let log = served.log.iter().map(Value::to_string).collect::<Vec<_>>().join("\n");
        assert_no_secret(&log, &t.discord.token());
        let password = t.env().get("DCA_DATABASE_URL").map_or("none", String::as_str);
        for secret in [master, "s3cr3t-value", &key, &key[..38], &api_key, &api_key[..42], password] {
            assert!(!log.contains(secret), "{secret} is told:\n{log}");
        }
        t
    });
}

#[test]
fn a_second_signal_ends_at_once() {
    it_unstarted(|t| async {
        let seeded = done(&t, &["seed", "demo"]);
        let api_key = labelled(&seeded, "API key:");
        let mut served = Served::start(binary(&t, &["serve"], &[("DCA_DISCORD_TOKEN", "")]));
        let addr = listening(&served.until("DCA-Auth is up"));
        let _unfinished = half_sent(addr, &api_key, "{}").await;
        served.signal("TERM");
        served.until("stopping; a second signal ends at once");
        served.signal("TERM");
        assert_eq!(served.ended().0, Some(1));
        assert_eq!(served.log.last().unwrap(), "dca-auth: ended by a second signal");
        t
    });
}

/// What `doctor --json` finds, with these settings changed: exit code, and the checks that fail with
/// what they say.
fn examined(t: &TestApp, changed: &[(&str, &str)]) -> (i32, Vec<(String, String)>) {
    let ran = run(binary(t, &["doctor", "--json"], changed));
    let findings: Vec<Value> = serde_json::from_str(&ran.out).unwrap_or_else(|_| panic!("{ran:?}"));
    let wrong = findings.iter().filter(|finding| finding["outcome"] == "fail");
    let wrong = wrong.map(|finding| {
        assert!(finding["fix"].as_str().is_some_and(|fix| fix.len() > 10), "no fix: {finding}");
        let [check, detail] = ["check", "detail"].map(|name| finding[name].as_str().unwrap().to_owned());
        (check, detail)
    });
    (ran.code, wrong.collect())
}

fn assert_fails(t: &TestApp, changed: &[(&str, &str)], check: &str, detail: &str) {
    let (code, wrong) = examined(t, changed);
    assert_eq!(code, 1, "{wrong:?}");
    assert!(matches!(&wrong[..], [(c, d)] if c.starts_with(check) && d.contains(detail)), "{check}: {wrong:?}");
}

async fn map(t: &TestApp, guild: &SimGuild, role: u64) {
    let caller = t.caller(guild).await;
    let product = dca_core::products::get(t.core(), &caller.scope, "Gold Tools").await.unwrap();
    mappings::add(t.core(), &caller, guild.id().into(), role.into(), &product, Announce::Quietly).await.unwrap();
}

#[test]
fn doctor_finds_nothing_in_health_and_names_each_fault() {
    it(|mut t| async {
        let guild = t.discord.guild("Makers");
        let gold = guild.role("Gold");
        t.synced(&guild).await;
        t.map_role(&guild, "Gold Tools", gold, 24).await;
        assert_eq!(examined(&t, &[]), (0, vec![]));
        assert!(done(&t, &["doctor"]).contains("off  discord: no DCA_DISCORD_TOKEN"));
        assert_fails(&t, &[("DCA_REDIS_URL", "redis://127.0.0.1:1")], "redis", "");
        let nobody = [("DCA_SMTP_HOST", "127.0.0.1"), ("DCA_SMTP_PORT", "1")];
        assert_fails(&t, &nobody, "mail", "the mail server does not greet us");
        let sink = MailSink::start().await;
        sink.require_auth("makers", "right");
        let port = sink.port().to_string();
        let host = [("DCA_SMTP_HOST", "127.0.0.1"), ("DCA_SMTP_PORT", port.as_str()), ("DCA_SMTP_USER", "makers")];
        assert_eq!(examined(&t, &[&host[..], &[("DCA_SMTP_PASSWORD", "right")]].concat()), (0, vec![]));
        assert_fails(&t, &[&host[..], &[("DCA_SMTP_PASSWORD", "wrong")]].concat(), "mail", "does not let us in");

        map(&t, &guild, guild.role_above_bot("Boss")).await;
        t.stop().await;
        assert_fails(&t, &[], "role order in Makers", "Boss is not below the bot's role");
        t.discord.disallow_intents(true);
        let (_, wrong) = examined(&t, &[]);
        assert_eq!(wrong[0].0, "intents");
        t.discord.disallow_intents(false);
        guild.kick_bot();
        assert_fails(&t, &[], "access in Makers", "");
        t.discord.reject_token(true);
        assert_fails(&t, &[], "token", "does not accept the bot token");
        t
    });
}
