//! What a delivery does.

use std::time::Duration;

use dca_commands::{DiscordClient, reply, rest::DiscordError};
use dca_core::ids::{LicenseId, UserId};
use dca_core::outbox::{Claim, Delivery, EmailTemplate, Outcome};
use dca_core::{ChannelId, DiscordUserId, GuildId, accounts::emails, entitlements, licenses};
use dca_core::{log_channel, mappings, mappings::MemberRoles, users};
use tracing::error;
use uuid::Uuid;

use super::dm_limit::DmLimit;
use crate::{App, outbound::dm_pause::DM_PAUSE, outbound::mail_error::MailError};

pub(super) async fn deliver(app: &App, limit: &DmLimit, claim: &Claim) -> Outcome {
    match (&claim.delivery, &app.discord) {
        (Delivery::Email { template, user, token }, _) => send_email(app, claim, *template, *user, *token).await,
        (_, None) => Outcome::Wait(Duration::from_secs(1)),
        (Delivery::KeyDm { license }, Some(discord)) => send_key(app, limit, discord, claim, *license).await,
        (Delivery::LogLine { channel, seq }, Some(discord)) => send_log_line(app, discord, claim, *channel, *seq).await,
        (Delivery::RecheckMember { guild, user }, Some(discord)) => recheck_member(app, discord, *guild, *user).await,
    }
}

/// The message nonce: the same for every attempt, so that Discord drops duplicates.
fn nonce(claim: &Claim) -> String {
    claim.id.simple().to_string()[8..].to_owned()
}

async fn send_key(app: &App, limit: &DmLimit, discord: &DiscordClient, claim: &Claim, license: LicenseId) -> Outcome {
    let message = match licenses::for_delivery(&app.core, license).await {
        Ok(Some(message)) => message,
        other => {
            limit.refund(1);
            return match other {
                Err(error) => Outcome::Failed(error.to_string()),
                _ => Outcome::Undelivered("the license was revoked before its key was sent".to_owned()),
            };
        }
    };
    let Some(recipient) = message.recipient else {
        limit.refund(1);
        return without_recipient(app, message.holder).await;
    };
    // Paused since the delivery was claimed.
    if let Some(wait) = limit.pause() {
        limit.refund(1);
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
