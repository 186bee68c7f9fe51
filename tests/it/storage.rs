//! Storage: migrations, the keyring, the order of events, and one active license per entitlement under concurrent
//! writes.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use chrono::Duration;
use dca_auth::{Config, app};
use dca_core::{
    Db, Error, Ids,
    entitlements::{self, Level},
    events, guilds,
    licenses::{self, LicenseState},
    page::PageRequest,
    policy::{OnSourceLost, PolicyPatch},
    products, tenants, workers,
};
use dca_migration::{Migrator, MigratorTrait};
use futures::future::join_all;
use sea_orm_migration::sea_orm::{ConnectionTrait, DbBackend, Statement};
use tokio::sync::Barrier;

use crate::support::{
    fixtures::{RECONCILED, TestTenant, rows},
    harness::{TestApp, it_unstarted},
};

/// An empty database, as in a new installation.
async fn empty_database(t: &TestApp) -> Db {
    _ = std::fs::remove_file(t.dir().join("dca.db"));
    app::open_database(&Config::load(t.env().clone()).unwrap()).await.unwrap()
}

/// Our tables in the order of creation, with their columns and types.
async fn tables(db: &Db) -> Vec<(String, BTreeMap<String, String>)> {
    let sql = match db.writer().get_database_backend() {
        DbBackend::Sqlite => {
            "SELECT t.name AS t, c.name AS c, c.type AS k FROM sqlite_master t, pragma_table_info(t.name) c \
             WHERE t.type = 'table' ORDER BY t.rowid"
        }
        _ => {
            "SELECT table_name::text AS t, column_name::text AS c, data_type::text AS k FROM information_schema.columns \
             WHERE table_schema = 'public' ORDER BY table_name::regclass::oid"
        }
    };
    let mut tables = Vec::<(String, BTreeMap<String, String>)>::new();
    for row in rows(db.writer(), sql).await {
        let [table, column, kind] = ["t", "c", "k"].map(|name| row[name].as_str().unwrap().to_owned());
        if table == "seaql_migrations" {
            continue;
        }
        match tables.iter_mut().find(|(name, _)| *name == table) {
            Some((_, columns)) => _ = columns.insert(column, kind),
            None => tables.push((table, BTreeMap::from([(column, kind)]))),
        }
    }
    tables
}

/// Inserts a row into every empty table. All ids are equal, so that every foreign key is valid.
async fn fill(db: &Db, tables: &[(String, BTreeMap<String, String>)]) {
    for (table, columns) in tables {
        let sample = |kind: &String| match kind.to_lowercase() {
            kind if kind.contains("uuid") => "'00000000-0000-4000-8000-000000000000'",
            kind if kind.contains("time") => "'2026-03-01 12:00:00+00:00'",
            kind if kind.contains("json") => "'{}'",
            kind if kind.contains("bool") => "FALSE",
            kind if kind.contains("int") => "1",
            kind if kind.contains("blob") => "X'00'",
            kind if kind.contains("bytea") => r"'\x00'",
            kind if kind.contains("text") => "'x'",
            kind => panic!("no sample for a column of {table} with type {kind}"),
        };
        let values: Vec<_> = columns.values().map(sample).collect();
        let names: Vec<_> = columns.keys().map(|name| format!("\"{name}\"")).collect();
        if rows(db.writer(), &format!("SELECT 1 AS n FROM {table}")).await.is_empty() {
            let sql = format!("INSERT INTO {table} ({}) VALUES ({})", names.join(", "), values.join(", "));
            db.writer().execute_unprepared(&sql).await.expect(table);
        }
        assert_eq!(rows(db.writer(), &format!("SELECT 1 AS n FROM {table}")).await.len(), 1, "{table}");
    }
}

#[test]
fn migrations_run_up_down_and_up_again_with_rows_in_every_table() {
    it_unstarted(|t| async {
        let db = empty_database(&t).await;
        for _ in Migrator::migrations() {
            Migrator::up(db.pool(), Some(1)).await.unwrap();
            fill(&db, &tables(&db).await).await;
        }
        let complete = tables(&db).await;
        assert!(complete.len() >= 17, "{complete:?}");
        for _ in Migrator::migrations() {
            Migrator::down(db.pool(), Some(1)).await.unwrap();
        }
        assert_eq!(tables(&db).await, []);
        app::migrate(&db).await.unwrap();
        assert_eq!(tables(&db).await, complete);
        app::migrate(&db).await.unwrap();
        db.close().await.unwrap();
        t
    });
}

#[test]
fn instances_that_start_together_on_an_empty_database_share_their_keys() {
    it_unstarted(|mut t| async {
        empty_database(&t).await.close().await.unwrap();
        t.set("DCA_MASTER_KEY", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=");
        let (one, two) = tokio::join!(t.assemble(&[]), t.assemble(&[]));
        let (one, two) = (one.unwrap().core.clone(), two.unwrap().core.clone());
        let tenant = TestTenant::new(&one, "Makers").await;
        let gold = tenant.product("Gold", "GOLD").await;
        let (license, key) = tenant.license(&gold, 1).await;
        assert_eq!(licenses::reveal_key(&two, &license).unwrap(), key);
        let (found, _) = licenses::inspect(&two, &tenant.caller.scope(), &key).await.unwrap();
        assert_eq!(found.id, license.id);
        t
    });
}

#[test]
fn a_wrong_master_key_is_refused_at_start_without_changes() {
    it_unstarted(|t| async {
        let core = t.instance().await;
        let tenant = TestTenant::new(&core, "Makers").await;
        let (license, key) = tenant.license(&tenant.product("Gold", "GOLD").await, 1).await;
        let wrong = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
        let error = t.assemble(&[("DCA_MASTER_KEY", wrong)]).await.err().expect("the wrong key was accepted");
        assert_eq!(
            format!("{error:#}"),
            "the master key does not match this database; use the key it was created with"
        );
        assert_eq!(licenses::reveal_key(&t.instance().await, &license).unwrap(), key);

        let file = t.dir().join("master.key");
        for damaged in ["", "not base64!", "AAEC"] {
            std::fs::write(&file, damaged).unwrap();
            let error = format!("{:#}", t.assemble(&[]).await.err().expect("the damaged key was accepted"));
            assert!(error.contains("master.key is not 32 bytes of base64"), "{error}");
            assert_eq!(std::fs::read_to_string(&file).unwrap(), damaged, "the file was overwritten");
        }
        std::fs::remove_file(&file).unwrap();
        let error = format!("{:#}", t.assemble(&[]).await.err().expect("the missing key was replaced"));
        assert!(error.contains("restore it from your backup") && !file.exists(), "{error}");
        t
    });
}

#[test]
fn sqlite_uses_safe_pragmas() {
    it_unstarted(|t| async {
        let url = format!("sqlite://{}?mode=rwc", t.dir().join("own.db").display());
        let db = Db::connect(&url, 4).await.unwrap();
        for (pragma, expected) in
            [("journal_mode", "wal"), ("foreign_keys", "1"), ("synchronous", "2"), ("busy_timeout", "10000")]
        {
            let row = db.writer().query_one_raw(Statement::from_string(DbBackend::Sqlite, format!("PRAGMA {pragma}")));
            let row = row.await.unwrap().unwrap();
            let number = row.try_get_by_index::<i64>(0).map(|number| number.to_string());
            assert_eq!(number.or_else(|_| row.try_get_by_index::<String>(0)).unwrap(), expected, "{pragma}");
        }
        db.close().await.unwrap();
        t
    });
}

/// A repeatable pseudo-random number below `bound`.
fn draw(ids: &Ids, bound: u16) -> u16 {
    u16::from_be_bytes(ids.bytes()) % bound
}

#[test]
fn license_queries_agree_with_the_license_state() {
    it_unstarted(|t| async {
        const MEMBERS: u64 = 32;
        let (core, ids) = (t.instance().await, Ids::seeded(3));
        let tenant = TestTenant::new(&core, "Makers").await;
        let mut total = 0;
        for member in 1..=MEMBERS {
            let hours = [None, Some(1 + draw(&ids, 60))][usize::from(draw(&ids, 5) > 0)];
            let duration = hours.map(|hours| std::time::Duration::from_secs(u64::from(hours) * 3_600));
            let product = tenant.terms("Gold", "GOLD", duration).await;
            let (license, _) = tenant.license(&product, member).await;
            if draw(&ids, 6) == 0 {
                licenses::revoke(&core, &tenant.caller, license.id, "test").await.unwrap();
            }
        }
        for _ in 0..20 {
            t.clock.advance(Duration::hours(draw(&ids, 6).into()));
            let (mut expired, mut expected) = (0, Vec::new());
            for member in 1..=MEMBERS {
                for license in
                    licenses::list_of(&core, &tenant.caller.scope(), tenant.user(member).await).await.unwrap()
                {
                    let state = license.state(t.clock.now());
                    expired += u64::from(state == LicenseState::Expired && license.lapse_seen_at.is_none());
                    expected.extend((state != LicenseState::Revoked).then_some((license.id, state)));
                }
            }
            assert_eq!(licenses::announce_expired(&core).await.unwrap(), expired, "recorded as expired");
            total += expired;
            let mut usable = Vec::new();
            for member in 1..=MEMBERS {
                usable.extend(
                    licenses::list_usable(&core, &tenant.caller.scope(), tenant.user(member).await).await.unwrap(),
                );
            }
            let usable: Vec<_> = usable.into_iter().map(|license| (license.id, license.state)).collect();
            assert_eq!(usable, expected, "shown to members");
        }
        assert!(total > 5, "too few licenses expired: {total}");
        t
    });
}

#[test]
fn the_filter_by_state_agrees_with_the_license_state() {
    it_unstarted(|t| async {
        const LICENSES: usize = 90;
        let (core, ids) = (t.instance().await, Ids::seeded(5));
        let tenant = TestTenant::new(&core, "Makers").await;
        let gold = tenant.product("Gold", "GOLD").await;
        // Times before, at and after the one that is asked about.
        let times = [-1, 0, 1].map(|hours| format!("'{}'", (t.clock.now() + Duration::hours(hours)).to_rfc3339()));
        let optional =
            |percent: u16| if draw(&ids, 100) < percent { &*times[usize::from(draw(&ids, 3))] } else { "NULL" };
        for _ in 0..LICENSES {
            let id = tenant.generated(&gold).await.0.id;
            let rule = OnSourceLost::ALL[usize::from(draw(&ids, 4))];
            let mut changes = vec![format!("on_source_lost = '{rule}'")];
            for (column, percent) in [
                ("assigned_at", 85),
                ("activated_at", 60),
                ("first_valid_at", 45),
                ("renewed_at", 40),
                ("lapses_at", 45),
                ("lapse_seen_at", 15),
                ("suspended_at", 25),
                ("sources_end_at", 35),
                ("revoked_at", 10),
            ] {
                changes.push(format!("{column} = {}", optional(percent)));
            }
            let id = if core.db.is_shared() { format!("'{id}'") } else { format!("X'{}'", id.0.simple()) };
            let sql = format!("UPDATE licenses SET {} WHERE id = {id}", changes.join(", "));
            core.db.writer().execute_unprepared(&sql).await.unwrap();
        }
        let list = async |state: Option<LicenseState>| {
            let filter = licenses::LicenseFilter { state, ..licenses::LicenseFilter::default() };
            let request = PageRequest::new(None, Some(100)).unwrap();
            licenses::list(&core, &tenant.caller, &filter, &request).await.unwrap().items
        };
        let all = list(None).await;
        assert_eq!(all.len(), LICENSES);
        for &state in LicenseState::ALL {
            let found: Vec<_> = list(Some(state)).await.iter().map(|facts| facts.license.id).collect();
            let is_in = |facts: &&licenses::LicenseFacts| facts.license.state(t.clock.now()) == state;
            let expected: Vec<_> = all.iter().filter(is_in).map(|facts| facts.license.id).collect();
            assert!(found == expected && !found.is_empty(), "{state}: {found:?} {expected:?}");
        }
        let unannounced = all.iter().filter(|facts| facts.license.lapse_seen_at.is_none());
        let expired = unannounced.filter(|facts| facts.license.state(t.clock.now()) == LicenseState::Expired).count();
        assert_eq!(licenses::announce_expired(&core).await.unwrap(), expired as u64);
        t
    });
}

#[test]
fn a_grace_ends_at_the_decided_time() {
    it_unstarted(|t| async {
        let (core, ids) = (t.instance().await, Ids::seeded(4));
        let tenant = TestTenant::new(&core, "Makers").await;
        let mut ends = Vec::new();
        for member in 1..=12 {
            let grace = 1 + u64::from(draw(&ids, 30));
            let terms = PolicyPatch::default().with("sourceGraceSeconds", grace * 3_600);
            let gold = products::create_or_update(&core, &tenant.caller, "Gold", Some("GOLD"), &terms).await;
            let product = gold.unwrap().product;
            tenant.license(&product, member).await;
            tenant.observe(&product, member, Level::Absent, RECONCILED).await.unwrap();
            ends.push(t.clock.now() + std::time::Duration::from_secs(grace * 3_600));
        }
        while !ends.is_empty() {
            t.clock.advance(Duration::hours(draw(&ids, 5).into()));
            let before = ends.len();
            ends.retain(|end| *end > t.clock.now());
            assert_eq!(entitlements::end_expired_grace(&core).await.unwrap(), (before - ends.len()) as u64);
        }
        t
    });
}

#[test]
fn an_entitlement_has_one_active_license_under_concurrent_grants_and_revocations() {
    it_unstarted(|t| async {
        let cores = [t.instance().await, t.instance().await];
        let tenant = TestTenant::new(&cores[0], "Makers").await;
        let gold = tenant.product("Gold", "GOLD").await;
        let tasks = (0..8).map(|task| {
            let (tenant, gold) = (tenant.on_instance(&cores[task % 2]), gold.clone());
            tokio::spawn(async move {
                let ids = Ids::seeded(task as u64);
                for _ in 0..15 {
                    let member = u64::from(draw(&ids, 6));
                    let result = match tenant.unrevoked_licenses(&gold, member).await.pop() {
                        Some(license) => {
                            licenses::revoke(&tenant.core, &tenant.caller, license.id, "test").await.map(drop)
                        }
                        None => entitlements::grant(&tenant.core, &tenant.caller, gold.id, tenant.user(member).await)
                            .await
                            .map(drop),
                    };
                    assert!(matches!(result, Ok(()) | Err(Error::Refused(_))), "{result:?}");
                }
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.unwrap();
        }
        for member in 0..6 {
            if tenant.unrevoked_licenses(&gold, member).await.is_empty() {
                entitlements::grant(&tenant.core, &tenant.caller, gold.id, tenant.user(member).await).await.unwrap();
            }
            assert_eq!(tenant.unrevoked_licenses(&gold, member).await.len(), 1, "member {member}");
        }
        t
    });
}

#[test]
fn concurrent_changes_to_the_same_products_and_guilds_do_not_fail() {
    it_unstarted(|t| async {
        let cores = [t.instance().await, t.instance().await];
        let (tenant, barrier) = (TestTenant::new(&cores[0], "Makers").await, Arc::new(Barrier::new(8)));
        let tasks = (0..8).map(|task| {
            let (core, tenant, barrier) =
                (cores[task % 2].clone(), tenant.on_instance(&cores[task % 2]), barrier.clone());
            tokio::spawn(async move {
                for n in 0..5 {
                    barrier.wait().await;
                    guilds::record_join(&core, (900 + n).into(), "Makers").await.unwrap();
                    let terms = PolicyPatch::default().with("sourceGraceSeconds", task as u64);
                    let name = format!("Product {n}");
                    let defined =
                        products::create_or_update(&core, &tenant.caller, &name, Some(&format!("P{n}")), &terms).await;
                    assert!(matches!(defined, Ok(_) | Err(Error::Refused(_))), "{defined:?}");
                }
            })
        });
        for task in tasks.collect::<Vec<_>>() {
            task.await.unwrap();
        }
        assert_eq!(tenants::list(&cores[0]).await.unwrap().len(), 6, "one for each guild, and the tenant");
        assert_eq!(products::list_all(&cores[0], &tenant.caller.scope()).await.unwrap().len(), 5);
        t
    });
}

#[test]
fn a_request_that_is_cancelled_while_it_begins_a_transaction_costs_no_later_write() {
    it_unstarted(|t| async {
        let (core, other) = (t.instance().await, t.instance().await);
        // Any transaction; it is dropped a little later each time, and thereby at every step.
        for micros in 0..400 {
            let work = tenants::create(&core, "Makers");
            _ = tokio::time::timeout(std::time::Duration::from_micros(micros * 5), work).await;
        }
        // Single statements, on every connection of the pool.
        let names: Vec<_> = (0..100).map(|n| format!("worker {n}")).collect();
        join_all(names.iter().map(async |name| workers::register(&core, name).await.unwrap())).await;
        let stored: HashSet<_> = workers::list(&other).await.unwrap().into_iter().map(|row| row.name).collect();
        let lost: Vec<_> = names.iter().filter(|name| !stored.contains(*name)).collect();
        assert!(lost.is_empty(), "written in a transaction that nobody commits: {lost:?}");
        t
    });
}

#[test]
fn events_are_stored_as_they_were_recorded() {
    it_unstarted(|t| async {
        let core = t.instance().await;
        let tenant = TestTenant::new(&core, "Makers").await;
        let product = tenant.product("Gold", "GOLD").await;
        let (license, _) = tenant.license(&product, 1).await;
        let reason = r#"it's "over" \ $1 ? :x {} -- ; '' \' \n 日本 🎫"#;
        licenses::revoke(&core, &tenant.caller, license.id, reason).await.unwrap();
        let newest = events::list(&core, &tenant.caller.scope(), 1).await.unwrap().remove(0);
        assert_eq!(newest.after.unwrap()["reason"], reason);
        t
    });
}

#[test]
fn events_appear_in_order_and_without_gaps() {
    it_unstarted(|t| async {
        let cores = [t.instance().await, t.instance().await];
        let tenant = TestTenant::new(&cores[0], "Makers").await;
        let gold = tenant.product("Gold", "GOLD").await;
        let done = Arc::new(AtomicBool::new(false));
        let reader = tokio::spawn({
            let (tenant, done) = (tenant.on_instance(&cores[1]), done.clone());
            async move {
                let (mut newest, mut reads) = (0, 0);
                // `done` is checked before reading, so that the last read includes every event.
                while !done.load(Ordering::SeqCst) || newest == 0 {
                    let log = events::list(&tenant.core, &tenant.caller.scope(), 10_000).await.unwrap();
                    let seqs: Vec<_> = log.iter().rev().map(|event| event.seq).collect();
                    assert!(seqs.iter().copied().eq((1..).take(seqs.len())), "a gap after {newest}: {seqs:?}");
                    assert!(seqs.len() >= newest, "events disappeared");
                    (newest, reads) = (seqs.len(), reads + 1);
                }
                reads
            }
        });
        let writers = (0..8_u64).map(|writer| {
            let (tenant, gold) = (tenant.on_instance(&cores[usize::from(writer > 3)]), gold.clone());
            tokio::spawn(async move {
                for n in 0..8 {
                    tenant.observe(&gold, writer * 100 + n, Level::Present, RECONCILED).await.unwrap();
                }
            })
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await.unwrap();
        }
        done.store(true, Ordering::SeqCst);
        assert!(reader.await.unwrap() > 3, "the reader hardly ran");
        let log = events::list(&cores[0], &tenant.caller.scope(), 10_000).await.unwrap();
        assert_eq!(log.len(), 1 + 8 * 8 * 2, "the product; created and assigned, for each license");
        t
    });
}
