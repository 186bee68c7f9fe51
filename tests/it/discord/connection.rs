//! The gateway connection: how it is made again, how often, and how its status is shown.

use std::time::{Duration, Instant};

use dca_core::{guilds, identifies, workers};
use serde_json::Value;

use crate::support::harness::{LIMIT, TestApp, it, it_unstarted, key_in};

async fn wait_for_status(t: &TestApp, name: &str) -> String {
    let mut gateway = t.app().bot.as_ref().unwrap().gateway.subscribe();
    let reached = gateway.wait_for(|state| state.status.name() == name);
    let reached = tokio::time::timeout(LIMIT, reached).await.expect("the status was never reached");
    reached.unwrap().status.detail().to_owned()
}

async fn discord_health(t: &TestApp) -> (Value, Value) {
    let health: Value = t.http().get(t.url("/health")).send().await.unwrap().json().await.unwrap();
    (health["status"].clone(), health["checks"]["discord"].clone())
}

/// The value of the gauge for a status.
async fn status_gauge(t: &TestApp, name: &str) -> String {
    let metrics = t.http().get(t.url("/metrics")).send().await.unwrap().text().await.unwrap();
    let gauge = format!("dca_gateway_status_since_timestamp_seconds{{status=\"{name}\"}} ");
    metrics.lines().find_map(|line| line.strip_prefix(&gauge)).expect("the gauge").to_owned()
}

#[test]
fn a_gateway_that_drops_every_connection_is_tried_again_after_growing_pauses() {
    it(|t| async {
        let since = t.clock.now();
        t.advance(chrono::Duration::seconds(30));
        let (before, started) = (t.discord.gateway_connections(), Instant::now());
        t.discord.drop_gateway(true);
        t.discord.cut();
        t.discord.until("the third attempt", |discord| discord.gateway_connections() >= before + 3).await;
        // 250, 500 and 1,000 ms at least.
        assert!(started.elapsed() >= Duration::from_millis(1_750), "{:?}", started.elapsed());

        let (status, discord) = discord_health(&t).await;
        assert_eq!((&status, &discord["status"]), (&"degraded".into(), &"reconnecting".into()));
        assert_eq!(discord["since"], serde_json::json!(t.clock.now()));
        assert!(discord["detail"].as_str().unwrap().contains("connection to Discord was lost"), "{discord}");
        assert_eq!(status_gauge(&t, "reconnecting").await, t.clock.now().timestamp().to_string());
        assert_eq!(status_gauge(&t, "ok").await, "0");
        assert_eq!(t.log.text().matches("status=\"reconnecting\"").count(), 1, "one line per change");
        assert_ne!(since, t.clock.now());

        t.discord.drop_gateway(false);
        wait_for_status(&t, "ok").await;
        assert_eq!((t.discord.identifies(), t.discord.resumes()), (1, 1), "the session survived");
        t
    });
}

#[test]
fn new_sessions_start_at_least_five_seconds_apart() {
    it(|t| async {
        t.discord.forget_sessions();
        t.discord.cut();
        t.discord.until("the second IDENTIFY", |discord| discord.identifies() == 2).await;
        wait_for_status(&t, "ok").await;
        workers::revoke_lease(t.core(), workers::GATEWAY).await.unwrap();
        t.discord.until("the third IDENTIFY", |discord| discord.identifies() == 3).await;
        // The network may delay the earlier one.
        let times = t.discord.identified_at();
        assert!(times.windows(2).all(|pair| pair[1] - pair[0] > Duration::from_millis(4_900)), "{times:?}");
        wait_for_status(&t, "ok").await;
        t
    });
}

#[test]
fn a_gateway_that_stops_answering_is_shown_as_silent_and_replaced() {
    it_unstarted(|mut t| async {
        t.discord.heartbeat_interval(Duration::from_secs(1));
        t.discord.silence(true);
        t.start().await;
        wait_for_status(&t, "silent").await;
        let (status, discord) = discord_health(&t).await;
        assert_eq!((status, &discord["status"]), ("degraded".into(), &"silent".into()));
        assert_eq!(discord["since"], serde_json::json!(t.clock.now()));
        wait_for_status(&t, "reconnecting").await;
        t.discord.silence(false);
        wait_for_status(&t, "ok").await;
        t
    });
}

#[test]
fn each_close_code_that_reconnecting_does_not_help_is_reported_with_its_fix() {
    it_unstarted(|mut t| async {
        for (code, fix) in [
            (4004, "DCA_DISCORD_TOKEN"),
            (4010, "update DCA-Auth"),
            (4011, "2,500"),
            (4012, "Update DCA-Auth"),
            (4013, "Server Members Intent"),
            (4014, "Server Members Intent"),
        ] {
            t.expect_error(&code.to_string());
            t.discord.close_identify(Some(code));
            let before = t.discord.identifies();
            t.start_without_waiting().await;
            let detail = wait_for_status(&t, "refused").await;
            assert!(detail.contains(fix) && detail.contains(&code.to_string()), "{detail}");
            let (health, discord) = discord_health(&t).await;
            assert_eq!((health, &discord["status"]), ("degraded".into(), &"refused".into()));
            assert_eq!(discord["detail"], detail);
            assert_eq!(t.http().get(t.url("/ready")).send().await.unwrap().status(), 200, "the API keeps serving");
            assert_eq!(t.discord.identifies(), before + 1, "no retry without an operator");
            t.stop().await;
        }
        t
    });
}

#[test]
fn new_sessions_are_counted_across_restarts_and_limited_per_day() {
    it_unstarted(|mut t| async {
        t.start().await;
        for _ in 0..898 {
            assert_eq!(identifies::reserve(t.core(), 900).await.unwrap(), None);
        }
        t.stop().await;
        t.start().await;
        t.stop().await;
        assert_eq!(t.discord.identifies(), 2, "the last of 900");

        t.clock.advance(chrono::Duration::hours(1));
        t.start_without_waiting().await;
        let detail = wait_for_status(&t, "limited").await;
        assert!(detail.contains("1380 minutes"), "{detail}");
        assert_eq!(t.discord.identifies(), 2);
        t.stop().await;

        t.clock.advance(chrono::Duration::hours(23));
        t.start().await;
        assert_eq!(t.discord.identifies(), 3);
        t
    });
}

#[test]
fn no_session_is_started_when_discord_says_that_none_is_left() {
    it_unstarted(|mut t| async {
        t.discord.limit_sessions(0, Duration::from_hours(2));
        t.start_without_waiting().await;
        let detail = wait_for_status(&t, "limited").await;
        assert!(detail.contains("120 minutes"), "{detail}");
        assert_eq!((t.discord.identifies(), t.discord.gateway_connections()), (0, 0));
        t
    });
}

#[test]
fn a_failed_request_for_the_gateway_address_is_repeated_at_the_same_host() {
    it_unstarted(|mut t| async {
        t.discord.fail_next("GET", "/gateway", 503);
        t.start_without_waiting().await;
        let detail = wait_for_status(&t, "reconnecting").await;
        assert!(detail.contains("address of its gateway"), "{detail}");
        wait_for_status(&t, "ok").await;
        t.wait_until_reconciled().await;
        t
    });
}

#[test]
fn a_guild_that_was_joined_and_left_is_not_joined() {
    it(|t| async {
        let other = t.discord.guild("Other");
        for n in 0..20 {
            t.discord.guild(&format!("Guild {n}")).kick_bot();
        }
        t.wait_for_events(&other).await;
        let joined = guilds::list_joined(t.core()).await.unwrap();
        assert_eq!(joined.into_iter().map(|guild| guild.name).collect::<Vec<_>>(), ["Other"]);
        t
    });
}

#[test]
fn a_guild_that_returns_is_reconciled_at_once() {
    it(|t| async {
        let (guild, gold, ana) = t.guild_with_product("Tools", 0).await;
        guild.kick_bot();
        ana.set_roles_silently(&[gold]);
        guild.invite_bot();
        t.wait_for_events(&guild).await;
        assert!(t.app().run_worker(dca_auth::workers::RECONCILE_ROLES).await.unwrap(), "due after the return");
        t.advance(chrono::Duration::seconds(5));
        key_in(&t.discord.next_dm(&ana).await.content);

        guild.outage();
        guild.recover();
        t.wait_for_events(&guild).await;
        assert!(t.app().run_worker(dca_auth::workers::RECONCILE_ROLES).await.unwrap(), "due after the outage");
        t
    });
}
