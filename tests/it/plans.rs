//! What the database has to do: what is read often is read through an index, and a change costs few statements.

use dca_core::mappings::{self, Announce, MemberRoles, reconcile::GuildReconciliation};
use dca_core::{Caller, Core, Db, GuildId, RoleId, entitlements, guilds, licenses};
use sea_orm_migration::sea_orm::{ConnectionTrait, DbBackend, Statement, TransactionTrait};

use crate::support::{
    fixtures::{TestTenant, rows},
    harness::it_unstarted,
};

/// The holders of a source after a user, with their Discord accounts.
const HOLDERS: &str = "SELECT holder.user_id, identities.subject FROM (SELECT user_id FROM entitlement_sources \
                       WHERE reference = U AND ends_at IS NULL AND user_id > U ORDER BY user_id LIMIT 1000) AS holder \
                       LEFT JOIN identities ON identities.user_id = holder.user_id AND identities.provider = 'discord' \
                       ORDER BY holder.user_id";

/// The query plan.
async fn plan(db: &Db, query: &str) -> String {
    if db.is_shared() {
        let tx = db.pool().begin().await.unwrap();
        // The tables of a test are small, so an index would not pay off.
        tx.execute_unprepared("SET LOCAL enable_seqscan = off").await.unwrap();
        let plan = Statement::from_string(DbBackend::Postgres, format!("EXPLAIN {query}"));
        let plan = tx.query_all_raw(plan).await.unwrap();
        return plan.iter().map(|row| row.try_get_by_index::<String>(0).unwrap() + "\n").collect();
    }
    let plan = rows(db.writer(), &format!("EXPLAIN QUERY PLAN {query}")).await;
    plan.iter().map(|row| row["detail"].as_str().unwrap().to_owned() + "\n").collect()
}

#[test]
fn hot_queries_lists_and_cleanup_read_through_an_index() {
    it_unstarted(|t| async {
        let db = t.instance().await.db;
        for (index, query) in [
            // Only open rows: their number does not grow with the history.
            (
                "licenses_unannounced",
                "SELECT id FROM licenses WHERE lapses_at <= T AND revoked_at IS NULL AND lapse_seen_at IS NULL AND NOT \
                 (revoked_at IS NOT NULL OR (sources_end_at IS NOT NULL AND sources_end_at <= T))",
            ),
            (
                "licenses_sources_end_at",
                "SELECT * FROM licenses WHERE revoked_at IS NULL AND sources_end_at <= T AND \
                 (suspended_at IS NULL OR on_source_lost <> 'suspend') AND NOT (on_source_lost = 'suspend' AND \
                 (suspended_at IS NOT NULL OR COALESCE(lapses_at <= T, FALSE)))",
            ),
            (
                "licenses_sources_end_at",
                "SELECT MIN(sources_end_at) FROM licenses WHERE revoked_at IS NULL AND sources_end_at > T AND \
                 (suspended_at IS NULL OR on_source_lost <> 'suspend')",
            ),
            // A page of a reconciliation: its cost does not grow with what was read before.
            ("entitlement_sources_live", HOLDERS),
            ("identities_user_id_provider_subject", HOLDERS),
            (
                "entitlement_sources_live",
                "SELECT DISTINCT reference FROM entitlement_sources WHERE reference IN (U, U) AND ends_at IS NULL",
            ),
            // An update from the gateway.
            ("role_mappings_", "SELECT * FROM role_mappings WHERE guild_id = 1 AND removed_at IS NULL"),
            (
                "licenses_unrevoked",
                "SELECT * FROM licenses WHERE user_id = U AND product_id = U AND revoked_at IS NULL",
            ),
            ("entitlement_sources_stamp", "SELECT MAX(stamp) FROM entitlement_sources"),
            ("licenses_user_id", "SELECT * FROM licenses WHERE user_id = U"),
            ("holders_user_id", "SELECT * FROM holders WHERE user_id = U"),
            ("role_mappings_guild_id", "SELECT id FROM role_mappings WHERE guild_id = 1 AND removed_at IS NOT NULL"),
            ("users_status_created_at", "SELECT id FROM users WHERE status = 'PENDING' AND created_at < T"),
            (
                "users_registered",
                "SELECT * FROM users WHERE registered_at IS NOT NULL ORDER BY created_at DESC, id DESC LIMIT 20",
            ),
            ("sessions_revoked_at", "SELECT id FROM sessions WHERE expires_at < T OR revoked_at < T"),
            ("sessions_expires_at", "SELECT id FROM sessions WHERE expires_at < T OR revoked_at < T"),
            ("refresh_tokens_expires_at", "SELECT hash FROM refresh_tokens WHERE expires_at < T"),
            (
                "outbox_state_due_at",
                "SELECT id FROM outbox WHERE state IN ('sent', 'undelivered', 'dead') AND due_at < T",
            ),
            (
                "outbox_due",
                "SELECT id FROM outbox WHERE state = 'pending' AND transport = 'discord' AND due_at <= T ORDER BY due_at",
            ),
            ("outbox_order", "SELECT id FROM outbox WHERE ordering_key = 'k' AND state = 'pending' AND id < U"),
            (
                "entitlement_sources_reference_user_id",
                "SELECT user_id FROM entitlement_sources WHERE reference = U ORDER BY user_id DESC LIMIT 20",
            ),
            ("one_time_tokens_expires_at", "SELECT id FROM one_time_tokens WHERE expires_at < T"),
            ("throttles_resets_at", "SELECT name FROM throttles WHERE resets_at < T"),
            ("events_at", "SELECT seq FROM events WHERE at < T"),
        ] {
            let query = query.replace(" T", " '2026-03-01'");
            let query = query.replace("(U", "( U").replace(" U", " '00000000-0000-4000-8000-000000000000'");
            let plan = plan(&db, &query).await;
            assert!(plan.contains(index), "{query}\n{plan}");
        }
        t
    });
}

/// How many statements it costs to store that member 7 has these roles.
async fn statements_of(core: &Core, guild: GuildId, roles: &[RoleId]) -> u64 {
    let before = core.db.statements();
    let stamp = core.stamps.next(&core.clock);
    let member = [MemberRoles { member: 7.into(), roles: Some(roles), stamp }];
    let observations = mappings::observations(core, guild, &member, None).await.unwrap();
    entitlements::observe_all(core, &observations).await.unwrap();
    core.db.statements() - before
}

#[test]
fn a_gain_and_a_loss_cost_few_statements() {
    it_unstarted(|t| async {
        let core = t.instance().await;
        let guild = guilds::record_join(&core, 900.into(), "Makers").await.unwrap();
        let tenant = TestTenant { core: core.clone(), caller: Caller::operator(guild.tenant_id) };
        let (gold, role) = (tenant.product("Gold", "GOLD").await, RoleId(901));
        mappings::add(&core, &tenant.caller, guild.id, role, &gold, Announce::Silently).await.unwrap();
        let begun = GuildReconciliation::begin(&core, &guild, None, std::time::Duration::ZERO).await.unwrap();
        begun.expect("there is a mapping").finish(&core, |_| false).await.unwrap();
        for (what, roles, most, licensed) in
            [("gain", &[role][..], 18, 1), ("repeat", &[role], 5, 1), ("loss", &[], 14, 0), ("none", &[], 4, 0)]
        {
            let statements = statements_of(&core, guild.id, roles).await;
            assert!(statements <= most, "{what}: {statements}");
            let held = licenses::list_of(&core, &tenant.caller.scope(), tenant.user(7).await).await.unwrap();
            let held = held.iter().filter(|license| license.revoked_at.is_none()).count();
            assert_eq!(held, licensed, "{what}");
        }
        t
    });
}
