//! Gateway events: lost, repeated, delayed and refused.

use chrono::Duration;
use dca_auth::workers::{EXPIRE, RECONCILE_ROLES};
use dca_test_support::{Fault, FaultKind, Opt};

use crate::support::harness::{LIMIT, it, it_unstarted, key_in, licenses_of};

/// A small deterministic generator, so that every run uses the same sequence.
fn next_random(seed: &mut u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *seed >> 33
}

fn assert_burst(grace_hours: i64) {
    it_unstarted(move |mut t| async move {
        t.set("DCA_DM_PER_MINUTE", "60000");
        t.start().await;
        let guild = t.discord.guild("Makers");
        let gold = guild.role("Gold");
        t.wait_for_events(&guild).await;
        t.map_role(&guild, "Tools", gold, grace_hours).await;
        let mut seed = 42;
        for run in 0..3 {
            let ana = guild.join(&format!("ana {run}"));
            let mut gains = 0;
            for _ in 0..1_000 {
                let has_role = ana.roles().contains(&gold);
                match (next_random(&mut seed) % 3, has_role) {
                    (0, false) => {
                        ana.grant(gold);
                        gains += 1;
                    }
                    (0, true) => ana.take(gold),
                    // An update that changes no role.
                    _ => ana.update_with(|_| {}),
                }
            }
            t.wait_for_events(&guild).await;
            let licenses = licenses_of(&t, &guild, &ana).await;
            let active = licenses.iter().filter(|license| license.revoked_at.is_none()).count();
            if grace_hours == 0 {
                assert!(licenses.len() <= gains, "{} keys for {gains} gains", licenses.len());
                assert_eq!(active, usize::from(ana.roles().contains(&gold)), "run {run}");
            } else {
                assert!(licenses.len() == 1 && active == 1, "run {run}: {licenses:?}");
            }
            // A key revoked before its message was sent is not delivered; no key is delivered twice.
            t.wait_until_idle().await;
            let mut keys: Vec<_> = t.discord.dms(&ana).iter().map(|dm| key_in(&dm.content)).collect();
            let sent = keys.len();
            keys.sort();
            keys.dedup();
            assert_eq!(sent, keys.len(), "a key was delivered twice");
            assert!((active..=licenses.len()).contains(&sent), "{sent} messages for {} licenses", licenses.len());
        }
        t
    });
}

#[test]
fn a_thousand_role_changes_without_grace_leave_at_most_one_active_license() {
    assert_burst(0);
}

#[test]
fn a_thousand_role_changes_within_grace_issue_exactly_one_key() {
    assert_burst(24);
}

#[test]
fn role_changes_during_downtime_are_applied_once() {
    it(|mut t| async {
        let guild = t.discord.guild("Makers");
        let gold = guild.role("Gold");
        let (ana, bea) = (guild.join("ana"), guild.join("bea"));
        t.wait_for_events(&guild).await;
        t.map_role(&guild, "Tools", gold, 0).await;
        ana.grant(gold);
        let key = key_in(&t.discord.next_dm(&ana).await.content);
        t.stop().await;
        ana.take(gold);
        bea.grant(gold);
        t.start().await;
        // Issued by reconciliation: sent five seconds after the previous message.
        t.advance(Duration::seconds(5));
        assert_ne!(key_in(&t.discord.next_dm(&bea).await.content), key);
        assert!(licenses_of(&t, &guild, &ana).await[0].revoked_at.is_some());
        for _ in 0..3 {
            t.advance(Duration::minutes(5));
            t.run_worker(RECONCILE_ROLES).await;
        }
        assert_eq!(licenses_of(&t, &guild, &bea).await.len(), 1);
        assert_eq!(t.discord.dms(&bea).len(), 1, "notified once");
        t
    });
}

#[test]
fn reconciliation_covers_a_gateway_gap() {
    it(|t| async {
        let (_, gold, ana) = t.guild_with_product("Tools", 24).await;
        let mut status = t.app().bot.as_ref().unwrap().gateway.subscribe();
        status.mark_unchanged();
        t.discord.refuse_gateway(true);
        t.discord.forget_sessions();
        t.discord.cut();
        ana.grant(gold);
        t.discord.refuse_gateway(false);
        tokio::time::timeout(LIMIT, status.changed()).await.expect("no new session").unwrap();
        t.wait_until_reconciled().await;
        key_in(&t.discord.next_dm(&ana).await.content);
        t
    });
}

#[test]
fn an_unreadable_event_is_logged_and_corrected_by_reconciliation() {
    it(|mut t| async {
        t.expect_error("nknown event");
        let (guild, gold, ana) = t.guild_with_product("Tools", 0).await;
        ana.grant(gold);
        t.discord.next_dm(&ana).await;
        // The role is removed, but the event has a form that the bot cannot deserialize.
        ana.set_roles_silently(&[]);
        ana.update_with(|member| member["joined_at"] = serde_json::Value::Null);
        t.wait_for_events(&guild).await;
        t.run_worker(RECONCILE_ROLES).await;
        assert!(licenses_of(&t, &guild, &ana).await[0].revoked_at.is_some());
        t
    });
}

#[test]
fn leaving_ends_the_license_after_its_grace_unless_the_member_returns() {
    it(|t| async {
        let guild = t.discord.guild("Makers");
        let gold = guild.role("Gold");
        let (ana, bea) = (guild.join("ana"), guild.join("bea"));
        t.wait_for_events(&guild).await;
        t.map_role(&guild, "Tools", gold, 24).await;
        for member in [&ana, &bea] {
            member.grant(gold);
            t.discord.next_dm(member).await;
            member.leave();
        }
        t.wait_for_events(&guild).await;
        let rejoined = guild.join_user(bea.user_id());
        rejoined.grant(gold);
        t.wait_for_events(&guild).await;
        t.advance(Duration::hours(25));
        t.run_worker(EXPIRE).await;
        assert!(licenses_of(&t, &guild, &ana).await[0].revoked_at.is_some());
        let licenses = licenses_of(&t, &guild, &bea).await;
        assert!(licenses.len() == 1 && licenses[0].revoked_at.is_none());
        t
    });
}

#[test]
fn a_deleted_role_revokes_no_license_until_an_admin_removes_the_mapping() {
    it(|t| async {
        let (guild, gold, ana) = t.guild_with_product("Tools", 0).await;
        ana.grant(gold);
        t.discord.next_dm(&ana).await;
        guild.delete_role(gold);
        t.wait_for_events_of_kind(&guild, "source.unverifiable", 1).await;
        t.advance(Duration::minutes(5));
        t.run_worker(RECONCILE_ROLES).await;
        assert!(licenses_of(&t, &guild, &ana).await[0].revoked_at.is_none());
        let listed = t.discord.run(&guild.owner(), "/mapping list", &[]).await;
        assert!(listed.content.contains("was deleted"), "{listed:?}");
        let removed = t.remove_mapping(&guild, ("deleted_role", Opt::Str(gold.to_string())), "Tools").await;
        assert!(removed.content.contains("Licenses affected: 1."), "{removed:?}");
        t.run_worker(RECONCILE_ROLES).await;
        assert!(licenses_of(&t, &guild, &ana).await[0].revoked_at.is_some());
        t
    });
}

#[test]
fn a_role_deleted_during_downtime_revokes_no_license() {
    it(|mut t| async {
        let (guild, gold, ana) = t.guild_with_product("Tools", 0).await;
        ana.grant(gold);
        t.discord.next_dm(&ana).await;
        t.stop().await;
        guild.delete_role(gold);
        t.start().await;
        t.wait_for_events_of_kind(&guild, "source.unverifiable", 1).await;
        assert!(licenses_of(&t, &guild, &ana).await[0].revoked_at.is_none());
        t
    });
}

#[test]
fn an_outage_or_a_kicked_bot_revokes_no_license() {
    it(|mut t| async {
        t.expect_error("a worker failed");
        let (guild, gold, ana) = t.guild_with_product("Tools", 0).await;
        ana.grant(gold);
        let key = key_in(&t.discord.next_dm(&ana).await.content);
        let api_key = t.api_key(&guild, "Tools").await;
        guild.outage();
        t.advance(Duration::minutes(5));
        t.run_worker(RECONCILE_ROLES).await;
        assert_eq!(t.validate(&api_key, &key).await["code"], "VALID");
        guild.recover();
        guild.kick_bot();
        t.app().bot.as_ref().unwrap().drained().await;
        t.advance(Duration::days(3));
        t.run_worker(RECONCILE_ROLES).await;
        t.run_worker(EXPIRE).await;
        assert_eq!(t.validate(&api_key, &key).await["code"], "VALID");
        t
    });
}

#[test]
fn an_incomplete_member_list_revokes_no_license() {
    it(|mut t| async {
        t.expect_error("a worker failed");
        let (guild, gold, _) = t.guild_with_product("Tools", 0).await;
        guild.seed(1_500, &[]);
        // The newest id is on the second page, which is refused.
        let bea = guild.join("bea");
        bea.grant(gold);
        t.discord.next_dm(&bea).await;
        let body = serde_json::json!({"code": 50001, "message": "Missing Access"});
        let page_two = Fault::on("GET", "limit=1000&after=1", FaultKind::Status(403, body));
        t.discord.fault(page_two.times(5));
        t.advance(Duration::minutes(5));
        t.run_worker(RECONCILE_ROLES).await;
        t.advance(Duration::minutes(2));
        t.wait_until_idle().await;
        assert!(t.discord.requests().iter().any(|request| request.status == 403), "the second page was refused");
        let member_path = format!("/members/{}", bea.user_id());
        assert!(!t.discord.requests().iter().any(|request| request.path.ends_with(&member_path)), "no recheck either");
        assert!(licenses_of(&t, &guild, &bea).await[0].revoked_at.is_none());
        t
    });
}

#[test]
fn a_role_deleted_during_reconciliation_revokes_no_license() {
    it(|mut t| async {
        t.expect_error("a worker failed");
        let (guild, gold, ana) = t.guild_with_product("Tools", 0).await;
        ana.grant(gold);
        t.discord.next_dm(&ana).await;
        t.discord.fault(Fault::on("GET", "/roles", FaultKind::Hold));
        t.advance(Duration::minutes(5));
        let app = t.app().clone();
        let reconcile = tokio::spawn(async move { app.run_worker(RECONCILE_ROLES).await });
        t.discord.held().await;
        guild.delete_role(gold);
        t.discord.release();
        reconcile.await.unwrap().unwrap();
        t.wait_for_events(&guild).await;
        t.advance(Duration::minutes(5));
        t.run_worker(RECONCILE_ROLES).await;
        assert!(licenses_of(&t, &guild, &ana).await[0].revoked_at.is_none());
        t
    });
}

#[test]
fn failed_command_registration_is_retried_while_events_are_handled() {
    it_unstarted(|mut t| async {
        t.discord.fail_next("PUT", "/commands", 503);
        t.start().await;
        let registered = |discord: &dca_test_support::SimDiscord| {
            discord.requests().iter().any(|request| request.path.ends_with("/commands") && request.status == 200)
        };
        t.discord.until("the second attempt", registered).await;
        let (guild, gold, ana) = t.guild_with_product("Tools", 24).await;
        ana.grant(gold);
        t.discord.next_dm(&ana).await;
        assert_eq!(licenses_of(&t, &guild, &ana).await.len(), 1);
        t
    });
}

#[test]
fn a_member_missing_from_the_list_is_rechecked_before_revocation() {
    it(|mut t| async {
        let (guild, gold, ana) = t.guild_with_product("Tools", 0).await;
        ana.grant(gold);
        t.discord.next_dm(&ana).await;
        t.stop().await;
        ana.leave();
        t.start().await;
        assert!(licenses_of(&t, &guild, &ana).await[0].revoked_at.is_none(), "absent once: recheck first");
        t.advance(Duration::seconds(61));
        t.wait_for_events_of_kind(&guild, "license.revoked", 1).await;
        t
    });
}

#[test]
fn a_sync_that_would_revoke_many_licenses_waits_for_confirmation() {
    it(|mut t| async {
        let guild = t.discord.guild("Makers");
        let gold = guild.role("Gold");
        let members = guild.seed(17, &[gold]);
        t.wait_for_events(&guild).await;
        t.map_role(&guild, "Tools", gold, 0).await;
        assert_eq!(licenses_of(&t, &guild, &members[0]).await.len(), 1, "existing holders have a license");
        t.stop().await;
        for member in &members[2..] {
            member.take(gold);
        }
        t.start().await;
        t.wait_for_events_of_kind(&guild, "sync.breaker_tripped", 1).await;
        t.advance(Duration::minutes(5));
        t.run_worker(RECONCILE_ROLES).await;
        let kinds = t.event_kinds(&guild).await;
        assert!(!kinds.contains(&"license.revoked".to_owned()), "{kinds:?}");
        assert_eq!(kinds.iter().filter(|kind| *kind == "sync.breaker_tripped").count(), 1, "reported once");
        let status = t.discord.run(&guild.owner(), "/sync status", &[]).await.content;
        let asked = t.discord.run(&guild.owner(), "/sync confirm", &[]).await;
        for shown in [&status, &asked.content] {
            assert!(shown.contains("15 of 17 members"), "{shown}");
            assert!(shown.contains(&format!("<@&{gold}> → **Tools**: 15 members lost it")), "{shown}");
        }
        t.run_worker(RECONCILE_ROLES).await;
        assert!(!t.event_kinds(&guild).await.contains(&"license.revoked".to_owned()), "asking revokes nothing");

        // More members lose their role before the sync, and the server cannot be read for a while.
        members[0].set_roles_silently(&[]);
        members[1].set_roles_silently(&[]);
        let body = serde_json::json!({"code": 50001, "message": "Missing Access"});
        t.discord.fault(Fault::on("GET", "/roles", FaultKind::Status(403, body)));
        t.advance(Duration::minutes(5));
        t.run_worker(RECONCILE_ROLES).await;
        let reply = t.discord.press(&guild.owner(), &asked, "sync:confirm").await;
        assert!(reply.content.contains("may revoke"), "{reply:?}");
        t.run_worker(RECONCILE_ROLES).await;
        t.wait_for_events_of_kind(&guild, "sync.breaker_tripped", 2).await;
        t.advance(Duration::minutes(5));
        t.run_worker(RECONCILE_ROLES).await;
        assert!(!t.event_kinds(&guild).await.contains(&"license.revoked".to_owned()), "15 were confirmed, not 17");

        let asked = t.discord.run(&guild.owner(), "/sync confirm", &[]).await;
        t.discord.press(&guild.owner(), &asked, "sync:confirm").await;
        t.run_worker(RECONCILE_ROLES).await;
        t.wait_for_events_of_kind(&guild, "license.revoked", 17).await;
        t
    });
}

#[test]
fn existing_role_holders_are_messaged_only_on_request_and_one_at_a_time() {
    it(|t| async {
        let guild = t.discord.guild("Makers");
        let (gold, silver) = (guild.role("Gold"), guild.role("Silver"));
        let silent = guild.seed(3, &[gold]);
        let notified = guild.seed(3, &[silver]);
        t.wait_for_events(&guild).await;
        t.map_role(&guild, "Gold Tools", gold, 24).await;
        t.discord.run(&guild.owner(), "/setup", &[("product", Opt::Str("Silver Tools".into()))]).await;
        let options = [
            ("role", Opt::Role(silver)),
            ("product", Opt::Str("Silver Tools".into())),
            ("dm_existing", Opt::Bool(true)),
        ];
        t.discord.run(&guild.owner(), "/mapping add", &options).await;
        t.run_worker(RECONCILE_ROLES).await;
        t.discord.next_dm(&notified[0]).await;
        for next in &notified[1..] {
            assert!(t.discord.dms(next).is_empty(), "five seconds apart");
            t.advance(Duration::seconds(5));
            t.discord.next_dm(next).await;
        }
        for member in &silent {
            assert_eq!(licenses_of(&t, &guild, member).await.len(), 1);
            assert!(t.discord.dms(member).is_empty());
        }
        t
    });
}

#[test]
fn discord_failures_delay_a_key_message_without_losing_it() {
    it(|t| async {
        let (guild, gold, ana) = t.guild_with_product("Tools", 24).await;
        for kind in [FaultKind::Status(500, serde_json::json!({})), FaultKind::CloudflareHtml, FaultKind::Drop] {
            t.discord.fault(Fault::on("POST", "/channels/", kind));
        }
        ana.grant(gold);
        for attempts in 1..=3 {
            t.discord
                .until("a failed attempt", |discord| {
                    let posts = discord
                        .requests()
                        .iter()
                        .filter(|request| request.path.ends_with("/messages") && request.method == "POST")
                        .count();
                    posts >= attempts
                })
                .await;
            t.wait_until_idle().await;
            t.advance(Duration::minutes(5));
        }
        key_in(&t.discord.next_dm(&ana).await.content);
        t.advance(Duration::days(1));
        t.wait_for_events(&guild).await;
        assert_eq!(
            t.discord.dms(&ana).len(),
            1,
            "the message had arrived although its response was dropped; the nonce prevented a duplicate"
        );
        t
    });
}

#[test]
fn direct_messages_pause_when_discord_asks_and_commands_keep_working() {
    it(|mut t| async {
        t.expect_error("Discord does not allow new direct messages for now");
        let guild = t.discord.guild("Makers");
        let gold = guild.role("Gold");
        let (ana, bea) = (guild.join("ana"), guild.join("bea"));
        t.wait_for_events(&guild).await;
        t.map_role(&guild, "Tools", gold, 24).await;
        let body = serde_json::json!({"code": 40003, "message": "You are opening direct messages too fast."});
        t.discord.fault(Fault::on("POST", "/users/@me/channels", FaultKind::Status(400, body)));
        ana.grant(gold);
        t.discord
            .until("the refused request", |discord| discord.requests().iter().any(|request| request.status == 400))
            .await;
        bea.grant(gold);
        t.wait_for_events(&guild).await;
        let reply = t.discord.run(&bea, "/key", &[]).await;
        assert!(reply.content.contains("```"));
        let opened =
            t.discord.requests().iter().filter(|request| request.path.ends_with("/users/@me/channels")).count();
        assert_eq!(opened, 1, "no other message was attempted");
        t
    });
}
