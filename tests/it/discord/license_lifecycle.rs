//! The life of a license: roles in Discord, verdicts over HTTP.

use chrono::Duration;
use dca_auth::workers::{EXPIRE, LOG_CHANNEL};
use dca_test_support::Opt;

use crate::support::harness::{it, key_in, licenses_of};

#[test]
fn a_role_issues_a_key_that_is_valid_until_the_grace_after_its_removal_ends() {
    it(|t| async {
        let guild = t.discord.guild("Makers");
        let gold = guild.role("Gold");
        let ana = guild.join("ana");
        t.wait_for_events(&guild).await;
        let reply = t.map_role(&guild, "Gold Tools", gold, 24).await;
        assert!(reply.ephemeral && reply.content.contains("get a license for **Gold Tools**"), "{reply:?}");
        let api_key = t.api_key(&guild, "Gold Tools").await;

        ana.grant(gold);
        let key = key_in(&t.discord.next_dm(&ana).await.content);
        let verdict = t.validate(&api_key, &key.to_lowercase().replace('-', " ")).await;
        assert_eq!((&verdict["valid"], &verdict["code"]), (&true.into(), &"VALID".into()), "{verdict}");
        assert_eq!(verdict["license"]["state"], "active");

        ana.take(gold);
        t.wait_for_events_of_kind(&guild, "user.role_changed", 2).await;
        t.advance(Duration::hours(23));
        t.run_worker(EXPIRE).await;
        assert_eq!(t.validate(&api_key, &key).await["code"], "VALID", "within the grace period");
        t.advance(Duration::hours(1));
        t.run_worker(EXPIRE).await;
        let verdict = t.validate(&api_key, &key).await;
        assert_eq!((&verdict["valid"], &verdict["code"]), (&false.into(), &"REVOKED".into()));
        assert_eq!(
            t.event_kinds(&guild).await,
            [
                "product.created",
                "mapping.created",
                "api_key.created",
                "user.role_changed",
                "license.created",
                "license.assigned",
                "license.activated",
                "user.role_changed",
                "license.revoked"
            ]
        );
        t
    });
}

#[test]
fn a_role_regained_within_the_grace_keeps_the_license() {
    it(|t| async {
        let (guild, gold, ana) = t.guild_with_product("Gold Tools", 24).await;
        ana.grant(gold);
        t.discord.next_dm(&ana).await;
        ana.take(gold);
        t.wait_for_events_of_kind(&guild, "user.role_changed", 2).await;
        t.advance(Duration::hours(23));
        ana.grant(gold);
        t.wait_for_events_of_kind(&guild, "user.role_changed", 3).await;
        t.advance(Duration::hours(48));
        t.run_worker(EXPIRE).await;
        let licenses = licenses_of(&t, &guild, &ana).await;
        assert_eq!((licenses.len(), licenses[0].revoked_at), (1, None));
        t
    });
}

#[test]
fn a_grace_ends_by_the_clock_without_a_worker_and_its_license_never_comes_back() {
    it(|t| async {
        let (guild, gold, ana) = t.guild_with_product("Gold Tools", 24).await;
        let api_key = t.api_key(&guild, "Gold Tools").await;
        ana.grant(gold);
        let first = key_in(&t.discord.next_dm(&ana).await.content);
        ana.take(gold);
        t.wait_for_events_of_kind(&guild, "user.role_changed", 2).await;
        let end = format!("<t:{}:f>", (t.clock.now() + Duration::hours(24)).timestamp());
        let own = t.discord.run(&ana, "/key", &[]).await.content;
        assert!(own.contains(&format!("(ends {end}, because you no longer have the role)")), "{own}");
        let show = [("member", Opt::User(ana.user_id()))];
        let shown = t.discord.run(&guild.owner(), "/license show", &show).await.content;
        assert!(shown.contains(&format!("assigned, ends {end} (role lost)")), "{shown}");
        t.advance(Duration::hours(24) - Duration::seconds(1));
        assert_eq!(t.validate(&api_key, &first).await["code"], "VALID");
        t.advance(Duration::seconds(1));
        assert_eq!(t.validate(&api_key, &first).await["code"], "REVOKED");
        let own = t.discord.run(&ana, "/key", &[]).await.content;
        assert_eq!(
            own,
            format!("Your license for **Gold Tools** ended on {end}, because you no longer had the role.\n")
        );
        let shown = t.discord.run(&guild.owner(), "/license show", &show).await.content;
        assert!(shown.contains(&format!("revoked {end} (role lost)")), "{shown}");
        ana.grant(gold);
        let second = key_in(&t.discord.next_dm(&ana).await.content);
        assert_eq!(t.validate(&api_key, &first).await["code"], "REVOKED");
        assert_eq!(t.validate(&api_key, &second).await["code"], "VALID");
        t.run_worker(EXPIRE).await;
        let kinds = t.event_kinds(&guild).await;
        assert_eq!(kinds.iter().filter(|kind| *kind == "license.revoked").count(), 1, "{kinds:?}");
        t
    });
}

#[test]
fn without_grace_losing_the_role_revokes_and_regaining_it_issues_a_new_key() {
    it(|t| async {
        let (guild, gold, ana) = t.guild_with_product("Gold Tools", 0).await;
        ana.grant(gold);
        let first = key_in(&t.discord.next_dm(&ana).await.content);
        ana.take(gold);
        t.wait_for_events_of_kind(&guild, "license.revoked", 1).await;
        ana.grant(gold);
        let second = key_in(&t.discord.next_dm(&ana).await.content);
        assert_ne!(first, second);
        let api_key = t.api_key(&guild, "Gold Tools").await;
        assert_eq!(t.validate(&api_key, &first).await["code"], "REVOKED");
        assert_eq!(t.validate(&api_key, &second).await["code"], "VALID");
        t
    });
}

#[test]
fn a_license_stays_active_while_one_of_its_roles_remains() {
    it(|t| async {
        let guild = t.discord.guild("Makers");
        let (gold, silver, ana) = (guild.role("Gold"), guild.role("Silver"), guild.join("ana"));
        t.wait_for_events(&guild).await;
        t.map_role(&guild, "Tools", gold, 0).await;
        let options = [("role", Opt::Role(silver)), ("product", Opt::Str("Tools".into()))];
        t.discord.run(&guild.owner(), "/mapping add", &options).await;
        ana.set_roles(&[gold, silver]);
        let key = key_in(&t.discord.next_dm(&ana).await.content);
        ana.take(gold);
        t.wait_for_events(&guild).await;
        let api_key = t.api_key(&guild, "Tools").await;
        assert_eq!(t.validate(&api_key, &key).await["code"], "VALID");
        ana.take(silver);
        t.wait_for_events_of_kind(&guild, "license.revoked", 1).await;
        assert_eq!(t.validate(&api_key, &key).await["code"], "REVOKED");
        t
    });
}

#[test]
fn a_license_expires_on_time_and_its_expiry_is_recorded_once() {
    it(|t| async {
        let guild = t.discord.guild("Makers");
        let (gold, ana) = (guild.role("Gold"), guild.join("ana"));
        t.wait_for_events(&guild).await;
        let options =
            [("product", Opt::Str("Month".into())), ("days", Opt::Int(30)), ("prefix", Opt::Str("mon".into()))];
        let panel = t.discord.run(&guild.owner(), "/setup", &options).await;
        t.discord.choose(&guild.owner(), &panel, "setup:role", &[gold]).await;
        ana.grant(gold);
        let dm = t.discord.next_dm(&ana).await.content;
        assert!(dm.contains("MON-") && dm.contains("valid until <t:"), "{dm}");
        let (key, api_key) = (key_in(&dm), t.api_key(&guild, "Month").await);
        t.advance(Duration::days(30) - Duration::seconds(1));
        assert_eq!(t.validate(&api_key, &key).await["code"], "VALID");
        t.advance(Duration::seconds(1));
        assert_eq!(
            t.validate(&api_key, &key).await["code"],
            "EXPIRED",
            "the state follows from the clock, before any worker runs"
        );
        t.advance(Duration::days(60));
        t.run_worker(EXPIRE).await;
        t.advance(Duration::hours(2));
        t.run_worker(EXPIRE).await;
        let kinds = t.event_kinds(&guild).await;
        assert_eq!(kinds.iter().filter(|kind| *kind == "license.expired").count(), 1, "{kinds:?}");
        let reply = t.discord.run(&ana, "/key", &[]).await;
        assert!(reply.content.contains("(expired)"), "{reply:?}");
        t
    });
}

#[test]
fn with_direct_messages_closed_nothing_is_posted_publicly_and_key_shows_the_license() {
    it(|t| async {
        let (guild, gold, ana) = t.guild_with_product("Gold Tools", 24).await;
        ana.close_dms();
        ana.grant(gold);
        t.discord
            .until("the refused message", |discord| discord.requests().iter().any(|request| request.status == 403))
            .await;
        t.wait_until_idle().await;
        let reply = t.discord.run(&ana, "/key", &[]).await;
        assert!(reply.ephemeral && reply.content.contains("you do not accept direct messages"), "{reply:?}");
        assert!(t.event_kinds(&guild).await.contains(&"license.key_undelivered".to_owned()));
        let show = [("member", Opt::User(ana.user_id()))];
        let shown = t.discord.run(&guild.owner(), "/license show", &show).await.content;
        assert!(shown.contains("The key was not delivered"), "{shown}");
        let api_key = t.api_key(&guild, "Gold Tools").await;
        assert_eq!(t.validate(&api_key, &key_in(&reply.content)).await["code"], "VALID");
        let public = t.discord.messages(guild.general()).iter().filter(|message| message.raw["flags"] != 64).count();
        assert_eq!(public, 0, "a public message");
        t.advance(Duration::days(2));
        t.wait_for_events(&guild).await;
        assert!(t.discord.dms(&ana).is_empty(), "no retry while direct messages are closed");
        t
    });
}

#[test]
fn the_log_channel_gets_one_line_per_act_with_member_and_product_and_without_keys() {
    it(|t| async {
        let guild = t.discord.guild("Makers");
        let (gold, ana, logs) = (guild.role("Gold"), guild.join("ana"), guild.channel("logs"));
        t.wait_for_events(&guild).await;
        let options = [("product", Opt::Str("Gold Tools".into())), ("grace_hours", Opt::Int(0))];
        let panel = t.discord.run(&guild.owner(), "/setup", &options).await;
        t.discord.choose(&guild.owner(), &panel, "setup:role", &[gold]).await;
        t.discord.choose(&guild.owner(), &panel, "setup:log", &[logs]).await;
        assert!(t.discord.next_message(logs).await.content.contains("now posted in"));
        ana.grant(gold);
        let key = key_in(&t.discord.next_dm(&ana).await.content);
        t.wait_until_idle().await;
        t.advance(Duration::minutes(1));
        ana.close_dms();
        ana.take(gold);
        t.wait_for_events_of_kind(&guild, "license.revoked", 1).await;
        t.advance(Duration::minutes(1));
        ana.grant(gold);
        t.wait_for_events_of_kind(&guild, "license.key_undelivered", 1).await;
        t.run_worker(LOG_CHANNEL).await;
        let (owner, ana) = (format!("<@{}>", guild.owner().user_id()), format!("<@{}>", ana.user_id()));
        let (product, role) = ("**Gold Tools**", format!("role <@&{gold}>"));
        for (kinds, about) in [
            ("`product.created`", vec![product, &owner]),
            ("`mapping.created`", vec![product, &role, &owner]),
            ("`user.role_changed` `license.created` `license.assigned`", vec![&ana, product, "gained", &role]),
            ("`user.role_changed` `license.revoked`", vec![&ana, product, "lost", &role, "entitlement\\_lost"]),
            ("`user.role_changed` `license.created` `license.assigned` `license.key_undelivered`", vec![&ana, product]),
        ] {
            let line = t.discord.next_message(logs).await.content;
            assert!(line.starts_with(&format!("{kinds} · ")) && !line.contains(&key), "{line}");
            assert!(about.iter().all(|part| line.contains(part)), "{about:?}: {line}");
        }
        t.run_worker(LOG_CHANNEL).await;
        t
    });
}

#[test]
fn a_log_line_that_cannot_be_posted_names_the_permissions_it_needs() {
    it(|mut t| async {
        let guild = t.discord.guild("Makers");
        let (gold, ana, logs) = (guild.role("Gold"), guild.join("ana"), guild.channel("logs"));
        t.wait_for_events(&guild).await;
        let caller = t.caller(&guild).await;
        dca_core::guilds::set_log_channel(t.core(), &caller, guild.id().into(), logs.into()).await.unwrap();
        guild.deny(logs, 1 << 11);
        t.map_role(&guild, "Gold Tools", gold, 0).await;
        ana.grant(gold);
        t.discord.next_dm(&ana).await;
        t.expect_error("needs View Channel and Send Messages");
        t.run_worker(LOG_CHANNEL).await;
        t.wait_until_idle().await;
        assert!(t.log.text().contains(&format!("log channel {logs} needs View Channel and Send Messages")));
        t
    });
}
