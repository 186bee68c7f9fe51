//! Slash commands and message components, used by admins, members and outsiders.

use chrono::Duration;
use dca_auth::workers::{EXPIRE, RECONCILE_ROLES};
use dca_test_support::{Opt, SimGuild};

use crate::support::harness::{it, key_in, licenses_of};

fn text(value: &str) -> Opt {
    Opt::Str(value.to_owned())
}

#[test]
fn setup_takes_three_steps_and_confirms_them() {
    it(|t| async {
        let guild = t.discord.guild("Makers");
        let (gold, owner) = (guild.role("Gold"), guild.owner());
        t.wait_for_events(&guild).await;
        let panel = t.discord.run(&owner, "/setup", &[("product", text("Gold_Tools @everyone"))]).await;
        assert!(panel.ephemeral && panel.deferred, "{panel:?}");
        insta::assert_snapshot!(panel.content, @r"
        **Gold\_Tools \@everyone** is ready. Its keys begin with `GOLDTOOL-`. New licenses do not expire and end 24 hours after the role is lost.
        **1.** Choose the role whose members get a license. **2.** Optional: choose a log channel.
        ");
        let reply = t.discord.choose(&owner, &panel, "setup:role", &[gold]).await;
        assert!(reply.ephemeral);
        insta::assert_snapshot!(
            reply.content.replace(&gold.to_string(), "GOLD"),
            @r"✅ Members with <@&GOLD> now get a license for **Gold\_Tools \@everyone**. Members who already have the role get theirs now, without a message: `/key` shows it."
        );
        let again = t.discord.choose(&owner, &panel, "setup:role", &[gold]).await;
        assert_eq!(again.content, "❌ That role is already mapped to Gold\\_Tools \\@everyone.");
        t
    });
}

#[test]
fn every_role_but_everyone_can_be_mapped_whoever_manages_it() {
    it(|t| async {
        let guild = t.discord.guild("Makers");
        let (owner, ana) = (guild.owner(), guild.join("ana"));
        let (booster, above) = (guild.managed_role("Booster"), guild.role_above_bot("Admin"));
        t.wait_for_events(&guild).await;
        t.discord.run(&owner, "/setup", &[("product", text("Tools"))]).await;
        let add = async |role| {
            let options = [("role", Opt::Role(role)), ("product", text("Tools"))];
            t.discord.run(&owner, "/mapping add", &options).await.content
        };
        let refused = add(guild.id()).await;
        assert!(refused.starts_with("❌ @everyone cannot be mapped"), "{refused}");
        let listed = t.discord.run(&owner, "/mapping list", &[]).await;
        assert_eq!(listed.content, "No role is mapped yet. Use `/setup` to map one.", "nothing was written");
        for role in [booster, above] {
            let reply = add(role).await;
            assert!(reply.starts_with("✅"), "{reply}");
        }
        ana.grant(booster);
        t.discord.next_dm(&ana).await;
        t.run_worker(RECONCILE_ROLES).await;
        t
    });
}

#[test]
fn mappings_are_added_once_listed_and_removed() {
    it(|t| async {
        let guild = t.discord.guild("Makers");
        let (gold, owner) = (guild.role("Gold"), guild.owner());
        t.wait_for_events(&guild).await;
        t.discord.run(&owner, "/setup", &[("product", text("Tools"))]).await;
        let choices = t.discord.autocomplete(&owner, "/mapping add", "product", "oo").await;
        assert_eq!(choices.iter().map(|choice| choice.name.as_str()).collect::<Vec<_>>(), ["Tools"]);
        let options = [("role", Opt::Role(gold)), ("product", text("tools"))];
        assert!(t.discord.run(&owner, "/mapping add", &options).await.content.starts_with("✅"));
        assert_eq!(
            t.discord.run(&owner, "/mapping add", &options).await.content,
            "❌ That role is already mapped to Tools."
        );
        let unknown = [("role", Opt::Role(gold)), ("product", text("Nonsense"))];
        let refused = t.discord.run(&owner, "/mapping add", &unknown).await;
        assert_eq!(refused.content, "❌ There is no product \"Nonsense\". Known: Tools.");
        let listed = t.discord.run(&owner, "/mapping list", &[]).await;
        assert!(listed.content.contains(&format!("<@&{gold}>")) && listed.content.contains("**Tools**"), "{listed:?}");
        let question = t.discord.run(&owner, "/mapping remove", &options).await;
        assert!(t.discord.press(&owner, &question, "mapping:remove").await.content.starts_with("✅"));
        let again = t.discord.press(&owner, &question, "mapping:remove").await.content;
        assert!(again.starts_with("❌ That role is not mapped to Tools."), "{again}");
        assert!(t.discord.run(&owner, "/mapping remove", &options).await.content.starts_with("❌"));
        // A removed mapping can be added again.
        assert!(t.discord.run(&owner, "/mapping add", &options).await.content.starts_with("✅"));
        t
    });
}

#[test]
fn license_commands_grant_show_and_revoke_without_a_role() {
    it(|t| async {
        let guild = t.discord.guild("Makers");
        let (owner, ana) = (guild.owner(), guild.join("ana"));
        t.wait_for_events(&guild).await;
        t.discord.run(&owner, "/setup", &[("product", text("Tools"))]).await;
        let options = [("member", Opt::User(ana.user_id())), ("product", text("Tools"))];
        assert!(t.discord.run(&owner, "/license revoke", &options).await.content.contains("has no license"));
        assert!(t.discord.run(&owner, "/license grant", &options).await.content.starts_with("✅"));
        let dm = t.discord.next_dm(&ana).await.content;
        assert!(dm.starts_with("🔑 Your license key for **Tools** from the server **Makers**\n"), "{dm}");
        let key = key_in(&dm);
        assert!(t.discord.run(&owner, "/license grant", &options).await.content.contains("already"));
        let api_key = t.api_key(&guild, "Tools").await;
        assert_eq!(t.validate(&api_key, &key).await["code"], "VALID");
        t.advance(Duration::days(400));
        t.run_worker(RECONCILE_ROLES).await;
        t.run_worker(EXPIRE).await;
        assert_eq!(t.validate(&api_key, &key).await["code"], "VALID", "no role change ends a grant");
        let with_reason = [options[0].clone(), options[1].clone(), ("reason", text("charge`back"))];
        let revoked = t.discord.run(&owner, "/license revoke", &with_reason).await;
        assert!(revoked.content.contains("is revoked"), "{revoked:?}");
        assert_eq!(t.validate(&api_key, &key).await["code"], "REVOKED", "revoked at once");
        let own = t.discord.run(&ana, "/key", &[]).await.content;
        assert!(own.contains("An admin of this server revoked your license for **Tools** on <t:"), "{own}");
        assert!(!own.contains("charge"), "the reason is for admins: {own}");
        let shown = t.discord.run(&owner, "/license show", &[("member", Opt::User(ana.user_id()))]).await;
        assert!(shown.content.contains("(charge\\`back)") && !shown.content.contains(&key), "{shown:?}");
        assert!(
            t.discord.run(&owner, "/license grant", &options).await.content.starts_with("✅"),
            "a new grant issues a new license"
        );
        assert_ne!(key_in(&t.discord.next_dm(&ana).await.content), key);
        assert_eq!(licenses_of(&t, &guild, &ana).await.len(), 2);
        t
    });
}

#[test]
fn grant_to_a_bot_or_to_someone_outside_the_server_is_refused() {
    it(|t| async {
        let (guild, other) = (t.discord.guild("Makers"), t.discord.guild("Others"));
        t.wait_for_events(&guild).await;
        t.wait_for_events(&other).await;
        t.discord.run(&guild.owner(), "/setup", &[("product", text("Tools"))]).await;
        for (user, answer) in [(t.discord.bot_id(), "That is a bot."), (other.owner().user_id(), "not in this server")]
        {
            let options = [("member", Opt::User(user)), ("product", text("Tools"))];
            let refused = t.discord.run(&guild.owner(), "/license grant", &options).await.content;
            assert!(refused.starts_with("❌") && refused.contains(answer), "{refused}");
        }
        assert!(!t.event_kinds(&guild).await.contains(&"license.created".to_owned()));
        t
    });
}

#[test]
fn revoked_member_gets_a_new_key_only_after_regaining_the_role() {
    it(|t| async {
        let guild = t.discord.guild("Makers");
        let (gold, ana, owner) = (guild.role("Gold"), guild.join("ana"), guild.owner());
        t.wait_for_events(&guild).await;
        t.map_role(&guild, "Tools", gold, 24).await;
        ana.grant(gold);
        t.discord.next_dm(&ana).await;
        let options = [("member", Opt::User(ana.user_id())), ("product", text("Tools"))];
        t.discord.run(&owner, "/license revoke", &options).await;
        t.advance(Duration::minutes(5));
        t.run_worker(RECONCILE_ROLES).await;
        ana.update_with(|_| {});
        t.wait_for_events(&guild).await;
        assert_eq!(licenses_of(&t, &guild, &ana).await.len(), 1);
        ana.take(gold);
        t.wait_for_events(&guild).await;
        ana.grant(gold);
        t.discord.next_dm(&ana).await;
        assert_eq!(licenses_of(&t, &guild, &ana).await.len(), 2);
        t
    });
}

#[test]
fn revoked_member_gets_no_new_key_from_another_mapping_while_keeping_the_role() {
    it(|t| async {
        let guild = t.discord.guild("Makers");
        let (gold, silver, owner) = (guild.role("Gold"), guild.role("Silver"), guild.owner());
        let ana = guild.join("ana");
        t.wait_for_events(&guild).await;
        t.map_role(&guild, "Tools", gold, 24).await;
        ana.set_roles(&[gold, silver]);
        t.discord.next_dm(&ana).await;
        let member = [("member", Opt::User(ana.user_id())), ("product", text("Tools"))];
        t.discord.run(&owner, "/license revoke", &member).await;
        let of = |role| [("role", Opt::Role(role)), ("product", text("Tools"))];
        // A second mapping, and the first one removed and added again.
        assert!(t.discord.run(&owner, "/mapping add", &of(silver)).await.content.starts_with("✅"));
        t.advance(Duration::minutes(5));
        t.run_worker(RECONCILE_ROLES).await;
        let removed = t.remove_mapping(&guild, ("role", Opt::Role(gold)), "Tools").await;
        assert!(removed.content.starts_with("✅"), "{removed:?}");
        t.run_worker(RECONCILE_ROLES).await;
        assert!(t.discord.run(&owner, "/mapping add", &of(gold)).await.content.starts_with("✅"));
        t.run_worker(RECONCILE_ROLES).await;
        ana.take(gold);
        t.wait_for_events(&guild).await;
        ana.grant(gold);
        t.wait_for_events(&guild).await;
        assert_eq!(licenses_of(&t, &guild, &ana).await.len(), 1, "one of the roles was kept all the time");
        ana.set_roles(&[]);
        t.wait_for_events(&guild).await;
        ana.grant(silver);
        t.discord.next_dm(&ana).await;
        assert_eq!(licenses_of(&t, &guild, &ana).await.len(), 2);
        t
    });
}

#[test]
fn mapping_is_removed_after_its_dependent_licenses_were_shown() {
    it(|t| async {
        let guild = t.discord.guild("Makers");
        let (gold, silver, owner) = (guild.role("Gold"), guild.role("Silver"), guild.owner());
        guild.seed(2, &[gold]);
        guild.seed(1, &[gold, silver]);
        t.wait_for_events(&guild).await;
        t.map_role(&guild, "Tools", gold, 0).await;
        let of = |role| [("role", Opt::Role(role)), ("product", text("Tools"))];
        t.discord.run(&owner, "/mapping add", &of(silver)).await;
        t.run_worker(RECONCILE_ROLES).await;
        let question = t.discord.run(&owner, "/mapping remove", &of(gold)).await;
        assert!(question.ephemeral, "{question:?}");
        let expected = format!(
            "Remove the mapping of <@&{gold}> to **Tools**? Licenses affected: 2. They are revoked after their grace period."
        );
        assert_eq!(question.content, expected, "one member has another role");
        t.run_worker(RECONCILE_ROLES).await;
        assert!(!t.event_kinds(&guild).await.contains(&"license.revoked".to_owned()), "asking removes nothing");
        let removed = t.discord.press(&owner, &question, "mapping:remove").await.content;
        assert!(removed.contains("is no longer mapped to **Tools**. Licenses affected: 2."), "{removed}");
        t.run_worker(RECONCILE_ROLES).await;
        let kinds = t.event_kinds(&guild).await;
        for (kind, times) in [("mapping.created", 2), ("mapping.removed", 1), ("license.revoked", 2)] {
            assert_eq!(kinds.iter().filter(|known| *known == kind).count(), times, "{kind}: {kinds:?}");
        }
        t
    });
}

#[test]
fn key_command_shows_members_only_their_own_keys() {
    it(|t| async {
        let (guild, other) = (t.discord.guild("Makers"), t.discord.guild("Others"));
        let (gold, ana, bea) = (guild.role("Gold"), guild.join("ana"), guild.join("bea"));
        t.wait_for_events(&guild).await;
        t.wait_for_events(&other).await;
        t.map_role(&guild, "Tools", gold, 24).await;
        ana.grant(gold);
        let key = key_in(&t.discord.next_dm(&ana).await.content);
        let shown = t.discord.run(&ana, "/key", &[]).await;
        assert!(shown.ephemeral && shown.deferred && key_in(&shown.content) == key, "{shown:?}");
        assert!(!t.discord.run(&bea, "/key", &[]).await.content.contains("```"));
        let elsewhere = other.join_user(ana.user_id());
        assert!(
            !t.discord.run(&elsewhere, "/key", &[]).await.content.contains("```"),
            "keys of another server are not shown"
        );
        t
    });
}

#[test]
fn members_and_admins_of_other_servers_can_change_nothing() {
    it(|t| async {
        let (guild, other) = (t.discord.guild("Makers"), t.discord.guild("Others"));
        let (gold, ana, stranger) = (guild.role("Gold"), guild.join("ana"), other.owner());
        t.wait_for_events(&guild).await;
        t.wait_for_events(&other).await;
        t.map_role(&guild, "Tools", gold, 24).await;
        let panel = t.discord.run(&guild.owner(), "/setup", &[("product", text("More"))]).await;
        for (command, options) in [
            ("/setup", vec![("product", text("Mine"))]),
            ("/mapping list", vec![]),
            ("/mapping add", vec![("role", Opt::Role(gold)), ("product", text("Tools"))]),
            ("/mapping remove", vec![("role", Opt::Role(gold)), ("product", text("Tools"))]),
            ("/license show", vec![("member", Opt::User(ana.user_id()))]),
            ("/license grant", vec![("member", Opt::User(ana.user_id())), ("product", text("Tools"))]),
            ("/license revoke", vec![("member", Opt::User(ana.user_id())), ("product", text("Tools"))]),
            ("/sync status", vec![]),
            ("/sync confirm", vec![]),
        ] {
            let reply = t.discord.run(&ana, command, &options).await;
            assert!(reply.ephemeral && reply.content.contains("Manage Server"), "{command}: {reply:?}");
        }
        let foreign = t
            .discord
            .run(&stranger, "/license grant", &[("member", Opt::User(ana.user_id())), ("product", text("Tools"))])
            .await;
        assert!(foreign.content.contains("There is no product"), "{foreign:?}");
        assert!(t.discord.autocomplete(&stranger, "/license grant", "product", "").await.is_empty());
        // The component id of another user, and of another server.
        let custom_id = panel.components[0]["components"][0]["custom_id"].as_str().unwrap().to_owned();
        let stolen = t.discord.forge_component(&ana, &custom_id, &[gold]).await;
        assert!(stolen.content.contains("another admin"), "{stolen:?}");
        let forged = custom_id.replace(&guild.owner().user_id().to_string(), &stranger.user_id().to_string());
        let foreign = t.discord.forge_component(&stranger, &forged, &[gold]).await;
        assert!(foreign.content.starts_with("❌"), "{foreign:?}");
        assert!(!t.event_kinds(&guild).await.contains(&"license.created".to_owned()));
        t
    });
}

#[test]
fn invalid_product_names_and_prefixes_are_refused_and_nothing_is_written() {
    it(|t| async {
        let guild = t.discord.guild("Makers");
        let owner = guild.owner();
        t.wait_for_events(&guild).await;
        t.discord.run(&owner, "/setup", &[("product", text("Tools"))]).await;
        for (options, message) in [
            (vec![("product", text("   "))], "1 to 80 visible characters"),
            (vec![("product", text("a\u{7}b"))], "1 to 80 visible characters"),
            (vec![("product", text("More")), ("prefix", text("A-B"))], "2 to 8 letters"),
            (
                vec![("product", text("More")), ("prefix", text("t00ls"))],
                "T00LS, or one that looks like it, is taken. Try T00LS2.",
            ),
            (vec![("product", text("Tools")), ("prefix", text("OTHER"))], "cannot be changed"),
        ] {
            let reply = t.discord.run(&owner, "/setup", &options).await;
            assert!(reply.content.contains(message), "{reply:?}");
        }
        let names = t.discord.autocomplete(&owner, "/mapping add", "product", "").await;
        assert_eq!(names.len(), 1);
        t
    });
}

#[test]
fn products_are_found_in_any_case_and_get_a_prefix_that_is_free_in_their_server() {
    it(|t| async {
        let (guild, other) = (t.discord.guild("Makers"), t.discord.guild("Others"));
        t.wait_for_events(&guild).await;
        t.wait_for_events(&other).await;
        let setup = async |guild: &SimGuild, product: &str, days| {
            let options = [("product", text(product)), ("days", Opt::Int(days)), ("grace_hours", Opt::Int(1))];
            t.discord.run(&guild.owner(), "/setup", &options).await.content
        };
        for (guild, product, days, answer) in [
            (
                &guild,
                "Gold Tools",
                30,
                "**Gold Tools** is ready. Its keys begin with `GOLDTOOL-`. New licenses are valid for 30 days and end 1 hour after the role is lost.",
            ),
            (
                &guild,
                "gold TOOLS",
                1,
                "**Gold Tools** is ready. Its keys begin with `GOLDTOOL-`. New licenses are valid for 1 day ",
            ),
            (
                &guild,
                "Gold Toolbox",
                0,
                "**Gold Toolbox** is ready. Its keys begin with `GOLDTOO2-`. New licenses do not expire ",
            ),
            (&other, "Gold Tools", 0, "**Gold Tools** is ready. Its keys begin with `GOLDTOOL-`."),
        ] {
            let panel = setup(guild, product, days).await;
            assert!(panel.starts_with(answer), "{panel}");
        }
        t
    });
}

#[test]
fn command_does_nothing_if_discord_rejects_its_acknowledgement() {
    it(|t| async {
        let guild = t.discord.guild("Makers");
        let (owner, ana) = (guild.owner(), guild.join("ana"));
        t.wait_for_events(&guild).await;
        t.discord.run(&owner, "/setup", &[("product", text("Tools"))]).await;
        t.discord.fail_next("POST", "/callback", 404);
        let options = [("member", Opt::User(ana.user_id())), ("product", text("Tools"))];
        t.discord.run_unanswered(&owner, "/license grant", &options);
        t.discord
            .until("the refused answer", |discord| discord.requests().iter().any(|request| request.status == 404))
            .await;
        t.wait_for_events(&guild).await;
        assert!(licenses_of(&t, &guild, &ana).await.is_empty());
        t
    });
}

#[test]
fn long_and_unsafe_names_in_refusals_are_shortened_and_escaped() {
    it(|t| async {
        let guild = t.discord.guild("Makers");
        let (owner, ana) = (guild.owner(), guild.join("ana"));
        t.wait_for_events(&guild).await;
        for n in 0..12 {
            let name = format!("{n} {}", "[x](https://evil.example) @everyone ".repeat(2));
            t.discord.run(&owner, "/setup", &[("product", text(&name)), ("prefix", text(&format!("P{n}")))]).await;
        }
        let options = [("member", Opt::User(ana.user_id())), ("product", text(&"**b** ".repeat(600)))];
        let refused = t.discord.run(&owner, "/license grant", &options).await;
        assert!(refused.content.starts_with("❌") && refused.content.chars().count() <= 2_000, "{refused:?}");
        assert!(!refused.content.contains("[x](") && !refused.content.contains(" @everyone"), "{refused:?}");
        t
    });
}

#[test]
fn log_channel_of_another_server_is_refused() {
    it(|t| async {
        let (guild, other) = (t.discord.guild("Makers"), t.discord.guild("Others"));
        let (owner, theirs) = (guild.owner(), other.channel("theirs"));
        t.wait_for_events(&guild).await;
        let panel = t.discord.run(&owner, "/setup", &[("product", text("Tools"))]).await;
        let custom_id = panel.components[1]["components"][0]["custom_id"].as_str().unwrap().to_owned();
        let refused = t.discord.forge_component(&owner, &custom_id, &[theirs]).await;
        assert!(refused.content.contains("not in this server"), "{refused:?}");
        assert!(t.discord.messages(theirs).is_empty());
        t
    });
}

#[test]
fn log_channel_without_permissions_is_refused_with_their_names() {
    it(|t| async {
        let guild = t.discord.guild("Makers");
        let (owner, logs) = (guild.owner(), guild.channel("logs"));
        t.wait_for_events(&guild).await;
        let panel = t.discord.run(&owner, "/setup", &[("product", text("Tools"))]).await;
        for (denied, named) in [(1 << 11, "allow: Send Messages."), (1 << 10, "View Channel")] {
            guild.deny(logs, denied);
            let refused = t.discord.choose(&owner, &panel, "setup:log", &[logs]).await.content;
            assert!(refused.starts_with("❌") && refused.contains(named), "{refused}");
        }
        guild.deny(logs, 0);
        let set = t.discord.choose(&owner, &panel, "setup:log", &[logs]).await;
        assert!(set.content.starts_with("✅"), "{set:?}");
        t.discord.next_message(logs).await;
        for (denied, shown) in [(0, "✅ License events are posted in"), (1 << 11, "allow: Send Messages.")] {
            guild.deny(logs, denied);
            let status = t.discord.run(&owner, "/sync status", &[]).await.content;
            assert!(status.starts_with("✅ The sync") && status.contains(shown), "{status}");
        }
        t
    });
}
