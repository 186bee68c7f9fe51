//! Performs deliveries. Each transport has an apalis worker that reads from a stream of claims. The state is kept
//! in the outbox row, so the stream never fails, and every claim is completed even if the delivery panics.

use std::{convert::Infallible, panic::AssertUnwindSafe, time::Duration};

use apalis::prelude::{Data, Monitor, WorkerBuilder, WorkerBuilderExt};
use dca_commands::{DiscordClient, reply, rest::DiscordError};
use dca_core::ids::{LicenseId, UserId};
use dca_core::outbox::{self, Claim, Delivery, EmailTemplate, Outcome, Transport};
use dca_core::{ChannelId, DiscordUserId, GuildId, accounts::emails, bus::Topic, entitlements, licenses};
use dca_core::{limiter::Bucket, log_channel, mappings, mappings::MemberRoles, users};
use futures::{FutureExt, StreamExt, stream, stream::BoxStream};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use uuid::Uuid;

use super::runtime::{RETRY_DELAY, notifications, run_until};
use crate::{App, outbound::dm_pause::DM_PAUSE, outbound::mail, outbound::mail_error::MailError};

/// How much longer a lease lasts than the longest attempt.
const LEASE_MARGIN: Duration = Duration::from_secs(5);

/// How often the outbox is checked without a notification.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

struct TransportSettings {
    concurrency: usize,
    /// The longest duration of an attempt.
    attempt_timeout: Duration,
    /// Whether this process can perform them; if not, they stay queued.
    can_send: bool,
}

impl TransportSettings {
    fn of(transport: Transport, app: &App) -> Self {
        match transport {
            Transport::Discord => Self {
                concurrency: 8,
                attempt_timeout: app.config.discord.delivery_timeout * 2,
                can_send: app.discord.is_some(),
            },
            Transport::Smtp => {
                Self { concurrency: 4, attempt_timeout: mail::ATTEMPT_TIMEOUT, can_send: app.mailer.can_send() }
            }
        }
    }
}

/// Performs the deliveries of a transport until `stop`. Each transport has its own worker, so that a stalled one does
/// not block the others.
pub async fn run(app: App, transport: Transport, stop: CancellationToken) -> anyhow::Result<()> {
    let concurrency = TransportSettings::of(transport, &app).concurrency;
    let monitor = Monitor::new().register(move |_| {
        WorkerBuilder::new(format!("relay-{transport}"))
            .backend(claim_stream(app.clone(), transport))
            .enable_tracing()
            .concurrency(concurrency)
            .data(app.clone())
            .data(transport)
            .build(perform)
    });
    run_until(stop, monitor).await
}

/// The due deliveries of a transport, claimed one at a time as the worker asks for them.
fn claim_stream(app: App, transport: Transport) -> BoxStream<'static, Result<Claim, Infallible>> {
    let notified = notifications(&app, Topic::Outbox).boxed();
    stream::unfold((app, notified), move |(app, mut notified)| async move {
        loop {
            if let Some(claim) = claim(&app, transport).await {
                return Some((Ok(claim), (app, notified)));
            }
            // Nothing is due or the database failed: wait for a notification or the next poll.
            _ = tokio::time::timeout(POLL_INTERVAL, notified.next()).await;
        }
    })
    .boxed()
}

async fn claim(app: &App, transport: Transport) -> Option<Claim> {
    let settings = TransportSettings::of(transport, app);
    if !settings.can_send {
        return None;
    }
    match outbox::claim(&app.core, transport, 1, settings.attempt_timeout + LEASE_MARGIN).await {
        Ok(claimed) => claimed.into_iter().next(),
        Err(error) => {
            warn!(%error, "could not claim deliveries; trying again");
            tokio::time::sleep(RETRY_DELAY).await;
            None
        }
    }
}

/// Performs one delivery and records the outcome.
async fn perform(claim: Claim, app: Data<App>, transport: Data<Transport>) -> Result<(), Infallible> {
    let timeout = TransportSettings::of(*transport, &app).attempt_timeout;
    let attempt = tokio::time::timeout(timeout, deliver(&app, &claim));
    let outcome = match AssertUnwindSafe(attempt).catch_unwind().await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => Outcome::Failed("timed out".to_owned()),
        Err(_) => Outcome::Failed("panicked".to_owned()),
    };
    match &outcome {
        Outcome::Dead(reason) => error!(delivery = %claim.id, reason, "a delivery failed permanently"),
        Outcome::Failed(reason) => {
            warn!(delivery = %claim.id, attempt = claim.attempt, reason, "a delivery failed and will be retried");
        }
        Outcome::Undelivered(reason) => info!(delivery = %claim.id, reason, "not delivered"),
        Outcome::Sent | Outcome::Wait(_) => {}
    }
    metrics::counter!("dca_deliveries_total", "outcome" => outcome.as_str()).increment(1);
    match outbox::complete(&app.core, &claim, outcome).await {
        Ok(true) => {}
        Ok(false) => warn!(delivery = %claim.id, "another instance already completed this delivery"),
        Err(error) => {
            error!(delivery = %claim.id, %error, "could not record a delivery's outcome; it is retried when its lease expires");
        }
    }
    Ok(())
}

async fn deliver(app: &App, claim: &Claim) -> Outcome {
    match (&claim.delivery, &app.discord) {
        (Delivery::Email { template, user, token }, _) => send_email(app, claim, *template, *user, *token).await,
        (_, None) => Outcome::Wait(POLL_INTERVAL),
        (Delivery::KeyDm { license }, Some(discord)) => send_key(app, discord, claim, *license).await,
        (Delivery::LogLine { channel, seq }, Some(discord)) => send_log_line(app, discord, claim, *channel, *seq).await,
        (Delivery::RecheckMember { guild, user }, Some(discord)) => recheck_member(app, discord, *guild, *user).await,
    }
}

/// The message nonce: the same for every attempt, so that Discord drops duplicates.
fn nonce(claim: &Claim) -> String {
    claim.id.simple().to_string()[8..].to_owned()
}

async fn send_key(app: &App, discord: &DiscordClient, claim: &Claim, license: LicenseId) -> Outcome {
    let message = match licenses::for_delivery(&app.core, license).await {
        Ok(Some(found)) => found,
        Ok(None) => return Outcome::Undelivered("the license was revoked before its key was sent".to_owned()),
        Err(error) => return Outcome::Failed(error.to_string()),
    };
    let recipient = match users::discord_id(&app.core, message.holder).await {
        Ok(Some(recipient)) => recipient,
        Ok(None) => return without_recipient(app, message.holder).await,
        Err(error) => return Outcome::Failed(error.to_string()),
    };
    if let Some(remaining) = app.dm_pause.remaining() {
        return Outcome::Wait(remaining);
    }
    if let Err(wait) = app.core.limiter.check(Bucket::Dm, "all").await {
        return Outcome::Wait(wait);
    }
    let sent = discord.dm(recipient, &reply::key_dm(&message), &nonce(claim)).await;
    if matches!(sent, Err(DiscordError::DmClosed))
        && let Err(error) = licenses::record_undelivered_key(&app.core, license).await
    {
        return Outcome::Failed(error.to_string());
    }
    outcome_of(app, sent)
}

async fn without_recipient(app: &App, holder: UserId) -> Outcome {
    match users::find(&app.core, holder).await {
        Ok(Some(_)) => Outcome::Undelivered("the user has no Discord account".to_owned()),
        // The user was merged into another one after the license was read.
        Ok(None) => Outcome::Wait(Duration::ZERO),
        Err(error) => Outcome::Failed(error.to_string()),
    }
}

async fn send_log_line(app: &App, discord: &DiscordClient, claim: &Claim, channel: ChannelId, seq: i64) -> Outcome {
    match log_channel::find_entry(&app.core, seq).await {
        Ok(Some(entry)) => match discord.post(channel, &reply::log_line(&entry), &nonce(claim)).await {
            Err(error @ DiscordError::Forbidden(_)) => Outcome::Dead(format!(
                "{error}: log channel {channel} needs View Channel and Send Messages; see `dca-auth doctor`"
            )),
            result => outcome_of(app, result),
        },
        Ok(None) => Outcome::Dead("the event no longer exists".to_owned()),
        Err(error) => Outcome::Failed(error.to_string()),
    }
}

async fn recheck_member(app: &App, discord: &DiscordClient, guild: GuildId, user: DiscordUserId) -> Outcome {
    if let Err(error) = entitlements::catch_up_stamps(&app.core).await {
        return Outcome::Failed(error.to_string());
    }
    let stamp = app.core.stamps.next(&app.core.clock);
    let roles = match discord.member(guild, user).await {
        Ok(roles) => roles,
        Err(error) => return outcome_of(app, Err(error)),
    };
    let roles = [MemberRoles { member: user, roles: roles.as_deref(), stamp }];
    let stored = match mappings::observations(&app.core, guild, &roles, None).await {
        Ok(observations) => entitlements::observe_all(&app.core, &observations).await.map(drop),
        Err(error) => Err(error),
    };
    stored.map_or_else(|error| Outcome::Failed(error.to_string()), |()| Outcome::Sent)
}

async fn send_email(app: &App, claim: &Claim, template: EmailTemplate, user: UserId, token: Option<Uuid>) -> Outcome {
    let data = match emails::load(&app.core, template, user, token).await {
        Ok(Some(data)) => data,
        Ok(None) => return Outcome::Undelivered("the email is no longer needed".to_owned()),
        Err(error) => return Outcome::Failed(error.to_string()),
    };
    match app.mailer.send(&app.core, claim.id, claim.created_at, template, &data).await {
        Ok(()) => Outcome::Sent,
        Err(MailError::Wait(wait)) => Outcome::Wait(wait),
        Err(MailError::Rejected(reason)) => Outcome::Undelivered(reason),
        Err(error) => Outcome::Failed(error.to_string()),
    }
}

/// Maps the result of a Discord call to the outcome of a delivery.
fn outcome_of(app: &App, result: Result<(), DiscordError>) -> Outcome {
    match result {
        Ok(()) => Outcome::Sent,
        Err(error @ DiscordError::DmClosed) => Outcome::Undelivered(error.to_string()),
        Err(error @ DiscordError::DmLimited) => {
            error!(
                "{error}. Direct messages are paused for {} minutes; members can still use /key.",
                DM_PAUSE.as_secs() / 60
            );
            app.dm_pause.start();
            Outcome::Wait(DM_PAUSE)
        }
        Err(error @ (DiscordError::Forbidden(_) | DiscordError::Invalid(_) | DiscordError::Unknown(_))) => {
            Outcome::Dead(error.to_string())
        }
        Err(DiscordError::RateLimited(wait)) => Outcome::Wait(wait),
        Err(error @ (DiscordError::Unauthorized | DiscordError::Transient(_))) => Outcome::Failed(error.to_string()),
    }
}
