//! Background work: outbox deliveries and the leases of scheduled workers.

use std::{collections::HashSet, time::Duration};

use chrono::TimeDelta;
use dca_auth::workers::CLEANUP;
use dca_core::{
    Caller, Core,
    bus::Topic,
    entitlements::{self, Evidence, Level},
    guilds,
    ids::{InstanceId, LicenseId},
    licenses,
    outbox::{self, Claim, Delivery, Outcome, Transport},
    policy::PolicyPatch,
    products::{self, Product},
    workers,
};
use sea_orm_migration::sea_orm::ConnectionTrait;

use crate::support::{
    fixtures::{RECONCILED, TestTenant, rows},
    harness::it_unstarted,
};

const LEASE: Duration = Duration::from_secs(30);
const INSTANCE: InstanceId = InstanceId(uuid::Uuid::nil());

/// Grants each member a license, which queues one delivery per member.
async fn grant(tenant: &TestTenant, product: &Product, members: std::ops::Range<u64>) -> Vec<LicenseId> {
    let mut granted = Vec::new();
    for member in members {
        let user = tenant.user(member).await;
        granted.push(entitlements::grant(&tenant.core, &tenant.caller, product.id, user).await.unwrap());
    }
    granted
}

async fn claim(core: &Core) -> Vec<Claim> {
    claim_of(core, Transport::DirectMessages).await
}

async fn claim_of(core: &Core, transport: Transport) -> Vec<Claim> {
    outbox::claim(core, transport, 8, LEASE).await.unwrap()
}

async fn claim_one(core: &Core) -> Claim {
    let mut claimed = claim(core).await;
    assert_eq!(claimed.len(), 1, "{claimed:?}");
    claimed.remove(0)
}

#[test]
fn a_delivery_with_an_expired_claim_is_claimed_again_and_only_the_newest_claim_completes_it() {
    it_unstarted(|t| async {
        let (one, two) = (t.instance().await, t.instance().await);
        let tenant = TestTenant::new(&one, "Makers").await;
        let gold = tenant.product("Gold", "GOLD").await;
        let license = grant(&tenant, &gold, 1..2).await[0];
        let first = claim_one(&one).await;
        assert_eq!((first.attempt, &first.delivery), (1, &Delivery::KeyDm { license }));
        t.clock.advance(TimeDelta::seconds(29));
        assert!(claim(&two).await.is_empty(), "the lease is current");
        t.clock.advance(TimeDelta::seconds(1));
        let second = claim_one(&two).await;
        assert_eq!((second.id, second.attempt), (first.id, 2));
        assert!(!outbox::complete(&one, &first, Outcome::Sent).await.unwrap(), "the lease has expired");
        assert!(claim(&one).await.is_empty(), "a late completion does not release the claim");
        assert!(outbox::complete(&two, &second, Outcome::Sent).await.unwrap());
        t.clock.advance(TimeDelta::days(1));
        assert!(claim(&two).await.is_empty(), "sent once");
        t
    });
}

#[test]
fn instances_share_deliveries_without_claiming_one_twice() {
    it_unstarted(|t| async {
        let cores = [t.instance().await, t.instance().await];
        let tenant = TestTenant::new(&cores[0], "Makers").await;
        let gold = tenant.product("Gold", "GOLD").await;
        let granted = grant(&tenant, &gold, 0..40).await;
        let tasks = (0..4).map(|task| {
            let core = cores[task % 2].clone();
            tokio::spawn(async move {
                let mut claims = Vec::new();
                while outbox::queue_depth(&core).await.unwrap().claimed < 40 {
                    claims.extend(outbox::claim(&core, Transport::DirectMessages, 3, LEASE).await.unwrap());
                }
                claims
            })
        });
        let (mut ids, mut total) = (HashSet::new(), 0);
        for task in tasks.collect::<Vec<_>>() {
            let claims = task.await.unwrap();
            total += claims.len();
            ids.extend(claims.into_iter().map(|claim| claim.id));
        }
        assert_eq!((ids.len(), total), (granted.len(), granted.len()));
        t
    });
}

#[test]
fn a_failing_delivery_is_retried_with_backoff_and_given_up_after_the_last_attempt() {
    it_unstarted(|t| async {
        let core = t.instance().await;
        let tenant = TestTenant::new(&core, "Makers").await;
        let gold = tenant.product("Gold", "GOLD").await;
        grant(&tenant, &gold, 1..2).await;
        let waiting = claim_one(&core).await;
        outbox::complete(&core, &waiting, Outcome::Wait(Duration::from_mins(1))).await.unwrap();
        t.clock.advance(TimeDelta::seconds(60));
        for attempt in 1..=18_u32 {
            let claim = claim_one(&core).await;
            assert_eq!(claim.attempt, attempt, "waiting does not count as an attempt");
            assert!(outbox::complete(&core, &claim, Outcome::Failed("no".to_owned())).await.unwrap());
            let pause = TimeDelta::seconds((5_i64 << (attempt - 1)).min(4 * 3_600));
            t.clock.advance(pause - TimeDelta::seconds(1));
            assert!(self::claim(&core).await.is_empty(), "during the pause after attempt {attempt}");
            t.clock.advance(TimeDelta::seconds(1));
        }
        assert!(claim(&core).await.is_empty());
        let depth = outbox::queue_depth(&core).await.unwrap();
        assert_eq!((depth.pending, depth.dead), (0, 1));
        assert_eq!(rows(core.db.writer(), "SELECT last_error FROM outbox").await[0]["last_error"], "no");
        t
    });
}

#[test]
fn log_lines_of_a_channel_are_delivered_in_order() {
    it_unstarted(|t| async {
        let core = t.instance().await;
        let guild = guilds::record_join(&core, 900.into(), "Makers").await.unwrap();
        let tenant = TestTenant { core: core.clone(), caller: Caller::operator(guild.tenant_id) };
        guilds::set_log_channel(&core, &tenant.caller, guild.id, 901.into()).await.unwrap();
        let gold = tenant.product("Gold", "GOLD").await;
        for member in 0..3 {
            tenant.observe(&gold, member, Level::Present, RECONCILED).await.unwrap();
        }
        assert_eq!(dca_core::log_channel::enqueue_log_lines(&core).await.unwrap(), 7);
        assert_eq!(dca_core::log_channel::enqueue_log_lines(&core).await.unwrap(), 0, "each line once");
        let claim_line = async || claim_of(&core, Transport::Discord).await;
        let first = claim_line().await.remove(0);
        outbox::complete(&core, &first, Outcome::Failed("no".to_owned())).await.unwrap();
        assert!(claim_line().await.is_empty(), "later lines wait for the failed one");
        t.clock.advance(TimeDelta::seconds(5));
        for expected in [1, 2, 4, 6] {
            let claim = claim_line().await.remove(0);
            assert!(matches!(claim.delivery, Delivery::LogLine { seq, .. } if seq == expected), "{claim:?}");
            outbox::complete(&core, &claim, Outcome::Sent).await.unwrap();
        }
        t
    });
}

#[test]
fn an_unreadable_delivery_does_not_block_others() {
    it_unstarted(|t| async {
        let core = t.instance().await;
        let tenant = TestTenant::new(&core, "Makers").await;
        let gold = tenant.product("Gold", "GOLD").await;
        grant(&tenant, &gold, 1..2).await;
        // A kind written by a newer version during a rolling update.
        let sql = r#"UPDATE outbox SET payload = '{"kind":"parcel"}'"#;
        core.db.writer().execute_unprepared(sql).await.unwrap();
        let readable = grant(&tenant, &gold, 2..4).await;
        let claimed = claim(&core).await;
        assert_eq!(claimed.len(), readable.len(), "{claimed:?}");
        for license in readable {
            assert!(claimed.iter().any(|claim| claim.delivery == Delivery::KeyDm { license }));
        }
        for claim in claimed {
            outbox::complete(&core, &claim, Outcome::Sent).await.unwrap();
        }
        for _ in 0..20 {
            t.clock.advance(TimeDelta::hours(5));
            assert!(claim(&core).await.is_empty());
        }
        assert_eq!(outbox::queue_depth(&core).await.unwrap().dead, 1, "given up after the last attempt");
        t
    });
}

#[test]
fn finished_deliveries_are_deleted_after_a_month() {
    it_unstarted(|mut t| async {
        t.start_without_bot().await;
        let core = t.core().clone();
        let tenant = TestTenant::new(&core, "Makers").await;
        let gold = tenant.product("Gold", "GOLD").await;
        grant(&tenant, &gold, 0..4).await;
        let outcomes = [
            Outcome::Sent,
            Outcome::Undelivered("closed".to_owned()),
            Outcome::Dead("gone".to_owned()),
            Outcome::Wait(Duration::from_hours(40 * 24)),
        ];
        for (claim, outcome) in claim(&core).await.iter().zip(outcomes) {
            outbox::complete(&core, claim, outcome).await.unwrap();
        }
        let remaining = async || rows(core.db.writer(), "SELECT state FROM outbox").await;
        t.clock.advance(TimeDelta::days(30));
        t.run_worker(CLEANUP).await;
        assert_eq!(remaining().await.len(), 4, "kept for 30 days");
        t.clock.advance(TimeDelta::days(1));
        t.run_worker(CLEANUP).await;
        assert_eq!(remaining().await, [serde_json::json!({ "state": "pending" })]);
        t.stop().await;
        t
    });
}

#[test]
fn a_revoked_key_is_not_delivered() {
    it_unstarted(|t| async {
        let core = t.instance().await;
        let tenant = TestTenant::new(&core, "Makers").await;
        let gold = tenant.product("Gold", "GOLD").await;
        let license = grant(&tenant, &gold, 1..2).await[0];
        assert!(licenses::for_delivery(&core, license).await.unwrap().is_some());
        licenses::revoke(&core, &tenant.caller, license, "test").await.unwrap();
        assert!(licenses::for_delivery(&core, license).await.unwrap().is_none());
        t
    });
}

#[test]
fn only_one_instance_runs_a_scheduled_worker() {
    it_unstarted(|t| async {
        let cores = [t.instance().await, t.instance().await];
        workers::register(&cores[0], "tick").await.unwrap();
        for tick in 1..=20 {
            let next = t.clock.now() + TimeDelta::minutes(1);
            let attempts = (0..6).map(|n| {
                let core = cores[n % 2].clone();
                tokio::spawn(async move { (n, workers::acquire(&core, INSTANCE, "tick", LEASE, next).await.unwrap()) })
            });
            let mut leases = Vec::new();
            for task in attempts.collect::<Vec<_>>() {
                let (n, lease) = task.await.unwrap();
                leases.extend(lease.map(|lease| (n, lease)));
            }
            assert_eq!(leases.len(), 1, "tick {tick}: {leases:?}");
            assert_eq!(leases[0].1.token, tick, "the token increases with every lease");
            workers::release(&cores[leases[0].0 % 2], &leases[0].1, "done").await.unwrap();
            assert!(workers::acquire(&cores[0], INSTANCE, "tick", LEASE, next).await.unwrap().is_none(), "not due yet");
            t.clock.advance(TimeDelta::minutes(1));
        }
        t
    });
}

#[test]
fn a_wake_up_during_a_run_causes_another_run() {
    it_unstarted(|t| async {
        let core = t.instance().await;
        workers::register(&core, "tick").await.unwrap();
        let next = t.clock.now() + TimeDelta::hours(1);
        let acquire = async || workers::acquire(&core, INSTANCE, "tick", LEASE, next).await.unwrap();
        let running = acquire().await.unwrap();
        workers::schedule_in(&core, "tick", Duration::ZERO).await.unwrap();
        assert!(acquire().await.is_none(), "already running");
        workers::release(&core, &running, "done").await.unwrap();
        let again = acquire().await.expect("the wake-up was lost");
        workers::schedule_in(&core, "tick", Duration::from_mins(1)).await.unwrap();
        workers::release(&core, &again, "done").await.unwrap();
        assert!(acquire().await.is_none(), "one run per wake-up");
        t.clock.advance(TimeDelta::minutes(1));
        assert!(acquire().await.is_some(), "due after the requested delay");
        t
    });
}

#[test]
fn the_lease_of_a_dead_instance_is_taken_over_and_its_late_result_is_ignored() {
    it_unstarted(|t| async {
        let (one, two) = (t.instance().await, t.instance().await);
        workers::register(&one, "tick").await.unwrap();
        let next = t.clock.now() + TimeDelta::hours(1);
        let lost = workers::acquire(&one, INSTANCE, "tick", LEASE, next).await.unwrap().unwrap();
        t.clock.advance(TimeDelta::seconds(20));
        assert!(workers::renew(&one, &lost, LEASE).await.unwrap());
        t.clock.advance(TimeDelta::seconds(29));
        assert!(workers::acquire(&two, INSTANCE, "tick", LEASE, next).await.unwrap().is_none(), "renewed");
        t.clock.advance(TimeDelta::seconds(1));
        let taken = workers::acquire(&two, INSTANCE, "tick", LEASE, next).await.unwrap().unwrap();
        assert!(taken.token > lost.token);
        assert!(!workers::renew(&one, &lost, LEASE).await.unwrap());
        workers::release(&one, &lost, "too late").await.unwrap();
        assert!(
            workers::acquire(&one, INSTANCE, "tick", LEASE, next).await.unwrap().is_none(),
            "still leased by the other instance"
        );
        workers::release(&two, &taken, "done").await.unwrap();
        let report = workers::list(&one).await.unwrap().into_iter().find(|row| row.name == "tick").unwrap();
        assert_eq!(report.last_result.as_deref(), Some("done"));
        t
    });
}

#[test]
fn a_silently_issued_key_is_delivered_when_the_role_is_gained_and_not_when_it_is_lost() {
    it_unstarted(|t| async {
        let core = t.instance().await;
        let tenant = TestTenant::new(&core, "Makers").await;
        let terms = PolicyPatch::default().with("sourceGraceSeconds", 3_600);
        let product =
            products::create_or_update(&core, &tenant.caller, "Gold", Some("GOLD"), &terms).await.unwrap().product;
        for (level, evidence, pending) in [
            (Level::Present, RECONCILED, 0),
            (Level::Absent, Evidence::Reported, 0),
            (Level::Present, Evidence::Reported, 1),
            (Level::Present, Evidence::Reported, 1),
        ] {
            tenant.observe(&product, 1, level, evidence).await.unwrap();
            assert_eq!(outbox::queue_depth(&core).await.unwrap().pending, pending, "{level:?} {evidence:?}");
        }
        t
    });
}

#[test]
fn many_deliveries_are_claimed_and_completed_with_one_statement_each() {
    it_unstarted(|t| async {
        let core = t.instance().await;
        let tenant = TestTenant::new(&core, "Makers").await;
        let gold = tenant.product("Gold", "GOLD").await;
        grant(&tenant, &gold, 0..20).await;
        let before = core.db.statements();
        let claims = outbox::claim(&core, Transport::DirectMessages, 20, LEASE).await.unwrap();
        assert_eq!((claims.len(), core.db.statements() - before), (20, 1));
        let sent = claims.iter().map(|claim| (claim, Outcome::Sent)).collect();
        assert_eq!(outbox::complete_all(&core, sent).await.unwrap().len(), 20);
        assert_eq!(core.db.statements() - before, 2);
        assert_eq!(outbox::queue_depth(&core).await.unwrap(), outbox::QueueDepth::default());
        t
    });
}

#[test]
fn of_outcomes_that_are_recorded_together_only_those_with_a_current_lease_count() {
    it_unstarted(|t| async {
        let (one, two) = (t.instance().await, t.instance().await);
        let tenant = TestTenant::new(&one, "Makers").await;
        let gold = tenant.product("Gold", "GOLD").await;
        grant(&tenant, &gold, 0..4).await;
        let mine = claim(&one).await;
        t.clock.advance(TimeDelta::seconds(30));
        // Another instance takes the first one over.
        let theirs = outbox::claim(&two, Transport::DirectMessages, 1, LEASE).await.unwrap().remove(0);
        let lost = theirs.id;
        let outcomes =
            [Outcome::Sent, Outcome::Sent, Outcome::Failed("no".to_owned()), Outcome::Undelivered("closed".to_owned())];
        let recorded = outbox::complete_all(&one, mine.iter().zip(outcomes).collect()).await.unwrap();
        let expected: HashSet<_> = mine.iter().map(|claim| claim.id).filter(|id| *id != lost).collect();
        assert_eq!(recorded, expected);
        let depth = outbox::queue_depth(&one).await.unwrap();
        assert_eq!((depth.pending, depth.claimed), (2, 1), "the failed one, and the one that was taken over");
        assert!(outbox::complete(&two, &theirs, Outcome::Sent).await.unwrap());
        t.clock.advance(TimeDelta::seconds(5));
        assert_eq!(claim_one(&one).await.attempt, 2, "the failed one");
        t
    });
}

#[test]
fn postponed_deliveries_are_due_later_and_claimed_ones_stay_claimed() {
    it_unstarted(|t| async {
        let core = t.instance().await;
        let tenant = TestTenant::new(&core, "Makers").await;
        let gold = tenant.product("Gold", "GOLD").await;
        grant(&tenant, &gold, 0..3).await;
        let claimed = outbox::claim(&core, Transport::DirectMessages, 1, LEASE).await.unwrap().remove(0);
        let before = core.db.statements();
        outbox::postpone(&core, Transport::DirectMessages, Duration::from_mins(1)).await.unwrap();
        assert_eq!(core.db.statements() - before, 1);
        assert_eq!(outbox::count_due(&core, Transport::DirectMessages, 8).await.unwrap(), 0);
        assert!(outbox::complete(&core, &claimed, Outcome::Sent).await.unwrap());
        t.clock.advance(TimeDelta::minutes(1));
        let later = claim(&core).await;
        assert_eq!(later.iter().map(|claim| claim.attempt).collect::<Vec<_>>(), [1, 1], "waiting is no attempt");
        t
    });
}

#[test]
fn messages_that_wait_for_the_limit_cost_no_statements() {
    it_unstarted(|mut t| async {
        const BURST: u64 = 10;
        t.set("DCA_DM_PER_MINUTE", "1");
        t.start().await;
        let (guild, _, _) = t.guild_with_product("Tools", 24).await;
        let tenant = TestTenant { core: t.core().clone(), caller: t.caller(&guild).await };
        let product = products::get(t.core(), &tenant.caller.scope(), "Tools").await.unwrap();
        let members: Vec<_> = (0..BURST).map(|n| guild.join(&format!("member {n}"))).collect();
        for member in &members {
            grant(&tenant, &product, member.user_id()..member.user_id() + 1).await;
        }
        for member in &members {
            t.discord.next_dm(member).await;
        }
        grant(&tenant, &product, 1_000..1_100).await;
        // A sign that the relay has seen what was queued before: it is asked in order.
        let before = t.core().db.statements();
        for _ in 0..100 {
            t.core().bus.notify(Topic::DirectMessages);
            assert_eq!(t.http().get(t.url("/live")).send().await.unwrap().status(), 200);
        }
        let statements = t.core().db.statements() - before;
        assert!(statements < 20, "{statements} statements for 100 notifications");
        let depth = outbox::queue_depth(t.core()).await.unwrap();
        assert_eq!((depth.pending, depth.claimed), (100, 0));
        // They are still waiting at the end.
        t.abandon();
        t
    });
}

#[test]
fn events_make_the_log_channel_due_only_where_there_is_one() {
    it_unstarted(|t| async {
        let core = t.instance().await;
        workers::register(&core, workers::LOG_CHANNEL).await.unwrap();
        let guild = guilds::record_join(&core, 900.into(), "Makers").await.unwrap();
        let tenant = TestTenant { core: core.clone(), caller: Caller::operator(guild.tenant_id) };
        let next = t.clock.now() + TimeDelta::minutes(1);
        let lease = workers::acquire(&core, INSTANCE, workers::LOG_CHANNEL, LEASE, next).await.unwrap().unwrap();
        workers::release(&core, &lease, "done").await.unwrap();
        let due_at = async || workers::list(&core).await.unwrap().remove(0).due_at;
        tenant.product("Gold", "GOLD").await;
        assert_eq!(due_at().await, next, "nobody reads these events");
        guilds::set_log_channel(&core, &tenant.caller, guild.id, 901.into()).await.unwrap();
        tenant.product("Silver", "SILV").await;
        assert_eq!(due_at().await, t.clock.now());
        t
    });
}
