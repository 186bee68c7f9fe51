//! Rate limits and notifications, in memory and on Redis.

use std::{num::NonZeroU32, time::Duration};

use dca_core::{
    Bus, Limiter,
    bus::Topic,
    limiter::{Bucket, Rate},
};
use redis::{
    Client,
    aio::{ConnectionManager, ConnectionManagerConfig},
};

use crate::support::harness::{LIMIT, it_unstarted, services, unique};

fn rates() -> [(Bucket, Rate); 2] {
    let rate = |n| Rate::per_minute(NonZeroU32::new(n).unwrap());
    [(Bucket::Validate, rate(3)), (Bucket::AuthFailure, rate(60))]
}

fn connect(url: &str) -> (Client, ConnectionManager) {
    let client = Client::open(url).unwrap();
    let timeout = Some(Duration::from_millis(500));
    let settings = ConnectionManagerConfig::new().set_number_of_retries(1).set_connection_timeout(timeout);
    (client.clone(), ConnectionManager::new_lazy_with_config(client, settings).unwrap())
}

async fn assert_limits(limiter: &Limiter, what: &str) {
    for n in 1..=3 {
        assert_eq!(limiter.check(Bucket::Validate, "ana").await, Ok(3 - n), "{what}: pass {n}");
    }
    for _ in 0..2 {
        let wait = limiter.check(Bucket::Validate, "ana").await.expect_err(what);
        assert!(
            wait > Duration::from_secs(15) && wait <= Duration::from_secs(20),
            "{what}: one of three a minute: {wait:?}"
        );
    }
    assert_eq!(limiter.check(Bucket::Validate, "ben").await, Ok(2), "{what}: another key");
    assert_eq!(limiter.check(Bucket::AuthFailure, "ana").await, Ok(59), "{what}: another bucket");
    assert_eq!(limiter.check(Bucket::Dm, "ana").await, Ok(u32::MAX), "{what}: a bucket without a rate");
    limiter.drop_idle();
    assert!(limiter.check(Bucket::Validate, "ana").await.is_err(), "{what}: buckets in use are kept");
}

#[test]
fn limits_are_the_same_in_memory_on_redis_and_while_redis_is_unreachable() {
    it_unstarted(|t| async {
        assert_limits(&Limiter::new(&rates(), None), "in memory").await;
        let unreachable = connect("redis://127.0.0.1:1").1;
        assert_limits(&Limiter::new(&rates(), Some((unreachable, "dca"))), "with Redis unreachable").await;
        if let Some(url) = services().1 {
            let prefix = unique();
            let mut instances = (0..2).map(|_| Limiter::new(&rates(), Some((connect(&url).1, &prefix))));
            assert_limits(&instances.next().unwrap(), "on Redis").await;
            let other = instances.next().unwrap();
            assert!(other.check(Bucket::Validate, "ana").await.is_err(), "instances share a bucket");
        }
        t
    });
}

#[test]
fn instances_together_allow_as_much_as_the_limit_although_each_takes_several_tokens_at_once() {
    it_unstarted(|t| async {
        let Some(url) = services().1 else { return t };
        let rate = Rate { burst: NonZeroU32::new(600).unwrap(), every: Duration::from_mins(1) };
        let prefix = unique();
        let instances =
            [0, 1].map(|_| Limiter::new(&[(Bucket::Validate, rate)], Some((connect(&url).1, prefix.as_str()))));
        let (mut allowed, mut left) = (0, 600);
        for n in 0..800 {
            if let Ok(now_left) = instances[n % 2].check(Bucket::Validate, "ana").await {
                allowed += 1;
                left = left.min(now_left);
            }
        }
        assert!((560..=600).contains(&allowed), "{allowed}");
        assert!(left < 8, "{left}");
        assert_eq!(instances[0].check(Bucket::Validate, "ben").await, Ok(599), "another key");
        t
    });
}

#[test]
fn a_notification_reaches_every_subscriber() {
    it_unstarted(|t| async {
        let bus = Bus::memory();
        let (mut one, mut two) = (bus.subscribe(), bus.clone().subscribe());
        bus.notify(Topic::Outbox);
        assert_eq!((one.recv().await, two.recv().await), (Ok(Topic::Outbox), Ok(Topic::Outbox)));
        if let Some(url) = services().1 {
            let prefix = unique();
            // Subscribed at once, before the bus is connected and sends every topic.
            let [(local, mut local_rx), (_remote, mut remote_rx), (other, mut other_rx)] =
                [&prefix, &prefix, &unique()].map(|prefix| {
                    let (client, connection) = connect(&url);
                    let bus = Bus::redis(client, connection, prefix);
                    let receiver = bus.subscribe();
                    (bus, receiver)
                });
            for (name, receiver) in [("local", &mut local_rx), ("remote", &mut remote_rx), ("other", &mut other_rx)] {
                for topic in Topic::ALL {
                    let received = tokio::time::timeout(LIMIT, receiver.recv()).await.expect(name);
                    assert_eq!(received, Ok(*topic), "a new subscriber receives every topic once");
                }
            }
            local.notify(Topic::Workers);
            other.notify(Topic::Outbox);
            for (receiver, topic) in
                [(&mut remote_rx, Topic::Workers), (&mut local_rx, Topic::Workers), (&mut other_rx, Topic::Outbox)]
            {
                assert_eq!(tokio::time::timeout(LIMIT, receiver.recv()).await.unwrap(), Ok(topic));
            }
        }
        t
    });
}
