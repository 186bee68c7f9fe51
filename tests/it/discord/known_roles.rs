//! Updates that change no mapped role cost nothing, and no change is lost because of that.

use dca_auth::workers::RECONCILE_ROLES;
use dca_core::{mappings, products};
use dca_test_support::{SimGuild, SimMember};

use crate::support::harness::{LIMIT, TestApp, it, it_unstarted, key_in, licenses_of};

/// How many statements are executed until these updates, and a command after them, are handled.
async fn statements_of(t: &TestApp, guild: &SimGuild, updates: impl FnOnce()) -> u64 {
    let before = t.core().db.statements();
    updates();
    t.wait_for_events(guild).await;
    t.core().db.statements() - before
}

async fn is_licensed(t: &TestApp, guild: &SimGuild, member: &SimMember) -> bool {
    licenses_of(t, guild, member).await.iter().any(|license| license.revoked_at.is_none())
}

/// Waits until the bot is connected, without a reconciliation.
async fn wait_until_connected(t: &TestApp) {
    t.discord.connected().await;
    let bot = t.app().bot.clone().unwrap();
    let mut gateway = bot.gateway.subscribe();
    let connected = gateway.wait_for(|state| state.status == dca_commands::GatewayStatus::Connected);
    tokio::time::timeout(LIMIT, connected).await.expect("the bot never connected").unwrap();
}

#[test]
fn updates_that_change_no_mapped_role_execute_no_statement() {
    it(|t| async {
        let (guild, gold, ana) = t.guild_with_product("Tools", 0).await;
        let (blue, bea) = (guild.role("Blue"), guild.join("bea"));
        ana.grant(gold);
        key_in(&t.discord.next_dm(&ana).await.content);
        t.wait_until_idle().await;
        let alone = statements_of(&t, &guild, || {}).await;
        let repeated = statements_of(&t, &guild, || {
            for _ in 0..50 {
                ana.update_with(|_| {});
                bea.update_with(|_| {});
                bea.grant(blue);
                bea.take(blue);
            }
        });
        let repeated = repeated.await;
        assert!(repeated < alone + 20, "{repeated} statements for 200 updates, {alone} without");
        ana.take(gold);
        t.wait_for_events(&guild).await;
        assert!(!is_licensed(&t, &guild, &ana).await);
        ana.grant(gold);
        t.discord.next_dm(&ana).await;
        t
    });
}

#[test]
fn members_who_gain_a_role_around_the_moment_it_is_mapped_get_a_license() {
    it(|t| async {
        let (guild, _, ana) = t.guild_with_product("Tools", 0).await;
        let silver = guild.role("Silver");
        let [bea, cem, dan] = ["bea", "cem", "dan"].map(|name| guild.join(name));
        bea.grant(silver);
        t.wait_for_events(&guild).await;
        // Another process maps the role: this one does not know of it yet.
        let (other, caller) = (t.instance().await, t.caller(&guild).await);
        let tools = products::get(&other, &caller.scope(), "Tools").await.unwrap();
        let by_dm = mappings::Announce::ByDm;
        mappings::add(&other, &caller, guild.id().into(), silver.into(), &tools, by_dm).await.unwrap();
        cem.grant(silver);
        t.wait_for_events(&guild).await;
        t.run_worker(RECONCILE_ROLES).await;
        dan.grant(silver);
        t.wait_for_events(&guild).await;
        for member in [&bea, &cem, &dan] {
            assert!(is_licensed(&t, &guild, member).await);
            t.advance(chrono::Duration::seconds(5));
            t.discord.next_dm(member).await;
        }
        assert!(!is_licensed(&t, &guild, &ana).await);
        t
    });
}

#[test]
fn a_loss_that_was_missed_is_stored_with_the_next_update_after_a_gap() {
    it(|t| async {
        let (guild, gold, ana) = t.guild_with_product("Tools", 0).await;
        ana.grant(gold);
        t.discord.next_dm(&ana).await;
        let mut status = t.app().bot.as_ref().unwrap().gateway.subscribe();
        status.mark_unchanged();
        t.discord.refuse_gateway(true);
        t.discord.forget_sessions();
        t.discord.cut();
        ana.set_roles_silently(&[]);
        t.discord.refuse_gateway(false);
        tokio::time::timeout(LIMIT, status.changed()).await.expect("the connection was not cut").unwrap();
        wait_until_connected(&t).await;
        assert!(is_licensed(&t, &guild, &ana).await);
        ana.update_with(|_| {});
        t.wait_for_events(&guild).await;
        assert!(!is_licensed(&t, &guild, &ana).await, "no reconciliation has run since");
        t
    });
}

#[test]
fn an_instance_that_takes_over_knows_no_roles_until_it_has_reconciled() {
    it_unstarted(|mut t| async move {
        t.start().await;
        let (guild, gold, ana) = t.guild_with_product("Tools", 0).await;
        ana.grant(gold);
        t.discord.next_dm(&ana).await;
        t.stop().await;
        ana.set_roles_silently(&[]);
        t.start_without_waiting().await;
        wait_until_connected(&t).await;
        ana.update_with(|_| {});
        t.wait_for_events(&guild).await;
        assert!(!is_licensed(&t, &guild, &ana).await);
        t
    });
}

#[test]
fn an_update_ends_a_license_that_an_open_circuit_breaker_kept() {
    it(|mut t| async {
        let guild = t.discord.guild("Makers");
        let gold = guild.role("Gold");
        let members = guild.seed(14, &[gold]);
        t.wait_for_events(&guild).await;
        t.map_role(&guild, "Tools", gold, 0).await;
        t.stop().await;
        for member in &members {
            member.set_roles_silently(&[]);
        }
        t.start().await;
        t.wait_for_events_of_kind(&guild, "sync.breaker_tripped", 1).await;
        assert!(is_licensed(&t, &guild, &members[0]).await);
        members[0].update_with(|_| {});
        t.wait_for_events(&guild).await;
        assert!(!is_licensed(&t, &guild, &members[0]).await);
        assert!(is_licensed(&t, &guild, &members[1]).await);
        t
    });
}
