//! Discord's rate limits, and responses that are not Discord's.

use chrono::Duration;
use dca_auth::workers::RECONCILE_ROLES;
use dca_test_support::{Fault, FaultKind, Opt, SimDiscord};
use serde_json::{Value, json};

use crate::support::fixtures::rows;
use crate::support::harness::{TestApp, it, key_in, licenses_of};

fn count(discord: &SimDiscord, method: &str, path: &str) -> usize {
    let requests = discord.requests();
    requests.iter().filter(|request| request.method == method && request.path.ends_with(path)).count()
}

/// Grants the role, and returns once Discord has responded to the message with the fault.
async fn fail_message(t: &TestApp, path: &'static str, fault: FaultKind, grant: impl FnOnce()) {
    t.discord.fault(Fault::on("POST", path, fault));
    grant();
    t.discord.until("a failed request", |discord| count(discord, "POST", path) >= 1).await;
    t.wait_until_idle().await;
}

#[test]
fn a_message_is_sent_again_when_discord_allows_it_and_not_earlier() {
    it(|t| async {
        let (_, gold, ana) = t.guild_with_product("Tools", 24).await;
        let limited = FaultKind::RateLimited { retry_after: 42.0, global: false, scope: "user" };
        fail_message(&t, "/messages", limited, || ana.grant(gold)).await;
        t.advance(Duration::seconds(41));
        t.wait_until_idle().await;
        assert_eq!(count(&t.discord, "POST", "/messages"), 1);
        t.advance(Duration::seconds(2));
        key_in(&t.discord.next_dm(&ana).await.content);
        t
    });
}

#[test]
fn a_message_to_an_invalid_recipient_is_given_up_at_once() {
    it(|mut t| async {
        t.expect_error("a delivery failed permanently");
        let (_, gold, ana) = t.guild_with_product("Tools", 24).await;
        let invalid = FaultKind::Status(400, json!({ "code": 50033, "message": "Invalid Recipient(s)" }));
        fail_message(&t, "/users/@me/channels", invalid, || ana.grant(gold)).await;
        let dead = rows(t.core().db.writer(), "SELECT last_error FROM outbox WHERE state = 'dead'").await;
        assert_eq!(dead, [json!({ "last_error": "Discord refused the request (50033)" })]);
        t
    });
}

#[test]
fn a_global_limit_stops_everything_but_responses_to_interactions() {
    it(|mut t| async {
        t.expect_error("a worker failed");
        let (guild, gold, ana) = t.guild_with_product("Tools", 24).await;
        let bea = guild.join("bea");
        let limited = FaultKind::RateLimited { retry_after: 600.0, global: true, scope: "global" };
        fail_message(&t, "/users/@me/channels", limited, || ana.grant(gold)).await;
        let before = t.discord.requests().len();
        bea.grant(gold);
        t.wait_for_events(&guild).await;
        t.wait_until_idle().await;
        assert!(t.discord.run(&bea, "/key", &[]).await.content.contains("```"));
        let later = t.discord.requests().split_off(before);
        let answers = |path: &str| path.starts_with("/interactions/") || path.starts_with("/webhooks/");
        assert!(later.iter().all(|request| answers(&request.path)), "{later:#?}");

        t.advance(Duration::minutes(11));
        for member in [&ana, &bea] {
            key_in(&t.discord.next_dm(member).await.content);
        }
        t
    });
}

#[test]
fn an_exhausted_bucket_is_not_used_before_it_resets() {
    it(|t| async {
        let (guild, gold, ana) = t.guild_with_product("Tools", 24).await;
        let bea = guild.join("bea");
        t.discord.fault(Fault::on("POST", "/users/@me/channels", FaultKind::Exhausts(30.0)));
        ana.grant(gold);
        t.discord.next_dm(&ana).await;
        bea.grant(gold);
        t.wait_for_events(&guild).await;
        t.wait_until_idle().await;
        assert_eq!(count(&t.discord, "POST", "/users/@me/channels"), 1);
        t.advance(Duration::seconds(31));
        key_in(&t.discord.next_dm(&bea).await.content);
        t
    });
}

#[test]
fn a_403_without_a_code_of_discord_is_retried() {
    it(|t| async {
        let (_, gold, ana) = t.guild_with_product("Tools", 24).await;
        fail_message(&t, "/messages", FaultKind::Status(403, Value::Null), || ana.grant(gold)).await;
        t.advance(Duration::minutes(1));
        key_in(&t.discord.next_dm(&ana).await.content);
        t
    });
}

#[test]
fn a_guild_that_cannot_be_read_is_read_less_often_and_the_others_as_before() {
    it(|t| async {
        let (unreadable, gold, ana) = t.guild_with_product("Tools", 0).await;
        ana.grant(gold);
        t.discord.next_dm(&ana).await;
        let (readable, _, _) = t.guild_with_product("Other tools", 0).await;
        let body = json!({ "code": 50001, "message": "Missing Access" });
        let roles_of = |guild: u64| format!("/guilds/{guild}/roles");
        let members = format!("/guilds/{}/members", unreadable.id());
        t.discord.fault(Fault::on("GET", &members, FaultKind::Status(403, body)).times(99));
        let read = |guild: u64| count(&t.discord, "GET", &roles_of(guild));
        let before = (read(unreadable.id()), read(readable.id()));
        for _ in 0..8 {
            t.advance(Duration::minutes(5));
            t.run_worker(RECONCILE_ROLES).await;
        }
        assert_eq!(read(readable.id()) - before.1, 16, "before and after the members, each time");
        assert_eq!(read(unreadable.id()) - before.0, 4, "in the runs 1, 2, 4 and 8");
        assert!(licenses_of(&t, &unreadable, &ana).await[0].revoked_at.is_none());

        // An admin does not wait for the next attempt.
        let options = [("role", Opt::Role(unreadable.role("Silver"))), ("product", Opt::Str("Tools".into()))];
        t.discord.run(&unreadable.owner(), "/mapping add", &options).await;
        t.run_worker(RECONCILE_ROLES).await;
        t.remove_mapping(&unreadable, ("role", Opt::Role(gold)), "Tools").await;
        t.run_worker(RECONCILE_ROLES).await;
        assert_eq!(read(unreadable.id()) - before.0, 7, "for the check of /mapping add, and after both commands");
        t
    });
}
