//! Several real processes on one database, killed with `SIGKILL`.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use dca_core::bus::Topic;
use dca_test_support::{Fault, FaultKind, SimGuild, SimMember};
use tokio::{sync::watch, time::Instant};

use crate::support::harness::{LIMIT, TestApp, assert_no_secret, it, it_unstarted, key_in, print_line, services};

/// A running `dca-auth serve`.
pub struct Process {
    child: Child,
    pub log: Arc<watch::Sender<String>>,
}

impl Process {
    /// Starts `dca-auth serve --only`.
    pub fn start(env: &BTreeMap<String, String>, only: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_dca-auth"))
            .args(["serve", "--only", only])
            .env_clear()
            .envs(env)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::new(watch::Sender::new(String::new()));
        let (lines, written) = (BufReader::new(child.stderr.take().unwrap()), log.clone());
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                written.send_modify(|log| *log += &(line + "\n"));
            }
        });
        Self { child, log }
    }

    /// Waits until the log contains this text.
    pub async fn wait_for_log(&self, text: &str) {
        let mut log = self.log.subscribe();
        let found = tokio::time::timeout(LIMIT * 2, log.wait_for(|log| log.contains(text))).await;
        assert!(found.is_ok(), "never logged {text:?}:\n{}", *self.log.borrow());
    }

    pub fn holds_gateway(&self) -> bool {
        self.log.borrow().contains("Discord is connected")
    }

    /// `http://host:port`, from the log line of the start.
    pub async fn url(&self) -> String {
        self.wait_for_log("\"listening\":\"").await;
        let log = self.log.borrow().clone();
        let after = log.split("\"listening\":\"").nth(1).unwrap();
        format!("http://{}", after.split('"').next().unwrap())
    }

    /// Sends a signal, such as `STOP` and `CONT`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status();
        assert!(sent.unwrap().success(), "could not send {name}");
    }

    /// `kill -9`.
    pub fn kill(self) {
        drop(self);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Sets up a guild with one product for one role, before any process starts.
pub async fn set_up_guild(t: &mut TestApp) -> (SimGuild, u64) {
    t.set("DCA_GATEWAY_LEASE_SECONDS", "2");
    t.set("DCA_DELIVERY_TIMEOUT_SECONDS", "1");
    t.set("DCA_DM_INTERVAL_SECONDS", "0");
    t.set("DCA_DM_PER_MINUTE", "6000");
    t.start().await;
    let guild = t.discord.guild("Makers");
    let gold = guild.role("Gold");
    t.wait_for_events(&guild).await;
    t.map_role(&guild, "Tools", gold, 24).await;
    t.stop().await;
    (guild, gold)
}

/// Asserts that every member got at least one message, and all with the same key; returns the number of duplicates.
pub async fn duplicates(t: &TestApp, members: &[SimMember]) -> usize {
    let mut duplicate_count = 0;
    for member in members {
        // A delivery that a stopped process had claimed waits until its lease has expired.
        let first = key_in(&t.discord.next_dm_within(member, LIMIT * 4).await.content);
        let all = t.discord.dms(member);
        assert!(all.iter().all(|dm| key_in(&dm.content) == first), "{all:?}");
        duplicate_count += all.len() - 1;
    }
    duplicate_count
}

/// Kills the process while Discord delays its response: before the message is sent (while opening the channel), or
/// after it arrived and before the response did.
fn killed_during_delivery(path: &'static str, duplicates_at_most: usize) {
    it_unstarted(move |mut t| async move {
        let (guild, gold) = set_up_guild(&mut t).await;
        let mut members = Vec::new();
        for kill in 0..5 {
            let process = Process::start(t.env(), "api,bot,workers");
            process.wait_for_log("Discord is connected").await;
            t.discord.fault(Fault::on("POST", path, FaultKind::Hold));
            let member = guild.join(&format!("member {kill}"));
            member.grant(gold);
            members.push(member);
            t.discord.held().await;
            process.kill();
            t.discord.release();
        }
        let last = Process::start(t.env(), "api,bot,workers");
        let duplicate_count = duplicates(&t, &members).await;
        assert!(duplicate_count <= duplicates_at_most, "{duplicate_count} duplicates in 5 kills");
        assert_no_secret(&last.log.borrow(), &t.discord.token());
        t
    });
}

#[test]
fn key_is_delivered_despite_kills_while_its_channel_is_opened_1() {
    killed_during_delivery("/users/@me/channels", 0);
}

#[test]
fn key_is_delivered_despite_kills_while_its_channel_is_opened_2() {
    killed_during_delivery("/users/@me/channels", 0);
}

#[test]
fn key_is_not_sent_twice_despite_kills_after_its_message_arrived_1() {
    killed_during_delivery("/messages", 0);
}

#[test]
fn key_is_not_sent_twice_despite_kills_after_its_message_arrived_2() {
    killed_during_delivery("/messages", 0);
}

/// Kills the process connected to the gateway during a burst of role changes; on Postgres, another one is running.
fn gateway_killed_mid_burst() {
    it_unstarted(|mut t| async {
        let (guild, gold) = set_up_guild(&mut t).await;
        let start = || Process::start(t.env(), "api,bot,workers");
        let mut processes: Vec<_> = (0..if is_clustered() { 2 } else { 1 }).map(|_| start()).collect();
        t.discord.connected().await;
        let mut members = Vec::new();
        for kill in 0..5 {
            let burst: Vec<_> = (0..10).map(|n| guild.join(&format!("member {kill}-{n}"))).collect();
            burst[..5].iter().for_each(|member| member.grant(gold));
            let holder = processes.iter().position(Process::holds_gateway);
            let holder = match holder {
                Some(holder) => holder,
                None => connected_index(&processes).await,
            };
            processes.remove(holder).kill();
            burst[5..].iter().for_each(|member| member.grant(gold));
            processes.push(start());
            members.extend(burst);
            connected_index(&processes).await;
        }
        assert_eq!(duplicates(&t, &members).await, 0, "one message per license");
        t
    });
}

/// Whether several processes can share the database.
pub fn is_clustered() -> bool {
    services().0.is_some()
}

/// Whether the test must be skipped, which is reported.
pub fn needs_postgres(what: &str) -> bool {
    if !is_clustered() {
        print_line(&format!("skipped, set TEST_DATABASE_URL: {what}"));
    }
    !is_clustered()
}

/// Waits until a process is connected to the gateway; returns its index.
async fn connected_index(processes: &[Process]) -> usize {
    let waits = processes.iter().map(|process| Box::pin(process.wait_for_log("Discord is connected")));
    futures::future::select_all(waits).await.1
}

#[test]
fn no_member_is_missed_when_the_gateway_process_is_killed_1() {
    gateway_killed_mid_burst();
}

#[test]
fn no_member_is_missed_when_the_gateway_process_is_killed_2() {
    gateway_killed_mid_burst();
}

#[test]
fn no_member_is_missed_when_the_gateway_process_is_killed_3() {
    gateway_killed_mid_burst();
}

#[test]
fn no_member_is_missed_when_the_gateway_process_is_killed_4() {
    gateway_killed_mid_burst();
}

#[test]
fn gateway_fails_over_within_fifteen_seconds_with_the_default_lease() {
    if needs_postgres("failover of the gateway") {
        return;
    }
    it_unstarted(|mut t| async {
        set_up_guild(&mut t).await;
        t.set("DCA_GATEWAY_LEASE_SECONDS", "9");
        let first = Process::start(t.env(), "bot");
        first.wait_for_log("Discord is connected").await;
        let second = Process::start(t.env(), "bot");
        second.wait_for_log("DCA-Auth is up").await;
        let killed = Instant::now();
        first.kill();
        second.wait_for_log("Discord is connected").await;
        assert!(killed.elapsed() <= Duration::from_secs(15), "{:?}", killed.elapsed());
        t
    });
}

#[test]
fn one_instance_connects_to_the_gateway_and_hands_over_on_shutdown() {
    if needs_postgres("handover of the gateway") {
        return;
    }
    it(|t| async {
        let second = Process::start(t.env(), "bot");
        second.wait_for_log("DCA-Auth is up").await;
        assert_eq!(t.discord.sessions(), 1);
        let mut t = t;
        t.stop().await;
        second.wait_for_log("Discord is connected").await;
        t
    });
}

#[test]
fn commit_notifies_other_processes_through_redis() {
    if !is_clustered() || services().1.is_none() {
        return print_line("skipped, set TEST_DATABASE_URL and TEST_REDIS_URL: notifications between processes");
    }
    it_unstarted(|mut t| async {
        let (guild, gold) = set_up_guild(&mut t).await;
        let process = Process::start(t.env(), "bot");
        process.wait_for_log("Discord is connected").await;
        let here = t.build().await;
        let mut notifications = here.core.bus.subscribe();
        // A new subscription receives every topic once. Skip those, so that the next ones are notifications.
        for _ in Topic::ALL {
            _ = tokio::time::timeout(Duration::from_secs(2), notifications.recv()).await;
        }
        while notifications.try_recv().is_ok() {}
        let mut arrived = false;
        for n in 0..10 {
            guild.join(&format!("member {n}")).grant(gold);
            let next = async { while notifications.recv().await.unwrap() != Topic::DirectMessages {} };
            arrived |= tokio::time::timeout(Duration::from_secs(1), next).await.is_ok();
            if arrived {
                break;
            }
        }
        assert!(arrived, "no notification arrived");
        process.kill();
        t
    });
}

#[test]
fn processes_share_rate_limits_through_redis() {
    if !is_clustered() || services().1.is_none() {
        return print_line("skipped, set TEST_DATABASE_URL and TEST_REDIS_URL: rate limits shared by processes");
    }
    it_unstarted(|mut t| async {
        let (guild, _) = set_up_guild(&mut t).await;
        t.start().await;
        let api_key = t.api_key(&guild, "Tools").await;
        t.stop().await;
        t.set("DCA_VALIDATE_PER_MINUTE", "3");
        let (one, other) = (Process::start(t.env(), "api"), Process::start(t.env(), "api"));
        let ask = async |url: &str| {
            let request = t.http().post(format!("{url}/licenses/validate")).header("x-api-key", &api_key);
            request.json(&serde_json::json!({ "licenseKey": "x" })).send().await.unwrap().status().as_u16()
        };
        let (one_url, other_url) = (one.url().await, other.url().await);
        assert_eq!([ask(&one_url).await, ask(&other_url).await, ask(&one_url).await], [200; 3]);
        assert_eq!([ask(&one_url).await, ask(&other_url).await], [429; 2]);
        t
    });
}
