//! What the service answers, reports and logs while the database, its disk or Redis is away.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use chrono::TimeDelta;
use dca_core::crypto::api_key::ApiKeyKind;
use serde_json::json;
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::{
    cli::commands::{binary, run},
    support::{
        accounts::execute,
        fixtures::{Answer, Request, TestTenant},
        harness::{LIMIT, TestApp, it_unstarted},
    },
};

async fn get(t: &TestApp, path: &str) -> Answer {
    Request::new(&format!("GET {path}")).ask(t.addr()).await.expect(path)
}

/// A port on which nobody listens.
async fn closed_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

#[test]
fn a_start_without_postgres_names_the_server_and_the_cause_at_once() {
    it_unstarted(|t| async {
        let port = closed_port().await;
        let url = format!("postgres://dca:hush@127.0.0.1:{port}/dca");
        for args in [&["serve"][..], &["migrate", "up"]] {
            let started = Instant::now();
            let output = run(binary(&t, args, &[("DCA_DATABASE_URL", &url)]));
            assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
            let expected = format!(
                "dca-auth: cannot open the database. Check DCA_DATABASE_URL: PostgreSQL at 127.0.0.1:{port}: Connection \
                 refused (os error 111)\n"
            );
            assert_eq!((output.code, output.err.lines().last()), (1, expected.lines().next()), "{args:?}");
            assert!(!output.err.contains("hush"), "{}", output.err);
        }
        t
    });
}

#[test]
fn database_errors_name_their_cause_once() {
    it_unstarted(|t| async {
        let core = t.instance().await;
        execute(&core, "ALTER TABLE keyring RENAME TO elsewhere").await;
        let error = t.assemble(&[]).await.err().expect("the keyring is missing");
        let error = format!("{error:#}");
        assert_eq!(error.matches("keyring").count(), 1, "{error}");
        assert!(error.starts_with("database: "), "{error}");
        t
    });
}

/// A proxy in front of a server, which can go away.
struct Proxy {
    addr: SocketAddr,
    /// Dropping the set ends the proxy and its connections.
    tasks: Arc<Mutex<JoinSet<()>>>,
}

impl Proxy {
    async fn start(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (addr, tasks) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(JoinSet::new())));
        let connections = Arc::downgrade(&tasks);
        tasks.lock().unwrap().spawn(async move {
            while let (Ok((mut client, _)), Some(tasks)) = (listener.accept().await, connections.upgrade()) {
                let server = server.clone();
                tasks.lock().unwrap().spawn(async move {
                    let mut server = TcpStream::connect(server).await.unwrap();
                    _ = copy_bidirectional(&mut client, &mut server).await;
                });
            }
        });
        Self { addr, tasks }
    }

    async fn stop(&self) {
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap());
        tasks.shutdown().await;
    }
}

#[test]
fn requests_are_answered_within_two_seconds_while_postgres_is_away() {
    it_unstarted(|mut t| async {
        // SQLite is a file of the same machine.
        let Some(database_url) = t.env().get("DCA_DATABASE_URL").cloned() else { return t };
        let (login, rest) = database_url.split_once('@').unwrap();
        let (server, name) = rest.split_once('/').unwrap();
        let proxy = Proxy::start(server.to_owned()).await;
        t.set("DCA_DATABASE_URL", &format!("{login}@{}/{name}", proxy.addr));
        t.start_without_bot().await;
        let tenant = TestTenant::new(t.core(), "Makers").await;
        let api_key = tenant.api_key(ApiKeyKind::Secret, &[&tenant.product("Gold", "GOLD").await]).await.1;
        assert_eq!(get(&t, "/ready").await.status, 200);
        proxy.stop().await;
        t.advance(TimeDelta::seconds(1));
        t.expect_error("database error");
        let validate = Request::new("POST /licenses/validate").with("X-API-Key", api_key);
        let validate = validate.with("Content-Type", "application/json").body(r#"{"licenseKey":"x"}"#);
        for _ in 0..2 {
            let asked = Instant::now();
            let answer = validate.ask(t.addr()).await.unwrap();
            assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
            assert_eq!((answer.status, answer.json()["code"].as_str()), (503, Some("UNAVAILABLE")));
            assert_eq!(answer.header("retry-after"), "2");
        }
        let asked = Instant::now();
        assert_eq!(get(&t, "/ready").await.status, 503);
        assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
        // The app cannot stop in order, because it cannot reach its database.
        t.abandon();
        t
    });
}

#[test]
fn probes_report_a_full_disk_until_there_is_space() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let (fill, free) = if t.core().db.is_shared() {
            (
                "CREATE FUNCTION fill() RETURNS trigger LANGUAGE plpgsql AS \
                 $$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END $$; \
                 CREATE TRIGGER fill BEFORE INSERT ON workers EXECUTE FUNCTION fill()",
                "DROP TRIGGER fill ON workers",
            )
        } else {
            // The smallest possible value is the current size.
            ("PRAGMA max_page_count = 1", "PRAGMA max_page_count = 1000000")
        };
        let detail = "The disk of the database is full, so nothing can be written. Free some space or enlarge it.";
        execute(t.core(), fill).await;
        t.advance(TimeDelta::seconds(1));
        let health = get(&t, "/health").await;
        let (report, database) = (health.json(), json!({ "status": "disk_full", "detail": detail }));
        assert_eq!((health.status, &report["status"]), (200, &json!("degraded")));
        assert_eq!(report["checks"]["database"], database);
        let ready = get(&t, "/ready").await;
        let checks = json!({ "database": false, "accepting": true });
        assert_eq!(ready.status, 503);
        assert_eq!(ready.json(), json!({ "status": "not_ready", "checks": checks, "detail": detail }));
        if t.core().db.is_shared() {
            let output = run(binary(&t, &["doctor"], &[("DCA_DISCORD_TOKEN", "")]));
            assert_eq!(output.code, 1, "{output:?}");
            assert!(output.out.contains("FAIL database: its disk is full, so nothing can be written\n"), "{output:?}");
        }
        execute(t.core(), free).await;
        t.advance(TimeDelta::seconds(1));
        assert_eq!(get(&t, "/ready").await.status, 200);
        assert_eq!(get(&t, "/health").await.json()["checks"]["database"], json!({ "status": "ok" }));
        t
    });
}

#[test]
fn a_redis_that_stays_away_is_logged_once() {
    it_unstarted(|mut t| async {
        let redis = TcpListener::bind("127.0.0.1:0").await.unwrap();
        t.set("DCA_REDIS_URL", &format!("redis://{}", redis.local_addr().unwrap()));
        t.start_without_bot().await;
        // A connection that is closed at once, for each attempt to subscribe.
        for _ in 0..3 {
            drop(tokio::time::timeout(LIMIT, redis.accept()).await.unwrap().unwrap());
        }
        let log = t.log.text();
        let lines = log.lines().filter(|line| line.contains(" WARN ") && line.contains("not subscribed to Redis"));
        assert_eq!(lines.count(), 1, "{log}");
        t
    });
}
