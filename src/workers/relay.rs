//! Performs deliveries. For each carrier an ordinary apalis worker whose backend is a stream of claims: the
//! outbox row is the truth, so the stream never fails and every claim is settled, panic or not.

use std::{
    convert::Infallible,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use apalis::prelude::Data;
use dca_commands::{Rest as Discord, reply, rest::Failure};
use dca_core::{
    Snowflake,
    accounts::letters::{self, Letter},
    bus::Topic,
    entitlements,
    ids::{LicenseId, UserId},
    licenses,
    limiter::Bucket,
    log_channel,
    outbox::{self, Carrier, Claim, Delivery, Outcome},
};
use futures::{FutureExt, StreamExt, stream, stream::BoxStream};
use tokio::time::Instant;
use tracing::{error, info, warn};
use uuid::Uuid;

use crate::{
    App,
    outbound::mail,
    workers::{PAUSE, nudges},
};

/// Deliveries performed at once.
pub(crate) const fn concurrency(carrier: Carrier) -> usize {
    match carrier {
        Carrier::Discord => 8,
        Carrier::Smtp => 4,
    }
}

/// How much longer a lease is than the longest attempt.
const MARGIN: Duration = Duration::from_secs(5);

/// How long the outbox is left alone when nobody nudges.
const LOOK: Duration = Duration::from_secs(1);

/// How long direct messages rest when Discord asks for it.
const DM_REST: Duration = Duration::from_mins(15);

/// Until when direct messages rest.
#[derive(Clone, Default)]
pub(crate) struct Rest(Arc<Mutex<Option<Instant>>>);

impl Rest {
    fn begin(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + DM_REST);
    }

    fn left(&self) -> Option<Duration> {
        let until = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        until.and_then(|until| until.checked_duration_since(Instant::now())).filter(|left| !left.is_zero())
    }
}

/// Due deliveries of a carrier, each claimed when there is a place to perform it.
pub(crate) fn claims(app: App, carrier: Carrier) -> BoxStream<'static, Result<Claim, Infallible>> {
    let nudged = nudges(&app, Topic::Outbox).boxed();
    stream::unfold((app, nudged), move |(app, mut nudged)| async move {
        loop {
            if let Some(claim) = claim(&app, carrier).await {
                return Some((Ok(claim), (app, nudged)));
            }
            // Nothing due, or the database is away: look again soon, or when told.
            _ = tokio::time::timeout(LOOK, nudged.next()).await;
        }
    })
    .boxed()
}

async fn claim(app: &App, carrier: Carrier) -> Option<Claim> {
    let is_able = match carrier {
        Carrier::Discord => app.rest.is_some(),
        Carrier::Smtp => app.mailer.is_able(),
    };
    if !is_able {
        return None;
    }
    match outbox::claim(&app.core, carrier, 1, longest(app, carrier) + MARGIN).await {
        Ok(claimed) => claimed.into_iter().next(),
        Err(error) => {
            warn!(%error, "deliveries cannot be claimed; trying again");
            tokio::time::sleep(PAUSE).await;
            None
        }
    }
}

/// The longest attempt.
fn longest(app: &App, carrier: Carrier) -> Duration {
    match carrier {
        Carrier::Discord => app.config.delivery_timeout * 2,
        Carrier::Smtp => mail::ATTEMPT,
    }
}

/// Performs one delivery and writes down how it went.
pub(crate) async fn perform(claim: Claim, app: Data<App>, carrier: Data<Carrier>) -> Result<(), Infallible> {
    let attempt = tokio::time::timeout(longest(&app, *carrier), deliver(&app, &claim));
    let outcome = match AssertUnwindSafe(attempt).catch_unwind().await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => Outcome::Failed("timed out".to_owned()),
        Err(_) => Outcome::Failed("panicked".to_owned()),
    };
    match &outcome {
        Outcome::Dead(why) => error!(delivery = %claim.id, why, "a delivery is given up"),
        Outcome::Failed(why) => {
            warn!(delivery = %claim.id, attempt = claim.attempt, why, "a delivery failed; it is tried again");
        }
        Outcome::Undelivered(why) => info!(delivery = %claim.id, why, "not delivered"),
        Outcome::Sent | Outcome::Wait(_) => {}
    }
    metrics::counter!("dca_deliveries_total", "outcome" => outcome.word()).increment(1);
    match outbox::settle(&app.core, &claim, outcome).await {
        Ok(true) => {}
        Ok(false) => warn!(delivery = %claim.id, "settled by another instance meanwhile"),
        Err(error) => error!(delivery = %claim.id, %error, "not settled; it is tried again when its lease ends"),
    }
    Ok(())
}

/// One variant, one row: how each kind of delivery is performed.
async fn deliver(app: &App, claim: &Claim) -> Outcome {
    match (&claim.delivery, &app.rest) {
        (Delivery::Mail { letter, user, token }, _) => send_letter(app, claim, *letter, *user, *token).await,
        (_, None) => Outcome::Wait(LOOK),
        (Delivery::KeyDm { license }, Some(rest)) => send_key(app, rest, claim, *license).await,
        (Delivery::LogLine { channel, seq }, Some(rest)) => write_line(app, rest, claim, *channel, *seq).await,
        (Delivery::Refetch { guild, user }, Some(rest)) => refetch(app, rest, *guild, *user).await,
    }
}

/// What makes a message the same one at every try.
fn nonce(claim: &Claim) -> String {
    claim.id.simple().to_string()[8..].to_owned()
}

async fn send_key(app: &App, rest: &Discord, claim: &Claim, license: LicenseId) -> Outcome {
    let held = match licenses::for_delivery(&app.core, license).await {
        Ok(Some(held)) => held,
        Ok(None) => return Outcome::Undelivered("the license ended before its key was sent".to_owned()),
        Err(error) => return Outcome::Failed(error.to_string()),
    };
    if let Some(left) = app.dm_rest.left() {
        return Outcome::Wait(left);
    }
    if let Err(wait) = app.core.limiter.check(Bucket::Dm, "all").await {
        return Outcome::Wait(wait);
    }
    judged(app, rest.dm(held.0, &reply::key_dm(&held.1), &nonce(claim)).await)
}

async fn write_line(app: &App, rest: &Discord, claim: &Claim, channel: Snowflake, seq: i64) -> Outcome {
    match log_channel::find(&app.core, seq).await {
        Ok(Some((event, member))) => {
            judged(app, rest.line(channel, &reply::log_line(&event, member), &nonce(claim)).await)
        }
        Ok(None) => Outcome::Dead("its event is gone".to_owned()),
        Err(error) => Outcome::Failed(error.to_string()),
    }
}

async fn refetch(app: &App, rest: &Discord, guild: Snowflake, user: Snowflake) -> Outcome {
    if let Err(error) = app.core.stamps.catch_up(&app.core).await {
        return Outcome::Failed(error.to_string());
    }
    let stamp = app.core.stamps.next(&app.core.clock);
    let roles = match rest.member(guild, user).await {
        Ok(roles) => roles,
        Err(failure) => return judged(app, Err(failure)),
    };
    let seen = entitlements::observation(&app.core, guild, user, roles.as_deref(), stamp, None).await;
    let stored = match seen {
        Ok(Some(seen)) => entitlements::observe(&app.core, &seen).await.map(drop),
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    stored.map_or_else(|error| Outcome::Failed(error.to_string()), |()| Outcome::Sent)
}

async fn send_letter(app: &App, claim: &Claim, letter: Letter, user: UserId, token: Option<Uuid>) -> Outcome {
    let open = match letters::open(&app.core, letter, user, token).await {
        Ok(Some(open)) => open,
        Ok(None) => return Outcome::Undelivered("nobody waits for it any more".to_owned()),
        Err(error) => return Outcome::Failed(error.to_string()),
    };
    match app.mailer.send(&app.core, claim.id, claim.created_at, letter, &open).await {
        Ok(()) => Outcome::Sent,
        Err(mail::Failure::Wait(wait)) => Outcome::Wait(wait),
        Err(mail::Failure::Refused(why)) => Outcome::Undelivered(why),
        Err(failure) => Outcome::Failed(failure.to_string()),
    }
}

/// What a failure means for a delivery.
fn judged(app: &App, answer: Result<(), Failure>) -> Outcome {
    match answer {
        Ok(()) => Outcome::Sent,
        Err(why @ Failure::DmClosed) => Outcome::Undelivered(why.to_string()),
        Err(why @ Failure::DmBlocked) => {
            error!("{why}; they rest for {} minutes. /key serves every member meanwhile.", DM_REST.as_secs() / 60);
            app.dm_rest.begin();
            Outcome::Wait(DM_REST)
        }
        Err(why @ (Failure::Forbidden(_) | Failure::Unknown(_))) => Outcome::Dead(why.to_string()),
        Err(why @ (Failure::RateLimited | Failure::Unauthorized | Failure::Passing(_))) => {
            Outcome::Failed(why.to_string())
        }
    }
}
