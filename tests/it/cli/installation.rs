//! The data of an installation: which commands create it, backup and restore, and its keys.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

use dca_core::{guilds, key_list};
use serde_json::Value;

use super::commands::{CommandOutput, Service, binary, run, run_err, run_ok, run_without_bot, value_after};
use crate::support::{
    accounts::execute,
    fixtures::TestTenant,
    harness::{TestApp, it_unstarted},
    proofs::parts,
};

/// A command without any settings, in this folder.
fn bare(t: &TestApp, folder: &Path, args: &[&str]) -> Command {
    let mut command = binary(t, args, &[]);
    command.env_clear().env("DCA_HTTP_ADDR", "127.0.0.1:0").current_dir(folder);
    command
}

/// Sets the access of the files in a folder.
fn set_modes(folder: &Path, mode: u32) {
    for name in names(folder) {
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
}

/// Only the owner may read the database and the master key in this folder.
fn assert_private(folder: &Path) {
    for name in ["dca.db", "master.key"] {
        assert_eq!(fs::metadata(folder.join(name)).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
    }
}

/// The names of the files in a folder.
fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_command_in_the_wrong_folder_says_so_and_creates_nothing() {
    it_unstarted(|t| async {
        let folder = tempfile::tempdir().unwrap();
        for args in [
            &["key", "inspect", "DEMO-1"][..],
            &["key", "issue", "--product", "Studio"],
            &["apikey", "list"],
            &["product", "list"],
            &["tenant", "list"],
            &["keys", "rotate"],
            &["migrate", "status"],
            &["migrate", "down", "--yes"],
            &["backup", "copy"],
        ] {
            let output = run(bare(&t, folder.path(), args));
            assert_eq!((output.code, output.out.as_str()), (1, ""), "{args:?}: {output:?}");
            assert!(
                output.err.contains("there is no database at /") && output.err.contains("--data-dir"),
                "{output:?}"
            );
            assert!(names(folder.path()).is_empty(), "{args:?} created {:?}", names(folder.path()));
        }
        t
    });
}

#[test]
fn settings_come_from_a_file_below_the_environment_and_above_it_from_arguments() {
    it_unstarted(|t| async {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("env"), "# comment\nDCA_DATA_DIR=from-file\nexport DCA_LOG='s3cr3t'\n").unwrap();
        let with = |args: &[&str], log: &str| {
            let mut command = bare(&t, folder.path(), &[&["--env-file", "env"], args].concat());
            command.env("DCA_LOG", log);
            run(command)
        };
        assert_eq!(with(&["migrate", "up"], "info").code, 0);
        assert_eq!(names(folder.path()), ["env", "from-file"]);
        assert_eq!(with(&["migrate", "up"], "").code, 78, "an empty variable counts as unset");
        assert_eq!(with(&["--data-dir", "from-argument", "seed", "demo"], "info").code, 0);
        assert_eq!(names(folder.path()), ["env", "from-argument", "from-file"]);
        fs::write(folder.path().join("env"), "# comment\n\ns3cr3t value without a name\n").unwrap();
        let invalid = with(&["migrate", "up"], "info");
        assert!(
            invalid.code == 1
                && invalid.err.contains("line 3 of env is not NAME=value")
                && !invalid.err.contains("s3cr3t"),
            "{invalid:?}"
        );
        let missing = run(bare(&t, folder.path(), &["--env-file", "nowhere", "doctor"]));
        let expected = "dca-auth: cannot read the settings file nowhere: No such file or directory (os error 2)\n";
        assert_eq!((missing.code, missing.err.as_str()), (1, expected));
        t
    });
}

#[test]
fn example_data_is_never_added_to_a_real_installation() {
    it_unstarted(|t| async {
        let core = t.instance().await;
        guilds::record_join(&core, 900.into(), "Makers").await.unwrap();
        let refused = run_err(&t, 1, &["seed", "demo"]);
        assert!(refused.contains("dca-auth --data-dir demo seed demo"), "{refused}");
        let tenants: Value = serde_json::from_str(&run_ok(&t, &["tenant", "list", "--json"])).unwrap();
        assert_eq!((tenants.as_array().unwrap().len(), &tenants[0]["servers"][0]), (1, &"900".into()));
        t
    });
}

#[test]
fn creating_an_existing_admin_changes_the_password_only_on_request() {
    it_unstarted(|mut t| async {
        let create = ["admin", "create", "--email", "ana@x.example"];
        let invalid = run_err(&t, 1, &["admin", "create", "--email", "x"]);
        assert!(invalid.contains("must be an email address, for example ana@example.com"), "{invalid}");
        let password = value_after(&run_ok(&t, &create), "password, not shown again:");
        let again = run(binary(&t, &create, &[("DCA_DISCORD_TOKEN", "")]));
        assert!(again.code == 0 && again.out.ends_with("SUPER_ADMIN, already existed\n"), "{again:?}");
        assert!(again.err.contains("Its password is unchanged; --reset-password sets a new one."), "{again:?}");
        t.start_without_bot().await;
        let sign_in = async |password: &str| {
            let form = serde_json::json!({ "email": "ana@x.example", "password": password });
            t.http().post(t.url("/auth/login")).json(&form).send().await.unwrap().status().as_u16()
        };
        assert_eq!(sign_in(&password).await, 200);
        let block = "UPDATE users SET status = 'BANNED', deletion_by_admin = TRUE, deletion_at = created_at";
        execute(t.core(), block).await;
        assert_eq!(sign_in(&password).await, 403);
        run_ok(&t, &create);
        assert_eq!(sign_in(&password).await, 200, "an admin's account is active");
        let reset = run_ok(&t, &[&create[..], &["--reset-password"]].concat());
        assert_eq!(
            [sign_in(&password).await, sign_in(&value_after(&reset, "password, not shown again:")).await],
            [401, 200]
        );
        t
    });
}

#[test]
fn a_backup_of_a_running_service_is_restored_with_its_key() {
    it_unstarted(|t| async {
        let folder = tempfile::tempdir().unwrap();
        let run_in = |args: &[&str]| run(bare(&t, folder.path(), args));
        let ok = |output: CommandOutput| {
            assert_eq!(output.code, 0, "{output:?}");
            output.out
        };
        let key = value_after(&ok(run_in(&["seed", "demo"])), "license key:");
        let mut served = Service::start(bare(&t, folder.path(), &["serve"]));
        served.wait_for("DCA-Auth is up");
        let copy = folder.path().join("copy");
        set_modes(&folder.path().join("data"), 0o644);
        let key_file = folder.path().join("data/master.key");
        fs::rename(&key_file, folder.path().join("elsewhere")).unwrap();
        assert_eq!(run_in(&["backup", "copy"]).code, 1);
        assert!(!folder.path().join("copy.partial").exists(), "a failed backup leaves nothing behind");
        fs::rename(folder.path().join("elsewhere"), &key_file).unwrap();
        ok(run_in(&["backup", "copy"]));
        assert_eq!(names(&copy), ["dca.db", "master.key"]);
        assert_private(&copy);
        set_modes(&copy, 0o644);
        let running = run_in(&["restore", "copy", "--overwrite"]);
        assert!(running.code == 1 && running.err.contains("Stop it first"), "{running:?}");
        assert!(run_in(&["backup", "copy"]).err.contains("copy exists already"));
        let later = ok(run_in(&["key", "issue", "--product", "Demo Tools"]));
        served.signal("TERM");
        assert_eq!(served.wait_exit().0, Some(0));

        let refused = run_in(&["restore", "copy"]);
        assert!(refused.code == 1 && refused.err.contains("--overwrite"), "{refused:?}");
        ok(run_in(&["restore", "copy", "--data-dir", "elsewhere"]));
        assert_eq!(names(&folder.path().join("elsewhere")), ["dca.db", "instance", "master.key"]);
        assert_private(&folder.path().join("elsewhere"));
        let elsewhere = ok(run_in(&["key", "inspect", &key, "--data-dir", "elsewhere"]));
        assert!(elsewhere.contains("assigned"), "{elsewhere}");
        ok(run_in(&["restore", "copy", "--overwrite"]));
        assert_private(&folder.path().join("data"));
        assert!(ok(run_in(&["key", "inspect", &key])).contains("assigned"));
        assert!(run_in(&["key", "inspect", later.trim()]).err.contains("No such license"), "issued after the backup");

        fs::write(folder.path().join("copy/master.key"), "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n").unwrap();
        let wrong_key = run_in(&["restore", "copy", "--overwrite"]);
        assert!(wrong_key.err.contains("nothing was changed: the master key does not match"), "{wrong_key:?}");
        assert!(ok(run_in(&["key", "inspect", &key])).contains("assigned"));
        assert!(
            run_in(&["restore", "data"]).code == 1 && run_in(&["restore", "nowhere"]).err.contains("is not a backup")
        );
        let mut postgres = bare(&t, folder.path(), &["backup", "copy2"]);
        postgres.env("DCA_DATABASE_URL", "postgres://u@127.0.0.1:1/d");
        assert!(run(postgres).err.contains("use pg_dump"));
        t
    });
}

#[test]
fn keys_are_rotated_and_rewrapped_at_the_command_line() {
    it_unstarted(|t| async {
        let key = value_after(&run_ok(&t, &["seed", "demo"]), "license key:");
        let list = || serde_json::from_str::<Value>(&run_ok(&t, &["keys", "list", "--json"])).unwrap();
        let first = list().as_array().unwrap().len();
        run_ok(&t, &["keys", "rotate", "access-token"]);
        let rotated: Vec<Value> =
            list().as_array().unwrap().iter().filter(|key| key["purpose"] == "access-token").cloned().collect();
        assert_eq!((rotated.len(), &rotated[1]["generation"]), (2, &2.into()));
        assert!(rotated[0]["notAfter"].is_string() && rotated[1]["notAfter"].is_null(), "{rotated:?}");
        run_ok(&t, &["keys", "rotate"]);
        assert_eq!(list().as_array().unwrap().len(), 2 * first, "all but the root key, which apps contain");
        assert!(run_err(&t, 2, &["keys", "rotate", "nothing"]).contains("license-lookup"));

        let master = || fs::read_to_string(t.dir().join("master.key")).unwrap();
        let before = master();
        run_ok(&t, &["keys", "rewrap"]);
        assert_ne!(before, master());
        assert!(run_ok(&t, &["key", "inspect", &key]).contains("assigned"), "the new master key opens the database");
        let with = |master: &str, args: &[&str], input: Option<&str>| {
            fs::write(t.dir().join("input"), input.unwrap_or_default()).unwrap();
            let mut command = binary(&t, args, &[("DCA_MASTER_KEY", master.trim()), ("DCA_DISCORD_TOKEN", "")]);
            command.stdin(fs::File::open(t.dir().join("input")).unwrap());
            run(command)
        };
        assert!(with(&before, &["keys", "list"], None).err.contains("the master key does not match"));
        let new = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
        assert!(with(&master(), &["keys", "rewrap"], None).err.contains("openssl rand -base64 32"));
        let rotated = with(&master(), &["keys", "rotate"], None);
        assert!(rotated.code == 0 && rotated.err.contains("restart them before"), "{rotated:?}");
        let rewrapped = with(&master(), &["keys", "rewrap", "--stdin"], Some(new));
        assert!(rewrapped.code == 0 && !rewrapped.out.contains(new), "{rewrapped:?}");
        assert_eq!(with(new, &["keys", "list"], None).code, 0);
        t
    });
}

#[test]
fn a_running_instance_reads_keys_that_were_rotated_after_the_master_key_file_was_replaced() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        run_ok(&t, &["keys", "rewrap"]);
        run_ok(&t, &["keys", "rotate"]);
        t.app().reload_keys().await.unwrap();
        let set = t.http().get(t.url("/.well-known/jwks.json")).send().await.unwrap();
        assert_eq!(set.json::<Value>().await.unwrap()["keys"].as_array().unwrap().len(), 4);
        t
    });
}

/// The example of RFC 8410, as OpenSSL writes it.
const OTHER_ROOT: &str = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
                          -----END PRIVATE KEY-----\n";

#[test]
fn the_root_key_is_exported_and_signs_lists_from_its_file() {
    it_unstarted(|t| async {
        run_ok(&t, &["seed", "demo"]);
        let root = || serde_json::from_str::<Value>(&run_ok(&t, &["keys", "root", "--json"])).unwrap();
        let before = root();
        assert_eq!(value_after(&run_ok(&t, &["keys", "root"]), "public key:"), before["x"].as_str().unwrap());
        assert!(run_ok(&t, &["doctor"]).contains("ok   signing keys: root key in the database, next signing key by "));

        let exported = run_without_bot(&t, &["keys", "export-root", "root.pem"]);
        let pem = fs::read_to_string(t.dir().join("root.pem")).unwrap();
        assert_eq!(fs::metadata(t.dir().join("root.pem")).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(
            pem.starts_with("-----BEGIN PRIVATE KEY-----") && pem.ends_with("-----END PRIVATE KEY-----\n"),
            "{pem}"
        );
        let private = pem.lines().nth(1).unwrap();
        assert!(!format!("{exported:?}").contains(private) && exported.out.contains("keys rewrap"), "{exported:?}");
        assert!(run_err(&t, 1, &["keys", "export-root", "again.pem"]).contains("keys publish --root FILE"));
        assert!(!t.dir().join("again.pem").exists());
        assert_eq!(root(), before, "no start creates another one");
        assert!(run_ok(&t, &["doctor"]).contains("ok   signing keys: root key exported, next signing key by "));

        let purposes = || {
            run_ok(&t, &["keys", "list"])
                .lines()
                .map(|line| line.split(' ').next().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        let count = |purpose: &str| purposes().iter().filter(|listed| *listed == purpose).count();
        run_ok(&t, &["keys", "rotate"]);
        assert_eq!([count("root-signing"), count("verdict-signing"), count("access-token")], [0, 1, 2]);
        assert!(run_err(&t, 1, &["keys", "rotate", "verdict-signing"]).contains("keys publish --root FILE"));
        let list = async || key_list::current(&t.instance().await).await.unwrap();
        let first = list().await;
        for (content, error) in
            [(OTHER_ROOT, "not the root key that apps know"), ("nothing", "not an Ed25519 private key")]
        {
            fs::write(t.dir().join("other.pem"), content).unwrap();
            assert!(run_err(&t, 1, &["keys", "publish", "--root", "other.pem"]).contains(error), "{content}");
        }
        assert!(run_err(&t, 1, &["keys", "publish", "--root", "missing.pem"]).contains("cannot read missing.pem"));
        assert_eq!(list().await, first);
        run_ok(&t, &["keys", "publish", "--root", "root.pem"]);
        assert_eq!(count("verdict-signing"), 1, "not due yet");
        run_ok(&t, &["keys", "publish", "--root", "root.pem", "--rotate"]);
        let second = list().await;
        assert_eq!((count("verdict-signing"), second.1 > first.1), (2, true));
        let keys = parts(&second.0).1["keys"].as_array().unwrap().len();
        assert_eq!((keys, parts(&second.0).0["kid"] == before["kid"]), (2, true));

        let replaced = run_without_bot(&t, &["keys", "rotate", "root-signing"]);
        assert!(replaced.err.contains("reject verdicts from now on"), "{replaced:?}");
        assert_ne!(root()["x"], before["x"]);
        t
    });
}

#[test]
fn the_start_says_what_to_do_next() {
    it_unstarted(|t| async {
        let mut without_bot = Service::start(binary(&t, &["serve"], &[("DCA_DISCORD_TOKEN", "")]));
        let next = without_bot.wait_for("next step");
        assert!(next["step"].as_str().unwrap().starts_with("set DCA_DISCORD_TOKEN"), "{next}");
        drop(without_bot);
        let mut served = Service::start(binary(&t, &["serve"], &[]));
        let next = served.wait_for("next step");
        let link = "https://discord.com/oauth2/authorize?client_id=";
        assert!(
            next["step"].as_str().unwrap().contains(link) && next["step"].as_str().unwrap().contains("/setup"),
            "{next}"
        );
        TestTenant::new(&t.instance().await, "Makers").await.product("Studio", "STUDIO").await;
        served.signal("TERM");
        assert_eq!(served.wait_exit().0, Some(0));
        let mut again = Service::start(binary(&t, &["serve"], &[]));
        let next = again.wait_for("next step");
        assert!(next["step"].as_str().unwrap().contains("dca-auth apikey create --product 'Studio'"), "{next}");
        t
    });
}
