//! Real processes, killed without mercy, on one database.

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

use crate::harness::{LIMIT, TestApp, assert_no_secret, it, it_unstarted, key_in, say, services};

/// A running `dca-auth serve`.
pub struct Process {
    child: Child,
    pub log: Arc<watch::Sender<String>>,
}

impl Process {
    /// Starts the parts that `only` names.
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

    /// Returns when the log holds this text.
    async fn says(&self, text: &str) {
        let mut log = self.log.subscribe();
        let said = tokio::time::timeout(LIMIT * 2, log.wait_for(|log| log.contains(text))).await;
        assert!(said.is_ok(), "never said {text:?}:\n{}", *self.log.borrow());
    }

    fn holds_gateway(&self) -> bool {
        self.log.borrow().contains("Discord is connected")
    }

    /// `http://host:port`, from the start line.
    async fn url(&self) -> String {
        self.says("\"listening\":\"").await;
        let log = self.log.borrow().clone();
        let after = log.split("\"listening\":\"").nth(1).unwrap();
        format!("http://{}", after.split('"').next().unwrap())
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

/// A guild that sells one product through one role, set up before any process of the test starts.
async fn stage(t: &mut TestApp) -> (SimGuild, u64) {
    t.set("DCA_GATEWAY_LEASE_SECONDS", "2");
    t.set("DCA_DELIVERY_TIMEOUT_SECONDS", "1");
    t.set("DCA_DM_INTERVAL_SECONDS", "0");
    t.set("DCA_DM_PER_MINUTE", "6000");
    t.start().await;
    let guild = t.discord.guild("Makers");
    let gold = guild.role("Gold");
    t.synced(&guild).await;
    t.map_role(&guild, "Tools", gold, 24).await;
    t.stop().await;
    (guild, gold)
}

/// Everybody has at least one message with a key, all with the same key; answers how many were sent
/// twice.
async fn duplicates(t: &TestApp, members: &[SimMember]) -> usize {
    let mut twice = 0;
    for member in members {
        let first = key_in(&t.discord.next_dm(member).await.content);
        let all = t.discord.dms(member);
        assert!(all.iter().all(|dm| key_in(&dm.content) == first), "{all:?}");
        twice += all.len() - 1;
    }
    twice
}

/// Kills the process while Discord holds its answer: before the key's message was taken (its channel
/// is being opened), or after it arrived and before we know.
fn killed_during_delivery(path: &'static str, duplicates_at_most: usize) {
    it_unstarted(move |mut t| async move {
        let (guild, gold) = stage(&mut t).await;
        let mut members = Vec::new();
        for kill in 0..5 {
            let process = Process::start(t.env(), "api,bot,workers");
            process.says("Discord is connected").await;
            t.discord.fault(Fault::on("POST", path, FaultKind::Hold));
            let member = guild.join(&format!("member {kill}"));
            member.grant(gold);
            members.push(member);
            t.discord.held().await;
            process.kill();
            t.discord.release();
        }
        let last = Process::start(t.env(), "api,bot,workers");
        let twice = duplicates(&t, &members).await;
        assert!(twice <= duplicates_at_most, "{twice} duplicates in 5 kills");
        assert_no_secret(&last.log.borrow(), &t.discord.token());
        t
    });
}

#[test]
fn a_key_survives_five_kills_while_its_channel_is_opened() {
    killed_during_delivery("/users/@me/channels", 0);
}

#[test]
fn a_key_survives_five_more_kills_while_its_channel_is_opened() {
    killed_during_delivery("/users/@me/channels", 0);
}

#[test]
fn a_key_is_not_sent_twice_by_five_kills_after_its_message_arrived() {
    killed_during_delivery("/messages", 0);
}

#[test]
fn a_key_is_not_sent_twice_by_five_more_kills_after_its_message_arrived() {
    killed_during_delivery("/messages", 0);
}

/// Two processes on one database; the one that hears Discord is killed in the middle of a burst.
fn gateway_killed_mid_burst() {
    it_unstarted(|mut t| async {
        let (guild, gold) = stage(&mut t).await;
        let mut processes =
            vec![Process::start(t.env(), "api,bot,workers"), Process::start(t.env(), "api,bot,workers")];
        t.discord.connected().await;
        let mut members = Vec::new();
        for kill in 0..5 {
            let burst: Vec<_> = (0..10).map(|n| guild.join(&format!("member {kill}-{n}"))).collect();
            burst[..5].iter().for_each(|member| member.grant(gold));
            let holder = processes.iter().position(Process::holds_gateway);
            let holder = match holder {
                Some(holder) => holder,
                None => either_connects(&processes).await,
            };
            processes.remove(holder).kill();
            burst[5..].iter().for_each(|member| member.grant(gold));
            processes.push(Process::start(t.env(), "api,bot,workers"));
            members.extend(burst);
            either_connects(&processes).await;
        }
        assert_eq!(duplicates(&t, &members).await, 0, "one message per license");
        t
    });
}

/// The place of the process that hears Discord, as soon as one does.
async fn either_connects(processes: &[Process]) -> usize {
    let waits = processes.iter().map(|process| Box::pin(process.says("Discord is connected")));
    futures::future::select_all(waits).await.1
}

#[test]
fn nobody_is_missed_in_the_first_five_kills_of_the_gateway_holder() {
    gateway_killed_mid_burst();
}

#[test]
fn nobody_is_missed_in_the_second_five_kills_of_the_gateway_holder() {
    gateway_killed_mid_burst();
}

#[test]
fn nobody_is_missed_in_the_third_five_kills_of_the_gateway_holder() {
    gateway_killed_mid_burst();
}

#[test]
fn nobody_is_missed_in_the_fourth_five_kills_of_the_gateway_holder() {
    gateway_killed_mid_burst();
}

#[test]
fn with_the_default_lease_another_instance_listens_within_fifteen_seconds() {
    it_unstarted(|mut t| async {
        stage(&mut t).await;
        t.set("DCA_GATEWAY_LEASE_SECONDS", "9");
        let first = Process::start(t.env(), "bot");
        first.says("Discord is connected").await;
        let second = Process::start(t.env(), "bot");
        second.says("DCA-Auth is up").await;
        let killed = Instant::now();
        first.kill();
        second.says("Discord is connected").await;
        assert!(killed.elapsed() <= Duration::from_secs(15), "{:?}", killed.elapsed());
        t
    });
}

#[test]
fn exactly_one_instance_listens_and_hands_over_at_once_when_it_stops_in_order() {
    it(|t| async {
        let second = Process::start(t.env(), "bot");
        second.says("DCA-Auth is up").await;
        assert_eq!(t.discord.sessions(), 1);
        let mut t = t;
        t.stop().await;
        second.says("Discord is connected").await;
        t
    });
}

#[test]
fn a_commit_in_one_process_nudges_another_through_redis() {
    if services().1.is_none() {
        return say("not run without TEST_REDIS_URL: a nudge between processes");
    }
    it_unstarted(|mut t| async {
        let (guild, gold) = stage(&mut t).await;
        let process = Process::start(t.env(), "bot");
        process.says("Discord is connected").await;
        let here = t.build().await;
        let mut notifications = here.core.bus.subscribe();
        // A subscription begins with one look at everything: let that pass, so that what comes is a nudge.
        for _ in Topic::ALL {
            _ = tokio::time::timeout(Duration::from_secs(2), notifications.recv()).await;
        }
        while notifications.try_recv().is_ok() {}
        let mut arrived = false;
        for n in 0..10 {
            guild.join(&format!("member {n}")).grant(gold);
            let next = async { while notifications.recv().await.unwrap() != Topic::Outbox {} };
            arrived |= tokio::time::timeout(Duration::from_secs(1), next).await.is_ok();
            if arrived {
                break;
            }
        }
        assert!(arrived, "no nudge arrived");
        process.kill();
        t
    });
}

#[test]
fn processes_share_a_bucket_through_redis() {
    if services().1.is_none() {
        return say("not run without TEST_REDIS_URL: a bucket shared by processes");
    }
    it_unstarted(|mut t| async {
        let (guild, _) = stage(&mut t).await;
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
