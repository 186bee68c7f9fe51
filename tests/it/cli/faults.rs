//! Faults of processes and networks: an instance that freezes, one that is cut off from its database, one that is killed
//! and starts again, and more role changes than usual.
//!
//! `TEST_FAULT_ROUNDS` and `TEST_LOAD_SECONDS` make the tests of faults and load longer than they are by default.

use std::{collections::BTreeMap, process::Stdio, time::Duration};

use dca_auth::{Config, app};
use dca_test_support::{Fault, FaultKind, SimGuild, SimMember, TcpProxy};
use serde_json::json;
use tokio::time::Instant;

use super::{
    cluster::{Process, duplicates, is_clustered, needs_postgres, set_up_guild},
    commands::binary,
};
use crate::support::{
    fixtures::rows,
    harness::{LIMIT, TestApp, it_unstarted, print_line},
};

/// A number from the environment, for longer runs than by default.
fn setting(name: &str, default: u32) -> u32 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// The environment of a process whose database is behind a proxy.
fn behind(proxy: &TcpProxy, env: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut env = env.clone();
    let url = env["DCA_DATABASE_URL"].replace(&database_server(&env), &proxy.address().to_string());
    env.insert("DCA_DATABASE_URL".to_owned(), url);
    env
}

/// `host:port` of the database.
fn database_server(env: &BTreeMap<String, String>) -> String {
    let url = url::Url::parse(&env["DCA_DATABASE_URL"]).unwrap();
    format!("{}:{}", url.host_str().unwrap(), url.port().unwrap_or(5432))
}

/// Signs up through a process; returns how long it took.
async fn sign_up(t: &TestApp, url: &str, email: &str) -> Duration {
    let started = Instant::now();
    let form = json!({ "email": email, "password": "plow-Ketchup-41 sundial", "name": "Ana" });
    let response = t.http().post(format!("{url}/auth/signup")).json(&form).send().await.unwrap();
    assert_eq!(response.status(), 201, "{}", response.text().await.unwrap());
    started.elapsed()
}

/// Two instances share a database; in each round, `fail` is done to the one connected to the gateway during a burst of
/// role changes, and `mend` after the other one took over.
fn fault_mid_burst(what: &'static str, fail: fn(&Process, &TcpProxy), mend: fn(&Process, &TcpProxy)) {
    if needs_postgres(what) {
        return;
    }
    it_unstarted(move |mut t| async move {
        let (guild, gold) = set_up_guild(&mut t).await;
        t.set("DCA_GATEWAY_LEASE_SECONDS", "9");
        t.set("DCA_AUTH_PER_MINUTE", "10000");
        let (mut takeover, mut slowest_write) = (Duration::ZERO, Duration::ZERO);
        let rounds = setting("TEST_FAULT_ROUNDS", 1);
        for round in 0..rounds {
            let proxy = TcpProxy::start(database_server(t.env()), Duration::ZERO).await;
            let holder = Process::start(&behind(&proxy, t.env()), "api,bot,workers");
            holder.wait_for_log("Discord is connected").await;
            let other = Process::start(t.env(), "api,bot,workers");
            let url = other.url().await;
            let burst: Vec<_> = (0..40).map(|n| guild.join(&format!("member {round}-{n}"))).collect();
            burst[..30].iter().for_each(|member| member.grant(gold));
            // Not before some of the changes are in transactions.
            _ = t.discord.next_dm(&burst[0]).await;
            fail(&holder, &proxy);
            let failed = Instant::now();
            burst[30..].iter().for_each(|member| member.grant(gold));
            for n in 0..5 {
                slowest_write = slowest_write.max(sign_up(&t, &url, &format!("a{round}-{n}@x.example")).await);
            }
            other.wait_for_log("Discord is connected").await;
            takeover = takeover.max(failed.elapsed());
            mend(&holder, &proxy);
            assert_eq!(duplicates(&t, &burst[1..]).await, 0, "one message per license");
            assert!(t.discord.dms(&burst[0]).len() == 1, "one message per license");
        }
        print_line(&format!("{what}, {rounds} times: takeover {takeover:?}, write {slowest_write:?} at most"));
        assert!(takeover <= Duration::from_secs(15), "{takeover:?}");
        assert!(slowest_write <= Duration::from_secs(3), "{slowest_write:?}");
        t
    });
}

#[test]
fn a_frozen_instance_stops_no_other() {
    fault_mid_burst("a frozen instance", |holder, _| holder.signal("STOP"), |holder, _| holder.signal("CONT"));
}

#[test]
fn an_instance_cut_off_from_its_database_stops_no_other() {
    fault_mid_burst("half-open connections", |_, proxy| proxy.set_blocked(true), |_, proxy| proxy.set_blocked(false));
}

#[test]
fn an_instance_that_restarts_takes_its_own_leases_back_at_once() {
    it_unstarted(|mut t| async {
        set_up_guild(&mut t).await;
        t.set("DCA_GATEWAY_LEASE_SECONDS", "14");
        let killed = Process::start(t.env(), "bot");
        killed.wait_for_log("Discord is connected").await;
        killed.kill();
        let again = Process::start(t.env(), "bot");
        again.wait_for_log("DCA-Auth is up").await;
        let up = Instant::now();
        again.wait_for_log("Discord is connected").await;
        assert!(up.elapsed() < Duration::from_secs(5), "it waited for its own lease: {:?}", up.elapsed());
        t
    });
}

#[test]
fn a_second_process_in_a_sqlite_folder_says_so_and_ends() {
    if is_clustered() {
        return;
    }
    it_unstarted(|t| async {
        let first = Process::start(t.env(), "api");
        first.url().await;
        let second = tokio::task::spawn_blocking({
            let mut command = binary(&t, &["serve"], &[]);
            move || command.stdin(Stdio::null()).output().unwrap()
        });
        let second = tokio::time::timeout(LIMIT, second).await.expect("it did not end").unwrap();
        let error = String::from_utf8(second.stderr).unwrap();
        let last = error.lines().last().unwrap();
        assert_eq!(second.status.code(), Some(1), "{error}");
        assert!(last.starts_with("dca-auth: dca-auth serve is already running in the data directory /"), "{error}");
        assert!(last.contains("Stop it first, or set DCA_DATA_DIR"), "{error}");
        let status = binary(&t, &["migrate", "status"], &[]).output().unwrap().status;
        assert!(status.success(), "other commands work next to it");
        first.kill();
        t
    });
}

/// Grants and takes the role in turn, 100 times per second; returns the members who ever had it.
async fn change_roles(guild: &SimGuild, role: u64, seconds: u32) -> Vec<SimMember> {
    let changes = seconds as usize * 100;
    let members = guild.seed(changes.min(700), &[]);
    let mut tick = tokio::time::interval(Duration::from_millis(10));
    for n in 0..changes {
        tick.tick().await;
        let member = &members[n % members.len()];
        if (n / members.len()).is_multiple_of(2) { member.grant(role) } else { member.take(role) }
    }
    members
}

/// 100 role changes per second, with a latency of the database in each direction, while commands are used.
fn stream_of_updates(latency: Duration) {
    it_unstarted(move |mut t| async move {
        let (guild, gold) = set_up_guild(&mut t).await;
        t.set("DCA_GATEWAY_LEASE_SECONDS", "9");
        let mut env = t.env().clone();
        let proxy = if is_clustered() {
            let proxy = TcpProxy::start(database_server(&env), latency).await;
            env = behind(&proxy, &env);
            Some(proxy)
        } else {
            None
        };
        let process = Process::start(&env, "api,bot,workers");
        process.wait_for_log("Discord is connected").await;
        let seconds = setting("TEST_LOAD_SECONDS", 1);
        let (asker, mut slowest) = (guild.join("asker"), Duration::ZERO);
        let load = tokio::spawn({
            let guild = guild.clone();
            async move { change_roles(&guild, gold, seconds).await }
        });
        let mut commands = 0;
        while !load.is_finished() {
            let asked = Instant::now();
            t.discord.run(&asker, "/key", &[]).await;
            (slowest, commands) = (slowest.max(asked.elapsed()), commands + 1);
        }
        let (members, ended) = (load.await.unwrap(), Instant::now());
        let entitled = members.iter().filter(|member| member.roles().contains(&gold)).count();
        let db = app::open_database(&Config::load(t.env().clone()).unwrap()).await.unwrap();
        let sources = "SELECT id FROM entitlement_sources WHERE ends_at IS NULL";
        while rows(db.writer(), sources).await.len() != entitled {
            assert!(ended.elapsed() < LIMIT, "{} of {entitled}", rows(db.writer(), sources).await.len());
            t.discord.run(&asker, "/key", &[]).await;
        }
        let settled = ended.elapsed();
        db.close().await.unwrap();
        for member in &members {
            t.discord.next_dm(member).await;
        }
        let lost = process.log.borrow().matches("lost the gateway lease").count();
        print_line(&format!(
            "{seconds} s, latency {latency:?}: {lost} leases lost, right after {settled:?}, {commands} commands in {slowest:?} at most"
        ));
        assert_eq!(lost, 0);
        drop(proxy);
        t
    });
}

#[test]
fn a_stream_of_updates_does_not_cost_the_lease() {
    stream_of_updates(Duration::ZERO);
}

#[test]
fn a_stream_of_updates_does_not_cost_the_lease_with_a_distant_database() {
    if !needs_postgres("a database with 6 ms of latency") {
        stream_of_updates(Duration::from_millis(3));
    }
}

#[test]
fn a_stalled_discord_delays_no_other_worker() {
    it_unstarted(|mut t| async {
        let (guild, gold) = set_up_guild(&mut t).await;
        t.set("DCA_LOG", "info,dca_auth=debug");
        // Long enough to be still stalled when the others have run.
        t.set("DCA_DELIVERY_TIMEOUT_SECONDS", "20");
        t.discord.fault(Fault::on("GET", "/members", FaultKind::Hold).times(100));
        t.discord.fault(Fault::on("POST", "/channels", FaultKind::Hold).times(100));
        let members = guild.seed(10, &[gold]);
        let process = Process::start(t.env(), "api,bot,workers");
        process.wait_for_log("Discord is connected").await;
        for member in &members {
            member.set_roles(&[gold]);
        }
        t.discord.held().await;
        for worker in ["expire", "log_channel", "cleanup"] {
            process.wait_for_log(&format!("\"worker\":\"{worker}\"")).await;
        }
        assert!(!process.log.borrow().contains("\"worker\":\"reconcile_roles\""), "it reads the members");
        process.kill();
        t.discord.release();
        t
    });
}

#[test]
fn a_process_stops_while_discord_does_not_answer() {
    it_unstarted(|mut t| async {
        t.discord.fault(Fault::on("GET", "/gateway", FaultKind::Hold).times(100));
        t.start_without_waiting().await;
        t.discord.held().await;
        let stopped = tokio::time::timeout(Duration::from_secs(5), t.stop()).await;
        t.discord.release();
        stopped.expect("it waited for Discord");
        t
    });
}
