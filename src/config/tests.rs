//! Valid and invalid values of every variable.

use std::{fs, path::PathBuf, time::Duration};

use super::{setting::Setting, *};

/// Name, a valid value, and invalid values.
const CASES: &str = "
DCA_CONFIG_FILE | /dev/null | /nowhere.toml | /
DCA_DATA_DIR | else where | /dev/null
DCA_DATABASE_URL | postgres://u:hush@h/d | hush | mysql://hush@h/d | postgres:hush | sqlite:// | sqlite:?hush
DCA_DATABASE_POOL_SIZE | 1000 | 0 | 1001 | -1 | ten
DCA_REDIS_URL | rediss://u:hush@h:6380/1 | hush | http://hush | redis:hush | unix:
DCA_REDIS_PREFIX | dca:a-1 | a b | é
DCA_TLS_CA_FILE | src/config/test-ca.pem | /dev/null | Cargo.toml | /nowhere.pem | /
DCA_EVENT_RETENTION_DAYS | 365 | 29 | 3651 | 1y
DCA_MASTER_KEY | _-7ermv3L9o-QW8Zt1uYp5cJd0xKsRgHbVnMqIaEfTw | hush | AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA= | AAECAwQF
DCA_HTTP_ADDR | [::1]:80 | localhost | 1.2.3.4 | 1.2.3.4:65536
DCA_PUBLIC_URL | https://dca.example/base | dca.example | ftp://x | https://x/ | https://x?a | https://u:p@x | https://u@x | http://0.0.0.0:3000 | http://[::]
DCA_TLS_CERT_FILE | /dev/null | /nowhere.pem | /
DCA_TLS_KEY_FILE | /dev/null | /nowhere.pem
DCA_TRUSTED_PROXIES | 10.0.0.0/8, ::1 | 10.0.0.0/33 | proxy | 10.0.0.1,,10.0.0.2
DCA_CORS_ORIGINS | https://a.example, http://b.example:81 | * | https://*.a.example | a.example | https://a.example/x
DCA_DRAIN_TIMEOUT_SECONDS | 300 | 0 | 301
DCA_KEEP_ALIVE_SECONDS | 60 | 0 | 3601
DCA_MAX_CONNECTIONS | 100 | 0 | many
DCA_MAX_CONNECTIONS_PER_CLIENT | 10 | 0 | many
DCA_METRICS_TOKEN | hush-4 | a hush
DCA_DISCORD_TOKEN | MTIz.abc.hush-_ | Bot hush | hush\u{7f}
DCA_DISCORD_API_URL | http://[::1]:8080/api | https://127.0.0.1 | http://discord.com | http://10.0.0.1:80 | http://127.0.0.1/?a
DCA_DM_INTERVAL_SECONDS | 0 | 3601 | 5s
DCA_DELIVERY_TIMEOUT_SECONDS | 300 | 0 | 301
DCA_GATEWAY_LEASE_SECONDS | 14 | 1 | 15
DCA_RECONCILE_INTERVAL_SECONDS | 86400 | 9 | 86401
DCA_DISCORD_CLIENT_ID | 1234 | a b
DCA_DISCORD_CLIENT_SECRET | hush-1 | a hush
DCA_DISCORD_REDIRECT_URI | https://x.example/cb | x.example/cb | ftp://x
DCA_GOOGLE_CLIENT_ID | 1-a.apps | a b
DCA_GOOGLE_CLIENT_SECRET | hush-2 | a hush
DCA_GOOGLE_REDIRECT_URI | https://x.example/cb | nowhere | https://x/#a
DCA_GOOGLE_API_URL | http://[::1]:8080 | https://127.0.0.1 | http://google.com
DCA_APP_NAME | Ana's Shop | a\u{7}b
DCA_FRONTEND_URL | https://app.example | app.example | https://app.example/ | https://x?a
DCA_ACCESS_TOKEN_SECONDS | 60 | 59 | 3601
DCA_REFRESH_TOKEN_SECONDS | 3600 | 3599 | 7776001 | 7d
DCA_MAX_SESSIONS_PER_USER | 1 | 0 | many
DCA_PASSWORD_MEMORY_KIB | 12288 | 12287 | 1048577 | 64M
DCA_REQUIRE_SECOND_FACTOR | admins | all | yes
DCA_COOKIE_NAME | session.id | a=b | a;b | a b
DCA_COOKIE_SECURE | true | yes | 1
DCA_COOKIE_SAMESITE | Strict | sometimes
DCA_COOKIE_DOMAIN | .a.example | a b | a.example. | a/b
DCA_ALLOW_COOKIES_WITHOUT_ORIGIN | False | no | 0
DCA_ALLOW_VALIDATION_WITHOUT_API_KEY | dca_pk_3AHRZ6DMV29GQY5CKT18FPX4BJS07ENW0NV0 | true | dca_sk_3AHRZ6DMV29GQY5CKT18FPX4BJS07ENWV5C4 | dca_pk_3AHRZ6DMV29GQY5CKT18FPX4BJS07ENW0NV?
DCA_ALLOW_KEYS_IN_URLS | TRUE | on | 1
DCA_SMTP_HOST | mail.example | http://mail.example | a b | mail.example:587
DCA_SMTP_PORT | 25 | 0 | 65536
DCA_SMTP_USER | ana | a\u{7}b
DCA_SMTP_PASSWORD | hush 3 | hush\u{7f}
DCA_SMTP_TLS | none | ssl
DCA_MAIL_FROM | Ana <ana@a.example> | ana | Ana <a
DCA_VALIDATE_PER_MINUTE | 1 | 0 | 4294967296 | many
DCA_ACTIVATE_PER_MINUTE | 1 | 0 | many
DCA_MANAGE_PER_MINUTE | 1 | 0 | many
DCA_AUTH_FAILURES_PER_MINUTE | 1 | 0 | 1.5
DCA_AUTH_PER_MINUTE | 1 | 0 | many
DCA_FAILURES_PER_ACCOUNT | 1 | 0 | -1
DCA_FAILURES_PER_NETWORK | 1 | 0 | many
DCA_SIGN_INS_PER_ACCOUNT | 1 | 0 | many
DCA_LETTERS_PER_NETWORK | 1 | 0 | many
DCA_MAILS_PER_MINUTE | 1 | 0 | many
DCA_DM_PER_MINUTE | 30 | 0 | many
DCA_LOG | warn,dca_auth=debug | loud | info,dca_auth=loud
DCA_LOG_FORMAT | json | xml | JSON";

fn cases() -> impl Iterator<Item = (&'static str, &'static str, Vec<&'static str>)> {
    CASES.trim().lines().map(|line| {
        let mut cells = line.split(" | ");
        (cells.next().unwrap(), cells.next().unwrap(), cells.collect())
    })
}

/// All settings, in the order of `.env.example`.
fn settings() -> Vec<Setting> {
    let mut reader = Reader::new(BTreeMap::new());
    Config::read(&mut reader);
    reader.settings
}

fn is_secret(name: &str) -> bool {
    settings().iter().any(|setting| setting.name == name && setting.is_secret)
}

fn map<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> BTreeMap<String, String> {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn load(pairs: &[(&str, &str)]) -> Config {
    Config::load(map(pairs.iter().copied())).unwrap()
}

fn faults(pairs: &[(&str, &str)]) -> String {
    Config::load(map(pairs.iter().copied())).unwrap_err().to_string()
}

/// A temporary file, deleted on drop.
struct File(PathBuf);

impl File {
    fn new(name: &str, text: &str) -> Self {
        let name = format!("dca-config-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::write(&path, text).unwrap();
        Self(path)
    }
    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn env_example_matches_the_reference() {
    assert_eq!(include_str!("../../.env.example"), reference());
}

#[test]
fn listed_defaults_match_an_empty_environment() {
    let defaults = map(settings().iter().map(|setting| (setting.name, setting.default)));
    let config = load(&[]);
    assert_eq!(Config::load(defaults).unwrap(), config);
    assert_eq!(config.storage.database_url.expose(), "sqlite://data/dca.db?mode=rwc");
    assert_eq!(config.http.public_url, "http://127.0.0.1:3000");
    assert_eq!(config.discord.dm_interval, Duration::from_secs(5));
    let custom = load(&[("DCA_DATA_DIR", "/a b?c"), ("DCA_HTTP_ADDR", "[::1]:80")]);
    assert_eq!(custom.storage.database_url.expose(), "sqlite:///a%20b%3Fc/dca.db?mode=rwc");
    assert_eq!(custom.http.public_url, "http://[::1]:80");
}

#[test]
fn every_setting_changes_the_config() {
    let mut reader = Reader::new(map(cases().map(|(name, good, _)| (name, good))));
    let config = Config::read(&mut reader);
    assert_eq!(reader.faults, Vec::<String>::new());
    assert!(config.http.tls.is_some());
    assert_eq!(config.http.trusted_proxies.len(), 2);
    for (name, good, _) in cases().filter(|(name, ..)| !name.ends_with("_FILE")) {
        assert_ne!(load(&[(name, good)]), load(&[]), "{name} changes nothing");
    }
}

#[test]
fn invalid_values_are_reported_by_name_and_all_at_once() {
    assert!(cases().map(|case| case.0).eq(settings().iter().map(|setting| setting.name)));
    for (name, _, bad) in cases() {
        for bad in bad {
            let fault = faults(&[(name, bad)]);
            assert!(fault.starts_with("Invalid value"), "{bad}: {fault}");
            assert!(fault.contains(&format!(" for {name}. Use ")), "{bad}: {fault}");
            let hidden = is_secret(name) || bad.contains('@');
            assert!(hidden != fault.contains(&format!("{bad:?}")), "{fault}");
        }
    }
    let invalid = map(cases().map(|(name, _, bad)| (name, bad[0])));
    let all = Config::load(invalid).unwrap_err();
    for setting in settings() {
        let part = format!(" for {}. Use ", setting.name);
        assert!(all.0.iter().any(|fault| fault.contains(&part)), "{}", setting.name);
    }
    assert!(!all.to_string().contains("hush"), "{all}");
    let half = faults(&[("DCA_TLS_KEY_FILE", "/dev/null")]);
    assert_eq!(half, "Set both DCA_TLS_CERT_FILE and DCA_TLS_KEY_FILE, or neither.");
    let not_utf8 = faults(&[("DCA_LOG", "in\u{fffd}fo")]);
    assert_eq!(not_utf8, "The value of DCA_LOG is not valid UTF-8. Use UTF-8 text.");
}

#[test]
fn an_address_that_other_machines_can_reach_needs_a_public_url() {
    for addr in ["0.0.0.0:3000", "[::]:3000", "[::ffff:0.0.0.0]:3000", "203.0.113.7:80", "[2001:db8::7]:443"] {
        let fault = faults(&[("DCA_HTTP_ADDR", addr)]);
        let addr: std::net::SocketAddr = addr.parse().unwrap();
        let expected = format!(
            "The service listens on {addr}, which other machines can reach. Set DCA_PUBLIC_URL to the URL that they use, \
             for example DCA_PUBLIC_URL=https://auth.example.com."
        );
        assert_eq!(fault, expected);
        load(&[("DCA_HTTP_ADDR", &addr.to_string()), ("DCA_PUBLIC_URL", "https://auth.example.com")]);
    }
    for addr in ["127.0.0.1:1", "[::1]:1", "10.1.2.3:1", "192.168.1.1:1", "172.20.0.1:1", "[fd00::1]:1"] {
        assert_eq!(load(&[("DCA_HTTP_ADDR", addr)]).http.public_url, format!("http://{addr}"));
    }
}

#[test]
fn secrets_are_redacted_in_debug_and_read_from_files() {
    let secrets = || cases().filter(|(name, ..)| is_secret(name));
    let direct = map(secrets().map(|(name, good, _)| (name, good)));
    let direct = Config::load(direct).unwrap();
    let debug = format!("{direct:?}");
    assert!(!debug.contains("hush") && !debug.contains("7ermv3"), "{debug}");
    let key = direct.storage.master_key.as_ref().unwrap().expose();
    assert_eq!(key, "/+7ermv3L9o+QW8Zt1uYp5cJd0xKsRgHbVnMqIaEfTw=");
    let mut env = BTreeMap::new();
    let mut files = Vec::new();
    for (name, good, _) in secrets() {
        let file = File::new(name, &format!("{good}\n"));
        env.insert(format!("{name}_FILE"), file.path().to_owned());
        files.push(file);
    }
    assert_eq!(Config::load(env).unwrap(), direct);
    let path = files[0].path();
    let both = [("DCA_DATABASE_URL_FILE", path), ("DCA_DATABASE_URL", "sqlite:hush")];
    assert_eq!(faults(&both), "DCA_DATABASE_URL and DCA_DATABASE_URL_FILE are both set. Set only one of them.");
    let absent = faults(&[("DCA_MASTER_KEY_FILE", "/hush")]);
    assert!(absent.starts_with("Cannot read the file named by DCA_MASTER_KEY_FILE: ") && !absent.contains("hush"));
    let empty = faults(&[("DCA_MASTER_KEY_FILE", "/dev/null")]);
    assert!(empty.starts_with("Invalid value for DCA_MASTER_KEY_FILE. Use "), "{empty}");
}

#[test]
fn unknown_names_are_refused_with_a_suggestion() {
    for (wrong, right) in [
        ("DCA_HTTP_ADR", "DCA_HTTP_ADDR"),
        ("DCA_MASTERKEY", "DCA_MASTER_KEY"),
        ("dca_redis", "DCA_REDIS_URL"),
        ("DCA_DISCORD_TOKEN_FIL", "DCA_DISCORD_TOKEN_FILE"),
    ] {
        let fault = faults(&[(wrong, "")]);
        assert_eq!(fault, format!("Unknown setting {wrong}. Did you mean {right}?"));
    }
    let fault = faults(&[("DCA_ZZZ", "1")]);
    assert_eq!(fault, "Unknown setting DCA_ZZZ. See .env.example for all settings.");
}

#[test]
fn environment_takes_precedence_over_the_toml_file() {
    let file = File::new("good", "log = 'debug'\ndm_interval_seconds = 7\nredis_prefix = ''\n");
    let config = load(&[("DCA_CONFIG_FILE", file.path()), ("DCA_LOG", "warn")]);
    assert_eq!((&*config.log.filter, config.discord.dm_interval.as_secs()), ("warn", 7));
    assert_eq!(config.storage.redis_prefix, "dca");
    let list = "trusted_proxies = ['10.0.0.0/8', '::1']\nhttp_addr = '[::1]:1'";
    let list = File::new("list", list);
    let config = load(&[("DCA_CONFIG_FILE", list.path()), ("PORT", "8080")]);
    assert_eq!((config.http.trusted_proxies.len(), config.http.addr.port()), (2, 1));
    assert_eq!(config.unused_settings, ["PORT"]);
    let bad = "http_adr = 1\nlog = true\nconfig_file = 'x'\ndiscord_token = 'a hush'";
    let fault = faults(&[("DCA_CONFIG_FILE", File::new("bad", bad).path())]);
    for part in [
        "Unknown setting http_adr in DCA_CONFIG_FILE. Did you mean http_addr?",
        "Invalid type of log in DCA_CONFIG_FILE. Use a string, a number or a list of strings.",
        "Unknown setting config_file in DCA_CONFIG_FILE.",
        "Invalid value for DCA_DISCORD_TOKEN (from DCA_CONFIG_FILE). Use ",
    ] {
        assert!(fault.contains(part), "{part} in:\n{fault}");
    }
    let broken = File::new("broken", "log = 'info'\nmaster_key = hush\n");
    let fault = fault + &faults(&[("DCA_CONFIG_FILE", broken.path())]);
    assert!(fault.contains("Invalid TOML on line 2 of DCA_CONFIG_FILE."), "{fault}");
    assert!(!fault.contains("hush"), "{fault}");
}

#[test]
fn settings_of_earlier_systems_are_read_in_their_own_format() {
    let url = ("DCA_PUBLIC_URL", "https://dca.example");
    let config = load(&[url, ("APP_PORT", "4000"), ("PORT", "8080"), ("JWT_SECRET", "h")]);
    assert_eq!(config.http.addr.to_string(), "0.0.0.0:8080");
    assert_eq!(config.unused_settings, ["APP_PORT", "JWT_SECRET"]);
    assert_eq!(load(&[url, ("APP_PORT", "4000")]).http.addr.port(), 4000);
    for (value, expected) in [
        ("postgresql://u:p@h:5432/d?schema=public", "postgresql://u:p@h:5432/d"),
        ("postgres://h/d?pgbouncer=true&sslmode=require", "postgres://h/d?sslmode=require"),
    ] {
        assert_eq!(load(&[("DATABASE_URL", value)]).storage.database_url.expose(), expected);
    }
    let parts =
        [("POSTGRES_USER", "user"), ("POSTGRES_PASSWORD", "p@s/s:%?"), ("POSTGRES_DB", "authdb"), ("DB_PORT", "5433")];
    let composed = "postgres://user:p%40s%2Fs%3A%25%3F@localhost:5433/authdb";
    assert_eq!(load(&parts).storage.database_url.expose(), composed);
    let config = load(&[parts[0], parts[3], ("DATABASE_URL", "postgres://h/d")]);
    assert_eq!(config.unused_settings, ["POSTGRES_USER", "DB_PORT"]);
    let config = load(&[("DCA_DATABASE_URL", "sqlite:x.db"), ("DATABASE_URL", "garbage")]);
    assert_eq!(config.unused_settings, ["DATABASE_URL"]);
    assert!(faults(&[("PORT", "http")]).starts_with("Invalid value \"http\" for PORT. Use a port"));
    let fault = faults(&[parts[0], parts[1], ("DB_PORT", "0")]);
    assert!(fault.contains("for POSTGRES_USER, POSTGRES_PASSWORD, POSTGRES_DB, DB_PORT. Use a database on localhost"));
}

#[test]
fn account_settings_of_earlier_systems_are_read_in_their_units() {
    let config = load(&[
        ("ACCESS_TOKEN_TTL", "600"),
        ("REFRESH_TOKEN_TTL", "7d"),
        ("REFRESH_COOKIE_NAME", "rt"),
        ("COOKIE_SECURE", "false"),
        ("COOKIE_SAMESITE", "lax"),
        ("COOKIE_DOMAIN", "localhost"),
        ("APP_FRONTEND_URL", "http://localhost:5173/"),
        ("APP_NAME", "Auth Multi-User"),
        ("MAIL_HOST", "smtp.example"),
        ("MAIL_PORT", "2525"),
        ("MAIL_FROM", "Auth App <noreply@yourdomain.com>"),
        ("THROTTLE_TTL", "30000"),
        ("THROTTLE_LIMIT", "20"),
        ("PASSWORD_ALGO", "bcrypt"),
        ("ENVIRONMENT", "development"),
        ("JWT_ACCESS_SECRET", "f00dba11f00dba12f00dba13f00dba14"),
    ]);
    assert_eq!((config.accounts.access_ttl.as_secs(), config.accounts.refresh_ttl.as_secs()), (600, 604_800));
    assert_eq!(load(&[("REFRESH_TOKEN_TTL", "604800")]).accounts.refresh_ttl.as_secs(), 604_800);
    assert_eq!(config.accounts.frontend_url.as_deref(), Some("http://localhost:5173"));
    assert_eq!((config.mail.port, config.limits.auth_per_minute.get()), (2525, 40));
    assert_eq!(config.cookies.domain.as_deref(), Some("localhost"));
    assert_eq!(config.unused_settings, [""; 0]);
    for ambiguous in ["7", "30", "86400s", "0"] {
        assert!(faults(&[("REFRESH_TOKEN_TTL", ambiguous)]).contains("REFRESH_TOKEN_TTL"), "{ambiguous}");
    }
    let fault = faults(&[("COOKIE_SAMESITE", "none")]);
    assert!(
        fault.starts_with("Invalid value \"none\" for DCA_COOKIE_SAMESITE: browsers accept it only on secure cookies."),
        "{fault}"
    );
}

#[test]
fn settings_of_the_earlier_dca_auth_are_read_in_their_units() {
    let config = load(&[
        ("SERVER_PORT", "3001"),
        ("SERVER_HOST", "localhost"),
        ("REDIS_HOST", "cache"),
        ("REDIS_PASSWORD", "p@ss"),
        ("REDIS_DB", "2"),
        ("DISCORD_BOT_TOKEN", "a.b.c"),
        ("JWT_ACCESS_EXPIRY", "15m"),
        ("JWT_REFRESH_EXPIRY", "14d"),
        ("ALLOWED_ORIGINS", "https://a.example"),
        ("MAX_LOGIN_ATTEMPTS", "5"),
        ("NODE_ENV", "production"),
        ("DEPLOY_COMMANDS", "true"),
        ("JWT_ISSUER", "dca-auth"),
    ]);
    assert_eq!(config.http.addr.to_string(), "127.0.0.1:3001");
    assert_eq!(config.storage.redis_url.as_ref().unwrap().expose(), "redis://:p%40ss@cache:6379/2");
    assert_eq!(config.discord.token.as_ref().unwrap().expose(), "a.b.c");
    assert_eq!((config.accounts.access_ttl.as_secs(), config.accounts.refresh_ttl.as_secs()), (900, 1_209_600));
    assert_eq!((config.http.cors_origins.len(), config.limits.failures_per_account.get()), (1, 5));
    assert_eq!(config.unused_settings, ["JWT_ISSUER"]);
    let config = load(&[("DISCORD_TOKEN", "x.y"), ("DISCORD_BOT_TOKEN", "a.b.c"), ("REDIS_URL", "redis://h")]);
    assert_eq!(config.discord.token.as_ref().unwrap().expose(), "x.y");
    assert_eq!(config.storage.redis_url.as_ref().unwrap().expose(), "redis://h");
    let public = load(&[("SERVER_PORT", "3001"), ("DCA_PUBLIC_URL", "https://dca.example")]);
    assert_eq!(public.http.addr.to_string(), "0.0.0.0:3001");
    for (name, bad) in [
        ("JWT_ACCESS_EXPIRY", "15"),
        ("JWT_ACCESS_EXPIRY", "2h"),
        ("JWT_REFRESH_EXPIRY", "1y"),
        ("SERVER_PORT", "http"),
        ("MAX_LOGIN_ATTEMPTS", "many"),
    ] {
        assert!(faults(&[(name, bad)]).contains(&format!("Invalid value {bad:?} for {name}")), "{name}={bad}");
    }
}

#[test]
fn every_setting_describes_its_values_with_an_example_or_lists_them() {
    for setting in settings() {
        let is_list = setting.expected.replace(" or ", ", ").split(", ").all(|word| !word.contains(' '));
        assert!(is_list || setting.expected.contains("for example"), "{}: {}", setting.name, setting.expected);
    }
}

#[test]
fn published_example_secrets_are_refused() {
    for (name, known) in [
        ("TOKEN_HASH_PEPPER", "default_pepper"),
        ("TOKEN_HASH_PEPPER", "pepper_32+chars"),
        ("JWT_ACCESS_SECRET", "d54b82f4bf57bf88f9cd6448ac5d67a1"),
        ("JWT_REFRESH_SECRET", "e2c3f1a9b6d4e8f7a1b2c3d4e5f60718"),
        ("JWT_ACCESS_SECRET", "short"),
        ("JWT_ACCESS_SECRET", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
        ("PASSWORD_ALGO", "md5"),
    ] {
        let fault = faults(&[(name, known)]);
        assert!(fault.starts_with(&format!("Invalid value for {name}. Remove it, or use ")), "{fault}");
        assert!(!fault.contains(known), "{fault}");
    }
}
